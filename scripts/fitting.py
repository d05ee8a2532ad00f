"""The commands of edit.py that fit a model to images: `invert` and `tune`."""

import math
import signal
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from PIL.Image import Resampling

from arguments import CallbackProgress, add_command, check_output_folder, load_pipeline
from polyinr_hf import editing
from polyinr_hf.checks import check_count, check_new_folder
from polyinr_hf.editing import save_film
from polyinr_hf.files import replace_folder
from polyinr_hf.images import load_photo

FITTING_SETTINGS = ("num_steps", "lr", "num_pixels", "coarse_side", "coarse_share", "precision")
INVERSION_SETTINGS = (*FITTING_SETTINGS, "num_refine_steps")
TUNING_SETTINGS = (*FITTING_SETTINGS, "affine_lr", "locality_weight")
FIGURES = ("psnr", "ssim", "seconds")  # of --json


def invert(args) -> None:
    """Find the affine parameters of images: NAME.safetensors, NAME.png as they draw it, and NAME_comparison.png.

    The comparison shows the original on the left. Ctrl-C leaves what has been found, and the same command goes on from
    there. A photograph takes about a minute at the default size.
    """
    twice = [stem for stem, count in Counter(path.stem for path in args.images).items() if count > 1]
    if twice:
        raise ValueError(f"`images` must have different names, got several called {twice[0]}.")
    check_output_folder(args.output)
    photos = [open_image(path, args) for path in args.images]  # a broken one ends this now, not after an hour
    mask = open_mask(args)
    from polyinr_hf.inversion import InversionSettings, estimate_seconds, invert

    settings = InversionSettings(**given(args, *INVERSION_SETTINGS))
    options = fitting_options(args, mask) | given(args, "space", "class_label")
    pipe = load_pipeline(args)
    results, checkpoints, was_stopped = [], [], False
    for path, photo in zip(args.images, photos, strict=True):
        say_estimate(path, photo, estimate_seconds(pipe, photo.height, photo.width, settings, args.backbone != "none"))
        checkpoints.append(args.output / f".{path.stem}.checkpoint")
        options |= {"generator": torch.Generator().manual_seed(args.seed), "checkpoint": checkpoints[-1]}
        with StoppableProgress(path.name) as progress:
            result = invert(pipe, photo, **options, callback=progress, settings=settings)
        result.save(args.output / f"{path.stem}.safetensors")
        save_film([result.image], args.output / f"{path.stem}.png")
        save_film([photo, result.image], args.output / f"{path.stem}_comparison.png")
        results.append(report(path, result))
        for suffix in (".safetensors", ".png", "_comparison.png"):
            print(args.output / f"{path.stem}{suffix}", flush=True)
        if was_stopped := progress.stopped:
            say_stopped(path, result)
            break
    write_report(args.json, results)
    for checkpoint in () if was_stopped else checkpoints:
        checkpoint.unlink(missing_ok=True)


def tune(args) -> None:
    """Fit the weights to an image as well: a pipeline folder, with the affine parameters of the image in it.

    The folder also holds image.png, as the new pipeline draws it, and comparison.png, with the original on the left.
    Other commands draw the image with --pipeline FOLDER --parameters FOLDER/affine_parameters.safetensors.
    Ctrl-C leaves what has been found, and the same command goes on from there.
    """
    checkpoint = args.output.with_name(f".{args.output.name}.checkpoint")
    if not (checkpoint.exists() and (args.output / "comparison.png").exists()):  # what a stopped run left is replaced
        check_new_folder(args.output)
    if args.strength == "near" and args.parameters is None:
        raise ValueError("`--parameters` must be given with `--strength near`, which keeps them: invert first.")
    photo, mask = open_image(args.image, args), open_mask(args)
    from polyinr_hf.inversion import STRENGTHS, estimate_seconds, load_affine_parameters, tune

    A = None if args.parameters is None else load_affine_parameters(args.parameters)
    settings = replace(STRENGTHS[args.strength], **given(args, *TUNING_SETTINGS))
    options = fitting_options(args, mask)
    pipe = load_pipeline(args)
    features = options.get("backbone") is not None
    say_estimate(args.image, photo, estimate_seconds(pipe, photo.height, photo.width, settings, features))
    options |= {"generator": torch.Generator().manual_seed(args.seed), "checkpoint": checkpoint}
    with StoppableProgress(args.image.name) as progress:
        tuned, result = tune(pipe, photo, A, settings, **options, callback=progress)
    with replace_folder(args.output) as folder:
        tuned.save_pretrained(folder)
        result.save(folder / "affine_parameters.safetensors")
        save_film([result.image], folder / "image.png")
        save_film([photo, result.image], folder / "comparison.png")
    write_report(args.json, [report(args.image, result)])
    print(args.output)
    if progress.stopped:
        say_stopped(args.image, result)
    else:
        checkpoint.unlink(missing_ok=True)


