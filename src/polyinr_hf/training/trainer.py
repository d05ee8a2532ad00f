"""A run of adversarial training: a projected GAN with progressive resolution, under Accelerate.

Set-up, stages, and what is logged, saved, measured and exported when; a step itself is [`AdversarialStep`].
"""

import copy
import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.dataset import image_batches
from ..data.loader import ImageLoader, decode_all, make_loader
from ..files import replace_folder
from ..images import sample_images, save_grid
from ..pipeline_poly_inr import PolyINRPipeline
from .exports import BestExport, export_name, save_description
from .image_generator import ImageGenerator
from .launch import (
    Run,
    describe_run,
    load_newest_checkpoint,
    naming_a_full_disk,
    save_checkpoint,
)
from .models import (
    adam_options,
    build_discriminator,
    build_generator,
    build_guidance,
    build_matching,
    build_points,
    generator_groups,
    initial_class_embeddings,
    open_dataset,
    open_source,
    start_weights,
)
from .recipe import Recipe, StageConfig, check_division, save_recipe
from .reporting import TrainingBar, TrainingLog, grid_columns
from .step import AdversarialStep, blur_sigma_at, ema_decay

logger = logging.getLogger(__name__)

STOP_CHECK_STEPS = 10  # of several processes: whether one was told to stop takes an all-reduce and waits for the GPU
FIRST_PICTURES = 64  # that are decoded before networks are built: all of few, a second's work
FIRST_GRID_SECONDS = 120.0  # a grid by then, however far apart the recipe's are: the first thing anyone looks for


