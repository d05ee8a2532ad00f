"""Metrics while a run trains: the best generator is kept, and training goes on as it would have without them."""

import json
import signal

import pytest
import torch

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.evaluation.evaluator import Evaluator
from polyinr_hf.training.trainer import Trainer

METRICS = ("run.metrics=[precision_lite0,recall_lite0]", "run.evaluation_samples=6", "run.evaluate_every_kimg=0.008")


GENERATOR = PolyINRGenerator(channels=16, num_levels=2, w_dim=16, num_classes=3, sample_size=16)  # no image is drawn


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("POLYINR_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def read(folder):
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    models = {"generator": trainer.generator, "ema": trainer.ema, "discriminator": trainer.discriminator}
    return {f"{key}.{name}": value.clone() for key, m in models.items() for name, value in m.state_dict().items()}


def test_a_killed_run_with_metrics_ends_as_one_without(make_recipe, tmp_path, monkeypatch):
    """Weights to the bit, the same figures, and the best export with the weights it was measured with."""
    plain = Trainer(make_recipe(), tmp_path / "plain")
    assert plain.train()
    recipe = make_recipe(*METRICS)
    values = iter([0.5, 0.2, 0.4])  # at 8, 16 and 24 kimg / 1000; the last is of another resolution

    def measure(self, source, what):
        return {"precision_lite0": next(values), "recall_lite0": 0.0}

    folder, averages = tmp_path / "run", {}
    trainer = Trainer(recipe, folder)
    monkeypatch.setattr(Evaluator, "__call__", measure)
    train_step = trainer.train_step

    def stop_at_three(*args):
        train_step(*args)
        averages[trainer.step] = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
        if trainer.step == 3:
            signal.raise_signal(signal.SIGTERM)

    trainer.train_step = stop_at_three
    assert not trainer.train()
    resumed = Trainer(recipe, folder, resume=True)
    assert resumed.best_export.best["precision_lite0"] == 0.5
    assert resumed.train()
    ours, theirs = weights_of(resumed), weights_of(plain)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert [(line["kimg"], line["precision_lite0"], line["best"]) for line in read(folder)] == [
        (0.008, 0.5, True),
        (0.016, 0.2, False),
        (0.024, 0.4, True),
    ]
    kept = PolyINRPipeline.from_pretrained(folder / "best-16").generator.state_dict()
    assert all(torch.equal(value, averages[2][name]) for name, value in kept.items())
    assert json.loads((folder / "best-16" / "training.json").read_text())["kimg"] == 0.008
    assert (folder / "best-24" / "model_index.json").exists()


def test_figures_are_the_evaluators(make_recipe, tmp_path):
    """Real ones of a real network, the same of the same weights; training's random state stays as it is."""
    trainer = Trainer(make_recipe(*METRICS), tmp_path)
    before = torch.get_rng_state()
    exported = []
    arguments = (trainer.ema, 16, 1, 4, exported.append)
    first = trainer.best_export.measure(*arguments)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == trainer.best_export.measure(*arguments)
    assert set(first) == {"precision_lite0", "recall_lite0"}
    assert exported == [tmp_path / "best-16"]  # an equal one is no better


def test_a_metric_that_gets_worse_for_good_is_announced_once(make_recipe, tmp_path, monkeypatch, caplog):
    best = Trainer(make_recipe(*METRICS), tmp_path).best_export
    exported = []

    def measure(kimg: int, value: float, resolution: int = 16) -> bool:
        """Whether it is the best."""
        monkeypatch.setattr(Evaluator, "__call__", lambda *_: {"precision_lite0": value})
        before = len(exported)
        best.measure(GENERATOR, resolution, kimg, 1000 * kimg, exported.append)
        return len(exported) > before

    assert [measure(kimg, value) for kimg, value in enumerate((0.5, 0.9, 0.88, 0.6))] == [True, True, False, False]
    assert "seen its best" not in caplog.text
    measure(4, 0.5)
    assert "precision_lite0 is 0.5 at 4 kimg and was 0.9 at 1 kimg" in caplog.text
    caplog.clear()
    measure(5, 0.4)
    assert not caplog.text
    assert measure(6, 0.1, resolution=24)  # another resolution has a best of its own


@pytest.mark.parametrize(
    ("override", "message"),
    [("run.metrics=[fids]", "got 'fids'"), ("run.evaluation_samples=3", "`num_samples` must be at least 4")],
)
def test_bad_settings_are_refused_before_training(make_recipe, tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        Trainer(make_recipe(*METRICS, override), tmp_path)
