"""Draw a few images into a folder: samples, one image at 64 and at 512 pixels, and what lies beyond its border.

    python scripts/demo.py --output out

Uses the checkpoint in pretrained/poly-inr-emoji; while there is none, a small untrained network.
"""

import argparse
import sys
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image, ImageDraw

from polyinr_hf import PolyINRGenerator, PolyINRPipeline

PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained" / "poly-inr-emoji"
SAMPLES, COLUMNS = 32, 8
MARGIN = 0.5  # how far beyond the border, in sides of the image


def load_pipeline(path: str | None) -> PolyINRPipeline:
    if path is not None or PRETRAINED.is_dir():
        return PolyINRPipeline.from_pretrained(path or PRETRAINED)
    print(f"There is no trained checkpoint in {PRETRAINED.relative_to(PRETRAINED.parents[1])}:")
    print("these images come from UNTRAINED weights. They show the machinery, not what the model can learn.")
    torch.manual_seed(0)
    return PolyINRPipeline(PolyINRGenerator(channels=128, num_classes=None, sample_size=64).eval())


def draw(pipe: PolyINRPipeline, seeds: range, **settings) -> list[Image.Image]:
    """An image for each seed, of the classes in turn."""
    num_classes = pipe.generator.config.num_classes
    return pipe(
        class_labels=[i % num_classes for i in range(len(seeds))] if num_classes else None,
        num_images_per_label=1 if num_classes else len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **settings,
    ).images


def draw_both_sizes(pipe: PolyINRPipeline, seed: int) -> Image.Image:
    """The image at 64 pixels, enlarged to be seen, beside the same image at 512."""
    small, large = (draw(pipe, range(seed, seed + 1), height=size, width=size)[0] for size in (64, 512))
    return make_image_grid([small.resize(large.size, Image.Resampling.NEAREST), large], rows=1, cols=2)


def draw_beyond(pipe: PolyINRPipeline, seed: int) -> Image.Image:
    """The image and its surroundings, the border marked."""
    extent = (-MARGIN, -MARGIN, 1 + MARGIN, 1 + MARGIN)
    image = draw(pipe, range(seed, seed + 1), height=512, width=512, extent=extent)[0]
    start, end = (round(511 * (x + MARGIN) / (1 + 2 * MARGIN)) for x in (0, 1))
    ImageDraw.Draw(image).rectangle((start, start, end, end), outline="white")
    return image


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", help="pipeline folder or Hub id (default: pretrained/poly-inr-emoji)")
    parser.add_argument("--seed", type=int, default=0, help="of the first image (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for the images (default: out)")
    args = parser.parse_args(argv)
    try:
        pipe = load_pipeline(args.pipeline)
        args.output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

    samples = draw(pipe, range(args.seed, args.seed + SAMPLES))
    images = {
        "samples.png": make_image_grid(samples, rows=SAMPLES // COLUMNS, cols=COLUMNS),
        "64_and_512_pixels.png": draw_both_sizes(pipe, args.seed),
        "beyond_the_border.png": draw_beyond(pipe, args.seed),
    }
    for name, image in images.items():
        image.save(args.output / name)
        print(args.output / name)


if __name__ == "__main__":
    main()
