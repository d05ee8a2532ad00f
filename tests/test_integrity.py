"""Pipeline folders with a fault: refused on opening, in a sentence that names the file and what is wrong in it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.checks import LIMITS, MAX_PARAMETERS, check_config

SIZES = {"z_dim": 8, "w_dim": 8, "channels": 8, "num_levels": 3, "num_classes": 3, "class_embed_dim": 4}
WEIGHTS = "generator/diffusion_pytorch_model.safetensors"
OURS = PolyINRGenerator(**SIZES, sample_size=8)
TENSORS = sorted(OURS.state_dict())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    PolyINRPipeline(OURS, {0: "cat", 1: "dog", 2: "cow"}).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "pipeline")


def edit_json(path, key, value):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {key: value}))


def edit_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def refused(folder):
    """The sentence that opening the folder ends in."""
    with pytest.raises(OSError) as error:
        PolyINRPipeline.from_pretrained(folder)
    assert len(str(error.value)) < 600
    return str(error.value)


@pytest.mark.parametrize("name", TENSORS)
def test_a_missing_tensor_is_named(folder, name):
    edit_weights(folder, lambda weights: weights.pop(name))
    assert f"generator lack 1 tensors: {name}." in refused(folder)
    with pytest.raises(OSError, match=rf"lack 1 tensors: {name}\."):
        PolyINRGenerator.from_pretrained(folder / "generator")


def test_a_whole_folder_opens_and_says_so(folder):
    model, info = PolyINRGenerator.from_pretrained(folder / "generator", output_loading_info=True)
    assert info["missing_keys"] == [] or info["missing_keys"] == set()
    assert model.config.channels == 8 and PolyINRPipeline.from_pretrained(folder).labels == {
        "cat": 0,
        "cow": 2,
        "dog": 1,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["w_mean", "synthesis_levels.1.weight", "to_rgb.bias"])
def test_nan_and_infinite_weights_are_named(folder, name, value):
    edit_weights(folder, lambda weights: weights[name].view(-1)[-1:].fill_(value))
    assert f"hold NaN or infinity: {name}." in refused(folder)


@pytest.mark.parametrize(
    "content", ["[]", "3", "null", '"text"', "", "{", "\x00", "[" * 100_000], ids=lambda content: content[:5] or "empty"
)
@pytest.mark.parametrize("name", ["model_index.json", "generator/config.json"])
def test_files_that_are_no_json_object(folder, name, content):
    (folder / name).write_text(content)
    assert name.rpartition("/")[2] in refused(folder)


@pytest.mark.parametrize(
    "value", ["generator", [], ["diffusers"], [None, None], ["a", "b", "c"], {"a": "b"}, 3, None], ids=str
)
def test_an_index_whose_generator_is_none(folder, value):
    edit_json(folder / "model_index.json", "generator", value)
    message = refused(folder)
    assert "model_index.json" in message and "`generator`" in message


@pytest.mark.parametrize(
    "value, reason",
    [
        ([1, 2], r"`id2label` must map class ids to names, got \[1, 2\]"),
        ("cat", "got 'cat'"),
        ({"cat": 0}, "the key 'cat'"),
        ({"-1": "cat"}, "the key '-1'"),
        ({"1.0": "cat"}, "the key '1.0'"),
        ({"1": "cat", "01": "dog"}, "the key '01'.* each once"),
        ({"9" * 5000: "cat"}, "the key '999"),
        ({"0": 3}, "the name 3 for class 0"),
        ({"0": None}, "the name None for class 0"),
        ({"0": ["cat"]}, r"the name \['cat'\] for class 0"),
    ],
)
def test_bad_class_names(folder, value, reason):
    edit_json(folder / "model_index.json", "id2label", value)
    with pytest.raises(OSError, match=rf"model_index\.json: .*{reason}"):
        PolyINRPipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match=reason):
        PolyINRPipeline(OURS, value)


def test_class_names_of_other_classes():
    with pytest.raises(ValueError, match="the key 3, the model has 3 classes"):
        PolyINRPipeline(OURS, {3: "cat"})
    unconditional = PolyINRGenerator(**(SIZES | {"num_classes": None}))
    with pytest.raises(ValueError, match="the key 0, the model has 0 classes"):
        PolyINRPipeline(unconditional, {0: "cat"})


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [0, -1, 10**7 * 100, 10**400, 1.5, "8", True, [8], {}], ids=lambda v: str(v)[:9])
def test_absurd_sizes_are_refused_before_anything_is_built(folder, name, value):
    edit_json(folder / "generator/config.json", name, value)
    message = refused(folder)
    assert "config.json" in message and f"`{name}` must be a whole number in 1..{LIMITS[name]}" in message
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        PolyINRGenerator(**(SIZES | {name: value}))


def test_sizes_that_are_absurd_together():
    with pytest.raises(ValueError, match=rf"parameters, more than {MAX_PARAMETERS:,}"):
        PolyINRGenerator(channels=2**16, num_levels=10)
    check_config({"channels": 4096, "num_levels": 20, "num_classes": 21_841})  # what someone may want


@pytest.mark.parametrize("name", ["modulation_activation", "initialization", "compose_coordinates"])
@pytest.mark.parametrize("value", ["relu", 1, None, ["none"]], ids=str)
def test_unknown_options(folder, name, value):
    edit_json(folder / "generator/config.json", name, value)
    message = refused(folder)
    assert "config.json" in message and f"`{name}` must be" in message


@pytest.mark.parametrize(
    "content, reason",
    [
        ("[]", "must hold a JSON object"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "`weight_map` must map tensors to files, it is None"),
        ('{"weight_map": []}', "`weight_map` must map"),
        ('{"weight_map": {"w_mean": 3}}', "`weight_map` has 3 for 'w_mean'"),
        ('{"weight_map": {"w_mean": "../model_index.json"}}', "which is no file name"),
        ('{"weight_map": {"w_mean": "/etc/passwd"}}', "which is no file name"),
        ('{"weight_map": {"w_mean": "none.safetensors"}}', "names none.safetensors, which is not there"),
    ],
)
def test_a_bad_index_of_shards(folder, content, reason):
    (folder / WEIGHTS).unlink()
    OURS.save_pretrained(folder / "generator", max_shard_size="5KB")
    PolyINRPipeline.from_pretrained(folder)
    (folder / f"{WEIGHTS}.index.json").write_text(content)
    message = refused(folder)
    assert "safetensors.index.json" in message and reason in message


def test_a_shard_that_lacks_a_tensor(folder):
    (folder / WEIGHTS).unlink()
    OURS.save_pretrained(folder / "generator", max_shard_size="5KB")
    index = folder / f"{WEIGHTS}.index.json"
    shard = folder / "generator" / json.loads(index.read_text())["weight_map"]["to_rgb.weight"]
    weights = load_file(shard)
    weights.pop("to_rgb.weight")
    save_file(weights, shard, metadata={"format": "pt"})
    assert f"{shard.name} lacks 1 tensors of its index: to_rgb.weight." in refused(folder)


def test_weights_of_other_sizes(folder):
    edit_weights(folder, lambda weights: weights.update({"to_rgb.weight": torch.zeros(3, 9)}))
    with pytest.raises((OSError, ValueError, RuntimeError), match="to_rgb.weight"):
        PolyINRPipeline.from_pretrained(folder)
