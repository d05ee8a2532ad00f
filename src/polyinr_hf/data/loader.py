"""Training batches without end, in an order that the seed decides: resumable, the same for any number of processes."""

import logging
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch import Tensor
from torch.utils.data import DataLoader

from ..checks import check_count
from ..images import to_float
from .dataset import CorruptImageError, DecodedRows, ImageDataset, Row, Sample, batches_once, collate

logger = logging.getLogger(__name__)

Entry = tuple[int, bool]  # index of an image, whether it is mirrored
Decoded = tuple[Tensor, Tensor | None, list[str]]  # images (N, 3, R, R), labels (N,), sentences on broken images
Batch = tuple[Tensor, Tensor | None, list[str], dict | None]  # the same of a batch, and the state of a stream after it
CACHE_BYTES = 2 * 2**30  # decoded sets up to this size are held in memory


class TrainingOrder:
    """The endless sequence of (image index, mirrored) that training draws: a new permutation and new flips each epoch.

    Entry k depends on (seed, number of images, k) only, so a run resumes from the count of images it has seen, and the
    number of processes and workers and the resolution leave it as it is.
    """

    def __init__(self, num_images: int, seed: int, mirror: bool = True):
        self.num_images, self.seed, self.mirror = num_images, seed, mirror
        self._epoch = None

    def _load_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        random = np.random.default_rng((self.seed, epoch))
        self._indices = random.permutation(self.num_images)
        self._flips = random.random(self.num_images) < (0.5 if self.mirror else 0.0)
        self._epoch = epoch

    def __getitem__(self, position: int) -> Entry:
        epoch, offset = divmod(position, self.num_images)
        self._load_epoch(epoch)
        return int(self._indices[offset]), bool(self._flips[offset])

    def batches(
        self, images_seen: int, batch_size: int, process_index: int = 0, num_processes: int = 1
    ) -> Iterator[list[Entry]]:
        """Endless lists of this process's entries: its contiguous share of each batch of `batch_size`."""
        share = batch_size // num_processes
        start = images_seen + process_index * share
        while True:
            yield [self[position] for position in range(start, start + share)]
            start += batch_size


class MirroredRows(DecodedRows):
    """`DecodedRows` addressed by the entries of a `TrainingOrder`."""

    def __getitem__(self, entry: Entry) -> Sample:
        index, mirrored = entry
        image, label, problems = super().__getitem__(index)
        return image.flip(-1) if mirrored else image, label, problems


class ImageLoader:
    """Endless iterator of training batches, made by `make_loader`.

    Each batch is a dict: `images` float32 (B, 3, R, R) in [-1, 1] and `class_labels` int64 (B,) or None, this
    process's share of the batch.

    Attributes:
        images_seen: Images drawn so far by all processes together; what a resumed run starts from.
        num_skipped: Broken images that this process has skipped.
    """

    def __init__(
        self,
        source: Iterator[Batch],
        batch_size: int,
        images_seen: int,
        device: torch.device | str,
        stream: dict | None = None,
    ):
        self._source, self._batch_size, self._device = source, batch_size, device
        self.images_seen, self.num_skipped = images_seen, 0
        self._stream_state = stream

    def __iter__(self) -> "ImageLoader":
        return self

    def __next__(self) -> dict[str, Tensor | None]:
        images, labels, problems, self._stream_state = next(self._source)
        for problem in problems:
            logger.warning("skipped: %s", problem)
        self.num_skipped += len(problems)
        self.images_seen += self._batch_size
        labels = None if labels is None else labels.to(self._device, non_blocking=True)
        images = to_float(images.to(self._device, non_blocking=True))  # one byte a value travels, not four
        return {"images": images, "class_labels": labels}

    def state_dict(self) -> dict[str, int | dict | None]:
        """{"images_seen", "stream"}: `make_loader`'s arguments of those names to go on from here."""
        return {"images_seen": self.images_seen, "stream": self._stream_state}


