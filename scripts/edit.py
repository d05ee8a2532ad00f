"""Interpolate, mix, extrapolate, zoom into and invert images, and plot what each level contributes.

    python scripts/edit.py interpolate --pipeline MODEL --class goldfish tench --seeds 0-1 --output walk.gif
    python scripts/edit.py mix --pipeline MODEL --class goldfish --seeds 0-3 --target_class tench --target_seeds 4-6
    python scripts/edit.py extrapolate --pipeline MODEL --class goldfish --seeds 0-3 --height 512 --width 512
    python scripts/edit.py zoom --pipeline MODEL --class goldfish --centre 0.3 0.6 --factor 20 --output zoom.mp4
    python scripts/edit.py heatmap --pipeline MODEL --class goldfish
    python scripts/edit.py invert --pipeline MODEL cat.jpg dog.png --output inverted
    python scripts/edit.py tune --pipeline MODEL cat.jpg --output tuned

`edit.py COMMAND --help` says more of each. Wherever a command takes seeds it takes `--parameters`, files that `invert`
wrote, too. Prints the path of every file written. Films are .gif, .mp4, or .png, frames side by side.
"""

import argparse
import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from PIL.Image import Resampling
from tqdm import tqdm

from arguments import (
    CallbackProgress,
    add_image_arguments,
    add_pipeline_arguments,
    add_tolerance_argument,
    encode_images,
    image_names,
    load_pipeline,
    one_line_errors,
    seeds_of,
)
from polyinr_hf import editing
from polyinr_hf.checks import check_count
from polyinr_hf.editing import check_film, detail, draw_frames, interpolate_extents, save_film
from polyinr_hf.files import check_new_folder, replace_folder
from polyinr_hf.images import load_photo

FITTING_SETTINGS = ("num_steps", "lr", "num_pixels", "coarse_side", "coarse_share", "precision")
INVERSION_SETTINGS = (*FITTING_SETTINGS, "num_refine_steps")
TUNING_SETTINGS = (*FITTING_SETTINGS, "affine_lr", "locality_weight")
WHOLE = (0.0, 0.0, 1.0, 1.0)
SIDES = ("TOP", "LEFT", "BOTTOM", "RIGHT")
FIGURES = ("psnr", "ssim", "seconds")  # of --json


# --- commands that draw -----------------------------------------------------------------------------------------------


def interpolate(args) -> None:
    """A film from image to image, in z, w or affine space (figures 5 and 7)."""
    check_film(args.output, args.fps)
    if args.parameters and args.space not in (None, "affine"):
        raise ValueError(f"`--space` must be affine where there are `--parameters`, got {args.space}.")
    pipe = load_pipeline(args)
    if args.parameters or args.space == "affine":
        frames = editing.interpolate(encode_images(pipe, args), args.frames, loop=args.loop)
    else:
        labels, seeds = args.class_labels, seeds_of(args)
        straight = False if args.straight else None
        frames = editing.walk(
            pipe, labels, seeds, args.frames, args.space or "w", straight, args.loop, args.truncation_psi
        )
    write_film(draw_frames(pipe, frames, **drawing_options(args)), args.frames, args)


def mix(args) -> None:
    """The style of some images in others, level by level, as a grid (figures 6 and 8)."""
    check_film(args.output, suffixes=[".png"])
    pipe = load_pipeline(args)
    sources, targets = encode_images(pipe, args), encode_images(pipe, args, "target_")
    groups = {"levels": args.levels} if args.levels else None
    with CallbackProgress("picture") as progress:
        grid = editing.style_mixing_grid(
            pipe,
            sources,
            targets,
            groups,
            progress.update,
            image_names(pipe, args),
            image_names(pipe, args, "target_"),
            **drawing_options(args),
        )
    write_picture(grid, args)


def extrapolate(args) -> None:
    """Images and what lies beyond their border, which is drawn in (figure 4)."""
    check_film(args.output, suffixes=[".png"])
    pipe = load_pipeline(args)
    border = None if args.border == "none" else args.border
    options = drawing_options(args)
    images = [
        editing.extrapolate(pipe, A, tuple(args.extent), border=border, **options)[0]
        for A in tqdm(encode_images(pipe, args).split(1), unit="image")
    ]
    write_picture(make_image_grid(images, rows=1, cols=len(images)), args)


def zoom(args) -> None:
    """A film from the image into a detail; with --start and --end any zoom or pan."""
    check_film(args.output, args.fps)
    end = detail(tuple(args.centre), args.factor) if args.end is None else tuple(args.end)
    extents = interpolate_extents(tuple(args.start), end, args.frames)
    pipe = load_pipeline(args)
    A = encode_images(pipe, args)
    frames = draw_frames(pipe, A, extents, **drawing_options(args))
    write_film(frames, args.frames, args)


