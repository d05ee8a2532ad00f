"""Draw the pictures of README.md, docs/ and examples/ again, each by its class, seed and command.

    python scripts/pictures.py                                # all that can be drawn here; make pictures
    python scripts/pictures.py --list                         # what there is, and how each is made
    python scripts/pictures.py walk.gif sizes.png             # some
    python scripts/pictures.py --drawings data/emoji-64       # also those that show what the bundled model learned from

Prints a line for each. Pictures whose data are not there, or that show a training run, are skipped with the reason.
Films and large PNGs get a palette, which halves them or better, and are refused beyond 500 kB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers.utils import logging as diffusers_logging, make_image_grid
from PIL import Image, ImageSequence

import demo
from arguments import one_line_errors
from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
from polyinr_hf.commands import make_parser
from polyinr_hf.editing import encode_seeds, extrapolate
from polyinr_hf.files import replace_file
from polyinr_hf.images import caption

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 500_000
PALETTE_BYTES = 150_000  # beyond which a PNG gets a palette
GIF_COLORS = 64
TOLERANCE = 0.1
SAMPLE_COLUMNS, SAMPLE_ROWS, SAMPLE_SIZE = 12, 12, 80  # pixels, of the samples with names


@dataclass(frozen=True)
class Picture:
    """One picture.

    Args:
        path: Below the repository.
        shows: Classes and their seeds.
        command: A script's, as words; OUTPUT, FOLDER and DRAWINGS stand for the file, its folder and `--drawings`.
        draw: In place of a command, what draws it.
        written: The file that a command writes into FOLDER.
    """

    path: str
    shows: str
    command: str = ""
    draw: Callable[[PolyINRPipeline], Image.Image] | None = None
    written: str = ""


# --- pictures of several parts ----------------------------------------------------------------------------------------


def encode(pipe: PolyINRPipeline, *picks: tuple[str, int]) -> torch.Tensor:
    """A of classes and seeds."""
    return encode_seeds(pipe, [name for name, _ in picks], [seed for _, seed in picks])


def draw_sizes(pipe: PolyINRPipeline) -> Image.Image:
    """One image at three sizes, and a detail."""
    demo.PANEL = 320
    return demo.draw_sizes(pipe, encode(pipe, SIZES))


def draw_tour(pipe: PolyINRPipeline) -> Image.Image:
    """What README's block of extents draws: any size, a detail, what lies beyond the border."""
    A = encode(pipe, TOUR)
    height = 240
    parts = {
        "extent=(0, -0.25, 1, 1.25)": pipe(
            affine_parameters=A, height=height, width=height * 3 // 2, extent=(0, -0.25, 1, 1.25)
        ).images[0],
        "extent=(0, 0.3, 0.3, 0.6)": pipe(
            affine_parameters=A, height=height, width=height, extent=(0, 0.3, 0.3, 0.6)
        ).images[0],
        "extent=(-0.5, -0.5, 1.5, 1.5)": extrapolate(pipe, A, (-0.5, -0.5, 1.5, 1.5), height, height)[0],
    }
    parts = [caption(image, text) for text, image in parts.items()]
    picture = Image.new("RGB", (sum(part.width + 12 for part in parts) - 12, parts[0].height), "white")
    x = 0
    for part in parts:
        picture.paste(part, (x, 0))
        x += part.width + 12
    return picture


