"""scripts/train.py as it is called: the shipped recipes, signals, two processes, and messages instead of tracebacks."""

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import datasets
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from polyinr_hf import PolyINRPipeline
from polyinr_hf.training.recipe import load_recipe
from polyinr_hf.training.trainer import Trainer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "train.py"


def train(*arguments) -> None:
    spec = importlib.util.spec_from_file_location("scripts_train", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(argument) for argument in arguments])


def train_in_child(*arguments) -> None:
    torch.set_num_threads(1)
    train(*arguments)


def read_log(folder: Path) -> list[dict]:
    path = folder / "log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def error_of(*arguments) -> str:
    with pytest.raises(SystemExit) as end:
        train(*arguments)
    assert isinstance(end.value.code, str)
    return end.value.code


# --- the shipped recipes ----------------------------------------------------------------------------------------------

DEIT = "deit_tiny_distilled_patch16_224"
TINY = [
    "model.channels=16",
    "model.num_levels=3",
    "data.num_workers=0",
    "discriminator.feature_networks=[deit_tiny_distilled_patch16_224,tf_efficientnet_lite0]",
    "discriminator.feature_resolution=64",
    "discriminator.projection_width=8",
    "stages=[{resolution: 16, kimg: 0.004, batch_size: 2}]",
    "run.compile=false",
    "run.mixed_precision=no",
    "run.log_every_steps=1",
    "run.evaluate_every_kimg=null",
    "discriminator.batch_norm=separate",
]
RANDOM = [f"discriminator.feature_weights.{name}=random" for name in (DEIT, "tf_efficientnet_lite0")]


@pytest.fixture(scope="module")
def thousand_classes(save_images, tmp_path_factory) -> str:
    """The columns of ImageNet: `image` and `label`, 1,000 classes."""
    label = datasets.ClassLabel(names=[f"class {i}" for i in range(1000)])
    folder = tmp_path_factory.mktemp("data") / "imagenet"
    return save_images(folder, {"label": label}, {"label": [999, 0, 1, 2, 3, 4, 5, 6]}, num_images=8)


def test_imagenet_recipe_takes_steps_with_deit_built_without_weights(thousand_classes, tmp_path):
    """Guidance included, by a classifier without weights as well; class embeddings are the real ones."""
    overrides = [*TINY, f"data.dataset={thousand_classes}", *RANDOM, f"loss.guidance_classifier={DEIT}"]
    overrides += ["stages=[{resolution: 64, kimg: 0.008, batch_size: 4}]"]
    train(ROOT / "configs" / "imagenet.yaml", "--output", tmp_path / "run", *overrides)
    log = read_log(tmp_path / "run")
    assert [line["step"] for line in log] == [1, 2]
    assert log[0]["guidance_loss"] > 0
    (export,) = (tmp_path / "run" / "exports").iterdir()
    assert PolyINRPipeline.from_pretrained(export).generator.config.num_classes == 1000
    assert load_recipe(export / "recipe.yaml").loss.guidance_weight == 1


def test_ffhq_recipe_takes_steps_with_deit_built_without_weights(unlabelled_images, tmp_path):
    overrides = [*TINY, f"data.dataset={unlabelled_images}", *RANDOM]
    train(ROOT / "configs" / "ffhq.yaml", "--output", tmp_path / "run", *overrides)
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2]
    (export,) = (tmp_path / "run" / "exports").iterdir()
    assert PolyINRPipeline.from_pretrained(export).generator.config.num_classes is None


def test_emoji_recipe_takes_steps(labelled_images, tmp_path):
    overrides = [override for override in TINY if "feature_networks" not in override]
    train(
        ROOT / "examples" / "emoji" / "kinds.yaml",
        "--output",
        tmp_path / "run",
        *overrides,
        f"data.dataset={labelled_images}",
    )
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("embeddings", ["random", "computed"])
def test_feature_networks_without_weights_are_named(labelled_images, tmp_path, monkeypatch, embeddings):
    """Before class embeddings are computed, which may take hours."""
    computed = "polyinr_hf.training.models.compute_class_embeddings"
    monkeypatch.setattr(computed, lambda *args, **kwargs: pytest.fail("class embeddings were computed first"))
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("no network")))
    arguments = [*TINY, f"data.dataset={labelled_images}", f"run.class_embeddings={embeddings}"]
    arguments += ["loss.guidance_weight=0"]
    message = error_of(ROOT / "configs" / "imagenet.yaml", "--output", tmp_path / "run", *arguments)
    assert message.startswith("error: `weights` for deit_tiny_distilled_patch16_224 must be given")
    assert "feature_weights" in message


