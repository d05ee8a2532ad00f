"""What a run shows while it trains: log lines, trackers, and grids of images."""

import itertools
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from .._lazy import naming_extra
from ..commands import command_line
from ..files import replace_file

LOSSES_SHOWN = {"D": "discriminator_loss", "G": "generator_loss", "matching": "matching_loss", "points": "points_loss"}


class TrainingLog:
    """Means over the steps between two log lines, and counts, to the trackers and, a JSON object a line, to a file."""

    def __init__(self, accelerator: Accelerator, path: Path, step: int, images_seen: int):
        self.accelerator, self.path = accelerator, path
        self.latest: dict[str, Tensor] = {}  # what was added last, of each name
        self._counts: dict[str, Tensor] = {}
        self._restart(step, images_seen)
        if accelerator.is_main_process and path.exists():
            drop_lines_after(step, path)

    def _restart(self, step: int, images_seen: int) -> None:
        self._sums: dict[str, Tensor] = {}
        self._step = step
        self._start = self._clock = (step, images_seen, time.perf_counter())

    def restart_clock(self, step: int, images_seen: int) -> None:
        """Leaves the time until now out of speeds, for all lines but one of this very step: first steps compile."""
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        self._clock = (step, images_seen, time.perf_counter())

    def add(self, **values: Tensor) -> None:
        """Adds to the sums of this stretch of steps; nothing waits for the device here."""
        for name, value in values.items():
            self.latest[name] = value.detach().float()
            self._sums[name] = self._sums.get(name, 0) + self.latest[name]

    def count(self, **values: Tensor) -> None:
        """Increments counters that are never reset."""
        for name, value in values.items():
            self._counts[name] = self._counts.get(name, 0) + value

    def means(self, step: int) -> dict[str, float]:
        """Means per step since the last line, of this process; waits for the device."""
        return {name: float(value) / (step - self._step) for name, value in self._sums.items()}

    def write(self, step: int, images_seen: int, total_images: int, resolution: int, skipped: int) -> dict[str, float]:
        """Logs the means per step since the last line, with speed, memory and time to go; returns the line."""
        device, names = self.accelerator.device, sorted(self._sums)
        means = torch.stack([self._sums[name].to(device) for name in names]) / (step - self._step)
        reduced: Any = self.accelerator.reduce(means, "mean")
        means = reduced.tolist()
        clock_step, clock_images, clock = self._clock if self._clock[0] < step else self._start
        seconds = time.perf_counter() - clock
        images_per_second = (images_seen - clock_images) / seconds
        line = dict(zip(names, means, strict=True)) | {
            **{name: int(value) for name, value in self._counts.items()},
            "kimg": images_seen / 1000,
            "resolution": resolution,
            "images_per_second": images_per_second,
            "step_seconds": seconds / (step - clock_step),
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


def grid_columns(resolution: int) -> int:
    """Columns of a grid of images of `resolution` pixels, and its rows: 8, and no more than 2,048 pixels hold."""
    return max(1, min(8, 2048 // resolution))


def drop_lines_after(step: int, path: Path) -> None:
    """Removes lines of steps that a resumed run takes again, and what a killed run wrote half."""
    kept = []
    for text in path.read_text().splitlines(keepends=True):
        try:
            kept += [text] if json.loads(text)["step"] <= step and text.endswith("\n") else []
        except ValueError:
            continue
    with replace_file(path) as partial:
        partial.write_text("".join(kept))


class TrainingBar:
    """The images a run has seen, on stderr: counted one by one in short runs, by the thousand in long ones.

    The time to go is that of the steps since the last log line, not of the whole run with its first, slow step.
    """

    SHORT_RUN = 20_000  # images

    def __init__(self, total_images: int, images_seen: int, disable: bool = False):
        self._per_unit = 1 if total_images < self.SHORT_RUN else 1000
        count = "{n:.0f}/{total:.0f} images" if self._per_unit == 1 else "{n:.1f}/{total:.0f} kimg"
        self._bar = tqdm(
            total=total_images / self._per_unit,
            initial=images_seen / self._per_unit,
            disable=disable,
            bar_format="{l_bar}{bar}| " + count + " [{elapsed}{postfix}]",
        )

    def update(self, images: int) -> None:
        self._bar.update(images / self._per_unit)

    def show(self, resolution: int, line: dict[str, float]) -> None:
        """Losses, speed and time to go, as far as a log line has them."""
        parts = [f"{resolution} px"]
        parts += [f"{name} {line[key]:.2f}" for name, key in LOSSES_SHOWN.items() if key in line]
        if "images_per_second" in line:
            parts.append(f"{line['images_per_second']:.1f} images/s")
            hours = line["eta_hours"]
            parts.append(f"{hours:.1f} h to go" if hours >= 1 else f"{60 * hours:.0f} min to go")
        self._bar.set_postfix_str(", ".join(parts))

    def note(self, text: str) -> None:
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar where it is, and nothing of it where no step was taken."""
        if not self._bar.disable:  # without it tqdm has counted nothing
            self._bar.leave = self._bar.n > self._bar.initial
        self._bar.close()


def next_commands(run_folder: Path, dataset: str, command: str, finished: bool, adversarial: bool = True) -> str:
    """What a run leaves, and the commands that go on from there, as text.

    Args:
        run_folder: Of the run.
        dataset: What it was trained on.
        command: That started it, such as "accelerate launch scripts/train.py".
        finished: Whether it reached its end.
        adversarial: Whether it had a discriminator, and so losses to plot.
    """
    exports = sorted(run_folder.glob("exports/kimg-*"))
    best = sorted(run_folder.glob("best-*"), key=lambda path: int(path.name.removeprefix("best-")))
    lines = []
    if not finished:
        lines.append(f"go on:     {command} --output {run_folder} --resume")
    if adversarial:
        lines.append(f"losses:    {command_line('plot')} --run {run_folder} --output losses.png")
    if not exports and not best:
        return "\n".join(lines)
    pipeline = (best or exports)[-1]
    names = _class_names(pipeline)
    several = f" --class {shlex.join(names)} --seeds 0-3" if names else " --seeds 0-15"
    one = f" --class {shlex.join(names[:1])}" if names else ""
    lines += [
        f"draw:      {command_line('generate')} --pipeline {pipeline}{several} --grid --output out",
        f"enlarge:   {command_line('generate')} --pipeline {pipeline}{one} --seeds 0 --height 1024 --width 1024 "
        "--tolerance 0.1 --output out",
        f"zoom:      {command_line('edit')} zoom --pipeline {pipeline}{one} --tolerance 0.1",
        f"mix:       {command_line('edit')} mix --pipeline {pipeline}{one}{one.replace('--', '--target_')}",
        f"play:      POLYINR_MODEL={pipeline} {command_line('space')}",
        f"measure:   {command_line('evaluate')} --pipeline {pipeline} --dataset {dataset} --metrics fd_lite0 "
        "--num_samples 2000",
        f"share:     {command_line('push')} --pipeline {pipeline} --repo YOUR_NAME/poly-inr --dry_run",
    ]
    return "\n".join(lines)


def _class_names(pipeline: Path) -> list[str]:
    """The first four classes that were trained on; none of an unconditional model."""
    id2label = json.loads((pipeline / "model_index.json").read_text(encoding="utf-8")).get("id2label")
    if not id2label:
        return []
    said = pipeline / "training.json"
    empty = json.loads(said.read_text(encoding="utf-8")).get("empty_classes", []) if said.is_file() else []
    return [id2label[key].split(",")[0] for key in sorted(id2label, key=int) if int(key) not in empty][:4]


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory of this process so far, in MB: the device's on CUDA, resident elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource  # which psutil has no peak beside, and Windows has not

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, on macOS bytes
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def plot_log(log: Path, output: Path) -> None:
    """Draws a run's log.jsonl as PNG: both losses, and the mean signs of the discriminator's logits, over kimg.

    Raises:
        ValueError: for a file without a whole line.
    """
    with naming_extra("plot_log", "eval"):
        from matplotlib.figure import Figure

    lines = []
    for text in Path(log).read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # a line that is being written
            continue
    if not lines:
        raise ValueError(f"`log` must have a line of a run, got {log}.")
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
                axis.axvline(before["kimg"], color="gray", linestyle=":")
            losses.annotate(f" {after['resolution']} px", (before["kimg"], losses.get_ylim()[1]), va="top")
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, format="png", dpi=150)
