"""The metrics by name: a row of `METRICS` each, computed by torch-fidelity on features of generated and real images.

To add one, write what computes it from two [`FeatureSet`]s and give it a row; networks are in `extractors`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# torch-fidelity is imported by what needs it: a model card shows titles of metrics without it.

logger = logging.getLogger(__name__)

# As published figures are measured, so that ours compare with them.
PRECISION_RECALL_NEIGHBORS = 3  # Kynkaanniemi et al. 2019
INCEPTION_SCORE_SPLITS = 10  # Salimans et al. 2016
KID_SUBSET_SIZE = 1000  # Binkowski et al. 2018
DISTANCE_ROWS = 4096  # of distances at once: 0.8 GB beside 50,000 columns (not tuned)


@dataclass
class FeatureSet:
    """Features of a set of images.

    Args:
        count: Number of images.
        mean: (D,), float64, over all of them.
        covariance: (D, D), float64, unbiased.
        features: (M, D), float32: of all images, or an even choice if they are too many to keep.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray
    features: Tensor

    @classmethod
    def from_features(cls, features: Tensor) -> FeatureSet:
        """From features (N, D) of all images."""
        x = features.double()
        return cls(len(x), x.mean(dim=0).numpy(), x.T.cov().numpy(), features.float())


Device = torch.device | str


def frechet_distance(generated: FeatureSet, real: FeatureSet, device: Device = "cpu") -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017)."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    statistics = [{"mu": s.mean, "sigma": s.covariance} for s in (generated, real)]
    return max(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID], 0.0)  # rounding can go below


def kernel_distance(generated: FeatureSet, real: FeatureSet, device: Device = "cpu") -> tuple[float, float]:
    """Mean and standard deviation over 100 subsets of 1,000 of the unbiased squared MMD (Binkowski et al. 2018)."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    pair = generated.features.double(), real.features.double()
    values = kid_features_to_metric(*pair, kid_subset_size=KID_SUBSET_SIZE, verbose=False)
    return values[KEY_METRIC_KID_MEAN], values[KEY_METRIC_KID_STD]


def inception_score(
    generated: FeatureSet, real: FeatureSet | None = None, device: Device = "cpu"
) -> tuple[float, float]:
    """Mean and standard deviation over 10 splits of exp(E KL(p(y|x) || p(y))) (Salimans et al. 2016)."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    values = isc_features_to_metric(generated.features, splits=INCEPTION_SCORE_SPLITS)
    return values[KEY_METRIC_ISC_MEAN], values[KEY_METRIC_ISC_STD]


def precision_recall(generated: FeatureSet, real: FeatureSet, device: Device = "cpu") -> tuple[float, float]:
    """Share of generated features within a real one's ball, and the reverse (Kynkaanniemi et al. 2019).

    A ball reaches to its center's third neighbor in its own set. Distances are taken on `device`.
    """
    from torch_fidelity.metric_prc import prc_features_to_metric

    values = prc_features_to_metric(
        generated.features.to(device),
        real.features.to(device),
        prc_neighborhood=PRECISION_RECALL_NEIGHBORS,
        prc_batch_size=DISTANCE_ROWS,
        save_cpu_ram=True,
        verbose=False,
    )
    return values["precision"], values["recall"]


@dataclass(frozen=True)
class Metric:
    """A metric.

    Args:
        title: In reports.
        lower_is_better: Whether it is a distance.
        extractor, layer: Whose features it is computed from.
        min_images: Of each set.
        compute: (generated, real, device) -> value or values; `None` for what needs the generator itself.
        suffixes: For each value, what is added to the metric's name; `None` leaves it out.
        needs_reference: Whether real images are looked at.
    """

    title: str
    lower_is_better: bool
    extractor: str
    layer: str
    min_images: int
    compute: Callable[..., float | tuple[float, ...]] | None
    suffixes: tuple[str | None, ...] = ("",)
    needs_reference: bool = True


