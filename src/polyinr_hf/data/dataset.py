"""Hugging Face image datasets -> square RGB images.

`load_image_dataset` opens a dataset of any kind, `preprocess_image` prepares one image, `image_batches` goes through a
dataset once, in order. Training batches are drawn by [`~polyinr_hf.data.make_loader`].
"""

import glob
import logging
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import datasets.config
import torch
from datasets.fingerprint import Hasher
from datasets.utils.file_utils import is_local_path, xopen
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..connection import cache_if_unreachable
from ..images import preprocess_image, read_image
from .folders import Listing, find_lost, nfc, open_folder, open_repository, read_pictures, say, shorten

logger = logging.getLogger(__name__)

MAX_DATASET_PIXELS = 2**28  # 16,384 x 16,384; more of one image is taken for a decompression bomb
CHECKED_SIDE = 32  # pixels of a picture that is decoded to see whether it can be
STREAM_SHARDS = 64  # that a streamed folder of pictures is cut into, and that are shuffled
_FILE_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
Row = dict[str, Any]
Sample = tuple[Tensor, int | None, list[str]]  # image, class id, sentences on broken images
Rows = datasets.Dataset | datasets.IterableDataset


class CorruptImageError(ValueError):
    """An image that cannot be read or decoded; the message names its index and file."""


# --- opening a dataset ------------------------------------------------------------------------------------------------


def load_image_dataset(
    name_or_path: str | Path,
    config: str | None = None,
    split: str = "train",
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    class_conditional: bool | None = None,
    class_name: str | None = None,
    streaming: bool = False,
    skip_corrupt: bool = False,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
) -> "ImageDataset":
    """Opens an image dataset of any kind.

    Folders, zips and repositories of pictures are read by their layout, which docs/folders.md shows; everything else is
    read as `datasets` does.

    Args:
        name_or_path: A dataset's Hub id; or a local folder of pictures, zips, parquet, arrow or webdataset files, a
            `save_to_disk` folder, or one .zip, .parquet, .arrow or .tar file.
        config: The dataset's configuration, if it has several.
        split: Split name, or slice such as "train[:1000]".
        image_column, label_column, class_conditional, skip_corrupt: See `ImageDataset`.
        class_name: Of the one class that all images are of, where labels are needed and there are none; by default, of
            pictures, the name of the innermost folder that holds them all; of a repository, its own.
        streaming: Read rows as they come, without downloading or preparing the dataset first.
        cache_dir, token, revision: As `datasets.load_dataset` takes them.

    Raises:
        ValueError: for no such path or split, a folder that cannot be read, and all that `ImageDataset` raises. Errors
            of `datasets` and the Hub pass.
    """
    path = Path(name_or_path).expanduser()
    options = {"split": split, "streaming": streaming, "cache_dir": cache_dir}
    folder_name = None if path.is_file() else path.resolve().name  # of a repository, too
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        dataset = _load_saved(path, split)
    elif path.is_file() and path.suffix in _FILE_BUILDERS:
        dataset = datasets.load_dataset(_FILE_BUILDERS[path.suffix], data_files=glob.escape(str(path)), **options)
    elif path.is_file() and path.suffix.lower() != ".zip":
        kinds = ", ".join([*_FILE_BUILDERS, ".zip"])
        raise ValueError(f"`name_or_path` must be a folder or a file of {kinds}, got {path}.")
    elif not path.exists() and (path.is_absolute() or str(name_or_path)[:1] in ".~" or len(path.parts) > 2):
        raise ValueError(
            f"`name_or_path` must be a local file or folder or a Hub id (owner/name), got {name_or_path}: there is no "
            "such file or folder."
        )
    else:
        if path.exists():
            listing = open_folder(path, cache_dir)
        else:
            listing = open_repository(str(path), revision, token, cache_dir, streaming)
            options |= {"token": token, "revision": revision}
        if listing is not None and listing.is_read_here and config is None:
            dataset, inner_name = read_pictures(listing, str(name_or_path), split, label_column, cache_dir)
            folder_name = inner_name or folder_name or path.stem
        else:
            dataset = _load_as_datasets_does(str(path), config, listing, **options)
    if streaming and isinstance(dataset, datasets.Dataset):
        if class_conditional is not False:
            dataset = _with_class_ids(dataset, label_column)
        dataset = dataset.to_iterable_dataset(num_shards=min(len(dataset), STREAM_SHARDS))
    if class_conditional and class_name is None:
        class_name = folder_name
    return ImageDataset(dataset, image_column, label_column, class_conditional, class_name, skip_corrupt)


def _load_saved(path: Path, split: str) -> datasets.Dataset:
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.DatasetDict):
        if split not in saved:
            raise ValueError(f"`split` must be one of {list(saved)}, got {split!r}.")
        saved = saved[split]
    # A fingerprint that was saved may be that of a folder's name, as below.
    saved._fingerprint = Hasher.hash([saved._fingerprint, _hash_states(file["filename"] for file in saved.cache_files)])
    return saved


