"""All that is worth knowing of a GPU that is there for a few minutes, the most valuable first.

    python benchmarks/gpu.py --minutes 8 --output gpu

On any CUDA, ROCm or MPS device (or, to try it out, a CPU), part by part: `pixels` compares images with the CPU's for
each dtype; `rendering` times exact and adaptive images, with the share of the products' limit measured here; `training`
times a step of each stage of a recipe at the micro-batch of eight processes, with peak memory beside the plan's;
`compiling` the first of them with and without torch.compile; `chunks` images by how many points are run at once;
`resume` says whether a stopped run ends as an undisturbed one, `loader` how many images a second it gives; `small`
trains the recipe small for two minutes. gpu.json and gpu.md in --output are written after each row, and the time being
up stops a part (not on Windows): a run cut short leaves what it had. Nothing is downloaded: networks are random.
"""

import argparse
import gc
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from measuring import DTYPES, make_parser, run_command
from polyinr_hf import PolyINRGenerator, training
from polyinr_hf.checks import check_number
from polyinr_hf.devices import describe
from polyinr_hf.files import replace_file
from polyinr_hf.images import psnr
from polyinr_hf.training.reporting import peak_memory_mb

ROOT = Path(__file__).resolve().parents[1]
LATEST_START = 0.85  # share of the time after which no part starts
TOLERANCE = 0.1
BATCH, BATCH_SIZE_LIMIT = 8, 1024  # images drawn adaptively together, and their largest size
SMALL_MINUTES = 2.0


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def timed(device: torch.device, run: Callable[..., object], *arguments, repeats: int = 2, **options) -> float:
    """Seconds of the fastest of some calls, the device's work included."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(*arguments, **options)
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def make_model(channels: int, dtype: str, device: torch.device) -> tuple[PolyINRGenerator, torch.Tensor]:
    """An unconditional model, the same on all devices, and affine parameters (B, L, n, 3) of some images."""
    torch.manual_seed(0)
    model = PolyINRGenerator(channels=channels, num_classes=None).eval().requires_grad_(False)
    A = model.affine(model.map(torch.randn(BATCH, model.config.z_dim)))
    return model.to(device, DTYPES[dtype]), A.to(device)


# --- the parts: each yields rows, dictionaries, of one table ----------------------------------------------------------


def measure_pixels(args: argparse.Namespace) -> Iterator[dict]:
    for size in args.sizes[:2]:
        model, A = make_model(args.channels[0], "float32", torch.device("cpu"))
        expected = model.render(A[:1], size, size)
        for dtype in DTYPES:
            model, A = make_model(args.channels[0], dtype, args.device)
            image = model.render(A[:1], size, size).float().cpu()
            error = (image.clamp(-1, 1) - expected.clamp(-1, 1)).abs().max().item() * 127.5
            quality = psnr(image.clamp(-1, 1), expected.clamp(-1, 1))[0]
            yield {"size": size, "dtype": dtype, "psnr": quality, "largest_error_of_255": error}


def product_rate(channels: int, dtype: str, device: torch.device) -> float:
    """Multiplications and additions a second of products with a level's weights."""
    options = {"dtype": DTYPES[dtype], "device": device}
    rows = 512 if device.type == "cpu" else 8192
    x, weight = torch.randn(rows, channels, **options), torch.randn(channels, channels, **options)
    return 2 * rows * channels**2 / timed(device, torch.matmul, x, weight, repeats=5)


def measure_rendering(args: argparse.Namespace) -> Iterator[dict]:
    products = describe(args.device).products
    dtypes = ["float32", *[name for name in ("bfloat16", "float16") if DTYPES[name] in products][:1]]
    for channels, dtype in itertools.product(args.channels, dtypes):
        model, batch = make_model(channels, dtype, args.device)
        rate, A = product_rate(channels, dtype, args.device), batch[:1]
        model.render(A, 32, 32, tolerance=TOLERANCE)
        for size in args.sizes:
            row = {"channels": channels, "dtype": dtype, "size": size}
            exact = timed(args.device, model.render, A, size, size)
            limit = size**2 * 2 * channels**2 * (model.config.num_levels - 1) / rate
            adaptive = timed(args.device, model.render, A, size, size, tolerance=TOLERANCE)
            row |= {"exact_seconds": exact, "share_of_limit": limit / exact, "adaptive_seconds": adaptive}
            together = None  # an image of a batch
            if size <= BATCH_SIZE_LIMIT:
                together = timed(args.device, model.render, batch, size, size, tolerance=TOLERANCE) / BATCH
            yield row | {"adaptive_seconds_of_a_batch": together}
            if 4 * exact > args.seconds_left() / 10:  # the next one takes four times as long
                break


