"""Exports on their way to the Hub, while training goes on."""

import logging
import threading
import time
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.utils import disable_progress_bars

from ..hub.push import push_folder, redact
from .config import Recipe

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 30.0, 900.0  # seconds before a failed push is tried again; doubled each time


def make_pusher(recipe: Recipe, output_dir: Path, is_main_process: bool = True) -> "BackgroundPusher | None":
    """The pusher that a recipe asks for, in the main process.

    Raises:
        ValueError: if nobody is logged in to the Hub.
    """
    run = recipe.run
    if not run.push_to_hub:
        return None
    if get_token() is None:
        raise ValueError("`run.push_to_hub` needs a Hub token: run `hf auth login` or set HF_TOKEN.")
    return BackgroundPusher(output_dir, run.hub_model_id, run.hub_private) if is_main_process else None


class BackgroundPusher:
    """Uploads exports one after the other, in the order they came, in a thread.

    What is to be pushed is a file in `output_dir`/push_queue until it has arrived: a push that fails is tried again
    for as long as the run lasts, and by the next run in that folder. Each export becomes a commit, its name a tag.

    Args:
        output_dir: Of the run, with exports/ in it.
        repo_id: org/name.
        private: Of a repository that is created.
    """

    def __init__(self, output_dir: Path, repo_id: str, private: bool | None = None):
        self.exports, self.queue = output_dir / "exports", output_dir / "push_queue"
        self.repo_id, self.private = repo_id, private
        self.queue.mkdir(parents=True, exist_ok=True)
        self._changed = threading.Condition()
        self._finishing = self._stopping = False
        self._thread = threading.Thread(target=self._work, name="push_to_hub", daemon=True)
        self._thread.start()

    def pending(self) -> list[str]:
        """Names of the exports that have not arrived, oldest first."""
        return sorted(path.name for path in self.queue.iterdir())

    def submit(self, name: str) -> None:
        """Queues the export of that name."""
        with self._changed:
            (self.queue / name).touch()
            self._changed.notify_all()

    def finish(self, seconds: float) -> list[str]:
        """Waits for what is queued, at most so long; returns and logs what is left, and how to push it."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._finishing = True
            self._changed.notify_all()  # a push that waits for its next attempt makes it now
            self._changed.wait_for(lambda: not self.pending(), max(0.0, deadline - time.monotonic()))
            self._stopping = True
            self._changed.notify_all()
        left = self.pending()
        for name in left:
            logger.warning(
                "%s has not reached the Hub; resume the run, or: python scripts/push_to_hub.py --pipeline %s --repo %s "
                "--tag %s",
                name,
                self.exports / name,
                self.repo_id,
                name,
            )
        return left

    def _work(self) -> None:
        wait = FIRST_WAIT
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self.pending())
                if self._stopping:
                    return
                name = self.pending()[0]
            if self._push(name):
                wait = FIRST_WAIT
                continue
            with self._changed:
                finishing = self._finishing
                self._changed.wait_for(
                    lambda before=finishing: self._stopping or self._finishing != before,
                    FIRST_WAIT if finishing else wait,
                )
            wait = min(2 * wait, LONGEST_WAIT)

    def _push(self, name: str) -> bool:
        """Whether the export is off the queue: it has arrived, or is there no more."""
        folder = self.exports / name
        disable_progress_bars()  # the training's own is on the screen
        try:
            if folder.is_dir():
                # No samples are drawn: loading a model changes, for a moment, how other threads build theirs.
                push_folder(folder, self.repo_id, private=self.private, tag=name, draw_samples=False, attempts=1)
                logger.info("%s is on the Hub as %s", name, self.repo_id)
            else:
                logger.warning("%s was deleted before it reached the Hub", name)
        except Exception as error:  # whatever it is, training goes on
            logger.warning("%s has not reached the Hub and will be tried again: %s", name, redact(str(error)))
            return False
        with self._changed:
            (self.queue / name).unlink(missing_ok=True)
            self._changed.notify_all()
        return True