def _hash_states(files: Iterable[str]) -> str:
    """A hash of files, by path, size and time of change, and of addresses by themselves."""
    states = [(file, Path(file).stat() if Path(file).is_file() else None) for file in files]
    return Hasher.hash([(file, state and (state.st_size, state.st_mtime_ns)) for file, state in states])


def _load_as_datasets_does(name: str, config: str | None, listing: Listing | None, **options) -> Rows:
    """Tables, archives and configurations; says which tables and loose pictures are in none of the splits."""
    if listing is not None and listing.folder == Path(name) and glob.has_magic(str(Path(name).resolve())):
        raise ValueError(
            "`name_or_path` must be a path without *, ? and [ where `datasets` reads the folder, as it holds tables or "
            f"there is a `config`, got {name!r}."
        )
    if listing is None:  # the Hub could not be asked, but perhaps was before
        with cache_if_unreachable(name, options.get("revision")):
            return datasets.load_dataset(name, config, **options)
    which = {key: value for key, value in options.items() if key not in ("split", "streaming")}
    files = datasets.load_dataset_builder(name, config, **which).config.data_files or {}
    state = None
    if Path(name).exists():  # `datasets` caches rows by the folder's name and its card alone, where that has configs
        state = _hash_states(file for part in files.values() for file in part)
        cache_dir = Path(options["cache_dir"] or datasets.config.HF_DATASETS_CACHE, "local_folders", state)
        options["cache_dir"] = str(cache_dir)
    dataset = datasets.load_dataset(name, config, **options)
    if state and isinstance(dataset, datasets.Dataset):
        dataset._fingerprint = Hasher.hash([dataset._fingerprint, state])
    say(f"{name}: {shorten(listing.row_tables) or 'its files'}, read as `datasets` does", matters=False)
    names = [*listing.row_tables, *listing.pictures]
    if lost := find_lost(names, (file for part in files.values() for file in part)):
        say(f"{name}: {len(lost)} of {len(names)} files are in none of its splits: {shorten(lost)}")
    return dataset


def _with_class_ids(dataset: datasets.Dataset, label_column: str | None) -> datasets.Dataset:
    """A dataset whose classes, of text or numbers, are a ClassLabel column: a stream cannot be asked for them."""
    column = find_label_column(dataset, label_column)
    if column is None or isinstance(_columns(dataset)[column], datasets.ClassLabel):
        return dataset
    names, ids = read_classes(dataset, column)
    assert ids is not None  # as the column is no ClassLabel
    values = [ids[value] for value in dataset[column]]
    rest: Any = dataset.remove_columns(column)  # whose type its decorator hides
    return rest.add_column(column, values, feature=datasets.ClassLabel(names=names))


# --- columns ----------------------------------------------------------------------------------------------------------


def _columns(dataset: Rows) -> datasets.Features:
    assert dataset.features is not None  # a stream's are resolved as it is opened
    return dataset.features


def describe_columns(dataset: Rows) -> str:
    """Names and types of a dataset's columns, for a message."""
    return ", ".join(f"{name} ({getattr(f, 'dtype', None) or f})" for name, f in _columns(dataset).items())


def _check_column(dataset: Rows, argument: str, name: str) -> str:
    if name not in _columns(dataset):
        raise ValueError(f"`{argument}` must be one of the columns {describe_columns(dataset)}, got {name!r}.")
    return name


def find_image_column(dataset: Rows, name: str | None = None) -> str:
    """The column asked for, or the first of images: as `datasets` writes them, or {bytes, path} as others do.

    Raises:
        ValueError: for no such column, none at all, or one that holds no images.
    """
    if name is None:
        name = next((name for name, kind in _columns(dataset).items() if _is_image(kind)), None)
    if name is None:
        raise ValueError(
            f"`image_column` must be given where none is found, got None: the columns are {describe_columns(dataset)}."
        )
    kind = _columns(dataset)[_check_column(dataset, "image_column", name)]
    if not _is_image(kind) and getattr(kind, "dtype", None) not in ("string", "large_string", "binary", "large_binary"):
        raise ValueError(f"`image_column` must hold images, {name!r} does not: {describe_columns(dataset)}.")
    return name


def _is_image(kind: object) -> bool:
    """Whether a column's type is an image's. Written by pandas, Dask or Spark it is a struct like any other."""
    return isinstance(kind, datasets.Image) or isinstance(kind, dict) and kind.keys() == {"bytes", "path"}