class Trainer(Run):
    """Trains a generator against a discriminator; see `scripts/train.py`.

    Everything that can be wrong with a recipe raises ValueError here, before the first step.

    Args:
        recipe: See [`Recipe`].
        output_dir: Gets checkpoints/, exports/, samples/, log.jsonl, recipe.yaml and the trackers' files.
        resume: Go on from the newest whole checkpoint in `output_dir`, from the start if there is none.

    Raises:
        ValueError: for a recipe that does not fit the data, or an `output_dir` that holds a run when `resume` is off.

    Attributes:
        networks: [`AdversarialStep`], both networks and what a step does with them.
        generator, discriminator, ema: Of them; `ema` is the running mean of the generator, which is exported.
    """

    def __init__(self, recipe: Recipe, output_dir: str | Path, resume: bool = False):
        super().__init__(recipe, output_dir, resume)
        recipe = self.recipe
        for index in range(len(recipe.stages)):
            check_division(recipe, index, self.accelerator.num_processes)
        self.dataset = open_dataset(recipe, self.accelerator)
        self.dataset.check_first(FIRST_PICTURES)
        self.claim_folder()
        self.best_export = None
        if recipe.run.evaluate_every_kimg is not None:
            self.best_export = BestExport(recipe, self.dataset, self.accelerator, self.output_dir)
        self._build_models()
        self.images_seen, self.step = 0, 0
        self.stage_begin = 0  # images seen when the stage began
        self.loader_state: dict = {}
        self._compiled_for: tuple | None = None
        if resume:
            self._resume()
        if self.accelerator.is_main_process:
            save_recipe(recipe, self.output_dir / "recipe.yaml")
            self.accelerator.init_trackers("polyinr")
        self.log = TrainingLog(self.accelerator, self.output_dir / "log.jsonl", self.step, self.images_seen)

    def _build_models(self) -> None:
        """Builds networks and optimizers by the recipe, and registers with Accelerate what checkpoints hold."""
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
        self._untrained_discriminator: dict[str, Tensor] = {}
        if recipe.run.stage_start == "fresh":
            self._untrained_discriminator = {name: value.clone() for name, value in discriminator.state_dict().items()}
        for module in (classifier, self.matching):
            if module is not None:
                module.to(self.device)
        ema = copy.deepcopy(generator).requires_grad_(False).to(self.device)
        adam = adam_options(recipe, self.device)
        G, D, G_optimizer, D_optimizer = accelerator.prepare(
            ImageGenerator(generator, recipe.run.compile),
            discriminator,
            torch.optim.Adam(generator_groups(generator, recipe.run.mapping_lr_multiplier), **adam),
            torch.optim.Adam(discriminator.trainable_parameters(), **adam),
        )
        for module in (ema, self.matching):
            if module is not None:
                accelerator.register_for_checkpointing(module)
        self.networks = AdversarialStep(
            recipe, accelerator, G, D, G_optimizer, D_optimizer, ema, self.matching, self.points, classifier
        )
        self.generator, self.discriminator, self.ema = self.networks.generator, self.networks.discriminator, ema

    def _resume(self) -> None:
        progress = load_newest_checkpoint(self.accelerator, self.output_dir / "checkpoints", self._check_classes)
        if progress is None:
            logger.warning("%s has no whole checkpoint: starting from the beginning", self.output_dir)
            return
        self.images_seen, self.step = progress["images_seen"], progress["step"]
        if self.best_export is not None and progress.get("best_export") is not None:
            self.best_export.resume(progress["best_export"], self.step)
        states = progress["loader_states"]
        if len(states) == self.accelerator.num_processes:  # where a stream was left is each process's own
            self.loader_state = states[self.accelerator.process_index]

    def _class_names(self) -> list[str]:
        return list((self.dataset.id2label or {}).values())

    def _check_classes(self, progress: dict) -> None:
        """Raises ValueError unless the classes are those that a checkpoint's embeddings were learned for, in order.

        Earlier versions' checkpoints have no names.
        """
        names, ours = progress.get("class_names"), self._class_names()
        if names is None or names == ours:
            return
        pairs = enumerate(zip(names, ours, strict=False))
        changed = [f"class {index} was {old!r} and is {new!r}" for index, (old, new) in pairs if old != new]
        raise ValueError(
            f"`data.dataset` must have the {len(names)} classes of the checkpoint, in their order, to go on from it, "
            f"got {len(ours)}{''.join(f'; {those}' for those in changed[:3])}. Give the class folders their names "
            "back; or start a new run with run.init_from=AN_EXPORT run.new_classes=true, where classes keep what they "
            "learned by their names."
        )

    # -- the run ------------------------------------------------------------------------------------------------------
    @property
    def total_images(self) -> int:
        return sum(self._stage_images())

    @property
    def position(self) -> str:
        """How far the run is, as text."""
        return f"{self.images_seen / 1000:g} of {self.total_images / 1000:g} kimg"

    def _stage_images(self) -> list[int]:
        """Images of each stage, in whole batches."""
        return [max(1, round(s.kimg * 1000 / s.batch_size)) * s.batch_size for s in self.recipe.stages]

    def _train(self) -> bool:
        bar = TrainingBar(self.total_images, self.images_seen, disable=not self.accelerator.is_main_process)
        with closing(bar):
            self._train_stages(bar)
        return self.images_seen >= self.total_images

    def _train_stages(self, bar: TrainingBar) -> None:
        bar.note(describe_run(self._asked, self.accelerator, self._stage_images()))
        begin = 0
        for stage, images in zip(self.recipe.stages, self._stage_images(), strict=True):
            self.stage_begin, end = begin, begin + images
            if self.images_seen < end:
                if begin and self.images_seen == begin:
                    self.begin_stage()
                if self.recipe.run.compile and stage.shapes != self._compiled_for:
                    bar.note(
                        f"{stage.resolution} px: the first step compiles the networks, which takes a minute or two"
                    )
                self._train_stage(stage, self.enter_stage(stage), end, bar)
                if self.images_seen < end or self._stop_requested:
                    break
            begin = end

    def _train_stage(self, stage: StageConfig, batches: ImageLoader, end: int, bar: TrainingBar) -> None:
        """Steps until `end` images have been seen, or until a signal to stop, and what is due in between."""
        run, first_step, start = self.recipe.run, self.step + 1, time.monotonic()
        no_grid_yet = not any(self.output_dir.glob("samples/kimg-*"))
        while self.images_seen < end:
            before = self.images_seen
            self.train_step(stage, batches)
            self.loader_state = batches.state_dict()
            bar.update(stage.batch_size)
            if logged := self.step % run.log_every_steps == 0:
                line = self.log.write(
                    self.step, self.images_seen, self.total_images, stage.resolution, batches.num_skipped
                )
                bar.show(stage.resolution, line)
            elif self.step < run.log_every_steps:
                bar.show(stage.resolution, self.log.means(self.step))
            if self.step == first_step:
                self.log.restart_clock(self.step, self.images_seen)

            def due(every_kimg: float | None, before: int = before) -> bool:
                if every_kimg is None:
                    return False
                return before // (every_kimg * 1000) != self.images_seen // (every_kimg * 1000)

            finished, stopping = self.images_seen >= self.total_images, self._is_stopping()
            waited = no_grid_yet and time.monotonic() - start > FIRST_GRID_SECONDS
            grid, export = due(run.sample_every_kimg) or finished, due(run.export_every_kimg) or finished
            checkpoint = due(run.checkpoint_every_kimg) or finished or stopping
            measure = self.best_export is not None and (due(run.evaluate_every_kimg) or self.images_seen >= end)
            if logged or grid or export or checkpoint or measure:  # the same in all processes
                self._check_finite(stage)
            if grid or waited:
                self._save_samples(stage.image_size)
                no_grid_yet = False
            if measure:
                self._evaluate(stage)
            if export:
                self._export(stage)
            if checkpoint:
                self._save_checkpoint()
            if stopping:
                if self._interrupted and not export:
                    self._export(stage)
                return

    def _check_finite(self, stage: StageConfig) -> None:
        """Raises FloatingPointError if a network, or its loss in the last step, is not finite."""
        generators = [*self.generator.parameters(), *self.ema.parameters(), *self.ema.buffers()]
        learned = {"generator": generators, "discriminator": list(self.discriminator.trainable_parameters())}
        flags = {name: not _all_finite(tensors) for name, tensors in learned.items()}
        for name, value in self.log.latest.items():
            if name.endswith("_loss") and not torch.isfinite(value):
                flags["discriminator" if name.startswith("discriminator") else "generator"] = True
        of_all: Any = self.accelerator.reduce(torch.tensor([*flags.values()], dtype=torch.float32, device=self.device))
        broken = [name for name, number in zip(flags, of_all.tolist(), strict=True) if number]
        if not broken:
            return
        index = self.recipe.stages.index(stage)
        rates = {f"stages.{index}.lr_{name}": getattr(stage, f"lr_{name}") for name in broken}
        lower = " ".join(f"{key}={rate / 4:g}" for key, rate in rates.items())
        checkpoints = sorted(self.output_dir.glob("checkpoints/step-*"))
        way_out = f"start again with {lower}, there is no checkpoint yet"
        if checkpoints:
            way_out = f"go on from the last good checkpoint, {checkpoints[-1]}, with --resume {lower}"
        raise FloatingPointError(
            f"step {self.step}: {' and '.join(broken)} gave numbers that are not finite at a learning rate of "
            f"{', '.join(f'{rate:g}' for rate in rates.values())}. Nothing of them was written: {way_out}."
        )

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

    def _is_stopping(self) -> bool:
        """Whether any process was told to stop; the same in all of them."""
        if self.accelerator.num_processes > 1:
            if self.step % STOP_CHECK_STEPS and self.step % self.recipe.run.log_every_steps:
                return False
            self._stop_requested = self.accelerator.check_trigger()
        return self._stop_requested

    # -- a stage ------------------------------------------------------------------------------------------------------
    def begin_stage(self) -> None:
        """By `run.stage_start`: goes on with everything, or takes over the best averaged generator and nothing else."""
        if self.recipe.run.stage_start == "carry":
            return
        if self.best_export is None or self.best_export.best is None:
            weights = {name: value.clone() for name, value in self.ema.state_dict().items()}
        else:
            best = self.best_export.folder(self.best_export.best["resolution"])
            weights = PolyINRPipeline.from_pretrained(best).generator.state_dict()
        self.generator.load_state_dict(weights)
        self.ema.load_state_dict(weights)
        self.discriminator.load_state_dict(self._untrained_discriminator)
        for optimizer in (self.networks.G_optimizer, self.networks.D_optimizer):
            optimizer.state.clear()

    def enter_stage(self, stage: StageConfig) -> ImageLoader:
        """The stage's batches; sets its learning rates, shows its images to what matches them, saves a grid of them."""
        if self.recipe.run.compile and stage.shapes != self._compiled_for:
            # Each stage's kernels are for its shapes alone: left in the cache, those before would push new ones out of
            # its eight places, and from the second shape on it would compile slower ones for any shape.
            torch.compiler.reset()
            self._compiled_for = stage.shapes
        networks = self.networks
        rates = (networks.G_optimizer, stage.lr_generator), (networks.D_optimizer, stage.lr_discriminator)
        for optimizer, lr in rates:
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_multiplier", 1)
        if self.accelerator.is_main_process:
            self._save_grid(self._real_images(stage.image_size), f"reals-{stage.image_size}")
        options: dict[str, Any] = {"num_workers": self.recipe.data.num_workers}
        in_memory = self.points or (self.matching and stage.image_resolution)
        decoded = decode_all(self.dataset, stage.image_size, **options) if in_memory else None
        if self.points is not None and decoded is not None:
            self.points.keep_images(*decoded[:2])
        with self.accelerator.autocast():
            if self.matching is not None and stage.image_resolution is not None and decoded is not None:
                self.matching.keep_images(*decoded[:2], stage.resolution)
            elif self.matching is not None:
                self.matching.cache_features(image_batches(self.dataset, stage.resolution, 64, **options))
        return self.make_batches(stage, decoded)

    def make_batches(self, stage: StageConfig, decoded: tuple | None = None) -> ImageLoader:
        """The stage's endless batches, from `images_seen` on, of what [`decode_all`] gave if that has been done."""
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

    # -- what it leaves behind ----------------------------------------------------------------------------------------
    def _real_images(self, resolution: int) -> Tensor | None:
        """Real images of a grid, (B, 3, R, R) in [-1, 1]; None if there are none to show."""
        if self.dataset.streaming:
            return None
        number = min(grid_columns(resolution) ** 2, len(self.dataset))
        return next(make_loader(self.dataset, resolution, number, cache_in_memory=False))["images"]

    def _save_samples(self, resolution: int) -> None:
        if self.accelerator.is_main_process:
            images = sample_images(self.ema, resolution, grid_columns(resolution))
            self._save_grid(images, f"kimg-{self.images_seen / 1000:09.3f}")

    def _save_grid(self, images: Tensor | None, name: str) -> None:
        if images is not None:
            save_grid(images, grid_columns(images.shape[-1]), self.output_dir / "samples" / f"{name}.png")

    def _evaluate(self, stage: StageConfig) -> None:
        def write(folder: Path) -> None:
            self._write_export(folder, stage)

        assert self.best_export is not None
        self.best_export.measure(self.ema, stage.image_size, self.step, self.images_seen, write)

    def _export(self, stage: StageConfig) -> None:
        """Writes what was made in `stage` to exports/, and has it pushed if the recipe says so."""
        if not self.accelerator.is_main_process:
            return
        name = export_name(self.output_dir / "exports", self.images_seen)
        self._write_export(self.output_dir / "exports" / name, stage)
        if self.pusher is not None:
            self.pusher.submit(name)

    def _write_export(self, path: Path, stage: StageConfig) -> None:
        """The averaged generator, made in `stage`, as a pipeline folder with the recipe inside."""
        pipeline = PolyINRPipeline(self.ema, self.dataset.id2label)
        with naming_a_full_disk(path), replace_folder(path) as folder:
            pipeline.save_pretrained(folder)
            save_recipe(self.recipe, folder / "recipe.yaml")
            kimg, grids = self.images_seen / 1000, self.output_dir / "samples"
            save_description(folder, self.recipe, stage, self.dataset, kimg, grids)

    def _save_checkpoint(self) -> None:
        states = self.accelerator.gather_for_metrics([self.loader_state], use_gather_object=True)
        progress = {"step": self.step, "images_seen": self.images_seen, "loader_states": states}
        progress["class_names"] = self._class_names()
        if self.best_export is not None:
            progress["best_export"] = self.best_export.state
        save_checkpoint(self.accelerator, self.output_dir / "checkpoints", progress)


def _all_finite(tensors: list[Tensor]) -> bool:
    with torch.no_grad():
        return bool(torch.stack(torch._foreach_norm(tensors, float("inf"))).isfinite().all())
