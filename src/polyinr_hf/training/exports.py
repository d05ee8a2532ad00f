"""What an exported pipeline folder says about the run that made it."""

import json
import logging
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

from ..data.dataset import ImageDataset, load_image_dataset
from ..hub.push import redact
from .config import Recipe, StageConfig

logger = logging.getLogger(__name__)

LICENSE_COLUMNS = ("license", "licence")  # as the Hub spells it; as data folders of earlier versions do


def export_name(exports: Path, images_seen: int) -> str:
    """The name of an export in the folder `exports`: kimg-000012, or, where that is another's, kimg-000012.345."""
    name = f"kimg-{images_seen // 1000:06d}"
    try:
        taken = json.loads((exports / name / "training.json").read_text(encoding="utf-8"))["kimg"] * 1000
    except (OSError, ValueError, KeyError):  # none there, or none that says
        taken = images_seen
    return name if round(taken) == images_seen else f"{name}.{images_seen % 1000:03d}"


def describe_export(folder: Path, recipe: Recipe, dataset: ImageDataset, kimg: float, samples: Path) -> None:
    """Adds to an export what its model card needs: training.json, and the newest grid in the folder `samples`."""
    stage = stage_at(recipe, kimg)
    description = {"kimg": kimg, "resolution": stage.resolution}
    if stage.image_resolution is not None:
        description["image_resolution"] = stage.image_resolution
    if not dataset.streaming:
        description["num_images"] = len(dataset)
        data = recipe.data
        try:
            description["licences"] = count_licences(
                data.dataset, data.config, data.split, data.image_column, data.cache_dir, data.revision
            )
        except Exception as error:  # the dataset is opened once more, and its host may be gone: training goes on
            logger.warning("the licences of %s are not known to %s: %s", data.dataset, folder, redact(str(error)))
    grids = sorted(samples.glob("kimg-*.png"))
    if grids:
        shutil.copyfile(grids[-1], folder / "samples.png")
        description["samples_kimg"] = float(grids[-1].stem.removeprefix("kimg-"))
    (folder / "training.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def stage_at(recipe: Recipe, kimg: float) -> StageConfig:
    """The stage that was trained when `kimg` had been shown."""
    end = 0.0
    for stage in recipe.stages:
        end += stage.kimg
        if kimg <= end:
            break
    return stage


@cache
def count_licences(name_or_path, config=None, split="train", image_column=None, cache_dir=None, revision=None):
    """{licence: images}, most first, by the licence column; {} without one. Arguments as in `load_image_dataset`."""
    options = {"image_column": image_column, "cache_dir": cache_dir, "revision": revision}
    for column in LICENSE_COLUMNS:
        try:  # as if the licence were the class: its column is the one that is kept
            dataset = load_image_dataset(
                name_or_path, config, split, label_column=column, class_conditional=True, **options
            )
        except ValueError:
            continue
        names = (value if isinstance(value, str) else dataset.id2label[value] for value in dataset.dataset[column])
        return dict(Counter(names).most_common())
    return {}