def find_label_column(dataset: Rows, name: str | None = None, needed: bool = False) -> str | None:
    """The column asked for; or the first ClassLabel, or `label` of text or whole numbers; or None.

    Where classes are needed, `label` is meant whatever it holds.

    Raises:
        ValueError: for no such column.
    """
    if name is not None:
        return _check_column(dataset, "label_column", name)
    for column, kind in _columns(dataset).items():
        if isinstance(kind, datasets.ClassLabel):
            return column
    dtype = getattr(_columns(dataset).get("label"), "dtype", "")
    is_meant = needed or dtype.startswith(("string", "large_string", "int", "uint"))
    return "label" if "label" in _columns(dataset) and is_meant else None


def read_classes(dataset: Rows, column: str) -> tuple[list[str], dict[object, int] | None]:
    """Class names of a label column, and {value: class id} if its values are not ids. Every row must have a class.

    Text and whole numbers are the classes that occur, named by themselves; names are in composed letters (NFC).
    """
    feature = _columns(dataset)[column]
    if isinstance(dataset, datasets.IterableDataset):
        if isinstance(feature, datasets.ClassLabel):
            return [nfc(name) for name in feature.names], None
        raise ValueError(f"`label_column` must be a ClassLabel column when streaming, {column!r} is {feature}.")
    values = dataset.select_columns([column]).with_format("arrow")[:][column]
    if values.null_count:
        raise ValueError(
            f"`label_column` must have a class in each row, {column!r} has {values.null_count} rows without a class."
        )
    dtype = getattr(feature, "dtype", "")
    if not dtype.startswith(("string", "large_string", "int", "uint")):
        raise ValueError(f"`label_column` must hold ClassLabel, integers or strings, {column!r} is {feature}.")
    found = sorted(values.unique().to_pylist())
    if "string" in dtype:
        names = sorted({nfc(value) for value in found})
        ids = {name: index for index, name in enumerate(names)}
        return names, {value: ids[nfc(value)] for value in found}
    is_named = isinstance(feature, datasets.ClassLabel)
    if found[0] < 0 or is_named and found[-1] >= len(feature.names):
        legal = f"0..{len(feature.names) - 1}" if is_named else "of 0 and more"
        raise ValueError(
            f"`label_column` must hold class ids {legal}, {column!r} has {found[0]}..{found[-1]} "
            "(test splits often come without classes)."
        )
    if not is_named:
        return [str(value) for value in found], {value: index for index, value in enumerate(found)}
    return [nfc(name) for name in feature.names], None


# --- images and classes -----------------------------------------------------------------------------------------------