class StoppableProgress(CallbackProgress):
    """A bar of steps for callbacks, which end the search after a first Ctrl-C; a second one interrupts it.

    Args:
        name: What stands beside the bar.

    Attributes:
        stopped: Whether there was a Ctrl-C.
    """

    def __init__(self, name: str):
        super().__init__("step", name)
        self.stopped = False

    def __enter__(self):
        self.previous = signal.signal(signal.SIGINT, self._stop_soon)
        return self

    def __exit__(self, *exception):
        signal.signal(signal.SIGINT, self.previous)
        super().__exit__(*exception)

    def _stop_soon(self, number, frame) -> None:
        self.stopped = True
        signal.signal(number, self.previous)

    def __call__(self, step) -> bool:
        self.update_step(step)
        return self.stopped


def say_stopped(path: Path, result) -> None:
    print(
        f"{path.name}: stopped after {len(result.losses)} steps; the same command goes on from there", file=sys.stderr
    )


def fitting_options(args, mask: Image.Image | None) -> dict:
    options = given(args, "backbone", "weights") | {"mask": mask}
    return options | {"backbone": None} if args.backbone == "none" else options


def open_image(path: Path, args) -> Image.Image:
    """A photograph, shrunk until no side has more than `--size` pixels."""
    check_count("size", args.size)
    photo = load_photo(path)
    # With a mask, each pixel is the mean of those below it, so that it is clear which of them are known.
    photo.thumbnail((args.size, args.size), Resampling.LANCZOS if args.mask is None else Resampling.BOX)
    return photo


def open_mask(args) -> Image.Image | None:
    """The mask, shrunk like its image: white where all that a pixel is the mean of is known."""
    if args.mask is None:
        return None
    mask = load_photo(args.mask).convert("L").point(lambda value: 255 * (value >= 128))
    mask.thumbnail((args.size, args.size), Resampling.BOX)
    return mask.point(lambda value: 255 * (value == 255))


def given(args, *names: str) -> dict:
    """Those of the arguments that were given, so that the defaults are the functions' own."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def say_estimate(path: Path, photo, seconds: float) -> None:
    text = f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
    print(f"{path.name}: at {photo.width} x {photo.height} pixels this takes about {text}", file=sys.stderr, flush=True)


def report(path, result) -> dict:
    """The entry of an image in `--json`; a figure that is not finite is null, as JSON has no other."""
    figures = {name: getattr(result, name) for name in FIGURES}
    print(f"{path.name}: PSNR {result.psnr:.2f} dB, SSIM {result.ssim:.3f}, {result.seconds:.0f} s", file=sys.stderr)
    return {"image": str(path), **{name: value if math.isfinite(value) else None for name, value in figures.items()}}


def write_report(path: Path | None, results: list[dict]) -> None:
    """{"psnr", "ssim", "seconds"} of each image, and the means of those that are numbers."""
    from polyinr_hf.evaluation import write_json

    if path is not None:
        values = {name: [row[name] for row in results if row[name] is not None] for name in FIGURES}
        means = {name: sum(numbers) / len(numbers) if numbers else None for name, numbers in values.items()}
        write_json({"results": results, "mean": means}, path)


def add_commands(commands) -> None:
    parser = add_command(commands, invert, "out/inverted")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--space", choices=editing.SPACES, help="what is searched for (default: affine)")
    parser.add_argument("--class", dest="class_label", metavar="CLASS", help="name or id of the class to start from")
    parser.add_argument("--num_refine_steps", type=int, help="number of L-BFGS iterations after Adam (default: 300)")
    add_fitting_arguments(parser, num_steps="40", lr="0.1", coarse_share="0.9 of the L-BFGS iterations")

    parser = add_command(commands, tune, "out/tuned")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument(
        "--parameters", metavar="FILE", help="affine parameters of the image, from invert; near needs them"
    )
    parser.add_argument(
        "--strength",
        choices=("near", "close"),
        default="close",
        help="close: fit the image as well as possible; near: keep edits and other images as they are (default: close)",
    )
    parser.add_argument("--affine_lr", type=float, help="Adam's highest learning rate of the affine parameters")
    parser.add_argument("--locality_weight", type=float, help="weight of the penalty on changes of other images")
    add_fitting_arguments(parser, num_steps="the strength's", lr="the strength's", coarse_share="the strength's")


def add_fitting_arguments(parser, num_steps: str, lr: str, coarse_share: str) -> None:
    parser.add_argument(
        "--size", type=int, default=128, help="the image is shrunk to at most this many pixels a side (default: 128)"
    )
    parser.add_argument("--mask", type=Path, help="picture as large as the image, white where it is known")
    parser.add_argument("--num_steps", type=int, help=f"number of Adam steps (default: {num_steps})")
    parser.add_argument("--lr", type=float, help=f"Adam's highest relative learning rate (default: {lr})")
    parser.add_argument("--num_pixels", type=int, help="pixels drawn at random for each Adam step")
    parser.add_argument("--coarse_side", type=int, help="side of the smallest copy that is fitted first, in pixels")
    parser.add_argument("--coarse_share", type=float, help=f"share of steps on copies (default: {coarse_share})")
    parser.add_argument("--backbone", help="timm name of the network whose features are compared, or none")
    parser.add_argument(
        "--weights", help="weight file of the backbone (default: from an installed package, or downloaded)"
    )
    parser.add_argument(
        "--precision",
        help="dtype of Adam's matrix products (default: float32); bfloat16 is faster with AVX512-BF16, AMX or a GPU",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the start and the pixels (default: 0)")
    parser.add_argument("--json", type=Path, help="file for PSNR, SSIM and seconds of each image")