def draw_samples(pipe: PolyINRPipeline) -> Image.Image:
    """One sample of each of some names, evenly in alphabetical order, seeds 0, 1, ..., not chosen."""
    names, count = list(pipe.labels), SAMPLE_COLUMNS * SAMPLE_ROWS
    tiles = []
    for seed in range(count):
        name = names[seed * len(names) // count]
        image = pipe(affine_parameters=encode(pipe, (name, seed)), height=SAMPLE_SIZE, width=SAMPLE_SIZE).images[0]
        tiles.append(caption(image, name.replace("-", " ")))
    return make_image_grid(tiles, rows=SAMPLE_ROWS, cols=SAMPLE_COLUMNS)


def draw_where_run(pipe: PolyINRPipeline) -> Image.Image:
    """Where adaptive rendering runs the network."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import adaptive

    exact = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
    return adaptive.draw_where_run(exact.generator, encode(exact, *WHERE_RUN), 256, TOLERANCE)


# --- the pictures -----------------------------------------------------------------------------------------------------

SIZES, TOUR = ("cowboy-hat-face", 4), ("rainbow", 19)
WHERE_RUN = (("cowboy-hat-face", 4), ("rainbow", 19), ("butterfly", 19))
MODEL = "--pipeline pretrained/poly-inr-emoji"
PICTURES = (
    Picture(
        "docs/images/walk.gif",
        "cowboy-hat-face 4, avocado 9, penguin 20, hamburger 9, butterfly 19, frog 1",
        f"scripts/edit.py interpolate {MODEL} --class cowboy-hat-face avocado penguin hamburger butterfly frog"
        " --seeds 4,9,20,9,19,1 --loop --easing smooth --frames 54 --fps 15 --height 160 --width 160 --tolerance 0.1"
        " --output OUTPUT",
    ),
    Picture(
        "docs/images/style_mixing.png",
        "six names in the first row, grinning-face-with-big-eyes and avocado at the left: 4",
        f"scripts/edit.py mix {MODEL} --class butterfly frog red-apple smiling-face-with-horns panda cold-face --seed 4"
        " --target_class grinning-face-with-big-eyes avocado --target_seed 4 --height 96 --width 96 --output OUTPUT",
    ),
    Picture("docs/images/sizes.png", "cowboy-hat-face 4", draw=draw_sizes),
    Picture("docs/images/tour.png", "rainbow 19", draw=draw_tour),
    Picture(
        "docs/images/designs.png",
        "a seed of each design of avocado, penguin, frog and castle",
        f"scripts/generate.py {MODEL} --class avocado penguin frog castle --seeds 0-23 --distinct --grid --height 96"
        " --width 96 --output FOLDER",
        written="grid.png",
    ),
    Picture(
        "docs/images/emoji_walk.png",
        "grinning-face, red-heart, four-leaf-clover: 4",
        f"scripts/edit.py interpolate {MODEL} --class grinning-face red-heart four-leaf-clover --seeds 4 --frames 15"
        " --height 96 --width 96 --output OUTPUT",
    ),
    Picture("docs/images/rendering_where.png", "cowboy-hat-face 4, rainbow 19, butterfly 19", draw=draw_where_run),
    Picture("docs/images/folders.png", "shapes, and docs/folders.md", "examples/folders/layouts.py --output docs"),
    Picture("examples/emoji/images/samples.png", "144 names, seeds 0 to 143", draw=draw_samples),
    Picture(
        "examples/emoji/images/mixing.png",
        "red-heart, hamburger, four-leaf-clover, penguin, watermelon in grinning-face, koala, red-apple: 4",
        f"scripts/edit.py mix {MODEL} --class red-heart hamburger four-leaf-clover penguin watermelon --seed 4"
        " --target_class grinning-face koala red-apple --target_seed 4 --height 96 --width 96 --output OUTPUT",
    ),
    Picture(
        "examples/emoji/images/neighbors.png",
        "twelve names, a sample each",
        f"scripts/inspect_samples.py {MODEL} --dataset DRAWINGS --label_column name --dtype bfloat16 --output OUTPUT",
    ),
)
# What is not drawn again: pictures that show a run or a machine, or that need a browser.
SKIPPED = {
    "docs/images/rendering_cost.png": "seconds of one machine: benchmarks/adaptive.py --plot",
    "docs/images/inversion_64.png": "an hour: scripts/measure_inversion.py",
    "docs/images/inversion_edits.png": "weights fitted to a photograph: scripts/edit.py tune",
    "docs/images/inversion_photographs.png": "weights fitted to photographs: scripts/measure_inversion.py",
    "docs/images/own_pictures.png": "training runs: benchmarks/own_pictures.py show",
    "docs/images/own_icons.png": "the contact sheet of a training run: scripts/train.py small",
    "docs/images/sea_animals.png": "as own_icons.png",
    "docs/images/emoji_15_minutes.png": "a training run: examples/emoji/kinds.yaml",
    "docs/images/emoji_30_minutes.png": "a training run: examples/emoji/kinds.yaml",
    "docs/images/emoji_60_minutes.png": "a training run: examples/emoji/kinds.yaml",
    "docs/images/emoji_reals.png": "a training run: examples/emoji/kinds.yaml",
    "docs/images/emoji_losses.png": "a training run: scripts/plot_log.py",
    "docs/images/space_desktop.png": "a browser: tests/space/take_pictures.py",
    "docs/images/space_phone.png": "as space_desktop.png",
    "docs/images/static_space_desktop.png": "a browser: tests/space_static/measure.py --pictures docs/images",
    "docs/images/static_space_phone_dark.png": "as static_space_desktop.png",
    "examples/emoji/images/codes.png": "a training run: examples/emoji/history.md",
    "examples/emoji/images/initialization.png": "training runs: examples/emoji/history.md",
    "examples/emoji/images/over_training.png": "training runs: examples/emoji/history.md",
    "examples/emoji/images/truncation.png": "earlier weights: scripts/evaluate.py",
    "examples/emoji/images/windows.png": "earlier weights beside these: examples/emoji/history.md",
}


# --- files ------------------------------------------------------------------------------------------------------------


def save_small(source: Path, path: Path) -> None:
    """Writes a picture or film with a palette.

    Raises:
        ValueError: for one of more than 500 kB, which a repository does not forget.
    """
    with Image.open(source) as image, replace_file(path) as partial:
        if path.suffix == ".gif":
            colors, durations = {"colors": GIF_COLORS, "dither": Image.Dither.NONE}, []
            frames = [frame.convert("RGB").quantize(**colors) for frame in ImageSequence.Iterator(image)]
            durations = image.info["duration"]
            frames[0].save(partial, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
        else:
            image.convert("RGB").save(partial, optimize=True)
            if partial.stat().st_size > PALETTE_BYTES:
                image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(partial, optimize=True)
        if (size := partial.stat().st_size) > MAX_BYTES:
            raise ValueError(f"{path.name} must have at most {MAX_BYTES:,} bytes, got {size:,}.")


def make(picture: Picture, pipe: PolyINRPipeline, drawings: str) -> None:
    """Draws a picture and puts it in its place."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, picture.written or Path(picture.path).name)
        if picture.draw is not None:
            picture.draw(pipe).save(made)
        else:
            places = {"OUTPUT": str(made), "FOLDER": folder, "DRAWINGS": drawings}
            words = [places.get(word, word) for word in picture.command.split()]
            environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
            done = subprocess.run(
                [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise RuntimeError(f"{picture.path}: {done.stderr.strip()[-500:]}")
        if made.exists():  # if not, it is in its place
            save_small(made, ROOT / picture.path)


def describe(picture: Picture) -> str:
    """Its path, and how it is made."""
    how = picture.command or f"{picture.draw.__name__} of scripts/pictures.py"
    return f"{picture.path}\n    {picture.shows}\n    {how}"


def parse_args(argv=None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="files to draw, such as walk.gif (default: all)")
    parser.add_argument("--list", action="store_true", help="print what there is and how it is made, and draw nothing")
    parser.add_argument(
        "--drawings",
        default="data/emoji-64",
        help="folder that examples/emoji/prepare.py --labels kind wrote (default: %(default)s)",
    )
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    pictures = [picture for picture in PICTURES if not args.names or Path(picture.path).name in args.names]
    known = {Path(picture.path).name for picture in PICTURES}
    with one_line_errors():
        if unknown := sorted(set(args.names) - known):
            raise ValueError(f"`NAME` must be of {', '.join(sorted(known))}, got {', '.join(unknown)}.")
        if args.list:
            print(*map(describe, pictures), *(f"{path}: {why}" for path, why in SKIPPED.items()), sep="\n")
            return
        diffusers_logging.disable_progress_bar()
        pipe = demo.load_pipeline(str(BUNDLED_MODEL))
        pipe.set_progress_bar_config(disable=True)
        for picture in pictures:
            if "DRAWINGS" in picture.command and not Path(args.drawings).is_dir():
                print(f"{picture.path}: skipped, there is no {args.drawings}: examples/emoji/prepare.py writes it")
                continue
            make(picture, pipe, args.drawings)
            print(f"{picture.path}: {(ROOT / picture.path).stat().st_size / 1000:.0f} kB", flush=True)
        if not args.names:
            print(*(f"{path}: skipped, {why}" for path, why in SKIPPED.items()), sep="\n")


if __name__ == "__main__":
    main()
