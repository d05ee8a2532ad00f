"""Hugging Face image datasets -> square RGB images.

`load_image_dataset` opens a dataset of any kind, `preprocess_image` prepares one image, `image_batches` goes through a
dataset once, in order. Training batches are drawn by [`~polyinr_hf.data.make_loader`].
"""

import glob
import logging
from io import BytesIO
from pathlib import Path

import datasets
import torch
from datasets.utils.file_utils import is_local_path, xopen
from torch.utils.data import DataLoader, Dataset, Subset

from ..images import preprocess_image, read_image
from .columns import describe_columns, find_column, read_classes
from .folders import check_no_picture_is_missing, read_image_folder

logger = logging.getLogger(__name__)

MAX_DATASET_PIXELS = 2**28  # 16,384 x 16,384; more of one image is taken for a decompression bomb
STREAM_SHARDS = 64  # that a streamed folder of pictures is cut into, and that are shuffled
_FILE_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


class CorruptImageError(ValueError):
    """An image that cannot be read or decoded; the message names its index and file."""


# --- opening a dataset ------------------------------------------------------------------------------------------------


def load_image_dataset(
    name_or_path,
    config=None,
    split="train",
    *,
    image_column=None,
    label_column=None,
    class_conditional=None,
    class_name=None,
    streaming=False,
    skip_corrupt=False,
    cache_dir=None,
    token=None,
    revision=None,
):
    """Open an image dataset of any kind that `datasets` knows.

    Args:
        name_or_path: a dataset's Hub id; or a local folder of images, parquet, arrow or webdataset files, a
            `save_to_disk` folder, or one .parquet, .arrow or .tar file.
        config: the dataset's configuration, if it has several.
        split: split name, or slice such as "train[:1000]".
        image_column, label_column, class_conditional, class_name: see `ImageDataset`. A local folder of images without
            classes is one class, if classes are needed, of the name of the folder that holds the images.
        streaming: read rows as they come, without downloading or preparing the dataset first.
        skip_corrupt: see `ImageDataset`.
        cache_dir, token, revision: as `datasets.load_dataset` takes them.

    Returns:
        `ImageDataset`

    Raises:
        ValueError: no such path or split, and all that `ImageDataset` raises. Errors of `datasets` and the Hub pass.
    """
    path = Path(name_or_path).expanduser()
    columns = {"image_column": image_column, "label_column": label_column, "class_conditional": class_conditional}
    columns |= {"class_name": class_name, "skip_corrupt": skip_corrupt}
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        dataset = _load_saved(path, split)
        return ImageDataset(dataset.to_iterable_dataset() if streaming else dataset, **columns)
    kwargs = {"split": split, "streaming": streaming, "cache_dir": cache_dir}
    if path.is_file():
        if path.suffix not in _FILE_BUILDERS:
            raise ValueError(f"`name_or_path` must be a folder or a file of {', '.join(_FILE_BUILDERS)}, got {path}.")
        dataset = datasets.load_dataset(_FILE_BUILDERS[path.suffix], data_files=glob.escape(str(path)), **kwargs)
    elif path.is_dir():
        dataset = read_image_folder(path, split) if config is None else None
        if dataset is None:
            if glob.has_magic(str(path.resolve())):  # `datasets` would find nothing in it
                raise ValueError(
                    f"`name_or_path` must be a path without *, ? and [ where a folder holds tables, archives or a "
                    f"configuration, is {str(path)!r}; rename the folder"
                )
            if not streaming:
                check_no_picture_is_missing(path, config, cache_dir)
            dataset = datasets.load_dataset(str(path), config, **kwargs)
        elif streaming:
            dataset = dataset.to_iterable_dataset(num_shards=min(len(dataset), STREAM_SHARDS))
        if class_conditional and class_name is None:
            columns["class_name"] = _folder_name(path)
    elif path.is_absolute() or str(name_or_path).startswith((".", "~")) or len(path.parts) > 2:
        raise ValueError(f"`name_or_path` must be a local file or folder or a Hub id (owner/name), got {name_or_path}.")
    else:
        dataset = datasets.load_dataset(str(name_or_path), config, token=token, revision=revision, **kwargs)
    return ImageDataset(dataset, **columns)


