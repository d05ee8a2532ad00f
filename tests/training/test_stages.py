"""How stages join, and that neither processes nor batches' cuts change what the discriminator's heads normalise."""

import signal

import pytest
import torch
from accelerate import Accelerator

from polyinr_hf.training.recipe import load_recipe
from polyinr_hf.training.trainer import Trainer

FRESH = ("run.stage_start=fresh", "loss.blur_fade_kimg=0.008")


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    models = {"generator": trainer.generator, "ema": trainer.ema, "discriminator": trainer.discriminator}
    return {f"{key}.{name}": value.clone() for key, m in models.items() for name, value in m.state_dict().items()}


# --- batch norm -------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_one_process_with_groups_of_eight(make_recipe, tmp_path, monkeypatch):
    """Of 1, 2 and 4 simulated processes, each with its rows of one batch of 32; without groups they are not."""
    stage = "stages=[{resolution: 16, kimg: 0.032, batch_size: 32}]"
    trainer = Trainer(make_recipe(stage, "discriminator.batch_norm=8"), tmp_path)
    stage, networks = trainer.recipe.stages[0], trainer.networks
    parameters = list(trainer.discriminator.trainable_parameters())

    def gradient(num_processes: int) -> torch.Tensor:
        """What all processes' optimizers would get: the mean of theirs."""
        total = 0
        monkeypatch.setattr(Accelerator, "num_processes", num_processes)
        for index in range(num_processes):
            monkeypatch.setattr(Accelerator, "process_index", index)
            trainer.discriminator.zero_grad()
            batches = networks.sample(stage, 0, [next(trainer.make_batches(stage))])
            assert len(batches[0].images) == 32 // num_processes
            networks.discriminator_gradients(stage, batches, 1.0, trainer.log)
            total = total + torch.cat([parameter.grad.flatten() for parameter in parameters])
        return total / num_processes

    whole = gradient(1)
    assert whole.norm() > 0
    for num_processes in (2, 4):
        assert (gradient(num_processes) - whole).norm() < 1e-4 * whole.norm()
    for module in trainer.discriminator.modules():
        if hasattr(module, "group_size"):
            module.group_size = None
    assert (gradient(4) - gradient(1)).norm() > 0.1 * whole.norm()


# --- stage_start ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fresh(recipe_file, tmp_path_factory):
    """An undisturbed run whose second stage starts afresh: its recipe, its weights, and what that stage began with."""
    recipe, began = load_recipe(recipe_file, list(FRESH)), {}
    trainer = Trainer(recipe, tmp_path_factory.mktemp("fresh"))
    untrained, begin_stage = weights_of(trainer), trainer.begin_stage

    def watched():
        began["ema"] = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
        begin_stage()
        began["optimizers"] = [
            len(optimizer.state) for optimizer in (trainer.networks.G_optimizer, trainer.networks.D_optimizer)
        ]
        began["weights"] = weights_of(trainer)

    trainer.begin_stage = watched
    assert trainer.train()
    return recipe, weights_of(trainer), untrained, began


def test_a_fresh_stage_takes_over_the_averaged_generator_alone(fresh):
    _, weights, untrained, began = fresh
    assert began["optimizers"] == [0, 0]
    for name, value in began["weights"].items():
        model, _, key = name.partition(".")
        expected = untrained[name] if model == "discriminator" else began["ema"][key]
        assert torch.equal(value, expected), name
    assert not all(torch.equal(value, untrained[name]) for name, value in weights.items() if "discriminator" in name)


@pytest.mark.parametrize("step", [4, 5])
def test_a_run_with_a_fresh_stage_resumes_bit_for_bit(fresh, tmp_path, step):
    """Stopped at the end of the first stage and within the second."""
    recipe, weights, _, _ = fresh
    trainer = Trainer(recipe, tmp_path)
    train_step = trainer.train_step

    def stop(*args):
        train_step(*args)
        if trainer.step == step:
            signal.raise_signal(signal.SIGTERM)

    trainer.train_step = stop
    assert not trainer.train()
    resumed = Trainer(recipe, tmp_path, resume=True)
    assert resumed.step == step
    assert resumed.train()
    assert [name for name, value in weights_of(resumed).items() if not torch.equal(value, weights[name])] == []


@pytest.mark.parametrize(("start", "last"), [("fresh", [2.0, 1.0]), ("carry", [0.0, 0.0])])
def test_the_blur_fades_once_or_at_each_stage(make_recipe, tmp_path, start, last):
    recipe = make_recipe("loss.blur_fade_kimg=0.008", f"run.stage_start={start}")
    trainer, sigmas = Trainer(recipe, tmp_path), []
    judge = trainer.discriminator.forward

    def watch(images, labels, sigma, *args, **kwargs):
        sigmas.append(sigma)
        return judge(images, labels, sigma, *args, **kwargs)

    trainer.discriminator.forward = watch
    trainer.train()
    assert sigmas[::2] == sigmas[1::2] == [2.0, 1.0, 0.0, 0.0, *last]  # of the generator's, the discriminator's step
