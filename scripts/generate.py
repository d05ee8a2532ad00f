"""Generate images, one PNG for each class and seed.

    python scripts/generate.py --list_classes pen    # the class names that contain it; without a word, all of them
    python scripts/generate.py --class penguin avocado --seeds 0-23 --distinct --grid --output out
    python scripts/generate.py --pipeline poly-inr-imagenet --class goldfish 207 --seeds 0-3,9 --truncation_psi 0.7 \\
        --height 512 --width 768 --extent -0.25 -0.25 1.25 1.25 --output out
    python scripts/generate.py --pipeline poly-inr-imagenet --class 135 --seeds 1-20 --seed_source numpy \\
        --truncation_psi 0.6 --output out    # the authors' gen_images.py --class 135 --seeds 1-20 --trunc 0.6

The same class and seed give the same image at every size and extent. Prints the path of every file written.
"""

import math
import os
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from safetensors.torch import save_file

from arguments import (
    ProgressBar,
    add_pipeline_arguments,
    add_sampling_arguments,
    add_tolerance_argument,
    check_class_labels,
    check_output_folder,
    class_names,
    load_pipeline,
    one_line_errors,
    parse_seeds,
    sampling,
    say,
)
from polyinr_hf import PolyINRPipeline
from polyinr_hf.commands import make_parser
from polyinr_hf.editing import designs, draw_latents, encode_seeds
from polyinr_hf.files import replace_file
from polyinr_hf.images import caption

MAX_NAME_BYTES = 180  # of a class in a file name; file systems allow 255 for all of it


def parse_args(argv=None):
    parser = make_parser(__doc__)
    add_pipeline_arguments(parser)
    parser.add_argument(
        "--seeds", "--seed", type=parse_seeds, default=[0], help="random seeds, such as 7, 0-15 or 0-3,9 (default: 0)"
    )
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument(
        "--class",
        dest="class_labels",
        nargs="+",
        action="extend",
        metavar="CLASS",
        help="class names or ids; leave out for an unconditional model",
    )
    classes.add_argument(
        "--list_classes",
        nargs="*",
        metavar="WORD",
        help="print the class names, or those that contain WORD, one per line, and draw nothing",
    )
    parser.add_argument(
        "--distinct",
        action="store_true",
        help="draw one of the seeds for each design of a class, and say how many designs there are",
    )
    add_sampling_arguments(parser)
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
    parser.add_argument(
        "--save",
        action="store_true",
        help="write w and the affine parameters of each image, too, NAME.safetensors, for edit.py --parameters",
    )
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for the images (default: out)")
    return parser.parse_args(argv)


def hyphenate(name: str) -> str:
    """A class name in lower case, with a hyphen for whatever parts its words; letters of every alphabet stay."""
    return re.sub(r"[\W_]+", "-", unicodedata.normalize("NFC", name.casefold())).strip("-")


def find_classes(pipe: PolyINRPipeline, text: str) -> list[str]:
    """The class names that contain `text`, sorted; case does not matter, nor what parts words.

    Raises:
        ValueError: for a pipeline without class names, or a text that no name contains.
    """
    if not pipe.id2label:
        count = pipe.generator.config.num_classes
        found = f"{count} classes without names, 0 to {count - 1}" if count else "no classes"
        raise ValueError(f"`--list_classes` must come with a pipeline that has class names, this one has {found}.")
    names = [name for name in pipe.labels if hyphenate(text) in hyphenate(name)]
    if not names:
        raise ValueError(f"`--list_classes` must be a part of one of {len(pipe.labels):,} class names, got {text!r}.")
    return names


