"""Checkpoints that are there whole or not at all: written beside, then renamed, and checked by digest when loaded."""

import hashlib
import json
import logging
import secrets
import shutil
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


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
            "a disk that all nodes share"
        )


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: dict, keep: int) -> Path:
    """Writes `accelerator`'s state and `progress` as `folder`/step-N and removes all but the newest `keep`.

    All processes call it. The step's number is `progress["step"]`.
    """
    target, beside = folder / f"step-{progress['step']:08d}", folder / ".writing"
    if accelerator.is_main_process:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(beside))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        files = {str(path.relative_to(beside)): _digest(path) for path in sorted(beside.rglob("*")) if path.is_file()}
        (beside / MANIFEST).write_text(json.dumps({"progress": progress, "files": files}, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
        checkpoints = sorted(folder.glob("step-*"))
        # Later ones are damaged: this run was resumed from before them.
        kept = [checkpoint for checkpoint in checkpoints if checkpoint <= target][-keep:]
        for old in set(checkpoints) - set(kept):
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target


def load_newest_checkpoint(accelerator: Accelerator, folder: Path) -> dict | None:
    """Loads the newest whole checkpoint into `accelerator`'s state; returns its `progress`, None if there is none.

    A damaged one is skipped with a warning for the one before it.

    Raises:
        ValueError: if the checkpoint is of other networks than `accelerator`'s.
    """
    for checkpoint in sorted(folder.glob("step-*"), reverse=True):
        problem = find_damage(checkpoint)
        if problem is None:
            try:
                accelerator.load_state(str(checkpoint))
            except (RuntimeError, ValueError) as error:
                raise ValueError(f"The checkpoint {checkpoint} does not fit the recipe's networks: {error}") from error
            return json.loads((checkpoint / MANIFEST).read_text())["progress"]
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
