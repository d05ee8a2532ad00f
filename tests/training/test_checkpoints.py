"""Checkpoints: all there or not at all, the last k kept, damaged ones skipped."""

import errno
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from polyinr_hf.training import launch
from polyinr_hf.training.launch import (
    check_shared_folder,
    find_damage,
    load_newest_checkpoint,
    lock_folder,
    save_checkpoint,
)


@pytest.fixture
def accelerator():
    accelerator = Accelerator()
    model = accelerator.prepare(nn.Linear(2, 2))
    accelerator.prepare(torch.optim.Adam(model.parameters()))
    accelerator.model = model
    return accelerator


def save(accelerator, folder, step, keep=2):
    accelerator.model.weight.data.fill_(step)
    return save_checkpoint(accelerator, folder, {"step": step}, keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_is_loaded_and_the_last_are_kept(accelerator, tmp_path):
    assert load_newest_checkpoint(accelerator, tmp_path) is None
    for step in (1, 2, 3):
        save(accelerator, tmp_path, step)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    accelerator.model.weight.data.zero_()
    assert load_newest_checkpoint(accelerator, tmp_path) == {"step": 3}
    assert accelerator.model.weight.unique().tolist() == [3]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut weights": lambda folder: truncate(folder / "model.safetensors"),
    "other weights": lambda folder: flip_a_byte(folder / "model.safetensors"),
    "cut optimizer": lambda folder: truncate(folder / "optimizer.bin"),
    "missing file": lambda folder: (folder / "random_states_0.pkl").unlink(),
    "cut manifest": lambda folder: truncate(folder / "manifest.json"),
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "other manifest": lambda folder: (folder / "manifest.json").write_text(json.dumps([])),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_skipped_with_a_warning(accelerator, tmp_path, damage, caplog):
    save(accelerator, tmp_path, 1)
    newest = save(accelerator, tmp_path, 2)
    assert find_damage(newest) is None
    DAMAGES[damage](newest)
    assert find_damage(newest) is not None
    assert load_newest_checkpoint(accelerator, tmp_path) == {"step": 1}
    assert accelerator.model.weight.unique().tolist() == [1]
    assert f"checkpoint {newest} is skipped" in caplog.text


def test_a_damaged_one_does_not_outlive_what_follows_it(accelerator, tmp_path):
    """It is the newest by its number, not by its time."""
    save(accelerator, tmp_path, 10)
    DAMAGES["cut weights"](save(accelerator, tmp_path, 20))
    assert load_newest_checkpoint(accelerator, tmp_path) == {"step": 10}
    save(accelerator, tmp_path, 11, keep=1)
    assert names(tmp_path) == ["step-00000011"]
    assert load_newest_checkpoint(accelerator, tmp_path) == {"step": 11}


def fail_half_way(accelerator, monkeypatch, error):
    """Has the next checkpoint's writing fail with its weights on the disk."""
    save_state = accelerator.save_state

    def fail(folder):
        save_state(folder)
        raise error

    monkeypatch.setattr(accelerator, "save_state", fail)


def test_writing_that_stops_half_way_leaves_what_was_there(accelerator, tmp_path, monkeypatch):
    save(accelerator, tmp_path, 1)
    with monkeypatch.context() as patch:
        fail_half_way(accelerator, patch, TypeError("no"))
        with pytest.raises(TypeError):
            save(accelerator, tmp_path, 2)
    assert names(tmp_path) == ["step-00000001"]
    assert load_newest_checkpoint(accelerator, tmp_path) == {"step": 1}
    save(accelerator, tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 2**30),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), 2**30),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), 0),
    ],
    ids=["Python", "safetensors", "torch"],
)
def test_a_full_disk_is_named_and_nothing_half_written_is_left(accelerator, tmp_path, monkeypatch, error, free):
    save(accelerator, tmp_path, 1)
    fail_half_way(accelerator, monkeypatch, error)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    with pytest.raises(OSError, match=r"No space is left on the disk for .*step-00000002, .* go on with --resume"):
        save(accelerator, tmp_path, 2)
    assert names(tmp_path) == ["step-00000001"]


def test_a_folder_is_locked_for_one_run(tmp_path):
    lock = lock_folder(tmp_path)
    with pytest.raises(ValueError, match="`output_dir` must not be in use, got .* another run"):
        lock_folder(tmp_path)
    lock.release()
    lock_folder(tmp_path).release()


def test_a_checkpoint_of_other_networks_is_named(accelerator, tmp_path):
    newest = save(accelerator, tmp_path, 1)
    other = Accelerator()
    other.prepare(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=f"(?s)checkpoint {newest} does not fit the recipe's networks: .*weight"):
        load_newest_checkpoint(other, tmp_path)


@pytest.mark.parametrize("shared", [True, False])
def test_processes_that_see_another_folder_are_refused(tmp_path, monkeypatch, shared):
    """Of two processes the other one's view is given; this one is the main process, and leaves nothing behind."""

    class Two:
        num_processes, is_main_process = 2, True

        def wait_for_everyone(self):
            pass

    monkeypatch.setattr(launch, "gather_object", lambda seen: [*seen, shared])
    monkeypatch.setattr(launch, "broadcast_object_list", lambda values: values)
    if shared:
        check_shared_folder(Two(), tmp_path)
    else:
        with pytest.raises(ValueError, match=r"`output_dir` must be on a disk .* another folder for 1 of 2 processes"):
            check_shared_folder(Two(), tmp_path)
    assert not list(tmp_path.iterdir())
