"""What `train.py small` makes of five folders that the bundled model has not seen: the pictures, the run, the figures.

    python benchmarks/own_pictures.py prepare --output data/own
    python benchmarks/own_pictures.py train --dataset data/own/icons --output runs/icons --minutes 15
    python benchmarks/own_pictures.py measure --pipeline runs/icons/exports/kimg-000400 --dataset data/own/icons
    python benchmarks/own_pictures.py show --runs runs/icons runs/photographs --minutes 1 5 15 --output own_pictures.png

`prepare` draws icons (200 of Emoji One), twenty others, three classes of twenty, and sea animals (100 of eight emoji
sets); and cuts 200 photographs out of those that come with scikit-image. `train` is `train.py small` on a clock of its
own CPU time, two CPU-seconds to the second: the same amount of work however busy the machine is. `measure` draws as
many samples as there are pictures, at 64 px: kid_lite0, precision and recall, and the pictures that are nearest to some
of four times as many, by pixels and by EfficientNet-lite0. `show` puts the runs' pictures above what they draw after so
many minutes. Needs npm, scikit-image and the extras emoji and eval.
"""

import argparse
import json
import re
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from measuring import make_parser, run_command
from polyinr_hf import PolyINRPipeline, data, evaluation, training

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "emoji"))
from emoji_sets import fetch_iconify, rasterize, svg_of_icon  # noqa: E402

SIDE = 64  # pixels at which samples and pictures are compared
ICONS, PHOTOGRAPHS, SEA_ANIMALS, FEW = 200, 200, 100, 20
PICTURE_SIDE = 128
PHOTOGRAPH_NAMES = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel", "hubble_deep_field"),
    *("immunohistochemistry", "rocket"),
)
# Iconify's sets and their versions, None: as in examples/emoji. Sea animals are of all, everything else of Emoji One.
SETS = {
    "emojione": "1.2.3",
    "emojione-v1": "1.2.3",
    "fxemoji": "1.2.2",
    "openmoji": "1.2.29",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": None,
    "noto": None,
    "twemoji": None,
}
GROUPS = ("Activities", "Food", "Nature", "Objects", "Travel")  # of Emoji One
CLASSES = ("Food", "Nature", "Travel")
SEA = re.compile("fish|shark|whale|dolphin|octopus|crab|lobster|shrimp|squid|turtle|shell|coral|oyster")
NOT_SEA = re.compile("floppy|mobile|pole|eye|cake|fried")


def prepare(args: argparse.Namespace) -> dict:
    """Writes the folders; returns how many pictures each has."""
    random = np.random.default_rng(0)
    sets = {name: read_icons(name, version) for name, version in SETS.items()}
    own = shuffled(sets["emojione"], random)
    draw(own[:ICONS], args.output / "icons")
    draw(own[ICONS : ICONS + FEW], args.output / "twenty")
    for group in CLASSES:
        draw([icon for icon in own if icon.group == group][:FEW], args.output / "classes" / group)
    sea = [icon for icons in sets.values() for icon in icons if SEA.search(icon.name) and not NOT_SEA.search(icon.name)]
    draw(shuffled(sea, random)[:SEA_ANIMALS], args.output / "sea_animals")
    cut_photographs(args.output / "photographs", random)
    return {folder.name: len(list(folder.rglob("*.png"))) for folder in sorted(args.output.iterdir())}


@dataclass(frozen=True)
class Icon:
    """A drawing of a set, named by set and icon."""

    name: str
    group: str
    svg: str


def read_icons(name: str, version: str | None) -> list[Icon]:
    """All drawings of a set, by name; of Emoji One those of some groups, without variants of skin."""
    archive = fetch_iconify(name, Path.home() / ".cache" / "polyinr_hf" / "emoji", version)
    with tarfile.open(archive) as tar:
        icons, metadata = (json.load(tar.extractfile(f"package/{part}.json")) for part in ("icons", "metadata"))
    groups = {icon: group for group, those in metadata.get("categories", {}).items() for icon in those}
    return [
        Icon(f"{icon}-{name}", groups.get(icon, ""), svg_of_icon(icons, icon))
        for icon in sorted(icons["icons"])
        if "skin-tone" not in icon and (name != "emojione" or groups.get(icon) in GROUPS)
    ]


def shuffled(icons: list[Icon], random: np.random.Generator) -> list[Icon]:
    return [icons[index] for index in random.permutation(len(icons))]


def draw(icons: list[Icon], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for icon in icons:
        (folder / f"{icon.name}.png").write_bytes(rasterize(icon.svg, PICTURE_SIDE))


def cut_photographs(folder: Path, random: np.random.Generator) -> None:
    """Square crops, of a quarter of a photograph's shorter side to all of it."""
    import skimage.data

    folder.mkdir(parents=True, exist_ok=True)
    photographs = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in PHOTOGRAPH_NAMES]
    for index in range(PHOTOGRAPHS):
        photograph = photographs[index % len(photographs)]
        side = int(min(photograph.size) * random.uniform(0.25, 1))
        left, top = (int(random.integers(length - side + 1)) for length in photograph.size)
        crop = photograph.crop((left, top, left + side, top + side))
        crop.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC).save(folder / f"{index:03d}.png")


