"""Invert held-out emoji and photographs, tune the weights to each, near and close, and measure all three.

    python scripts/measure_inversion.py --pipeline pretrained/poly-inr-emoji --dataset data/emoji-256 --output out
    python scripts/measure_inversion.py --pipeline MODEL --dataset data/emoji-64 --sizes 64 --num_emoji 4 --output trial
    python scripts/measure_inversion.py --pipeline MODEL --num_emoji 0 --methods close --output photographs

The photographs are five that come with scikit-image. Each result is kept under OUTPUT/results as it is found, and a
stopped run is resumed from there. Prints a table; writes inversion.json and, for each size, a picture with a row for
the originals and for each method, and one of the photographs edited: zoomed into, and mixed with a sample.
"""

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from tqdm import tqdm

from arguments import one_line_errors
from polyinr_hf import PolyINRPipeline, data, editing, inversion
from polyinr_hf._lazy import naming_extra
from polyinr_hf.commands import make_parser
from polyinr_hf.files import replace_file
from polyinr_hf.images import load_photo, preprocess_image

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
METHODS = ("inverted", "near", "close")
FIGURES = {"psnr": 2, "ssim": 3, "seconds": 0}  # with the digits that the table shows
COLUMNS = 13  # of a picture
ZOOM = ((0.5, 0.5), 4.0)  # center and factor of the detail among the edits
EDIT_SIZE = 256  # pixels of a side: drawn larger than what was fitted


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument("--dataset", help="folder or Hub id of the emoji, unless there are none")
    parser.add_argument("--split", default="heldout", help="split of the dataset (default: heldout)")
    parser.add_argument(
        "--num_emoji", type=int, default=20, help="number of emoji, spread evenly over the split (default: 20)"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="sides in pixels (default: 64 128)")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, help="methods to measure (default: all)"
    )
    parser.add_argument(
        "--backbone",
        default="tf_efficientnet_lite0",
        help="timm name of the network whose features are compared, or none (default: %(default)s)",
    )
    parser.add_argument("--weights", help="file with the backbone's weights")
    parser.add_argument("--num_steps", type=int, help="number of Adam steps of the inversion (default: its own)")
    parser.add_argument("--num_refine_steps", type=int, help="number of L-BFGS iterations (default: its own)")
    parser.add_argument("--num_tuning_steps", type=int, help="number of steps of both tunings (default: their own)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of starts and pixels (default: 0)")
    parser.add_argument("--device", default="cpu", help="device to run on, such as cpu or cuda (default: cpu)")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for results (default: out)")
    return parser.parse_args(argv)


def load_images(args, size: int) -> dict[str, Image.Image]:
    """Name -> RGB image (size, size): emoji, then photographs, their middle square."""
    with naming_extra("measure_inversion.py", "eval"):
        import skimage.data

    images = {}
    dataset = data.load_image_dataset(args.dataset, split=args.split) if args.num_emoji else None
    for number in range(args.num_emoji):
        index = number * len(dataset) // args.num_emoji
        images[f"emoji-{index:04d}"] = dataset.decode(dataset.dataset[index], index, size)[0]
    for name in PHOTOS:
        photo = load_photo(Path(skimage.data.__file__).with_name(name))
        images[Path(name).stem] = preprocess_image(photo, size)
    return {name: Image.fromarray(image.permute(1, 2, 0).numpy()) for name, image in images.items()}


def settings_of(args) -> dict:
    names = ("pipeline", "dataset", "split", "backbone", "num_steps", "num_refine_steps", "num_tuning_steps", "seed")
    return {name: getattr(args, name) for name in names}


def measure(pipe, image: Image.Image, folder: Path, args, progress: tqdm) -> dict:
    """The figures of each method for one image; those that its folder holds are taken from there."""
    record, settings = folder / "figures.json", settings_of(args)
    figures = {"settings": settings}
    if record.exists():
        figures = json.loads(record.read_text())
        if figures["settings"] != settings:
            raise ValueError(f"`--output`: {folder} was measured with other settings, {figures['settings']}.")
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / "original.png")
    for method in args.methods:
        if method in figures:
            continue

        def show(step, method=method):
            text = f"{folder.name} {folder.parent.name} px, {method}: {step.step}/{step.num_steps}"
            progress.set_postfix_str(f"{text}, loss {step.loss:.2g}")

        options = {"generator": torch.Generator().manual_seed(args.seed), "callback": show}
        options |= {"checkpoint": folder / "state.pt"}
        if method == "inverted":
            changes = {"num_steps": args.num_steps, "num_refine_steps": args.num_refine_steps}
            options |= {"backbone": None if args.backbone == "none" else args.backbone, "weights": args.weights}
            result = inversion.invert(pipe, image, **options, settings=inversion.InversionSettings(**given(changes)))
            result.save(folder / "inverted.safetensors")
        else:
            start = inversion.load_affine_parameters(folder / "inverted.safetensors") if method == "near" else None
            changes = given({"num_steps": args.num_tuning_steps})
            options |= {"settings": replace(inversion.STRENGTHS[method], **changes)}
            tuned, result = inversion.tune(pipe, image, start, **options)
            edits(tuned, result.affine_parameters).save(folder / f"{method}_edits.png")
        result.image.save(folder / f"{method}.png")
        figures[method] = {figure: getattr(result, figure) for figure in FIGURES}
        with replace_file(record) as partial:
            partial.write_text(json.dumps(figures))
        (folder / "state.pt").unlink()
    return figures


