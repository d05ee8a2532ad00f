"""Copies and variety: a sample's nearest training images, and how far apart the images of a class are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .sources import Source

BATCH_SIZE = 1024  # rows of distances at once (not tuned)


def nearest_neighbors(features: Tensor, train_features: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """The k training images whose features are nearest to each sample's, by Euclidean distance.

    Args:
        features: Of the samples, (N, D), such as [`image_features`] gives.
        train_features: Of the training images, (M, D).
        k: 1..M.

    Returns:
        Distances (N, k), nearest first, and training images' indices (N, k).

    Raises:
        ValueError: Features of different widths, or k out of range.
    """
    _check_features(features=features, train_features=train_features)
    if not 1 <= k <= len(train_features):
        raise ValueError(f"`k` must be in 1..{len(train_features)}, got {k}.")
    exact = "donot_use_mm_for_euclid_dist"  # the faster way gives copies a distance above 0
    parts = [
        torch.cdist(part, train_features, compute_mode=exact).topk(k, largest=False)
        for part in features.split(BATCH_SIZE)
    ]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def nearest_pictures(features: Tensor, train_features: Tensor) -> tuple[Tensor, Tensor, float]:
    """How far samples are from what they were taught, and how much of it they reach.

    Args:
        features: Of the samples, (N, D), such as [`image_features`] gives.
        train_features: Of the pictures that the model was trained on, (M, D).

    Returns:
        Each sample's distance to its nearest picture, (N,), that picture's index, (N,), and the share of the pictures
        that are some sample's nearest.
    """
    distances, indices = nearest_neighbors(features, train_features, k=1)
    return distances[:, 0], indices[:, 0], len(indices.unique()) / len(train_features)


def neighbors_figure(images: Tensor, train_source: Source, indices: Tensor, path: str | Path) -> None:
    """Draws, as PNG, each sample in a row with its nearest training images to the right of a white gap.

    Args:
        images: Samples, uint8 (N, 3, H, W).
        train_source: The training images, of the same size.
        indices: (N, k), of `nearest_neighbors`.
        path: The file.

    Raises:
        ValueError: Indices that are not one row for each sample.
    """
    if len(indices) != len(images):
        raise ValueError(f"`indices` must have a row for each of {len(images)} images, got {len(indices)}.")
    gap = torch.full((3, images.shape[2], images.shape[3] // 8), 255, dtype=torch.uint8)
    rows = []
    for image, row in zip(images, indices.tolist(), strict=True):
        rows.append(torch.cat([image, gap, *(train_source.load(i, i + 1)[0] for i in row)], dim=2))
    picture = torch.cat(rows, dim=1).permute(1, 2, 0).numpy()  # (N * H, W', 3)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(picture)).save(path, format="PNG")


def class_diversity(
    features: Tensor,
    labels: Sequence[int] | np.ndarray | Tensor,
    real_features: Tensor,
    real_labels: Sequence[int] | np.ndarray | Tensor,
    id2label: Mapping[int, str],
) -> list[dict]:
    """How varied the images of each class are: the root mean square distance of two of its images' features.

    Args:
        features, real_features: Of generated and real images, (N, D) and (M, D).
        labels, real_labels: Their class ids, (N,) and (M,).
        id2label: {id: name}.

    Returns:
        For each class {"class", "generated", "real", "diversity", "real_diversity", "ratio"}: its name, numbers of
        images, distances, and their ratio, near 1 for a model as varied as the data, near 0 for one that collapsed.
        Distances are None for fewer than two images.

    Raises:
        ValueError: Features of different widths, or labels that are not one for each image.
    """
    _check_features(features=features, real_features=real_features)
    labels, real_labels = torch.as_tensor(labels), torch.as_tensor(real_labels)
    if len(labels) != len(features) or len(real_labels) != len(real_features):
        raise ValueError(
            "`labels` and `real_labels` must be one for each image, "
            f"got {len(labels)} and {len(real_labels)} for {len(features)} and {len(real_features)}."
        )
    rows = []
    for key, name in id2label.items():
        groups = features[labels == key], real_features[real_labels == key]
        row = {"class": name, "generated": len(groups[0]), "real": len(groups[1])}
        spread, real_spread = (_pairwise_rms(group) for group in groups)
        ratio = spread / real_spread if spread is not None and real_spread else None
        rows.append(row | {"diversity": spread, "real_diversity": real_spread, "ratio": ratio})
    return rows


def _pairwise_rms(features: Tensor) -> float | None:
    """Over pairs of different rows, E|x - y|^2 is twice the trace of the unbiased covariance."""
    if len(features) < 2:
        return None
    return float((2 * features.double().var(dim=0).sum()).sqrt())


def _check_features(**features: Tensor) -> None:
    (name, x), (other, y) = features.items()
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"`{name}` and `{other}` must be (N, D) and (M, D), got {tuple(x.shape)} and {tuple(y.shape)}."
        )


nearest_neighbours, neighbours_figure = nearest_neighbors, neighbors_figure  # as they were called in version 0.1
