"""The Accelerator of a training run, and the line that says what it runs with."""

import inspect
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from torch.nn.parallel import DistributedDataParallel

from ..checks import cpu_multiplies_bfloat16
from .config import Recipe


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
    """The Accelerator of a run, in the recipe's precision or, if it has none, that of `accelerate launch`.

    Raises:
        ValueError: if a launcher started more processes than Accelerate knows of, each of which would train alone.
    """
    accelerator = Accelerator(
        mixed_precision=recipe.run.mixed_precision,
        log_with=recipe.run.log_with or None,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir)),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],  # all wait while one embeds classes
    )
    started = max(int(value) for value in ["1", *map(os.environ.get, LAUNCHED)] if value and value.isdecimal())
    if started > accelerator.num_processes:
        raise ValueError(
            f"`num_processes` must be that of the launcher, {started}, got {accelerator.num_processes}: the processes "
            f"would not know of each other. On {accelerator.device.type.upper()}s, start them by "
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N, on GPUs by accelerate launch; or start one."
        )
    accelerator.ddp_handler = LocalBuffers()  # it takes no subclass among the handlers
    accelerator.gradient_accumulation_steps = 1  # the stages have theirs, whatever Accelerate is configured to
    return accelerator


def with_precision(recipe: Recipe, accelerator: Accelerator) -> Recipe:
    """The recipe with the precision that the run has, whoever chose it."""
    return replace(recipe, run=replace(recipe.run, mixed_precision=accelerator.mixed_precision))


def describe_run(recipe: Recipe, accelerator: Accelerator, images_of_stages: list[int]) -> str:
    """ "2 processes on cpu, precision bf16, batches of 64, 1,234 steps", and what was asked for in vain."""
    processes = accelerator.num_processes
    steps = sum(images // stage.batch_size for stage, images in zip(recipe.stages, images_of_stages, strict=True))
    batches = " then ".join(dict.fromkeys(f"{stage.batch_size}" for stage in recipe.stages))
    line = f"{processes} process{'es' if processes > 1 else ''} on {accelerator.device.type}"
    line += f", precision {accelerator.mixed_precision}, batches of {batches} images, {steps:,} steps"
    if accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16" and not cpu_multiplies_bfloat16():
        line += "\nThis CPU has no bfloat16 products: float32, run.mixed_precision=no, is many times faster here."
    if accelerator.device.type == "cpu" and processes == 1 and torch.get_num_threads() == 1 < (os.cpu_count() or 1):
        line += (
            f"\nOne thread on {os.cpu_count()} processors: on a CPU that is what `accelerate launch` gives unless "
            "told `--cpu --num_processes 1`. `python scripts/train.py ...` takes all of them."
        )
    if processes == 1 and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        line += (
            "\nSeveral processes were asked for, but `accelerate launch` starts several on CPUs through MPI only. "
            "Without it: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py ..."
        )
    return line
