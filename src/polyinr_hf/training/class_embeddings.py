"""Class embeddings to start from: the mean EfficientNet-lite0 feature of each class's images."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..data.dataset import ImageDataset, image_batches
from ..feature_networks import load_feature_network
from ..files import replace_file
from ..images import to_float
from .recipe import CLASS_EMBEDDING_NETWORK

logger = logging.getLogger(__name__)

RESOLUTION = 224  # pixels, what the network was trained at
SAVE_EVERY_BATCHES = 200  # what a stopped pass can lose (not tuned)
IMAGES_COMPARED = 16  # spread over the dataset: what a file of sums is recognized by


@torch.inference_mode()
def compute_class_embeddings(
    dataset: ImageDataset,
    path: str | Path,
    weights: str | Path | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> Tensor:
    """Mean over each class's images of lite0's spatially pooled last block, (num_classes, 320).

    Sums are kept in `path` (safetensors) as the pass goes on, so that a stopped one resumes, and a finished one is
    read back. A class without images gets the mean of the others.

    Raises:
        ValueError: if the dataset has no classes, or `path` holds sums of other classes or images.
        FileNotFoundError: if the weights of EfficientNet-lite0 cannot be had.
    """
    if not dataset.num_classes:
        raise ValueError("`dataset` must have classes to embed, got none.")
    path = Path(path)
    subject = _describe(dataset)
    sums, counts, images_done = _load_sums(path, dataset.num_classes, subject)
    if images_done < len(dataset):
        network = load_feature_network(CLASS_EMBEDDING_NETWORK, weights).to(device)
        batches = image_batches(dataset, RESOLUTION, batch_size, num_workers=num_workers, start=images_done)
        progress = tqdm(total=len(dataset), initial=images_done, desc="class embeddings", unit="image", disable=quiet)
        for number, (images, labels) in enumerate(batches, start=1):
            assert labels is not None  # as there are classes
            features = network.forward_pooled(to_float(images.to(device))).double().cpu()  # (B, 320)
            sums.index_add_(0, labels, features)
            counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
            images_done += len(images)
            progress.update(len(images))
            if number % SAVE_EVERY_BATCHES == 0:
                _save_sums(path, sums, counts, images_done, subject)
        _save_sums(path, sums, counts, images_done, subject)
    empty = counts == 0
    if empty.any():
        logger.warning("%d of %d classes have no images", int(empty.sum()), len(counts))
    means = sums / counts.clamp(min=1).unsqueeze(1)  # (num_classes, 320)
    means[empty] = means[~empty].mean(dim=0)
    return means.float()


def _describe(dataset: ImageDataset) -> dict[str, str]:
    """What the sums are of, wherever the dataset lies: its size, its classes, and a few of its images with theirs."""
    number, digest = len(dataset), hashlib.sha256()
    for index in range(0, number, max(1, number // IMAGES_COMPARED)):
        image, label, _ = dataset.decode_row(index, 32)
        digest.update(image.numpy().tobytes() + str(label).encode())
    names = [name for _, name in sorted((dataset.id2label or {}).items())]
    return {"num_images": str(number), "classes": json.dumps(names, ensure_ascii=False), "images": digest.hexdigest()}


def _load_sums(path: Path, num_classes: int, subject: dict[str, str]) -> tuple[Tensor, Tensor, int]:
    """Sums (num_classes, 320) and counts (num_classes,), float64, and the number of images summed so far."""
    if not path.exists():
        zeros = torch.zeros(num_classes, 320, dtype=torch.float64)
        return zeros, torch.zeros(num_classes, dtype=torch.float64), 0
    with safe_open(path, "pt") as file:
        sums, counts, metadata = file.get_tensor("sums"), file.get_tensor("counts"), file.metadata()
    if len(sums) != num_classes:
        raise ValueError(f"{path} is of {len(sums)} classes, the dataset has {num_classes}: remove it.")
    theirs = subject | metadata  # earlier versions wrote less
    if theirs["num_images"] != subject["num_images"]:
        raise ValueError(
            f"{path} is of {theirs['num_images']} images, the dataset has {subject['num_images']}: remove it."
        )
    if theirs["classes"] != subject["classes"]:
        raise ValueError(f"{path} is of classes of other names than the dataset's: remove it.")
    if theirs["images"] != subject["images"]:
        raise ValueError(f"{path} is of other images than the dataset's: remove it.")
    return sums, counts, int(metadata["images_done"])


def _save_sums(path: Path, sums: Tensor, counts: Tensor, images_done: int, subject: dict[str, str]) -> None:
    with replace_file(path) as partial:
        save_file({"sums": sums, "counts": counts}, partial, subject | {"images_done": str(images_done)})
