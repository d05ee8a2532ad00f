"""Evaluate a pipeline against a dataset: samples, reference, metrics, result."""

import os
import time
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..checks import check_count
from .extractors import load_extractor
from .features import Extraction
from .metrics import check_image_counts, check_metric_names, compute_metrics, layers_of
from .path_length import perceptual_path_length
from .sources import UPSAMPLING_MODES, DatasetSource, PipelineSource, label_frequencies

DTYPES = ("float32", "bfloat16")


def check_random_inception(metrics, weights) -> None:
    """Raises ValueError if an rFID went by the wrong name: "rfid" is of published weights, "rfid_own" of ours."""
    given = "inception_random" in (weights or {})
    if "rfid" in metrics and not given:
        raise ValueError(
            "`metrics` has 'rfid', which needs the random Inception that StyleGAN-XL published, as weights "
            "inception_random=FILE; 'rfid_own' draws one of its own, whose figures compare with no published rFID."
        )
    if "rfid_own" in metrics and given:
        raise ValueError("`metrics` must have 'rfid' with weights for inception_random: 'rfid_own' draws its own.")


def default_cache_dir() -> Path:
    """`$POLYINR_CACHE/evaluation`, by default `~/.cache/polyinr_hf/evaluation`."""
    return Path(os.environ.get("POLYINR_CACHE", "~/.cache/polyinr_hf")).expanduser() / "evaluation"


