"""Invert held-out emoji and photographs, tune the weights around each, and measure both.

    python scripts/measure_inversion.py --pipeline pretrained/poly-inr-emoji --dataset data/emoji-256 --output out
    python scripts/measure_inversion.py --pipeline MODEL --dataset data/emoji-64 --sizes 64 --num_emoji 4 --output trial

The photographs are five that come with scikit-image. Each image's result is kept under OUTPUT/results as it is found,
and a stopped run goes on from there. Prints a table; writes inversion.json, and a picture for each size: original,
inverted, tuned.
"""

import argparse
import json
import re
import statistics
from pathlib import Path

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from tqdm import tqdm

from arguments import one_line_errors
from polyinr_hf import PolyINRPipeline, data, inversion
from polyinr_hf.files import replace_file
from polyinr_hf.images import load_photo, preprocess_image

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
COLUMNS = 13  # of a picture
FIGURES = ("psnr", "ssim", "seconds", "tuned_psnr", "tuned_ssim", "tuned_seconds")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument("--dataset", required=True, help="folder or Hub id of the emoji")
    parser.add_argument("--split", default="heldout", help="split of the dataset (default: heldout)")
    parser.add_argument("--num_emoji", type=int, default=20, help="spread evenly over the split (default: 20)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="pixels (default: 64 128)")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm name (default: %(default)s)")
    parser.add_argument("--weights", help="file with the backbone's weights")
    parser.add_argument("--num_steps", type=int, default=40, help="of Adam (default: 40)")
    parser.add_argument("--num_refine_steps", type=int, default=300, help="of L-BFGS (default: 300)")
    parser.add_argument("--coarse_side", type=int, default=32, help="of the smallest copy, in pixels (default: 32)")
    parser.add_argument("--coarse_share", type=float, default=0.9, help="of L-BFGS's steps on copies (default: 0.9)")
    parser.add_argument("--precision", default="bfloat16", help="of Adam and tuning, or float32 (default: bfloat16)")
    parser.add_argument("--num_tuning_steps", type=int, default=150, help="of the weights (default: 150)")
    parser.add_argument("--locality_weight", type=float, default=0.1, help="how much other images stay (default: 0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of starts and pixels (default: 0)")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda (default: cpu)")
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for results (default: out)")
    return parser.parse_args(argv)


def load_images(args, size: int) -> dict[str, Image.Image]:
    """Name -> RGB image (size, size): emoji, then photographs, their middle square."""
    import skimage.data

    images = {}
    dataset = data.load_image_dataset(args.dataset, split=args.split)
    for number in range(args.num_emoji):
        index = number * len(dataset) // args.num_emoji
        images[f"emoji-{index:04d}"] = dataset.decode(dataset.dataset[index], index, size)[0]
    for name in PHOTOS:
        photo = load_photo(Path(skimage.data.__file__).with_name(name))
        images[Path(name).stem] = preprocess_image(photo, size)
    return {name: Image.fromarray(image.permute(1, 2, 0).numpy()) for name, image in images.items()}


def settings_of(args) -> dict:
    names = ("pipeline", "dataset", "split", "backbone", "num_steps", "num_refine_steps")
    names += ("coarse_side", "coarse_share", "precision")
    return {name: getattr(args, name) for name in (*names, "num_tuning_steps", "locality_weight", "seed")}


