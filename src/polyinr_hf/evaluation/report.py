"""What an evaluation leaves: a table, a JSON file, entries of a model card; pictures of copies and of variety."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import EvalResult
from PIL import Image
from torch import Tensor

from .._lazy import naming_extra
from ..files import replace_file
from .metrics import METRICS
from .sources import Source


def _base_name(name: str) -> str | None:
    """The metric that a result's name begins with: "fid_dense" -> "fid"; None for settings or a standard deviation."""
    if name.endswith("_std"):
        return None
    return max((metric for metric in METRICS if f"{name}_".startswith(f"{metric}_")), key=len, default=None)


def format_table(result: dict) -> str:
    """A result of `evaluate` as a Markdown table; an arrow says which way is better."""
    lines = ["| metric | value |", "|---|---|"]
    for name, value in result.items():
        if name == "settings":
            continue
        base = _base_name(name)
        arrow = "" if base is None else " ↓" if METRICS[base].lower_is_better else " ↑"
        lines.append(f"| {name}{arrow} | {value:.4g} |" if abs(value) < 1 else f"| {name}{arrow} | {value:.2f} |")
    return "\n".join(lines)


def eval_results(
    result: dict, dataset_name: str, dataset_type: str | None = None, split: str = "train"
) -> list[EvalResult]:
    """A result of `evaluate` as entries of a model card, for `ModelCardData(eval_results=...)`.

    Args:
        result: {metric: value, ..., "settings": {...}}.
        dataset_name: As people call it, "ImageNet 256 x 256".
        dataset_type: Its Hub id; default `dataset_name`.
        split: Of the real images.
    """
    settings = result.get("settings", {})
    arguments = {name: settings[name] for name in ("num_samples", "resolution", "truncation_psi") if name in settings}
    results = []
    for name, value in result.items():
        if (base := _base_name(name)) is None:
            continue
        variant = name[len(base) + 1 :]
        results.append(
            EvalResult(
                task_type="unconditional-image-generation",
                dataset_type=dataset_type or dataset_name,
                dataset_name=dataset_name,
                dataset_split=split,
                metric_type=name,
                metric_name=METRICS[base].title + (f" ({variant})" if variant else ""),
                metric_value=round(value, 4),
                metric_args=arguments or None,
            )
        )
    return results


def write_json(result: dict, path: str | Path) -> None:
    """Writes beside, then renames. Raises ValueError for a value that JSON does not have (NaN, infinity)."""
    for name, value in result.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`result` must be finite, got {name} {value}.")
    with replace_file(path) as partial:
        partial.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def plot_truncation_sweep(result: dict, path: str | Path) -> None:
    """Draws a result of `truncation_sweep` as PNG: distances on the left axis, the others on the right."""
    with naming_extra("plot_truncation_sweep", "eval"):
        from matplotlib.figure import Figure

    results = sorted(result["results"], key=lambda row: row["truncation_psi"])
    psis = [row["truncation_psi"] for row in results]
    names = [name for name in results[0] if name in METRICS]
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    for i, name in enumerate(names):
        axis, line = (left, "-o") if METRICS[name].lower_is_better else (right, "--s")
        axis.plot(psis, [row[name] for row in results], line, color=f"C{i}", label=METRICS[name].title)
    left.set(xlabel="truncation psi", ylabel="distance (lower is better)")
    right.set(ylabel="score (higher is better)")
    figure.legend(loc="outside upper center", ncols=len(names), fontsize="small")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=150)


# --- pictures: copies and variety -------------------------------------------------------------------------------------

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