def train(args: argparse.Namespace) -> dict:
    """A run of `train.py small` by CPU time; returns the processor's seconds."""
    from polyinr_hf.training.pictures import PicturesTrainer

    began, init_from = time.process_time(), None if args.init_from == "scratch" else args.init_from
    recipe = training.small_recipe([f"data.dataset={args.dataset}", *args.overrides], args.minutes, init_from)
    PicturesTrainer(recipe, args.output, args.resume, clock=lambda: time.process_time() / 2).train()
    return {"cpu_seconds": time.process_time() - began}


def measure(args: argparse.Namespace) -> dict:
    """The figures of a pipeline beside its pictures."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    from polyinr_hf.data.loader import decode_all
    from polyinr_hf.evaluation.metrics import FeatureSet, precision_recall
    from polyinr_hf.evaluation.sources import label_frequencies

    pipeline = PolyINRPipeline.from_pretrained(args.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    dataset = data.load_image_dataset(
        str(args.dataset), class_conditional=pipeline.generator.config.num_classes is not None
    )
    number = len(dataset)
    pictures, _, _ = decode_all(dataset, SIDE, 0)
    samples = evaluation.PipelineSource(
        pipeline, 4 * number, label_frequencies(dataset.num_classes, dataset), resolution=SIDE
    )
    images = torch.cat([samples.load(start, min(start + 32, 4 * number)) for start in range(0, 4 * number, 32)])
    real, drawn = (
        evaluation.image_features(evaluation.TensorSource(those), "features") for those in (pictures, images)
    )
    sets = [FeatureSet.from_features(features) for features in (drawn[:number], real)]
    kid = kid_features_to_metric(*(those.features.double() for those in sets), kid_subsets=1, kid_subset_size=number)
    precision, recall = precision_recall(*sets)
    pixels = [those.float().flatten(1) for those in (images, pictures)]
    return {
        "kid_lite0": kid[KEY_METRIC_KID_MEAN],
        "precision_lite0": precision,
        "recall_lite0": recall,
        "reached by pixels": evaluation.nearest_pictures(*pixels)[2],
        "reached by lite0": evaluation.nearest_pictures(drawn, real)[2],
    }


def show(args: argparse.Namespace) -> dict:
    """Twelve pictures of each run in a row, below them the grids that are nearest to the minutes."""
    rows, shown = [], {}
    for run in args.runs:
        grids = {float(path.stem.removeprefix("minute-")): path for path in run.glob("samples/minute-*.png")}
        if not grids:
            raise ValueError(f"`--runs` must be folders of runs on few pictures, got {run}.")
        nearest = [min(grids, key=lambda minute: abs(minute - asked)) for asked in args.minutes]
        shown |= {f"{run.name}, minute {asked:g}": found for asked, found in zip(args.minutes, nearest, strict=True)}
        images = [Image.open(grids[minute]).convert("RGB") for minute in nearest]
        side, width = images[0].height // 4, images[0].width
        for image, first in [(images[0], 0), *((image, 1) for image in images)]:
            rows.append([image.crop((0, row * side, width, (row + 1) * side)) for row in (first, first + 2)])
    canvas = Image.new("RGB", (2 * width - 4 * side, len(rows) * side))
    for row, halves in enumerate(rows):
        for column, half in enumerate(halves):
            canvas.paste(half, (column * width, row * side))
    canvas.save(args.output, optimize=True)
    return shown


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare", help="draw icons and cut photographs")
    command.set_defaults(run=prepare)
    command.add_argument("--output", type=Path, required=True, help="folder of the five folders")
    command = commands.add_parser("train", help="train by the processor's time")
    command.set_defaults(run=train)
    command.add_argument("--dataset", required=True, help="folder of pictures")
    command.add_argument("--output", type=Path, required=True, help="folder of the run")
    command.add_argument("--minutes", type=float, default=15.0, help="time of two cores (default: %(default)s)")
    command.add_argument("--init_from", default="pretrained/poly-inr-emoji", help="pipeline to start from, or scratch")
    command.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    command.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the recipe")
    command = commands.add_parser("measure", help="print a pipeline's figures")
    command.set_defaults(run=measure)
    command.add_argument("--pipeline", required=True, help="export of a run")
    command.add_argument("--dataset", required=True, help="folder of its pictures")
    command = commands.add_parser("show", help="put pictures above what runs drew of them")
    command.set_defaults(run=show)
    command.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of runs")
    command.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 15], help="when (default: 1 5 15)")
    command.add_argument("--output", type=Path, required=True, help="PNG to write")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> dict:
    result = args.run(args)
    for name, value in result.items():
        print(f"{name}: {value:.4g}")
    return result


def main(argv: list[str] | None = None) -> None:
    run_command(run, parse_args(argv))


if __name__ == "__main__":
    main()
