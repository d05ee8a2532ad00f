"""One step of adversarial training, from top to bottom: all that is random is drawn, then both networks learn.

Every draw comes from a generator seeded by (seed, step, phase) and is made for the whole batch, of which each process
and micro-batch takes its rows. So a step's gradients do not depend on how the batch is cut, and a resumed run needs no
generator's state.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from ..modeling_poly_inr import PolyINRGenerator
from .discriminator import ProjectedDiscriminator
from .image_generator import Windows, cut_windows, sample_extents
from .matching import FeatureMatching
from .points import PointMatching
from .recipe import Recipe, StageConfig
from .reporting import TrainingLog

GUIDANCE_START_RESOLUTION = 64  # StyleGAN-XL's: 32 x 32 images say little to a classifier
WINDOW_SEED, POINT_SEED = 2**40, 2**41  # apart from the seeds of latents and augmentations


# --- what is drawn ----------------------------------------------------------------------------------------------------


@dataclass
class Draws:
    """What one of the two networks' steps draws for a micro-batch of B images.

    Args:
        z: (B, z_dim) latents of the generated images.
        augmentations: (K B, networks, numbers) uniform numbers, of the generated images first, then of the real ones
            if the discriminator sees them as well.
    """

    z: Tensor
    augmentations: Tensor


@dataclass
class Batch:
    """One process's share of a micro-batch, and everything random that a step does with it.

    Args:
        images: (B, 3, R, R) real ones in [-1, 1], windows of them if there are any.
        class_labels: (B,) of the real and of the generated images; None without classes.
        for_generator, for_discriminator: the draws of each network's step.
        windows: where the real images were cut, and generated ones are drawn; None: whole.
        matches: (B,) indices of the real images that the generator's latents stand for, in matching by latent.
        class_rows: {class: its rows of the batch}, in matching by likeness.
        points, colors: (B, P, 2) points, and (B, P, 3) the colors that the generator's images should have there.
    """

    images: Tensor
    class_labels: Tensor | None
    for_generator: Draws
    for_discriminator: Draws
    windows: Windows | None = None
    matches: Tensor | None = None
    class_rows: dict[int, Tensor] | None = None
    points: Tensor | None = None
    colors: Tensor | None = None


def labels_of(batches: list[Batch]) -> Tensor | None:
    """All their labels, (B,); None without classes."""
    labels = [batch.class_labels for batch in batches if batch.class_labels is not None]
    return torch.cat(labels) if labels else None


def sample_windows(recipe: Recipe, stage: StageConfig, step: int) -> Tensor | None:
    """Extents of a step's whole batch, (N, 4), which the seed and the step decide; None where images are whole."""
    if stage.image_resolution is None:
        return None
    source = torch.Generator().manual_seed(WINDOW_SEED + recipe.run.seed * 2_000_003 + step)
    return sample_extents(stage.batch_size, stage.window_scales, stage.whole_share, source)


def rows_of_process(accelerator: Accelerator, whole: Tensor, index: int, parts: int) -> Tensor:
    """This process's rows of micro-batch `index` of `parts`, of something (N, ...) drawn for the whole batch."""
    return whole.chunk(parts)[index].chunk(accelerator.num_processes)[accelerator.process_index]


# --- the step ---------------------------------------------------------------------------------------------------------