def measure_chunks(args: argparse.Namespace) -> Iterator[dict]:
    """By features of a level in memory at once, a quarter of a CPU's default to eight times a GPU's."""
    channels, size = args.channels[-1], args.sizes[min(1, len(args.sizes) - 1)]
    model, A = make_model(channels, "float32", args.device)
    for features in (2**power for power in range(18, 29, 2)):
        chunk_size = max(1, features // channels)
        forget_peak(args.device)
        seconds = timed(args.device, model.render, A[:1], size, size, chunk_size=chunk_size)
        row = {"channels": channels, "size": size, "chunk_size": chunk_size, "seconds": seconds}
        yield row | {"peak_gib": peak_memory_mb(args.device) / 1024}
        if chunk_size >= size**2:
            break


def forget_peak(device: torch.device) -> None:
    """What was used before counts no longer, where the device's memory is its own."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def write_pictures(folder: Path, number: int = 64, size: int = 256) -> Path:
    """A folder of smooth random pictures, two classes."""
    random = np.random.default_rng(0)
    for index in range(number):
        path = folder / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((size, size)).save(path)
    return folder


def stage_recipe(args: argparse.Namespace, index: int, **run) -> "training.Recipe":
    """The recipe's one stage at the micro-batch that each of eight processes has, on random networks and pictures."""
    recipe = training.load_recipe(args.recipe, [f"data.dataset={args.pictures}", "data.label_column=null"])
    stage = recipe.stages[index]
    batch = max(1, stage.batch_size // stage.gradient_accumulation_steps // 8)
    names = [*recipe.discriminator.feature_networks, recipe.loss.guidance_classifier]
    discriminator = replace(recipe.discriminator, feature_weights=dict.fromkeys(names, "random"))
    if discriminator.batch_norm_group_size is not None and batch % discriminator.batch_norm_group_size:
        discriminator = replace(discriminator, batch_norm="separate")
    options = {"log_with": [], "class_embeddings": "random", "evaluate_every_kimg": None, "compile": False} | run
    return replace(
        recipe,
        data=replace(recipe.data, num_workers=0),
        discriminator=discriminator,
        loss=replace(recipe.loss, guidance_weight=0.0),  # its classifier knows 1,000 classes, these pictures are two
        stages=[replace(stage, batch_size=batch, gradient_accumulation_steps=1, kimg=1.0)],
        run=replace(recipe.run, **options),
    )


def time_steps(recipe: "training.Recipe", device: torch.device) -> dict:
    """Seconds of a step after the first, and of the first; peak memory, beside the plan's."""
    forget_peak(device)
    with tempfile.TemporaryDirectory() as folder:
        trainer, stage = training.Trainer(recipe, folder), recipe.stages[0]
        loader = trainer.enter_stage(stage)
        first = timed(device, trainer.train_step, stage, loader, repeats=1)
        seconds = timed(device, trainer.train_step, stage, loader, repeats=3)
        row = {
            "resolution": stage.resolution,
            "images": stage.batch_size,
            "precision": trainer.recipe.run.mixed_precision,
            "compiled": trainer.recipe.run.compile,
            "first_seconds": first,
            "step_seconds": seconds,
            "peak_gib": peak_memory_mb(device) / 1024,
        }
        return row | {"plan_peak_gib": training.plan_recipe(trainer.recipe, 1, 2)[0].peak_gib}


def measure_training(args: argparse.Namespace) -> Iterator[dict]:
    for index in range(len(training.load_recipe(args.recipe, [f"data.dataset={args.pictures}"]).stages)):
        yield time_steps(stage_recipe(args, index), args.device)


def measure_compiling(args: argparse.Namespace) -> Iterator[dict]:
    for compiled in (False, True):
        yield time_steps(stage_recipe(args, 0, compile=compiled), args.device)


def measure_loader(args: argparse.Namespace) -> Iterator[dict]:
    recipe = stage_recipe(args, 0)
    for workers in (0, min(4, os.cpu_count() or 1)):
        with tempfile.TemporaryDirectory() as folder:
            settings = replace(recipe, data=replace(recipe.data, num_workers=workers))
            trainer, stage = training.Trainer(settings, folder), settings.stages[0]
            loader, batches = trainer.enter_stage(stage), 20
            next(loader)
            start = time.perf_counter()
            for _ in range(batches):
                next(loader)
            rate = batches * stage.batch_size / (time.perf_counter() - start)
        yield {"num_workers": workers, "resolution": stage.resolution, "images_per_second": rate}


def measure_resume(args: argparse.Namespace) -> Iterator[dict]:
    """Four steps, and the last two of them once more from the checkpoint between."""
    recipe = stage_recipe(args, 0, checkpoint_every_kimg=1e-9)
    batch = recipe.stages[0].batch_size
    recipe.stages[0] = replace(recipe.stages[0], kimg=4 * batch / 1000)
    recipe.run.checkpoint_every_kimg = 2 * batch / 1000
    with tempfile.TemporaryDirectory() as folder:
        whole = training.Trainer(recipe, folder)
        whole.train()
        expected = {name: value.clone() for name, value in whole.generator.state_dict().items()}
        del whole
        shutil.rmtree(max(Path(folder, "checkpoints").glob("step-*")))
        resumed = training.Trainer(recipe, folder, resume=True)
        resumed.train()
        differences = [
            (value - expected[name]).abs().max().item() for name, value in resumed.generator.state_dict().items()
        ]
    yield {"steps": 4, "resumed_at": 2, "largest_difference_of_a_weight": max(differences)}


def measure_small(args: argparse.Namespace) -> Iterator[dict]:
    minutes = min(SMALL_MINUTES, args.seconds_left() / 120)  # it starts and exports as well
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, ROOT / "scripts" / "train.py", "small", "--output", Path(folder, "run")]
        command += ["--dataset", args.pictures, "--init_from", "scratch", "--minutes", f"{minutes:.2f}"]
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True)
        row = {"minutes_asked": minutes, "minutes": (time.perf_counter() - start) / 60}
        ends = (result.stdout if result.returncode == 0 else result.stderr).strip().splitlines()
        yield row | {"result": ends[0 if result.returncode == 0 else -1] if ends else ""}