def make_loader(
    dataset: ImageDataset,
    resolution: int,
    batch_size: int,
    *,
    seed: int = 0,
    images_seen: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    num_workers: int = 0,
    mirror: bool = True,
    cache_in_memory: bool | None = None,
    shuffle_buffer: int = 10_000,
    stream: dict | None = None,
    decoded: Decoded | None = None,
    device: torch.device | str = "cpu",
) -> ImageLoader:
    """Makes an iterator of training batches without end, each image once an epoch, in an order that `seed` decides.

    A batch may be larger than the dataset; it then has images of several epochs.

    The batches of all processes together are the same for every number of processes, workers and caches, and for a run
    that goes on from `images_seen`, bit for bit. Streaming datasets are weaker: processes read different shards
    (or every P-th row), and a resumed run goes on in each shard where it stopped, but with a new shuffle buffer: in
    that epoch some images may be drawn twice and others not at all.

    Args:
        dataset: `ImageDataset`.
        resolution: Side in pixels.
        batch_size: Images per batch over all processes; this one yields `batch_size / num_processes`.
        seed: Of order and flips.
        images_seen: Images drawn before, over all processes (and over all resolutions).
        num_workers: Worker processes that decode (threads when streaming), 0 for none.
        mirror: Flip each image with probability 1/2, drawn anew each epoch.
        cache_in_memory: Decode all images once, at the start, and keep them as uint8; None: if that takes up to 2 GiB.
        shuffle_buffer: Rows in the shuffle buffer of a streaming dataset.
        stream: Where to go on in a streaming dataset, from this process's `ImageLoader.state_dict()`.
        decoded: What `decode_all` gave for this dataset and resolution, if that has been done already.
        device: Where batches are put.

    Returns:
        `ImageLoader`

    Raises:
        ValueError: for a `batch_size` that `num_processes` does not divide, and values out of range.
        CorruptImageError: for a broken image, while iterating or while filling the cache.
    """
    for name, value in (("resolution", resolution), ("batch_size", batch_size)):
        check_count(name, value)
    for name, value in (("images_seen", images_seen), ("seed", seed)):
        check_count(name, value, minimum=0)
    if not 0 <= process_index < num_processes:
        raise ValueError(f"`process_index` must be in 0..{num_processes - 1}, got {process_index}.")
    if batch_size % num_processes:
        raise ValueError(f"`batch_size` must be a multiple of `num_processes`, {num_processes}, got {batch_size}.")
    if dataset.streaming:
        if cache_in_memory:
            raise ValueError("`cache_in_memory` must be False or None: a streaming dataset cannot be held in memory.")
        shard = split_dataset_by_node(
            dataset.dataset.shuffle(seed=seed, buffer_size=shuffle_buffer), process_index, num_processes
        )
        flips = (seed, process_index) if mirror else None
        source = _stream_batches(dataset, shard, resolution, batch_size // num_processes, flips, num_workers, stream)
        return ImageLoader(source, batch_size, images_seen, device, stream)
    if cache_in_memory is None:
        cache_in_memory = len(dataset) * 3 * resolution**2 <= CACHE_BYTES
    order = TrainingOrder(len(dataset), seed, mirror).batches(images_seen, batch_size, process_index, num_processes)
    if decoded is not None or cache_in_memory:
        batches = _cached_batches(dataset, resolution, order, num_workers, decoded)
    else:
        batches = _decoded_batches(dataset, resolution, order, num_workers)
    return ImageLoader(batches, batch_size, images_seen, device)


def _decoded_batches(
    dataset: ImageDataset, resolution: int, order: Iterator[list[Entry]], num_workers: int
) -> Iterator[Batch]:
    """Batches decoded as they are drawn."""
    loader = DataLoader(
        MirroredRows(dataset, resolution),
        batch_sampler=order,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),  # the copy to the GPU then goes on while it computes
        collate_fn=collate,
        generator=torch.Generator(),  # not the global one, which would change what the run draws next
    )
    for images, labels, problems in loader:
        yield images, labels, problems, None


def decode_all(
    dataset: ImageDataset, resolution: int, num_workers: int = 0, images: torch.Tensor | None = None
) -> Decoded:
    """All images of a dataset: uint8 (N, 3, resolution, resolution), labels (N,) or None, and what was broken.

    `images` is memory to write to, such as a file's map.
    """
    if images is None:
        images = torch.empty(len(dataset), 3, resolution, resolution, dtype=torch.uint8)
    labels, problems, start = [], [], 0
    for part, part_labels, part_problems in batches_once(dataset, resolution, 64, num_workers):
        images[start : start + len(part)] = part
        start += len(part)
        labels.append(part_labels)
        problems += part_problems
    return images, None if labels[0] is None else torch.cat(labels), problems


def _cached_batches(
    dataset: ImageDataset,
    resolution: int,
    order: Iterator[list[Entry]],
    num_workers: int,
    decoded: Decoded | None,
) -> Iterator[Batch]:
    """The same batches from images decoded once, or already."""
    images, labels, problems = decoded or decode_all(dataset, resolution, num_workers)
    for entries in order:
        # Image by image: indexing with a tensor is up to 40 times slower on uint8.
        batch = torch.stack([images[i].flip(-1) if mirrored else images[i] for i, mirrored in entries])  # (B, 3, R, R)
        yield batch, None if labels is None else labels[[i for i, _ in entries]], problems, None
        problems = []


def _stream_rows(shard: IterableDataset, state: dict | None) -> Iterator[tuple[Row, int, dict]]:
    """Endless (row, its number in this process, state after it) of a streaming dataset, reshuffled each epoch."""
    state = dict(state or {"epoch": 0, "num_rows": 0, "dataset": None})
    while True:
        shard.set_epoch(state["epoch"])
        if state["dataset"] is not None:
            shard.load_state_dict(state["dataset"])
        rows_before = state["num_rows"]
        for row in shard:
            state |= {"num_rows": state["num_rows"] + 1, "dataset": shard.state_dict()}
            yield row, state["num_rows"] - 1, dict(state)
        if state["num_rows"] == rows_before and state["dataset"] is None:
            raise ValueError("`dataset` has no rows in this process's part of the stream.")
        state |= {"epoch": state["epoch"] + 1, "dataset": None}


def _stream_batches(
    dataset: ImageDataset,
    shard: IterableDataset,
    resolution: int,
    batch_size: int,
    flips: tuple[int, int] | None,
    num_workers: int,
    state: dict | None,
) -> Iterator[Batch]:
    """Batches of a stream: rows come in turn, threads decode two batches ahead (decoders release Python's lock)."""

    def decode(row: Row, number: int) -> Sample:
        image, label = dataset.decode(row, number, resolution, draft=True)
        mirrored = flips is not None and np.random.default_rng((*flips, number)).random() < 0.5
        return image.flip(-1) if mirrored else image, label, []

    rows = _stream_rows(shard, state)
    with ThreadPoolExecutor(max(num_workers, 1)) as threads:
        queue = deque()
        while True:
            samples, problems = [], []
            while len(samples) < batch_size:
                while len(queue) < 2 * batch_size:
                    row, number, state = next(rows)
                    queue.append((threads.submit(decode, row, number), state))
                future, state = queue.popleft()
                try:
                    samples.append(future.result())
                except CorruptImageError as error:
                    if not dataset.skip_corrupt:
                        raise
                    problems.append(str(error))
            images, labels, _ = collate(samples)
            yield images, labels, problems, state