# --- stop and go ------------------------------------------------------------------------------------------------------


def test_sigterm_saves_and_exits_with_0(recipe_file, tmp_path, processes):
    arguments = [recipe_file, "--output", tmp_path, "stages.0.kimg=1"]
    process = processes.Process(target=train_in_child, args=arguments)
    process.start()
    while not read_log(tmp_path):
        assert process.is_alive()
        time.sleep(0.01)
    assert not (tmp_path / "checkpoints").exists()
    process.terminate()
    process.join()
    assert process.exitcode == 0
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    steps = len(read_log(tmp_path))
    assert checkpoint.name == f"step-{steps:08d}"
    train(recipe_file, "--output", tmp_path, "--resume", f"stages.0.kimg={0.004 * (steps + 1)}", "stages.1.kimg=0.001")
    assert [line["step"] for line in read_log(tmp_path)] == list(range(1, steps + 3))


def test_a_run_says_what_it_costs_where_it_is_and_what_comes_next(recipe_file, tmp_path, capsys):
    """And resumes by the recipe in its folder, with no override said again."""
    run = tmp_path / "run"
    train(recipe_file, "--output", run, "stages.0.kimg=0.008", "stages.1.kimg=0.004", "run.seed=5")
    shown = capsys.readouterr()
    assert "GFLOP an image" in shown.err
    assert re.search(r"a checkpoint: 0\.\d\d GiB", shown.err)
    assert f"finished at 0.012 of 0.012 kimg: {run}" in shown.out
    export = run / "exports" / "kimg-000000"
    for command in ("generate.py", "evaluate.py", "push_to_hub.py"):
        assert any(command in line and f"--pipeline {export}" in line for line in shown.out.splitlines()), command
    assert "--resume" not in shown.out
    (draw,) = (line.split()[2:-1] for line in shown.out.splitlines() if line.startswith("draw:"))  # after `python`
    subprocess.run([sys.executable, *draw, tmp_path / "out"], cwd=ROOT, check=True, capture_output=True)
    assert len(list((tmp_path / "out").glob("*.png"))) == 3 * 4 + 1  # of each of three classes four, and the grid
    recipe = load_recipe(run / "recipe.yaml")
    train("--output", run, "--resume", "stages.1.kimg=0.008")
    assert f"finished at 0.016 of 0.016 kimg: {run}" in capsys.readouterr().out
    recipe.stages[1].kimg = 0.008
    assert load_recipe(run / "recipe.yaml") == recipe
    assert (run / "exports" / "kimg-000000.016").exists()  # two exports within one kimg have two names
    train(recipe_file, "--output", run, "--resume")
    assert "run.seed: 5 -> 0" in capsys.readouterr().err
    assert error_of("--output", run).startswith("error: `recipe` is missing: name one, such as small or configs/")


def test_small_makes_a_model_of_a_folder(tmp_path, capsys):
    """From scratch; what comes next is said; resuming what has ended changes nothing; no time is refused."""
    for index in range(5):
        path = tmp_path / "pictures" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (20, 30), (50 * index, 99, 0)).save(path)
    run = tmp_path / "run"
    arguments = ["small", "--output", run, "--init_from", "scratch", f"data.dataset={path.parent}"]
    tiny = ["run.codes=4 steps", "model.channels=16", "model.num_levels=3", "run.compile=false"]
    train(*arguments, *tiny)
    told = capsys.readouterr().out
    assert "5 pictures at 20 px, 4 steps, on a CPU, from scratch" in told and "4 steps: " in told
    assert "--height 1024" in told and "edit.py zoom" in told and "edit.py mix" in told and "POLYINR_MODEL=" in told
    (export,) = (run / "exports").iterdir()
    weights = (export / "generator" / "diffusion_pytorch_model.safetensors").read_bytes()
    train("small", "--output", run, "--resume")
    assert (export / "generator" / "diffusion_pytorch_model.safetensors").read_bytes() == weights
    assert "`minutes` must be above 0, got -1" in error_of(*arguments, "--minutes=-1")


# --- two processes ----------------------------------------------------------------------------------------------------


