"""Interpolate, mix, extrapolate, zoom into and invert images, and plot what each level contributes.

    python scripts/edit.py interpolate --pipeline MODEL --class goldfish tench --seeds 0-1 --output walk.gif
    python scripts/edit.py interpolate --pipeline MODEL --class goldfish --seeds 0-31 --grid 2 4 --loop \\
        --seconds_per_image 2 --easing smooth --output walks.mp4
    python scripts/edit.py mix --pipeline MODEL --class goldfish --seeds 0-3 --target_class tench --target_seeds 4-6
    python scripts/edit.py extrapolate --pipeline MODEL --class goldfish --seeds 0-3 --height 512 --width 512
    python scripts/edit.py zoom --pipeline MODEL --class goldfish --center 0.3 0.6 --factor 20 --output zoom.mp4
    python scripts/edit.py heatmap --pipeline MODEL --class goldfish
    python scripts/edit.py invert --pipeline MODEL cat.jpg dog.png --output inverted
    python scripts/edit.py tune --pipeline MODEL cat.jpg --output tuned

`edit.py COMMAND --help` says more of each. Wherever a command takes seeds it takes `--parameters`, files that `invert`
or generate.py --save wrote, too; without --pipeline it draws with the bundled model. Prints the path of every file
written. Films are .gif, .mp4, or .png, frames side by side.
"""

from diffusers.utils import make_image_grid

import fitting
from arguments import (
    CallbackProgress,
    ProgressBar,
    add_command,
    add_image_arguments,
    add_sampling_arguments,
    add_tolerance_argument,
    check_output_folder,
    encode_images,
    image_names,
    load_pipeline,
    one_line_errors,
    say,
    seeds_of,
)
from polyinr_hf import editing
from polyinr_hf.checks import check_count, check_number
from polyinr_hf.commands import make_parser
from polyinr_hf.editing import check_film, detail, draw_frames, interpolate_extents, save_film, tile_films

WHOLE = (0.0, 0.0, 1.0, 1.0)
DEFAULT_FRAMES, DEFAULT_FPS = 60, 20
SIDES = ("TOP", "LEFT", "BOTTOM", "RIGHT")


# --- commands that draw -----------------------------------------------------------------------------------------------


def interpolate(args) -> None:
    """A film from image to image, in z, w or affine space (figures 5 and 7), or several of them in a grid."""
    check_output(args)
    space = args.space or ("affine" if args.parameters else "w")
    if args.parameters and space == "z":
        raise ValueError("`--space` must be w or affine where there are `--parameters`, got z.")
    if args.straight and space != "z":
        raise ValueError(f"`--straight` must come with `--space z`, got {space}, whose lines are straight.")
    if args.centroids and space == "z":
        raise ValueError("`--centroids` must come with `--space` w or affine, got z.")
    pipe = load_pipeline(args)
    walks, num_frames = walks_of(pipe, args, space)
    films = [draw_frames(pipe, walk, **drawing_options(args)) for walk in walks]
    write_film(tile_films(films, *args.grid), num_frames, args)


def walks_of(pipe, args, space: str) -> tuple[list, int]:
    """A (1, L, n, 3) of every frame of every film of the grid, and how many frames they have."""
    rows, columns = (check_count("grid", side) for side in args.grid)
    labels, seeds = args.class_labels, seeds_of(args)
    points = None if space == "z" else encode_images(pipe, args, space=space)
    # One seed serves all classes.
    seeds = seeds * len(labels) if points is None and len(seeds) == 1 and labels else seeds
    total = len(seeds) if points is None else len(points)
    each, rest = divmod(total, rows * columns)
    if rest or each < 2:
        number = f"at least two, as many for each of {rows} x {columns} films" if rows * columns > 1 else "at least two"
        raise ValueError(f"`--seeds`, or `--class`, must give {number}, got {total} images.")
    num_frames = frames_of(args, each)
    path = {"num_frames": num_frames, "loop": args.loop, "easing": args.easing}
    if points is not None:
        walks = [editing.interpolate(part, **path).split(1) for part in points.split(each)]
        return [(pipe.encode(w=w) for w in walk) for walk in walks] if space == "w" else walks, num_frames
    options = {"truncation_psi": args.truncation_psi, "truncation_cutoff": args.truncation_cutoff}
    options |= {"spherical": not args.straight, "seed_source": args.seed_source, "space": "z"}
    walks = []
    for start in range(0, total, each):
        part = labels if labels is None or len(labels) == 1 else labels[start : start + each]
        walks.append(editing.walk(pipe, part, seeds[start : start + each], **path, **options))
    return walks, num_frames


