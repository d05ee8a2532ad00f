"""A run on few pictures: the phases of [`PicturesStep`] within a time, grids as it goes on, and what it leaves."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm.auto import tqdm

from ..data.dataset import ImageDataset
from ..data.loader import CACHE_BYTES, decode_all
from ..editing import draw_frames, interpolate, save_film
from ..files import replace_folder
from ..images import sample_images, save_grid, to_float
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .codes import PicturesStep, Shard, first_codes, phases_of
from .exports import export_name, save_description
from .launch import (
    Run,
    load_newest_checkpoint,
    naming_a_full_disk,
    save_checkpoint,
)
from .matching import FeatureMatching, save_cells
from .models import build_feature_network, build_generator, open_dataset
from .recipe import ModelConfig, Recipe, Source, read_budget, save_recipe
from .reporting import drop_lines_after, peak_memory_mb

logger = logging.getLogger(__name__)

MARKS, MOST_MARKS = 15, 60  # grids and checkpoints of a run: about one a minute, up to an hour
SHOWN = 16  # pictures of a grid
START_STD = 0.5  # of codes without a source: about that of w where a trained mapping network gives it
HURRIED_STEPS = 20  # of the mapping network for an export of a run stopped before it: half a minute on a CPU
END_SHARE, END_SECONDS = 0.1, 75.0  # of the time, at most, kept for the export, the film and the measurement at the end


class PicturesTrainer(Run):
    """Trains on few pictures for the time, or the steps, of `run.codes`; see `scripts/train.py`.

    Learning rates follow the time that has gone by, which checkpoints keep. With steps in place of minutes a run that
    was stopped and resumed is the whole one, bit for bit.

    Args:
        recipe (`Recipe`): with `run.codes`; of its stages, the first's resolution counts.
        output_dir (`str` or `Path`): gets checkpoints/, exports/, samples/, log.jsonl, recipe.yaml and morph.gif.
        resume (`bool`): go on from the newest whole checkpoint in `output_dir`, from the start if there is none.
        clock (`Callable`): seconds, of which differences count.

    Raises:
        ValueError: for a recipe that does not fit the data, or an `output_dir` that holds a run when `resume` is off.
    """

    def __init__(
        self, recipe: Recipe, output_dir: str | Path, resume: bool = False, clock: Callable[[], float] = time.monotonic
    ):
        self._clock, self._began = clock, clock()
        self._minutes, self._steps = read_budget(recipe.run.codes or "")
        super().__init__(recipe, output_dir, resume)
        recipe = self.recipe
        if recipe.run.mixed_precision not in ("no", "bf16"):
            raise ValueError(
                f"`run.mixed_precision` must be no or bf16 with `run.codes`, got {recipe.run.mixed_precision}."
            )
        self.dataset = open_dataset(recipe, self.accelerator)
        self.claim_folder()
        self.pictures, self.labels = self._decode()
        self.learner = self._build(resume)
        self.step, self._mapping_began, self._seconds_before = 0, False, 0.0
        for module in self.learner.modules:
            self.accelerator.register_for_checkpointing(module)
        if resume:
            self._resume()
        if self.accelerator.is_main_process:
            save_recipe(recipe, self.output_dir / "recipe.yaml")
            if (log := self.output_dir / "log.jsonl").exists():
                drop_lines_after(self.step, log)

    # -- set-up -------------------------------------------------------------------------------------------------------
    def _decode(self) -> tuple[Tensor, Tensor | None]:
        """All pictures, uint8 (N, 3, S, S), and their classes: on the device up to 2 GiB, in a file's map beyond."""
        side, number = self.recipe.stages[0].resolution, len(self.dataset)
        workers = self.recipe.data.num_workers
        if number * 3 * side**2 <= CACHE_BYTES:
            images, labels, problems = decode_all(self.dataset, side, workers)
            images = images.to(self.device)
        else:
            path, labels, problems = self.output_dir / "pictures.bin", None, []
            images: Any = None
            for mine in (True, False):  # the main process decodes, then the others open its file
                if self.accelerator.is_main_process == mine:
                    size = number * 3 * side**2
                    images = torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
                    images = images.view(number, 3, side, side)
                if mine and self.accelerator.is_main_process:
                    _, labels, problems = decode_all(self.dataset, side, workers, images)
                self.accelerator.wait_for_everyone()
            labels = broadcast_object_list([labels])[0]
        for problem in problems:
            logger.warning("skipped: %s", problem)
        return images, labels

    def _build(self, resume: bool) -> PicturesStep:
        """What teaches a generator that has the source's affine and synthesis levels, if there is a source."""
        recipe, source = self.recipe, None
        if recipe.run.init_from:
            name, _, revision = Source.parse(recipe.run.init_from)
            source = PolyINRPipeline.from_pretrained(name, revision=revision).generator
            theirs = ModelConfig.of_generator(source.config, name)
            for key in ("channels", "num_levels", "equation"):
                if getattr(recipe.model, key) != getattr(theirs, key):
                    raise ValueError(
                        f"`model.{key}` must be {getattr(theirs, key)!r}, as in `run.init_from` {name}, got "
                        f"{getattr(recipe.model, key)!r}."
                    )
        generator = build_generator(recipe, self.dataset.num_classes)
        if source is not None:
            mine = generator.state_dict()
            drawing = ("affine_levels.", "synthesis_levels.", "to_rgb.")
            kept = (*drawing, "mapping.", "w_mean") if recipe.loss.matching_by == "latent" else drawing
            state = {name: value for name, value in source.state_dict().items() if name.startswith(kept)}
            state = {name: value for name, value in state.items() if value.shape == mine[name].shape}
            generator.load_state_dict(mine | state)
        generator.to(self.device)
        if source is None or resume:  # a checkpoint brings its own
            random = torch.Generator().manual_seed(recipe.run.seed)
            start = START_STD * torch.randn(len(self.pictures), generator.config.w_dim, generator=random)
            start = start.to(self.device)
        else:
            start = first_codes(source.to(self.device), self.pictures, recipe.run.seed)
        accelerator = self.accelerator
        shard = Shard(accelerator.process_index, accelerator.num_processes, lambda own: accelerator.reduce(own, "sum"))
        options = {"compile_synthesis": recipe.run.compile, "autocast": accelerator.autocast, "shard": shard}
        options |= {"features": self._build_features(), "features_weight": recipe.loss.matching_weight}
        options |= {"phases": phases_of(self._minutes), "by_order": recipe.loss.matching_by == "latent"}
        return PicturesStep(generator, self.pictures, self.labels, start, recipe.run.seed, **options)

    def _build_features(self) -> FeatureMatching | None:
        """What compares crops in the last phase; None where the recipe has no weight for it, or it has no weights."""
        if not self.recipe.loss.matching_weight:
            return None
        try:
            network = build_feature_network(self.recipe, self.device)
        except FileNotFoundError as error:
            logger.warning("the last phase learns from points alone, its edges and textures are softer: %s", error)
            return None
        return FeatureMatching(network.to(self.device), len(self.pictures))

    def _resume(self) -> None:
        progress = load_newest_checkpoint(self.accelerator, self.output_dir / "checkpoints")
        if progress is None:
            logger.warning("%s has no whole checkpoint: starting from the beginning", self.output_dir)
            return
        self.step, self._mapping_began = progress["step"], progress["mapping_began"]
        self._seconds_before = progress["seconds"]

    # -- the run ------------------------------------------------------------------------------------------------------
    @property
    def generator(self) -> PolyINRGenerator:
        return self.learner.generator

    @property
    def seconds(self) -> float:
        """Of training so far, those before a stop included."""
        return self._seconds_before + self._clock() - self._began

    @property
    def _total_seconds(self) -> float:
        """For steps; the rest of the time is the end's."""
        total = 60 * (self._minutes or 0)
        return total - min(END_SECONDS, END_SHARE * total)

    def _train(self) -> bool:
        if self.recipe.run.compile and self.accelerator.is_main_process:
            print("the first step compiles the network: ten seconds of an idle processor", file=sys.stderr)
        with tqdm(
            total=100, disable=not self.accelerator.is_main_process, bar_format="{l_bar}{bar}| [{elapsed}{postfix}]"
        ) as bar:
            finished = self._train_phases(bar)
        if finished:
            self._export()
            self._show_end()
        elif self._interrupted and self.accelerator.is_main_process:
            self._lead_to_codes()
            self._export()
        return finished

    def _train_phases(self, bar: tqdm) -> bool:
        loss, mark = torch.zeros(()), None
        while True:
            progress, stopping = self._agree()
            done = min(progress, 1.0)
            if mark is not None and (self._mark(done) != mark or stopping or done >= 1):
                self._report(bar, done, loss)
                self._save_checkpoint()
            if done >= 1 or stopping:
                return done >= 1
            if self.learner.phase_of(done) != "codes" and not self._mapping_began:
                self.learner.begin_mapping()
                self._mapping_began = True
            mark = self._mark(done)
            loss = self.learner.take(self.step, done)
            self.step += 1
            bar.update(100 * done - bar.n)

    def _agree(self) -> tuple[float, bool]:
        """How much of the run is done, 0 to 1, and whether any process was told to stop: the same in all of them."""
        mine = self.step / self._steps if self._steps else self.seconds / self._total_seconds
        if self.accelerator.num_processes == 1:
            return mine, self._stop_requested
        own = [mine if self.accelerator.is_main_process else 0.0, float(self._stop_requested)]
        done, stops = self.accelerator.reduce(torch.tensor(own, dtype=torch.float64, device=self.device), "sum")
        return done.item(), stops.item() > 0

    def _mark(self, done: float) -> int:
        """Number of the grid that is due next."""
        return int(done * min(max(MARKS, self._minutes or 0), MOST_MARKS))

    def _report(self, bar: tqdm, done: float, loss: Tensor) -> None:
        """A grid, a line of the log, and one on stderr."""
        total: Any = self.accelerator.reduce(loss, "sum")
        if not math.isfinite(total.item()):  # before anything of it is written
            raise FloatingPointError(
                f"the loss is {total.item()} at step {self.step}: resume from the last checkpoint, with "
                "run.mixed_precision=no"
            )
        if not self.accelerator.is_main_process:
            return
        psnr = self.learner.psnr(self._mapping_began)
        phase = self.learner.phase_of(done) if self._mapping_began else "codes"
        minutes = self.seconds / 60
        line = {"step": self.step, "minutes": minutes, "phase": phase, "loss": total.item(), "psnr": psnr}
        with (self.output_dir / "log.jsonl").open("a") as file:
            file.write(json.dumps(line | {"memory_mb": peak_memory_mb(self.device)}) + "\n")
        path = self.output_dir / "samples" / f"minute-{minutes:05.1f}.png"
        self._save_grid(path)
        bar.write(f"minute {minutes:.1f}: {phase}, step {self.step:,}, mean PSNR {psnr:.1f} dB, {path}", sys.stderr)

    @torch.no_grad()
    def _save_grid(self, path: Path) -> None:
        """Some of the pictures in rows of eight, below each row what the model makes of them."""
        side = self.recipe.stages[0].resolution
        shown = torch.linspace(0, len(self.pictures) - 1, min(SHOWN, len(self.pictures))).round().long()
        w = self.learner.w_of(shown, self._mapping_began)
        with self.accelerator.autocast():
            A = self.generator.affine(w)  # (K, L, n, 3)
            drawn = torch.cat([self.generator.render(part, side, side) for part in A.split(4)])
        real = to_float(self.pictures[shown.to(self.pictures.device)]).cpu()
        rows = zip(real.split(8), drawn.float().cpu().split(8), strict=True)
        save_grid(torch.cat([images for pair in rows for images in pair]), min(8, len(shown)), path)

    def _save_checkpoint(self) -> None:
        progress = {"step": self.step, "mapping_began": self._mapping_began, "seconds": self.seconds}
        save_checkpoint(self.accelerator, self.output_dir / "checkpoints", progress, keep=2)

    # -- what it leaves behind ----------------------------------------------------------------------------------------
    @property
    def images_seen(self) -> int:
        """Pictures that points were taken of, each as often as that was done."""
        return self.step * self.learner.per_step

    @property
    def position(self) -> str:
        """How far the run is, as text."""
        return f"{self.seconds / 60:.1f} minutes, {self.step:,} steps"

    def _lead_to_codes(self) -> None:
        """Teaches the mapping network in seconds what a run that is stopped early has not come to; on this process."""
        self.learner.shard = Shard()
        if not self._mapping_began:
            self.learner.begin_mapping()
            for update in range(HURRIED_STEPS):
                self.learner.mapping_step(self.step + update, update / HURRIED_STEPS)

    def _export(self) -> None:
        """The pipeline, with a contact sheet."""
        if not self.accelerator.is_main_process:
            return
        pipeline = self._pipeline()
        samples, kimg = self.output_dir / "samples", self.images_seen / 1000
        save_contact_sheet(pipeline, samples / f"kimg-{kimg:09.3f}.png")
        path = self.output_dir / "exports" / export_name(self.output_dir / "exports", self.images_seen)
        with naming_a_full_disk(path), replace_folder(path) as folder:
            pipeline.save_pretrained(folder)
            save_recipe(self.recipe, folder / "recipe.yaml")
            save_cells(self.learner.cells, folder)
            save_description(folder, self.recipe, self.recipe.stages[0], self.dataset, kimg, samples)
        if self.pusher is not None:
            self.pusher.submit(path.name)

    def _show_end(self) -> None:
        """A film, and what the model is in a sentence."""
        pipeline = self._pipeline()
        if self.accelerator.is_main_process:
            shown = torch.linspace(0, len(self.pictures) - 1, min(FILM_STOPS, len(self.pictures))).round().long()
            save_morph_film(pipeline, self.learner.w_of(shown, True), self.output_dir / "morph.gif")
        cache = self.output_dir / ".features"
        sentence = describe_samples(pipeline, self.dataset, self.pictures, self.accelerator, cache)
        if self.accelerator.is_main_process:
            print(sentence, file=sys.stderr)

    def _pipeline(self) -> PolyINRPipeline:
        pipeline = PolyINRPipeline(self.generator.eval().requires_grad_(False), self.dataset.id2label)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