class ImageDataset:
    """A Hugging Face dataset seen as images and, perhaps, class labels.

    Args:
        dataset: `datasets.Dataset`, or `datasets.IterableDataset` for streaming.
        image_column: The images; by default the first column of type `Image`, or of structs {bytes, path}.
        label_column: The classes: a `ClassLabel` column, or (not streaming) whole numbers or text; by default the first
            `ClassLabel` column, or else one called `label`.
        class_conditional: True: labels are needed; False: labels are ignored; None: labels are used if found.
        class_name: Of the one class that all images are of, where labels are needed and there are none.
        skip_corrupt: Whether a broken image is replaced by the next good one and reported, instead of an error.

    Attributes:
        id2label: {id: name}, names as in the dataset (comma-separated synonyms kept); None without labels.
        num_classes: Number of classes; None without labels.
        empty_classes: Ids of classes that no image is of; [] for a stream, which is not looked through.
        streaming: Whether rows can only be read in turn.

    Raises:
        ValueError: for no rows, no such column, no image column, or labels that are needed and missing.
    """

    def __init__(
        self,
        dataset: Rows,
        image_column: str | None = None,
        label_column: str | None = None,
        class_conditional: bool | None = None,
        class_name: str | None = None,
        skip_corrupt: bool = False,
    ):
        self.skip_corrupt = skip_corrupt
        self.streaming = isinstance(dataset, datasets.IterableDataset)
        if isinstance(dataset, datasets.IterableDataset) and dataset.features is None:
            dataset = dataset._resolve_features()
        if isinstance(dataset, datasets.Dataset) and len(dataset) == 0:
            raise ValueError("`dataset` must have rows, got none.")
        self.image_column = find_image_column(dataset, image_column)
        self.label_column, self.id2label, self._ids, self.empty_classes = None, None, None, []
        if class_conditional is not False:
            self.label_column = find_label_column(dataset, label_column, needed=bool(class_conditional))
        if class_conditional and self.label_column is None:
            if class_name is None:
                raise ValueError(
                    "`label_column` is missing: a class-conditional model needs labels and no ClassLabel column was "
                    f"found; the columns are {describe_columns(dataset)}. Name one, or give `class_name`, the one "
                    "class of all images, or class_conditional=False (in a recipe: data.class_conditional=false)."
                )
            self.id2label = {0: class_name}
        columns = [name for name in (self.image_column, self.label_column) if name is not None]
        dataset = dataset.with_format(None).select_columns(columns)
        if self.label_column is not None:
            names, self._ids = read_classes(dataset, self.label_column)
            self.id2label = dict(enumerate(names))
            if self._ids is None and isinstance(dataset, datasets.Dataset):
                self.empty_classes = sorted(set(self.id2label).difference(dataset.unique(self.label_column)))
            if empty := [names[key] for key in self.empty_classes]:
                say(f"{len(empty)} of {len(names)} classes have no picture: {shorten(empty)}")
        # Rows keep the encoded file; decoding is ours, so that a broken image can be named.
        self.dataset: Any = dataset.cast_column(self.image_column, datasets.Image(decode=False))

    def __len__(self) -> int:
        if self.streaming:
            raise TypeError("a streaming dataset has no length")
        return len(self.dataset)

    @property
    def num_classes(self) -> int | None:
        return None if self.id2label is None else len(self.id2label)

    def decode(self, row: Row, index: int, resolution: int, draft: bool = False) -> tuple[Tensor, int | None]:
        """Makes a row of `self.dataset` into an image (uint8, (3, resolution, resolution)) and its class id, or None.

        With `draft`, a JPEG much larger than that is decoded at a half, a quarter or an eighth of its size, whichever
        is at least twice `resolution`: up to three times faster, and one to three of 255 levels away in the mean.

        Raises:
            CorruptImageError: if the image cannot be decoded; `index` and the file are named.
            ValueError: if the class id is not one of `id2label`.
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
        label, num_classes = row[self.label_column], self.num_classes or 0
        if self._ids is not None:
            label = self._ids[label]
        if label is None or not 0 <= label < num_classes:
            raise ValueError(
                f"`label_column` must hold class ids 0..{num_classes - 1}, "
                f"{self.label_column!r} has {label} in row {index}."
            )
        return image, label

    def shorter_side(self, index: int) -> int | None:
        """Of a row's image, in pixels; None for one that cannot be read."""
        try:
            return min(_open(self.dataset[index][self.image_column], None).size)
        except Exception:  # decoders raise anything from OSError to SyntaxError
            return None

    def check_first(self, number: int) -> None:
        """Decodes the first pictures, so that a broken one of few is said before anything else takes time.

        Raises:
            CorruptImageError: for one that cannot be decoded, unless the dataset skips them.
        """
        if not (self.streaming or self.skip_corrupt):
            for index in range(min(number, len(self))):
                self.decode(self.dataset[index], index, CHECKED_SIDE, draft=True)

    def decode_row(self, index: int, resolution: int) -> Sample:
        """Image, class id or None of a row, and sentences on broken images; with `skip_corrupt` the next good row's.

        Raises:
            CorruptImageError: if the image cannot be decoded, or with `skip_corrupt` none can.
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


def _open(value: Row, draft: int | None) -> Image:
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

    def __init__(self, dataset: ImageDataset, resolution: int):
        self.dataset, self.resolution = dataset, resolution

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset.decode_row(index, self.resolution)


def collate(samples: list[Sample]) -> tuple[Tensor, Tensor | None, list[str]]:
    """Images (B, 3, R, R), labels (B,) or None, and sentences on broken images, of several samples."""
    images, labels, problems = zip(*samples, strict=True)
    labels = None if labels[0] is None else torch.tensor(labels)
    return torch.stack(images), labels, [problem for part in problems for problem in part]


def batches_once(
    dataset: ImageDataset, resolution: int, batch_size: int, num_workers: int, start: int = 0
) -> DataLoader:
    """A DataLoader of what [`collate`] gives, once through the dataset in its order."""
    return DataLoader(
        Subset(DecodedRows(dataset, resolution), range(start, len(dataset))),
        batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        generator=torch.Generator(),  # not the global one, which would change what the run draws next
    )


def image_batches(
    dataset: ImageDataset, resolution: int, batch_size: int, *, num_workers: int = 0, start: int = 0
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Goes through a dataset once, in its order.

    Args:
        dataset: `ImageDataset`, not streaming.
        resolution: Side in pixels.
        batch_size: Images per batch; the last batch may be smaller.
        num_workers: Worker processes, 0 for none.
        start: Index of the first image, to go on with a pass that was stopped.

    Yields:
        images (uint8, (B, 3, resolution, resolution)) and class labels (int64, (B,)) or None.

    Raises:
        ValueError: if the dataset is streaming.
        CorruptImageError: for a broken image, unless the dataset skips them.
    """
    if dataset.streaming:
        raise ValueError("`dataset` must not be streaming, to be gone through by index: load it without `streaming`.")
    for images, labels, problems in batches_once(dataset, resolution, batch_size, num_workers, start):
        for problem in problems:
            logger.warning("skipped: %s", problem)
        yield images, labels
