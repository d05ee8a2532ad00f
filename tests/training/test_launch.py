from types import SimpleNamespace

import pytest
from accelerate.state import AcceleratorState
from torch.nn.parallel import DistributedDataParallel

from polyinr_hf.training.launch import LocalBuffers, describe_run, make_accelerator, with_precision
from polyinr_hf.training.recipe import Recipe, RunConfig, StageConfig
from polyinr_hf.training.trainer import Trainer


def make_recipe(**run) -> Recipe:
    stages = [StageConfig(resolution=16, kimg=0.016, batch_size=8), StageConfig(resolution=32, kimg=2, batch_size=4)]
    return Recipe(stages=stages, run=RunConfig(log_with=[], **run))


@pytest.fixture(autouse=True)
def fresh_state(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(
    ("told", "recipe", "expected"),
    [("bf16", None, "bf16"), ("bf16", "no", "no"), (None, None, "no"), (None, "bf16", "bf16")],
)
def test_precision_is_the_recipes_or_else_what_accelerate_was_told(monkeypatch, tmp_path, told, recipe, expected):
    if told is None:
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    else:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)  # as `accelerate launch` tells it
    monkeypatch.setattr("polyinr_hf.training.launch.cpu_multiplies_bfloat16", lambda: True)
    recipe = make_recipe(mixed_precision=recipe)
    accelerator = make_accelerator(recipe, tmp_path)
    assert accelerator.mixed_precision == with_precision(recipe, accelerator).run.mixed_precision == expected
    line = describe_run(recipe, accelerator, [16, 2000])
    assert line == f"1 process on cpu, precision {expected}, batches of 8 then 4 images, 502 steps"


@pytest.mark.parametrize("told", [None, "fp16"])
def test_float16_on_a_cpu_is_refused_whoever_asks_for_it(monkeypatch, tmp_path, told):
    """Accelerate takes it without a word, and computes in float32."""
    if told is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    with pytest.raises(ValueError, match="`run.mixed_precision` must be 'no' or 'bf16' on a CPU, got 'fp16'"):
        Trainer(make_recipe(mixed_precision=None if told else "fp16"), tmp_path)


@pytest.mark.parametrize(("has_bfloat16", "lines"), [(True, 1), (False, 2)])
def test_bfloat16_on_a_cpu_that_is_slow_at_it_is_told_of(monkeypatch, tmp_path, has_bfloat16, lines):
    monkeypatch.setattr("polyinr_hf.training.launch.cpu_multiplies_bfloat16", lambda: has_bfloat16)
    recipe = make_recipe(mixed_precision="bf16")
    told = describe_run(recipe, make_accelerator(recipe, tmp_path), [16, 2000]).splitlines()
    assert len(told) == lines and all("run.mixed_precision=no" in line for line in told[1:])


@pytest.mark.parametrize(("threads", "processors", "lines"), [(1, 1, 1), (1, 8, 2), (4, 8, 1)])
def test_idle_processors_are_told_of(monkeypatch, tmp_path, threads, processors, lines):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    recipe = make_recipe()
    told = describe_run(recipe, make_accelerator(recipe, tmp_path), [16, 2000]).splitlines()
    assert len(told) == lines and all(f"{processors} processors" in line for line in told[1:])


def test_processes_asked_for_in_vain_are_told_of(monkeypatch):
    # What `accelerate launch --cpu --num_processes 2` leaves in the environment of the one process that it starts.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    accelerator = SimpleNamespace(num_processes=1, device=SimpleNamespace(type="cpu"), mixed_precision="no")
    assert "torchrun --nproc_per_node" in describe_run(make_recipe(), accelerator, [16, 2000])
    monkeypatch.setenv("WORLD_SIZE", "1")  # a launcher that starts processes says how many
    assert "torchrun" not in describe_run(make_recipe(), accelerator, [16, 2000])


@pytest.mark.parametrize("launcher", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_that_accelerate_does_not_know_of_are_refused(monkeypatch, tmp_path, launcher):
    """As torchrun starts them on a CPU without ACCELERATE_USE_CPU: each would train everything."""
    monkeypatch.setenv(launcher, "2")
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    with pytest.raises(ValueError, match=r"`num_processes` must be that of the launcher, 2, got 1: .* torchrun"):
        Trainer(make_recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_buffers_are_told_off_by_the_name_that_torch_has():
    (name,) = LocalBuffers().to_kwargs()
    assert "deprecated" not in DistributedDataParallel.__doc__.partition(f"{name} (")[2][:60]
    assert LocalBuffers().to_kwargs() == {name: False}
