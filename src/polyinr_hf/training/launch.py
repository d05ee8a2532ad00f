"""How a run starts and starts again: its processes, the folder that it has to itself, and its checkpoints.

Checkpoints are there whole or not at all: written beside, then renamed, and checked by digest when loaded.
"""

import errno
import hashlib
import importlib.util
import inspect
import json
import logging
import os
import secrets
import shutil
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.utils import (
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
)
from filelock import FileLock, Timeout
from torch.nn.parallel import DistributedDataParallel

from ..commands import command_line
from ..devices import Device, choose_precision, describe
from .exports import make_pusher
from .models import resolve_source
from .recipe import Recipe

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
SMALLEST_SPACE = 2**20  # bytes; a disk with less is full


# --- processes --------------------------------------------------------------------------------------------------------


class LocalBuffers(DistributedDataParallelKwargs):
    """A DistributedDataParallel whose forward leaves buffers as they are: see [`ProjectedDiscriminator`].

    torch 2.13 gave `broadcast_buffers` another name, which accelerate does not know.
    """

    def to_kwargs(self) -> dict:
        renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
        return {"forward_sync_buffers" if renamed else "broadcast_buffers": False}


# Where launchers say how many processes they started: torchrun, Open MPI, MPICH and Intel MPI, MVAPICH, srun.
LAUNCHED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def make_accelerator(recipe: Recipe, output_dir: Path) -> Accelerator:
    """The Accelerator of a run, in the precision that recipe, `accelerate launch` and the device decide.

    Raises:
        ValueError: if a launcher started more processes than Accelerate knows of, each of which would train alone; for
            fp16 on a CPU.
    """
    processes = InitProcessGroupKwargs(timeout=timedelta(days=1))  # all wait while one embeds classes
    # Accelerator heeds this variable; the state by itself does not, and there would be one process then.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    device: Any = PartialState(cpu=on_cpu, **processes.to_kwargs()).device
    accelerator = Accelerator(
        mixed_precision=_choose_precision(recipe, device)[0],
        log_with=[*recipe.run.log_with] or None,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir)),
        kwargs_handlers=[processes],
    )
    started = max(int(value) for value in ["1", *map(os.environ.get, LAUNCHED)] if value and value.isdecimal())
    if started > accelerator.num_processes:
        raise ValueError(
            f"`num_processes` must be that of the launcher, {started}, got {accelerator.num_processes}: the processes "
            "would not know of each other. Start one, or several by accelerate launch on GPUs, by "
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N on CPUs."
        )
    accelerator.ddp_handler = LocalBuffers()  # pyright: ignore[reportAttributeAccessIssue]  no handlers' subclass is taken
    accelerator.gradient_accumulation_steps = 1  # the stages have theirs, whatever Accelerate is configured to
    return accelerator


def _choose_precision(recipe: Recipe, device: torch.device) -> tuple[str, str]:
    told, scales = os.environ.get("ACCELERATE_MIXED_PRECISION"), recipe.run.codes is None
    return choose_precision(recipe.run.mixed_precision, told, describe(device), scales)


def as_run_here(recipe: Recipe, accelerator: Accelerator) -> Recipe:
    """The recipe with the precision that the run has, whoever chose it, and compiled only where something can."""
    can_compile = compiling_problem(describe(accelerator.device)) is None
    run = replace(recipe.run, mixed_precision=accelerator.mixed_precision, compile=recipe.run.compile and can_compile)
    return replace(recipe, run=run)


def compiling_problem(device: Device) -> str | None:
    """Why `torch.compile` cannot work for a device, which it would say in a hundred lines; None if it should."""
    if device.type == "cpu":
        default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
        compiler = os.environ.get("CXX", default)
        return None if shutil.which(compiler) else f"there is no C++ compiler ({compiler})"
    if device.type == "cuda" and device.capability is not None and device.capability < (7, 0):
        return f"{device.name or 'this GPU'} is older than compute capability 7.0"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    if device.type == "cuda" and not any(compiler and shutil.which(compiler) for compiler in compilers):
        return "there is no C compiler (gcc or clang)"
    return None


