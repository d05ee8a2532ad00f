"""What a recipe costs before it is run: products, memory and days of each stage, counted on tensors without data.

    costs = plan_recipe(recipe, num_processes=8, num_classes=1000)
    print(format_plan(costs, num_processes=8, peak_tflops=989.0))

The step that is counted is the trainer's own, under torch's fake tensors: shapes and dtypes are right, nothing is
computed, so that what needs eighty gigabytes is planned on a laptop, in seconds.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from ..data.dataset import ImageDataset
from .image_generator import ImageGenerator, Windows, cut_windows
from .models import build_discriminator, build_generator, build_guidance, build_matching
from .recipe import Recipe, StageConfig, check_division
from .step import AdversarialStep, Batch, Draws, blur_sigma_at, sample_windows

# Dense bfloat16 products, 1e12 multiplications and additions a second, from the makers' data sheets; the first whose
# name is in the device's.
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0, "V100": 125.0}
MEMORY_MARGIN = 0.92  # of a device's memory: its context and the allocator's fragments need the rest
GIB = 2**30
# Of a device's peak, what a step is assumed to reach. Not measured on a GPU: heads and resizing are bound by memory, so
# half of what rendering alone reaches on a CPU (docs/training.md) is a cautious guess.
ASSUMED_SHARE = 0.3
ASSUMED_IMAGES = 1000  # of a dataset that is not there: only matching looks at it, and few are matched by likeness


# --- one stage --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageCost:
    """What a stage of a recipe costs.

    Args:
        stage: Its settings.
        micro_batch: Images of one process in a forward and backward.
        generator_gflop, discriminator_gflop: 1e9 multiplications and additions of an image, in the generator's and in
            the discriminator's step, as the recipe chunks it.
        weights_gib: Weights, gradients, Adam's two moments and the averaged generator, a process.
        peak_gib: The most memory at once, weights included, of a process without compilation. Images that the host
            keeps decoded are not in it.
        checkpoint_gib: A checkpoint on disk.
    """

    stage: StageConfig
    micro_batch: int
    generator_gflop: float
    discriminator_gflop: float
    weights_gib: float
    peak_gib: float
    checkpoint_gib: float

    @property
    def pflop(self) -> float:
        """1e15 multiplications and additions of the whole stage, over all processes."""
        return (self.generator_gflop + self.discriminator_gflop) * self.stage.kimg * 1000 / 1e6

    def days(self, num_processes: int, peak_tflops: float, share: float = ASSUMED_SHARE) -> float:
        """Of the whole stage on `num_processes` devices that reach `share` of `peak_tflops`."""
        return self.pflop * 1e3 / (num_processes * peak_tflops * share) / 86_400

    def images_per_second(self, num_processes: int, peak_tflops: float, share: float = ASSUMED_SHARE) -> float:
        """What all processes' loaders must deliver together, for the devices not to wait."""
        return self.stage.kimg * 1000 / (self.days(num_processes, peak_tflops, share) * 86_400)


