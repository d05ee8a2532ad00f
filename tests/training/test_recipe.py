"""Recipes: what is read, what is refused, and that refusals name the key."""

from pathlib import Path

import pytest
import yaml

from polyinr_hf import PolyINRGenerator
from polyinr_hf.training.recipe import ModelConfig, Source, check_division, load_recipe, save_recipe

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
    assert resolutions[0] == (64 if path.stem in ("finetune", "pretraining", "windows") else 32)
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
    assert recipe.discriminator.batch_norm_group_size == 8 and not recipe.discriminator.joint_batch_norm
    assert recipe.run.stage_start == "fresh"
    for processes in (1, 2, 4, 8):  # groups of eight on any of them
        for index in range(len(recipe.stages)):
            check_division(recipe, index, processes)
    assert recipe.run.adam_betas == (0.0, 0.99)
    assert recipe.loss.blur_fade_kimg == 300.0


def test_defaults_fill_what_is_left_out(minimal):
    recipe = load_recipe(minimal)
    assert recipe.model.channels == 1024
    assert recipe.stages[0].batch_size == 64
    assert recipe.run.mixed_precision == "auto"
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


TEXT = ["007", "0123", "12:30", "no", "1e5", "my pictures #2", "a=b", "[x", "null.d", "~", " spaced ", "\u732b"]


@pytest.mark.parametrize("text", TEXT)
def test_text_is_taken_as_it_is(tmp_path, minimal, text):
    """By overrides of text, of lists and tables of text, and by a file's plain scalars; saved text is read back."""
    network = "vit_tiny_patch16_224.augreg_in21k"  # a key with a dot
    overrides = [f"data.dataset={text}", f"data.label_column={text}", f"discriminator.feature_weights.{network}={text}"]
    recipe = load_recipe(minimal, [f"discriminator.feature_networks=[{network}]", *overrides])
    assert (recipe.data.dataset, recipe.data.label_column) == (text, text)
    assert recipe.discriminator.feature_weights == {network: text}
    save_recipe(recipe, tmp_path / "saved.yaml")
    assert load_recipe(tmp_path / "saved.yaml") == recipe


def test_yaml_keeps_no_text_from_being_text(minimal, tmp_path):
    path = tmp_path / "written.yaml"
    path.write_text(
        "data: {dataset: 007, label_column: no, cache_dir: 12:30}\n"
        "discriminator: {feature_weights: {tf_efficientnet_lite0: 0123}}\n"
        "run: {mixed_precision: no, metrics: [1.50, no], push_to_hub: null}\n"
        "stages: [{resolution: 32, kimg: 1}]\n"
    )
    recipe = load_recipe(path)
    assert (recipe.data.dataset, recipe.data.label_column, recipe.data.cache_dir) == ("007", "no", "12:30")
    assert recipe.discriminator.feature_weights == {"tf_efficientnet_lite0": "0123"}
    assert (recipe.run.mixed_precision, recipe.run.metrics, recipe.run.push_to_hub) == ("no", ["1.50", "no"], None)
    recipe = load_recipe(minimal, ["data={dataset: 007, label_column: null}", "run.metrics=[007, no]"])
    assert (recipe.data.dataset, recipe.data.label_column, recipe.run.metrics) == ("007", None, ["007", "no"])
    assert load_recipe(minimal, ["data.label_column=null"]).data.label_column is None


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("owner/name", ("owner/name", None, None)),
        ("owner/name@v1", ("owner/name", None, "v1")),
        ("owner/name:large v2@refs/pr/3", ("owner/name", "large v2", "refs/pr/3")),
        ("name:small", ("name", "small", None)),
        ("my/own/folder@home", ("my/own/folder@home", None, None)),
        ("/data/a:b", ("/data/a:b", None, None)),
        ("C:\\pictures", ("C:\\pictures", None, None)),
    ],
)
def test_a_hub_id_may_name_configuration_and_revision(text, source):
    assert Source.parse(text) == source


