"""Draw what the model can do into a folder: a mix, a walk, one image at three sizes, beyond its border, samples.

`index.html` in the folder shows them all.

    python scripts/demo.py --output out
    python scripts/demo.py --class pizza octopus --output out

Uses the checkpoint in pretrained/poly-inr-emoji; while there is none, a small untrained network.
"""

import html
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import make_image_grid
from PIL import Image

from arguments import CallbackProgress, ProgressBar, one_line_errors, say
from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.commands import make_parser
from polyinr_hf.devices import describe
from polyinr_hf.editing import draw_frames, encode_seeds, extrapolate, interpolate, save_film, style_mixing_grid
from polyinr_hf.images import caption

PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained" / "poly-inr-emoji"
# Classes of the bundled checkpoint, and the seeds at which they were found to look best; the first is drawn large.
WALKED = {"cowboy-hat-face": 4, "avocado": 9, "penguin": 20, "hamburger": 9, "butterfly": 19, "frog": 1}
MIXED = {"butterfly": 4, "frog": 4, "red-apple": 4, "smiling-face-with-horns": 4, "panda": 4, "cold-face": 4}
MIXED_INTO = {"grinning-face-with-big-eyes": 4, "avocado": 9}
BEYOND = {"rainbow": 19}  # which touches its border; beyond that of most there is white
COLUMNS = 8
MOST_ROWS = 24  # of one class each
SIZES = (64, 512, 2048)  # pixels, of the same image
PANEL = 512  # pixels, of each in the picture
TOLERANCE = 0.1  # of the large ones
CAPTIONS = {
    "walk.gif": "A walk from image to image: every frame is an image of its own.",
    "style_mixing.png": "Levels of the images above copied into those at the left: coarse levels carry the outline, "
    "fine ones the colors.",
    "sizes.png": "One image at 64 pixels, these enlarged (bicubic), and drawn at 512 and 2,048 pixels: one function, "
    "sampled more densely. Below, a detail of each.",
    "beyond_the_border.png": "An image beyond its border, which is drawn in yellow: the function goes on.",
    "samples.png": "Samples, 64 x 64 pixels each, not chosen.",
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
    images = list(ProgressBar(draw_frames(pipe, A, height=64, width=64), total=len(A), unit="image"))
    return make_image_grid(images, rows=rows, cols=columns)


def detail(image: Image.Image, left: int, top: int) -> Image.Image:
    """A quarter of the image's side, from a corner counted in eighths of it."""
    size = image.width
    return image.crop((left * size // 8, top * size // 8, (left + 2) * size // 8, (top + 2) * size // 8))


def draw_sizes(pipe: PolyINRPipeline, A: torch.Tensor) -> Image.Image:
    """The image at every size of `SIZES`, the smallest also enlarged; below, a detail of each: pixels, blur, edges."""
    images = {f"{size:,} px": draw_large(pipe, A, size) for size in SIZES}
    small, *larger = images.values()
    enlarged = small.resize((SIZES[-1], SIZES[-1]), Image.Resampling.BICUBIC)
    columns = {f"{SIZES[0]} px": small, f"{SIZES[0]} px, enlarged (bicubic)": enlarged}
    columns |= dict(zip(list(images)[1:], larger, strict=True))
    corners = itertools.product(range(7), repeat=2)
    left, top = max(corners, key=lambda corner: np.std(detail(small, *corner), axis=(0, 1)).sum())  # most to see
    whole, details = [], []
    for text, image in columns.items():
        sampling = Image.Resampling.NEAREST if image.width <= PANEL else Image.Resampling.LANCZOS
        whole.append(caption(image.resize((PANEL, PANEL), sampling), text, above=True))
        details.append(caption(detail(image, left, top).resize((PANEL, PANEL), Image.Resampling.NEAREST), ""))
    return make_image_grid(whole + details, rows=2, cols=len(columns))


def draw_mix(pipe: PolyINRPipeline, sources: torch.Tensor, targets: torch.Tensor) -> Image.Image:
    with CallbackProgress("picture") as progress:
        return style_mixing_grid(pipe, sources, targets, callback=progress.update, height=96, width=96)


def draw_large(pipe: PolyINRPipeline, A: torch.Tensor, size: int) -> Image.Image:
    """The image at a size, where it is larger than a panel only where there is detail."""
    tolerance = TOLERANCE if size > PANEL else 0.0
    return pipe(affine_parameters=A, height=size, width=size, tolerance=tolerance).images[0]


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
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", help="pipeline folder or Hub id (default: pretrained/poly-inr-emoji)")
    parser.add_argument(
        "--class",
        dest="class_labels",
        nargs="+",
        metavar="CLASS",
        help="classes that are drawn large, walked between and mixed (default: some of the bundled checkpoint, evenly "
        "spread ones of any other)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        help="random seed of the first image (default: chosen ones of the bundled checkpoint, else 0)",
    )
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for the images (default: out)")
    args = parser.parse_args(argv)
    with one_line_errors():
        pipe = load_pipeline(args.pipeline)
        args.output.mkdir(parents=True, exist_ok=True)
    pipe.set_progress_bar_config(disable=True)
    seed = args.seed or 0
    is_chosen = args.class_labels is None and args.seed is None and args.pipeline is None and PRETRAINED.is_dir()

    def encode(picked: dict[str, int], count: int, space: str = "affine") -> torch.Tensor:
        """The images picked; of another pipeline or of classes asked for, `count` with seeds one after the other."""
        if is_chosen:
            return encode_seeds(pipe, list(picked), list(picked.values()), space=space)
        names = args.class_labels
        labels = list(itertools.islice(itertools.cycle(names), count)) if names else classes(pipe, count)
        return encode_seeds(pipe, labels, range(seed, seed + count), space=space)

    with one_line_errors():
        walked = encode(WALKED, 4, "w")
        beyond, sources, targets = encode(BEYOND, 1), encode(MIXED, 4, "w"), encode(MIXED_INTO, 3, "w")
    image = pipe.encode(w=walked[:1])  # (1, L, n, 3)
    frames = interpolate(walked, 12 * len(walked), loop=True, easing="smooth").split(1)
    film = draw_frames(pipe, (pipe.encode(w=frame) for frame in frames), height=128, width=128)
    pictures = {  # the quick ones first
        "beyond_the_border.png": lambda: extrapolate(
            pipe, beyond, (-0.5, -0.5, 1.5, 1.5), 512, 512, tolerance=TOLERANCE
        )[0],
        "style_mixing.png": lambda: draw_mix(pipe, sources, targets),
        "sizes.png": lambda: draw_sizes(pipe, image),
        "samples.png": lambda: draw_samples(pipe, seed),
    }
    (args.output / "index.html").write_text(page(), encoding="utf-8")
    print(
        f"{len(CAPTIONS)} pictures for {args.output / 'index.html'}, the quick ones first", file=sys.stderr, flush=True
    )
    for name, draw in pictures.items():
        draw().save(args.output / name)
        say(args.output / name)
    with ProgressBar(film, total=len(frames), unit="frame") as progress:
        save_film(progress, args.output / "walk.gif")
    say(args.output / "walk.gif")
    say(args.output / "index.html")


if __name__ == "__main__":
    main()
