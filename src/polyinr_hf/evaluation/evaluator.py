"""Evaluate a pipeline against a dataset: samples, reference, metrics, result."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch_fidelity.generative_model_modulewrapper import GenerativeModelModuleWrapper
from torch_fidelity.metric_ppl import KEY_METRIC_PPL_RAW, calculate_ppl

from ..checks import check_count
from ..pipeline_poly_inr import PolyINRPipeline
from .extractors import Weights, load_extractor, lpips_weights
from .features import Extraction, FeatureSets
from .metrics import check_image_counts, check_metric_names, compute_metrics, layers_of
from .sources import UPSAMPLING_MODES, DatasetSource, PipelineSource, Source, label_frequencies

if TYPE_CHECKING:
    from ..data.dataset import ImageDataset

DTYPES = ("float32", "bfloat16")
FIRST_LOOK = 100  # real images decoded before networks are loaded: a broken one among few is named in a second


def default_cache_dir() -> Path:
    """`$POLYINR_CACHE/evaluation`, by default `~/.cache/polyinr_hf/evaluation`."""
    return Path(os.environ.get("POLYINR_CACHE", "~/.cache/polyinr_hf")).expanduser() / "evaluation"


class Evaluator:
    """The metrics of image sources against one set of real images, whose features are extracted once.

    Args:
        reference: Source of the real images, see [`~polyinr_hf.evaluation.DatasetSource`].
        metrics: Names, see `polyinr_hf.evaluation.metrics`.
        batch_size: Images generated, and seen by an extractor, at once.
        dtype: "float32" or "bfloat16" autocast of the extractors, for reference and samples alike.
        weights: {extractor: file}, see [`~polyinr_hf.evaluation.extractors.load_extractor`].
        cache_dir: Folder for reference statistics and unfinished work; every process must see the same.
        accelerator: By default a new `Accelerator`.
        progress: Whether to show progress bars on stderr.
        num_samples: Images of each source, where that is known: too few are an error at once then.

    Raises:
        ValueError: Unknown metrics, too few images or an argument out of range.
        FileNotFoundError: Weights that cannot be had; the message names the file.
    """

    def __init__(
        self,
        reference: Source,
        metrics: Sequence[str],
        batch_size: int = 32,
        dtype: str = "float32",
        weights: Weights | None = None,
        cache_dir: str | Path | None = None,
        accelerator: Accelerator | None = None,
        progress: bool = True,
        num_samples: int | None = None,
    ):
        check_metric_names(metrics)
        if dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {DTYPES}, got {dtype!r}.")
        check_count("batch_size", batch_size)
        self.reference, self.metrics, self.weights = reference, list(dict.fromkeys(metrics)), weights
        self.batch_size, self.progress, self.checked = batch_size, progress, num_samples
        if num_samples is not None:
            check_image_counts(self.metrics, num_samples, len(reference))
        self.layers = layers_of(self.metrics)
        self.accelerator = accelerator or Accelerator()
        extractors = {name: load_extractor(name, layers, weights) for name, layers in self.layers.items()}
        cache_dir = cache_dir or default_cache_dir()
        self.extraction = Extraction(extractors, self.accelerator, cache_dir, batch_size, dtype, progress)
        self._real: FeatureSets | None = None

    def __call__(self, source: Source, what: str = "samples") -> dict[str, float]:
        """{metric: value} of a source of images, the same in all processes.

        Raises:
            ValueError: Too few images, NaN pixels, or a value that is not finite.
        """
        if len(source) != self.checked:
            check_image_counts(self.metrics, len(source), len(self.reference))
            self.checked = len(source)
        values, is_main = {}, self.accelerator.is_main_process
        if self.layers:
            if self._real is None:
                self._real = self.extraction.reference(self.reference, layers_of(self.metrics, reference_only=True))
            generated = self.extraction.features(source, self.layers, what)
            with self.extraction.timed("metrics"):
                if is_main:
                    values = compute_metrics(self.metrics, generated, self._real, self.accelerator.device)
        if "ppl" in self.metrics and is_main:
            with self.extraction.timed("ppl"):
                values |= perceptual_path_length(source, self.weights, self.batch_size, self.progress)
        return broadcast_object_list([values])[0]

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time of this process went so far."""
        return {what: round(value, 2) for what, value in self.extraction.seconds.items()}