# --- what a run leaves to look at -------------------------------------------------------------------------------------

SHEET_COLUMNS = 8
FILM_STOPS, FRAMES_PER_STOP, FILM_SIDE, FILM_TOLERANCE = 6, 12, 128, 0.1
MAX_MEASURED = 1000  # samples, and pictures, that are compared: a minute of a CPU


def save_contact_sheet(pipeline: PolyINRPipeline, path: Path) -> None:
    """Samples of fixed latents, a row a class where there are any."""
    save_grid(
        sample_images(pipeline.generator, pipeline.generator.config.sample_size, SHEET_COLUMNS), SHEET_COLUMNS, path
    )


def save_morph_film(pipeline: PolyINRPipeline, w: Tensor, path: Path) -> None:
    """A film through the images of w (K, L, w_dim) and back to the first."""
    frames = interpolate(w, FRAMES_PER_STOP * len(w), loop=True)  # (F, L, w_dim)
    with torch.no_grad():
        A = pipeline.generator.affine(frames)  # (F, L, n, 3)
    save_film(draw_frames(pipeline, A, height=FILM_SIDE, width=FILM_SIDE, tolerance=FILM_TOLERANCE), path)


def describe_samples(
    pipeline: PolyINRPipeline, dataset: ImageDataset, pictures: Tensor, accelerator: Accelerator, cache_dir: Path
) -> str:
    """A sentence on what the model is, with how near its samples are to the pictures, measured.

    Args:
        pictures: uint8 (N, 3, S, S), all of the dataset.
        cache_dir: for features that processes share.
    """
    from ..evaluation import PipelineSource, TensorSource, image_features, nearest_pictures
    from ..evaluation.sources import label_frequencies

    side, number = pictures.shape[-1], len(pictures)
    those = torch.linspace(0, number - 1, min(number, MAX_MEASURED)).round().long().to(pictures.device)
    frequencies = label_frequencies(dataset.num_classes, dataset)
    samples = PipelineSource(pipeline, len(those), frequencies, resolution=side)
    options = {"accelerator": accelerator, "cache_dir": cache_dir}
    real = image_features(TensorSource(pictures[those].cpu()), "pictures", **options)
    drawn = image_features(samples, "samples", **options)
    if real is None or drawn is None:  # another process has them all
        return ""
    distances, _, reached = nearest_pictures(drawn, real)
    between = (
        torch.cdist(real, real).fill_diagonal_(float("inf")).amin(dim=1).median() if number > 1 else torch.ones(())
    )
    by_chance = 1 - (1 - 1 / len(those)) ** len(those)
    share = (distances.median() / between).item()
    return (
        f"This model redraws and blends the {number:,} pictures it was shown. Half of {len(those):,} samples are "
        f"within {share:.2f} of the distance between neighboring pictures from the nearest one; {reached:.0%} of the "
        f"pictures are some sample's nearest ({by_chance:.0%} if it drew pictures at random)."
    )