def _folder_name(path):
    """Of the innermost folder that holds all images of `path`: of its only sub-folder, or of itself."""
    path = path.resolve()
    while len(entries := [entry for entry in path.iterdir() if not entry.name.startswith(".")]) == 1:
        if not entries[0].is_dir():
            break
        path = entries[0]
    return path.name


def _load_saved(path, split):
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.Dataset):
        return saved
    if split not in saved:
        raise ValueError(f"`split` must be one of {list(saved)}, got {split!r}.")
    return saved[split]


class ImageDataset:
    """A Hugging Face dataset seen as images and, perhaps, class labels.

    Args:
        dataset: `datasets.Dataset`, or `datasets.IterableDataset` for streaming.
        image_column: the images; default the first column of type `Image`.
        label_column: the classes: a `ClassLabel` column, or (not streaming) integers or strings; default the first
            `ClassLabel` column.
        class_conditional: True: labels are needed; False: labels are ignored; None: labels are used if found.
        class_name: of the one class that all images are of, where labels are needed and there are none.
        skip_corrupt: whether a broken image is replaced by the next good one and reported, instead of an error.

    Attributes:
        id2label: {id: name}, names as in the dataset (comma-separated synonyms kept); None without labels.
        num_classes: number of classes; None without labels.
        streaming: whether rows can only be read in turn.

    Raises:
        ValueError: no rows, no such column, no image column, or labels that are needed and missing.
    """

    def __init__(
        self,
        dataset,
        image_column=None,
        label_column=None,
        class_conditional=None,
        class_name=None,
        skip_corrupt=False,
    ):
        self.skip_corrupt = skip_corrupt
        self.streaming = isinstance(dataset, datasets.IterableDataset)
        if self.streaming and dataset.features is None:
            dataset = dataset._resolve_features()
        if not self.streaming and len(dataset) == 0:
            raise ValueError("`dataset` has no rows.")
        self.image_column = find_column(dataset, "image_column", image_column, datasets.Image)
        if self.image_column is None:
            raise ValueError(
                f"`image_column` is missing and none was found: the columns are {describe_columns(dataset)}."
            )
        self.label_column, self.id2label = None, None
        if class_conditional is not False:
            self.label_column = find_column(dataset, "label_column", label_column, datasets.ClassLabel)
        if class_conditional and self.label_column is None:
            if class_name is None:
                raise ValueError(
                    "`label_column` is missing: a class-conditional model needs labels and no ClassLabel column was "
                    f"found; the columns are {describe_columns(dataset)}. Name one, or give `class_name`, the one "
                    "class of all images (in a recipe: data.class_name=...), or data.class_conditional=false."
                )
            self.id2label = {0: class_name}
        feature = dataset.features[self.image_column]
        is_image = isinstance(feature, datasets.Image) or getattr(feature, "dtype", None) in ("string", "binary")
        if not is_image:
            raise ValueError(
                f"`image_column` must hold images, {self.image_column!r} does not: {describe_columns(dataset)}."
            )
        dataset = dataset.with_format(None).select_columns(
            [name for name in (self.image_column, self.label_column) if name is not None]
        )
        if self.label_column is not None:
            names, self._ids = read_classes(dataset, self.label_column)
            self.id2label = dict(enumerate(names))
        # Rows keep the encoded file; decoding is ours, so that a broken image can be named.
        dataset = dataset.cast_column(self.image_column, datasets.Image(decode=False))
        self.dataset = dataset

    def __len__(self):
        if self.streaming:
            raise TypeError("a streaming dataset has no length")
        return len(self.dataset)

    @property
    def num_classes(self):
        return None if self.id2label is None else len(self.id2label)

    def decode(self, row, index, resolution, draft=False):
        """Make a row of `self.dataset` into an image (uint8, (3, resolution, resolution)) and its class id, or None.

        With `draft`, a JPEG much larger than that is decoded at a half, a quarter or an eighth of its size, whichever
        is at least twice `resolution`: up to three times faster, and one to three of 255 levels away in the mean.

        Raises:
            CorruptImageError: the image cannot be decoded; `index` and the file are named.
            ValueError: the class id is not one of `id2label`.
        """
        value = row[self.image_column]
        try:
            image = preprocess_image(_open(value, 2 * resolution if draft else None), resolution)
        except Exception as error:  # decoders raise anything from OSError to SyntaxError
            path = value.get("path") if isinstance(value, dict) else None
            raise CorruptImageError(
                f"image {index} ({path or 'no path'}) cannot be decoded: {error}. "
                "Such images are left out with data.skip_corrupt=true in a recipe, --skip_corrupt in scripts."
            ) from error
        if self.label_column is None:
            return image, None if self.id2label is None else 0
        label = row[self.label_column]
        if self._ids is not None:
            label = self._ids[label]
        if label is None or not 0 <= label < self.num_classes:
            raise ValueError(
                f"`label_column` must hold class ids 0..{self.num_classes - 1}, "
                f"{self.label_column!r} has {label} in row {index}."
            )
        return image, label

    def decode_row(self, index, resolution):
        """Image, class id or None of a row, and sentences on broken images; with `skip_corrupt` the next good row's.

        Raises:
            CorruptImageError: the image cannot be decoded, or with `skip_corrupt` none can.
        """
        problems = []
        for offset in range(len(self)):
            i = (index + offset) % len(self)
            try:
                return *self.decode(self.dataset[i], i, resolution), problems
            except CorruptImageError as error:
                if not self.skip_corrupt:
                    raise
                problems.append(str(error))
        raise CorruptImageError(f"no image can be decoded; the last: {problems[-1]}")


