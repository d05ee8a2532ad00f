"""The training loop: what it refuses, that it resumes bit for bit, and that cutting a batch changes nothing."""

import errno
import itertools
import json
import logging
import multiprocessing
import random
import re
import shutil
import signal
import time
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from polyinr_hf import PolyINRPipeline
from polyinr_hf.training import models
from polyinr_hf.training.launch import find_damage
from polyinr_hf.training.models import compute_class_embeddings
from polyinr_hf.training.recipe import load_recipe
from polyinr_hf.training.trainer import Trainer

TIMES = ("time", "images_per_second", "step_seconds", "memory_mb", "eta_hours")


def read_log(folder: Path) -> list[dict]:
    """Log lines without what differs from run to run."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    models = {"generator": trainer.generator, "ema": trainer.ema, "discriminator": trainer.discriminator}
    return {
        f"{model}.{name}": value.clone()
        for model, module in models.items()
        for name, value in module.state_dict().items()
    }


def assert_same_weights(ours: dict, theirs: dict):
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def after_step(trainer: Trainer, step: int, action, monkeypatch):
    """Runs `action` at the end of that step."""
    train_step = trainer.train_step

    def patched(*args):
        train_step(*args)
        if trainer.step == step:
            action()

    monkeypatch.setattr(trainer, "train_step", patched)


def stop_after(trainer: Trainer, step: int, monkeypatch, number=signal.SIGTERM):
    after_step(trainer, step, lambda: signal.raise_signal(number), monkeypatch)


@pytest.fixture(scope="module")
def undisturbed(recipe_file, tmp_path_factory):
    """A run of six steps that nothing stopped: its folder and its weights."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    trainer = Trainer(load_recipe(recipe_file, ["run.checkpoint_every_kimg=0.004"]), folder)
    assert trainer.train()
    return folder, weights_of(trainer)


# --- what a run leaves behind -----------------------------------------------------------------------------------------


def test_a_run_trains_all_parameters_at_every_stage(undisturbed, make_recipe, tmp_path):
    """Compared: the start, step 5 and step 6, the last two in the second stage."""
    trainer = Trainer(make_recipe(), tmp_path)
    states = [weights_of(trainer)]
    for step in (5, 6):
        checkpoint = undisturbed[0] / "checkpoints" / f"step-{step:08d}"
        models = {"generator": load_file(checkpoint / "model.safetensors")}
        models["discriminator"] = load_file(checkpoint / "model_1.safetensors")
        models["generator"] = {k.removeprefix("generator."): v for k, v in models["generator"].items()}
        states.append({f"{model}.{name}": v for model, state in models.items() for name, v in state.items()})
    frozen = {name for name in states[1] if ".taps." in name or ".projection." in name}
    learning = {f"generator.{name}" for name, _ in trainer.generator.named_parameters()}
    learning |= {f"discriminator.{name}" for name, p in trainer.discriminator.named_parameters() if p.requires_grad}
    for before, after in itertools.pairwise(states):
        assert [name for name in sorted(learning) if torch.equal(before[name], after[name])] == []
        assert [name for name in sorted(frozen) if not torch.equal(before[name], after[name])] == []
    assert not any("backbone" in name for name in states[1])


def test_the_log_says_what_happens(undisturbed):
    folder, _ = undisturbed
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["resolution"] for line in lines] == [16] * 4 + [24] * 2
    assert [line["kimg"] for line in lines] == [0.004, 0.008, 0.012, 0.016, 0.020, 0.024]
    for line in lines:
        assert all(np.isfinite(line[name]) for name in ("generator_loss", "discriminator_loss"))
        assert all(-1 <= line[name] <= 1 for name in ("real_sign", "fake_sign", "fake_sign_generator"))
        assert line["images_per_second"] == pytest.approx(4 / line["step_seconds"])
        assert line["memory_mb"] > 10
        assert line["eta_hours"] == pytest.approx((0.024 - line["kimg"]) * 1000 / line["images_per_second"] / 3600)
        assert (line["nonfinite_generator_steps"], line["nonfinite_discriminator_steps"]) == (0, 0)
        assert line["skipped_images"] == 0


def test_samples_and_reals_are_grids(undisturbed):
    folder, _ = undisturbed
    files = {path.name: PIL.Image.open(path) for path in (folder / "samples").iterdir()}
    sizes = {"kimg-00000.024.png": (8 * 24, 3 * 24), "reals-16.png": (8 * 16, 2 * 16), "reals-24.png": (8 * 24, 2 * 24)}
    assert {name: image.size for name, image in files.items()} == sizes
    assert all(np.asarray(image).std() > 0 for image in files.values())


