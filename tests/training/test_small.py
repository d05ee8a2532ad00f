"""One's own pictures: a flat folder, one sub-folder or several, fewer than a batch, without editing a recipe."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.data.dataset import load_image_dataset
from polyinr_hf.evaluation.sources import class_ids
from polyinr_hf.training.recipe import load_recipe
from polyinr_hf.training.small import choose, small_recipe
from polyinr_hf.training.trainer import Trainer

FINETUNE = Path(__file__).resolve().parents[2] / "configs" / "finetune.yaml"
FAST = [
    "model.channels=16",
    "model.num_levels=3",
    "stages=[{resolution: 16, kimg: 0.016, batch_size: 16}]",
    "run.mixed_precision=no",
    "run.compile=false",
]


def save_pictures(folder, number: int, size=(30, 20)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(number)
    for index in range(number):
        PIL.Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{index}.jpg")


@pytest.fixture
def flat(tmp_path):
    save_pictures(tmp_path / "robins", 5)
    return tmp_path / "robins"


def test_a_flat_folder_is_one_class_if_classes_are_needed(flat):
    dataset = load_image_dataset(flat, class_conditional=True)
    assert dataset.id2label == {0: "robins"}
    assert dataset.decode(dataset.dataset[0], 0, 8)[1] == 0
    assert class_ids(dataset).tolist() == [0] * 5
    assert load_image_dataset(flat, class_conditional=True, class_name="my robin").id2label == {0: "my robin"}
    assert load_image_dataset(flat).num_classes is None


def test_a_single_sub_folder_is_a_class_and_several_are_several(tmp_path):
    save_pictures(tmp_path / "birds" / "robin", 3)
    assert load_image_dataset(tmp_path / "birds", class_conditional=True).id2label == {0: "robin"}
    save_pictures(tmp_path / "birds" / "wren", 2)
    dataset = load_image_dataset(tmp_path / "birds", class_conditional=True, class_name="unused")
    assert dataset.id2label == {0: "robin", 1: "wren"}


def test_the_recipe_small_needs_nothing_but_the_folder(flat, tmp_path, capsys):
    """Five pictures, fewer than a batch, are repeated; the model is unconditional, as there are no classes."""
    recipe = small_recipe([f"data.dataset={flat}", *FAST])
    assert "small: 16 px for 0.016 kimg, 16 images a step, on a CPU" in capsys.readouterr().out
    trainer = Trainer(recipe, tmp_path / "run")
    assert trainer.train()
    (export,) = (tmp_path / "run" / "exports").iterdir()
    assert PolyINRPipeline.from_pretrained(export).generator.config.num_classes is None
    assert load_recipe(tmp_path / "run" / "recipe.yaml") == recipe


def test_the_recipe_small_grows_with_the_pictures_and_the_device(flat, tmp_path):
    save_pictures(tmp_path / "birds" / "robin", 1)
    save_pictures(tmp_path / "birds" / "wren", 1)
    few, classes = load_image_dataset(flat), load_image_dataset(tmp_path / "birds")
    on_cpu, on_gpu = choose(few, on_gpu=False), choose(classes, on_gpu=True)
    assert on_cpu["data"]["class_conditional"] is False
    assert on_gpu["data"]["class_conditional"] is True
    assert on_cpu["model"]["channels"] < on_gpu["model"]["channels"]
    assert sum(stage["kimg"] for stage in on_cpu["stages"]) < sum(stage["kimg"] for stage in on_gpu["stages"])
    assert choose(few, on_gpu=False, init_from="model")["model"] is None
    with pytest.raises(ValueError, match="`data.dataset` is required by the recipe small"):
        small_recipe(["run.seed=1"])


def test_a_model_is_fine_tuned_without_naming_its_sizes(flat, tmp_path):
    """Of other sizes than the defaults, with other classes; a flat folder becomes a class of its name."""
    generator = PolyINRGenerator(z_dim=8, channels=24, num_levels=3, num_classes=2, sample_size=16)
    PolyINRPipeline(generator, {0: "apple", 1: "pear"}).save_pretrained(tmp_path / "source")
    overrides = [f"data.dataset={flat}", f"run.init_from={tmp_path / 'source'}", "run.mixed_precision=no"]
    overrides += ["stages=[{resolution: 16, kimg: 0.016, batch_size: 8}]"]
    trainer = Trainer(load_recipe(FINETUNE, overrides), tmp_path / "run")
    assert trainer.recipe.model.channels == 24
    assert trainer.recipe.data.class_conditional is True
    assert trainer.train()
    (export,) = (tmp_path / "run" / "exports").iterdir()
    pipeline = PolyINRPipeline.from_pretrained(export)
    assert pipeline.id2label == {0: "robins"}
    assert pipeline.generator.config.channels == 24
    with pytest.raises(ValueError, match="`model` must be given, or taken from `run.init_from`"):
        load_recipe(FINETUNE, ["run.init_from=null"])
