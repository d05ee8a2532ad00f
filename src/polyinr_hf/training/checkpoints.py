"""Checkpoints that are there whole or not at all: written beside, then renamed, and checked by digest when loaded.

And the folder that holds them: of one run at a time, the same in all its processes.
"""

import errno
import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SMALLEST_SPACE = 2**20  # bytes; a disk with less is full


def lock_folder(folder: Path) -> FileLock:
    """The lock on a run's folder, which the operating system lets go of when the process ends.

    Raises:
        ValueError: if another run has it.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"`output_dir` must not be in use, got {folder}, which another run is writing to: wait for it, stop it, or "
            "choose another folder."
        ) from None
    return lock


@contextmanager
def naming_a_full_disk(path: Path) -> Iterator[None]:
    """Turns what libraries raise on a full disk, each its own, into OSError with one sentence about `path`."""
    try:
        yield
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        # torch's writer says nothing of the kind: then there is no space for a block.
        if not full and shutil.disk_usage(path.parent).free >= SMALLEST_SPACE:
            raise
        raise OSError(
            f"No space is left on the disk for {path}, which was not written. Free some and go on with --resume; "
            "`run.keep_checkpoints` says how many checkpoints are kept."
        ) from error


def check_shared_folder(accelerator: Accelerator, folder: Path) -> None:
    """Raises ValueError in all processes unless all of them see the same `folder`.

    Nodes without a shared disk would each look for checkpoints of their own, and some start at 0 beside the others.
    """
    if accelerator.num_processes == 1:
        return
    (token,) = broadcast_object_list([secrets.token_hex(8)])
    path = folder / f".shared-{token}"
    if accelerator.is_main_process:
        path.touch()
    accelerator.wait_for_everyone()
    seen = gather_object([path.exists()])
    if accelerator.is_main_process:
        path.unlink()
    if not all(seen):
        raise ValueError(
            f"`output_dir`: {folder} is another folder for {seen.count(False)} of {len(seen)} processes; it must be on "
            "a disk that all nodes share."
        )


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: dict, keep: int) -> Path:
    """Writes `accelerator`'s state and `progress` as `folder`/step-N and removes all but the newest `keep`.

    All processes call it. The step's number is `progress["step"]`.

    Raises:
        OSError: if the disk is full; nothing of the checkpoint is left then.
    """
    target, beside = folder / f"step-{progress['step']:08d}", folder / ".writing"
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    try:
        with naming_a_full_disk(target):
            accelerator.save_state(str(beside))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                paths = [path for path in sorted(beside.rglob("*")) if path.is_file()]
                files = {str(path.relative_to(beside)): _digest(path) for path in paths}
                (beside / MANIFEST).write_text(json.dumps({"progress": progress, "files": files}, indent=1))
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    if accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
        checkpoints = sorted(folder.glob("step-*"))
        # Later ones are damaged: this run was resumed from before them.
        kept = [checkpoint for checkpoint in checkpoints if checkpoint <= target][-keep:]
        for old in set(checkpoints) - set(kept):
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target


def load_newest_checkpoint(
    accelerator: Accelerator, folder: Path, check: Callable[[dict], None] = lambda progress: None
) -> dict | None:
    """Loads the newest whole checkpoint into `accelerator`'s state; returns its `progress`, None if there is none.

    A damaged one is skipped with a warning for the one before it. `check` sees its progress before anything is loaded.

    Raises:
        ValueError: if the checkpoint is of other networks than `accelerator`'s.
    """
    for checkpoint in sorted(folder.glob("step-*"), reverse=True):
        problem = find_damage(checkpoint)
        if problem is None:
            progress = json.loads((checkpoint / MANIFEST).read_text())["progress"]
            check(progress)
            try:
                accelerator.load_state(str(checkpoint))
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"The checkpoint {checkpoint} does not fit the recipe's networks: {error}") from error
            return progress
        logger.warning("checkpoint %s is skipped: %s", checkpoint, problem)
    return None


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, None if they are as they were written."""
    try:
        files: dict[str, str] = json.loads((checkpoint / MANIFEST).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    for name, digest in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} has changed since it was written"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
