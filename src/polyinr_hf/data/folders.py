"""Folders of pictures as datasets that leave out none: local ones, zips, and repositories of the Hub.

`datasets` takes words such as train, test or val anywhere in the names of folders and files for splits, loads one of
them, and drops the rest or the classes. Here the layout of a folder is decided once, from the list of its files, and
said in a line, with what was left out and why:

- Splits: only if every picture lies in a folder at the top that is named like one.
- Classes, from the first of these that is there: StyleGAN's `dataset.json`; the label column of `metadata.csv`,
  `.jsonl` or `.parquet`; the names of the folders around the pictures.
"""

import glob
import json
import logging
import os
import posixpath
import shutil
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

import datasets
import datasets.config
import pyarrow
from datasets.fingerprint import Hasher
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from pyarrow import parquet

from ..files import replace_folder
from ..images import PHOTO_FORMATS

logger = logging.getLogger(__name__)

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
SPLITS |= {"evaluation": "test", "validation": "validation", "valid": "validation", "val": "validation"}
SPLITS |= {"dev": "validation"}
METADATA = {"metadata.csv": "csv", "metadata.jsonl": "json", "metadata.parquet": "parquet"}  # name: builder's name
STYLEGAN_LABELS = "dataset.json"
ROW_TABLES = {".parquet", ".arrow", ".tar"}  # that may hold the pictures themselves
OTHER_TABLES = {".csv", ".tsv", ".json", ".jsonl", ".xml", ".xlsx"}
OTHER_ARCHIVES = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
# Pictures that other programs show and Pillow, as it is installed here, does not read or hands to another program.
UNREAD = {".heic", ".heif", ".hif", ".jxl", ".avif", ".svg", ".eps", ".psd", ".exr", ".hdr", ".ico", ".dng", ".cr2"}
UNREAD |= {".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw", ".xcf", ".dds", ".wmf", ".emf"}


def nfc(text: str) -> str:
    """`text` with composed letters: a Mac writes "é" in two characters where others write one."""
    return unicodedata.normalize("NFC", text)


@cache  # a line is said once, however often a folder is opened
def say(line: str, matters: bool = True) -> None:
    """Logs a line on what was found."""
    logger.log(logging.WARNING if matters else logging.INFO, "%s", line)


@cache
def picture_suffixes() -> frozenset[str]:
    """Suffixes of the files that `load_photo` reads."""
    Image.init()
    return frozenset(end for end, kind in Image.EXTENSION.items() if kind in PHOTO_FORMATS and kind in Image.OPEN)


@dataclass
class Listing:
    """The files of a folder by what they are: names relative to it, with "/", sorted folder by folder.

    Attributes:
        folder: Local folder that has the tables.
        address: What the pictures' names are relative to: that folder, or an address of the Hub.
        left_out: Names by the reason.
    """

    folder: Path
    address: str
    pictures: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    stylegan_labels: list[str] = field(default_factory=list)
    row_tables: list[str] = field(default_factory=list)
    other_tables: list[str] = field(default_factory=list)
    zips: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    is_declared: bool = False  # which files are which, in the card of a repository

    @property
    def is_read_here(self) -> bool:
        """Whether [`read_pictures`] reads it; everything else is for `datasets`."""
        return bool(self.pictures) and not self.row_tables and not self.is_declared

    def describe_left_out(self) -> list[str]:
        """["left out: hidden pictures (.a.png, .b.png), ..."], [] for nothing."""
        parts = [f"{reason} ({shorten(names)})" for reason, names in self.left_out.items()]
        return [f"left out: {', '.join(parts)}"] if parts else []

    def leave_out(self, reason: str, names: Iterable[str]) -> None:
        if names := list(names):
            self.left_out.setdefault(reason, []).extend(names)


def shorten(names: list[str], count: int = 3) -> str:
    """The first names, and how many there are more."""
    shown = ", ".join(names[:count]).encode(errors="backslashreplace").decode()
    return shown + (f", and {len(names) - count} more" if len(names) > count else "")


def sort_files(names: Iterable[str], folder: Path, address: str | None = None) -> Listing:
    """The files of a folder by what they are."""
    listing = Listing(folder, address or str(folder))
    for name in sorted(names, key=lambda name: name.split("/")):
        base, suffix = name.rpartition("/")[2], PurePosixPath(name).suffix.lower()
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            if suffix in picture_suffixes():
                listing.leave_out("hidden pictures", [name])
        elif suffix in picture_suffixes():
            listing.pictures.append(name)
        elif suffix in UNREAD:
            listing.leave_out("pictures of a format that is not read", [name])
        elif base in METADATA:
            listing.metadata.append(name)
        elif base == STYLEGAN_LABELS:
            listing.stylegan_labels.append(name)
        elif suffix in ROW_TABLES:
            listing.row_tables.append(name)
        elif suffix == ".zip":
            listing.zips.append(name)
        elif suffix in OTHER_ARCHIVES:
            listing.leave_out("archives to be unpacked first", [name])
        elif suffix in OTHER_TABLES:
            listing.other_tables.append(name)
    return listing


