"""Adversarial training: a projected GAN with progressive resolution, under Accelerate."""

import copy

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..data.loader import ImageLoader, make_loader
from ..images import sample_images
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .image_generator import ImageGenerator
from .loop import TrainingLoop
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
from .recipe import StageConfig
from .reporting import grid_columns
from .step import AdversarialStep, blur_sigma_at, ema_decay


class Trainer(TrainingLoop):
    """Trains a generator against a discriminator; see `scripts/train.py`, and [`TrainingLoop`] for the arguments.

    Attributes:
        networks: [`AdversarialStep`], both networks and what a step does with them.
    """

    def build_models(self) -> None:
        recipe, accelerator, dataset = self.recipe, self.accelerator, self.dataset
        num_classes, id2label = dataset.num_classes, dataset.id2label
        generator = build_generator(recipe, num_classes)
        # What can fail comes before the hours that may go into class embeddings.
        source = open_source(recipe, generator, id2label)
        classifier = build_guidance(recipe, num_classes)
        discriminator = build_discriminator(recipe, num_classes, self.device)
        self.matching = None
        if recipe.loss.matching_weight > 0:
            network = discriminator.branches[0].feature_network
            self.matching = build_matching(recipe, len(dataset), num_classes, network)
        self.points = build_points(recipe, dataset)
        embeddings = initial_class_embeddings(recipe, dataset, accelerator, self.output_dir)
        start_weights(generator, embeddings, source, id2label)
        if embeddings is not None:
            discriminator.set_class_embeddings(embeddings)
        self._untrained_discriminator = None
        if recipe.run.stage_start == "fresh":
            self._untrained_discriminator = {name: value.clone() for name, value in discriminator.state_dict().items()}
        for module in (classifier, self.matching):
            if module is not None:
                module.to(self.device)
        ema = copy.deepcopy(generator).requires_grad_(False).to(self.device)
        adam = adam_options(recipe, self.device)
        prepared = accelerator.prepare(
            ImageGenerator(generator, recipe.run.compile),
            discriminator,
            torch.optim.Adam(generator_groups(generator, recipe.run.mapping_lr_multiplier), **adam),
            torch.optim.Adam(discriminator.trainable_parameters(), **adam),
        )
        for module in (ema, self.matching):
            if module is not None:
                accelerator.register_for_checkpointing(module)
        self.networks = AdversarialStep(recipe, accelerator, *prepared, ema, self.matching, self.points, classifier)
        self.generator, self.discriminator, self.ema = self.networks.generator, self.networks.discriminator, ema

    @property
    def exported_generator(self) -> PolyINRGenerator:
        """The running mean of the weights."""
        return self.ema

    def learning_rates(self, stage: StageConfig) -> list[tuple[Optimizer, float]]:
        networks = self.networks
        return [(networks.G_optimizer, stage.lr_generator), (networks.D_optimizer, stage.lr_discriminator)]

    def learned_tensors(self) -> dict[str, list[Tensor]]:
        averaged = [*self.ema.parameters(), *self.ema.buffers()]
        learned = super().learned_tensors()["generator"] + averaged
        return {"generator": learned, "discriminator": list(self.discriminator.trainable_parameters())}

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
        for optimizer in (self.networks.G_optimizer, self.networks.D_optimizer):
            optimizer.state.clear()

    def train_step(self, stage: StageConfig, loader: ImageLoader) -> None:
        """One step of each network on the loader's next images; the discriminator waits at first if it is to."""
        loaded = [next(loader) for _ in range(stage.gradient_accumulation_steps)]
        run, seen = self.recipe.run, self.images_seen + stage.batch_size
        averaged = seen - (self.stage_begin if run.stage_start == "fresh" else 0)
        decay = ema_decay(stage.batch_size, averaged, run.ema_half_life_kimg, run.ema_ramp_up)
        self.networks.take(stage, self.step, loaded, self._blur_sigma(), decay, self.log)
        self.images_seen = seen
        self.step += 1

    def _blur_sigma(self) -> float | None:
        """Of what the discriminator sees now, in pixels; None while matching and points are alone."""
        loss = self.recipe.loss
        kimg = self.images_seen / 1000 - loss.adversarial_start_kimg
        if kimg < 0:
            return None
        if self.recipe.run.stage_start == "fresh":
            kimg = min(kimg, (self.images_seen - self.stage_begin) / 1000)
        return blur_sigma_at(kimg, fade_kimg=loss.blur_fade_kimg)

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
            decoded=decoded,
            device=self.device,
            **(self.loader_state or {"images_seen": self.images_seen}),
        )

    def real_images(self, resolution: int) -> Tensor | None:
        if self.dataset.streaming:
            return None
        number = min(grid_columns(resolution) ** 2, len(self.dataset))
        return next(make_loader(self.dataset, resolution, number, cache_in_memory=False))["images"]

    def generated_images(self, resolution: int) -> Tensor:
        return sample_images(self.ema, resolution, grid_columns(resolution))
