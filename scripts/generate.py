"""Generate images, one PNG for each class and seed.

    python scripts/generate.py --pipeline pretrained/poly-inr-emoji --class penguin --seeds 0-15 --grid --output out
    python scripts/generate.py --pipeline poly-inr-imagenet --class goldfish 207 --seeds 0-3,9 --truncation_psi 0.7 \\
        --height 512 --width 768 --extent -0.25 -0.25 1.25 1.25 --output out

The same class and seed give the same image at every size and extent. Prints the path of every file written.
"""

import argparse
import math
import re
import sys
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from tqdm import tqdm

from arguments import (
    add_pipeline_arguments,
    add_tolerance_argument,
    class_name,
    load_pipeline,
    one_line_errors,
    parse_seeds,
)
from polyinr_hf import PolyINRPipeline
from polyinr_hf.images import caption


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pipeline_arguments(parser)
    parser.add_argument(
        "--seeds", "--seed", type=parse_seeds, default=[0], help="random seeds, such as 7, 0-15 or 0-3,9 (default: 0)"
    )
    parser.add_argument(
        "--class",
        dest="class_labels",
        nargs="+",
        action="extend",
        metavar="CLASS",
        help="class names or ids; leave out for an unconditional model",
    )
    parser.add_argument(
        "--truncation_psi",
        type=float,
        help="truncation; below 1, images are more typical and less varied (default: the pipeline's own)",
    )
    parser.add_argument("--truncation_cutoff", type=int, help="truncate only the levels below this one")
    parser.add_argument("--height", type=int, help="height in pixels (default: the pipeline's own)")
    parser.add_argument("--width", type=int, help="width in pixels (default: the pipeline's own)")
    parser.add_argument(
        "--extent",
        type=float,
        nargs=4,
        default=(0.0, 0.0, 1.0, 1.0),
        metavar=("TOP", "LEFT", "BOTTOM", "RIGHT"),
        help="region to draw; 0 0 1 1 is the image, a smaller one zooms in, a larger one goes beyond the border",
    )
    add_tolerance_argument(parser)
    parser.add_argument("--grid", action="store_true", help="write a contact sheet, grid.png, too")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for the images (default: out)")
    return parser.parse_args(argv)


def file_name(pipe: PolyINRPipeline, label: str | None, seed: int) -> str:
    """goldfish-seed0007.png, from the class's first name; seed0007.png for an unconditional model."""
    if label is None:
        return f"seed{seed:04d}.png"
    name = class_name(pipe, label)
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-seed{seed:04d}.png"


def contact_sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """A row for each class; the images of a single one as near to a square as they go. Names are below them."""
    images = [image for row in rows for image in row]
    columns = len(rows[0]) if len(rows) > 1 else math.ceil(math.sqrt(len(images)))
    count = math.ceil(len(images) / columns)
    images += [Image.new("RGB", images[0].size, "white")] * (count * columns - len(images))
    return make_image_grid(images, rows=count, cols=columns)


def generate(args) -> None:
    pipe = load_pipeline(args)
    labels = args.class_labels or [None]
    rows = [[] for _ in labels]
    for label in args.class_labels or []:
        if label.isdecimal() and pipe.generator.config.num_classes:
            print(f"class {label}: {class_name(pipe, label)}", file=sys.stderr)
    progress = tqdm(total=len(labels) * len(args.seeds), unit="image")
    for seed in args.seeds:
        images = pipe(
            class_labels=args.class_labels,
            truncation_psi=args.truncation_psi,
            truncation_cutoff=args.truncation_cutoff,
            height=args.height,
            width=args.width,
            extent=tuple(args.extent),
            tolerance=args.tolerance,
            generator=[torch.Generator().manual_seed(seed) for _ in labels],
        ).images
        args.output.mkdir(parents=True, exist_ok=True)
        for label, row, image in zip(labels, rows, images, strict=True):
            path = args.output / file_name(pipe, label, seed)
            image.save(path)
            print(path, flush=True)
            if args.grid:
                row.append(caption(image, f"{class_name(pipe, label)} {seed}" if label is not None else f"seed {seed}"))
        progress.update(len(labels))
    progress.close()
    if args.grid:
        contact_sheet(rows).save(args.output / "grid.png")
        print(args.output / "grid.png")


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        generate(args)


if __name__ == "__main__":
    main()
