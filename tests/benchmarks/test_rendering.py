import json
import os

import pytest
import torch

import rendering as benchmarks
from polyinr_hf import PolyINRGenerator


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


def test_the_command_writes_a_row_for_each_size_and_dtype(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "in_fresh_process", lambda function, *args: function(*args))
    arguments = ["--sizes", "8", "16", "--channels", "8", "--plain_max_size", "8"]
    benchmarks.main([*arguments, "--json", str(tmp_path / "render.json")])
    rows = json.loads((tmp_path / "render.json").read_text())["results"]
    assert [(row["size"], row["dtype"]) for row in rows] == [
        (size, dtype) for size in (8, 16) for dtype in ("float32", "bfloat16")
    ]
    for row in rows:
        assert list(row) == ["size", "dtype", "plain_seconds", "seconds", "limit_seconds", "psnr", "peak_mb"]
        assert (row["plain_seconds"] is None) == (row["size"] == 16)
        assert (row["psnr"] is None) == (row["dtype"] == "float32")
        assert row["seconds"] > 0
        assert row["limit_seconds"] > 0
        assert row["peak_mb"] > 10
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize("option", ["--tolerance 0.1", "--picture a.png", "--dtype bfloat16", "--parameters a.pt"])
def test_what_has_an_effect_on_adaptive_rendering_alone_is_refused(option, capsys):
    with pytest.raises(SystemExit):
        benchmarks.main(option.split())
    assert f"unrecognized arguments: {option}" in capsys.readouterr().err


def test_what_a_person_can_put_right_ends_the_command_in_one_line():
    with pytest.raises(SystemExit, match="^error: `sizes` must be a whole number from 1, got 0.$"):
        benchmarks.main(["--sizes", "0"])