PARTS = {
    "pixels": measure_pixels,
    "rendering": measure_rendering,
    "training": measure_training,
    "compiling": measure_compiling,
    "chunks": measure_chunks,
    "resume": measure_resume,
    "loader": measure_loader,
    "small": measure_small,
}


# --- all of it --------------------------------------------------------------------------------------------------------


def format_page(results: dict) -> str:
    """The results as Markdown: a table for each part."""
    lines = [f"# {results['device']}", "", f"torch {results['torch']}. Times are of the fastest of a few calls.", ""]
    for part, found in results["parts"].items():
        lines += [f"## {part}", ""]
        if rows := found["rows"]:
            lines += ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
            for row in rows:
                cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()]
                lines.append("| " + " | ".join(cells) + " |")
            lines.append("")
        if found.get("error"):
            lines += [f"Ended with: {found['error']}", ""]
    return "\n".join(lines)


def write_results(results: dict, folder: Path) -> None:
    for name, text in (("gpu.json", json.dumps(results, indent=2) + "\n"), ("gpu.md", format_page(results))):
        with replace_file(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def before(end: float, rows: Iterator[dict]) -> dict | None:
    """The next row, `None` after the last; TimeoutError once the clock shows `end`, in the midst of measuring too."""

    def stop(*signal_and_frame) -> None:
        raise TimeoutError("the time was up")

    left = end - time.monotonic()
    if left <= 0:
        stop()
    if not hasattr(signal, "setitimer"):  # Windows
        return next(rows, None)
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, left)
    try:
        return next(rows, None)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts (default: 8)")
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="folder to write to (default: gpu)")
    parser.add_argument("--device", default=best_device(), help="device to measure (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="parts (default: all)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="heights of images in pixels"
    )
    parser.add_argument("--channels", type=int, nargs="+", default=[256, 512, 1024], help="channels of the models")
    parser.add_argument("--recipe", default=str(ROOT / "configs" / "imagenet.yaml"), help="recipe to take steps of")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict:
    check_number("--minutes", args.minutes, positive=True)
    args.device, end = torch.device(args.device), time.monotonic() + 60 * args.minutes
    args.seconds_left = lambda: max(0.0, end - time.monotonic())
    described = describe(args.device)
    results = {"device": described.name or described.type, "torch": torch.__version__, "parts": {}}
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        args.pictures = write_pictures(Path(folder, "pictures"))
        for name in args.parts:
            found = results["parts"][name] = {"rows": []}
            try:
                if args.seconds_left() < (1 - LATEST_START) * 60 * args.minutes:
                    raise TimeoutError("no time was left")
                rows = PARTS[name](args)
                while (row := before(end, rows)) is not None:
                    found["rows"].append(row)
                    print(f"{name}: {row}", file=sys.stderr)
                    write_results(results, args.output)
            except Exception as error:  # the other parts are worth having all the same
                found["error"] = f"{type(error).__name__}: {error}"
            write_results(results, args.output)
    print(format_page(results))
    return results


def main(argv: list[str] | None = None) -> None:
    run_command(measure, parse_args(argv))


if __name__ == "__main__":
    main()
