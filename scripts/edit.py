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

from diffusers.utils import make_image_grid
from tqdm import tqdm

import fitting
from arguments import (
    CallbackProgress,
    add_command,
    add_image_arguments,
    add_tolerance_argument,
    encode_images,
    image_names,
    load_pipeline,
    one_line_errors,
    seeds_of,
)
from polyinr_hf import editing
from polyinr_hf.editing import check_film, detail, draw_frames, interpolate_extents, save_film

WHOLE = (0.0, 0.0, 1.0, 1.0)
SIDES = ("TOP", "LEFT", "BOTTOM", "RIGHT")


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


# --- files ------------------------------------------------------------------------------------------------------------


def write_film(frames, count: int, args) -> None:
    save_film(tqdm(frames, total=count, unit="frame"), args.output, args.fps)
    print(args.output)


def write_picture(image, args) -> None:
    save_film([image], args.output)
    print(args.output)


# --- arguments --------------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_film_commands(commands)
    add_picture_commands(commands)
    fitting.add_commands(commands)
    return parser.parse_args(argv)


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
    parser.add_argument(
        "--space", choices=editing.SPACES, help="space to interpolate in (default: w; affine beside --parameters)"
    )
    parser.add_argument(
        "--straight", action="store_true", help="interpolate along a straight line in z space instead of an arc"
    )
    parser.add_argument("--loop", action="store_true", help="return to the first image at the end")
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
        "--levels",
        type=int,
        nargs="+",
        help="levels to copy from the images to the targets (default: a block for each of three groups)",
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


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        args.function(args)


if __name__ == "__main__":
    main()
