"""What a recipe costs before it is run: products, memory and days of each stage, counted on tensors without data.

    costs = plan_recipe(recipe, num_processes=8, num_classes=1000)
    print(format_plan(costs, num_processes=8, peak_tflops=989.0))

Networks and losses are those of training, under torch's fake tensors: shapes and dtypes are right, nothing is computed,
so that what needs eighty gigabytes is planned on a laptop, in a minute or two.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace

import torch
from accelerate import Accelerator

from .config import Recipe, check_division
from .stage_costs import ASSUMED_SHARE, GIB, StageCost, StageNetworks, measure_stage

# Dense bfloat16 products, 1e12 multiplications and additions a second, from the makers' data sheets; the first whose
# name is in the device's.
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0, "V100": 125.0}
MEMORY_MARGIN = 0.92  # of a device's memory: its context and the allocator's fragments need the rest


def plan_run(recipe: Recipe, accelerator: Accelerator, num_classes: int | None) -> str:
    """The plan of a run on the devices it has, as text; on CPUs the main process's alone, on GPUs the same in all.

    Raises:
        ValueError: if a stage needs more memory than there is.
    """
    device, processes = accelerator.device, accelerator.num_processes
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif accelerator.is_main_process:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / processes
    else:
        return ""
    costs = plan_recipe(recipe, processes, num_classes)
    check_memory(costs, recipe.discriminator.batch_norm_group_size, memory / GIB)
    return format_plan(costs, processes, peak_tflops_of(device, recipe.run.mixed_precision))


def plan_recipe(recipe: Recipe, num_processes: int = 1, num_classes: int | None = None) -> list[StageCost]:
    """The cost of each stage, alike ones counted once; arguments and errors as in [`measure_stage`]."""
    for index in range(len(recipe.stages)):
        check_division(recipe, index, num_processes)
    networks, costs = StageNetworks(recipe, num_classes), {}
    plan = []
    for index, stage in enumerate(recipe.stages):
        if stage.shapes not in costs:
            costs[stage.shapes] = measure_stage(recipe, index, num_processes, num_classes, networks)
        plan.append(replace(costs[stage.shapes], stage=stage))
    return plan


def check_memory(costs: list[StageCost], group_size: int | None, memory_gib: float) -> None:
    """Raises ValueError if a stage needs more memory than a device has, naming the key of the recipe to change.

    Args:
        costs: of [`plan_recipe`].
        group_size: Images of a batch norm group, which a micro-batch cannot be smaller than.
        memory_gib: Of a device, GiB.
    """
    available = memory_gib * MEMORY_MARGIN
    for index, cost in enumerate(costs):
        if cost.peak_gib <= available:
            continue
        stage = cost.stage
        start = (
            f"`stages.{index}`: {cost.micro_batch} images of {stage.resolution} px at once need about "
            f"{cost.peak_gib:.0f} GiB a process, of {available:.0f} that {memory_gib:.0f} GiB leave"
        )
        activations = (cost.peak_gib - cost.weights_gib) / cost.micro_batch
        fitting = int((available - cost.weights_gib) / activations)
        smaller = [n for n in range(1, cost.micro_batch) if cost.micro_batch % n == 0 and n % (group_size or 1) == 0]
        micro_batch = max((n for n in smaller if n <= fitting), default=None)
        if micro_batch is not None:
            steps = stage.gradient_accumulation_steps * cost.micro_batch // micro_batch
            raise ValueError(f"{start}; `stages.{index}.gradient_accumulation_steps={steps}` should fit")
        raise ValueError(f"{start}; lower `stages.{index}.pixel_chunk` ({stage.pixel_chunk}) or `model.channels`")


def format_plan(
    costs: list[StageCost], num_processes: int, peak_tflops: float | None = None, share: float = ASSUMED_SHARE
) -> str:
    """The plan as text: a row a stage, then what the run costs. Without `peak_tflops` of a device, no times."""
    lines = ["  px  batch  at once   GFLOP an image: G      D   peak GiB"]
    lines[0] += "    days  images/s" if peak_tflops else ""
    for cost in costs:
        stage = cost.stage
        line = (
            f"{stage.resolution:4d} {stage.batch_size:6d} {cost.micro_batch:8d} {cost.generator_gflop:19,.1f} "
            f"{cost.discriminator_gflop:6,.1f} {cost.peak_gib:10.1f}"
        )
        if peak_tflops:
            rate = cost.images_per_second(num_processes, peak_tflops, share)
            line += f" {cost.days(num_processes, peak_tflops, share):7.2f} {rate:9,.0f}"
        lines.append(line)
    lines.append(
        f"weights, gradients, Adam and averages: {costs[0].weights_gib:.2f} GiB a process; "
        f"a checkpoint: {costs[0].checkpoint_gib:.2f} GiB"
    )
    if peak_tflops:
        days = sum(cost.days(num_processes, peak_tflops, share) for cost in costs)
        lines.append(
            f"about {_duration(days)} on {num_processes} x {peak_tflops:,.3g} TFLOP/s, at {share:.0%} of that peak "
            "(metrics and sample grids not counted)"
        )
    return "\n".join(lines)


def _duration(days: float) -> str:
    if days >= 2:
        return f"{days:.1f} days"
    return f"{24 * days:.1f} hours" if days > 1 / 12 else f"{max(1, round(1440 * days))} minutes"


def peak_tflops_of(device: torch.device, mixed_precision: str | None) -> float:
    """Products a second of `device`, in 1e12: from its data sheet, or, of an unknown one, measured in half a second."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((peak for key, peak in PEAK_TFLOPS.items() if key in name), None)
        if known is not None:
            return known
    dtype = torch.float32 if mixed_precision in (None, "no") else torch.bfloat16
    a, seconds = torch.randn(1024, 1024, dtype=dtype, device=device), []
    while len(seconds) < 5 or sum(seconds) < 0.5:
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * 1024**3 / min(seconds) / 1e12  # the fastest: others may be at work as well