def test_an_export_is_a_pipeline_with_its_recipe(undisturbed, make_recipe):
    folder, weights = undisturbed
    (export,) = (folder / "exports").iterdir()
    pipeline = PolyINRPipeline.from_pretrained(export)
    assert pipeline.id2label == {0: "tench", 1: "goldfish, Carassius auratus", 2: "stork"}
    assert pipeline.generator.config.sample_size == 24
    for name, value in pipeline.generator.state_dict().items():
        assert torch.equal(value, weights[f"ema.{name}"]), name
    assert pipeline("Carassius auratus").images[0].size == (24, 24)
    recipe = make_recipe("run.checkpoint_every_kimg=0.004", "run.mixed_precision=no")  # what the run had
    assert load_recipe(export / "recipe.yaml") == load_recipe(folder / "recipe.yaml") == recipe


def test_intervals_are_kept(make_recipe, tmp_path):
    intervals = ("sample_every_kimg=0.008", "export_every_kimg=0.016", "checkpoint_every_kimg=0.012")
    Trainer(make_recipe(*(f"run.{interval}" for interval in intervals), "run.log_every_steps=4"), tmp_path).train()
    names = sorted(path.name for path in (tmp_path / "samples").glob("kimg-*"))
    assert names == ["kimg-00000.008.png", "kimg-00000.016.png", "kimg-00000.024.png"]
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000003", "step-00000006"]
    assert [line["step"] for line in read_log(tmp_path)] == [4]


def test_trackers_get_the_log(make_recipe, tmp_path):
    Trainer(make_recipe("run.log_with=[tensorboard]", "stages.0.kimg=0.004", "stages.1.kimg=0.004"), tmp_path).train()
    assert list(tmp_path.rglob("events.out.tfevents.*"))


# --- stop and go ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "number"), [(3, signal.SIGTERM), (4, signal.SIGINT)])
def test_a_stopped_run_goes_on_bit_for_bit(undisturbed, make_recipe, tmp_path, monkeypatch, step, number):
    """From within a stage into the next, and from the end of one; whatever the random state is by then."""
    trainer = Trainer(make_recipe(), tmp_path)
    stop_after(trainer, step, monkeypatch, number)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert trainer.train() is False
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert trainer.step == step
    exports = list((tmp_path / "exports").glob("*"))
    assert len(exports) == (number == signal.SIGINT)  # Ctrl-C leaves something to look at, a scheduler is in a hurry
    for export in exports:
        assert_same_weights(PolyINRPipeline.from_pretrained(export).generator.state_dict(), trainer.ema.state_dict())
    torch.manual_seed(99)
    resumed = Trainer(make_recipe(), tmp_path, resume=True)
    assert resumed.step == step
    assert resumed.train() is True
    assert_same_weights(weights_of(resumed), undisturbed[1])
    assert read_log(tmp_path) == read_log(undisturbed[0])


def test_a_finished_run_has_nothing_left_to_do(undisturbed, make_recipe, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "run")
    trainer = Trainer(make_recipe(), tmp_path / "run", resume=True)
    assert trainer.train() is True
    assert trainer.step == 6
    assert_same_weights(weights_of(trainer), undisturbed[1])


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(undisturbed, make_recipe, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[0], folder)
    newest = folder / "checkpoints" / "step-00000006"
    weights = newest / "model_1.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "discr')  # what a killed run may leave
    trainer = Trainer(make_recipe("run.checkpoint_every_kimg=0.004"), folder, resume=True)
    assert trainer.step == 5
    assert f"{newest} is skipped: model_1.safetensors has changed" in caplog.text
    assert trainer.train()
    assert_same_weights(weights_of(trainer), undisturbed[1])
    assert read_log(folder) == read_log(undisturbed[0])  # each step once
    assert find_damage(newest) is None


def test_resuming_from_nothing_starts(make_recipe, tmp_path, caplog):
    assert Trainer(make_recipe(), tmp_path, resume=True).step == 0
    assert "no whole checkpoint" in caplog.text


def test_a_run_is_not_overwritten(undisturbed, make_recipe):
    with pytest.raises(ValueError, match="`output_dir` must be without checkpoints"):
        Trainer(make_recipe(), undisturbed[0])