def drawing_options(args) -> dict:
    """What the pipeline is told of each picture."""
    names = ("height", "width", "antialias", "tolerance")
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def heatmap(args) -> None:
    """What each level sees (figure 3), and below it the image if the levels after it passed everything through."""
    from polyinr_hf.editing import level_figure

    check_film(args.output, suffixes=[".png"])
    pipe = load_pipeline(args)
    A = encode_images(pipe, args)
    with CallbackProgress("pixel") as progress:
        figure = level_figure(pipe, A, args.height, args.width, tuple(args.extent), progress.update)
    write_picture(figure, args)


# --- commands that fit ------------------------------------------------------------------------------------------------


def invert(args) -> None:
    """Find the affine parameters of images: NAME.safetensors, NAME.png as they draw it, and NAME_comparison.png.

    The comparison shows the original on the left. An interrupted run is resumed when it is started again with the same
    arguments. A photograph takes about a minute at the default size.
    """
    from polyinr_hf.inversion import InversionSettings, estimate_seconds, invert

    twice = [stem for stem, count in Counter(path.stem for path in args.images).items() if count > 1]
    if twice:
        raise ValueError(f"`images` must have different names, several are called {twice[0]}.")
    photos = [open_image(path, args) for path in args.images]  # a broken one ends this now, not after an hour
    settings = InversionSettings(**given(args, *INVERSION_SETTINGS))
    options = given(args, "space", "class_label", "backbone", "weights") | {"mask": open_mask(args)}
    options |= {"backbone": None} if args.backbone == "none" else {}
    pipe = load_pipeline(args)
    results, checkpoints = [], []
    for path, photo in zip(args.images, photos, strict=True):
        say_estimate(path, photo, estimate_seconds(pipe, photo.height, photo.width, settings, args.backbone != "none"))
        checkpoints.append(args.output / f".{path.stem}.checkpoint")
        options |= {"generator": torch.Generator().manual_seed(args.seed), "checkpoint": checkpoints[-1]}
        with CallbackProgress("step", path.name) as progress:
            result = invert(pipe, photo, **options, callback=progress.update_step, settings=settings)
        result.save(args.output / f"{path.stem}.safetensors")
        save_film([result.image], args.output / f"{path.stem}.png")
        save_film([photo, result.image], args.output / f"{path.stem}_comparison.png")
        results.append(report(path, result))
        for suffix in (".safetensors", ".png", "_comparison.png"):
            print(args.output / f"{path.stem}{suffix}", flush=True)
    write_report(args.json, results)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)


def tune(args) -> None:
    """Fit the weights to an image as well: a pipeline folder, with the affine parameters of the image in it.

    The folder also holds image.png, as the new pipeline draws it, and comparison.png, with the original on the left.
    Other commands draw the image with --pipeline FOLDER --parameters FOLDER/affine_parameters.safetensors.
    An interrupted run is resumed when it is started again with the same arguments.
    """
    from polyinr_hf.inversion import STRENGTHS, estimate_seconds, load_affine_parameters, tune

    check_new_folder(args.output)
    photo = open_image(args.image, args)
    A = None if args.parameters is None else load_affine_parameters(args.parameters)
    settings = replace(STRENGTHS[args.strength], **given(args, *TUNING_SETTINGS))
    options = given(args, "backbone", "weights") | {"mask": open_mask(args)}
    options |= {"backbone": None} if args.backbone == "none" else {}
    pipe = load_pipeline(args)
    features = options.get("backbone") is not None
    say_estimate(args.image, photo, estimate_seconds(pipe, photo.height, photo.width, settings, features))
    checkpoint = args.output.with_name(f".{args.output.name}.checkpoint")
    options |= {"generator": torch.Generator().manual_seed(args.seed), "checkpoint": checkpoint}
    with CallbackProgress("step", args.image.name) as progress:
        tuned, result = tune(pipe, photo, A, args.strength, **options, callback=progress.update_step, settings=settings)
    with replace_folder(args.output) as folder:
        tuned.save_pretrained(folder)
        result.save(folder / "affine_parameters.safetensors")
        save_film([result.image], folder / "image.png")
        save_film([photo, result.image], folder / "comparison.png")
    checkpoint.unlink(missing_ok=True)
    write_report(args.json, [report(args.image, result)])
    print(args.output)


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


# --- files ------------------------------------------------------------------------------------------------------------


def write_film(frames, count: int, args) -> None:
    save_film(tqdm(frames, total=count, unit="frame"), args.output, args.fps)
    print(args.output)


def write_picture(image, args) -> None:
    save_film([image], args.output)
    print(args.output)


def write_report(path: Path | None, results: list[dict]) -> None:
    """{"psnr", "ssim", "seconds"} of each image, and the means of those that are numbers."""
    from polyinr_hf.evaluation import write_json

    if path is not None:
        values = {name: [row[name] for row in results if row[name] is not None] for name in FIGURES}
        means = {name: sum(numbers) / len(numbers) if numbers else None for name, numbers in values.items()}
        write_json({"results": results, "mean": means}, path)


# --- arguments --------------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_film_commands(commands)
    add_picture_commands(commands)
    add_fitting_commands(commands)
    return parser.parse_args(argv)