def frames_of(args, num_images: int) -> int:
    """Frames of a film through so many images."""
    if args.seconds_per_image is None:
        return args.frames or DEFAULT_FRAMES
    if args.frames is not None:
        raise ValueError("`--frames` must be left out beside `--seconds_per_image`, which says how many there are.")
    step = round(check_number("seconds_per_image", args.seconds_per_image, positive=True) * (args.fps or DEFAULT_FPS))
    return num_images * step if args.loop else (num_images - 1) * step + 1


def mix(args) -> None:
    """The style of some images in others, level by level, as a grid (figures 6 and 8).

    Levels of w are mixed, as in the release and the paper's figures; of A where an image of a file has no w.
    """
    from polyinr_hf.inversion import load_w

    check_picture(args)
    files = [*(args.parameters or []), *(args.target_parameters or [])]
    space = args.space or ("w" if all(load_w(path) is not None for path in files) else "affine")
    pipe = load_pipeline(args)
    sources, targets = (encode_images(pipe, args, prefix, space) for prefix in ("", "target_"))
    groups = {"levels": args.levels} if args.levels else None
    names = [image_names(pipe, args, prefix) for prefix in ("", "target_")]
    with CallbackProgress("picture") as progress:
        grid = editing.style_mixing_grid(
            pipe, sources, targets, groups, progress.update, *names, **drawing_options(args)
        )
    write_picture(grid, args)


def extrapolate(args) -> None:
    """Images and what lies beyond their border, which is drawn in (figure 4)."""
    check_picture(args)
    pipe = load_pipeline(args)
    border = None if args.border == "none" else args.border
    options = drawing_options(args)
    images = [
        editing.extrapolate(pipe, A, tuple(args.extent), border=border, **options)[0]
        for A in ProgressBar(encode_images(pipe, args).split(1), unit="image")
    ]
    write_picture(make_image_grid(images, rows=1, cols=len(images)), args)


def zoom(args) -> None:
    """A film from the image into a detail; with --start and --end any zoom or pan."""
    check_output(args)
    for name in ("center", "factor"):
        if args.end is not None and getattr(args, name) is not None:
            raise ValueError(f"`--{name}` must be left out beside `--end`, which says where the zoom ends.")
    center = args.center or (0.5, 0.5)
    if not all(0 <= value <= 1 for value in center):
        raise ValueError(
            f"`--center` must be ROW COLUMN, shares of the image in 0..1, got {center[0]:g} {center[1]:g}; "
            "`--end` zooms into what lies beyond the border."
        )
    end = detail(center, 8.0 if args.factor is None else args.factor) if args.end is None else tuple(args.end)
    num_frames = args.frames or DEFAULT_FRAMES
    extents = interpolate_extents(tuple(args.start), end, num_frames)
    pipe = load_pipeline(args)
    if len(A := encode_images(pipe, args)) > 1:
        raise ValueError(f"`--seeds`, `--class` and `--parameters` must give one image to zoom into, got {len(A)}.")
    write_film(draw_frames(pipe, A, extents, **drawing_options(args)), num_frames, args)