def measure(pipe, image: Image.Image, folder: Path, args, progress: tqdm) -> dict:
    """The figures of one image, from its folder if they are there."""
    record, settings = folder / "figures.json", settings_of(args)
    if record.exists():
        known = json.loads(record.read_text())
        if known["settings"] != settings:
            raise ValueError(f"`--output`: {folder} was measured with other settings, {known['settings']}.")
        return known

    def show(step):
        text = f"{folder.name} {folder.parent.name} px: {step.step}/{step.num_steps}, loss {step.loss:.2g}"
        progress.set_postfix_str(text)

    inverted = inversion.invert(
        pipe,
        image,
        backbone=args.backbone,
        weights=args.weights,
        settings=inversion.InversionSettings(
            num_steps=args.num_steps,
            num_refine_steps=args.num_refine_steps,
            coarse_side=args.coarse_side,
            coarse_share=args.coarse_share,
            precision=args.precision,
        ),
        generator=torch.Generator().manual_seed(args.seed),
        callback=show,
        checkpoint=folder / "state.pt",
    )
    inverted.save(folder / "inverted.safetensors")
    A = inversion.load_affine_parameters(folder / "inverted.safetensors")
    tuned = inversion.tune(
        pipe,
        image,
        A,
        settings=inversion.TuningSettings(
            num_steps=args.num_tuning_steps, locality_weight=args.locality_weight, precision=args.precision
        ),
        generator=torch.Generator().manual_seed(args.seed),
        callback=show,
    )[1]
    for name, picture in (("original", image), ("inverted", inverted.image), ("tuned", tuned.image)):
        picture.save(folder / f"{name}.png")
    figures = {"psnr": inverted.psnr, "ssim": inverted.ssim, "seconds": inverted.seconds}
    figures |= {"tuned_psnr": tuned.psnr, "tuned_ssim": tuned.ssim, "tuned_seconds": tuned.seconds}
    figures |= {"settings": settings}
    with replace_file(record) as partial:
        partial.write_text(json.dumps(figures))
    (folder / "state.pt").unlink()
    return figures


def contact_sheet(folder: Path, names: list[str], size: int) -> Image.Image:
    """A column for each image: original, inverted, tuned; images that do not fit beside each other come below."""
    columns = min(COLUMNS, len(names))
    blank, pictures = Image.new("RGB", (size, size), "white"), []
    for start in range(0, len(names), columns):
        for row in ("original", "inverted", "tuned"):
            shown = [Image.open(folder / name / f"{row}.png") for name in names[start : start + columns]]
            pictures += shown + [blank] * (columns - len(shown))
    return make_image_grid(pictures, rows=len(pictures) // columns, cols=columns, resize=size)


def table(results: list[dict]) -> str:
    """Means for each size, and for emoji and photographs apart, in Markdown."""
    lines = ["| size | images | PSNR | SSIM | seconds | tuned: PSNR | SSIM | seconds |", "|" + "---|" * 8]
    for size in sorted({row["size"] for row in results}):
        rows = [row for row in results if row["size"] == size]
        emoji = [row for row in rows if re.match("emoji-", row["image"])]
        photos = [row for row in rows if row not in emoji]
        for name, group in (("emoji", emoji), ("photographs", photos), ("all", rows)):
            if group:
                means = [statistics.fmean(row[figure] for row in group) for figure in FIGURES]
                cells = [f"{value:.{digits}f}" for value, digits in zip(means, (2, 3, 0) * 2, strict=True)]
                lines.append(f"| {size} | {len(group)} {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def run(args) -> None:
    pipe = PolyINRPipeline.from_pretrained(args.pipeline).to(args.device)
    images = {size: load_images(args, size) for size in args.sizes}
    results = []
    with tqdm(total=sum(map(len, images.values())), unit="image") as progress:
        for size, named in images.items():
            for name, image in named.items():
                figures = measure(pipe, image, args.output / "results" / str(size) / name, args, progress)
                results.append({"image": name, "size": size} | {figure: figures[figure] for figure in FIGURES})
                progress.update()
    content = {"settings": settings_of(args), "results": results}
    with replace_file(args.output / "inversion.json") as partial:
        partial.write_text(json.dumps(content, indent=1))
    print(table(results))
    for size, named in images.items():
        path = args.output / f"inversion_{size}.png"
        contact_sheet(args.output / "results" / str(size), list(named), size).save(path)
        print(path)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        if args.num_emoji < 0 or min(args.sizes) < 11:
            raise ValueError("`--num_emoji` must be 0 or more and `--sizes` at least 11.")
        run(args)


if __name__ == "__main__":
    main()