def saved_gradients(checkpoint: Path) -> list[torch.Tensor]:
    """Of the step before a checkpoint, generator's and discriminator's: Adam's first moments, where their beta is 0."""
    states = [torch.load(checkpoint / f"{name}.bin")["state"] for name in ("optimizer", "optimizer_1")]
    return [moments["exp_avg"] for state in states for moments in state.values()]


def test_two_processes_train_as_one_does(recipe_file, make_recipe, tmp_path):
    """Gradients of the first step are equal; later, rounding has moved some feature over a kink of an activation."""
    stage = "stages=[{resolution: 16, kimg: 0.016, batch_size: 8}]"
    overrides = [stage, "discriminator.batch_norm=4", "run.checkpoint_every_kimg=0.008"]
    # Without MPI, `accelerate launch --cpu --num_processes 2` starts one process; torchrun starts two, of gloo.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, SCRIPT, recipe_file, "--output", tmp_path / "two", *overrides]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "2 processes on cpu, precision no (as the recipe says), batches of 8 images, 2 steps\n" in result.stderr
    assert "broadcast_buffers" not in result.stderr
    folders = {name: tmp_path / name / "checkpoints" for name in ("one", "two")}
    assert len(list((folders["two"] / "step-00000002").glob("random_states_*.pkl"))) == 2  # one a process

    one = Trainer(make_recipe(*overrides), tmp_path / "one")
    one.train()
    of_two, of_one = (saved_gradients(folders[name] / "step-00000001") for name in ("two", "one"))
    whole = torch.cat([gradient.flatten() for gradient in of_one]).norm()
    assert whole > 0.1
    for ours, theirs in zip(of_two, of_one, strict=True):  # some are zero but for rounding: a bias before batch norm
        assert (ours - theirs).norm() < 1e-3 * max(theirs.norm(), 1e-3 * whole)
    first, expected = read_log(tmp_path / "two")[0], read_log(tmp_path / "one")[0]
    for name in ("generator_loss", "discriminator_loss", "real_sign", "fake_sign"):
        assert first[name] == pytest.approx(expected[name], abs=1e-4)
    resumed = Trainer(make_recipe(*overrides), tmp_path / "two", resume=True)  # two processes' run, in one
    assert resumed.step == 2
    saved = load_file(folders["two"] / "step-00000002" / "model.safetensors")
    assert torch.equal(resumed.generator.to_rgb.weight, saved["generator.to_rgb.weight"])


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run.speed=3"], "`overrides` has 'run.speed=3'"),
        (["stages.1.resolution=8"], "`stages.1.resolution` must be at least"),
        (["stages.0.gradient_accumulation_steps=3"], "`stages.0.batch_size` must be a multiple"),
        (["data.label_column=kind"], "got 'kind'"),
        (["data.dataset=./nowhere"], "got ./nowhere: there is no such file or folder."),
        (["--dataset", "/nowhere"], "got /nowhere: there is no such file or folder."),
        (["--init_from", "./nowhere"], "nowhere"),
        (["discriminator.feature_resolution=50"], "`feature_resolution` must be a multiple of 32, 64 or more, got 50"),
    ],
)
def test_bad_recipes_end_with_a_message(recipe_file, tmp_path, arguments, message):
    text = error_of(recipe_file, "--output", tmp_path / "run", *arguments)
    assert text.startswith("error: ")
    assert message in text
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nowhere.yaml", "which is no file."),
        ("tiny", "which is no file."),
        ("configs", "a folder: of pictures, write --dataset configs."),
    ],
)
def test_a_recipe_that_is_no_file_is_told_what_there_is(tmp_path, name, found):
    text = error_of(name, "--output", tmp_path / "run", "--dataset", tmp_path)
    assert text == (
        f"error: `recipe` must be small or a YAML file, such as configs/finetune.yaml, got {name!r}, {found}"
    )


def test_a_corrupt_picture_ends_with_its_name_and_the_key_that_leaves_it_out(recipe_file, tmp_path):
    pictures = tmp_path / "pictures"
    for index in range(8):
        path = pictures / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (16, 16), (index * 30, 0, 0)).save(path)
    path.write_bytes(path.read_bytes()[:50])
    arguments = [recipe_file, "--output", tmp_path / "run", f"data.dataset={pictures}"]
    text = error_of(*arguments)
    assert text.startswith("error: ")
    assert "7.png" in text and "data.skip_corrupt=true" in text
    train(*arguments, "data.skip_corrupt=true", f"--output={tmp_path / 'other'}")
    assert list((tmp_path / "other" / "exports").iterdir())
