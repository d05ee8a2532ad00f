"""Training in float16 under a gradient scaler, as on a T4, by a scaler of the CPU: no GPU has confirmed it."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from polyinr_hf.training import launch
from polyinr_hf.training.recipe import load_recipe
from polyinr_hf.training.trainer import Trainer

STEPS = 50
OVERRIDES = [
    f"stages=[{{resolution: 16, kimg: {STEPS * 4 / 1000}, batch_size: 4, lr_generator: 2e-5, lr_discriminator: 2e-5}}]",
    f"run.checkpoint_every_kimg={STEPS * 4 * 0.9 / 1000}",
]


class HalfOnTheCpu(Accelerator):
    """An Accelerator that does on a CPU what it does for fp16 on CUDA devices."""

    first_scale = 2.0**12

    def __init__(self, **options):
        super().__init__(**options | {"mixed_precision": "no"})
        self.state._shared_state["_mixed_precision"] = "fp16"
        self.native_amp = True
        self.scaler = torch.amp.GradScaler("cpu", init_scale=self.first_scale)


def start(recipe_file: Path, folder: Path, accelerator: type[Accelerator], resume: bool = False) -> Trainer:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "Accelerator", accelerator)
        return Trainer(load_recipe(recipe_file, OVERRIDES), folder, resume=resume)


@pytest.fixture(scope="module", autouse=True)
def convolutions():
    """Convolutions of float16 as a GPU has them, summed in float32; a CPU takes a second for each of its own."""
    in_float32 = torch.nn.functional.conv2d

    def conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, *arguments, **options):
        if not torch.is_autocast_enabled("cpu"):
            return in_float32(x, weight, bias, *arguments, **options)
        halves = [None if part is None else part.half().float() for part in (x, weight, bias)]
        with torch.autocast("cpu", enabled=False):
            return in_float32(*halves, *arguments, **options).half()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "conv2d", conv2d)
        yield


def stop_after(trainer: Trainer, step: int) -> None:
    train_step = trainer.train_step

    def stopping(*arguments):
        train_step(*arguments)
        if trainer.step == step:
            signal.raise_signal(signal.SIGTERM)

    trainer.train_step = stopping


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    models = {"generator": trainer.generator, "ema": trainer.ema, "discriminator": trainer.discriminator}
    return {f"{key}.{name}": value.clone() for key, m in models.items() for name, value in m.state_dict().items()}


class OtherwiseScaled(HalfOnTheCpu):
    first_scale = 2.0**120  # times which any gradient of float16 is infinite


@pytest.fixture(scope="module")
def half(recipe_file, tmp_path_factory):
    """A run of 50 steps in float16, and its weights."""
    trainer = start(recipe_file, tmp_path_factory.mktemp("half"), HalfOnTheCpu)
    dtypes = set()
    trainer.generator.synthesis_levels[1].register_forward_hook(lambda module, inputs, x: dtypes.add(x.dtype))
    assert trainer.train()
    assert trainer.accelerator.mixed_precision == "fp16" and torch.float16 in dtypes
    return trainer.output_dir, weights_of(trainer)


@pytest.mark.slow
def test_losses_are_float32s(recipe_file, half, tmp_path):
    """Means over all steps; single ones part ways as those of any two runs do."""
    trainer = start(recipe_file, tmp_path, Accelerator)
    assert trainer.train()
    ours, theirs = read_log(half[0]), read_log(tmp_path)
    assert len(ours) == len(theirs) == STEPS
    for name in ("generator_loss", "discriminator_loss"):
        mine, whole = (sum(line[name] for line in lines) / STEPS for lines in (ours, theirs))
        assert mine == pytest.approx(whole, rel=0.02)
    assert ours[-1]["skipped_generator_steps"] == ours[-1]["skipped_discriminator_steps"] == 0
    assert "skipped_generator_steps" not in theirs[-1]


@pytest.mark.slow
def test_a_run_resumes_to_the_bit_with_its_scale(recipe_file, half, tmp_path):
    shutil.copytree(half[0], tmp_path / "run")
    shutil.rmtree(max((tmp_path / "run" / "checkpoints").glob("step-*")))
    resumed = start(recipe_file, tmp_path / "run", OtherwiseScaled, resume=True)  # the scale is the run's all the same
    assert resumed.step == STEPS * 9 // 10
    assert resumed.train()
    theirs = half[1]
    assert [name for name, value in weights_of(resumed).items() if not torch.equal(value, theirs[name])] == []


def test_an_overflow_skips_the_step_of_both_optimizers_and_goes_on(recipe_file, tmp_path):
    trainer = start(recipe_file, tmp_path, OtherwiseScaled)
    before = weights_of(trainer)
    stop_after(trainer, 1)
    trainer.train()
    after = weights_of(trainer)
    learned = [f"generator.{name}" for name, _ in trainer.generator.named_parameters()]
    learned += [f"discriminator.{name}" for name, p in trainer.discriminator.named_parameters() if p.requires_grad]
    assert [name for name in learned if not torch.equal(before[name], after[name])] == []
    (line,) = read_log(tmp_path)
    assert (line["skipped_generator_steps"], line["skipped_discriminator_steps"]) == (1, 1)
    assert trainer.accelerator.scaler.get_scale() == 2.0**118  # halved by each
    trainer.accelerator.scaler.update(2.0**8)
    resumed = weights_of(trainer)
    trainer._stop_requested = False
    stop_after(trainer, 2)
    trainer.train()
    line = read_log(tmp_path)[-1]
    assert (line["skipped_generator_steps"], line["skipped_discriminator_steps"]) == (1, 1)
    assert not all(torch.equal(resumed[name], value) for name, value in weights_of(trainer).items() if name in learned)