class AdversarialStep:
    """A step of the generator, then one of the discriminator, on the same real images and labels.

    Args:
        recipe: Of the run.
        accelerator: Of the run.
        G, D: [`ImageGenerator`] and [`ProjectedDiscriminator`], as Accelerate prepared them.
        G_optimizer, D_optimizer: Likewise.
        ema: The running mean of the generator.
        matching, points, classifier: What else the generator learns from; None for what the recipe has not.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        G: nn.Module,
        D: nn.Module,
        G_optimizer: torch.optim.Optimizer,
        D_optimizer: torch.optim.Optimizer,
        ema: nn.Module,
        matching: FeatureMatching | None = None,
        points: PointMatching | None = None,
        classifier: nn.Module | None = None,
    ):
        self.recipe, self.accelerator, self.device = recipe, accelerator, accelerator.device
        self.G, self.D, self.G_optimizer, self.D_optimizer, self.ema = G, D, G_optimizer, D_optimizer, ema
        self.matching, self.points, self.classifier = matching, points, classifier
        self.discriminator: ProjectedDiscriminator = accelerator.unwrap_model(D, keep_torch_compile=True)

    @property
    def generator(self) -> PolyINRGenerator:
        return self.accelerator.unwrap_model(self.G, keep_torch_compile=True).generator

    def take(
        self, stage: StageConfig, step: int, loaded: list[dict], sigma: float | None, decay: float, log: TrainingLog
    ) -> None:
        """One step of both networks and of the running means; adds to `log`.

        Args:
            stage: Its settings.
            step: Its number, which with the seed decides all draws.
            loaded: This process's micro-batches of real images and labels, as [`ImageLoader`] gives them.
            sigma: Of the blur, in pixels; None while the discriminator waits and the generator learns without it.
            decay: Of the running mean of the weights.
            log: Gets losses and signs.
        """
        batches = self.sample(stage, step, loaded)
        self.generator_gradients(stage, batches, sigma, log)
        apply_gradients(self.accelerator, self.G_optimizer, "generator", log)
        if self.matching is not None and self.matching.by == "likeness":
            self._update_matching(self.matching, batches)
        if sigma is not None:
            self.discriminator_gradients(stage, batches, sigma, log)
            apply_gradients(self.accelerator, self.D_optimizer, "discriminator", log)
            self.discriminator.update_spectral_norm()
        self._update_w_mean(batches)
        update_ema(self.ema, self.generator, decay)

    def sample(self, stage: StageConfig, step: int, loaded: list[dict]) -> list[Batch]:
        """All that is random in a step, for each of its micro-batches."""
        seed, parts = self.recipe.run.seed * 2_000_003 + step, len(loaded)
        extents = sample_windows(self.recipe, stage, step)
        uniform = None
        if self.points is not None:
            source = torch.Generator().manual_seed(POINT_SEED + seed)
            uniform = torch.rand(stage.batch_size, self.points.points_per_image, generator=source)
        for_generator = self._sample_draws(
            2 * seed, stage.batch_size, 2 if self.recipe.discriminator.joint_batch_norm else 1
        )
        for_discriminator = self._sample_draws(2 * seed + 1, stage.batch_size, 2)
        batches = []
        for index, real in enumerate(loaded):
            mine = partial(rows_of_process, self.accelerator, index=index, parts=parts)
            of_generator, of_discriminator = (
                Draws(mine(z).to(self.device), torch.cat([mine(those) for those in augmentations]).to(self.device))
                for z, augmentations in (for_generator, for_discriminator)
            )
            batch = Batch(real["images"], real["class_labels"], of_generator, of_discriminator)
            z, labels = batch.for_generator.z, batch.class_labels
            if extents is not None and stage.image_resolution is not None:
                batch.windows = Windows(mine(extents), stage.image_resolution)
                batch.images = cut_windows(batch.images, batch.windows, stage.resolution)  # (B, 3, R, R)
            if self.matching is not None:
                batch.matches, batch.class_rows = self.matching.choose(z, labels)
            if self.points is not None and uniform is not None:
                batch.points, batch.colors = self.points.draw(z, labels, mine(uniform))
            batches.append(batch)
        return batches

    def _sample_draws(self, seed: int, number: int, kinds: int) -> tuple[Tensor, list[Tensor]]:
        """Latents (N, z_dim) and, for each kind of images to judge, augmentations' numbers, of the whole batch."""
        source = torch.Generator().manual_seed(seed)
        z = torch.randn(number, self.recipe.known_model.z_dim, generator=source)
        return z, [self.discriminator.sample_augmentations(number, source) for _ in range(kinds)]

    def generator_gradients(
        self, stage: StageConfig, batches: list[Batch], sigma: float | None, log: TrainingLog
    ) -> None:
        """Gradients of the generator's loss: a new term is added here, its weight to [`LossConfig`]."""
        weights, parts = self.recipe.loss, len(batches)
        points_alone = sigma is None and self.matching is None and self.classifier is None
        resolution = None if points_alone else stage.resolution
        self.discriminator.requires_grad_(False)
        for batch in batches:
            z, labels = batch.for_generator.z, batch.class_labels
            with self._synchronized(self.G, batch is batches[-1]), self.accelerator.autocast():
                images = self.G(z, labels, resolution, stage.pixel_chunk, batch.windows, batch.points)  # (B, 3, R, R)
                loss = torch.zeros((), device=self.device)
                if batch.points is not None:
                    images, drawn = images  # the colors at points are (B, P, 3)
                    error = (drawn.float() - batch.colors).abs().mean()
                    loss = loss + weights.points_weight * error
                    log.add(points_loss=error / parts)
                if sigma is not None:
                    logits = self._judge(self.discriminator, images, batch, batch.for_generator, sigma)[0]
                    loss = loss + generator_loss(logits)
                    log.add(fake_sign_generator=mean_sign(logits) / parts)
                if self.matching is not None:
                    distance, batch.matches = self.matching(images, batch.matches, batch.class_rows, batch.windows)
                    loss = loss + weights.matching_weight * distance
                    log.add(matching_loss=distance / parts)
                guided = labels is not None and stage.resolution >= GUIDANCE_START_RESOLUTION
                if self.classifier is not None and labels is not None and guided:
                    guidance = classifier_guidance_loss(self.classifier, images, labels)
                    loss = loss + weights.guidance_weight * guidance
                    log.add(guidance_loss=guidance / parts)
                self.accelerator.backward(loss / parts)
            log.add(generator_loss=loss / parts)
        self.discriminator.requires_grad_(True)

    def discriminator_gradients(self, stage: StageConfig, batches: list[Batch], sigma: float, log: TrainingLog) -> None:
        """Gradients of the discriminator's hinge loss on real images and on newly generated ones."""
        parts = len(batches)
        generate = self.accelerator.unwrap_model(self.G, keep_torch_compile=True)
        for batch in batches:
            draws, labels = batch.for_discriminator, batch.class_labels
            with torch.no_grad(), self.accelerator.autocast():
                fake = generate(draws.z, labels, stage.resolution, stage.pixel_chunk, batch.windows)  # (B, 3, R, R)
            with self._synchronized(self.D, batch is batches[-1]), self.accelerator.autocast():
                fake_logits, real_logits = self._judge(self.D, fake, batch, draws, sigma)
                loss = hinge_loss_fake(fake_logits) + hinge_loss_real(real_logits)
                self.accelerator.backward(loss / parts)
            log.add(
                discriminator_loss=loss / parts,
                real_sign=mean_sign(real_logits) / parts,
                fake_sign=mean_sign(fake_logits) / parts,
            )

    def _judge(
        self, discriminator: nn.Module, generated: Tensor, batch: Batch, draws: Draws, sigma: float
    ) -> list[dict[str, Tensor]]:
        """Logits of generated images (B, 3, R, R), and, where there are draws for them, of the batch's real ones.

        In one pass. Batch norm keeps the two apart, as in the release, or not: apart, it hides from the discriminator
        what all generated images have in common, such as a wrong mean color.
        """
        kinds = len(draws.augmentations) // len(generated)
        images = torch.cat([generated.to(batch.images.dtype), batch.images][:kinds])  # (K B, 3, R, R)
        labels = None if batch.class_labels is None else batch.class_labels.repeat(kinds)
        num_batches = 1 if self.recipe.discriminator.joint_batch_norm else kinds
        logits = discriminator(images, labels, sigma, draws.augmentations, num_batches=num_batches)
        return [{name: values.chunk(kinds)[kind] for name, values in logits.items()} for kind in range(kinds)]

    def _synchronized(self, model: nn.Module, is_last: bool) -> AbstractContextManager:
        """Context of a backward: gradients of all processes are averaged in the last one of a step only."""
        return nullcontext() if is_last else self.accelerator.no_sync(model)

    def _update_matching(self, matching: FeatureMatching, batches: list[Batch]) -> None:
        """Moves the matching's dual variables, once a step, by what all processes matched."""
        found = [batch.matches for batch in batches if batch.matches is not None]
        matches: Any = self.accelerator.gather(torch.cat(found))
        matching.update_dual(matches, self._labels_of_all(batches))

    @torch.no_grad()
    def _update_w_mean(self, batches: list[Batch]) -> None:
        """Moves the generator's running mean of w, once a step, by the whole batch."""
        z = torch.cat([batch.for_discriminator.z for batch in batches])
        w: Any = self.accelerator.gather(self.generator.mapping(z, labels_of(batches)))  # (N, w_dim)
        update_w_mean(self.generator.w_mean, w, self._labels_of_all(batches))

    def _labels_of_all(self, batches: list[Batch]) -> Tensor | None:
        labels = labels_of(batches)
        gathered: Any = None if labels is None else self.accelerator.gather(labels)  # (N,)
        return gathered


