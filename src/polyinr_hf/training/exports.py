"""The pipelines that a run exports: what they say of it, which is the best, and their way to the Hub."""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from huggingface_hub import get_token
from huggingface_hub.utils import disable_progress_bars

from ..commands import command_line
from ..data.dataset import ImageDataset, load_image_dataset
from ..hub.push import push_folder, redact
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .recipe import Recipe, Source, StageConfig
from .reporting import drop_lines_after

logger = logging.getLogger(__name__)

LICENSE_COLUMNS = ("license", "licence")  # as the Hub spells it; as data folders of earlier versions do
# A metric that is this much worse than the best, so many times in a row, is no longer noise: FID of one model moves by
# about a hundredth with the seed of 50,000 samples.
RISE, RISES_IN_A_ROW = 1.05, 2
FIRST_WAIT, LONGEST_WAIT = 30.0, 900.0  # seconds before a failed push is tried again; doubled each time
LAST_WAIT = 600.0  # seconds at the end of a run, for what has not arrived


# --- what they say ----------------------------------------------------------------------------------------------------


def export_name(exports: Path, images_seen: int) -> str:
    """The name of an export in the folder `exports`: kimg-000012, or, where that is another's, kimg-000012.345."""
    name = f"kimg-{images_seen // 1000:06d}"
    try:
        taken = json.loads((exports / name / "training.json").read_text(encoding="utf-8"))["kimg"] * 1000
    except (OSError, ValueError, KeyError):  # none there, or none that says
        taken = images_seen
    return name if round(taken) == images_seen else f"{name}.{images_seen % 1000:03d}"