class _Meter(TorchDispatchMode):
    """Counts products, and the most bytes of tensors alive at once, `tensors` and what is made while it is active.

    torch's own counter has the formulas, but it also follows modules and decomposes each operation it has no formula
    for, which takes most of its time; autograd has decomposed them by then.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        super().__init__()
        self.flops = self.alive = self.peak = 0
        self._seen: weakref.WeakSet = weakref.WeakSet()
        for tensor in tensors:
            self._watch(tensor.untyped_storage())

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.prim.device.default:  # two thirds of all calls
            return args[0].fake_device
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        formula = _FORMULAS.get(function.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def count(self) -> int:
        """Multiplications and additions since it was last asked."""
        flops, self.flops = self.flops, 0
        return flops

    def _watch(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.alive -= size


# Formulas of operations, with what torch leaves out: attention as a CPU's fake tensors run it, and distances.
_FORMULAS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop(gradient, q, k, v)
    ),
    torch.ops.aten._euclidean_dist: lambda x, y, **__: 2 * len(x) * y.numel(),  # `cdist` of more than 25 rows
}


class _TwoChunks(ImageGenerator):
    """A generator that draws two of the chunks of pixels an image has, and leaves the rest empty.

    Chunks cost alike, and one is in memory at a time; `left_out` says, for each time that colors are drawn, how many
    chunks there were besides, and an (images, points) of one.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.left_out: list[tuple[float, int, Tensor]] = []

    def _colors(self, A: Tensor, coordinates: Tensor, pixel_chunk: int) -> Tensor:
        chunk = max(1, pixel_chunk // len(A))
        drawn = super()._colors(A, coordinates[..., : 2 * chunk, :], pixel_chunk)  # (B, 2 chunks, 3)
        rest = drawn.new_empty(len(A), coordinates.shape[-2] - drawn.shape[1], 3)
        if rest.shape[1]:
            self.left_out.append((rest.shape[1] / chunk, len(A), coordinates[..., :chunk, :]))
        return torch.cat([drawn, rest], dim=1)  # (B, N, 3)


class _Alone:
    """What a step asks of Accelerate and of the log, for a process that talks to nobody."""

    device, scaler = torch.device("cpu"), None

    def __init__(self, recipe: Recipe):
        self.is_mixed = recipe.run.mixed_precision not in (None, "no")

    def autocast(self) -> AbstractContextManager:
        """As Accelerate does for the recipe's precision; fp16 counts as bf16, which is as large."""
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.is_mixed else nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        return nullcontext()

    def unwrap_model(self, model: nn.Module, **options) -> nn.Module:
        return model

    def add(self, **values: Tensor) -> None:
        """Nothing is logged."""


class _Rehearsal:
    """The networks of a recipe as fake tensors, and the trainer's step of them, counted."""

    def __init__(self, recipe: Recipe, num_classes: int | None, num_images: int):
        names = (*recipe.discriminator.feature_networks, recipe.loss.guidance_classifier)
        untrained = replace(recipe.discriminator, feature_weights=dict.fromkeys(names, "random"))
        model = replace(recipe.known_model, initialization="released")  # the other one reads numbers off its weights
        run = replace(recipe.run, init_from=None)  # of which cells would be read, which fake tensors cannot be
        self.recipe = recipe = replace(recipe, discriminator=untrained, model=model, run=run)
        self.num_images, self.num_classes = num_images, num_classes
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.device("meta"):
            discriminator = build_discriminator(recipe, num_classes, torch.device("meta"))
            classifier = build_guidance(recipe, num_classes)
            images = _TwoChunks(build_generator(recipe, num_classes))
        modules = nn.ModuleList([images, discriminator, classifier or nn.Identity()])
        with self.fake:
            modules.to_empty(device="cpu")
            matching = build_matching(recipe, num_images, num_classes, discriminator.branches[0].feature_network)
        self.tensors = [*modules.parameters(), *modules.buffers()]
        alone: Any = _Alone(recipe)
        none: Any = None  # no optimizer, no running mean
        self.step = AdversarialStep(recipe, alone, images, discriminator, none, none, none, matching, None, classifier)
        self.log, self.drawing = alone, images

    def count(self, stage: StageConfig, images: int) -> StageCost:
        """The cost of a stage whose micro-batches are `images`."""
        step, loss, log = self.step, self.recipe.loss, self.log
        generator, discriminator, drawing = step.generator, step.discriminator, self.drawing
        sigma = blur_sigma_at(0.0, fade_kimg=loss.blur_fade_kimg)
        # Images are split for a CPU's cache where there are no chunks, which no other device does.
        counted = replace(stage, pixel_chunk=stage.pixel_chunk or 2**62)
        extents = sample_windows(self.recipe, stage, 0)
        extents = None if extents is None else extents[:images]
        labels = torch.arange(self.num_images) % (self.num_classes or 1)
        with self.fake:
            self._show_real_images(stage, labels)
            meter = _Meter([*self.tensors, *([step.matching.reals] if step.matching and extents is None else [])])
            with meter:
                batch = self._batch(stage, images, extents)
                step.generator_gradients(counted, [batch], sigma, log)
                of_generator, chunks_of_generator = meter.count(), list(drawing.left_out)
                generator.zero_grad()
                drawing.left_out.clear()
                step.discriminator_gradients(counted, [batch], sigma, log)
                of_discriminator, chunks_of_discriminator = meter.count(), list(drawing.left_out)
                discriminator.zero_grad()
                drawing.left_out.clear()
            for number, size, points in chunks_of_generator:
                forward, backward = self._count_chunk(size, points)
                of_generator += round(number * (2 * forward + backward))
            for number, size, points in chunks_of_discriminator:
                of_discriminator += round(number * self._count_chunk(size, points)[0])
        average = _bytes(generator.parameters())
        learning = average + _bytes(discriminator.trainable_parameters())
        saved = _bytes(generator.state_dict().values()) + _bytes(discriminator.state_dict().values())
        kept = average + 2 * learning  # the averaged generator, and Adam's two moments, which no step makes
        return StageCost(
            stage=stage,
            micro_batch=images,
            generator_gflop=of_generator / images / 1e9,
            discriminator_gflop=of_discriminator / images / 1e9,
            weights_gib=(kept + 2 * learning) / GIB,
            peak_gib=(meter.peak + kept) / GIB,
            checkpoint_gib=(kept + saved) / GIB,
        )

    def _show_real_images(self, stage: StageConfig, labels: Tensor) -> None:
        matching, side = self.step.matching, stage.image_size
        if matching is None:
            return
        images = torch.zeros(self.num_images, 3, side, side, dtype=torch.uint8)
        if stage.image_resolution is None:
            matching.cache_features([(images, labels)], len(images))
        else:
            matching.keep_images(images, labels, stage.resolution, len(images))

    def _batch(self, stage: StageConfig, images: int, extents: Tensor | None) -> Batch:
        """A micro-batch as [`AdversarialStep.sample`] makes it, but for what its numbers would decide."""
        loss, z_dim, side = self.recipe.loss, self.recipe.known_model.z_dim, stage.image_size
        of_generator, of_discriminator = (
            Draws(torch.zeros(images, z_dim), self.step.discriminator.sample_augmentations(passes * images))
            for passes in (2 if self.recipe.discriminator.joint_batch_norm else 1, 2)
        )
        labels = None if self.num_classes is None else torch.zeros(images, dtype=torch.long)
        batch = Batch(torch.zeros(images, 3, side, side), labels, of_generator, of_discriminator)
        if extents is not None and stage.image_resolution is not None:
            batch.windows = Windows(extents, stage.image_resolution)
            batch.images = cut_windows(batch.images, batch.windows, stage.resolution)  # (B, 3, R, R)
        if loss.matching_weight > 0 and loss.matching_by == "latent":
            batch.matches = torch.zeros(images, dtype=torch.long)
        elif loss.matching_weight > 0:
            batch.class_rows = {0: torch.arange(images)}
        if loss.points_weight > 0:
            batch.points = torch.zeros(images, loss.points_per_image, 2)
            batch.colors = torch.zeros(images, loss.points_per_image, 3)
        return batch

    def _count_chunk(self, images: int, points: Tensor) -> tuple[int, int]:
        """Products of one chunk's forward, and of its backward, at points (N, 2) or (images, N, 2)."""
        model, generator = self.recipe.known_model, self.step.generator
        A = torch.zeros(images, model.num_levels, model.channels, 3, requires_grad=True)
        with _Meter(()) as meter:
            with self.step.accelerator.autocast():
                rgb = generator.synthesize(A, points)
            forward = meter.count()
            rgb.sum().backward()
        generator.zero_grad()
        return forward, meter.count()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# --- a recipe ---------------------------------------------------------------------------------------------------------


def plan_recipe(
    recipe: Recipe, num_processes: int = 1, num_classes: int | None = None, num_images: int = ASSUMED_IMAGES
) -> list[StageCost]:
    """Counts each stage of a recipe by going through a step of both networks without computing it.

    Stages of the same shapes are counted once, and of the chunks of pixels two.

    Args:
        recipe: The recipe.
        num_processes: Processes, one device each.
        num_classes: Of the data; None for an unconditional model.
        num_images: Of the data, which matching by likeness compares with.

    Raises:
        ValueError: if a stage's batch cannot be cut for so many processes.
    """
    for index in range(len(recipe.stages)):
        check_division(recipe, index, num_processes)
    rehearsal, costs = _Rehearsal(recipe, num_classes, num_images), {}
    plan = []
    for stage in recipe.stages:
        if stage.shapes not in costs:
            images = stage.batch_size // stage.gradient_accumulation_steps // num_processes
            costs[stage.shapes] = rehearsal.count(stage, images)
        plan.append(replace(costs[stage.shapes], stage=stage))
    return plan


def plan_run(recipe: Recipe, accelerator: Accelerator, dataset: ImageDataset) -> str:
    """The plan of a run on the devices it has, as text; on CPUs the main process's alone, on GPUs the same in all.

    Raises:
        ValueError: if a stage needs more memory than there is.
    """
    device, processes = accelerator.device, accelerator.num_processes
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif accelerator.is_main_process:
        memory = psutil.virtual_memory().total / processes
    else:
        return ""
    num_images = ASSUMED_IMAGES if dataset.streaming else len(dataset)
    costs = plan_recipe(recipe, processes, dataset.num_classes, num_images)
    check_memory(costs, recipe.discriminator.batch_norm_group_size, memory / GIB)
    return format_plan(costs, processes, peak_tflops_of(device, recipe.run.mixed_precision))


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
