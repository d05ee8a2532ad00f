"""Images -> features, in chunks that are saved as they are done, and what stays of them in the cache.

A cache folder holds `<key>/`, the chunks of a set that is under way (from which an interrupted run goes on), and
`reference-<key>.safetensors`, mean, covariance and features of a finished reference set. A key is a hash of all that
the features depend on, which is also written into the file and checked when it is read.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from ..digests import weights_digest
from ..files import replace_file
from .metrics import FeatureSet

CACHE_VERSION = 1  # raised when features are computed in another way: older files are then left alone
CHUNK_SIZE = 512  # images; fixed, so that results do not depend on the number of processes
MAX_FEATURES_KEPT = 200_000  # real images that kid, precision and recall look at (StyleGAN-XL's limit)


class Extraction:
    """Goes through sources once each and keeps the features of all extractors.

    Args:
        extractors: {name: `FeatureExtractorBase`}.
        accelerator: `accelerate.Accelerator`; its processes share the chunks, `cache_dir` must be the same to all.
        cache_dir: folder.
        batch_size: images an extractor sees at once.
        dtype: "float32" or "bfloat16": the extractors' autocast.
        progress: whether to show bars, on stderr.

    Attributes:
        seconds: {what: seconds of this process}.
    """

    def __init__(self, extractors, accelerator, cache_dir, batch_size=32, dtype="float32", progress=True):
        self.extractors = {name: module.to(accelerator.device) for name, module in extractors.items()}
        self.accelerator, self.cache_dir = accelerator, Path(cache_dir)
        self.batch_size, self.dtype = batch_size, dtype
        self.progress = progress and accelerator.is_main_process
        self.digests = {name: weights_digest(module) for name, module in extractors.items()}
        self.seconds = {}

    # --- what a set of features depends on ----------------------------------------------------------------------------

    def settings(self, source, name: str, layer: str) -> dict:
        return {
            "source": source.key,
            "extractor": name,
            "layer": layer,
            "weights": self.digests[name],
            "dtype": self.dtype,
            "version": CACHE_VERSION,
        }

    # --- sets ---------------------------------------------------------------------------------------------------------

    def reference(self, source, layers: dict[str, list[str]]) -> dict[tuple[str, str], FeatureSet]:
        """Features of real images, from the cache if they are in it. {(extractor, layer): `FeatureSet`}.

        Processes other than the main one get nothing.

        Raises:
            ValueError: a cached file is damaged or was written for other settings.
        """
        with self._alone(source):
            missing = {}
            for name, layer in _pairs(layers):
                if not self._reference_file(source, name, layer).exists():
                    missing.setdefault(name, []).append(layer)
            for pair, feature_set in self._features(source, missing, "real images").items():
                write_reference(self._reference_file(source, *pair), self.settings(source, *pair), feature_set)
        if not self.accelerator.is_main_process:
            return {}
        return {
            pair: read_reference(self._reference_file(source, *pair), self.settings(source, *pair))
            for pair in _pairs(layers)
        }

    def features(self, source, layers: dict[str, list[str]], what: str) -> dict[tuple[str, str], FeatureSet]:
        """Features of all images of a source, in one pass. {(extractor, layer): `FeatureSet`}.

        Processes other than the main one get nothing.

        Raises:
            ValueError: features that are not finite, and all that the source raises.
        """
        with self._alone(source):
            return self._features(source, layers, what)

    def _reference_file(self, source, name: str, layer: str) -> Path:
        return self.cache_dir / f"reference-{_key(self.settings(source, name, layer))}.safetensors"

    @contextlib.contextmanager
    def _alone(self, source) -> Iterator[None]:
        """Two runs never work on the same images at once: the second waits, and finds what the first did."""
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.cache_dir / f"{_key(source.key)}.lock")
        with lock if self.accelerator.is_main_process else contextlib.nullcontext():
            self.accelerator.wait_for_everyone()
            yield
            self.accelerator.wait_for_everyone()

    def _features(self, source, layers, what: str) -> dict[tuple[str, str], FeatureSet]:
        folders = {pair: self.cache_dir / _key(self.settings(source, *pair)) for pair in _pairs(layers)}
        if not folders:
            return {}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        chunks = range(0, len(source), CHUNK_SIZE)
        processes = self.accelerator.num_processes
        with tqdm(total=len(source), desc=what, unit="img", disable=not self.progress) as bar:
            for start in chunks[self.accelerator.process_index :: processes]:
                stop = min(start + CHUNK_SIZE, len(source))
                missing = [pair for pair, folder in folders.items() if not _chunk_file(folder, start).exists()]
                if missing:
                    self._extract_chunk(source, start, stop, missing, folders)
                bar.update(min(start + CHUNK_SIZE * processes, len(source)) - bar.n)  # others keep pace
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return {}
        sets = {pair: summarize([_chunk_file(folder, start) for start in chunks]) for pair, folder in folders.items()}
        for folder in folders.values():
            shutil.rmtree(folder)
        return sets

    def _extract_chunk(self, source, start: int, stop: int, pairs, folders) -> None:
        collected = {pair: [] for pair in pairs}
        for first in range(start, stop, self.batch_size):
            last = min(first + self.batch_size, stop)
            with self.timed(source.activity), without_tf32():
                images = source.load(first, last)
            for name, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
                with self.timed(name):
                    features = self.extract(name, images)
                for pair in group:
                    if not torch.isfinite(features[pair[1]]).all():
                        raise ValueError(f"{name}: features of images {first} to {last - 1} are not finite")
                    collected[pair].append(features[pair[1]])
        for pair, parts in collected.items():
            _save_atomically({"features": torch.cat(parts)}, _chunk_file(folders[pair], start))

    @torch.inference_mode()
    def extract(self, name: str, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 images (B, 3, H, W): {layer: (B, D)}, float32, on the CPU."""
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"`images` must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}.")
        device, extractor = self.accelerator.device, self.extractors[name]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"), without_tf32():
            features = extractor(images.to(device))
        return {layer: x.float().cpu() for layer, x in zip(extractor.features_list, features, strict=True)}

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Context in which float32 products on a GPU are float32, whatever the program chose for speed.

    TF32 keeps ten bits of a number: published figures are without.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _pairs(layers) -> list[tuple[str, str]]:
    return [(name, layer) for name, names in layers.items() for layer in names]


