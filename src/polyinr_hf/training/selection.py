"""Metrics while a run trains, and which of its generators was the best: what the paper calls early stopping by FID.

The authors measure FID on 50,000 samples every 40 thousand images and start the next resolution from the best. A GAN's
last weights are seldom its best ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator

from ..data.dataset import ImageDataset
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .config import Recipe
from .reporting import drop_lines_after

logger = logging.getLogger(__name__)

# A metric that is this much worse than the best, so many times in a row, is no longer noise: FID of one model moves by
# about a hundredth with the seed of 50,000 samples.
RISE, RISES_IN_A_ROW = 1.05, 2


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
        from ..evaluation.metrics import check_image_counts, check_metric_names
        from ..evaluation.report import LOWER_IS_BETTER

        self.recipe, self.dataset, self.accelerator, self.output_dir = recipe, dataset, accelerator, output_dir
        self.metric = recipe.run.metrics[0] if recipe.run.metrics else ""
        check_metric_names(recipe.run.metrics)
        check_image_counts(recipe.run.metrics, recipe.run.evaluation_samples, len(dataset))
        self.sign = 1 if self.metric in LOWER_IS_BETTER else -1
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
            self._evaluators = {resolution: Evaluator(real, self.recipe.run.metrics, accelerator=self.accelerator)}
        return self._evaluators[resolution]
