"""Runs on few pictures: folders of every kind, a time that is kept, stops and resumes, what is left to look at."""

import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.training import codes, pictures
from polyinr_hf.training.pictures import PicturesTrainer
from polyinr_hf.training.recipe import load_recipe, make_recipe, save_recipe
from polyinr_hf.training.reporting import next_commands

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
MODEL = {"channels": 16, "num_levels": 3, "z_dim": 4}


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """A hundredth of the points, a fifth of the grids: what is tested does not depend on their number."""
    monkeypatch.setattr(pictures, "MARKS", 3)
    monkeypatch.setattr(codes, "POINTS_PER_STEP", 128)
    monkeypatch.setattr(codes, "REGRESSIONS_PER_STEP", 2)


def save_picture(path, seed: int, size=(20, 20), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"RGB": 3, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    PIL.Image.fromarray(pixels, mode).resize(size).save(path)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Seven pictures without labels, of mixed sizes, some with alpha."""
    folder = tmp_path_factory.mktemp("pictures") / "mixed"
    for seed in range(7):
        size, mode = ((20, 20), (33, 18), (12, 40))[seed % 3], ("RGB", "RGBA")[seed % 2]
        save_picture(folder / f"{seed}.png", seed, size, mode)
    return folder


def recipe_for(folder, *overrides, classes=False, **settings):
    given = {
        "data": {"dataset": str(folder), "class_conditional": classes, "num_workers": 0},
        "model": MODEL,
        "loss": {"matching_weight": 0.1},
        "discriminator": {"feature_networks": ["tf_efficientnet_lite0"], "feature_resolution": 64},
        "stages": [{"resolution": 12, "kimg": 1}],
        "run": {"codes": "20 steps", "log_with": [], "mixed_precision": "no", "class_embeddings": "random"},
    }
    return make_recipe(given | settings, list(overrides))


def read_log(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def exported(folder) -> PolyINRPipeline:
    (export,) = (folder / "exports").iterdir()
    return PolyINRPipeline.from_pretrained(export)


def same_weights(first: PicturesTrainer, second: PicturesTrainer) -> bool:
    states = [trainer.generator.state_dict() | trainer.learner.codes.state_dict() for trainer in (first, second)]
    return all(torch.equal(values, states[1][name]) for name, values in states[0].items())


def stop_after(trainer: PicturesTrainer, number: int, stop=None) -> None:
    """Asks the run to stop while it takes its step of that number."""
    stop = stop or trainer.request_stop

    def asking(take):
        def step(index, done):
            if index + 1 == number:
                stop()
            return take(index, done)

        return step

    trainer.learner.take = asking(trainer.learner.take)


# --- what is left -----------------------------------------------------------------------------------------------------


def test_a_run_leaves_a_model_grids_a_film_and_how_near_its_samples_are(flat, tmp_path, capsys):
    trainer = PicturesTrainer(recipe_for(flat), tmp_path)
    assert trainer.train()
    told = capsys.readouterr().err
    assert "redraws and blends the 7 pictures it was shown" in told and "some sample's nearest" in told
    pipeline = exported(tmp_path)
    assert pipeline.generator.config.num_classes is None and pipeline.generator.config.z_dim == 4
    assert pipeline(height=12, width=12, generator=torch.Generator().manual_seed(0)).images[0].size == (12, 12)
    lines = read_log(tmp_path)
    assert list(dict.fromkeys(line["phase"] for line in lines)) == ["codes", "mapping", "details"]
    assert lines[-1]["step"] == 20
    grids = sorted((tmp_path / "samples").glob("minute-*.png"))
    assert len(grids) >= 1 and f"mean PSNR {lines[-1]['psnr']:.1f} dB" in told
    with PIL.Image.open(grids[-1]) as grid:
        assert grid.size == (7 * 12, 2 * 12)  # pictures above, what the model makes of them below
        above, below = np.split(np.asarray(grid), 2)
    assert np.array_equal(above[:, :12], trainer.pictures[0].permute(1, 2, 0).numpy())
    assert not np.array_equal(above, below)
    with PIL.Image.open(tmp_path / "morph.gif") as film:
        assert film.n_frames > 10


@pytest.mark.parametrize(
    "names", [["a", "a", "a", "b", "b"], ["a", "b", "c", "d"]], ids=["classes", "one picture each"]
)
def test_folders_of_classes_give_a_model_of_them(names, tmp_path):
    for index, name in enumerate(names):
        save_picture(tmp_path / "pictures" / name / f"{index}.png", index)
    trainer = PicturesTrainer(recipe_for(tmp_path / "pictures", classes=True), tmp_path / "run")
    assert trainer.train()
    assert list(exported(tmp_path / "run").id2label.values()) == sorted(set(names))


def test_a_run_starts_from_how_another_model_draws(flat, tmp_path):
    """Affine and synthesis levels are the source's, of other latents and classes; what it lacks is refused."""
    source = PolyINRGenerator(channels=16, num_levels=3, z_dim=6, num_classes=5, sample_size=8)
    PolyINRPipeline(source, {i: f"class {i}" for i in range(5)}).save_pretrained(tmp_path / "source")
    trainer = PicturesTrainer(recipe_for(flat, f"run.init_from={tmp_path / 'source'}"), tmp_path / "run")
    mine = trainer.generator.state_dict()
    for name, values in source.state_dict().items():
        assert name.startswith(("mapping", "w_mean")) or torch.equal(mine[name], values), name
    other = recipe_for(flat, f"run.init_from={tmp_path / 'source'}", "model.channels=24")
    with pytest.raises(ValueError, match="`model.channels` must be 16, as in `run.init_from` .*, got 24"):
        PicturesTrainer(other, tmp_path / "other")


def test_a_model_of_these_pictures_keeps_its_mapping_and_what_latents_stand_for(flat, tmp_path):
    """With matching by latent, as those do that have been trained so; in the codes' phase nothing changes it."""
    source = PolyINRGenerator(num_classes=None, sample_size=8, **MODEL)
    PolyINRPipeline(source).save_pretrained(tmp_path / "source")
    recipe = recipe_for(flat, f"run.init_from={tmp_path / 'source'}", "loss.matching_by=latent", "run.codes=9 steps")
    trainer = PicturesTrainer(recipe, tmp_path / "run")
    assert trainer.train()
    assert trainer.learner.cells.anchors[:, 0].diff().min() > 0  # pictures in order along each number of z
    trainer = PicturesTrainer(recipe, tmp_path / "again")
    mine = trainer.generator.state_dict()
    assert all(torch.equal(mine[name], values) for name, values in source.state_dict().items())


def test_many_pictures_are_held_in_a_file(flat, tmp_path, monkeypatch):
    """Past a limit, decoded pictures are a file's map, and the run is the same."""
    whole = PicturesTrainer(recipe_for(flat), tmp_path / "whole")
    monkeypatch.setattr("polyinr_hf.training.pictures.CACHE_BYTES", 100)
    mapped = PicturesTrainer(recipe_for(flat), tmp_path / "mapped")
    assert (tmp_path / "mapped" / "pictures.bin").stat().st_size == 7 * 3 * 12 * 12
    assert torch.equal(whole.pictures, mapped.pictures)


# --- time, stops, resumes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds_a_step", [1.0, 7.0])
def test_the_time_is_kept_whatever_a_step_takes(flat, tmp_path, seconds_a_step):
    """On a clock that a step moves, all of 3 minutes but what the end needs are used, half of them for codes."""
    ticks = itertools.count()
    trainer = PicturesTrainer(
        recipe_for(flat, "run.codes=3 minutes"), tmp_path, clock=lambda: next(ticks) * seconds_a_step
    )
    assert trainer.train()
    lines = read_log(tmp_path)
    assert 60 * lines[-1]["minutes"] == pytest.approx(0.9 * 180, abs=5 * seconds_a_step)
    first_of_mapping = next(line["minutes"] for line in lines if line["phase"] == "mapping")
    assert first_of_mapping == pytest.approx(1.5, abs=0.5)


@pytest.mark.parametrize("stop_at", [4, 8, 12, 18], ids=["codes", "between", "mapping", "details"])
def test_a_run_stopped_in_any_phase_goes_on_bit_for_bit(flat, tmp_path, stop_at):
    whole = PicturesTrainer(recipe_for(flat), tmp_path / "whole")
    assert whole.train()
    stopped = PicturesTrainer(recipe_for(flat), tmp_path / "stopped")
    stop_after(stopped, stop_at)
    assert not stopped.train() and stopped.step == stop_at
    with pytest.raises(ValueError, match="`output_dir` must be without checkpoints"):
        PicturesTrainer(recipe_for(flat), tmp_path / "stopped")
    resumed = PicturesTrainer(recipe_for(flat), tmp_path / "stopped", resume=True)
    assert resumed.step == stop_at and resumed.train()
    assert same_weights(whole, resumed)
    assert read_log(tmp_path / "stopped")[-1]["psnr"] == read_log(tmp_path / "whole")[-1]["psnr"]


@pytest.mark.parametrize("stop_at", [3, 12], ids=["codes", "mapping"])
def test_ctrl_c_leaves_a_model_and_the_command_that_draws_it(flat, tmp_path, stop_at):
    """Before the mapping network's time, too: samples are like codes then, and the run goes on as ever."""
    trainer = PicturesTrainer(recipe_for(flat), tmp_path / "stopped")
    stop_after(trainer, stop_at, lambda: signal.raise_signal(signal.SIGINT))
    assert not trainer.train()
    (export,) = (tmp_path / "stopped" / "exports").iterdir()
    assert f"generate.py --pipeline {export}" in next_commands(tmp_path / "stopped", str(flat), "train.py", False)
    generator = exported(tmp_path / "stopped").generator
    with torch.no_grad():
        w = generator.mapping(torch.randn(64, 4))
    codes_ = trainer.learner.codes.weight
    if stop_at == 3:
        assert torch.cdist(w, codes_).amin(dim=1).mean() < 0.8 * codes_.norm(dim=1).mean()
    resumed, whole = (PicturesTrainer(recipe_for(flat), tmp_path / name, resume=True) for name in ("stopped", "whole"))
    assert resumed.step == stop_at and resumed.train() and whole.train()
    assert same_weights(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [5, 11, 18], ids=["codes", "mapping", "details"])
def test_a_run_killed_in_any_phase_goes_on_bit_for_bit(flat, tmp_path, monkeypatch, kill_at):
    """By SIGKILL, in a step of each phase: the last checkpoint before it is where it goes on."""
    monkeypatch.undo()  # other processes know nothing of it
    killing = (
        "import os, signal, sys; from pathlib import Path; from polyinr_hf.training.pictures import PicturesTrainer; "
        "from polyinr_hf.training.recipe import load_recipe; "
        "trainer = PicturesTrainer(load_recipe(sys.argv[1]), Path(sys.argv[2])); take = trainer.learner.take; "
        f"trainer.learner.take = lambda step, done: os.kill(os.getpid(), signal.SIGKILL) if step == {kill_at} "
        "else take(step, done); trainer.train()"
    )
    save_recipe(recipe_for(flat), tmp_path / "recipe.yaml")
    command = [sys.executable, "-c", killing, tmp_path / "recipe.yaml", tmp_path / "killed"]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == -signal.SIGKILL
    recipe = load_recipe(tmp_path / "recipe.yaml")
    resumed = PicturesTrainer(recipe, tmp_path / "killed", resume=True)
    assert 0 < resumed.step <= kill_at and resumed.train()
    whole = PicturesTrainer(recipe, tmp_path / "whole")
    assert whole.train()
    assert same_weights(whole, resumed)


def test_without_the_feature_networks_weights_points_teach_alone(flat, tmp_path, caplog):
    missing = recipe_for(flat, "discriminator.feature_weights={tf_efficientnet_lite0: nowhere.pth}")
    trainer = PicturesTrainer(missing, tmp_path)
    assert "the last phase learns from points alone" in caplog.text and "nowhere.pth" in caplog.text
    assert trainer.train() and exported(tmp_path)


def test_what_does_not_fit_is_refused_before_any_work(flat, tmp_path):
    for overrides, message in (
        (["run.codes=soon"], "`run.codes` must be null or a time or a number"),
        (["run.codes=1.5 steps"], "`run.codes` must be"),
        (["data.streaming=true", "loss.matching_weight=0"], "`run.codes` must be null with `data.streaming`"),
    ):
        with pytest.raises(ValueError, match=message):
            recipe_for(flat, *overrides)
    with pytest.raises(ValueError, match="`run.mixed_precision` must be .*, got 'fp16'"):
        PicturesTrainer(recipe_for(flat, "run.mixed_precision=fp16"), tmp_path)


@pytest.mark.slow
def test_two_processes_learn_as_one_does(flat, tmp_path, monkeypatch):
    """By torchrun, of seven pictures four and three each: the same figures, and a run that one process goes on with."""
    monkeypatch.undo()  # other processes know nothing of it
    save_recipe(recipe_for(flat, "run.codes=6 steps"), tmp_path / "recipe.yaml")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", SCRIPT]
    command = [*launch, tmp_path / "recipe.yaml", "--output", tmp_path / "two"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("redraws and blends the 7 pictures") == 1
    one = PicturesTrainer(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "one")
    assert one.train()
    logs = [read_log(tmp_path / name) for name in ("one", "two")]
    found = [[(line["step"], line["phase"], line["psnr"], line["loss"]) for line in log] for log in logs]
    for ours, theirs in zip(*found, strict=True):  # rounding moves what Adam makes of gradients near zero
        assert ours[:2] == theirs[:2] and theirs[2:] == pytest.approx(ours[2:], rel=0.05), found
    assert exported(tmp_path / "two").generator.config.z_dim == 4