def test_a_run_of_other_sizes_does_not_resume(undisturbed, make_recipe, tmp_path):
    shutil.copytree(undisturbed[0], tmp_path / "run")
    with pytest.raises(ValueError, match="step-00000006 does not fit the recipe's networks"):
        Trainer(make_recipe("model.channels=8"), tmp_path / "run", resume=True)


def test_a_run_goes_on_with_the_classes_of_its_checkpoint_only(undisturbed, make_recipe, save_images, tmp_path):
    """Other names, and the same ones in another order, are refused before anything is loaded."""
    shutil.copytree(undisturbed[0], tmp_path / "run")
    labels = [i % 3 for i in range(16)]
    for names in (["tench", "stork", "zebra"], ["goldfish, Carassius auratus", "tench", "stork"], ["tench", "stork"]):
        label = datasets.ClassLabel(names=names)
        data = save_images(
            tmp_path / names[0] / str(len(names)), {"label": label}, {"label": [i % len(names) for i in labels]}
        )
        with pytest.raises(ValueError, match=r"must have the 3 classes of the checkpoint.*class [01] was '.*' and is"):
            Trainer(make_recipe(f"data.dataset={data}"), tmp_path / "run", resume=True)


def test_two_runs_do_not_share_a_folder(make_recipe, tmp_path):
    first = Trainer(make_recipe(), tmp_path)
    with pytest.raises(ValueError, match="`output_dir` must not be in use"):
        Trainer(make_recipe(), tmp_path, resume=True)
    assert first.step == 0


def train_in_child(recipe_file, overrides, folder, started=None):
    torch.set_num_threads(1)
    logging.disable()
    trainer = Trainer(load_recipe(recipe_file, overrides), folder, resume=True)
    if started is not None:
        started.set()
    trainer.train()


def test_killed_ten_times_at_random_moments(recipe_file, tmp_path, processes):
    """Between two kills a run takes about a step, and writes about a checkpoint."""
    overrides = ["stages.0.kimg=0.024", "stages.1.kimg=0.032", "run.checkpoint_every_kimg=0.004"]

    def child(folder, started=None) -> multiprocessing.Process:
        process = processes.Process(target=train_in_child, args=(recipe_file, overrides, folder, started))
        process.start()
        return process

    def finish(folder) -> dict[str, bytes]:
        process = child(folder)
        process.join()
        assert process.exitcode == 0
        newest = folder / "checkpoints" / "step-00000014"
        assert find_damage(newest) is None
        return {path.name: path.read_bytes() for path in newest.glob("*.safetensors")}

    expected = finish(tmp_path / "undisturbed")
    times = [json.loads(line)["time"] for line in (tmp_path / "undisturbed" / "log.jsonl").read_text().splitlines()]
    step_seconds = float(np.median(np.diff(times)))  # with the checkpoint
    moments, kills = random.Random(0), 0
    while kills < 10:
        started = processes.Event()
        process = child(tmp_path / "killed", started)
        assert started.wait(timeout=120)
        time.sleep(moments.uniform(0, 1.5) * step_seconds)
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)  # and not an error of its own
        if process.exitcode == 0:
            break
        kills += 1
    assert kills > 5
    assert finish(tmp_path / "killed") == expected
    steps = [line["step"] for line in read_log(tmp_path / "killed")]
    assert steps == list(range(1, 15))


# --- gradients --------------------------------------------------------------------------------------------------------


def gradients_of_a_step(recipe, folder) -> tuple[dict[str, list], Trainer]:
    """Both networks' gradients as they are when their optimizer steps, and the trainer after its step."""
    trainer, captured = Trainer(recipe, folder), {}
    networks = {
        "generator": list(trainer.generator.parameters()),
        "discriminator": list(trainer.discriminator.trainable_parameters()),
    }

    def capture(name):
        def hook(*_):
            assert name not in captured  # one step each
            captured[name] = [parameter.grad.clone() for parameter in networks[name]]
            (other,) = networks.keys() - {name}
            assert all(parameter.grad is None for parameter in networks[other])  # none leaks from one to the other

        return hook

    for name, optimizer in zip(networks, (trainer.networks.G_optimizer, trainer.networks.D_optimizer), strict=True):
        optimizer.optimizer.register_step_pre_hook(capture(name))
    trainer.train()
    return captured, trainer


