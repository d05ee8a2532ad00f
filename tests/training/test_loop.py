"""What a step waits for: nothing but its own work, so that a GPU is never idle while Python looks at a number."""

import pytest
import torch
from accelerate import Accelerator

from polyinr_hf.training import trainer as training_trainer
from polyinr_hf.training.trainer import Trainer


def test_a_step_reads_no_number_from_the_device(make_recipe, tmp_path, monkeypatch):
    trainer = Trainer(make_recipe(), tmp_path)
    stage = trainer.recipe.stages[0]
    batches = trainer.enter_stage(stage)
    trainer.train_step(stage, batches)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"Tensor.{name} waits"))
    trainer.train_step(stage, batches)
    monkeypatch.undo()
    assert trainer.step == 2


@pytest.mark.parametrize(("processes", "expected"), [(1, []), (2, [2, 3, 4])])
def test_processes_ask_each_other_whether_to_stop_every_few_steps(
    make_recipe, tmp_path, monkeypatch, processes, expected
):
    """One process knows by itself. Where a line is logged, processes wait for each other anyway."""
    asked = []
    monkeypatch.setattr(training_trainer, "STOP_CHECK_STEPS", 2)
    monkeypatch.setattr(Accelerator, "num_processes", processes)
    trainer = Trainer(make_recipe("run.log_every_steps=3"), tmp_path)
    monkeypatch.setattr(Accelerator, "check_trigger", lambda _: asked.append(trainer.step) or trainer.step == 4)
    assert trainer.train() == (processes == 1)
    assert asked == expected
    assert trainer.step == (6 if processes == 1 else 4)