def add_command(commands, function, output: str) -> argparse.ArgumentParser:
    text = function.__doc__
    parser = commands.add_parser(function.__name__, help=text.splitlines()[0], description=text)
    parser.set_defaults(function=function)
    add_pipeline_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path(output), help="(default: %(default)s)")
    return parser


def add_drawing_arguments(parser, seeds: str, size: int = 256) -> None:
    add_image_arguments(parser, seeds)
    parser.add_argument(
        "--truncation_psi",
        type=float,
        help="truncation; below 1, images are more typical and less varied (default: the pipeline's own)",
    )
    for side in ("--height", "--width"):
        parser.add_argument(side, type=int, default=size, help="pixels of each picture (default: %(default)s)")


def add_film_commands(commands) -> None:
    parser = add_command(commands, interpolate, "out/interpolation.gif")
    add_drawing_arguments(parser, seeds="0-1")
    parser.add_argument("--space", choices=editing.SPACES, help="(default: w; affine beside --parameters)")
    parser.add_argument(
        "--straight", action="store_true", help="interpolate along a straight line in z space instead of an arc"
    )
    parser.add_argument("--loop", action="store_true", help="back to the first image")
    add_tolerance_argument(parser)
    add_frame_arguments(parser)

    parser = add_command(commands, zoom, "out/zoom.gif")
    add_drawing_arguments(parser, seeds="0")
    parser.add_argument(
        "--centre",
        type=float,
        nargs=2,
        default=(0.5, 0.5),
        metavar=("ROW", "COLUMN"),
        help="point to zoom into, each coordinate in 0..1 (default: the middle)",
    )
    parser.add_argument("--factor", type=float, default=8.0, help="magnification (default: 8)")
    parser.add_argument(
        "--start",
        type=float,
        nargs=4,
        default=WHOLE,
        metavar=SIDES,
        help="extent of the first frame (default: the image)",
    )
    parser.add_argument(
        "--end", type=float, nargs=4, metavar=SIDES, help="extent of the last frame, instead of --centre and --factor"
    )
    add_antialias_argument(parser)
    add_tolerance_argument(parser)
    add_frame_arguments(parser)


def add_frame_arguments(parser) -> None:
    parser.add_argument("--frames", type=int, default=60, help="number of frames (default: 60)")
    parser.add_argument("--fps", type=int, default=20, help="frames per second (default: 20)")


def add_antialias_argument(parser) -> None:
    parser.add_argument("--antialias", type=int, default=1, help="average K x K samples per pixel (default: 1)")


def add_picture_commands(commands) -> None:
    parser = add_command(commands, mix, "out/style_mixing.png")
    add_drawing_arguments(parser, seeds="0-3", size=128)
    add_image_arguments(parser, seeds="4-6", prefix="target_")
    parser.add_argument(
        "--levels", type=int, nargs="+", help="copied from the images to the targets (default: a block each of groups)"
    )

    add_tolerance_argument(parser)

    parser = add_command(commands, extrapolate, "out/extrapolation.png")
    add_drawing_arguments(parser, seeds="0-3")
    parser.add_argument("--extent", type=float, nargs=4, default=(-0.25, -0.25, 1.25, 1.25), metavar=SIDES)
    parser.add_argument(
        "--border", default="yellow", help="colour that the border of the image is drawn in, or none (default: yellow)"
    )
    add_antialias_argument(parser)
    add_tolerance_argument(parser)

    parser = add_command(commands, heatmap, "out/levels.png")
    add_drawing_arguments(parser, seeds="0", size=128)
    parser.add_argument("--extent", type=float, nargs=4, default=WHOLE, metavar=SIDES, help="region to draw")


def add_fitting_commands(commands) -> None:
    parser = add_command(commands, invert, "out/inverted")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files")
    parser.add_argument("--space", choices=editing.SPACES, help="what is searched for (default: affine)")
    parser.add_argument("--class", dest="class_label", metavar="CLASS", help="class to start from")
    parser.add_argument("--num_refine_steps", type=int, help="number of L-BFGS iterations after Adam (default: 300)")
    add_fitting_arguments(parser, num_steps="40", lr="0.1", coarse_share="0.9 of the L-BFGS iterations")

    parser = add_command(commands, tune, "out/tuned")
    parser.add_argument("image", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument("--parameters", metavar="FILE", help="its affine parameters, from invert, which near needs")
    parser.add_argument(
        "--strength",
        choices=("near", "close"),
        default="close",
        help="close: the image first; near: edits and other images stay what they were (default: close)",
    )
    parser.add_argument("--affine_lr", type=float, help="Adam's highest learning rate of the affine parameters")
    parser.add_argument("--locality_weight", type=float, help="weight of the change of other images")
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
    parser.add_argument("--weights", help="its weight file (default: from an installed package, or downloaded)")
    parser.add_argument(
        "--precision",
        help="dtype of Adam's matrix products (default: float32); bfloat16 is faster with AVX512-BF16, AMX or a GPU",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the start and the pixels (default: 0)")
    parser.add_argument("--json", type=Path, help="file for PSNR, SSIM and seconds of each image")


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        args.function(args)


if __name__ == "__main__":
    main()