def describe_run(asked: Recipe, accelerator: Accelerator, images_of_stages: list[int]) -> str:
    """ "2 processes on cpu, precision bf16 (as the recipe says), batches of 64, 1,234 steps", and what is not as asked.

    `asked` is the recipe as it was given, before [`as_run_here`].
    """
    recipe = asked
    processes = accelerator.num_processes
    steps = sum(images // stage.batch_size for stage, images in zip(recipe.stages, images_of_stages, strict=True))
    batches = " then ".join(dict.fromkeys(f"{stage.batch_size}" for stage in recipe.stages))
    line = f"{processes} process{'es' if processes > 1 else ''} on {accelerator.device.type}"
    why = _choose_precision(recipe, accelerator.device)[1]
    line += f", precision {accelerator.mixed_precision} ({why}), batches of {batches} images, {steps:,} steps"
    problem = compiling_problem(describe(accelerator.device)) if recipe.run.compile else None
    if problem is not None:
        line += f"\nThe networks are not compiled, {problem}: steps take about twice as long."
    if accelerator.device.type == "cpu" and processes == 1 and torch.get_num_threads() == 1 < (os.cpu_count() or 1):
        line += f"\nOne thread on {os.cpu_count()} processors: "
        if "OMP_NUM_THREADS" in os.environ and "ACCELERATE_MIXED_PRECISION" not in os.environ:
            line += "OMP_NUM_THREADS=1 asks for it; without it the run takes all of them."
        else:
            line += (
                "on a CPU that is what `accelerate launch` gives unless told `--cpu --num_processes 1`. "
                f"`{command_line('train')} ...` takes all of them."
            )
    if processes == 1 and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        line += (
            "\nSeveral processes were asked for, but `accelerate launch` starts several on CPUs through MPI only. "
            "Without it: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py ..."
        )
    return line


# --- the folder -------------------------------------------------------------------------------------------------------


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
            f"No space is left on the disk for {path}, which was not written. Free some and go on with --resume."
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
            f"`output_dir` must be on a disk that all nodes share, got {folder}, which is another folder for "
            f"{seen.count(False)} of {len(seen)} processes."
        )


# --- checkpoints ------------------------------------------------------------------------------------------------------


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: dict, keep: int = 2) -> Path:
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


# --- the run ----------------------------------------------------------------------------------------------------------


class Run(ABC):
    """A run with its processes and its folder, which a signal stops; what it trains is up to subclasses.

    Args:
        recipe, output_dir, resume: As in [`Trainer`].

    Raises:
        ValueError: for an `output_dir` that holds a run when `resume` is off, and as [`make_accelerator`].
    """

    def __init__(self, recipe: Recipe, output_dir: str | Path, resume: bool):
        self._asked = resolve_source(recipe)
        self.output_dir = Path(output_dir)
        if not resume and any(self.output_dir.glob("checkpoints/step-*")):
            raise ValueError(
                f"`output_dir` must be without checkpoints, or its run resumed by --resume, got {self.output_dir}."
            )
        self.accelerator = make_accelerator(self._asked, self.output_dir)
        self.device = self.accelerator.device
        self.recipe = as_run_here(self._asked, self.accelerator)
        self.pusher = make_pusher(self.recipe, self.output_dir, self.accelerator.is_main_process)
        self._lock: FileLock | None = None
        self._stop_requested, self._interrupted = False, False

    def claim_folder(self) -> None:
        """Makes the folder, and sees to it that no other run writes there and that all processes see it."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            self._lock = lock_folder(self.output_dir)
        check_shared_folder(self.accelerator, self.output_dir)

    def train(self) -> bool:
        """Trains to the end, or until a SIGTERM or SIGINT; returns whether the end was reached.

        Both leave a checkpoint, a SIGINT an export as well.

        Raises:
            FloatingPointError: if a network or its loss is not finite any more; nothing of it has been written.
            OSError: if the disk is full.
        """
        previous = {number: signal.signal(number, self._heed_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            finished = self._train()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.accelerator.end_training()
            if self._lock is not None:
                self._lock.release()
        if self.pusher is not None:
            self.pusher.finish()
        return finished

    @abstractmethod
    def _train(self) -> bool:
        """What `train` does between its signals."""

    def _heed_signal(self, number: int, frame: object) -> None:
        logger.warning("signal %d: stopping after this step, with a checkpoint", number)
        self._interrupted |= number == signal.SIGINT  # someone is there, who wants to see it
        self.request_stop()

    def request_stop(self) -> None:
        """Has `train` stop after the step at hand, with a checkpoint."""
        self._stop_requested = True
        self.accelerator.set_trigger()
