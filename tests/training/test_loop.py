"""What a step waits for: nothing but its own work, so that a GPU is never idle while Python looks at a number."""

from types import SimpleNamespace

import pytest
import torch

from polyinr_hf.training.loop import STOP_CHECK_STEPS, TrainingLoop
from polyinr_hf.training.trainer import Trainer


def test_a_step_reads_no_number_from_the_device(make_recipe, tmp_path, monkeypatch):
    trainer = Trainer(make_recipe(), tmp_path)
    stage = trainer.recipe.stages[0]
    batches = trainer.enter_stage(stage)
    trainer.train_step(stage, batches)
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda *_, name=name: pytest.fail(f"Tensor.{name} waits"))
    trainer.train_step(stage, batches)
    assert not trainer._is_stopping()
    monkeypatch.undo()
    assert trainer.step == 2


@pytest.mark.parametrize(("num_processes", "expected"), [(1, []), (2, [10, 15, 20, 30])])
def test_processes_ask_each_other_whether_to_stop_every_few_steps(num_processes, expected):
    """One process knows by itself. Where a line is logged, processes wait for each other anyway."""
    asked, run = [], SimpleNamespace(log_every_steps=15)
    loop = SimpleNamespace(recipe=SimpleNamespace(run=run), _stop_requested=False)
    loop.accelerator = SimpleNamespace(
        num_processes=num_processes, check_trigger=lambda: asked.append(loop.step) or loop.step == 30
    )
    stops = []
    for loop.step in range(1, 31):
        if TrainingLoop._is_stopping(loop):
            stops.append(loop.step)
    assert STOP_CHECK_STEPS == 10
    assert asked == expected
    assert stops == expected[-1:]