# --- losses -----------------------------------------------------------------------------------------------------------
#
# `logits` is what `ProjectedDiscriminator` returns: network name -> (B, K). Each loss is the mean over a network's
# batch and logits, summed over networks. The mean over logits is the release's; over the samples of a micro-batch the
# release *sums*, which Adam's scale invariance hides, except where another loss is added: see
# `classifier_guidance_loss`.


def _add(terms: Iterable[Tensor]) -> Tensor:
    return reduce(operator.add, terms)


def hinge_loss_real(logits: Mapping[str, Tensor]) -> Tensor:
    """`E[max(0, 1 - D(x))]`, the discriminator's hinge loss on real images (Lim & Ye, Geometric GAN, 2017).

    A mean per network, summed over networks (Sauer et al., Projected GANs Converge Faster, 2021, equation 2).
    """
    return _add(F.relu(1 - network_logits).mean() for network_logits in logits.values())


def hinge_loss_fake(logits: Mapping[str, Tensor]) -> Tensor:
    """`E[max(0, 1 + D(G(z)))]`, the discriminator's hinge loss on generated images; see [`hinge_loss_real`]."""
    return _add(F.relu(1 + network_logits).mean() for network_logits in logits.values())


def generator_loss(logits: Mapping[str, Tensor]) -> Tensor:
    """`-E[D(G(z))]`, the generator's adversarial loss that goes with the hinge: a mean per network, summed."""
    return -_add(network_logits.mean() for network_logits in logits.values())