def save_description(
    folder: Path, recipe: Recipe, stage: StageConfig, dataset: ImageDataset, kimg: float, samples: Path
) -> None:
    """Adds to an export what its model card needs: training.json, and the newest grid in the folder `samples`.

    Args:
        folder: The export.
        recipe: Of the run.
        stage: That the export was made in.
        dataset: Of the run.
        kimg: Thousands of images seen.
        samples: Folder of the grids.
    """
    description = {"kimg": kimg, "resolution": stage.resolution}
    if stage.image_resolution is not None:
        description["image_resolution"] = stage.image_resolution
    if dataset.empty_classes:
        description["empty_classes"] = dataset.empty_classes
    if not dataset.streaming:
        description["num_images"] = len(dataset)
        data = recipe.data
        name, config, revision = Source.parse(data.dataset)
        try:
            description["licenses"] = count_licenses(
                name, config, data.split, data.image_column, data.cache_dir, revision
            )
        except Exception as error:  # the dataset is opened once more, and its host may be gone: training goes on
            logger.warning("the licenses of %s are not known to %s: %s", data.dataset, folder, redact(str(error)))
    grids = sorted(samples.glob("kimg-*.png"))
    if grids:
        shutil.copyfile(grids[-1], folder / "samples.png")
        description["samples_kimg"] = float(grids[-1].stem.removeprefix("kimg-"))
    (folder / "training.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


@cache
def count_licenses(name_or_path, config=None, split="train", image_column=None, cache_dir=None, revision=None):
    """{license: images}, most first, by the license column; {} without one. Arguments as in `load_image_dataset`."""
    options: dict[str, Any] = {"image_column": image_column, "cache_dir": cache_dir, "revision": revision}
    for column in LICENSE_COLUMNS:
        try:  # as if the license were the class: its column is the one that is kept
            dataset = load_image_dataset(
                name_or_path, config, split, label_column=column, class_conditional=True, **options
            )
        except ValueError:
            continue
        names = (
            value if isinstance(value, str) else (dataset.id2label or {})[value] for value in dataset.dataset[column]
        )
        return dict(Counter(names).most_common())
    return {}


# --- the best of them: what the paper calls early stopping by FID -----------------------------------------------------
#
# The authors measure FID on 50,000 samples every 40 thousand images and start the next resolution from the best. A
# GAN's last weights are seldom its best ones.


class BestExport:
    """Measures generators as a run goes on and keeps the best of each resolution, in `best-RESOLUTION`/ of the run.

    All processes share the work of a measurement. Its samples have seeds of their own, so that training goes on as it
    would have without it; what was the best belongs in checkpoints, so that a resumed run decides as the whole one.

    Args:
        recipe: With `run.metrics`, the first of which decides.
        dataset: The real images.
        accelerator: Of the run.
        output_dir: Of the run; gets `evaluations.jsonl` as well.
        step: That the run starts at; lines of later ones are dropped.

    Raises:
        ValueError: for unknown metrics, or more features than images.
        FileNotFoundError: for weights of a metric's network that cannot be had.
    """

    def __init__(self, recipe: Recipe, dataset: ImageDataset, accelerator: Accelerator, output_dir: Path):
        from ..evaluation.metrics import METRICS, check_metric_names

        self.recipe, self.dataset, self.accelerator, self.output_dir = recipe, dataset, accelerator, output_dir
        self.metric = recipe.run.metrics[0] if recipe.run.metrics else ""
        check_metric_names(recipe.run.metrics)
        self.sign = 1 if METRICS[self.metric].lower_is_better else -1
        self._evaluators: dict = {}
        self._evaluator(recipe.stages[0].image_size)  # weights that are missing are missed at once
        self.state: dict = {"best": None, "rises": 0}

    @property
    def best(self) -> dict | None:
        """`resolution`, `kimg` and metrics of the best generator at the newest resolution; None before the first."""
        return self.state["best"]

    @property
    def log(self) -> Path:
        return self.output_dir / "evaluations.jsonl"

    def resume(self, state: dict, step: int) -> None:
        """Goes on from a checkpoint's `state`; forgets what was measured after its step."""
        self.state = dict(state)
        if self.accelerator.is_main_process and self.log.exists():
            drop_lines_after(step, self.log)

    def folder(self, resolution: int) -> Path:
        return self.output_dir / f"best-{resolution}"

    def measure(
        self, generator: PolyINRGenerator, resolution: int, step: int, images_seen: int, export: Callable[[Path], None]
    ) -> dict[str, float]:
        """Measures `generator` at `resolution`; has `export` write it to a folder if it is the best so far.

        Returns:
            {metric: value}, the same in all processes.
        """
        from ..evaluation.sources import PipelineSource, label_frequencies

        pipeline = PolyINRPipeline(generator, self.dataset.id2label)
        pipeline.set_progress_bar_config(disable=True)
        samples = PipelineSource(
            pipeline,
            self.recipe.run.evaluation_samples,
            label_frequencies(self.dataset.num_classes, self.dataset),
            resolution=resolution,
        )
        kimg = images_seen / 1000
        values = self._evaluator(resolution)(samples, f"{', '.join(self.recipe.run.metrics)} at {kimg:g} kimg")
        found = {"step": step, "kimg": kimg, "resolution": resolution} | values
        is_best = self._judge(found)
        self.accelerator.log({f"evaluation/{name}": value for name, value in values.items()}, step=step)
        if self.accelerator.is_main_process:
            with self.log.open("a") as file:
                file.write(json.dumps(found | {"best": is_best}) + "\n")
            if is_best:
                export(self.folder(resolution))
        self.accelerator.wait_for_everyone()
        return values

    def _judge(self, found: dict) -> bool:
        """Whether what was found is the best of its resolution; warns once it has risen for good."""
        best, value = self.state["best"], found[self.metric]
        if best is None or best["resolution"] != found["resolution"] or self.sign * (best[self.metric] - value) > 0:
            self.state = {"best": found, "rises": 0}
            return True
        worse = value > best[self.metric] * RISE if self.sign == 1 else value < best[self.metric] / RISE
        self.state["rises"] = self.state["rises"] + 1 if worse else 0
        if self.state["rises"] == RISES_IN_A_ROW and self.accelerator.is_main_process:
            logger.warning(
                "%s is %.4g at %g kimg and was %.4g at %g kimg: this run may have seen its best, which is kept in %s",
                *(self.metric, value, found["kimg"], best[self.metric], best["kimg"], self.folder(best["resolution"])),
            )
        return False

    def _evaluator(self, resolution: int):
        """Of the real images at `resolution`; those before are let go."""
        if resolution not in self._evaluators:
            from ..evaluation.evaluator import Evaluator
            from ..evaluation.sources import DatasetSource

            real = DatasetSource(self.dataset, resolution, max(1, self.recipe.data.num_workers))
            options = {"accelerator": self.accelerator, "num_samples": self.recipe.run.evaluation_samples}
            self._evaluators = {resolution: Evaluator(real, self.recipe.run.metrics, **options)}
        return self._evaluators[resolution]


# --- their way to the Hub, while training goes on ---------------------------------------------------------------------


def make_pusher(recipe: Recipe, output_dir: Path, is_main_process: bool = True) -> BackgroundPusher | None:
    """The pusher that a recipe asks for, in the main process.

    Raises:
        ValueError: if nobody is logged in to the Hub.
    """
    run = recipe.run
    if run.push_to_hub is None:
        return None
    if get_token() is None:
        raise ValueError("`run.push_to_hub` needs a Hub token: run `hf auth login` or set HF_TOKEN.")
    return BackgroundPusher(output_dir, run.push_to_hub) if is_main_process else None


class BackgroundPusher:
    """Uploads exports one after the other, in the order they came, in a thread.

    What is to be pushed is a file in `output_dir`/push_queue until it has arrived: a push that fails is tried again
    for as long as the run lasts, and by the next run in that folder. Each export becomes a commit, its name a tag.

    Args:
        output_dir: Of the run, with exports/ in it.
        repo_id: org/name, created if there is none.
    """

    def __init__(self, output_dir: Path, repo_id: str):
        self.exports, self.queue = output_dir / "exports", output_dir / "push_queue"
        self.repo_id = repo_id
        self.queue.mkdir(parents=True, exist_ok=True)
        self._changed = threading.Condition()
        self._finishing = self._stopping = False
        self._thread = threading.Thread(target=self._work, name="push_to_hub", daemon=True)
        self._thread.start()

    def pending(self) -> list[str]:
        """Names of the exports that have not arrived, oldest first."""
        return sorted(path.name for path in self.queue.iterdir())

    def submit(self, name: str) -> None:
        """Queues the export of that name."""
        with self._changed:
            (self.queue / name).touch()
            self._changed.notify_all()

    def finish(self, seconds: float | None = None) -> list[str]:
        """Waits for what is queued, at most so long; returns and logs what is left, and how to push it."""
        deadline = time.monotonic() + (LAST_WAIT if seconds is None else seconds)
        with self._changed:
            self._finishing = True
            self._changed.notify_all()  # a push that waits for its next attempt makes it now
            self._changed.wait_for(lambda: not self.pending(), max(0.0, deadline - time.monotonic()))
            self._stopping = True
            self._changed.notify_all()
        left = self.pending()
        for name in left:
            logger.warning(
                "%s has not reached the Hub; resume the run, or: %s --pipeline %s --repo %s --tag %s",
                name,
                command_line("push"),
                self.exports / name,
                self.repo_id,
                name,
            )
        return left

    def _work(self) -> None:
        wait = FIRST_WAIT
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self.pending())
                if self._stopping:
                    return
                name = self.pending()[0]
            if self._push(name):
                wait = FIRST_WAIT
                continue
            with self._changed:
                finishing = self._finishing
                self._changed.wait_for(
                    lambda before=finishing: self._stopping or self._finishing != before,
                    FIRST_WAIT if finishing else wait,
                )
            wait = min(2 * wait, LONGEST_WAIT)

    def _push(self, name: str) -> bool:
        """Whether the export is off the queue: it has arrived, or is there no more."""
        folder = self.exports / name
        disable_progress_bars()  # the training's own is on the screen
        try:
            if folder.is_dir():
                # No samples are drawn: loading a model changes, for a moment, how other threads build theirs.
                push_folder(folder, self.repo_id, tag=name, draw_samples=False, attempts=1)
                logger.info("%s is on the Hub as %s", name, self.repo_id)
            else:
                logger.warning("%s was deleted before it reached the Hub", name)
        except Exception as error:  # whatever it is, training goes on
            logger.warning("%s has not reached the Hub and will be tried again: %s", name, redact(str(error)))
            return False
        with self._changed:
            (self.queue / name).unlink(missing_ok=True)
            self._changed.notify_all()
        return True