def list_folder(folder: Path) -> Listing:
    """What a local folder holds at any depth. Links are followed, but not to what is listed already.

    Raises:
        ValueError: for a name that is not UTF-8.
    """
    names, links, seen = [], [], {folder.resolve()}
    for root, folders, files in os.walk(folder, followlinks=True):
        names += [Path(root, name).relative_to(folder).as_posix() for name in files]
        kept = []
        for name in sorted(folders):
            path = Path(root, name)
            if path.is_symlink():
                target = path.resolve()
                if any(target == s or target in s.parents or s in target.parents for s in seen):
                    links.append(path.relative_to(folder).as_posix())
                    continue
                seen.add(target)
            kept.append(name)
        folders[:] = kept
    listing = sort_files(names, folder)
    for name in [*listing.pictures, *listing.metadata]:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"`name_or_path` must hold pictures named in UTF-8, got {os.fsencode(name)!r} in {folder}: rename "
                "it (`convmv -r -f cp437 -t utf8` does, where a zip was packed on Windows)."
            ) from error
    listing.leave_out("links to folders that are listed already", sorted(links))
    return listing


def unpack(folder: Path, zips: list[str], cache_dir: str | None) -> Path:
    """A folder with the contents of zips of `folder`: of one as they are, of several in folders of their names.

    It lies in the cache of `datasets`, and is made anew when a zip changes.

    Raises:
        ValueError: for a damaged or locked zip, or one for which there is no space.
    """
    states = [(str(folder / name), (folder / name).stat()) for name in zips]
    key = Hasher.hash([(name, state.st_size, state.st_mtime_ns) for name, state in states])
    unpacked = Path(cache_dir or datasets.config.HF_DATASETS_CACHE, "unpacked_zips", key)
    if unpacked.is_dir():
        return unpacked
    with replace_folder(unpacked) as new:
        for name in zips:
            try:
                with zipfile.ZipFile(folder / name) as archive:
                    size, free = sum(entry.file_size for entry in archive.infolist()), shutil.disk_usage(new).free
                    if size > free:
                        raise ValueError(
                            f"{name} needs {size:,} bytes unpacked, there are {free:,} in {unpacked.parent}"
                        )
                    archive.extractall(new / PurePosixPath(name).with_suffix("") if len(zips) > 1 else new)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
                raise ValueError(
                    f"`name_or_path` must be a zip that can be unpacked, {folder / name}: {error}."
                ) from error
    return unpacked


def open_folder(path: Path, cache_dir: str | None) -> Listing:
    """What a local folder, or a zip, holds. Zips without pictures beside them are unpacked.

    Raises:
        ValueError: for a zip that cannot be unpacked, or a picture whose name is not UTF-8.
    """
    if path.is_file():
        return open_folder(unpack(path.parent, [path.name], cache_dir), cache_dir)
    listing = list_folder(path)
    if listing.zips and not listing.pictures and not listing.row_tables:
        outer, listing = listing, open_folder(unpack(path, listing.zips, cache_dir), cache_dir)
        listing.left_out = outer.left_out | listing.left_out
        listing.leave_out("tables beside zips", outer.other_tables)
    if listing.pictures:
        empty = [name for name in listing.row_tables if not _holds_pictures(path / name)]
        listing.row_tables = [name for name in listing.row_tables if name not in empty]
        listing.leave_out("tables not called metadata.csv, .jsonl or .parquet", [*empty, *listing.other_tables])
        listing.leave_out("zips beside pictures", listing.zips)
    elif not listing.row_tables and not listing.other_tables:
        found = "; ".join([str(path), *listing.describe_left_out()])
        raise ValueError(f"`name_or_path` must hold pictures, zips of pictures or tables, got {found}.")
    return listing


