"""The recipe `small`: made for the pictures and the device that are there, to have a model within minutes."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from ..data.dataset import ImageDataset
from .models import load_images, source_config
from .recipe import ModelConfig, Recipe, make_recipe

CPU_MINUTES, GPU_MINUTES = 15.0, 30.0
LEAST_COMPILED_MINUTES = 3.0  # of a minute on a busy machine, compiling left five steps
# Pixels a side that points are taken from. On two CPU cores 200 icons of 64 px are at 23 dB within a minute.
CPU_SIDE, GPU_SIDE, LEAST_SIDE = 64, 128, 16
FEW = 20  # pictures, below which there is little to blend; not tuned
SIZES_LOOKED_AT = 15  # pictures, of whose shorter sides the median is the pictures' own resolution
# Few dimensions, so that a mapping network of a few minutes finds all cells; 4 blend twice as many latents as 8. Of
# 200 codes 2, 3, 5 and 8 layers leave 0.56, 0.42, 0.28 and 0.18 of the variance after 1,500 updates of 256 latents.
Z_DIM, MAPPING_LAYERS = 8, 8
FEW_PICTURES = 5000  # a discriminator needs hundreds of thousands of images, however few they are of (not tuned)


def small_recipe(
    overrides: list[str],
    minutes: float | None = None,
    init_from: str | None = None,
    report: Callable[[str], None] = print,
) -> Recipe:
    """A recipe for the dataset that `overrides` name, the rest of them on top; `report` gets a line on what was chosen.

    Args:
        overrides: as of [`load_recipe`]; `data.dataset` is needed.
        minutes: that the run takes, 15 on a CPU and 30 on a GPU by default.
        init_from: pipeline whose drawing the run starts from, a folder or a Hub id; None: from scratch.
        report: gets a line.

    Raises:
        ValueError: without `data.dataset`, and as [`load_recipe`] and [`load_image_dataset`].
    """
    if not any(override.startswith("data.dataset=") for override in overrides):
        raise ValueError("`data.dataset` must be given, such as data.dataset=path/to/pictures, got none.")
    if minutes is not None and not minutes > 0:
        raise ValueError(f"`minutes` must be above 0, got {minutes}.")
    own = [f"run.init_from={init_from}"] if init_from else []
    given = make_recipe({"stages": [{"resolution": CPU_SIDE, "kimg": 1.0}]}, own + overrides)
    device: Any = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    on_gpu = device.type == "cuda"
    dataset = load_images(replace(given.data, class_conditional=None))  # by classes where there are any
    recipe = make_recipe(choose(dataset, on_gpu, given.run.init_from, minutes), own + overrides)
    few = f"; {len(dataset)} are few, and the model will show these and little else" if len(dataset) < FEW else ""
    report(
        f"small: {len(dataset):,} pictures at {recipe.stages[0].resolution} px, {recipe.run.codes}, on a "
        f"{'GPU' if on_gpu else 'CPU'}, from {recipe.run.init_from or 'scratch'}{few}"
    )
    return recipe


def describe_shorter_way(recipe: Recipe, number: int) -> str:
    """The command that makes more of `number` new pictures than a discriminator does, as text; "" where none does."""
    run = recipe.run
    if run.codes or not run.new_classes or not run.init_from or number >= FEW_PICTURES:
        return ""
    return (
        f"{number:,} pictures: fewer than {FEW_PICTURES:,} become a better model in less time by\n"
        f"    python scripts/train.py small --init_from {run.init_from} --output ... data.dataset={recipe.data.dataset}"
    )


def choose(dataset: ImageDataset, on_gpu: bool, init_from: str | None = None, minutes: float | None = None) -> dict:
    """Settings of a recipe by the pictures, the device and the model to start from, as `make_recipe` takes them."""
    minutes = minutes or (GPU_MINUTES if on_gpu else CPU_MINUTES)
    model = ModelConfig(channels=512 if on_gpu else 256)
    if init_from is not None:
        name, config = source_config(init_from)
        model = ModelConfig.of_generator(config, name)
    side = min(GPU_SIDE if on_gpu else CPU_SIDE, max(LEAST_SIDE, own_resolution(dataset)))
    return {
        "data": {
            "class_conditional": dataset.num_classes is not None,
            "num_workers": 2 if on_gpu else 0,  # decoded once, held in memory
            "mirror": False,
        },
        "model": asdict(replace(model, z_dim=Z_DIM, num_mapping_layers=MAPPING_LAYERS)),
        # What compares crops of 32 pixels if asked, each enlarged about as much as metrics enlarge pictures of 64. In a
        # CPU's minutes as much time for points alone gives more (docs/training.md).
        "discriminator": {"feature_networks": ["tf_efficientnet_lite0"], "feature_resolution": 128},
        "loss": {"matching_weight": 0.0},
        "stages": [{"resolution": side, "kimg": 1.0}],
        "run": {
            "codes": f"{minutes:g} minutes",
            "class_embeddings": "random",
            # Takes ten seconds of an idle CPU, where steps then take three quarters as long.
            "compile": minutes >= LEAST_COMPILED_MINUTES,
            "log_with": [],
        },
    }


def own_resolution(dataset: ImageDataset) -> int:
    """The median of the shorter sides of some of the pictures, in pixels."""
    number = min(len(dataset), SIZES_LOOKED_AT)
    sides = (dataset.shorter_side(index * len(dataset) // number) for index in range(number))
    readable = sorted(side for side in sides if side is not None)
    return readable[len(readable) // 2] if readable else LEAST_SIDE
