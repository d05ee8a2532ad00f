"""What a run shows while it trains: log lines, trackers, and grids of images."""

import itertools
import json
import resource
import sys
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..files import replace_file


class TrainingLog:
    """Means over the steps between two log lines, and counts, to the trackers and, a JSON object a line, to a file."""

    def __init__(self, accelerator: Accelerator, path: Path, step: int, images_seen: int):
        self.accelerator, self.path = accelerator, path
        self._counts: dict[str, Tensor] = {}
        self._restart(step, images_seen)
        if accelerator.is_main_process and path.exists():
            _drop_lines_after(step, path)

    def _restart(self, step: int, images_seen: int) -> None:
        self._sums: dict[str, Tensor] = {}
        self._step, self._images_seen, self._time = step, images_seen, time.perf_counter()

    def add(self, **values: Tensor) -> None:
        """Adds to the sums of this stretch of steps; nothing waits for the device here."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach().float()

    def count(self, **values: Tensor) -> None:
        """Adds to what is counted since the process started."""
        for name, value in values.items():
            self._counts[name] = self._counts.get(name, 0) + value

    def write(self, step: int, images_seen: int, total_images: int, resolution: int, skipped: int) -> dict[str, float]:
        """Logs the means per step since the last line, with speed, memory and time to go; returns the line."""
        device, names = self.accelerator.device, sorted(self._sums)
        means = torch.stack([self._sums[name].to(device) for name in names]) / (step - self._step)
        means = self.accelerator.reduce(means, "mean").tolist()
        seconds = time.perf_counter() - self._time
        images_per_second = (images_seen - self._images_seen) / seconds
        line = dict(zip(names, means, strict=True)) | {
            **{name: int(value) for name, value in self._counts.items()},
            "kimg": images_seen / 1000,
            "resolution": resolution,
            "images_per_second": images_per_second,
            "step_seconds": seconds / (step - self._step),
            "memory_mb": peak_memory_mb(device),
            "skipped_images": skipped,
            "eta_hours": (total_images - images_seen) / images_per_second / 3600,
        }
        self.accelerator.log(line, step=step)
        if self.accelerator.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, "time": time.time()} | line) + "\n")
        self._restart(step, images_seen)
        return line


def _drop_lines_after(step: int, path: Path) -> None:
    """Removes lines of steps that a resumed run takes again, and what a killed run wrote half."""
    kept = []
    for text in path.read_text().splitlines(keepends=True):
        try:
            kept += [text] if json.loads(text)["step"] <= step and text.endswith("\n") else []
        except ValueError:
            continue
    with replace_file(path) as partial:
        partial.write_text("".join(kept))


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of this process so far, in MB: the device's on CUDA, resident elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on macOS bytes
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def plot_log(log: Path, output: Path) -> None:
    """Draws a run's log.jsonl as PNG: both losses, and the mean signs of the discriminator's logits, over kimg.

    Raises:
        ValueError: for a file without a whole line.
    """
    from matplotlib.figure import Figure

    lines = []
    for text in Path(log).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # a line that is being written
            continue
    if not lines:
        raise ValueError(f"{log} has no line of a run.")
    kimg = [line["kimg"] for line in lines]
    figure = Figure(figsize=(7, 5), layout="constrained")
    losses, signs = figure.subplots(2, sharex=True)
    for axis, names in (
        (losses, ("discriminator_loss", "generator_loss")),
        (signs, ("real_sign", "fake_sign", "fake_sign_generator")),
    ):
        for name in names:
            values = [line.get(name, float("nan")) for line in lines]  # none of the discriminator while it waits
            axis.plot(kimg, values, label=name.replace("_", " "), linewidth=1)
        axis.legend(fontsize="small")
        axis.grid(alpha=0.3)
    losses.set(ylabel="loss")
    signs.set(xlabel="kimg", ylabel="mean sign of logits", ylim=(-1.05, 1.05))
    for before, after in itertools.pairwise(lines):
        if before["resolution"] != after["resolution"]:
            for axis in (losses, signs):
                axis.axvline(before["kimg"], color="grey", linestyle=":")
            losses.annotate(f" {after['resolution']} px", (before["kimg"], losses.get_ylim()[1]), va="top")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, format="png", dpi=150)