class Evaluator:
    """The metrics of image sources against one set of real images, whose features are extracted once.

    Args:
        reference: source of the real images, see `polyinr_hf.evaluation.sources`.
        metrics: names, see `polyinr_hf.evaluation.metrics`.
        batch_size: images generated, and seen by an extractor, at once.
        dtype: "float32" or "bfloat16" autocast of the extractors, for reference and samples alike.
        weights: {extractor: file}, see `load_extractor`.
        cache_dir: folder for reference statistics and unfinished work; every process must see the same.
        accelerator: by default a new `Accelerator`.
        progress: whether to show progress bars on stderr.

    Raises:
        ValueError: unknown metrics or an argument out of range.
        FileNotFoundError: weights that cannot be had; the message names the file.
    """

    def __init__(
        self,
        reference,
        metrics,
        batch_size: int = 32,
        dtype: str = "float32",
        weights=None,
        cache_dir=None,
        accelerator=None,
        progress: bool = True,
    ):
        check_metric_names(metrics)
        check_random_inception(metrics, weights)
        if dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {DTYPES}, got {dtype!r}.")
        check_count("batch_size", batch_size)
        self.reference, self.metrics, self.weights = reference, list(dict.fromkeys(metrics)), weights
        self.batch_size, self.progress = batch_size, progress
        self.feature_metrics = [name for name in self.metrics if name != "ppl"]
        self.layers = layers_of(self.metrics)
        self.accelerator = accelerator or Accelerator()
        extractors = {name: load_extractor(name, layers, weights) for name, layers in self.layers.items()}
        self.extraction = Extraction(
            extractors, self.accelerator, cache_dir or default_cache_dir(), batch_size, dtype, progress
        )
        self._real = None

    def __call__(self, source, what: str = "samples") -> dict[str, float]:
        """{metric: value} of a source of images.

        Raises:
            ValueError: too few images, NaN pixels, or a value that is not finite.
        """
        check_image_counts(self.metrics, len(source), len(self.reference))
        values, is_main = {}, self.accelerator.is_main_process
        if self.feature_metrics:
            if self._real is None:
                self._real = self.extraction.reference(self.reference, layers_of(self.metrics, reference_only=True))
            generated = self.extraction.features(source, self.layers, what)
            with self.extraction.timed("metrics"):
                values = {}
                if is_main:
                    device = self.accelerator.device
                    values = compute_metrics(self.feature_metrics, generated, self._real, device)
        if "ppl" in self.metrics and is_main:
            with self.extraction.timed("ppl"):
                values |= perceptual_path_length(source, self.weights, self.batch_size, self.progress)
        return broadcast_object_list([values])[0]

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time of this process went so far."""
        return {what: round(value, 2) for what, value in self.extraction.seconds.items()}


def evaluate(
    pipeline,
    dataset,
    metrics=("fid",),
    num_samples: int = 50_000,
    resolution: int | None = None,
    truncation_psi: float = 1.0,
    seed: int = 0,
    upsample_to: int | None = None,
    dtype: str = "float32",
    tolerance: float = 0.0,
    **kwargs,
) -> dict:
    """Metrics of a pipeline's samples against a dataset, all from one pass over the samples.

    Each sample has a seed of its own and a class drawn at random, so the figures do not depend on `batch_size` or the
    number of processes, up to rounding.

    Args:
        pipeline: `PolyINRPipeline`.
        dataset: `polyinr_hf.data.ImageDataset` of real images.
        metrics: names, see `polyinr_hf.evaluation.metrics`.
        num_samples: images to generate; the paper's tables use 50,000.
        resolution: side in pixels of samples and real images; default the pipeline's.
        truncation_psi: 1 for no truncation.
        seed: of labels and latents.
        upsample_to: table 3's protocol: side in pixels at which real images are compared with the pipeline's images
            rendered densely, and with its images of `resolution` enlarged by nearest, bilinear and bicubic
            interpolation.
        dtype: "float32" or "bfloat16" autocast, of sampling and extractors.
        tolerance: above 0, samples are drawn as the pipeline draws them with it: faster, and interpolated where there
            is no detail.
        labels: "frequency": classes as often as the dataset has them, as the release draws them for its metrics;
            "uniform": all equally often.
        num_workers: threads that decode real images.
        **kwargs: of `Evaluator`.

    Returns:
        {metric: value, ..., "settings": {...}}; with `upsample_to`, {"<metric>_<dense|nearest|...>": value, ...}.

    Raises:
        ValueError: an argument out of range, classes that do not fit, too few images, NaN pixels.
        FileNotFoundError: weights that cannot be had; the message names the file.
    """
    resolution = resolution or pipeline.generator.config.sample_size
    if upsample_to is not None and upsample_to <= resolution:
        raise ValueError(f"`upsample_to` must be above `resolution`, {resolution}, got {upsample_to}.")
    sampling = {"num_samples": num_samples, "seed": seed, "dtype": dtype, "truncation_psi": truncation_psi}
    sampling["tolerance"] = tolerance
    if upsample_to is None:
        variants = {"": {"resolution": resolution}}
    else:
        variants = {"_dense": {"resolution": upsample_to}} | {
            f"_{mode}": {"resolution": resolution, "upsample_to": upsample_to, "upsampling": mode}
            for mode in UPSAMPLING_MODES
        }
    variants = {suffix: sampling | options for suffix, options in variants.items()}
    values, settings = _measure(pipeline, dataset, metrics, upsample_to or resolution, variants, **kwargs)
    result = {f"{name}{suffix}": value for suffix in variants for name, value in values[suffix].items()}
    return result | {"settings": sampling | {"resolution": resolution, "upsample_to": upsample_to} | settings}


def truncation_sweep(
    pipeline,
    dataset,
    truncation_psis,
    metrics=("fd_lite0", "precision_lite0", "recall_lite0"),
    num_samples: int = 10_000,
    resolution: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    tolerance: float = 0.0,
    **kwargs,
) -> dict:
    """Metrics at several strengths of truncation, with the same latents: quality against variety.

    Args:
        truncation_psis: several numbers.
        others: as in `evaluate`.

    Returns:
        {"results": [{"truncation_psi": 0.2, metric: value, ...}, ...], "settings": {...}}.

    Raises:
        ValueError: no `truncation_psis`, and as `evaluate`.
    """
    if not truncation_psis:
        raise ValueError("`truncation_psis` is empty: give at least one.")
    resolution = resolution or pipeline.generator.config.sample_size
    sampling = {"num_samples": num_samples, "seed": seed, "dtype": dtype, "tolerance": tolerance}
    sampling["resolution"] = resolution
    variants = {f" at psi {psi:g}": sampling | {"truncation_psi": psi} for psi in truncation_psis}
    values, settings = _measure(pipeline, dataset, metrics, resolution, variants, **kwargs)
    results = [{"truncation_psi": psi} | value for psi, value in zip(truncation_psis, values.values(), strict=True)]
    return {"results": results, "settings": sampling | settings}


def _measure(
    pipeline,
    dataset,
    metrics,
    reference_resolution: int,
    variants: dict[str, dict],
    labels="frequency",
    num_workers=2,
    **kwargs,
):
    """({variant: {metric: value}}, settings) of several ways of sampling, against the same real images."""
    start = time.perf_counter()
    check_random_inception(metrics, kwargs.get("weights"))  # before the counts, which would be the smaller matter
    frequencies = label_frequencies(pipeline.generator.config.num_classes, dataset, labels)
    sources = {name: PipelineSource(pipeline, class_frequencies=frequencies, **v) for name, v in variants.items()}
    reference = DatasetSource(dataset, reference_resolution, num_workers)
    for source in sources.values():
        check_image_counts(metrics, len(source), len(reference))
    dtype = next(iter(sources.values())).dtype
    evaluator = Evaluator(reference, metrics, dtype=dtype, **kwargs)
    pipeline.to(evaluator.accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    values = {name: evaluator(source, f"samples{name.replace('_', ', ')}") for name, source in sources.items()}
    settings = {
        "num_real": len(reference),
        "reference": reference.key,
        "labels": labels,
        "batch_size": evaluator.batch_size,
        "seconds": evaluator.seconds | {"total": round(time.perf_counter() - start, 2)},
    }
    return values, settings