def given(changes: dict) -> dict:
    return {name: value for name, value in changes.items() if value is not None}


def edits(tuned: PolyINRPipeline, A) -> Image.Image:
    """An image drawn larger, a detail of it, a sample of its pipeline, and the image with the sample's levels."""
    tuned.set_progress_bar_config(disable=True)
    sample = editing.encode_seeds(tuned, None if not tuned.labels else 0, 0)
    size = {"height": EDIT_SIZE, "width": EDIT_SIZE}
    drawn = [(A, {}), (A, {"extent": editing.detail(*ZOOM)}), (sample, {})]
    drawn += [(editing.mix_levels(A, sample, levels), {}) for levels in ("coarse", "fine")]
    images = [tuned(affine_parameters=each, **size, **options).images[0] for each, options in drawn]
    return make_image_grid(images, rows=1, cols=len(images))


def contact_sheet(folder: Path, names: list[str], rows: list[str], size: int) -> Image.Image:
    """A column for each image, of `rows`; images that do not fit beside each other come below."""
    columns = min(COLUMNS, len(names))
    blank, pictures = Image.new("RGB", (size, size), "white"), []
    for start in range(0, len(names), columns):
        for row in rows:
            shown = [Image.open(folder / name / f"{row}.png") for name in names[start : start + columns]]
            pictures += shown + [blank] * (columns - len(shown))
    return make_image_grid(pictures, rows=len(pictures) // columns, cols=columns, resize=size)


def table(results: list[dict], methods: list[str]) -> str:
    """Means for each size and method, of emoji and photographs apart, in Markdown."""
    lines = ["| size | images | method | PSNR | SSIM | seconds |", "|" + "---|" * 6]
    for size in sorted({row["size"] for row in results}):
        rows = [row for row in results if row["size"] == size]
        emoji = [row for row in rows if re.match("emoji-", row["image"])]
        photos = [row for row in rows if row not in emoji]
        for name, group in (("emoji", emoji), ("photographs", photos)):
            for method in methods if group else ():
                means = [statistics.fmean(row[method][figure] for row in group) for figure in FIGURES]
                cells = [f"{value:.{digits}f}" for value, digits in zip(means, FIGURES.values(), strict=True)]
                lines.append(f"| {size} | {len(group)} {name} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(args) -> None:
    pipe = PolyINRPipeline.from_pretrained(args.pipeline).to(args.device)
    images = {size: load_images(args, size) for size in args.sizes}
    results, methods = [], [method for method in METHODS if method in args.methods]
    with tqdm(total=sum(map(len, images.values())), unit="image") as progress:
        for size, named in images.items():
            for name, image in named.items():
                figures = measure(pipe, image, args.output / "results" / str(size) / name, args, progress)
                results.append({"image": name, "size": size} | {method: figures[method] for method in methods})
                progress.update()
    content = {"settings": settings_of(args), "results": results}
    with replace_file(args.output / "inversion.json") as partial:
        partial.write_text(json.dumps(content, indent=1))
    print(table(results, methods))
    tuned = [method for method in methods if method != "inverted"]
    for size, named in images.items():
        folder, path = args.output / "results" / str(size), args.output / f"inversion_{size}.png"
        contact_sheet(folder, list(named), ["original", *methods], size).save(path)
        print(path)
        photographs = [Image.open(folder / Path(name).stem / f"{way}_edits.png") for name in PHOTOS for way in tuned]
        if photographs:
            path = args.output / f"edits_{size}.png"
            make_image_grid(photographs, rows=len(photographs), cols=1).save(path)
            print(path)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        if args.num_emoji < 0 or min(args.sizes) < 11:
            raise ValueError("`--num_emoji` must be 0 or more and `--sizes` at least 11.")
        if args.num_emoji and args.dataset is None:
            raise ValueError("`--dataset` is required, unless `--num_emoji` is 0.")
        if "near" in args.methods and "inverted" not in args.methods:
            raise ValueError("`--methods` near starts from inverted: name both.")
        run(args)


if __name__ == "__main__":
    main()