# For a Frechet distance more images than features, or a covariance is singular. Inception's features are 2,048 of the
# last pool, or the first 7 channels of `mixed_6/conv`, 2,023; VGG16's are 4,096 of the second fully connected layer;
# EfficientNet-lite0's 320 of the last block, pooled.
_STD, _FIRST, _SECOND = ("", "_std"), ("", None), (None, "")
METRICS = {
    "fid": Metric("FID", True, "inception", "2048", 2049, frechet_distance),
    "sfid": Metric("sFID", True, "inception", "spatial", 2024, frechet_distance),
    "rfid": Metric("rFID", True, "inception_random", "2048", 2049, frechet_distance),
    "fd_lite0": Metric("Frechet distance, EfficientNet-lite0", True, "lite0", "pooled", 321, frechet_distance),
    "kid": Metric("KID", True, "inception", "2048", 1000, kernel_distance, _STD),
    "kid_lite0": Metric("KID, EfficientNet-lite0", True, "lite0", "pooled", 1000, kernel_distance, _STD),
    "is": Metric("Inception Score", False, "inception", "logits_unbiased", 100, inception_score, _STD, False),
    "precision": Metric("Precision", False, "vgg16", "fc2_relu", 4, precision_recall, _FIRST),
    "recall": Metric("Recall", False, "vgg16", "fc2_relu", 4, precision_recall, _SECOND),
    "precision_lite0": Metric("Precision, EfficientNet-lite0", False, "lite0", "pooled", 4, precision_recall, _FIRST),
    "recall_lite0": Metric("Recall, EfficientNet-lite0", False, "lite0", "pooled", 4, precision_recall, _SECOND),
    "ppl": Metric("Perceptual path length", True, "lpips", "", 1, None, _STD, False),
}


def check_metric_names(names: Iterable[str]) -> None:
    """Raises ValueError for no name, or an unknown one."""
    if not names:
        raise ValueError(f"`metrics` must be some of {', '.join(METRICS)}, got none.")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"`metrics` must be some of {', '.join(METRICS)}, got {name!r}.")


def layers_of(names: Iterable[str], reference_only: bool = False) -> dict[str, list[str]]:
    """{extractor: [layers]} that these metrics need, in order and without repeats."""
    layers: dict[str, list[str]] = {}
    for metric in map(METRICS.__getitem__, names):
        if metric.compute is not None and (metric.needs_reference or not reference_only):
            wanted = layers.setdefault(metric.extractor, [])
            wanted += [metric.layer] if metric.layer not in wanted else []
    return layers


def check_image_counts(names: Iterable[str], num_samples: int, num_real: int) -> None:
    """Raises ValueError if a metric needs more images than these.

    A Frechet distance to fewer real images than features is a warning: there may be no more of them. Their covariance
    is singular then, and the figure says little beside one of a larger set.
    """
    for name in names:
        metric, why = METRICS[name], ""
        if metric.compute is frechet_distance:
            why = f" (the covariance of {metric.min_images - 1} features is singular with fewer)"
        if num_samples < metric.min_images:
            raise ValueError(f"`num_samples` must be at least {metric.min_images} for {name}{why}, got {num_samples}.")
        if num_real >= metric.min_images or not metric.needs_reference:
            continue
        if not why:
            raise ValueError(f"`dataset` must have at least {metric.min_images} images for {name}, got {num_real}.")
        logger.warning("%s: only %d real images, %d are needed%s", name, num_real, metric.min_images, why)


def compute_metrics(
    names: Iterable[str],
    generated: Mapping[tuple[str, str], FeatureSet],
    real: Mapping[tuple[str, str], FeatureSet],
    device: Device = "cpu",
) -> dict[str, float]:
    """Values of the metrics asked for.

    Args:
        names: Of `METRICS`.
        generated, real: {(extractor, layer): features}; `real` only where a metric needs it.
        device: For what takes long, the distances of precision and recall.

    Returns:
        {"fid": 2.7, ...}; `kid` and `is` come with their standard deviation as `kid_std`, `is_std`.

    Raises:
        ValueError: A value that is not finite.
    """
    done: dict[tuple, float | tuple[float, ...]] = {}
    values: dict[str, float] = {}
    for name in names:
        metric = METRICS[name]
        layer = (metric.extractor, metric.layer)
        key = (metric.compute, *layer)
        if metric.compute is not None and key not in done:  # precision and recall come together
            done[key] = metric.compute(generated[layer], real.get(layer), device)
        found = done.get(key, ())
        found = found if isinstance(found, tuple) else (found,)
        values |= {
            f"{name}{suffix}": v for suffix, v in zip(metric.suffixes, found, strict=False) if suffix is not None
        }
    if broken := [name for name, value in values.items() if not math.isfinite(value)]:
        raise ValueError(f"`metrics` must be finite, got {', '.join(f'{name} {values[name]}' for name in broken)}.")
    return values
