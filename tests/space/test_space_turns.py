import threading
import time

import pytest
import turns
from turns import Latest, SupersededError, check_turn, preview, updates_of


def test_of_a_sessions_requests_the_latest_is_wanted():
    latest = Latest(max_sessions=2)
    latest.advance("a", 3)
    assert latest.is_latest("a", 3)
    assert latest.is_latest("a", 4)
    assert not latest.is_latest("a", 2)
    latest.advance("a", 1)  # which was late
    assert not latest.is_latest("a", 2)
    assert latest.is_latest("b", 0)
    for session in "bcd":
        latest.advance(session, 9)
    assert latest.is_latest("a", 0)  # forgotten


def test_a_long_request_waits_while_a_preview_is_drawn_but_not_for_ever(monkeypatch):
    monkeypatch.setattr(turns, "YIELD_SECONDS", 0.4)

    def seconds_waited() -> float:
        began = time.monotonic()
        check_turn()
        return time.monotonic() - began

    assert seconds_waited() < 0.1
    begun, done = threading.Event(), threading.Event()

    def draw() -> None:
        with preview():
            check_turn()  # a preview waits for none
            begun.set()
            done.wait(10)

    thread = threading.Thread(target=draw)
    thread.start()
    begun.wait(10)
    assert 0.3 < seconds_waited() < 2
    threading.Timer(0.1, done.set).start()
    assert seconds_waited() < 0.35
    thread.join()
    assert seconds_waited() < 0.1


def test_updates_come_from_a_thread_in_order_and_errors_last():
    def work(put) -> None:
        assert threading.current_thread() is not threading.main_thread()
        for i in range(3):
            put(i)
        raise ValueError("enough")

    updates = updates_of(work)
    assert [next(updates) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="enough"):
        next(updates)


def test_work_ends_when_nobody_takes_its_updates():
    ended = threading.Event()

    def work(put) -> None:
        put(0)
        try:
            while True:
                time.sleep(0.01)
                check_turn()
        except SupersededError:
            ended.set()
            raise

    updates = updates_of(work)
    next(updates)
    updates.close()
    assert ended.wait(10)
