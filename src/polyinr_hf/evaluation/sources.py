"""Where images come from: a dataset, a pipeline, a pipeline's images upsampled, or a tensor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_count, check_number
from ..devices import autocast
from ..files import tensor_digest, weights_digest
from ..images import to_uint8
from ..pipeline_poly_inr import PolyINRPipeline

if TYPE_CHECKING:
    from ..data.dataset import ImageDataset

logger = logging.getLogger(__name__)

UPSAMPLING_MODES = ("nearest", "bilinear", "bicubic")
LABELS = ("frequency", "uniform")


class Source(Protocol):
    """Images that can be gone through by index.

    Attributes:
        key: What they depend on, in JSON's types, under which features are cached.
        activity: Names the time that loading takes.
    """

    key: dict
    activity: str

    def __len__(self) -> int: ...

    def load(self, start: int, stop: int) -> Tensor:
        """The images `[start, stop)` as uint8 (B, 3, H, W), the same ones whenever and in whatever process."""
        ...


class TensorSource:
    """Images in memory.

    Args:
        images: uint8 (N, 3, H, W), or floats in [-1, 1].

    Raises:
        ValueError: No images, three channels missing, NaN or infinity.
    """

    activity = "reading"

    def __init__(self, images: Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
            raise ValueError(f"`images` must be (N, 3, H, W), got {tuple(images.shape)}.")
        self.images = images if images.dtype == torch.uint8 else to_uint8((images + 1) / 2, "`images`")
        self.key = {"images": tensor_digest(self.images)}

    def __len__(self) -> int:
        return len(self.images)

    def load(self, start: int, stop: int) -> Tensor:
        return self.images[start:stop]


class DatasetSource:
    """All images of a dataset, in order, as training sees them (center crop, Lanczos).

    Args:
        dataset: [`~polyinr_hf.data.ImageDataset`], not streaming.
        resolution: Side in pixels.
        num_workers: Threads that decode.
        mirror: Whether each image's mirror image follows, after all of them, as for a model that was trained with
            mirror flips (StyleGAN's protocol).

    Raises:
        ValueError: A streaming dataset.
    """

    activity = "reading"

    def __init__(self, dataset: ImageDataset, resolution: int, num_workers: int = 2, mirror: bool = False):
        if dataset.streaming:
            raise ValueError(
                "`dataset` must not be streaming, to be gone through by index: load it without `streaming`."
            )
        self.dataset, self.resolution, self.mirror = dataset, resolution, mirror
        self.pool = ThreadPoolExecutor(num_workers)
        rows = dataset.dataset
        self.key = {"dataset": rows._fingerprint, "split": str(rows.split), "num_images": len(rows)}
        self.key["resolution"] = resolution
        # Without skip_corrupt, a broken image is an error, whatever was read before.
        self.key |= {"skip_corrupt": True} if dataset.skip_corrupt else {}
        self.key |= {"mirror": True} if mirror else {}

    def __len__(self) -> int:
        return len(self.dataset) * (2 if self.mirror else 1)

    def load(self, start: int, stop: int) -> Tensor:
        def decode(index: int) -> tuple[Tensor, list[str]]:
            image, _, problems = self.dataset.decode_row(index % len(self.dataset), self.resolution)
            return (image, problems) if index < len(self.dataset) else (image.flip(2), [])

        decoded = list(self.pool.map(decode, range(start, stop)))
        for problem in (problem for _, problems in decoded for problem in problems):
            logger.warning("skipped: %s", problem)
        return torch.stack([image for image, _ in decoded])  # (B, 3, R, R)


class PipelineSource:
    """Images that a pipeline generates, each from a seed of its own.

    Args:
        pipeline: The pipeline.
        num_samples: How many.
        class_frequencies: (num_classes,), for a class-conditional pipeline: how often each class is chosen.
        resolution: Side in pixels; default the pipeline's.
        truncation_psi: 1 for no truncation.
        seed: Image i depends on this and i only.
        dtype: "float32" or "bfloat16": the autocast.
        tolerance: Of a pixel's color, as in the pipeline; 0 runs the network at every pixel.
        upsample_to: Side in pixels that images are interpolated to.
        upsampling: "nearest", "bilinear" or "bicubic".

    Raises:
        ValueError: An argument out of range, or classes that do not fit the pipeline's.
    """

    activity = "sampling"

    def __init__(
        self,
        pipeline: PolyINRPipeline,
        num_samples: int,
        class_frequencies: Sequence[int] | np.ndarray | None = None,
        resolution: int | None = None,
        truncation_psi: float = 1.0,
        seed: int = 0,
        dtype: str = "float32",
        tolerance: float = 0.0,
        upsample_to: int | None = None,
        upsampling: str = "nearest",
    ):
        check_count("num_samples", num_samples)
        check_count("seed", seed, minimum=0)
        if upsampling not in UPSAMPLING_MODES:
            raise ValueError(f"`upsampling` must be one of {UPSAMPLING_MODES}, got {upsampling!r}.")
        self.pipeline, self.num_samples, self.seed = pipeline, num_samples, seed
        self.truncation_psi, self.dtype, self.tolerance = truncation_psi, dtype, check_number("tolerance", tolerance)
        self.resolution = resolution or pipeline.generator.config.sample_size
        self.upsample_to, self.upsampling = upsample_to, upsampling
        self.labels = self._sample_labels(class_frequencies)
        self.key = {
            "pipeline": weights_digest(pipeline.generator),
            "config": {name: value for name, value in pipeline.generator.config.items() if not name.startswith("_")},
            "labels": None if self.labels is None else tensor_digest(torch.from_numpy(self.labels)),
            "num_samples": num_samples,
            "resolution": self.resolution,
            "truncation_psi": truncation_psi,
            "seed": seed,
            "sampling_dtype": dtype,
            "tolerance": self.tolerance,
            "upsampled": None if upsample_to is None else [upsample_to, upsampling],
        }

    def _sample_labels(self, frequencies: Sequence[int] | np.ndarray | None) -> np.ndarray | None:
        num_classes = self.pipeline.generator.config.num_classes
        if num_classes is None:
            return None
        if frequencies is None:
            raise ValueError(
                f"`class_frequencies` must be those of the pipeline's {num_classes} classes, got None: the dataset has "
                "no classes, or `label_column` must name their column."
            )
        if len(frequencies) != num_classes:
            raise ValueError(
                f"`class_frequencies` must be of the pipeline's {num_classes} classes, got {len(frequencies)}."
            )
        p = np.asarray(frequencies, dtype=np.float64)
        return np.random.default_rng(self.seed).choice(num_classes, size=self.num_samples, p=p / p.sum())

    def __len__(self) -> int:
        return self.num_samples

    def load(self, start: int, stop: int) -> Tensor:
        labels = None if self.labels is None else self.labels[start:stop].tolist()
        with autocast(getattr(torch, self.dtype), self.pipeline.generator.device):
            images: Any = self.pipeline(
                class_labels=labels,
                num_images_per_label=stop - start if labels is None else 1,
                truncation_psi=self.truncation_psi,
                height=self.resolution,
                width=self.resolution,
                tolerance=self.tolerance,
                generator=[sample_generator(self.seed, index) for index in range(start, stop)],
                output_type="pt",
            ).images  # (B, 3, R, R) in [0, 1]
        if self.upsample_to is not None:
            align = {} if self.upsampling == "nearest" else {"align_corners": False}
            images = F.interpolate(images, size=(self.upsample_to,) * 2, mode=self.upsampling, **align)
        return to_uint8(images, f"Generated images {start} to {stop - 1}")


def sample_generator(seed: int, index: int) -> torch.Generator:
    """Sample `index`'s random numbers. Neighboring seeds share no image, as they would if image i had seed + i."""
    state = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


# --- classes ----------------------------------------------------------------------------------------------------------


def label_frequencies(num_classes: int | None, dataset: ImageDataset, labels: str = "frequency") -> np.ndarray | None:
    """How often each class is chosen, (num_classes,); None for an unconditional model or a dataset without classes.

    Args:
        num_classes: Of the model, or None.
        dataset: The real images.
        labels: "frequency", as often as the dataset has them, or "uniform".
    """
    if labels not in LABELS:
        raise ValueError(f"`labels` must be one of {LABELS}, got {labels!r}.")
    if num_classes is None:
        return None
    if labels == "uniform" or num_classes == 1:
        return np.ones(num_classes, dtype=np.int64)
    return class_frequencies(dataset)


def class_frequencies(dataset: ImageDataset) -> np.ndarray | None:
    """Images of each class of a dataset, int64 (num_classes,); None if it has no classes."""
    if dataset.num_classes is None:
        return None
    return np.bincount(class_ids(dataset), minlength=dataset.num_classes)


def class_ids(dataset: ImageDataset) -> np.ndarray:
    """Class id of every image of a dataset with classes, int64 (N,)."""
    if dataset.label_column is None:  # all images are of one class
        return np.zeros(len(dataset), dtype=np.int64)
    values = dataset.dataset.with_format("arrow")[:][dataset.label_column].to_pylist()
    ids = {name: key for key, name in (dataset.id2label or {}).items()}
    return np.array([ids[value] if isinstance(value, str) else value for value in values], dtype=np.int64)
