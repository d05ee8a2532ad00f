"""Draw what the model can do into a folder: samples, one image at three sizes, beyond its border, a walk, a mix.

`index.html` in the folder shows them all.

    python scripts/demo.py --output out
    python scripts/demo.py --class pizza octopus --output out

Uses the checkpoint in pretrained/poly-inr-emoji; while there is none, a small untrained network.
"""

import argparse
import html
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image

from arguments import one_line_errors
from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.devices import describe
from polyinr_hf.editing import draw_frames, encode_seeds, extrapolate, save_film, style_mixing_grid, walk

PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained" / "poly-inr-emoji"
PRETRAINED_CLASSES = ("grinning-face", "red-heart", "four-leaf-clover", "hamburger")
COLUMNS = 8
MOST_ROWS = 24  # of one class each
SIZES = (64, 512, 2048)  # pixels, of the same image
PANEL = 512  # pixels, of each in the picture
CAPTIONS = {
    "samples.png": "Samples, 64 x 64 pixels each.",
    "sizes.png": "One image drawn at 64, 512 and 2,048 pixels, and below it a detail of each: one function, "
    "sampled more densely.",
    "beyond_the_border.png": "The same image beyond its border, which is drawn in yellow: the function goes on.",
    "style_mixing.png": "Levels of the images above copied into those at the left: coarse levels carry the outline, "
    "fine ones the colors.",
    "walk.gif": "A walk from image to image: every frame is an image of its own.",
}


def load_pipeline(path: str | None) -> PolyINRPipeline:
    dtype = torch.bfloat16 if torch.bfloat16 in describe("cpu").products else torch.float32
    if path is not None or PRETRAINED.is_dir():
        return PolyINRPipeline.from_pretrained(path or PRETRAINED, dtype=dtype)
    print(f"There is no trained checkpoint in {PRETRAINED.relative_to(PRETRAINED.parents[1])}:")
    print("these images come from UNTRAINED weights. They show the machinery, not what the model can learn.")
    torch.manual_seed(0)
    return PolyINRPipeline(PolyINRGenerator(channels=128, num_classes=None, sample_size=64).eval())


def classes(pipe: PolyINRPipeline, count: int) -> list[int] | None:
    """`count` classes, evenly spread; None for an unconditional model."""
    num_classes = pipe.generator.config.num_classes
    return [i * num_classes // count for i in range(count)] if num_classes else None


def draw_samples(pipe: PolyINRPipeline, seed: int) -> Image.Image:
    """64 pixels an image: a row for each class, or, if that is too many rows, a square of images of as many classes."""
    num_classes = pipe.generator.config.num_classes
    rows, columns = num_classes or COLUMNS, COLUMNS
    labels = [label for label in classes(pipe, rows) or [] for _ in range(columns)] or None
    if rows > MOST_ROWS:
        rows = columns = min(math.isqrt(num_classes), 2 * COLUMNS)
        labels = classes(pipe, rows * columns)
    A = encode_seeds(pipe, labels, range(seed, seed + rows * columns))
    return make_image_grid(pipe(affine_parameters=A, height=64, width=64).images, rows=rows, cols=columns)


def detail(image: Image.Image, left: int, top: int) -> Image.Image:
    """A quarter of the image's side, from a corner counted in eighths of it."""
    size = image.width
    return image.crop((left * size // 8, top * size // 8, (left + 2) * size // 8, (top + 2) * size // 8))


def draw_sizes(pipe: PolyINRPipeline, A: torch.Tensor) -> Image.Image:
    """The image at every size of `SIZES`, and below it a detail of it: pixels, then edges, then sharp edges."""
    whole, details = [], []
    for size in SIZES:
        image = pipe(affine_parameters=A, height=size, width=size).images[0]
        sampling = Image.Resampling.NEAREST if size <= PANEL else Image.Resampling.LANCZOS
        whole.append(image.resize((PANEL, PANEL), sampling))
        details.append(image)
    corners = itertools.product(range(7), repeat=2)
    left, top = max(corners, key=lambda corner: np.std(detail(details[0], *corner), axis=(0, 1)).sum())  # most to see
    details = [detail(image, left, top).resize((PANEL, PANEL), Image.Resampling.NEAREST) for image in details]
    return make_image_grid(whole + details, rows=2, cols=len(SIZES))


def page() -> str:
    """An HTML page that shows every picture with what it says."""
    figures = "\n".join(
        f'<figure><img src="{name}" alt="{html.escape(text)}"><figcaption>{html.escape(text)}</figcaption></figure>'
        for name, text in CAPTIONS.items()
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Poly-INR: images as polynomials of their coordinates</title>
<style>
  body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }}
  figure {{ margin: 2rem 0; }} img {{ max-width: 100%; }} :root {{ color-scheme: light dark; }}
</style>
<h1>Images as polynomials of their coordinates</h1>
{figures}
</html>
"""


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", help="pipeline folder or Hub id (default: pretrained/poly-inr-emoji)")
    parser.add_argument(
        "--class",
        dest="class_labels",
        nargs="+",
        metavar="CLASS",
        help="classes that are drawn large, walked between and mixed (default: four of the bundled checkpoint, evenly "
        "spread ones of any other)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the first image (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for the images (default: out)")
    args = parser.parse_args(argv)
    with one_line_errors():
        pipe = load_pipeline(args.pipeline)
        args.output.mkdir(parents=True, exist_ok=True)
    pipe.set_progress_bar_config(disable=True)
    names = args.class_labels
    if names is None and args.pipeline is None and PRETRAINED.is_dir():
        names = PRETRAINED_CLASSES

    def chosen(count: int) -> tuple[list[int | str] | None, range]:
        """Classes, those of `names` over and over if there are any, and seeds."""
        labels = list(itertools.islice(itertools.cycle(names), count)) if names else classes(pipe, count)
        return labels, range(args.seed, args.seed + count)

    with one_line_errors():
        image = encode_seeds(pipe, *chosen(1))  # (1, L, n, 3)
        sources, targets = (encode_seeds(pipe, *chosen(count), space="w") for count in (4, 3))
        frames = walk(pipe, *chosen(4), 48, loop=True)
    film = draw_frames(pipe, frames, height=128, width=128)
    pictures = {
        "samples.png": lambda: draw_samples(pipe, args.seed),
        "sizes.png": lambda: draw_sizes(pipe, image),
        "beyond_the_border.png": lambda: extrapolate(pipe, image, (-0.5, -0.5, 1.5, 1.5), 512, 512)[0],
        "style_mixing.png": lambda: style_mixing_grid(pipe, sources, targets, height=96, width=96),
    }
    for name, draw in pictures.items():
        draw().save(args.output / name)
        print(args.output / name, flush=True)
    save_film(film, args.output / "walk.gif")
    (args.output / "index.html").write_text(page(), encoding="utf-8")
    print(args.output / "walk.gif", args.output / "index.html", sep="\n")


if __name__ == "__main__":
    main()
