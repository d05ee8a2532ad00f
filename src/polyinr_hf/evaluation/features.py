"""Images -> features, in chunks that are saved as they are done, and what stays of them in the cache.

A cache folder holds `<key>/`, the chunks of a set that is under way (from which an interrupted run goes on), and
`reference-<key>.safetensors`, mean, covariance and features of a finished reference set. A key is a hash of all that
the features depend on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from tqdm import tqdm

from ..devices import autocast, product_dtype
from ..files import replace_file, weights_digest
from .extractors import Lite0Extractor
from .metrics import FeatureSet
from .sources import Source

CACHE_VERSION = 1  # raised when features are computed in another way: older files are then left alone
CHUNK_SIZE = 512  # images; fixed, so that results do not depend on the number of processes
MAX_FEATURES_KEPT = 200_000  # real images that kid, precision and recall look at (StyleGAN-XL's limit)

FeatureSets = dict[tuple[str, str], FeatureSet]  # by extractor and layer


class Extraction:
    """Goes through sources once each and keeps the features of all extractors.

    Args:
        extractors: {name: extractor}, see [`~polyinr_hf.evaluation.extractors.load_extractor`].
        accelerator: Its processes share the chunks; `cache_dir` must be the same to all.
        cache_dir: Folder.
        batch_size: Images an extractor sees at once.
        dtype: "float32" or "bfloat16": the extractors' autocast.
        progress: Whether to show bars, on stderr.

    Attributes:
        seconds: {what: seconds of this process}.
    """

    def __init__(
        self,
        extractors: Mapping[str, FeatureExtractorBase | Lite0Extractor],
        accelerator: Accelerator,
        cache_dir: str | Path,
        batch_size: int = 32,
        dtype: str = "float32",
        progress: bool = True,
    ):
        self.extractors = {name: module.to(accelerator.device) for name, module in extractors.items()}
        self.accelerator, self.cache_dir = accelerator, Path(cache_dir)
        native = product_dtype(getattr(torch, dtype), accelerator.device)
        self.batch_size, self.dtype = batch_size, str(native).removeprefix("torch.")  # what features are computed in
        self.progress = progress and accelerator.is_main_process
        self.digests = {name: weights_digest(module) for name, module in extractors.items()}
        self.seconds: dict[str, float] = {}

    def settings(self, source: Source, name: str, layer: str) -> dict:
        """What a set of features depends on."""
        settings = {"source": source.key, "extractor": name, "layer": layer, "weights": self.digests[name]}
        return settings | {"dtype": self.dtype, "version": CACHE_VERSION}

    def reference_file(self, source: Source, name: str, layer: str) -> Path:
        return self.cache_dir / f"reference-{_key(self.settings(source, name, layer))}.safetensors"

    def reference(self, source: Source, layers: Mapping[str, list[str]]) -> FeatureSets:
        """Features of real images, from the cache if they are in it.

        Processes other than the main one get nothing.

        Raises:
            ValueError: A cached file is damaged.
        """
        pairs = _pairs(layers)
        with self._alone(source):
            missing = [pair for pair in pairs if not self.reference_file(source, *pair).exists()]
            for pair, feature_set in self._features(source, missing, "real images").items():
                write_reference(self.reference_file(source, *pair), feature_set)
        if not self.accelerator.is_main_process:
            return {}
        return {pair: read_reference(self.reference_file(source, *pair)) for pair in pairs}

    def features(self, source: Source, layers: Mapping[str, list[str]], what: str) -> FeatureSets:
        """Features of all images of a source, in one pass.

        Processes other than the main one get nothing.

        Raises:
            ValueError: Features that are not finite, and all that the source raises.
        """
        with self._alone(source):
            return self._features(source, _pairs(layers), what)

    @contextlib.contextmanager
    def _alone(self, source: Source) -> Iterator[None]:
        """Two runs never work on the same images at once: the second waits, and finds what the first did."""
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.cache_dir / f"{_key(source.key)}.lock")
        with lock if self.accelerator.is_main_process else contextlib.nullcontext():
            self.accelerator.wait_for_everyone()
            yield
            self.accelerator.wait_for_everyone()

    def _features(self, source: Source, pairs: list[tuple[str, str]], what: str) -> FeatureSets:
        if not pairs:
            return {}
        folder = self.cache_dir / _key([self.settings(source, *pair) for pair in pairs])
        folder.mkdir(parents=True, exist_ok=True)
        chunks = {start: folder / f"{start:09d}.safetensors" for start in range(0, len(source), CHUNK_SIZE)}
        processes = self.accelerator.num_processes
        with tqdm(total=len(source), desc=what, unit="img", disable=not self.progress) as bar:
            for start in list(chunks)[self.accelerator.process_index :: processes]:
                if not chunks[start].exists():
                    features = self._extract_chunk(source, range(start, min(start + CHUNK_SIZE, len(source))), pairs)
                    with replace_file(chunks[start]) as partial:
                        save_file(features, partial)
                bar.update(min(start + CHUNK_SIZE * processes, len(source)) - bar.n)  # others keep pace
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return {}
        sets = {pair: summarize(list(chunks.values()), "/".join(pair)) for pair in pairs}
        shutil.rmtree(folder)
        return sets

    def _extract_chunk(self, source: Source, indices: range, pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
        """{"extractor/layer": features} of some images."""
        collected: dict[str, list[Tensor]] = {"/".join(pair): [] for pair in pairs}
        for first in indices[:: self.batch_size]:
            last = min(first + self.batch_size, indices.stop)
            with self.timed(source.activity), without_tf32():
                images = source.load(first, last)
            found = {name: self.extract(name, images) for name in dict(pairs)}
            for name, layer in pairs:
                if not torch.isfinite(found[name][layer]).all():
                    raise ValueError(f"`{name}` must give finite features, got others of images {first} to {last - 1}.")
                collected[f"{name}/{layer}"].append(found[name][layer])
        return {name: torch.cat(parts) for name, parts in collected.items()}

    @torch.inference_mode()
    def extract(self, name: str, images: Tensor) -> dict[str, Tensor]:
        """Features of uint8 images (B, 3, H, W): {layer: (B, D)}, float32, on the CPU."""
        if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"`images` must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}.")
        device, extractor = self.accelerator.device, self.extractors[name]
        with self.timed(name), autocast(getattr(torch, self.dtype), device), without_tf32():
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
    matmul.allow_tf32 = cudnn.allow_tf32 = False  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before  # pyright: ignore[reportAttributeAccessIssue]


def _pairs(layers: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    return [(name, layer) for name, names in layers.items() for layer in names]


def _key(settings: object) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:20]


def summarize(files: list[Path], name: str) -> FeatureSet:
    """Mean, covariance and features of all chunks, read twice but never held in double precision at once."""

    def chunks() -> Iterator[Tensor]:
        for path in files:
            with safe_open(path, "pt") as file:
                yield file.get_tensor(name)

    count = sum(len(features) for features in chunks())
    mean = sum((features.double().sum(dim=0) for features in chunks()), torch.zeros(())) / count  # (D,)
    scatter = torch.zeros(())
    for features in chunks():
        centered = features.double() - mean  # (B, D)
        scatter = scatter + centered.T @ centered  # (D, D)
    kept = torch.from_numpy(np.linspace(0, count - 1, min(count, MAX_FEATURES_KEPT)).round().astype(np.int64))
    features, start = [], 0
    for chunk in chunks():
        inside = kept[(kept >= start) & (kept < start + len(chunk))] - start
        features.append(chunk[inside])
        start += len(chunk)
    covariance = scatter / max(count - 1, 1)
    return FeatureSet(count, mean.numpy(), covariance.numpy(), torch.cat(features))


def write_reference(path: Path, features: FeatureSet) -> None:
    tensors = {"count": torch.tensor(features.count), "features": features.features.contiguous()}
    tensors |= {"mean": torch.from_numpy(features.mean), "covariance": torch.from_numpy(features.covariance)}
    with replace_file(path) as partial:
        save_file(tensors, partial)


def read_reference(path: Path) -> FeatureSet:
    """Raises ValueError if the file is damaged."""
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"`cache_dir` must hold whole files, {path} is damaged ({error}): delete it.") from error
    mean, covariance = tensors["mean"].numpy(), tensors["covariance"].numpy()
    return FeatureSet(int(tensors["count"]), mean, covariance, tensors["features"])
