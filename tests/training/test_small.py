"""One's own pictures: a flat folder, one sub-folder or several, fewer than a batch, without editing a recipe."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.data.dataset import load_image_dataset
from polyinr_hf.evaluation.sources import class_ids
from polyinr_hf.training.recipe import load_recipe
from polyinr_hf.training.small import Z_DIM, choose, describe_shorter_way, small_recipe
from polyinr_hf.training.trainer import Trainer

FINETUNE = Path(__file__).resolve().parents[2] / "configs" / "finetune.yaml"


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


def test_the_recipe_small_fits_the_folder_and_the_device(flat, tmp_path, capsys):
    """Pictures of 20 x 30 pixels are learned at 20; classes are those there are; a GPU gets more of everything."""
    recipe = small_recipe([f"data.dataset={flat}"])
    assert "small: 5 pictures at 20 px, 15 minutes, on a CPU, from scratch" in capsys.readouterr().out
    assert recipe.data.class_conditional is False and recipe.run.codes == "15 minutes"
    assert small_recipe([f"data.dataset={flat}", "stages.0.resolution=32"], minutes=2.5).run.codes == "2.5 minutes"
    save_pictures(tmp_path / "birds" / "robin", 1, size=(200, 200))
    save_pictures(tmp_path / "birds" / "wren", 1, size=(200, 200))
    classes = load_image_dataset(tmp_path / "birds")
    on_cpu, on_gpu = choose(classes, on_gpu=False), choose(classes, on_gpu=True)
    assert on_cpu["data"]["class_conditional"] is True
    assert on_cpu["stages"][0]["resolution"] == 64 and on_gpu["stages"][0]["resolution"] == 128
    assert on_cpu["model"]["channels"] < on_gpu["model"]["channels"]
    with pytest.raises(ValueError, match="`data.dataset` must be given"):
        small_recipe(["run.seed=1"])
    with pytest.raises(ValueError, match="`minutes` must be above 0, got -1"):
        small_recipe([f"data.dataset={flat}"], minutes=-1)


def test_the_recipe_small_draws_as_its_source_does(flat, tmp_path):
    """Sizes of affine and synthesis levels are the source's, the mapping network is a new one."""
    generator = PolyINRGenerator(z_dim=64, channels=24, num_levels=3, num_classes=2, sample_size=16)
    PolyINRPipeline(generator, {0: "apple", 1: "pear"}).save_pretrained(tmp_path / "source")
    recipe = small_recipe([f"data.dataset={flat}"], init_from=str(tmp_path / "source"))
    assert (recipe.model.channels, recipe.model.num_levels, recipe.model.z_dim) == (24, 3, Z_DIM)
    assert recipe.run.init_from == str(tmp_path / "source")


def test_a_model_is_fine_tuned_without_naming_its_sizes(flat, tmp_path):
    """Of other sizes than the defaults, with other classes; a flat folder becomes a class of its name."""
    generator = PolyINRGenerator(z_dim=8, channels=24, num_levels=3, num_classes=2, sample_size=16)
    PolyINRPipeline(generator, {0: "apple", 1: "pear"}).save_pretrained(tmp_path / "source")
    overrides = [f"data.dataset={flat}", f"run.init_from={tmp_path / 'source'}", "run.mixed_precision=no"]
    overrides += ["stages=[{resolution: 16, kimg: 0.016, batch_size: 8}]"]
    trainer = Trainer(load_recipe(FINETUNE, overrides), tmp_path / "run")
    hint = describe_shorter_way(trainer.recipe, len(trainer.dataset))
    assert f"small --init_from {tmp_path / 'source'} " in hint and f"data.dataset={flat}" in hint
    assert describe_shorter_way(trainer.recipe, 5000) == ""
    assert describe_shorter_way(load_recipe(FINETUNE, [*overrides, "run.codes=1 steps"]), 5) == ""
    assert trainer.recipe.model.channels == 24
    assert trainer.recipe.data.class_conditional is True
    assert trainer.train()
    (export,) = (tmp_path / "run" / "exports").iterdir()
    pipeline = PolyINRPipeline.from_pretrained(export)
    assert pipeline.id2label == {0: "robins"}
    assert pipeline.generator.config.channels == 24
    with pytest.raises(ValueError, match="`model` must be given, or taken from `run.init_from`"):
        load_recipe(FINETUNE, ["run.init_from=null"])
