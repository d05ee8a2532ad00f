"""The metrics by name, each on features; torch-fidelity computes them.

| name | features | compares |
|---|---|---|
| fid | InceptionV3, pooled, 2,048 | Frechet distance |
| sfid | InceptionV3, first 7 channels of `mixed_6/conv`, 2,023 | Frechet distance |
| rfid | InceptionV3 with random weights, those StyleGAN-XL published, pooled, 2,048 | Frechet distance |
| rfid_own | InceptionV3 with random weights of our own, not comparable with published rFID | Frechet distance |
| fd_lite0 | EfficientNet-lite0, last block pooled, 320 | Frechet distance |
| kid, kid_lite0 | as fid, fd_lite0 | squared MMD with a cubic kernel, 100 subsets of 1,000 |
| is | InceptionV3 logits | nothing: the generated images alone, 10 splits |
| precision, recall | VGG16, second fully connected layer, 4,096 | k = 3 nearest neighbours' balls |
| precision_lite0, recall_lite0 | as fd_lite0 | the same |
| ppl | LPIPS | nothing: the generator alone |
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from .report import METRIC_NAMES

logger = logging.getLogger(__name__)

# As published figures are measured, so that ours compare with them.
NEIGHBOURS = 3  # of precision and recall
INCEPTION_SCORE_SPLITS = 10
KID_SUBSET_SIZE = 1000


@dataclass
class FeatureSet:
    """Features of a set of images.

    Args:
        count: number of images.
        mean: (D,), float64, over all of them.
        covariance: (D, D), float64, unbiased.
        features: (M, D), float32: of all images, or an even choice if they are too many to keep.
    """

    count: int
    mean: np.ndarray
    covariance: np.ndarray
    features: Tensor

    @classmethod
    def from_features(cls, features: Tensor) -> "FeatureSet":
        """From features (N, D) of all images."""
        x = features.double()
        return cls(len(x), x.mean(dim=0).numpy(), x.T.cov().numpy(), features.float())


# --- on features ------------------------------------------------------------------------------------------------------


def frechet_distance(generated: FeatureSet, real: FeatureSet) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Heusel et al. 2017)."""
    statistics = [{"mu": s.mean, "sigma": s.covariance} for s in (generated, real)]
    return max(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID], 0.0)  # rounding can go below