def _open(value, draft):
    """Image of an encoded row, {"bytes", "path"}, by the reader of photos: no format that starts another program."""
    content, path = value["bytes"], value["path"]
    if content is None and is_local_path(path):
        return read_image(Path(path), MAX_DATASET_PIXELS, draft)
    if content is None:
        with xopen(path, "rb") as file:
            content = file.read()
    return read_image(BytesIO(content), MAX_DATASET_PIXELS, draft)


# --- all images, once -------------------------------------------------------------------------------------------------


class DecodedRows(Dataset):
    """Decoded rows of an [`ImageDataset`] for a DataLoader: (image, class id or None, sentences on broken images)."""

    def __init__(self, dataset, resolution):
        self.dataset, self.resolution = dataset, resolution

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset.decode_row(index, self.resolution)


def collate(samples):
    images, labels, problems = zip(*samples, strict=True)
    labels = None if labels[0] is None else torch.tensor(labels)
    return torch.stack(images), labels, [problem for part in problems for problem in part]


def batches_once(dataset, resolution, batch_size, num_workers, start=0):
    return DataLoader(
        Subset(DecodedRows(dataset, resolution), range(start, len(dataset))),
        batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator(),  # not the global one, which would change what the run draws next
    )


def image_batches(dataset, resolution, batch_size, *, num_workers=0, start=0):
    """Go through a dataset once, in its order.

    Args:
        dataset: `ImageDataset`, not streaming.
        resolution: side in pixels.
        batch_size: images per batch; the last batch may be smaller.
        num_workers: worker processes, 0 for none.
        start: index of the first image, to go on with a pass that was stopped.

    Yields:
        images (uint8, (B, 3, resolution, resolution)) and class labels (int64, (B,)) or None.

    Raises:
        ValueError: the dataset is streaming.
        CorruptImageError: a broken image.
    """
    if dataset.streaming:
        raise ValueError("`dataset` must not be streaming, to be gone through by index: load it without `streaming`.")
    for images, labels, problems in batches_once(dataset, resolution, batch_size, num_workers, start):
        for problem in problems:
            logger.warning("skipped: %s", problem)
        yield images, labels
