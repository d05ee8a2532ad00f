import os

import pytest
import torch

from polyinr_hf import PolyINRGenerator
from polyinr_hf.benchmarks import rendering as benchmarks


@pytest.mark.parametrize("initialization", ["signal_preserving", "released"])
def test_the_plain_way_draws_the_same_image(initialization):
    torch.manual_seed(0)
    model = PolyINRGenerator(channels=16, num_classes=None, initialization=initialization).requires_grad_(False)
    w = model.map(torch.randn(2, 64))
    plain = benchmarks.synthesize_plainly(model, w, 11, 7)
    difference = (model.render(model.affine(w), 11, 7) - plain).abs().max()
    assert plain.shape == (2, 3, 11, 7)
    assert difference <= 1e-5 * plain.abs().max()


def test_a_different_image_stops_the_benchmark(monkeypatch):
    monkeypatch.setattr(benchmarks, "in_fresh_process", lambda function, *args: function(*args))
    plain = benchmarks.synthesize_plainly
    monkeypatch.setattr(benchmarks, "synthesize_plainly", lambda *args: plain(*args) + 0.01)
    with pytest.raises(RuntimeError, match="different images"):
        list(benchmarks.measure_rendering([8], channels=8))


def test_a_fresh_process_is_another_one():
    assert benchmarks.in_fresh_process(os.getpid) != os.getpid()


def test_the_limit_is_scaled_beyond_what_is_measured(monkeypatch):
    monkeypatch.setattr(benchmarks, "best_of", lambda run, repeats=2: (run(), 2.0))
    assert benchmarks.matmul_limit(256 * 512, 4, torch.float32) == 4.0
    assert benchmarks.matmul_limit(100, 4, torch.bfloat16) == 2.0


@pytest.mark.parametrize("arguments, name", [({"sizes": [8, 0]}, "sizes"), ({"sizes": [8], "channels": 0}, "channels")])
def test_bad_input(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be a whole number from 1, got 0"):
        next(benchmarks.measure_rendering(**arguments))
