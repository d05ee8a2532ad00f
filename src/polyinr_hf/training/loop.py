"""What a training run is around its steps: models, stages of growing resolution, samples, exports, checkpoints."""

import copy
import logging
import signal
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..data.dataset import ImageDataset, load_image_dataset
from ..data.loader import ImageLoader, decode_all, make_loader
from ..feature_networks import build_classifier
from ..files import replace_folder
from ..images import sample_images, save_grid
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .checkpoints import load_newest_checkpoint, save_checkpoint
from .class_embeddings import compute_class_embeddings
from .config import CLASS_EMBEDDING_NETWORK, Recipe, StageConfig, check_division, save_recipe
from .discriminator import ProjectedDiscriminator
from .exports import describe_export
from .fine_tuning import copy_weights, load_source
from .image_generator import ImageGenerator
from .matching import FeatureMatching
from .pushing import make_pusher
from .reporting import TrainingLog
from .updates import guard_gradients
from .windows import Windows, draw_extents

logger = logging.getLogger(__name__)

WINDOW_SEED = 2**40  # apart from the seeds of latents and augmentations
LOSSES_SHOWN = {"D": "discriminator_loss", "G": "generator_loss", "matching": "matching_loss"}


class TrainingLoop(ABC):
    """A run by a recipe; what a step does is [`Trainer`]'s, or [`Pretrainer`]'s.

    Everything that can be wrong with a recipe raises ValueError here, before the first step.

    Args:
        recipe: See [`Recipe`].
        output_dir: Gets checkpoints/, exports/, samples/, log.jsonl, recipe.yaml and the trackers' files.
        resume: Go on from the newest whole checkpoint in `output_dir`, from the start if there is none.

    Raises:
        ValueError: for a recipe that does not fit the data, or an `output_dir` that holds a run when `resume` is off.
    """

    fits_mapping = False  # the mapping network is learned anew, so `run.init_from` may have one of another depth

    def __init__(self, recipe: Recipe, output_dir: str | Path, resume: bool = False):
        self.recipe, self.output_dir = recipe, Path(output_dir)
        if not resume and any(self.output_dir.glob("checkpoints/step-*")):
            raise ValueError(f"output_dir: {self.output_dir} holds checkpoints of a run; resume it or choose another")
        run = recipe.run
        self.accelerator = Accelerator(
            mixed_precision=run.mixed_precision,
            log_with=run.log_with or None,
            project_config=ProjectConfiguration(project_dir=str(self.output_dir), logging_dir=str(self.output_dir)),
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(days=1)),  # all wait while one embeds classes
            ],
        )
        self.pusher = make_pusher(recipe, self.output_dir, self.accelerator.is_main_process)
        self.accelerator.gradient_accumulation_steps = 1  # the stages have theirs, whatever Accelerate is configured to
        self.dataset = self._load_dataset()
        self.device = self.accelerator.device
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._build_models()
        del self.source  # a whole model, of use while building
        self.images_seen, self.step = 0, 0
        self.loader_state: dict = {}
        if resume:
            self._resume()
        if self.accelerator.is_main_process:
            save_recipe(recipe, self.output_dir / "recipe.yaml")
            self.accelerator.init_trackers("polyinr")
        self.log = TrainingLog(self.accelerator, self.output_dir / "log.jsonl", self.step, self.images_seen)

    # -- set-up -------------------------------------------------------------------------------------------------------
    def _load_dataset(self) -> ImageDataset:
        data, processes = self.recipe.data, self.accelerator.num_processes
        for index in range(len(self.recipe.stages)):
            check_division(self.recipe, index, processes)
        with self.accelerator.main_process_first():
            dataset = load_image_dataset(
                data.dataset,
                data.config,
                data.split,
                image_column=data.image_column,
                label_column=data.label_column,
                class_conditional=data.class_conditional,
                streaming=data.streaming,
                cache_dir=data.cache_dir,
                revision=data.revision,
            )
        largest = max(stage.batch_size for stage in self.recipe.stages)
        if not dataset.streaming and len(dataset) < largest:
            raise ValueError(f"data.dataset: {data.dataset} has {len(dataset)} images, fewer than a batch of {largest}")
        return dataset

    def _build_models(self) -> None:
        recipe, accelerator = self.recipe, self.accelerator
        num_classes = self.dataset.num_classes
        torch.manual_seed(recipe.run.seed)
        generator = PolyINRGenerator(
            **vars(recipe.model),
            num_classes=num_classes,
            sample_size=recipe.stages[-1].image_size,
        )
        source = None
        # What can fail comes before the hours that may go into class embeddings.
        if recipe.run.init_from:
            run = recipe.run
            names = self.dataset.id2label
            source = load_source(
                generator, run.init_from, names, run.new_classes, run.init_from_revision, self.fits_mapping
            )
        self.classifier = self._build_classifier(num_classes)
        discriminator = self._build_discriminator(num_classes)
        self.matching = self._build_matching(discriminator)
        embeddings = self._class_embeddings(num_classes)
        if embeddings is not None:
            generator.mapping.embedding.weight.data.copy_(embeddings)
            discriminator.set_class_embeddings(embeddings)
        if source is not None:
            copy_weights(generator, source, self.dataset.id2label)
        self.source = source
        for branch in discriminator.branches:
            branch.feature_network.backbone.to(memory_format=torch.channels_last)  # about a fifth faster
            if recipe.run.compile and self.device.type == "cuda":  # on a CPU compiled branches are slower
                branch.compile()
        betas, eps = recipe.run.adam_betas, recipe.run.adam_eps
        adam = {"betas": tuple(betas), "eps": eps, "fused": self.device.type in ("cpu", "cuda")}
        self.ema = copy.deepcopy(generator).requires_grad_(False).to(self.device)
        self.G, self.D, self.G_optimizer, self.D_optimizer = accelerator.prepare(
            ImageGenerator(generator, recipe.run.compile),
            discriminator,
            torch.optim.Adam(self._generator_groups(generator), **adam),
            torch.optim.Adam(discriminator.trainable_parameters(), **adam),
        )
        accelerator.register_for_checkpointing(self.ema)
        if self.matching is not None:
            accelerator.register_for_checkpointing(self.matching)
        self.generator = accelerator.unwrap_model(self.G, keep_torch_compile=True).generator
        self.discriminator = accelerator.unwrap_model(self.D, keep_torch_compile=True)

    def _generator_groups(self, generator: PolyINRGenerator) -> list[dict]:
        """The generator's parameters by learning rate: of the mapping network, and of the rest."""
        multiplier = self.recipe.run.mapping_lr_multiplier
        if multiplier == 1:
            return [{"params": list(generator.parameters())}]
        mapping = list(generator.mapping.parameters())
        rest = [p for name, p in generator.named_parameters() if not name.startswith("mapping.")]
        return [{"params": mapping, "lr_multiplier": multiplier}, {"params": rest}]

    def _build_classifier(self, num_classes: int | None) -> nn.Module | None:
        """The classifier that guides the generator, None if the recipe has none."""
        if self.recipe.loss.guidance_weight <= 0:
            return None
        name, settings = self.recipe.loss.guidance_classifier, self.recipe.discriminator
        classifier = build_classifier(name, settings.feature_weights.get(name), settings.pretrained).to(self.device)
        if classifier.num_classes != num_classes:
            raise ValueError(
                f"loss.guidance_classifier: {name} knows {classifier.num_classes} classes, "
                f"the dataset has {num_classes}"
            )
        return classifier

    def _build_matching(self, discriminator: ProjectedDiscriminator) -> FeatureMatching | None:
        """What matches generated images to real ones, in the first network's features; None if the recipe has none."""
        if self.recipe.loss.matching_weight <= 0:
            return None
        network = discriminator.branches[0].feature_network
        by = self.recipe.loss.matching_by
        return FeatureMatching(network, len(self.dataset), self.dataset.num_classes, by).to(self.device)

    def _build_discriminator(self, num_classes: int | None) -> ProjectedDiscriminator:
        settings = dict(vars(self.recipe.discriminator))
        # Files may be given for the guiding classifier and for the network that embeds classes, too.
        weights = settings.pop("feature_weights")
        weights = {name: weights[name] for name in settings["feature_networks"] if name in weights}
        return ProjectedDiscriminator(num_classes, feature_weights=weights, seed=self.recipe.run.seed, **settings)

    def _class_embeddings(self, num_classes: int | None) -> Tensor | None:
        """(classes, class_embed_dim) that generator and discriminator start from; None for an unconditional model."""
        if num_classes is None:
            return None
        if self.recipe.run.class_embeddings == "random":
            return torch.randn(num_classes, self.recipe.model.class_embed_dim)
        data, weights = self.recipe.data, self.recipe.discriminator.feature_weights.get(CLASS_EMBEDDING_NETWORK)
        with self.accelerator.main_process_first():
            return compute_class_embeddings(
                self.dataset,
                self.output_dir / "class_embeddings.safetensors",
                weights,
                num_workers=data.num_workers,
                skip_corrupt=data.skip_corrupt,
                device=self.device,
                quiet=not self.accelerator.is_main_process,
            )

    def _resume(self) -> None:
        progress = load_newest_checkpoint(self.accelerator, self.output_dir / "checkpoints")
        if progress is None:
            logger.warning("%s has no whole checkpoint: starting from the beginning", self.output_dir)
            return
        self.images_seen, self.step = progress["images_seen"], progress["step"]
        states = progress["loader_states"]
        if len(states) == self.accelerator.num_processes:  # where a stream was left is each process's own
            self.loader_state = states[self.accelerator.process_index]

    # -- the loop -----------------------------------------------------------------------------------------------------
    @property
    def total_images(self) -> int:
        return sum(self._stage_images())

    def _stage_images(self) -> list[int]:
        """Images of each stage, in whole batches."""
        return [max(1, round(s.kimg * 1000 / s.batch_size)) * s.batch_size for s in self.recipe.stages]

    def train(self) -> bool:
        """Trains to the end of the last stage, or until a SIGTERM or SIGINT; returns whether the end was reached."""
        previous = {number: signal.signal(number, self._stop_soon) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            finished = self._train()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.accelerator.end_training()
        if self.pusher is not None:
            self.pusher.finish(self.recipe.run.push_wait_seconds)
        return finished

    def _stop_soon(self, number: int, frame: object) -> None:
        logger.warning("signal %d: stopping after this step", number)
        self.accelerator.set_trigger()

    def _train(self) -> bool:
        run = self.recipe.run
        progress = tqdm(
            total=self.total_images / 1000,
            initial=self.images_seen / 1000,
            unit="kimg",
            disable=not self.accelerator.is_main_process,
            bar_format="{l_bar}{bar}| {n:.1f}/{total:.0f} kimg [{elapsed}<{remaining}{postfix}]",
        )
        stage_end = 0
        for stage, images in zip(self.recipe.stages, self._stage_images(), strict=True):
            stage_end += images
            if self.images_seen >= stage_end:
                continue
            loader = self.enter_stage(stage)
            while self.images_seen < stage_end:
                before = self.images_seen
                self.train_step(stage, loader)
                self.loader_state = loader.state_dict()
                progress.update(stage.batch_size / 1000)
                if self.step % run.log_every_steps == 0:
                    self._log(stage, loader, progress)
                finished = self.images_seen >= self.total_images
                stopping = self.accelerator.check_trigger()

                def due(every_kimg: float, before: int = before) -> bool:
                    return before // (every_kimg * 1000) != self.images_seen // (every_kimg * 1000)

                if due(run.sample_every_kimg) or finished:
                    self._save_samples(stage.image_size)
                if due(run.export_every_kimg) or finished:
                    self._export()
                if due(run.checkpoint_every_kimg) or finished or stopping:
                    self._save_checkpoint()
                if stopping:
                    return finished
        return True

    def enter_stage(self, stage: StageConfig) -> ImageLoader:
        """The stage's loader; sets the stage's learning rates and saves a grid of its reals."""
        for optimizer, lr in ((self.G_optimizer, stage.lr_generator), (self.D_optimizer, stage.lr_discriminator)):
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("lr_multiplier", 1)
        data = self.recipe.data
        arguments = {
            "seed": self.recipe.run.seed,
            "process_index": self.accelerator.process_index,
            "num_processes": self.accelerator.num_processes,
            "num_workers": data.num_workers,
            "mirror": data.mirror,
            "skip_corrupt": data.skip_corrupt,
            "cache_in_memory": data.cache_in_memory,
            "shuffle_buffer": data.shuffle_buffer,
            "device": self.device,
        }
        self._save_reals(stage.image_size)
        if self.matching is not None:
            options = {"num_workers": data.num_workers, "skip_corrupt": data.skip_corrupt}
            with self.accelerator.autocast():
                if stage.image_resolution is None:
                    self.matching.see_real_images(self.dataset, stage.resolution, **options)
                else:
                    arguments["decoded"] = decoded = decode_all(self.dataset, stage.image_resolution, **options)
                    self.matching.see_window_images(decoded[0], decoded[1], stage.resolution)
        state = self.loader_state or {"images_seen": self.images_seen}
        micro_batch_size = stage.batch_size // stage.gradient_accumulation_steps
        return make_loader(self.dataset, stage.image_size, micro_batch_size, **arguments, **state)

    def _draw_extents(self, stage: StageConfig) -> Tensor | None:
        """Windows of a step's whole batch, (N, 4), which the seed and the step decide; None where images are whole."""
        if stage.image_resolution is None:
            return None
        source = torch.Generator().manual_seed(WINDOW_SEED + self.recipe.run.seed * 2_000_003 + self.step)
        return draw_extents(stage.batch_size, stage.window_scales, stage.whole_share, source)

    def _windows(self, stage: StageConfig, extents: Tensor | None, index: int, parts: int) -> Windows | None:
        """Windows of this process's rows of micro-batch `index` of `parts`; None of None."""
        return None if extents is None else Windows(self._rows(extents, index, parts), stage.image_resolution)

    def _rows(self, whole: Tensor, index: int, parts: int) -> Tensor:
        """This process's rows of micro-batch `index` of `parts`."""
        micro_batch = whole.chunk(parts)[index]
        return micro_batch.chunk(self.accelerator.num_processes)[self.accelerator.process_index]

    @abstractmethod
    def train_step(self, stage: StageConfig, loader: ImageLoader) -> None:
        """One step: moves weights, `images_seen` and `step`, adds to `log`."""

    def _apply(self, optimizer, name: str) -> None:
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients(optimizer)  # and skips the step if a gradient is not finite
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.log.count(**{f"nonfinite_{name}_steps": guard_gradients(parameters)})
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    # -- what it leaves behind ----------------------------------------------------------------------------------------
    def _log(self, stage: StageConfig, loader: ImageLoader, progress: tqdm) -> None:
        line = self.log.write(self.step, self.images_seen, self.total_images, stage.resolution, loader.num_skipped)
        losses = [f"{name} {line[key]:.2f}" for name, key in LOSSES_SHOWN.items() if key in line]
        progress.set_postfix_str(
            f"{stage.resolution} px, {', '.join(losses)}, {line['images_per_second']:.1f} images/s"
        )

    def _save_reals(self, resolution: int) -> None:
        if not self.accelerator.is_main_process or self.dataset.streaming:
            return
        columns = self.recipe.run.num_sample_columns
        arguments = {"cache_in_memory": False, "skip_corrupt": self.recipe.data.skip_corrupt}
        loader = make_loader(self.dataset, resolution, min(columns**2, len(self.dataset)), **arguments)
        save_grid(next(loader)["images"], columns, self.output_dir / "samples" / f"reals-{resolution}.png")

    def _save_samples(self, resolution: int) -> None:
        if not self.accelerator.is_main_process:
            return
        columns = self.recipe.run.num_sample_columns
        save_grid(
            self._sample(resolution), columns, self.output_dir / "samples" / f"kimg-{self.images_seen / 1000:09.3f}.png"
        )

    def _sample(self, resolution: int) -> Tensor:
        """The images of a grid, (B, 3, R, R) in [-1, 1]."""
        return sample_images(self.ema, resolution, self.recipe.run.num_sample_columns)

    def _export(self) -> None:
        """The running-mean generator as a pipeline folder, with the recipe inside."""
        if not self.accelerator.is_main_process:
            return
        pipeline = PolyINRPipeline(self.ema, self.dataset.id2label)
        name = f"kimg-{self.images_seen // 1000:06d}"
        with replace_folder(self.output_dir / "exports" / name) as folder:
            pipeline.save_pretrained(folder)
            save_recipe(self.recipe, folder / "recipe.yaml")
            describe_export(folder, self.recipe, self.dataset, self.images_seen / 1000, self.output_dir / "samples")
        if self.pusher and (self.recipe.run.push_exports == "every" or self.images_seen >= self.total_images):
            self.pusher.submit(name)

    def _save_checkpoint(self) -> None:
        states = self.accelerator.gather_for_metrics([self.loader_state], use_gather_object=True)
        progress = {"step": self.step, "images_seen": self.images_seen, "loader_states": states}
        folder = self.output_dir / "checkpoints"
        save_checkpoint(self.accelerator, folder, progress, self.recipe.run.keep_checkpoints)
