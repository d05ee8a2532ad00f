"""Local folders of pictures as datasets that leave out none.

`datasets` takes words such as train, test or val anywhere in the names of folders and files for splits, loads one of
them, and drops the rest or the classes. Here a folder holds splits only if every picture lies in a folder at the top
that is named like one.
"""

import logging
import os
from pathlib import Path

import datasets
from datasets.fingerprint import Hasher
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

logger = logging.getLogger(__name__)

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test"}
SPLITS |= {"evaluation": "test", "validation": "validation", "valid": "validation", "val": "validation"}
SPLITS |= {"dev": "validation"}
# What says more about the pictures, or holds others, and is read by `datasets`.
TABLES = {".csv", ".json", ".jsonl", ".parquet", ".arrow", ".tar", ".zip", ".gz", ".tgz", ".py"}


def find_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """(pictures, tables and archives) at any depth, sorted, relative to `folder`; hidden ones are passed over."""
    pictures, tables = [], []
    for root, names, files in os.walk(folder, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith((".", "__")))
        for file in files:
            path = Path(root, file).relative_to(folder)
            if file.startswith((".", "__")):
                continue
            if path.suffix.lower() in ImageFolder.EXTENSIONS:
                pictures.append(path)
            elif path.suffix.lower() in TABLES:
                tables.append(path)
    return sorted(pictures), sorted(tables)


def read_image_folder(folder: Path, split: str) -> datasets.Dataset | None:
    """The pictures of a folder, and their classes: the names of the folders they are in. None if there are tables.

    Raises:
        ValueError: for a split that is not there.
    """
    pictures, tables = find_pictures(folder)
    if not pictures or tables:
        return None
    has_splits = all(len(path.parts) > 1 and path.parts[0].lower() in SPLITS for path in pictures)
    split_of = {path: SPLITS[path.parts[0].lower()] if has_splits else "train" for path in pictures}
    class_of = _classes({path: path.parts[has_splits:-1] for path in pictures})
    found = {name: [path for path in pictures if split_of[path] == name] for name in dict.fromkeys(split_of.values())}
    try:
        instructions = datasets.ReadInstruction.from_spec(split).to_absolute({k: len(v) for k, v in found.items()})
    except (ValueError, AssertionError, KeyError) as error:
        raise ValueError(f"`split` must be one of {list(found)}, got {split!r}.") from error
    chosen = [path for part in instructions for path in found[part.splitname][part.from_ : part.to]]
    columns = {"image": [str(folder / path) for path in chosen]}
    features = {"image": datasets.Image()}
    if class_of is not None:
        columns["label"] = [class_of[path] for path in chosen]
        features["label"] = datasets.ClassLabel(names=sorted(set(class_of.values())))
    dataset = datasets.Dataset.from_dict(columns, datasets.Features(features), split=datasets.NamedSplit(split))
    states = [(folder / path).stat() for path in chosen]
    dataset._fingerprint = Hasher.hash([columns, [(state.st_size, state.st_mtime_ns) for state in states]])
    return dataset


def _classes(folders: dict[Path, tuple[str, ...]]) -> dict[Path, str] | None:
    """Class of every picture from the folders around it; None if there is one folder, or they are not equally deep."""
    names = {path: parts[-1] for path, parts in folders.items() if parts}
    if len({len(parts) for parts in folders.values()}) > 1:
        odd = min(folders, key=lambda path: len(folders[path]))
        logger.warning("the pictures lie at different depths, such as %s: they have no classes", odd)
        return None
    return names if len(set(names.values())) > 1 else None


def check_no_picture_is_missing(folder: Path, config: str | None, cache_dir: str | None) -> None:
    """Raises ValueError, naming them, if `datasets` leaves out pictures of a folder that has tables as well."""
    pictures, _ = find_pictures(folder)
    if not pictures:
        return
    loaded = datasets.load_dataset(str(folder), config, cache_dir=cache_dir)
    found = set()
    for rows in loaded.values():
        column = next((name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)), None)
        if column is None:
            return
        encoded = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        found |= {os.path.realpath(row[column]["path"]) for row in encoded if row[column] and row[column]["path"]}
    missing = [str(path) for path in pictures if os.path.realpath(folder / path) not in found]
    if missing:
        raise ValueError(
            f"`name_or_path` {folder} has {len(pictures)} pictures, and `datasets` leaves out {len(missing)} of them: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}. Add them to the metadata, or rename "
            "folders and files that are called like a split (train, test, val, dev, eval)."
        )