def classifier_guidance_loss(classifier: Callable[[Tensor], Tensor], images: Tensor, class_labels: Tensor) -> Tensor:
    """`E[-log p(c | G(z, c))]` of a frozen classifier (Sauer et al., StyleGAN-XL, 2022, section 3.4), a batch mean.

    Multiply it with the guidance weight before adding it to [`generator_loss`]. Both are batch means here. In the
    release the adversarial loss is a sum over the micro-batch and this one a mean, so that a published weight of 8
    there acts as 8 / (images per micro-batch) does here.

    Args:
        classifier: logits (B, classes) of images (B, 3, H, W) in [-1, 1]; see [`build_classifier`].
        images (`Tensor`): generated images, (B, 3, H, W) in [-1, 1].
        class_labels (`Tensor`): the labels they were generated for, (B,) integers, in the classifier's numbering.
    """
    return F.cross_entropy(classifier(images).float(), class_labels)


def mean_sign(logits: Mapping[str, Tensor]) -> Tensor:
    """Mean sign of logits: 1 if all are judged real, -1 if all are judged generated."""
    return _add(values.detach().sign().mean() for values in logits.values()) / len(logits)


# --- schedules, running means and gradients ---------------------------------------------------------------------------


def blur_sigma_at(kimg: float, initial_sigma: float = 2.0, fade_kimg: float = 300.0) -> float:
    """Blur sigma, in pixels, after `kimg` thousand real images: from `initial_sigma` linearly to 0 at `fade_kimg`.

    The defaults are those of StyleGAN-XL (Sauer et al., 2022), whose training the paper follows (section 4).
    A `fade_kimg` of 0 means no blur at all.
    """
    if fade_kimg <= 0:
        return 0.0
    return max(1 - kimg / fade_kimg, 0.0) * initial_sigma


def ema_decay(batch_size: int, images_seen: int, half_life_kimg: float | None, ramp_up: float | None) -> float:
    """Decay of one step of the weights' running mean, as StyleGAN2-ADA's training loop has it.

    `0.5 ** (batch_size / half_life)`, where the half-life is at most `ramp_up` of the images seen: a long memory of the
    first images would be one of noise.
    """
    half_life = 1000 * (batch_size * 10 / 32 if half_life_kimg is None else half_life_kimg)  # images
    if ramp_up is not None:
        half_life = min(half_life, images_seen * ramp_up)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model, parameter by parameter; buffers are copied (as in StyleGAN2-ADA)."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    for target, source in zip(ema.buffers(), model.buffers(), strict=True):
        target.copy_(source)


@torch.no_grad()
def update_w_mean(w_mean: Tensor, w: Tensor, class_labels: Tensor | None, decay: float = 0.998) -> None:
    """w_mean[c] <- decay * w_mean[c] + (1 - decay) * mean of the w (B, w_dim) of class c; (classes or 1, w_dim).

    The center that truncation pulls towards (Karras et al., StyleGAN, 2019, appendix B), one for each class.

    The default decay is the release's. A row that has never been moved is all zeros, and takes its first mean whole.
    """
    class_labels = torch.zeros(len(w), dtype=torch.long, device=w.device) if class_labels is None else class_labels
    counts = torch.zeros(len(w_mean), device=w.device).index_add_(0, class_labels, torch.ones_like(w[:, 0]))
    means = torch.zeros_like(w_mean).index_add_(0, class_labels, w.to(w_mean.dtype)) / counts.clamp(min=1).unsqueeze(1)
    is_new = ~w_mean.any(dim=1, keepdim=True)
    moved = torch.where(is_new, means, torch.lerp(means, w_mean, decay))
    w_mean.copy_(torch.where(counts.unsqueeze(1) > 0, moved, w_mean))


def apply_gradients(accelerator: Accelerator, optimizer: torch.optim.Optimizer, name: str, log: TrainingLog) -> None:
    """An optimizer's step by the gradients that are there, without what is not finite in them.

    Under a gradient scaler such a step is skipped instead, and the scale halved: float16 overflows now and then.
    """
    if accelerator.scaler is not None:
        accelerator.unscale_gradients(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kind = "nonfinite" if accelerator.scaler is None else "skipped"
    log.count(**{f"{kind}_{name}_steps": guard_gradients(parameters)})
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def guard_gradients(parameters: list[nn.Parameter]) -> Tensor:
    """Replaces NaN by 0 and infinity by +-1e5 in gradients, in place; returns 1 if any was not finite, else 0."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    finite = torch.isfinite(torch.stack(torch._foreach_norm(gradients, float("inf")))).all()
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
    return (~finite).float()
