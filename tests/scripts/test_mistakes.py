"""What people type wrong gets one sentence that says what to type, at once."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image

from polyinr_hf import PolyINRGenerator, PolyINRPipeline

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(f"mistaken_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a pipeline, models/tiny, pictures/, bad/, whose first one is broken, and other files."""
    place = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    model = PolyINRGenerator(z_dim=8, channels=8, num_levels=3, num_classes=3, sample_size=8)
    names = {0: "tench", 1: "red apple", 2: "apple"}
    PolyINRPipeline(model, names).save_pretrained(place / "models" / "tiny")
    for name in ("pictures", "bad"):
        (place / name).mkdir()
        for index in range(3):
            Image.new("RGB", (9, 9), (80 * index, 0, 0)).save(place / name / f"{index}.png")
    (place / "bad" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\ntorn")
    (place / "list.yaml").write_text("- a\n")
    (place / "text.md").write_text("# A text: [\n")
    return place


@pytest.fixture(autouse=True)
def no_accelerator_before():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


MISTAKES = [
    ("generate --pipeline models --class tench", "models is no pipeline's folder, .* models/tiny is one"),
    ("generate --pipeline models/tiny/generator --class tench", "generator is no .*; models/tiny is one"),
    ("generate --pipeline models/tiny/model_index.json --class tench", "no pipeline's folder, .* models/tiny is one"),
    ("generate --pipeline models/tiny --class red apple", 'in quotes: --class "red apple"'),
    ("generate --pipeline models/tiny --class blue apple", "'blue'.* `.*generate.* --list_classes` lists the names"),
    ("generate --pipeline models/tiny --class tench --output text.md", "`--output` must be in a folder, got text.md"),
    ("generate --pipeline models/tiny --class tench --device gpu", "`--device` must be one that is here, .* got gpu"),
    ("edit zoom --pipeline models/tiny --class tench --seeds 0-3", "one image to zoom into, got 4"),
    ("edit zoom --pipeline models/tiny --class tench --centre 30 50", r"`--center` must be .* 0\.\.1, got 30 50"),
    ("edit mix --pipeline models/tiny --class tench --output text.md/a.png", "text.md is a file"),
    ("edit interpolate --pipeline models/tiny --class red apple", 'in quotes: --class "red apple"'),
    ("edit tune --pipeline models/tiny pictures/0.png --strength near", "`--parameters` must be given .* invert first"),
    ("edit invert --pipeline models/tiny pictures/0.png bad/0.png", "different names|0.png.*cannot be read"),
    ("train pictures --output run", "`recipe` must be small .* a folder: of pictures, write --dataset pictures"),
    ("train small pictures --output run", "got 'pictures': for a folder of pictures write --dataset pictures"),
    ("train --output run --dataset /nowhere/at/all", "`data.dataset` must be .* got /nowhere/at/all: there is no such"),
    ("train --output run --dataset pictures lr=1", "'lr=1': .* all keys are in polyinr_hf/training/recipe.py"),
    ("train --resume --output run", "`--output` must be the folder of a run with --resume, got run"),
    ("train --output run --dataset pictures --init_from models", "models is no pipeline's folder, .* models/tiny"),
    ("train --output run --dataset bad --init_from models/tiny", r"image 0 \(bad/0.png\) cannot be decoded"),
    ("evaluate --pipeline models/tiny --dataset pictures --metrics fd_lite0", "pipeline's 3 classes.*`label_column`"),
    ("evaluate --pipeline models/tiny --dataset /nowhere/at/all", "`--dataset` must be a local file .* no such file"),
    ("inspect_samples --pipeline models/tiny --dataset pictures", "`--dataset` must have classes, pictures has none"),
    ("convert_original --checkpoint none.pkl --output new", "none.pkl: No such file or directory"),
    ("convert_original --checkpoint models/tiny --output new", "models/tiny is a pipeline already and needs no"),
    ("push_to_hub --pipeline models --repo me/x --dry_run", "models is no pipeline's folder, .* models/tiny is one"),
    ("push_to_hub --pipeline none --repo me/x --dry_run", "must be a pipeline folder, there is no none"),
    ("push_to_hub --pipeline models/tiny --repo me/x --card list.yaml --dry_run", "`--card` must be a file of keys"),
    ("push_to_hub --pipeline models/tiny --repo me/x --evaluation text.md --dry_run", "`--evaluation` must be a file"),
    ("export_onnx --pipeline models --output new", "models is no pipeline's folder, .* models/tiny is one"),
    ("plan --recipe none.yaml", "none.yaml: No such file or directory"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES)
def test_one_sentence(words, sentence, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    name, *arguments = re.findall(r"\S+", words)
    with pytest.raises(SystemExit) as end:
        load_script(name).main(arguments)
    assert isinstance(end.value.code, str) and end.value.code.startswith("error: ") and "\n" not in end.value.code
    assert re.search(sentence, end.value.code), end.value.code
    assert "0%" not in capsys.readouterr().err
    assert [path for path in sorted(place.rglob("*")) if path not in before and "run" not in path.parts] == []


WRONG_OPTIONS = [
    ("generate --seed x", "argument --seeds/--seed: 'x' is not a list of seeds such as 0-15 or 0-3,9"),
    ("generate --clas penguin --hight 9", "unrecognized arguments: --hight 9"),
    ("generate --class penguin --list_classes", "argument --list_classes: not allowed with argument --class"),
    ("edit zoom --factor big", "argument --factor: invalid float value: 'big'"),
    ("edit invert cat.jpg --seed 1.5", "argument --seed: invalid int value: '1.5'"),
    ("edit", "the following arguments are required: COMMAND"),
    ("train small --minutes 15", "the following arguments are required: --output"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG_OPTIONS)
def test_a_wrong_option_is_answered_without_the_usage(words, sentence, capsys):
    name, *arguments = words.split()
    with pytest.raises(SystemExit) as end:
        load_script(name).main(arguments)
    said = capsys.readouterr()
    assert end.value.code == 2 and said.out == ""
    first, second = said.err.splitlines()
    assert first == f"error: {sentence}" and second.endswith(" --help says more.")


def test_broken_pictures_of_an_adversarial_run_are_said_before_networks_are_built(place, monkeypatch):
    from polyinr_hf.training import trainer

    monkeypatch.chdir(place)
    monkeypatch.setattr(trainer, "build_generator", lambda *_: pytest.fail("networks are built"))
    recipe = ["configs/finetune.yaml", "--dataset", "bad", "--init_from", "models/tiny", "--output", "run"]
    with pytest.raises(SystemExit, match=r"error: image 0 \(bad/0.png\) cannot be decoded"):
        load_script("train").main(recipe)


def test_few_pictures_are_said(place, monkeypatch, capsys):
    from polyinr_hf import training

    monkeypatch.chdir(place)
    training.small_recipe(["data.dataset=pictures"])
    assert "; 3 are few, and the model will show these and little else" in capsys.readouterr().out


def test_a_missing_package_is_named_with_what_readme_installs(capsys):
    from arguments import one_line_errors
    from polyinr_hf._lazy import naming_extra

    with pytest.raises(SystemExit) as end, one_line_errors(), naming_extra("polyinr_hf.training.Trainer", "train"):
        raise ModuleNotFoundError("No module named 'omegaconf'", name="omegaconf")
    assert re.fullmatch(
        r'error: The package omegaconf is not installed: pip install -e "\S+\[train,eval\]"', end.value.code
    )


def test_a_bar_that_an_error_cuts_off_leaves_nothing(monkeypatch, capsys):
    import arguments

    monkeypatch.setattr(arguments, "BAR_SECONDS", 1e-9)
    for total, updates, is_left in ((5, 0, False), (5, 2, True), (1, 1, False)):
        with pytest.raises(ValueError, match="cut off"), arguments.ProgressBar(total=total, position=0) as bar:
            bar.refresh()
            bar.update(updates)
            raise ValueError("cut off")
        last_line = capsys.readouterr().err.rpartition("\r")[2].strip()
        assert bool(last_line) is is_left


def test_an_unreachable_hub_is_said_before_a_push(place, monkeypatch, tmp_path):
    from loopback_hub import LoopbackHub, connect

    with LoopbackHub() as hub:
        connect(monkeypatch, hub, tmp_path, None)
    monkeypatch.setattr("polyinr_hf.hub.push.time", None)  # nobody waits
    with pytest.raises(SystemExit, match=r"error: The connection to the Hub failed for me/x \(ConnectError\)"):
        load_script("push_to_hub").main(["--pipeline", str(place / "models" / "tiny"), "--repo", "me/x"])
