"""Adversarial training: a projected GAN with progressive resolution, under Accelerate.

Every random draw of a step (latents, augmentations) comes from a generator seeded by (seed, step, phase) and is made
for the whole batch, of which each process and micro-batch takes its rows. So a step's gradients do not depend on how
the batch is cut, and a resumed run needs no generator's state.
"""

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..data.loader import ImageLoader, make_loader
from ..images import sample_images
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .augmentation import blur_sigma_at
from .config import StageConfig
from .image_generator import ImageGenerator
from .loop import POINT_SEED, TrainingLoop
from .losses import classifier_guidance_loss, generator_loss, hinge_loss_fake, hinge_loss_real, mean_sign
from .models import (
    adam_options,
    build_discriminator,
    build_generator,
    build_guidance,
    build_matching,
    build_points,
    generator_groups,
    initial_class_embeddings,
    open_source,
    start_weights,
)
from .updates import ema_decay, update_ema, update_w_mean
from .windows import cut_windows


class Trainer(TrainingLoop):
    """Trains a generator against a discriminator; see `scripts/train.py`, and [`TrainingLoop`] for the arguments."""

    def build_models(self) -> None:
        recipe, accelerator, dataset = self.recipe, self.accelerator, self.dataset
        num_classes, id2label = dataset.num_classes, dataset.id2label
        generator = build_generator(recipe, num_classes)
        # What can fail comes before the hours that may go into class embeddings.
        source = open_source(recipe, generator, id2label)
        self.classifier = build_guidance(recipe, num_classes)
        discriminator = build_discriminator(recipe, num_classes, self.device)
        self.matching = build_matching(recipe, dataset, discriminator.branches[0].feature_network)
        self.points = build_points(recipe, dataset)
        embeddings = initial_class_embeddings(recipe, dataset, accelerator, self.output_dir)
        start_weights(generator, embeddings, source, id2label)
        if embeddings is not None:
            discriminator.set_class_embeddings(embeddings)
        self._untrained_discriminator = None
        if recipe.run.stage_start == "fresh":
            self._untrained_discriminator = {name: value.clone() for name, value in discriminator.state_dict().items()}
        for module in (self.classifier, self.matching):
            if module is not None:
                module.to(self.device)
        self.ema = copy.deepcopy(generator).requires_grad_(False).to(self.device)
        adam = adam_options(recipe, self.device)
        self.G, self.D, self.G_optimizer, self.D_optimizer = accelerator.prepare(
            ImageGenerator(generator, recipe.run.compile),
            discriminator,
            torch.optim.Adam(generator_groups(generator, recipe.run.mapping_lr_multiplier), **adam),
            torch.optim.Adam(discriminator.trainable_parameters(), **adam),
        )
        for module in (self.ema, self.matching):
            if module is not None:
                accelerator.register_for_checkpointing(module)
        self.generator = accelerator.unwrap_model(self.G, keep_torch_compile=True).generator
        self.discriminator = accelerator.unwrap_model(self.D, keep_torch_compile=True)

    def begin_stage(self) -> None:
        """By `run.stage_start`: goes on with everything, or takes over the best averaged generator and nothing else."""
        if self.recipe.run.stage_start == "carry":
            return
        best = None if self.best_export is None else self.best_export.best
        if best is None:
            weights = {name: value.clone() for name, value in self.ema.state_dict().items()}
        else:
            weights = PolyINRPipeline.from_pretrained(
                self.best_export.folder(best["resolution"])
            ).generator.state_dict()
        self.generator.load_state_dict(weights)
        self.ema.load_state_dict(weights)
        self.discriminator.load_state_dict(self._untrained_discriminator)
        for optimizer in (self.G_optimizer, self.D_optimizer):
            optimizer.state.clear()

    def learning_rates(self, stage: StageConfig) -> list[tuple[Optimizer, float]]:
        return [(self.G_optimizer, stage.lr_generator), (self.D_optimizer, stage.lr_discriminator)]

    def make_batches(self, stage: StageConfig, decoded: tuple | None = None) -> ImageLoader:
        data = self.recipe.data
        return make_loader(
            self.dataset,
            stage.image_size,
            stage.batch_size // stage.gradient_accumulation_steps,
            seed=self.recipe.run.seed,
            process_index=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            num_workers=data.num_workers,
            mirror=data.mirror,
            cache_in_memory=data.cache_in_memory,
            shuffle_buffer=data.shuffle_buffer,
            decoded=decoded,
            device=self.device,
            **(self.loader_state or {"images_seen": self.images_seen}),
        )

    def real_images(self, resolution: int) -> Tensor | None:
        if self.dataset.streaming:
            return None
        number = min(self.recipe.run.num_sample_columns**2, len(self.dataset))
        return next(make_loader(self.dataset, resolution, number, cache_in_memory=False))["images"]

    def generated_images(self, resolution: int) -> Tensor:
        return sample_images(self.ema, resolution, self.recipe.run.num_sample_columns)

    def generator_to_export(self) -> PolyINRGenerator:
        """The running mean of the weights."""
        return self.ema

    def train_step(self, stage: StageConfig, loader: ImageLoader) -> None:
        """One step of each: generator first, then discriminator, on one batch of real images and its labels.

        The discriminator waits while matching and points are alone.
        """
        micro_batches = [next(loader) for _ in range(stage.gradient_accumulation_steps)]
        self._cut_windows(stage, micro_batches)
        loss = self.recipe.loss
        adversarial_kimg = self.images_seen / 1000 - loss.adversarial_start_kimg
        sigma = None  # without a discriminator
        if adversarial_kimg >= 0:
            stage_kimg = (self.images_seen - self.stage_begin) / 1000
            blur_kimg = min(adversarial_kimg, stage_kimg) if loss.blur_restarts else adversarial_kimg
            sigma = blur_sigma_at(blur_kimg, loss.blur_initial_sigma, loss.blur_fade_kimg)
        self._generator_step(stage, micro_batches, sigma)
        if sigma is not None:
            self._discriminator_step(stage, micro_batches, sigma)
        self._track_w(stage, micro_batches)
        self.images_seen += stage.batch_size
        self.step += 1
        run = self.recipe.run
        averaged = self.images_seen - (self.stage_begin if run.stage_start == "fresh" else 0)
        decay = ema_decay(stage.batch_size, averaged, run.ema_half_life_kimg, run.ema_ramp_up)
        update_ema(self.ema, self.generator, decay)

    def _cut_windows(self, stage: StageConfig, micro_batches: list[dict]) -> None:
        """Cuts windows out of the real images; leaves `windows` to draw generated ones at, None for whole ones."""
        extents = self._draw_extents(stage)
        for index, batch in enumerate(micro_batches):
            batch["windows"] = self._windows(stage, extents, index, len(micro_batches))
            if extents is not None:
                batch["images"] = cut_windows(batch["images"], batch["windows"], stage.resolution)

    def _generator_step(self, stage: StageConfig, micro_batches: list[dict], sigma: float | None) -> None:
        """One step of the generator; points alone need no images drawn."""
        latents, draws = self._draw(stage, "generator", 2 if self.recipe.loss.joint_batch_norm else 1)
        parts = len(micro_batches)
        alone = sigma is None and self.matching is None and self.classifier is None
        resolution = None if alone else stage.resolution
        self.discriminator.requires_grad_(False)
        matches = []
        for index, batch in enumerate(micro_batches):
            z, labels = self._rows(latents, index, parts).to(self.device), batch["class_labels"]
            points, colours = self._draw_points(stage, z, labels, index, parts)
            with self._synchronised(self.G, index == parts - 1), self.accelerator.autocast():
                images = self.G(z, labels, resolution, stage.pixel_chunk, batch["windows"], points)  # (B, 3, R, R)
                loss = torch.zeros((), device=self.device)
                if points is not None:
                    images, drawn = images  # the colours at points are (B, P, 3)
                    error = (drawn.float() - colours).abs().mean()
                    loss = loss + self.recipe.loss.points_weight * error
                    self.log.add(points_loss=error / parts)
                if sigma is not None:
                    logits = self._judge(self.discriminator, images, batch, sigma, draws, index, parts)[0]
                    loss = loss + generator_loss(logits)
                    self.log.add(fake_sign_generator=mean_sign(logits) / parts)
                if self.matching is not None:
                    distance, matched = self.matching(images, z, labels, batch["windows"])
                    loss = loss + self.recipe.loss.matching_weight * distance
                    self.log.add(matching_loss=distance / parts)
                    matches.append((matched, labels))
                if self.classifier is not None and stage.resolution >= self.recipe.loss.guidance_start_resolution:
                    guidance = classifier_guidance_loss(self.classifier, images, labels)
                    loss = loss + self.recipe.loss.guidance_weight * guidance
                    self.log.add(guidance_loss=guidance / parts)
                self.accelerator.backward(loss / parts)
            self.log.add(generator_loss=loss / parts)
        self.discriminator.requires_grad_(True)
        self._apply(self.G_optimizer, "generator")
        if matches and self.recipe.loss.matching_by == "likeness":
            self._update_bonus(matches)

    def _draw_points(
        self, stage: StageConfig, z: Tensor, labels: Tensor | None, index: int, parts: int
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Points (B, P, 2) of this process's rows of a micro-batch, and the colours (B, P, 3) they should have."""
        if self.points is None:
            return None, None
        source = torch.Generator().manual_seed(POINT_SEED + self.recipe.run.seed * 2_000_003 + self.step)
        uniform = torch.rand(stage.batch_size, self.points.points_per_image, generator=source)
        return self.points.draw(z, labels, self._rows(uniform, index, parts))

    def _update_bonus(self, parts: list[tuple[Tensor, Tensor | None]]) -> None:
        """Updates the matching's dual variables, once per step, over all processes."""
        matches = self.accelerator.gather(torch.cat([matched for matched, _ in parts]))
        labels = None
        if self.dataset.num_classes is not None:
            labels = self.accelerator.gather(torch.cat([labels for _, labels in parts]))
        self.matching.update_bonus(matches, labels)

    def _discriminator_step(self, stage: StageConfig, micro_batches: list[dict], sigma: float) -> None:
        latents, draws = self._draw(stage, "discriminator", 2)
        parts = len(micro_batches)
        for index, batch in enumerate(micro_batches):
            z, labels = self._rows(latents, index, parts).to(self.device), batch["class_labels"]
            with torch.no_grad(), self.accelerator.autocast():
                generator = self.accelerator.unwrap_model(self.G, keep_torch_compile=True)
                fake = generator(z, labels, stage.resolution, stage.pixel_chunk, batch["windows"])  # (B, 3, R, R)
            with self._synchronised(self.D, index == parts - 1), self.accelerator.autocast():
                fake_logits, real_logits = self._judge(self.D, fake, batch, sigma, draws, index, parts)
                loss = hinge_loss_fake(fake_logits) + hinge_loss_real(real_logits)
                self.accelerator.backward(loss / parts)
            self.log.add(
                discriminator_loss=loss / parts,
                real_sign=mean_sign(real_logits) / parts,
                fake_sign=mean_sign(fake_logits) / parts,
            )
        self._apply(self.D_optimizer, "discriminator")
        self.discriminator.update_spectral_norm()

    def _judge(
        self,
        discriminator: nn.Module,
        generated: Tensor,
        batch: dict,
        sigma: float,
        draws: list[Tensor],
        index: int,
        parts: int,
    ) -> list[dict[str, Tensor]]:
        """Logits of generated images (B, 3, R, R), and, where there are draws for them, of the batch's real ones.

        In one pass. Batch norm keeps the two apart, as in the release, or not: apart, it hides from the discriminator
        what all generated images have in common, such as a wrong mean colour.
        """
        real, labels, kinds = batch["images"], batch["class_labels"], len(draws)
        images = [generated.to(real.dtype), real]
        logits = discriminator(
            torch.cat(images[:kinds]),
            None if labels is None else labels.repeat(kinds),
            sigma,
            torch.cat([self._rows(draw, index, parts) for draw in draws]).to(self.device),
            num_batches=1 if self.recipe.loss.joint_batch_norm else kinds,
        )
        return [{name: values.chunk(kinds)[kind] for name, values in logits.items()} for kind in range(kinds)]

    def _draw(self, stage: StageConfig, phase: str, passes: int) -> tuple[Tensor, list[Tensor]]:
        """Latents (N, z_dim) and, per pass through the discriminator, augmentation draws, for the whole batch."""
        seed = (self.recipe.run.seed * 2_000_003 + self.step) * 2 + (phase == "discriminator")
        source = torch.Generator().manual_seed(seed)
        latents = torch.randn(stage.batch_size, self.recipe.model.z_dim, generator=source)
        draws = [self.discriminator.draw_augmentations(stage.batch_size, source) for _ in range(passes)]
        return latents, draws

    def _synchronised(self, model: nn.Module, is_last: bool) -> AbstractContextManager:
        """Context of a backward: gradients of all processes are averaged in the last one of a step only."""
        return nullcontext() if is_last else self.accelerator.no_sync(model)

    @torch.no_grad()
    def _track_w(self, stage: StageConfig, micro_batches: list[dict]) -> None:
        """Moves the generator's running mean of w, once a step, by the whole batch."""
        whole, parts = self._draw(stage, "discriminator", 0)[0], len(micro_batches)
        latents = [self._rows(whole, index, parts) for index in range(parts)]
        labels = None
        if self.dataset.num_classes is not None:
            labels = torch.cat([batch["class_labels"] for batch in micro_batches])
        w = self.generator.mapping(torch.cat(latents).to(self.device), labels)  # (B of this process, w_dim)
        w = self.accelerator.gather(w)  # (B, w_dim)
        labels = None if labels is None else self.accelerator.gather(labels)
        update_w_mean(self.generator.w_mean, w, labels, self.recipe.run.w_mean_decay)
