"""Products and memory of one stage of a recipe, counted on tensors without data: see [`plan_recipe`]."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from .augmentation import blur_sigma_at
from .config import Recipe, StageConfig, check_division
from .image_generator import ImageGenerator
from .losses import classifier_guidance_loss, generator_loss, hinge_loss_fake, hinge_loss_real
from .models import build_discriminator, build_generator, build_guidance

GIB = 2**30
# Of a device's peak, what a step is assumed to reach. Not measured on a GPU: heads and resizing are bound by memory, so
# half of what rendering alone reaches on a CPU (docs/training.md) is a cautious guess.
ASSUMED_SHARE = 0.3
# Formulas of operations, with attention as a CPU's fake tensors run it, which torch leaves out.
_FORMULAS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, q, k, v, *_, **__: sdpa_backward_flop(gradient, q, k, v)
    ),
}


class _Meter(TorchDispatchMode):
    """Counts products, and the most bytes of tensors alive at once, `tensors` and what is made while it is active.

    torch's own counter also follows modules and decomposes each operation it has no formula for, which takes most of
    its time; autograd has decomposed them by then.
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


@dataclass(frozen=True)
class StageCost:
    """What a stage of a recipe costs.

    Args:
        stage: Its settings.
        micro_batch: Images of one process in a forward and backward.
        generator_gflop, discriminator_gflop: 1e9 multiplications and additions of an image, in the generator's and in
            the discriminator's step, as the recipe chunks it.
        weights_gib: Weights, gradients, Adam's two moments and the averaged generator, a process.
        peak_gib: The most memory at once, weights included, of a process without compilation.
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


class _TwoChunks(ImageGenerator):
    """A generator that draws two of the chunks of pixels an image has, and leaves the rest empty.

    Chunks cost alike, and one is in memory at a time; `chunks_left_out` says how many there were besides.
    """

    chunks_left_out = 0.0

    def _colours(self, A: Tensor, coordinates: Tensor, pixel_chunk: int) -> Tensor:
        chunk = max(1, pixel_chunk // len(A))
        drawn = super()._colours(A, coordinates[: 2 * chunk], pixel_chunk)  # (B, 2 chunks, 3)
        rest = drawn.new_empty(len(A), len(coordinates) - drawn.shape[1], 3)
        self.chunks_left_out = rest.shape[1] / chunk
        return torch.cat([drawn, rest], dim=1)  # (B, N, 3)


class StageNetworks:
    """The networks of a recipe as fake tensors, and a step of both, counted."""

    def __init__(self, recipe: Recipe, num_classes: int | None):
        untrained = replace(recipe.discriminator, pretrained=False, feature_weights={})
        model = replace(recipe.model, initialization="released")  # the other one reads numbers off its weights
        self.recipe, self.num_classes = replace(recipe, discriminator=untrained, model=model), num_classes
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        with torch.device("meta"):
            self.discriminator = build_discriminator(self.recipe, num_classes, torch.device("meta"))
            self.classifier = build_guidance(self.recipe, num_classes)
            self.image_generator = _TwoChunks(build_generator(self.recipe, num_classes))
        self.generator = self.image_generator.generator
        modules = nn.ModuleList([self.generator, self.discriminator, self.classifier or nn.Identity()])
        with self.fake:
            modules.to_empty(device="cpu")
        self.tensors = [*modules.parameters(), *modules.buffers()]

    def count_step(self, stage: StageConfig, images: int, chunk: int) -> StageCost:
        """The cost of a stage whose micro-batches are `images`, with `chunk` pixels of each in the graph at once."""
        with self.fake:
            meter = _Meter(self.tensors)
            labels = None if self.num_classes is None else torch.zeros(images, dtype=torch.long)
            real = torch.zeros(images, 3, stage.resolution, stage.resolution)
            with meter:
                self._generator_step(stage, real, labels, chunk)
                of_generator = meter.count()
                self.generator.zero_grad()
                self._discriminator_step(stage, real, labels, chunk)
                of_discriminator = meter.count()
                self.discriminator.zero_grad()
            if self.image_generator.chunks_left_out:
                forward, backward = self._count_chunk(images, chunk)
                of_generator += round(self.image_generator.chunks_left_out * (2 * forward + backward))
                of_discriminator += round(self.image_generator.chunks_left_out * forward)
        average = _bytes(self.generator.parameters())
        learning = average + _bytes(self.discriminator.trainable_parameters())
        saved = _bytes(self.generator.state_dict().values()) + _bytes(self.discriminator.state_dict().values())
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

    def _generator_step(self, stage: StageConfig, real: Tensor, labels: Tensor | None, chunk: int) -> None:
        loss = self.recipe.loss
        self.discriminator.requires_grad_(False)
        with _autocast(self.recipe):
            fake = self._draw(stage, labels, len(real), chunk)
            total = generator_loss(self._judge([fake, real] if loss.joint_batch_norm else [fake], labels)[0])
            if self.classifier is not None and stage.resolution >= loss.guidance_start_resolution:
                total = total + classifier_guidance_loss(self.classifier, fake, labels)
        total.backward()
        self.discriminator.requires_grad_(True)

    def _discriminator_step(self, stage: StageConfig, real: Tensor, labels: Tensor | None, chunk: int) -> None:
        with _autocast(self.recipe):
            with torch.no_grad():
                fake = self._draw(stage, labels, len(real), chunk)
            fake_logits, real_logits = self._judge([fake, real], labels)
            total = hinge_loss_fake(fake_logits) + hinge_loss_real(real_logits)
        total.backward()

    def _draw(self, stage: StageConfig, labels: Tensor | None, images: int, chunk: int) -> Tensor:
        return self.image_generator(
            torch.zeros(images, self.recipe.model.z_dim), labels, stage.resolution, chunk * images
        )  # (B, 3, R, R)

    def _judge(self, kinds: list[Tensor], labels: Tensor | None) -> list[dict[str, Tensor]]:
        number, loss = len(kinds), self.recipe.loss
        repeated = None if labels is None else labels.repeat(number)
        num_batches = 1 if loss.joint_batch_norm else number
        sigma = blur_sigma_at(0.0, loss.blur_initial_sigma, loss.blur_fade_kimg)
        logits = self.discriminator(torch.cat(kinds), repeated, sigma, num_batches=num_batches)
        return [{name: x.chunk(number)[kind] for name, x in logits.items()} for kind in range(number)]

    def _count_chunk(self, images: int, chunk: int) -> tuple[int, int]:
        """Products of one chunk's forward, and of its backward."""
        model = self.recipe.model
        A = torch.zeros(images, model.num_levels, model.channels, 3, requires_grad=True)
        with _Meter(()) as meter:
            with _autocast(self.recipe):
                rgb = self.generator.synthesize(A, torch.zeros(chunk, 2))
            forward = meter.count()
            rgb.sum().backward()
        self.generator.zero_grad()
        return forward, meter.count()