def _key(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]


def _chunk_file(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.safetensors"


def _save_atomically(tensors, path: Path, metadata=None) -> None:
    with replace_file(path) as partial:
        save_file(tensors, partial, metadata)


def summarize(files: list[Path]) -> FeatureSet:
    """Mean, covariance and features of all chunks, read twice but never held in double precision at once."""

    def chunks() -> Iterator[Tensor]:
        return (load_file(file)["features"] for file in files)

    count = sum(len(features) for features in chunks())
    mean = sum(features.double().sum(dim=0) for features in chunks()) / count  # (D,)
    scatter = 0
    for features in chunks():
        centred = features.double() - mean  # (B, D)
        scatter = scatter + centred.T @ centred  # (D, D)
    kept = torch.from_numpy(np.linspace(0, count - 1, min(count, MAX_FEATURES_KEPT)).round().astype(np.int64))
    features, start = [], 0
    for chunk in chunks():
        inside = kept[(kept >= start) & (kept < start + len(chunk))] - start
        features.append(chunk[inside])
        start += len(chunk)
    covariance = scatter / max(count - 1, 1)
    return FeatureSet(count, mean.numpy(), covariance.numpy(), torch.cat(features))


# --- reference files --------------------------------------------------------------------------------------------------


def write_reference(path: Path, settings: dict, features: FeatureSet) -> None:
    """Beside, then renamed: a file is complete or not there."""
    tensors = {
        "count": torch.tensor(features.count),
        "mean": torch.from_numpy(features.mean),
        "covariance": torch.from_numpy(features.covariance),
        "features": features.features.contiguous(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _save_atomically(tensors, path, {"settings": json.dumps(settings, sort_keys=True)})


def read_reference(path: Path, settings: dict) -> FeatureSet:
    """Raises ValueError if the file is damaged or records other settings than these."""
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get("settings", "{}"))
            tensors = {name: file.get_tensor(name) for name in ("count", "mean", "covariance", "features")}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a file of reference statistics ({error}); delete it") from error
    if found != json.loads(json.dumps(settings)):
        raise ValueError(f"{path} holds statistics of other settings, {found}, not {settings}; delete it")
    return FeatureSet(
        int(tensors["count"]), tensors["mean"].numpy(), tensors["covariance"].numpy(), tensors["features"]
    )