def image_features(source: Source, what: str = "images", **options) -> Tensor | None:
    """Features of a source's images, (N, 320) of EfficientNet-lite0, by which [`nearest_pictures`] compares them.

    Args:
        source: The images, such as [`~polyinr_hf.evaluation.TensorSource`].
        what: Stands beside the progress bar.
        options: `batch_size`, `dtype`, `cache_dir`, `accelerator`, `progress` and `weights`, as of [`Evaluator`].

    Returns:
        The features, on the CPU; None in other processes than the main one, all of which share the work.
    """
    accelerator = options.pop("accelerator", None) or Accelerator()
    extractors = {"lite0": load_extractor("lite0", ["pooled"], options.pop("weights", None))}
    extraction = Extraction(extractors, accelerator, options.pop("cache_dir", None) or default_cache_dir(), **options)
    found = extraction.features(source, {"lite0": ["pooled"]}, what)
    return found["lite0", "pooled"].features if found else None


# --- a pipeline against a dataset -------------------------------------------------------------------------------------


def evaluate(
    pipeline: PolyINRPipeline,
    dataset: ImageDataset,
    metrics: Sequence[str] = ("fid",),
    num_samples: int = 50_000,
    resolution: int | None = None,
    truncation_psi: float = 1.0,
    seed: int = 0,
    upsample_to: int | None = None,
    dtype: str = "float32",
    tolerance: float = 0.0,
    **options,
) -> dict:
    """Metrics of a pipeline's samples against a dataset, all from one pass over the samples.

    Each sample has a seed of its own and a class chosen at random, so the figures do not depend on `batch_size` or the
    number of processes, up to rounding.

    Args:
        pipeline: The pipeline.
        dataset: [`~polyinr_hf.data.ImageDataset`] of real images.
        metrics: Names, see `polyinr_hf.evaluation.metrics`.
        num_samples: Images to generate; the paper's tables use 50,000.
        resolution: Side in pixels of samples and real images; default the pipeline's.
        truncation_psi: 1 for no truncation.
        seed: Of labels and latents.
        upsample_to: Table 3's protocol: side in pixels at which real images are compared with the pipeline's images
            rendered densely, and with its images of `resolution` enlarged by nearest, bilinear and bicubic
            interpolation.
        dtype: "float32" or "bfloat16" autocast, of sampling and extractors.
        tolerance: Above 0, samples are drawn as the pipeline draws them with it: faster, and interpolated where there
            is no detail.
        labels: "frequency": classes as often as the dataset has them, as the release chooses them for its metrics;
            "uniform": all equally often.
        num_workers: Threads that decode real images.
        mirror: Whether the real images' mirror images belong to them, as for a model that was trained with mirror
            flips.
        options: `batch_size`, `weights`, `cache_dir`, `accelerator` and `progress`, as of [`Evaluator`].

    Returns:
        {metric: value, ..., "settings": {...}}; with `upsample_to`, {"<metric>_<dense|nearest|...>": value, ...}.

    Raises:
        ValueError: An argument out of range, classes that do not fit, too few images, NaN pixels.
        FileNotFoundError: Weights that cannot be had; the message names the file.
    """
    resolution = resolution or int(pipeline.generator.config.sample_size)
    if upsample_to is not None and upsample_to <= resolution:
        raise ValueError(f"`upsample_to` must be above `resolution`, {resolution}, got {upsample_to}.")
    sampling = {"num_samples": num_samples, "seed": seed, "dtype": dtype, "truncation_psi": truncation_psi}
    sampling["tolerance"] = tolerance
    variants = {"": {"resolution": resolution}}
    if upsample_to is not None:
        small = {"resolution": resolution, "upsample_to": upsample_to}
        variants = {"_dense": {"resolution": upsample_to}}
        variants |= {f"_{mode}": small | {"upsampling": mode} for mode in UPSAMPLING_MODES}
    values, settings = _measure(pipeline, dataset, metrics, upsample_to or resolution, sampling, variants, **options)
    result = {f"{name}{suffix}": value for suffix in variants for name, value in values[suffix].items()}
    return result | {"settings": sampling | {"resolution": resolution, "upsample_to": upsample_to} | settings}


def truncation_sweep(
    pipeline: PolyINRPipeline,
    dataset: ImageDataset,
    truncation_psis: Sequence[float],
    metrics: Sequence[str] = ("fd_lite0", "precision_lite0", "recall_lite0"),
    num_samples: int = 10_000,
    resolution: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    tolerance: float = 0.0,
    **options,
) -> dict:
    """Metrics at several strengths of truncation, with the same latents: quality against variety.

    Args:
        truncation_psis: Several numbers.
        others: As in `evaluate`.

    Returns:
        {"results": [{"truncation_psi": 0.2, metric: value, ...}, ...], "settings": {...}}.

    Raises:
        ValueError: No `truncation_psis`, and as `evaluate`.
    """
    if not truncation_psis:
        raise ValueError("`truncation_psis` must be one or more numbers, got none.")
    resolution = resolution or int(pipeline.generator.config.sample_size)
    sampling = {"num_samples": num_samples, "seed": seed, "dtype": dtype, "tolerance": tolerance}
    sampling["resolution"] = resolution
    variants = {f" at psi {psi:g}": {"truncation_psi": psi} for psi in truncation_psis}
    values, settings = _measure(pipeline, dataset, metrics, resolution, sampling, variants, **options)
    results = [{"truncation_psi": psi} | value for psi, value in zip(truncation_psis, values.values(), strict=True)]
    return {"results": results, "settings": sampling | settings}


