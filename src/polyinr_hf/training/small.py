"""The recipe `small`: made for the pictures and the device that are there, to see something within minutes."""

from collections.abc import Callable

from accelerate import PartialState

from ..data.dataset import ImageDataset, load_image_dataset
from .recipe import DataConfig, Recipe, Source, make_recipe

# Runs with a person in front of them. On two CPU cores with AVX2 a step of 32 images takes about four seconds at 32 px
# and ten at 64, most of it the discriminator's, so these are a quarter of an hour; the GPU's are hours.
CPU_STAGES = ({"resolution": 32, "kimg": 4.0}, {"resolution": 64, "kimg": 1.0})
GPU_STAGES = ({"resolution": 32, "kimg": 300.0}, {"resolution": 64, "kimg": 300.0}, {"resolution": 128, "kimg": 150.0})
MATCHED_IMAGES = 5000  # up to here each generated image is drawn towards a real one too, which shows shapes early


def small_recipe(overrides: list[str], report: Callable[[str], None] = print) -> Recipe:
    """A recipe for the dataset that `overrides` name, the rest of them on top; `report` gets a line on what was chosen.

    Raises:
        ValueError: without `data.dataset`, and as [`load_recipe`] and [`load_image_dataset`].
    """
    if not any(override.startswith("data.dataset=") for override in overrides):
        raise ValueError("`data.dataset` is required by the recipe small, such as data.dataset=path/to/pictures.")
    given = make_recipe({"stages": CPU_STAGES, "data": {"class_conditional": True}}, overrides)
    on_gpu = PartialState().device.type == "cuda"
    recipe = make_recipe(choose(_load(given.data), on_gpu, given.run.init_from), overrides)
    stages = ", ".join(f"{stage.resolution} px for {stage.kimg:g} kimg" for stage in recipe.stages)
    report(f"small: {stages}, {recipe.stages[0].batch_size} images a step, on a {'GPU' if on_gpu else 'CPU'}")
    return recipe


def choose(dataset: ImageDataset, on_gpu: bool, init_from: str | None = None) -> dict:
    """Settings of a recipe by the number of images, their classes and the device, as `make_recipe` takes them."""
    stages = [dict(stage, batch_size=32) for stage in (GPU_STAGES if on_gpu else CPU_STAGES)]
    total = sum(stage["kimg"] for stage in stages)
    for stage in stages:
        stage |= {"lr_generator": 2e-4 if on_gpu else 5e-4, "lr_discriminator": 1e-4}  # few steps on a CPU
    return {
        "data": {
            "class_conditional": None if init_from else dataset.num_classes is not None,
            "num_workers": 2 if on_gpu else 0,  # decoded once, held in memory
        },
        "model": None if init_from else {"channels": 512 if on_gpu else 128},
        "discriminator": {
            "feature_networks": ["tf_efficientnet_lite0"],
            "feature_resolution": 128 if on_gpu else 64,
            "projection_width": 64 if on_gpu else 32,
            "augmentation": ["translation"],
            "batch_norm": "joint",
        },
        "loss": {
            "blur_fade_kimg": total / 8,
            "matching_weight": 10.0 if len(dataset) <= MATCHED_IMAGES else 0.0,
        },
        "stages": stages,
        "run": {
            "new_classes": bool(init_from),
            "class_embeddings": "random",
            "compile": True,  # half a minute on a CPU, where steps then take half as long
            "sample_every_kimg": total / 16,
            "export_every_kimg": total / 4,
            "checkpoint_every_kimg": total / 8,
            "log_with": [],
        },
    }


def _load(data: DataConfig) -> ImageDataset:
    name, config, revision = Source.parse(data.dataset)
    return load_image_dataset(
        name,
        config,
        data.split,
        image_column=data.image_column,
        label_column=data.label_column,
        cache_dir=data.cache_dir,
        revision=revision,
    )