def measure_stage(
    recipe: Recipe,
    index: int,
    num_processes: int = 1,
    num_classes: int | None = None,
    networks: StageNetworks | None = None,
) -> StageCost:
    """Counts one stage of a recipe by going through a step of both networks without computing it.

    Batch norm groups cost alike, so that of a large micro-batch one group and two are gone through, and so do chunks of
    pixels, of which two are. Of a stage with windows, a window counts as an image of its pixels.

    Args:
        recipe: The recipe.
        index: Of the stage.
        num_processes: Processes, one device each.
        num_classes: Of the data; None for an unconditional model.
        networks: The recipe's, if they have been built already.

    Raises:
        ValueError: if the stage's batch cannot be cut for so many processes.
    """
    check_division(recipe, index, num_processes)
    stage = recipe.stages[index]
    networks = networks or StageNetworks(recipe, num_classes)
    images = stage.batch_size // stage.gradient_accumulation_steps // num_processes
    chunk = stage.resolution**2  # pixels of an image
    if stage.pixel_chunk is not None:
        chunk = min(chunk, max(1, stage.pixel_chunk // images))
    group = recipe.discriminator.batch_norm_group_size or 2
    if images <= 2 * group:
        return networks.count_step(stage, images, chunk)
    one, two = (networks.count_step(stage, number, chunk) for number in (group, 2 * group))
    peak = two.peak_gib + (two.peak_gib - one.peak_gib) / group * (images - 2 * group)
    return replace(two, micro_batch=images, peak_gib=peak)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _autocast(recipe: Recipe) -> AbstractContextManager:
    """As Accelerate does for the recipe's precision; fp16 counts as bf16, which is as large."""
    if recipe.run.mixed_precision == "no":
        return nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)