def precision_recall(
    generated: FeatureSet, real: FeatureSet, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """Share of generated features within a real one's ball, and the reverse (Kynkaanniemi et al. 2019).

    A ball reaches to its centre's third neighbour in its own set. Distances are taken on `device`, 4,096 rows at once.
    """
    values = prc_features_to_metric(
        generated.features.to(device),
        real.features.to(device),
        prc_neighborhood=NEIGHBOURS,
        prc_batch_size=4096,
        save_cpu_ram=True,
        verbose=False,
    )
    return values["precision"], values["recall"]


def kernel_distance(generated: FeatureSet, real: FeatureSet) -> tuple[float, float]:
    """Mean and standard deviation over 100 subsets of 1,000 of the unbiased squared MMD (Binkowski et al. 2018)."""
    values = kid_features_to_metric(
        generated.features.double(), real.features.double(), kid_subset_size=KID_SUBSET_SIZE, verbose=False
    )
    return values[KEY_METRIC_KID_MEAN], values[KEY_METRIC_KID_STD]


def inception_score(generated: FeatureSet) -> tuple[float, float]:
    """Mean and standard deviation over 10 splits of exp(E KL(p(y|x) || p(y))) (Salimans et al. 2016)."""
    values = isc_features_to_metric(generated.features, splits=INCEPTION_SCORE_SPLITS)
    return values[KEY_METRIC_ISC_MEAN], values[KEY_METRIC_ISC_STD]


# --- by name ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """What a metric is computed from, by what, and what it yields.

    Args:
        extractor, layer: the features.
        compute: (generated, real, device) -> the values of `outputs`, in order.
        outputs: names of the values.
        needs_reference: whether real images are looked at.
        min_images: of each set; None: more than the features' dimension, or a covariance is singular.
    """

    extractor: str
    layer: str
    compute: Callable
    outputs: tuple[str, ...]
    needs_reference: bool = True
    min_images: int | None = None


def _frechet(extractor, layer, name):
    return Metric(extractor, layer, lambda generated, real, _: (frechet_distance(generated, real),), (name,))


def _kid(extractor, layer, name):
    return Metric(
        extractor,
        layer,
        lambda generated, real, _: kernel_distance(generated, real),
        (name, f"{name}_std"),
        min_images=KID_SUBSET_SIZE,
    )


def _neighbours(extractor, layer, suffix=""):
    outputs = (f"precision{suffix}", f"recall{suffix}")
    return Metric(extractor, layer, precision_recall, outputs, min_images=NEIGHBOURS + 1)


_VGG_NEIGHBOURS = _neighbours("vgg16", "fc2_relu")
_LITE0_NEIGHBOURS = _neighbours("lite0", "pooled", "_lite0")
METRICS = {
    "fid": _frechet("inception", "2048", "fid"),
    "sfid": _frechet("inception", "spatial", "sfid"),
    "rfid": _frechet("inception_random", "2048", "rfid"),
    "rfid_own": _frechet("inception_random", "2048", "rfid_own"),
    "fd_lite0": _frechet("lite0", "pooled", "fd_lite0"),
    "kid": _kid("inception", "2048", "kid"),
    "kid_lite0": _kid("lite0", "pooled", "kid_lite0"),
    "is": Metric(
        "inception", "logits_unbiased", lambda generated, *_: inception_score(generated), ("is", "is_std"), False, 100
    ),
    "precision": _VGG_NEIGHBOURS,
    "recall": _VGG_NEIGHBOURS,
    "precision_lite0": _LITE0_NEIGHBOURS,
    "recall_lite0": _LITE0_NEIGHBOURS,
}


def check_metric_names(names) -> None:
    """Raises ValueError for no name or an unknown one."""
    if not names:
        raise ValueError(f"`metrics` is empty: choose from {', '.join(METRIC_NAMES)}.")
    for name in names:
        if name not in METRIC_NAMES:
            raise ValueError(f"`metrics` must be some of {', '.join(METRIC_NAMES)}, got {name!r}.")


def layers_of(names, reference_only=False) -> dict[str, list[str]]:
    """{extractor: [layers]} that these metrics need, in order and without repeats."""
    layers = {}
    for name in names:
        metric = METRICS.get(name)
        if metric is None or (reference_only and not metric.needs_reference):
            continue
        wanted = layers.setdefault(metric.extractor, [])
        if metric.layer not in wanted:
            wanted.append(metric.layer)
    return layers


FEATURE_DIMENSIONS = {
    ("lite0", "pooled"): 320,
    ("inception", "2048"): 2048,
    ("inception", "spatial"): 2023,
    ("inception_random", "2048"): 2048,
}


def check_image_counts(names, num_generated: int, num_real: int) -> None:
    """Raises ValueError if a metric needs more images than these, before anything is computed.

    A Frechet distance to fewer real images than features is a warning: there may be no more of them. Their covariance
    is singular then, and the figure says little beside one of a larger set.
    """
    for name in names:
        if name not in METRICS:
            continue
        metric = METRICS[name]
        needed, why = metric.min_images, ""
        if needed is None:
            dimension = FEATURE_DIMENSIONS[metric.extractor, metric.layer]
            needed, why = dimension + 1, f": with {dimension} features or fewer images the covariance is singular"
        counts = {"generated": num_generated} | ({"real": num_real} if metric.needs_reference else {})
        for kind, count in counts.items():
            if count < needed and kind == "real" and metric.min_images is None:
                logger.warning("%s: only %d real images, %d are needed%s", name, count, needed, why)
            elif count < needed:
                raise ValueError(f"{name}: {count} {kind} images are too few, {needed} are needed{why}")


def compute_metrics(names, generated, real, device="cpu") -> dict[str, float]:
    """Values of the metrics asked for.

    Args:
        names: of `METRICS`.
        generated, real: {(extractor, layer): `FeatureSet`}; `real` only where a metric needs it.
        device: for what takes long, the distances of precision and recall.

    Returns:
        {"fid": 2.7, ...}; `kid` and `is` come with their standard deviation as `kid_std`, `is_std`.

    Raises:
        ValueError: unknown names, too few images, features that do not fit each other, or a value that is not finite.
    """
    check_metric_names(names)
    done, values = {}, {}
    for name in names:
        metric = METRICS[name]
        source = (metric.extractor, metric.layer)
        if metric not in done:
            pair = generated[source], real[source] if metric.needs_reference else None
            _check_pair(name, *pair)
            done[metric] = dict(zip(metric.outputs, metric.compute(*pair, device), strict=True))
        for output, value in done[metric].items():
            if not math.isfinite(value):
                raise ValueError(f"{name}: the value is {value}")
            if output == name or output == f"{name}_std":
                values[output] = value
    return values


def _check_pair(name: str, generated: FeatureSet, real: FeatureSet | None) -> None:
    check_image_counts([name], generated.count, math.inf if real is None else real.count)
    if real is not None and generated.mean.shape != real.mean.shape:
        raise ValueError(f"{name}: generated features have {len(generated.mean)} channels, real ones {len(real.mean)}")
    for features in (generated, real):
        if features is not None and not torch.isfinite(features.features).all():
            raise ValueError(f"{name}: there are NaN or infinite features")
