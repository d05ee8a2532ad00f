"""Recipes: what is read, what is refused, and that refusals name the key."""

from pathlib import Path

import pytest
import yaml

from polyinr_hf.training.config import check_division, load_recipe, save_recipe

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [ROOT / "examples" / "emoji" / f"{name}.yaml" for name in ("kinds", "names", "pretraining", "windows")]
CONFIGS = [*sorted((ROOT / "configs").glob("*.yaml")), *EXAMPLES]
MINIMAL = {"data": {"dataset": "images"}, "stages": [{"resolution": 32, "kimg": 1}]}


def write(folder: Path, content: dict | list | str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


@pytest.fixture
def minimal(tmp_path) -> Path:
    return write(tmp_path, MINIMAL)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_recipes_are_read(path, tmp_path):
    recipe = load_recipe(path)
    resolutions = [stage.resolution for stage in recipe.stages]
    assert resolutions == sorted(resolutions)
    assert resolutions[0] == (64 if path.stem in ("finetune", "windows") else 32)
    assert recipe.model is None if path.stem == "finetune" else recipe.model.num_levels == 10
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


def test_these_recipes_are_shipped():
    names = ["ffhq", "finetune", "imagenet", "kinds", "names", "pretraining", "windows"]
    assert [path.stem for path in CONFIGS] == names


def test_the_imagenet_recipe_is_the_papers():
    recipe = load_recipe(next(path for path in CONFIGS if path.stem == "imagenet"))
    assert [stage.resolution for stage in recipe.stages] == [32, 64, 128, 256, 512]
    kimg = [stage.kimg for stage in recipe.stages]
    assert kimg == sorted(kimg, reverse=True)  # fewer images at each
    assert {(stage.lr_generator, stage.lr_discriminator) for stage in recipe.stages} == {(1e-4, 2e-4)}
    assert recipe.model.channels == 1024
    assert recipe.discriminator.feature_networks == ["deit_base_distilled_patch16_224", "tf_efficientnet_lite0"]
    assert recipe.discriminator.feature_resolution == 224
    assert recipe.discriminator.batch_norm_group_size == 8
    assert recipe.run.stage_start == "fresh"
    assert recipe.loss.blur_restarts
    for processes in (1, 2, 4, 8):  # groups of eight on any of them
        for index in range(len(recipe.stages)):
            check_division(recipe, index, processes)
    assert recipe.run.adam_betas == (0.0, 0.99)
    assert (recipe.loss.blur_initial_sigma, recipe.loss.blur_fade_kimg) == (2.0, 300.0)


def test_defaults_fill_what_is_left_out(minimal):
    recipe = load_recipe(minimal)
    assert recipe.model.channels == 1024
    assert recipe.stages[0].batch_size == 64
    assert recipe.run.mixed_precision is None  # Accelerate's
    assert all(isinstance(beta, float) for beta in recipe.run.adam_betas)  # Adam wants two floats


def test_overrides(minimal):
    overrides = [
        "data.dataset=my/images",
        "stages.0.kimg=2.5",
        "run.adam_betas=[0, 0.9]",
        "run.mixed_precision=no",
        "run.ema_ramp_up=null",
        "discriminator.feature_weights.tf_efficientnet_lite0=a=b.pth",
    ]
    recipe = load_recipe(minimal, overrides)
    assert recipe.data.dataset == "my/images"
    assert recipe.stages[0].kimg == 2.5
    assert recipe.run.adam_betas == (0.0, 0.9)
    assert isinstance(recipe.run.adam_betas[0], float)
    assert recipe.run.mixed_precision == "no"
    assert recipe.run.ema_ramp_up is None
    assert recipe.discriminator.feature_weights == {"tf_efficientnet_lite0": "a=b.pth"}


def test_an_override_replaces_a_whole_list(minimal):
    stages = "[{resolution: 16, kimg: 0.008, batch_size: 4}, {resolution: 32, kimg: 1}]"
    recipe = load_recipe(minimal, [f"stages={stages}", "discriminator.augmentation=[]"])
    assert [(stage.resolution, stage.batch_size) for stage in recipe.stages] == [(16, 4), (32, 64)]
    assert recipe.discriminator.augmentation == []


def test_an_override_supplies_what_the_file_leaves_open(tmp_path):
    path = write(tmp_path, {"stages": MINIMAL["stages"]})
    with pytest.raises(ValueError, match=r"data\.dataset"):
        load_recipe(path)
    assert load_recipe(path, ["data.dataset=my/images"]).data.dataset == "my/images"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"speed": 3}, "speed"),
        ({"run": {"speed": 3}}, "speed"),
        ({"stages": [{"resolution": 32, "kimg": 1, "batchsize": 4}]}, "batchsize"),
        ({"run": {"seed": "many"}}, r"'many'.*run\.seed"),
        ({"data": 3}, "DataConfig"),
        ({"stages": [{"kimg": 1}]}, r"stages\[0\]\.resolution"),
        ({"stages": []}, "`stages` must be at least one"),
        ("stages: [", "recipe.yaml"),
        ("- resolution", "recipe.yaml"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, message):
    path = write(tmp_path, MINIMAL | content if isinstance(content, dict) else content)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize(
    "override",
    [
        "speed=3",
        "run.speed=3",
        "stages.0.batchsize=3",
        "stages.1.kimg=3",
        "stages.first.kimg=3",
        "run.seed=many",
        "run.seed.deep=3",
        "stages=[{resolution: 16, batchsize: 3}]",
        "stages.0.kimg=[1",
        "data.dataset",
    ],
)
def test_a_bad_override_is_named(minimal, override):
    with pytest.raises(ValueError) as error:
        load_recipe(minimal, [override])
    assert override in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages=[{resolution: 32, kimg: 1}, {resolution: 16, kimg: 1}]"], "`stages.1.resolution` .* shrink, got 16"),
        (["stages.0.gradient_accumulation_steps=3"], "`stages.0.batch_size` .*accumulation_steps`, 3, .* got 64"),
        (["stages.0.batch_size=0"], "`stages.0.batch_size` must be above 0, got 0"),
        (["stages.0.kimg=-1"], "`stages.0.kimg` must be above 0, got -1"),
        (["stages.0.lr_generator=0"], "`stages.0.lr_generator` must be above 0, got 0"),
        (["stages.0.pixel_chunk=0"], "`stages.0.pixel_chunk` must be null or at least 1, got 0"),
        (["discriminator.batch_norm_group_size=5"], "`discriminator.batch_norm_group_size` .* 64 images .* got 5"),
        (["run.mapping_lr_multiplier=0"], "`run.mapping_lr_multiplier` must be above 0, got 0"),
        (["loss.matching_weight=-1"], "`loss.matching_weight` must be at least 0, got -1"),
        (["loss.points_weight=-1"], "`loss.points_weight` must be at least 0, got -1"),
        (["loss.points_per_image=0"], "`loss.points_per_image` must be at least 1, got 0"),
        (
            ["loss.points_weight=1", "data.streaming=true", "run.class_embeddings=random"],
            "`loss.points_weight` must be 0 with `data.streaming`.* got 1",
        ),
        (["loss.matching_by=looks"], r"`loss.matching_by` must be one of \('likeness', 'latent'\), got 'looks'"),
        (
            ["loss.adversarial_start_kimg=5"],
            "`loss.adversarial_start_kimg` must be 0 without `loss.matching_weight`.* got 5",
        ),
        (
            ["loss.matching_weight=1", "data.streaming=true", "run.class_embeddings=random"],
            "`loss.matching_weight` must be 0 with `data.streaming`.* got 1",
        ),
        (
            ["run.evaluate_every_kimg=1", "data.streaming=true", "run.class_embeddings=random"],
            "`run.evaluate_every_kimg` must be null with `data.streaming`.* got 1",
        ),
        (
            ["loss.joint_batch_norm=true", "discriminator.batch_norm_group_size=4"],
            "`loss.joint_batch_norm` .* 4, .*True",
        ),
        (["discriminator.augmentation=[colour]"], "`discriminator.augmentation` .*colour"),
        (["discriminator.feature_weights={resnet50: x.pth}"], r"`discriminator.feature_weights` .*got \['resnet50'\]"),
        (["run.mixed_precision=fp8"], "`run.mixed_precision` .*'fp8'"),
        (["run.class_embeddings=none"], "`run.class_embeddings` .*'none'"),
        (["model.initialization=zero"], "`model.initialization` .*'zero'"),
        (["model.modulation_activation=relu"], "`model.modulation_activation` .*'relu'"),
        (["model.class_embed_dim=64"], "`model.class_embed_dim` must be 320.* got 64"),
        (["data.streaming=true"], "`run.class_embeddings` must be 'random' with `data.streaming`.* got 'computed'"),
        (
            ["data.streaming=true", "run.class_embeddings=random", "data.cache_in_memory=true"],
            "`data.cache_in_memory` must be false or null .* got True",
        ),
        (["data.num_workers=-1"], "`data.num_workers` .* got -1"),
        (["run.seed=-1"], "`run.seed` .* got -1"),
        (["run.keep_checkpoints=0"], "`run.keep_checkpoints` .* got 0"),
        (["run.num_sample_columns=0"], "`run.num_sample_columns` .* got 0"),
        (["run.checkpoint_every_kimg=0"], "`run.checkpoint_every_kimg` .* got 0"),
    ],
)
def test_settings_that_cannot_train_are_refused(minimal, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(minimal, overrides)