@pytest.fixture(scope="module")
def one_step():
    """Batch norm by groups of four: larger batches are then cut without changing what is normalised together."""
    return ["stages=[{resolution: 16, kimg: 0.008, batch_size: 8}]", "discriminator.batch_norm=4"]


@pytest.fixture(scope="module")
def big_batch(recipe_file, one_step, tmp_path_factory):
    captured, trainer = gradients_of_a_step(load_recipe(recipe_file, one_step), tmp_path_factory.mktemp("big batch"))
    return captured, weights_of(trainer)


@pytest.mark.parametrize(
    "override", ["stages.0.gradient_accumulation_steps=2", "stages.0.pixel_chunk=300"], ids=["accumulated", "chunked"]
)
def test_micro_batches_and_pixel_chunks_leave_gradients_as_they_are(
    make_recipe, one_step, big_batch, override, tmp_path, monkeypatch
):
    # However Accelerate is configured: the stages count for themselves.
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    captured, trainer = gradients_of_a_step(make_recipe(*one_step, override), tmp_path)
    for name, expected in big_batch[0].items():
        whole = torch.cat([gradient.flatten() for gradient in expected]).norm()
        for ours, theirs in zip(captured[name], expected, strict=True):
            # Some are zero but for rounding: a bias before batch norm, for one.
            assert (ours - theirs).norm() < 1e-4 * max(theirs.norm(), 1e-3 * whole)
    w_mean = big_batch[1]["generator.w_mean"]
    assert w_mean.any(dim=1).all()
    torch.testing.assert_close(trainer.generator.w_mean, w_mean)
    for optimizer in (trainer.networks.G_optimizer, trainer.networks.D_optimizer):
        assert {state["step"].item() for state in optimizer.state.values()} == {1}


def test_batch_norm_of_real_and_generated_images_is_joint_if_asked(make_recipe, tmp_path, monkeypatch):
    """Then the reals are beside what the generator learns from, too, and are normalised with it."""
    one_step = "stages=[{resolution: 16, kimg: 0.004, batch_size: 4}]"
    for kind in ("joint", "separate"):
        joint, calls = kind == "joint", []
        trainer = Trainer(make_recipe(one_step, f"discriminator.batch_norm={kind}"), tmp_path / kind)
        forward = trainer.discriminator.forward

        def watch(images, *args, num_batches, forward=forward, calls=calls):
            calls.append((images, num_batches))
            return forward(images, *args, num_batches=num_batches)

        monkeypatch.setattr(trainer.discriminator, "forward", watch)
        assert trainer.train()
        (learnt_from, first), (judged, second) = calls
        assert (len(learnt_from), first, len(judged), second) == ((8, 1, 8, 1) if joint else (4, 1, 8, 2))
        assert torch.equal(learnt_from[4:], judged[4:]) == joint  # the batch's reals, both times
        assert not torch.equal(learnt_from[:4], judged[:4])  # generated anew


def test_each_image_is_seen_once_an_epoch(make_recipe, tmp_path):
    stage = "stages=[{resolution: 32, kimg: 0.032, batch_size: 8, gradient_accumulation_steps: 2}]"
    trainer, seen = Trainer(make_recipe(stage, "data.mirror=false"), tmp_path), []
    judge = trainer.discriminator.forward

    def watch(images, *args, **kwargs):
        if len(images) == 8:  # of the discriminator's step: generated ones, then real ones
            seen.extend(image.numpy().tobytes() for image in images[4:])
        return judge(images, *args, **kwargs)

    trainer.discriminator.forward = watch
    trainer.train()
    first, second = seen[:16], seen[16:]
    assert len(second) == len(set(second)) == 16
    assert set(first) == set(second)
    assert first != second


def test_gradients_that_are_not_finite_are_counted_and_harmless(make_recipe, tmp_path, monkeypatch):
    trainer = Trainer(make_recipe(), tmp_path)
    backward = trainer.accelerator.backward

    def spoiled(loss):
        backward(loss)
        if trainer.step == 1:
            parameter = trainer.generator.to_rgb.weight
            if parameter.grad is not None:
                parameter.grad[0, 0] = torch.nan

    monkeypatch.setattr(trainer.accelerator, "backward", spoiled)
    trainer.train()
    lines = read_log(tmp_path)
    assert [line["nonfinite_generator_steps"] for line in lines] == [0, 1, 1, 1, 1, 1]
    assert lines[-1]["nonfinite_discriminator_steps"] == 0
    assert all(value.isfinite().all() for value in weights_of(trainer).values())