def _measure(
    pipeline: PolyINRPipeline,
    dataset: ImageDataset,
    metrics: Sequence[str],
    reference_resolution: int,
    sampling: dict,
    variants: dict[str, dict],
    labels: str = "frequency",
    num_workers: int = 2,
    mirror: bool = False,
    **options,
) -> tuple[dict[str, dict[str, float]], dict]:
    """({variant: {metric: value}}, settings) of several ways of sampling, against the same real images."""
    start = time.perf_counter()
    frequencies = label_frequencies(pipeline.generator.config.num_classes, dataset, labels)
    sources = {
        name: PipelineSource(pipeline, class_frequencies=frequencies, **sampling | variant)
        for name, variant in variants.items()
    }
    reference = DatasetSource(dataset, reference_resolution, num_workers, mirror)
    if not dataset.skip_corrupt:
        reference.load(0, min(len(reference), FIRST_LOOK))
    counted = {"dtype": sampling["dtype"], "num_samples": sampling["num_samples"]}
    evaluator = Evaluator(reference, metrics, **counted, **options)
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


# --- perceptual path length -------------------------------------------------------------------------------------------


class _Renderer(nn.Module):
    """z (B, z_dim), labels (B,) -> images (B, 3, R, R), float32 in [0, 255]: rounding would hide steps of 1e-4."""

    def __init__(self, source: PipelineSource):
        super().__init__()
        self.generator = source.pipeline.generator
        self.resolution, self.truncation_psi = source.resolution, source.truncation_psi

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        device = self.generator.device
        labels = None if labels is None else labels.to(device)
        w = self.generator.map(z.to(device), labels, self.truncation_psi)  # (B, L, w_dim)
        images = self.generator.render(self.generator.affine(w), self.resolution, self.resolution)
        return (images.float().clamp(-1, 1) + 1) * 127.5


def perceptual_path_length(
    source: Source, weights: Weights | None = None, batch_size: int = 32, progress: bool = False
) -> dict[str, float]:
    """Mean of LPIPS(G(z), G(slerp(z, z', 1e-4))) / 1e-8, without its outer percentiles (Karras et al. 2019).

    As many pairs as `source` has samples, classes chosen evenly; images are resized to 64 x 64 for LPIPS. Always in
    float32: the images differ by little.

    Raises:
        ValueError: `source` is no `PipelineSource`, or upsamples.
        FileNotFoundError: LPIPS' weights cannot be had; the message names the file.
    """
    if not isinstance(source, PipelineSource) or source.upsample_to is not None:
        raise ValueError(
            "`source` must be a pipeline that renders the images itself for ppl, which moves through its z, got "
            f"{'upsampled images' if isinstance(source, PipelineSource) else type(source).__name__}."
        )
    config = source.pipeline.generator.config
    model = GenerativeModelModuleWrapper(_Renderer(source), config.z_dim, "normal", config.num_classes or 0)
    with lpips_weights(weights):
        values = calculate_ppl(
            1,
            input1=model,
            input1_model_z_size=config.z_dim,
            input1_model_z_type="normal",
            input1_model_num_classes=config.num_classes or 0,
            input1_model_num_samples=len(source),
            ppl_sample_similarity_dtype="float32",
            ppl_z_interp_mode="slerp_any",
            ppl_reduction="none",
            # Its own discarding calls numpy in a way that numpy 2.4 no longer knows.
            ppl_discard_percentile_lower=None,
            ppl_discard_percentile_higher=None,
            rng_seed=source.seed,
            batch_size=batch_size,
            cuda=source.pipeline.generator.device.type == "cuda",
            verbose=progress,
        )
    distances = np.asarray(values[KEY_METRIC_PPL_RAW])
    low, high = np.percentile(distances, 1, method="lower"), np.percentile(distances, 99, method="higher")
    inner = distances[(low <= distances) & (distances <= high)]
    return {"ppl": float(inner.mean()), "ppl_std": float(inner.std())}