def open_repository(
    repo_id: str, revision: str | None, token: str | bool | None, cache_dir: str | None, streaming: bool
) -> Listing | None:
    """What a dataset repository holds; None if it cannot be had. It is downloaded if it is read here.

    A stream downloads its tables alone.
    """
    options = {"repo_type": "dataset", "revision": revision, "token": token, "cache_dir": cache_dir}
    try:
        info = HfApi(token=token).dataset_info(repo_id, revision=revision)
    except Exception:  # offline, perhaps: what was downloaded before will do. `datasets` says what is wrong.
        try:
            return open_folder(Path(snapshot_download(repo_id, local_files_only=True, **options)), cache_dir)
        except LocalEntryNotFoundError:
            return None
    names = [file.rfilename for file in info.siblings or ()]
    listing = sort_files(names, Path(), f"hf://datasets/{repo_id}@{info.sha}")
    listing.is_declared = bool((info.card_data or {}).get("configs"))
    if listing.row_tables or listing.is_declared or not (listing.pictures or listing.zips):
        return listing
    tables = [*listing.metadata, *listing.stylegan_labels]
    is_stream = streaming and listing.pictures
    listing.folder = Path(snapshot_download(repo_id, allow_patterns=tables if is_stream else None, **options))
    return listing if is_stream else open_folder(listing.folder, cache_dir)


def _holds_pictures(table: Path) -> bool:
    """Whether a table has bytes in it."""
    if table.suffix.lower() != ".parquet":
        return True
    types = [field.type for field in parquet.read_schema(table)]
    types += [part.type for kind in types if pyarrow.types.is_struct(kind) for part in kind]
    return any(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind) for kind in types)


def read_pictures(
    listing: Listing,
    name: str,
    split: str = "train",
    label_column: str | None = None,
    cache_dir: str | None = None,
) -> tuple[datasets.Dataset, str | None]:
    """The pictures of a folder as a dataset of the columns image, label where there are classes, and those of metadata.

    Args:
        listing: The folder's files.
        name: What the folder is called in messages.
        split: Name of a split, or slices such as "train[:100]+test".
        label_column: Column of the metadata with the classes; `label` by default.
        cache_dir: Of `datasets`.

    Returns:
        The dataset, and the name of the innermost folder that holds all pictures, None for `name` itself.

    Raises:
        ValueError: for a split that is not there, and for tables that do not fit the pictures.
    """
    columns, rows, labels = {"image": listing.pictures}, None, _read_stylegan_labels(listing, name)
    label_column = label_column or "label"
    if labels is None and listing.metadata:
        columns, rows = _read_metadata(listing, name, cache_dir)
    paths = next(iter(columns.values()))
    named = [SPLITS.get(path.partition("/")[0].lower(), "") if "/" in path else "" for path in paths]
    has_splits = all(named)
    splits = named if has_splits else ["train"] * len(paths)
    folders = [path.split("/")[has_splits:-1] for path in paths]
    if labels is not None:
        how = "classes by dataset.json" if labels else "no classes, as dataset.json has none"
    elif rows is not None and {label_column, "label"} & set(rows.column_names):
        how = f"classes by {label_column} of {shorten(listing.metadata)}"
    else:
        labels, how = _folder_classes(folders, paths)
    count = len(listing.pictures)
    found = [f"{name}: {count:,} picture{'s' * (count > 1)}, {how}"]
    found += ["splits " + ", ".join(f"{key} {number}" for key, number in Counter(splits).items())] * has_splits
    found += listing.describe_left_out()
    say("; ".join(found), bool(listing.left_out) or "different depths" in how)

    dataset = _make_dataset(listing, columns, rows, labels, _choose_rows(splits, split), split)
    common = os.path.commonprefix(folders)
    return dataset, nfc(common[-1]) if common else None


def _make_dataset(
    listing: Listing,
    columns: dict[str, list[str]],
    rows: datasets.Dataset | None,
    labels: list[str] | list[int] | None,
    chosen: list[int],
    split: str,
) -> datasets.Dataset:
    """The chosen rows of pictures by column, the other columns of metadata, and classes, as a dataset.

    Its fingerprint, which names what is cached of it, changes with the pictures' files.
    """
    columns = {key: [f"{listing.address}/{values[index]}" for index in chosen] for key, values in columns.items()}
    features = datasets.Features({key: datasets.Image() for key in columns})
    if labels:
        columns["label"] = [str(labels[index]) for index in chosen]
        features["label"] = datasets.ClassLabel(names=list(map(str, sorted(set(labels)))))
    dataset = datasets.Dataset.from_dict(columns, features, split=datasets.NamedSplit(split))
    if rows is not None and rows.column_names:
        dataset = datasets.concatenate_datasets([dataset, rows.select(chosen)], axis=1)
    is_local = Path(listing.address).is_dir()
    files = [Path(path).stat() for key in columns if key != "label" for path in columns[key]] if is_local else []
    states = [(file.st_size, file.st_mtime_ns) for file in files]
    dataset._fingerprint = Hasher.hash([columns, rows and rows._fingerprint, states])
    return dataset