def drawing_options(args) -> dict:
    """What the pipeline is told of each picture."""
    names = ("height", "width", "antialias", "tolerance")
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def heatmap(args) -> None:
    """What each level sees (figure 3), and below it the image if the levels after it passed everything through."""
    from polyinr_hf.editing import level_figure

    check_picture(args)
    pipe = load_pipeline(args)
    A = encode_images(pipe, args)
    with CallbackProgress("pixel") as progress:
        figure = level_figure(pipe, A, args.height, args.width, tuple(args.extent), progress.update)
    write_picture(figure, args)


# --- files ------------------------------------------------------------------------------------------------------------


def check_output(args) -> None:
    check_output_folder(args.output.parent)
    check_film(args.output, DEFAULT_FPS if args.fps is None else args.fps)
    if args.fps is not None and args.output.suffix.lower() == ".png":
        raise ValueError(f"`--fps` must be left out of frames side by side, got {args.fps} and {args.output}.")
    if args.frames is not None:
        check_count("num_frames", args.frames, minimum=2)


def check_picture(args) -> None:
    check_output_folder(args.output.parent)
    check_film(args.output, suffixes=[".png"])


def write_film(frames, count: int, args) -> None:
    with ProgressBar(frames, total=count, unit="frame") as progress:
        save_film(progress, args.output, DEFAULT_FPS if args.fps is None else args.fps)
    say(args.output)


def write_picture(image, args) -> None:
    save_film([image], args.output)
    say(args.output)


# --- arguments --------------------------------------------------------------------------------------------------------


def parse_args(argv=None):
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_film_commands(commands)
    add_picture_commands(commands)
    fitting.add_commands(commands)
    return parser.parse_args(argv)


def add_drawing_arguments(parser, seeds: str, size: int = 256) -> None:
    add_image_arguments(parser, seeds)
    add_sampling_arguments(parser)
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
    parser.add_argument(
        "--easing", choices=editing.EASINGS, default="linear", help="smooth slows down at every image (default: linear)"
    )
    parser.add_argument(
        "--grid",
        type=int,
        nargs=2,
        default=(1, 1),
        metavar=("ROWS", "COLUMNS"),
        help="films side by side, each through as many of the images (default: 1 1)",
    )
    parser.add_argument(
        "--seconds_per_image", type=float, help="time from image to image, which says how many frames there are"
    )
    add_tolerance_argument(parser)
    add_frame_arguments(parser)

    parser = add_command(commands, zoom, "out/zoom.gif")
    add_drawing_arguments(parser, seeds="0")
    parser.add_argument(
        "--center",
        "--centre",
        type=float,
        nargs=2,
        metavar=("ROW", "COLUMN"),
        help="point to zoom into, each coordinate in 0..1 (default: the middle)",
    )
    parser.add_argument("--factor", type=float, help="magnification (default: 8)")
    parser.add_argument(
        "--start",
        type=float,
        nargs=4,
        default=WHOLE,
        metavar=SIDES,
        help="extent of the first frame (default: the image)",
    )
    parser.add_argument(
        "--end", type=float, nargs=4, metavar=SIDES, help="extent of the last frame, instead of --center and --factor"
    )
    add_antialias_argument(parser)
    add_tolerance_argument(parser)
    add_frame_arguments(parser)


def add_frame_arguments(parser) -> None:
    parser.add_argument("--frames", type=int, help=f"number of frames (default: {DEFAULT_FRAMES})")
    parser.add_argument("--fps", type=int, help=f"frames per second, of a .gif or .mp4 (default: {DEFAULT_FPS})")


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
    parser.add_argument(
        "--space", choices=("w", "affine"), help="whose levels are copied (default: w where every image has it)"
    )
    add_tolerance_argument(parser)

    parser = add_command(commands, extrapolate, "out/extrapolation.png")
    add_drawing_arguments(parser, seeds="0-3")
    parser.add_argument("--extent", type=float, nargs=4, default=(-0.25, -0.25, 1.25, 1.25), metavar=SIDES)
    parser.add_argument(
        "--border", default="yellow", help="color that the border of the image is drawn in, or none (default: yellow)"
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