def test_a_folder_of_that_name_is_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holiday@home").mkdir()
    assert Source.parse("holiday@home") == ("holiday@home", None, None)


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
        (["discriminator.batch_norm=5"], "`discriminator.batch_norm` .* 64 images .* got 5"),
        (
            ["discriminator.batch_norm=0"],
            "`discriminator.batch_norm` must be separate, joint or a number of images, got '0'",
        ),
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
        (["discriminator.augmentation=[colour]"], "`discriminator.augmentation` .*colour"),
        (["discriminator.feature_weights={resnet50: x.pth}"], r"`discriminator.feature_weights` .*got \['resnet50'\]"),
        (["run.mixed_precision=fp8"], "`run.mixed_precision` .*'fp8'"),
        (["run.class_embeddings=none"], "`run.class_embeddings` .*'none'"),
        (["model.initialization=zero"], "`model.initialization` .*'zero'"),
        (["model.equation=relu"], r"`model.equation` must be one of \('released', 'paper'\), got 'relu'"),
        (["data.dataset="], "`data.dataset` must be a folder or a Hub id, got ''"),
        (["data.streaming=true"], "`run.class_embeddings` must be 'random' with `data.streaming`.* got 'computed'"),
        (["data.num_workers=-1"], "`data.num_workers` .* got -1"),
        (["run.seed=-1"], "`run.seed` .* got -1"),
        (["run.checkpoint_every_kimg=0"], "`run.checkpoint_every_kimg` .* got 0"),
    ],
)
def test_settings_that_cannot_train_are_refused(minimal, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(minimal, overrides)


# --- the generator ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("equation", ["released", "paper"])
def test_a_generator_is_described_as_it_was_built(equation):
    section = ModelConfig(channels=8, num_levels=2, equation=equation)
    generator = PolyINRGenerator(**section.generator_arguments(), num_classes=None, sample_size=8)
    assert generator.config.compose_coordinates == (equation == "released")
    assert generator.config.modulation_activation == ("leaky_relu" if equation == "released" else "none")
    assert ModelConfig.of_generator(generator.config, "here") == section


def test_a_generator_that_no_recipe_describes_is_refused():
    config = PolyINRGenerator(channels=8, num_levels=2, w_dim=16, num_classes=None).config
    with pytest.raises(ValueError, match="`run.init_from` must be a generator with w_dim=512, here has 16"):
        ModelConfig.of_generator(config, "here")
    config = PolyINRGenerator(channels=8, num_levels=2, modulation_activation="none", num_classes=None).config
    with pytest.raises(ValueError, match="`run.init_from` must be a generator with modulation_activation='leaky_relu'"):
        ModelConfig.of_generator(config, "here")


# --- earlier versions -------------------------------------------------------------------------------------------------
OLD = {
    "data": {"dataset": "images", "config": None, "shuffle_buffer": 5, "cache_in_memory": False},
    "model": {"w_dim": 512, "class_embed_dim": 320, "modulation_activation": "leaky_relu"},
    "run": {
        "adam_eps": 1e-8,
        "keep_checkpoints": 5,
        "num_sample_columns": 12,
        "hub_model_id": "a/b",
        "mixed_precision": None,
    },
}


@pytest.mark.parametrize(("pushed", "repository"), [(True, "a/b"), (False, None)])
def test_a_recipe_of_an_earlier_version_is_read(tmp_path, caplog, pushed, repository):
    recipe = load_recipe(
        write(tmp_path, MINIMAL | OLD | {"run": OLD["run"] | {"push_to_hub": pushed, "mixed_precision": None}})
    )
    assert recipe.run.push_to_hub == repository
    assert recipe.run.mixed_precision == "auto"
    (line,) = caplog.messages
    assert "keys of an earlier version, which do nothing now: data.config, data.shuffle_buffer" in line
    assert "run.keep_checkpoints" in line


@pytest.mark.parametrize(
    ("section", "key", "value", "instead"),
    [
        ("loss", "joint_batch_norm", True, "write discriminator.batch_norm=joint"),
        ("discriminator", "batch_norm_group_size", 8, "write discriminator.batch_norm with that number"),
        ("data", "revision", "v1", "write data.dataset=owner/name@revision"),
        ("model", "compose_coordinates", False, "write model.equation=paper"),
        ("run", "adam_eps", 1.0, "it is 1e-8"),
    ],
)
def test_what_an_earlier_version_would_lose_is_refused(tmp_path, minimal, section, key, value, instead):
    with pytest.raises(ValueError, match=f"'{section}.{key}={value}', a key of an earlier version: {instead}"):
        load_recipe(minimal, [f"{section}.{key}={value}"])
    path = write(tmp_path, MINIMAL | {section: MINIMAL.get(section, {}) | {key: value}})
    with pytest.raises(ValueError, match=f"`{section}.{key}` must be left out, got {value!r} .*: {instead}"):
        load_recipe(path)
