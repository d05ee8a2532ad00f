import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch.nn.parallel import DistributedDataParallel

from polyinr_hf import devices
from polyinr_hf.training.launch import LocalBuffers, as_run_here, compiling_problem, describe_run, make_accelerator
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


def on_a_cpu_of(monkeypatch, *products: torch.dtype) -> None:
    monkeypatch.setitem(devices.KNOWN, "cpu", devices.Device("cpu", products=frozenset(products)))


@pytest.mark.parametrize(
    ("told", "asked", "expected", "why"),
    [
        (None, "auto", "bf16", "which this CPU multiplies"),
        ("no", "auto", "bf16", "which this CPU multiplies"),  # what `accelerate launch` says without being told, too
        ("bf16", "auto", "bf16", "as accelerate was told"),
        ("bf16", "no", "no", "as the recipe says"),
        (None, "bf16", "bf16", "as the recipe says"),
    ],
)
def test_precision_is_the_recipes_or_accelerates_or_the_devices(monkeypatch, tmp_path, told, asked, expected, why):
    on_a_cpu_of(monkeypatch, torch.bfloat16)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if told is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)  # as `accelerate launch` tells it
    recipe = make_recipe(mixed_precision=asked)
    accelerator = make_accelerator(recipe, tmp_path)
    assert accelerator.mixed_precision == as_run_here(recipe, accelerator).run.mixed_precision == expected
    line = describe_run(recipe, accelerator, [16, 2000])
    assert line == f"1 process on cpu, precision {expected} ({why}), batches of 8 then 4 images, 502 steps"


@pytest.mark.parametrize("told", [None, "fp16"])
def test_float16_on_a_cpu_is_refused_whoever_asks_for_it(monkeypatch, tmp_path, told):
    """Accelerate takes it without a word, and computes in float32."""
    if told is not None:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    with pytest.raises(ValueError, match="`run.mixed_precision` must be 'auto', 'no' or 'bf16' on a CPU, got 'fp16'"):
        Trainer(make_recipe(mixed_precision="auto" if told else "fp16"), tmp_path)


def test_bfloat16_on_a_cpu_that_emulates_it_is_told_of_and_not_chosen(monkeypatch, tmp_path):
    on_a_cpu_of(monkeypatch)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    recipe = make_recipe(mixed_precision="bf16")
    told = describe_run(recipe, make_accelerator(recipe, tmp_path), [16, 2000])
    assert "this CPU only emulates bfloat16: run.mixed_precision=auto is many times faster here" in told
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe = make_recipe()
    accelerator = make_accelerator(recipe, tmp_path)
    assert accelerator.mixed_precision == "no"
    assert "precision no (float32, as this CPU only emulates products of 16 bits)" in describe_run(
        recipe, accelerator, [16, 2000]
    )


def test_without_a_compiler_a_run_goes_on_uncompiled_and_says_so(monkeypatch, tmp_path):
    recipe = make_recipe(compile=True)
    accelerator = make_accelerator(recipe, tmp_path)
    monkeypatch.setenv("CXX", "g++-of-nowhere")
    assert not as_run_here(recipe, accelerator).run.compile
    assert "\nThe networks are not compiled, there is no C++ compiler (g++-of-nowhere): steps take" in describe_run(
        recipe, accelerator, [16, 2000]
    )
    monkeypatch.setenv("CXX", sys.executable)
    assert as_run_here(recipe, accelerator).run.compile
    assert "compile" not in describe_run(recipe, accelerator, [16, 2000])


def test_what_is_too_old_for_triton_is_not_compiled_for():
    assert compiling_problem(devices.Device.of_cuda((6, 0), "Tesla P100")) == (
        "Tesla P100 is older than compute capability 7.0"
    )


@pytest.mark.parametrize(("threads", "processors", "lines"), [(1, 1, 1), (1, 8, 2), (4, 8, 1)])
def test_idle_processors_are_told_of(monkeypatch, tmp_path, threads, processors, lines):
    monkeypatch.setattr("torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    recipe = make_recipe()
    told = describe_run(recipe, make_accelerator(recipe, tmp_path), [16, 2000]).splitlines()
    assert len(told) == lines and all(f"{processors} processors" in line for line in told[1:])


@pytest.mark.parametrize(
    ("environment", "blamed"),
    [
        ({"OMP_NUM_THREADS": "1"}, "OMP_NUM_THREADS=1 asks for it"),
        ({"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}, "`accelerate launch` gives unless told"),
    ],
)
def test_one_thread_is_blamed_on_who_asked_for_it(monkeypatch, tmp_path, environment, blamed):
    """`accelerate launch` sets both variables."""
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    recipe = make_recipe(mixed_precision="no")
    assert blamed in describe_run(recipe, make_accelerator(recipe, tmp_path), [16, 2000])


def test_processes_asked_for_in_vain_are_told_of(monkeypatch):
    # What `accelerate launch --cpu --num_processes 2` leaves in the environment of the one process that it starts.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    accelerator = SimpleNamespace(num_processes=1, device=torch.device("cpu"), mixed_precision="no")
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
