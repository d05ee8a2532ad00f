"""Log lines and grids of images."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import PIL.Image
import psutil
import pytest
import torch
from accelerate import Accelerator

from polyinr_hf import PolyINRGenerator
from polyinr_hf.images import sample_images, save_grid
from polyinr_hf.training.reporting import TrainingLog, next_commands, peak_memory_mb, plot_log


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.jsonl"


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_line_holds_means_per_step_and_counts_since_the_start(path):
    log = TrainingLog(Accelerator(), path, step=0, images_seen=0)
    for loss in (1.0, 2.0):
        log.add(loss=torch.tensor(loss / 2))  # two micro-batches a step
        log.add(loss=torch.tensor(loss / 2))
        log.count(bad_steps=torch.tensor(1.0))
    first = log.write(2, 64, 128, 32, skipped=3)
    log.add(loss=torch.tensor(5.0))
    log.count(bad_steps=torch.tensor(0.0))
    second = log.write(3, 96, 128, 32, skipped=3)
    assert (first["loss"], second["loss"]) == (1.5, 5)
    assert (first["bad_steps"], second["bad_steps"]) == (2, 2)
    assert (first["kimg"], first["resolution"], first["skipped_images"]) == (0.064, 32, 3)
    assert second["eta_hours"] == pytest.approx(32 / second["images_per_second"] / 3600)
    assert steps(path) == [2, 3]


def test_a_resumed_run_logs_each_step_once(path):
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "lo')
    log = TrainingLog(Accelerator(), path, step=2, images_seen=8)
    log.add(loss=torch.tensor(1.0))
    log.write(3, 12, 100, 16, skipped=0)
    assert steps(path) == [1, 2, 3]


@pytest.mark.parametrize(("num_classes", "rows"), [(None, 4), (2, 2), (9, 4)])
def test_samples_are_of_fixed_latents_a_row_a_class(num_classes, rows):
    torch.manual_seed(0)
    generator = PolyINRGenerator(w_dim=8, channels=8, num_levels=2, num_classes=num_classes, sample_size=8)
    images = sample_images(generator, 12, 4)
    assert images.shape == (rows * 4, 3, 12, 12)
    torch.manual_seed(1)
    assert torch.equal(sample_images(generator, 12, 4), images)
    z = torch.randn(rows * 4, 64, generator=torch.Generator().manual_seed(0))
    labels = None if num_classes is None else torch.tensor([0] * 4 + [num_classes - 1] * 4)
    expected = generator(z[[*range(4), *range(-4, 0)]], labels if labels is not None else None, 12, 12).sample
    torch.testing.assert_close(torch.cat([images[:4], images[-4:]]), expected.detach())


def test_a_grid_reads_row_by_row(tmp_path):
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 3, 2, 2)
    save_grid(images, 3, tmp_path / "a" / "grid.png")
    grid = np.asarray(PIL.Image.open(tmp_path / "a" / "grid.png"))
    assert grid[::2, ::2, 0].tolist() == [[0, 51, 102], [153, 204, 255]]
    save_grid(images[:2], 3, tmp_path / "few.png")  # less than a row
    assert PIL.Image.open(tmp_path / "few.png").size == (4, 2)


def test_a_log_is_drawn_as_a_picture(path, tmp_path):
    names = ("discriminator_loss", "generator_loss", "real_sign", "fake_sign", "fake_sign_generator")
    lines = [dict.fromkeys(names, 0.5 * i) | {"kimg": i, "resolution": 32 * i} for i in (1, 2)]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"kimg": 3, "los')
    plot_log(path, tmp_path / "docs" / "log.png")
    picture = np.asarray(PIL.Image.open(tmp_path / "docs" / "log.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    path.write_text("")
    with pytest.raises(ValueError, match="`log` must have a line of a run"):
        plot_log(path, tmp_path / "log.png")


def test_windows_has_a_peak_of_memory_too(monkeypatch):
    """Where there is no module `resource`, psutil says it."""
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(sys, "platform", "win32")
    peak = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=300 * 2**20))
    monkeypatch.setattr(psutil, "Process", lambda: peak)
    assert peak_memory_mb(torch.device("cpu")) == 300


def test_the_command_that_draws_names_no_class_without_pictures(tmp_path):
    export = tmp_path / "exports" / "kimg-000001"
    export.mkdir(parents=True)
    names = {"0": "hen", "1": "owl, Strix", "2": "emu", "10": "wren"}
    (export / "model_index.json").write_text(json.dumps({"id2label": names}))
    assert "--class hen owl emu wren --seeds 0-3" in next_commands(tmp_path, "birds", "train.py", True)
    (export / "training.json").write_text(json.dumps({"empty_classes": [0, 2]}))
    assert "--class owl wren --seeds 0-3" in next_commands(tmp_path, "birds", "train.py", True)
