"""What an evaluation leaves: a table, a JSON file, the entries of a model card, a picture."""

from __future__ import annotations

import json
import math
from pathlib import Path

from huggingface_hub import EvalResult

from .._lazy import naming_extra
from ..files import replace_file
from .metrics import METRICS


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