def _choose_rows(splits: list[str], split: str) -> list[int]:
    """Indices of the rows that `split` asks for, of rows that are in these splits."""
    found = {name: [index for index, other in enumerate(splits) if other == name] for name in dict.fromkeys(splits)}
    try:
        instructions = datasets.ReadInstruction.from_spec(split).to_absolute({k: len(v) for k, v in found.items()})
    except (ValueError, AssertionError, KeyError) as error:
        raise ValueError(f"`split` must be one of {list(found)}, got {split!r}.") from error
    return [index for part in instructions for index in found[part.splitname][part.from_ : part.to]]


def _folder_classes(folders: list[list[str]], paths: list[str]) -> tuple[list[str], str]:
    """Class of every picture by the folders around it, and the layout in words."""
    if len({len(parts) for parts in folders}) > 1:
        odd = min(range(len(paths)), key=lambda index: len(folders[index]))
        return [], f"no classes, as they lie at different depths, such as {paths[odd]}"
    names = [nfc(parts[-1]) for parts in folders if parts]
    if len(set(names)) < 2:
        return [], "no classes"
    return names, f"classes by folder ({shorten(sorted(set(names)))})"


def _read_stylegan_labels(listing: Listing, name: str) -> list[int] | None:
    """Class ids of the pictures by StyleGAN's dataset.json, written by its dataset_tool.py.

    [] if it says that there are no classes; None if there is no such file, or one that is no such thing.
    """
    found, is_stylegan = {}, False
    for table in listing.stylegan_labels:
        content = json.loads((listing.folder / table).read_text(encoding="utf-8"))
        if isinstance(content, dict) and "labels" in content:
            folder, is_stylegan = table.rpartition("/")[0], True
            labels = content["labels"] or []
            found |= {nfc(posixpath.join(folder, file.replace("\\", "/"))): label for file, label in labels}
    if not found:
        return [] if is_stylegan else None
    if odd := [label for label in found.values() if not isinstance(label, int) or label < 0]:
        raise ValueError(f"`name_or_path` {name} must have class ids of 0 and more in dataset.json, got {odd[0]!r}.")
    if missing := [path for path in listing.pictures if nfc(path) not in found]:
        raise ValueError(f"`name_or_path` {name} must have a label in dataset.json for {shorten(missing)}, got none.")
    return [found[nfc(path)] for path in listing.pictures]


def _read_metadata(listing: Listing, name: str, cache_dir: str | None) -> tuple[dict[str, list[str]], datasets.Dataset]:
    """Pictures of each row by column, and the other columns, of all metadata of a folder.

    A column "file_name" names the column image, "mask_file_name" a column mask.
    """
    known = {nfc(path): path for path in listing.pictures}
    columns, parts = {}, []
    for table in listing.metadata:
        kind, file = METADATA[table.rpartition("/")[2]], glob.escape(str(listing.folder / table))
        rows = datasets.load_dataset(kind, data_files=file, split="train", cache_dir=cache_dir)
        named = [column for column in rows.column_names if column == "file_name" or column.endswith("_file_name")]
        if not named:
            raise ValueError(f"`name_or_path` {name} must have a column file_name in {table}, got {rows.column_names}.")
        for column in named:
            folder = table.rpartition("/")[0]
            files = [posixpath.normpath(posixpath.join(folder, f"{file}".replace("\\", "/"))) for file in rows[column]]
            if strangers := [file for file in files if nfc(file) not in known]:
                raise ValueError(f"`name_or_path` {name} has no pictures {shorten(strangers)}, which {table} names.")
            columns.setdefault(column[: -len("_file_name")] or "image", []).extend(known[nfc(file)] for file in files)
        parts.append(rows.remove_columns(named))
    missing = sorted(set(listing.pictures).difference(*columns.values()))
    if missing:
        raise ValueError(
            f"`name_or_path` {name} has {len(listing.pictures)} pictures, and {shorten(listing.metadata)} leaves out "
            f"{len(missing)} of them: {shorten(missing)}. Add them to it, or take them out of the folder."
        )
    return columns, datasets.concatenate_datasets(parts)


def find_lost(names: list[str], files: Iterable[str]) -> list[str]:
    """Those of a folder's or repository's files that are not among these paths or addresses."""
    paths = {PurePosixPath(file).parts for file in files}
    ends = {parts[-length:] for parts in paths for length in range(1, len(parts) + 1)}
    return [name for name in names if tuple(name.split("/")) not in ends]