@pytest.mark.parametrize(("network", "rate"), [("generator", "3e30"), ("discriminator", "3e38")])
def test_a_run_that_is_not_finite_any_more_stops_and_keeps_what_was(make_recipe, tmp_path, network, rate):
    """It names the step, the last good checkpoint and the rate to lower; all that is left behind can be used."""
    recipe = make_recipe(f"stages.1.lr_{network}={rate}", "stages.1.kimg=0.04", "run.checkpoint_every_kimg=0.008")
    with pytest.raises(FloatingPointError) as error:
        Trainer(recipe, tmp_path).train()
    message = str(error.value)
    *_, newest = sorted((tmp_path / "checkpoints").iterdir())
    assert re.match(r"step (5|6|7):", message) and f"last good checkpoint, {newest}, with --resume" in message
    assert f"stages.1.lr_{network}={float(rate) / 4:g}" in message
    assert find_damage(newest) is None
    for path in newest.glob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())
    assert not (tmp_path / "exports").exists()
    resumed = Trainer(make_recipe("stages.1.kimg=0.008"), tmp_path, resume=True)
    assert resumed.train()
    assert all(value.isfinite().all() for value in weights_of(resumed).values())


def test_each_stage_has_its_learning_rates(make_recipe, tmp_path, monkeypatch):
    trainer, rates = Trainer(make_recipe("stages.0.lr_discriminator=3e-4"), tmp_path), []
    train_step = trainer.train_step

    def watch(*args):
        rates.append(
            (trainer.networks.G_optimizer.param_groups[0]["lr"], trainer.networks.D_optimizer.param_groups[0]["lr"])
        )
        train_step(*args)

    monkeypatch.setattr(trainer, "train_step", watch)
    trainer.train()
    assert rates == [(1e-4, 3e-4)] * 4 + [(5e-5, 2e-4)] * 2


def test_the_mapping_network_learns_faster_by_its_multiplier(make_recipe, tmp_path, monkeypatch):
    """At every stage, and so after a resumption; all parameters are in one of the two groups."""
    recipe, rates = make_recipe("run.mapping_lr_multiplier=20", "run.checkpoint_every_kimg=0.016"), []
    trainer = Trainer(recipe, tmp_path)
    train_step = trainer.train_step

    def watch(*args):
        mapping, rest = trainer.networks.G_optimizer.param_groups
        rates.append((mapping["lr"] / rest["lr"], rest["lr"]))
        train_step(*args)

    monkeypatch.setattr(trainer, "train_step", watch)
    trainer.train()
    assert rates == [(20, 1e-4)] * 4 + [(20, 5e-5)] * 2
    resumed = Trainer(recipe, tmp_path, resume=True)
    mapping, rest = (group["params"] for group in resumed.networks.G_optimizer.param_groups)
    assert {id(p) for p in mapping} == {id(p) for p in resumed.generator.mapping.parameters()}
    assert len(mapping) + len(rest) == len(list(resumed.generator.parameters()))


def test_w_mean_follows_each_class(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("stages.1.kimg=0.0001"), tmp_path)
    trainer.train()
    w_mean = trainer.generator.w_mean
    assert w_mean.shape == (3, 512)
    assert (w_mean[0] - w_mean[1]).abs().max() > 1e-3
    assert torch.equal(w_mean, trainer.ema.w_mean)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_guidance_pulls_from_its_resolution_on(make_recipe, tmp_path, monkeypatch):
    """By a classifier with random weights and as many classes as there are."""

    class Classifier(torch.nn.Module):
        num_classes = 3

        def forward(self, images):
            return images.mean(dim=(2, 3))  # (B, 3)

    monkeypatch.setattr(models, "build_classifier", lambda *args: Classifier())
    overrides = ["loss.guidance_weight=2", "stages.1.resolution=64"]
    Trainer(make_recipe(*overrides), tmp_path).train()
    lines = read_log(tmp_path)
    assert ["guidance_loss" in line for line in lines] == [False] * 4 + [True] * 2


def test_a_classifier_of_other_classes_is_refused(make_recipe, tmp_path):
    overrides = ["loss.guidance_weight=1", "loss.guidance_classifier=tf_efficientnet_lite0"]
    with pytest.raises(
        ValueError,
        match="`loss.guidance_classifier` must know the 3 classes .* got tf_efficientnet_lite0, which knows 1000",
    ):
        Trainer(make_recipe(*overrides), tmp_path)


