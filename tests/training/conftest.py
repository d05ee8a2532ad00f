"""A tiny dataset and a tiny recipe: real networks and real weights, few pixels and channels."""

import multiprocessing
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState

from polyinr_hf.training.recipe import Recipe, load_recipe

NUM_IMAGES = 16
RECIPE = {
    "data": {"num_workers": 0},
    "model": {"channels": 16, "num_levels": 3},
    "discriminator": {
        "feature_networks": ["tf_efficientnet_lite0"],
        "feature_resolution": 64,
        "projection_width": 8,
    },
    "loss": {"blur_fade_kimg": 0.02},
    "stages": [
        {"resolution": 16, "kimg": 0.016, "batch_size": 4},
        {"resolution": 24, "kimg": 0.008, "batch_size": 4, "lr_generator": 5.0e-5},
    ],
    "run": {
        "class_embeddings": "random",
        "mixed_precision": "no",
        "log_every_steps": 1,
        "log_with": [],
        "sample_every_kimg": 1,
        "export_every_kimg": 1,
        "checkpoint_every_kimg": 1,
    },
}


def _save_images(folder: Path, features: dict, columns: dict, num_images: int = NUM_IMAGES) -> str:
    """A saved dataset of smooth random images, 32 x 32."""
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(num_images)]
    images = [PIL.Image.fromarray(values).resize((32, 32)) for values in pixels]
    features = datasets.Features(image=datasets.Image(), **features)
    datasets.Dataset.from_dict({"image": images, **columns}, features=features).save_to_disk(folder)
    return str(folder)


@pytest.fixture(scope="session")
def save_images():
    """Function (folder, features, columns, num_images) -> path of a new dataset."""
    return _save_images


@pytest.fixture(scope="session")
def labelled_images(tmp_path_factory) -> str:
    """16 images of three classes."""
    label = datasets.ClassLabel(names=["tench", "goldfish, Carassius auratus", "stork"])
    folder = tmp_path_factory.mktemp("data") / "labelled"
    return _save_images(folder, {"label": label}, {"label": [i % 3 for i in range(NUM_IMAGES)]})


@pytest.fixture(scope="session")
def unlabelled_images(tmp_path_factory) -> str:
    return _save_images(tmp_path_factory.mktemp("data") / "unlabelled", {}, {})


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory, labelled_images) -> Path:
    """Six steps of four images: four at 16 pixels, two at 24."""
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"data": RECIPE["data"] | {"dataset": labelled_images}}))
    return path


@pytest.fixture
def make_recipe(recipe_file):
    def make(*overrides: str) -> Recipe:
        return load_recipe(recipe_file, list(overrides))

    return make


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have all imports behind them; what they run must be in an importable module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["polyinr_hf.training.trainer"])
    return context


@pytest.fixture(scope="session", autouse=True)
def on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Accelerate keeps its state in singletons, which would carry one test's settings to the next."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
