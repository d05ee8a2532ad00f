"""Chunks, resuming, several processes, and the cache of reference statistics."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

from polyinr_hf.devices import KNOWN, Device
from polyinr_hf.evaluation import features as features_module
from polyinr_hf.evaluation.features import Extraction, read_reference, write_reference
from polyinr_hf.evaluation.metrics import FeatureSet
from polyinr_hf.evaluation.sources import TensorSource


class Means(FeatureExtractorBase):
    """Mean colors, times a weight; quick, and known."""

    def __init__(self, weight=1.0):
        super().__init__("means", ["means", "halves"])
        self.weight = torch.nn.Parameter(torch.tensor(weight))

    def forward(self, images):
        means = self.weight * images.float().mean(dim=(2, 3))
        return means, means / 2

    @staticmethod
    def get_provided_features_list():
        return "means", "halves"


class Counted(TensorSource):
    """Counts the images asked for, and fails where told to."""

    def __init__(self, images, fail_at=None):
        super().__init__(images)
        self.loaded, self.fail_at = 0, fail_at

    def load(self, start, stop):
        if self.fail_at is not None and stop > self.fail_at:
            raise KeyboardInterrupt
        self.loaded += stop - start
        return super().load(start, stop)


LAYERS = {"means": ["means", "halves"]}


@pytest.fixture
def images():
    return torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(features_module, "CHUNK_SIZE", 8)


def make(folder, weight=1.0, batch_size=3):
    return Extraction({"means": Means(weight)}, Accelerator(cpu=True), folder, batch_size, progress=False)


def test_one_pass_feeds_all_layers(images, tmp_path):
    source = Counted(images)
    sets = make(tmp_path).features(source, LAYERS, "images")
    assert source.loaded == 50
    expected = images.float().mean(dim=(2, 3))
    for layer, scale in (("means", 1), ("halves", 0.5)):
        found = sets["means", layer]
        assert found.count == 50
        torch.testing.assert_close(found.features, scale * expected)
        np.testing.assert_allclose(found.mean, scale * expected.double().numpy().mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(found.covariance, np.cov(scale * expected.double().numpy().T), rtol=1e-5)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_interrupted_run_goes_on(images, tmp_path):
    whole = make(tmp_path / "whole").features(TensorSource(images), LAYERS, "images")
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "cache").features(Counted(images, fail_at=30), LAYERS, "images")
    source = Counted(images)
    sets = make(tmp_path / "cache").features(source, LAYERS, "images")
    assert source.loaded == 50 - 24  # three chunks of eight were done
    for pair in whole:
        assert torch.equal(sets[pair].features, whole[pair].features)


def test_too_many_features_are_thinned_evenly(images, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "MAX_FEATURES_KEPT", 8)
    found = make(tmp_path).features(TensorSource(images), LAYERS, "images")["means", "means"]
    assert found.count == 50
    torch.testing.assert_close(found.features, images.float().mean(dim=(2, 3))[::7])
    np.testing.assert_allclose(found.mean, images.double().mean(dim=(0, 2, 3)).numpy(), rtol=1e-6)


def test_reference_is_cached(images, tmp_path):
    first = make(tmp_path).reference(TensorSource(images), LAYERS)
    source = Counted(images)
    second = make(tmp_path).reference(source, LAYERS)
    assert source.loaded == 0
    for pair in first:
        assert torch.equal(first[pair].features, second[pair].features)
        np.testing.assert_array_equal(first[pair].covariance, second[pair].covariance)


@pytest.mark.parametrize("change", ["images", "weights", "dtype"])
def test_other_settings_are_other_entries(images, tmp_path, change):
    make(tmp_path).reference(TensorSource(images), LAYERS)
    source = Counted(255 - images if change == "images" else images)
    extraction = make(tmp_path, weight=2.0 if change == "weights" else 1.0)
    extraction.dtype = "bfloat16" if change == "dtype" else "float32"
    extraction.reference(source, LAYERS)
    assert source.loaded == 50


def test_damaged_statistics_are_refused(images, tmp_path):
    path = tmp_path / "reference.safetensors"
    write_reference(path, FeatureSet.from_features(torch.rand(9, 3)))
    assert read_reference(path).count == 9
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="`cache_dir` must hold whole files, .*reference.safetensors is damaged"):
        read_reference(path)


def test_failed_write_leaves_nothing_to_read(images, tmp_path, monkeypatch):
    def fail(tensors, path, metadata=None):
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(features_module, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_reference(tmp_path / "reference.safetensors", FeatureSet.from_features(torch.rand(9, 3)))
    assert not (tmp_path / "reference.safetensors").exists()


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 3, 4, 4), torch.zeros(3, 4, 4).byte()]
)
def test_mismatched_images(bad, tmp_path):
    with pytest.raises(ValueError, match=r"`images` must be uint8 \(B, 3, H, W\)"):
        make(tmp_path).extract("means", bad)


def test_features_that_are_not_finite(images, tmp_path):
    with pytest.raises(ValueError, match="`means` must give finite features, got others of images 0 to 2"):
        make(tmp_path, weight=float("nan")).features(TensorSource(images), LAYERS, "images")


WORKER = """
import sys
import torch
from accelerate import Accelerator
from polyinr_hf.evaluation import Evaluator, TensorSource, features
features.CHUNK_SIZE = 8
images = torch.randint(0, 256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
real, samples = TensorSource(images[:30]), TensorSource(images[20:] // 2)
metrics = ["precision_lite0", "recall_lite0"]
evaluator = Evaluator(real, metrics, 4, cache_dir=sys.argv[1], accelerator=Accelerator(cpu=True))
state = evaluator.accelerator.state
open(f"{sys.argv[1]}-{state.process_index}.txt", "w").write(f"{state.num_processes} {evaluator(samples)}")
"""


def test_two_processes_give_the_same_figure_as_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["worker.py", str(tmp_path / "one")])
    exec(compile(WORKER, "worker.py", "exec"), {"__name__": "__main__"})
    figure = (tmp_path / "one-0.txt").read_text().removeprefix("1 ")

    (tmp_path / "worker.py").write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, str(tmp_path / "worker.py"), str(tmp_path / "two")]
    subprocess.run(command, capture_output=True, text=True, check=True)
    # A file for each process: what two of them print may be interleaved.
    assert [(tmp_path / f"two-{i}.txt").read_text() for i in range(2)] == [f"2 {figure}"] * 2


def test_chunks_hold_plain_features(images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).features(Counted(images, fail_at=10), {"means": ["means"]}, "images")
    (chunk,) = tmp_path.rglob("*.safetensors")
    torch.testing.assert_close(load_file(chunk)["means/means"], images[:8].float().mean(dim=(2, 3)))


@pytest.mark.parametrize(("products", "dtype"), [((torch.bfloat16,), "bfloat16"), ((), "float32")])
def test_features_are_computed_in_what_the_device_multiplies(monkeypatch, tmp_path, products, dtype):
    """And kept as what they are: float32's, where bfloat16 would only be emulated."""
    monkeypatch.setitem(KNOWN, "cpu", Device("cpu", products=frozenset(products)))
    seen = []

    class Extractor(torch.nn.Module):
        features_list = ["mean"]

        def forward(self, images):
            seen.append(torch.is_autocast_enabled("cpu"))
            return [images.float().mean(dim=(2, 3))]

    extraction = Extraction({"mean": Extractor()}, Accelerator(cpu=True), tmp_path, dtype="bfloat16", progress=False)
    extraction.extract("mean", torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    assert (extraction.dtype, seen) == (dtype, [dtype == "bfloat16"])