def print_names(names: list[str]) -> None:
    """Prints a name a line, as many as the reader wants, which may be `head`."""
    try:
        print(*names, sep="\n", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes what is left when it ends


def file_stems(pipe: PolyINRPipeline) -> list[str]:
    """The first name of each class as part of a file name that no other class has: namesakes get their id, crane_134.

    What parts words is a hyphen, so that an underscore is an id's alone.
    """
    num_classes = pipe.generator.config.num_classes
    names = class_names(pipe, list(range(num_classes))) if num_classes else []
    stems = [hyphenate(name).encode()[:MAX_NAME_BYTES].decode(errors="ignore") for name in names]
    counts = Counter(stems)
    return [stem if stem and counts[stem] == 1 else f"{stem or 'class'}_{key}" for key, stem in enumerate(stems)]


def contact_sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """A row for each class; the images of a single one as near to a square as they go. Names are below them."""
    columns = max(map(len, rows)) if len(rows) > 1 else math.ceil(math.sqrt(len(rows[0])))
    blank = Image.new("RGB", rows[0][0].size, "white")
    images = [image for row in rows for image in [*row, *[blank] * (-len(row) % columns)]]
    return make_image_grid(images, rows=len(images) // columns, cols=columns)


def seeds_of_classes(pipe: PolyINRPipeline, args, classes: list[int] | None) -> list[list[int]]:
    """The seeds to draw of each class: those asked for or, with --distinct, one for each design of the class."""
    seeds = list(dict.fromkeys(args.seeds))  # the same class or seed twice is the same image
    if not args.distinct:
        return [seeds for _ in classes or [None]]
    given = [name for name in ("truncation_cutoff", "centroids") if getattr(args, name) is not None]
    if args.seed_source != "torch" or given:
        raise ValueError(f"`--distinct` must come without --{given[0] if given else 'seed_source numpy'}.")
    chosen = []
    for label in classes or [None]:
        groups = designs(pipe, label, seeds, args.truncation_psi)
        chosen.append(sorted(group[0] for group in groups))
        name = class_names(pipe, [label])[0] if classes else "images"
        print(f"{name}: {len(groups)} design{'s' * (len(groups) > 1)} among {len(seeds)} seeds", file=sys.stderr)
    return chosen


def generate(args) -> None:
    pipe = load_pipeline(args)
    if args.list_classes is not None:
        print_names(find_classes(pipe, " ".join(args.list_classes)))
        return
    check_output_folder(args.output)
    classes = args.class_labels and list(dict.fromkeys(check_class_labels(pipe, args.class_labels)))
    for label in args.class_labels or []:
        if label.isdecimal() and pipe.id2label:
            print(f"class {label}: {class_names(pipe, [label])[0]}", file=sys.stderr)
    stems, options = file_stems(pipe), sampling(pipe, args)
    rows: list[list[Image.Image]] = [[] for _ in classes or [None]]
    drawing = {"height": args.height, "width": args.width, "extent": tuple(args.extent), "tolerance": args.tolerance}
    chosen = seeds_of_classes(pipe, args, classes)
    with ProgressBar(total=sum(map(len, chosen)), unit="image") as progress:
        for seed in dict.fromkeys(seed for seeds in chosen for seed in seeds):
            drawn = [index for index, seeds in enumerate(chosen) if seed in seeds]
            labels = classes and [classes[index] for index in drawn]
            ids, _ = draw_latents(pipe, labels, seed, args.seed_source)
            w = encode_seeds(pipe, labels, seed, space="w", **options)
            images = pipe(w=w, **drawing).images
            args.output.mkdir(parents=True, exist_ok=True)
            for position, (index, image) in enumerate(zip(drawn, images, strict=True)):
                stem = f"{stems[ids[position]]}-seed{seed:04d}" if ids else f"seed{seed:04d}"
                image.save(args.output / f"{stem}.png")
                say(args.output / f"{stem}.png")
                if args.save:
                    save_parameters(pipe, w[position : position + 1], args.output / f"{stem}.safetensors")
                if args.grid:
                    name = f"{class_names(pipe, [ids[position]])[0]} {seed}" if ids else f"seed {seed}"
                    rows[index].append(caption(image, name))
            progress.update(len(drawn))
    if args.grid:
        contact_sheet(rows).save(args.output / "grid.png")
        say(args.output / "grid.png")


def save_parameters(pipe: PolyINRPipeline, w: torch.Tensor, path: Path) -> None:
    """Writes w (1, L, w_dim) and A (1, L, n, 3) of an image as a safetensors file."""
    tensors = {"w": w, "affine_parameters": pipe.encode(w=w)}
    with replace_file(path) as partial:
        save_file({name: tensor.float().contiguous().cpu() for name, tensor in tensors.items()}, partial)
    say(path)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        generate(args)


if __name__ == "__main__":
    main()
