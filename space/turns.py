"""Whose turn it is: requests end after a time, when nobody waits for them any more, and let previews go first.

The model asks at the end of every chunk of pixels, some tens of milliseconds of work.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar

MAX_SESSIONS = 1000
YIELD_SECONDS = 0.3  # that a chunk of a long request waits for previews at most, so that it ends all the same


class SupersededError(Exception):
    """The person has moved on: what was being drawn is wanted no more."""


_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_is_wanted: ContextVar[Callable[[], bool]] = ContextVar("is_wanted", default=lambda: True)
_is_preview: ContextVar[bool] = ContextVar("is_preview", default=False)
_previews, _changed = 0, threading.Condition()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Whatever the model computes in this block after so many seconds ends in a TimeoutError."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    except TimeoutError as error:
        raise TimeoutError(f"This took more than {seconds:g} seconds: ask for less.") from error
    finally:
        _deadline.reset(token)


@contextmanager
def wanted_while(is_wanted: Callable[[], bool]) -> Iterator[None]:
    """Whatever the model computes in this block ends in a SupersededError once `is_wanted()` is false."""
    token = _is_wanted.set(is_wanted)
    try:
        yield
    finally:
        _is_wanted.reset(token)


@contextmanager
def preview() -> Iterator[None]:
    """What is drawn in this block goes before everything that is not a preview."""
    global _previews
    token = _is_preview.set(True)
    with _changed:
        _previews += 1
    try:
        yield
    finally:
        with _changed:
            _previews -= 1
            _changed.notify_all()
        _is_preview.reset(token)


def check_turn(*_) -> None:
    """Called by the model between chunks of pixels.

    Raises:
        TimeoutError: after the time of `time_limit`.
        SupersededError: if `wanted_while` says so.
    """
    if time.monotonic() > _deadline.get():
        raise TimeoutError
    if not _is_wanted.get()():
        raise SupersededError
    if not _is_preview.get() and _previews:
        with _changed:
            _changed.wait_for(lambda: _previews == 0, timeout=YIELD_SECONDS)


def updates_of(work: Callable[[Callable], None]) -> Iterator:
    """Runs `work(put)` in a thread and yields what it puts; errors are raised here.

    Work whose updates nobody takes any more ends in a SupersededError.
    """
    updates, is_open = queue.SimpleQueue(), threading.Event()
    is_open.set()

    def run() -> None:
        with wanted_while(is_open.is_set):
            work(updates.put)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run)
        try:
            while not (future.done() and updates.empty()):
                try:
                    yield updates.get(timeout=0.1)
                except queue.Empty:
                    continue
            future.result()
        finally:
            is_open.clear()


class Latest:
    """The number of each session's latest request, so that earlier ones can be dropped."""

    def __init__(self, max_sessions: int = MAX_SESSIONS):
        self.max_sessions = max_sessions
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def advance(self, session: str | None, number: int) -> None:
        """The session is at this request, or at a later one."""
        with self._lock:
            self._numbers[session] = max(number, self._numbers.pop(session, 0))
            while len(self._numbers) > self.max_sessions:
                self._numbers.popitem(last=False)

    def is_latest(self, session: str | None, number: int) -> bool:
        """Whether the session has asked for nothing later."""
        return self._numbers.get(session, 0) <= number