def test_weights_may_be_given_for_every_network(make_recipe, tmp_path):
    """Of those that embed classes or guide, the discriminator is not told."""
    overrides = [
        "discriminator.feature_networks=[resnet18]",
        "discriminator.feature_weights.tf_efficientnet_lite0=x.pth",
        "discriminator.feature_weights.resnet18=random",  # it cannot be had here
    ]
    with pytest.raises(FileNotFoundError, match="tf_efficientnet_lite0 must be an existing file, got 'x.pth'"):
        Trainer(make_recipe(*overrides, "run.class_embeddings=computed"), tmp_path / "a")
    assert list(Trainer(make_recipe(*overrides), tmp_path / "b").discriminator.feature_network_names) == ["resnet18"]


def test_class_embeddings_start_both_networks(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("run.class_embeddings=computed"), tmp_path)
    assert (tmp_path / "class_embeddings.safetensors").exists()
    embedding = trainer.generator.mapping.embedding.weight
    head = trainer.discriminator.branches[0].heads[0]
    assert torch.equal(head.class_embedding.weight, embedding)
    assert embedding.requires_grad
    assert head.class_embedding.weight.requires_grad


def test_class_embeddings_are_computed_in_float32(make_recipe, tmp_path):
    """Whatever the run's precision: they are computed once, and bfloat16 would move these by a twelfth."""
    trainer = Trainer(make_recipe("run.class_embeddings=computed", "run.mixed_precision=bf16"), tmp_path)
    expected = compute_class_embeddings(trainer.dataset, tmp_path / "again.safetensors")
    torch.testing.assert_close(trainer.generator.mapping.embedding.weight.data, expected)


def test_bfloat16_trains(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("run.mixed_precision=bf16", "stages.0.kimg=0.004"), tmp_path)
    trainer.train()
    assert {value.dtype for value in trainer.generator.parameters()} == {torch.float32}
    assert all(value.isfinite().all() for value in weights_of(trainer).values())


def test_fine_tuning_starts_from_the_pipeline(undisturbed, make_recipe, tmp_path):
    folder, weights = undisturbed
    (export,) = (folder / "exports").iterdir()
    overrides = [f"run.init_from={export}", "stages=[{resolution: 32, kimg: 1, batch_size: 4}]"]
    trainer = Trainer(make_recipe(*overrides), tmp_path / "run")
    for name, value in trainer.generator.state_dict().items():
        assert torch.equal(value, weights[f"ema.{name}"]), name
    assert trainer.generator.config.sample_size == 32


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_conditional_model_of_images_without_labels_has_the_folders_name_for_a_class(
    make_recipe, unlabelled_images, tmp_path
):
    trainer = Trainer(make_recipe(f"data.dataset={unlabelled_images}"), tmp_path)
    assert trainer.dataset.id2label == {0: "unlabelled"} and trainer.generator.config.num_classes == 1


def test_classes_that_do_not_match_init_from(undisturbed, make_recipe, unlabelled_images, tmp_path):
    (export,) = (undisturbed[0] / "exports").iterdir()
    overrides = [f"data.dataset={unlabelled_images}", "data.class_conditional=false", f"run.init_from={export}"]
    with pytest.raises(ValueError, match="`data.class_conditional` must be .* has 3 classes"):
        Trainer(make_recipe(*overrides), tmp_path)


def test_a_batch_that_processes_cannot_share(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(ValueError, match="`stages.0.batch_size` .*_steps`, 1, times 3 processes, got 4"):
        Trainer(make_recipe(), tmp_path)


def test_a_checkpoint_of_the_authors_is_to_be_converted_first(make_recipe, tmp_path):
    with pytest.raises(ValueError, match=r"`run.init_from` .* theirs.pkl. Convert it first: .* discriminator cannot"):
        Trainer(make_recipe("run.init_from=theirs.pkl"), tmp_path)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_cache_that_cannot_be_written_to_is_named_with_the_ways_out(make_recipe, tmp_path, monkeypatch, number):
    """As in a container whose home folder is read-only, or nobody's."""

    def refuse(*args, **kwargs):
        raise OSError(number, "no", "/home/nobody/.cache/huggingface")

    monkeypatch.setattr(datasets, "load_from_disk", refuse)
    with pytest.raises(ValueError, match=r"`data.cache_dir` .* got /home/nobody/.cache/huggingface .* HF_HOME"):
        Trainer(make_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
