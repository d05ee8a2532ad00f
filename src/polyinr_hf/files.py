"""Files and folders written so that a failure half-way leaves what was there; fingerprints that they are found by."""

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def replace_file(path: str | Path) -> Iterator[Path]:
    """Write a file beside `path`, whose folder is made if need be, and put it in place if the block does not raise.

    Yields the path to write to, hidden, with the suffix of `path`. If the block raises, `path` stays as it was.

    Example:
        >>> from PIL import Image
        >>> with replace_file("runs/a/white.png") as partial:
        ...     Image.new("RGB", (8, 8), "white").save(partial)
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def replace_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder beside `path`, and put it in place when the block ends without an error.

    Yields the path of an empty folder next to `path`. If the block raises, it is removed and `path` stays as it was. If
    not, it takes the place of `path`, whose old contents are deleted only then.

    Example:
        >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
        >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
        >>> with replace_folder("runs/a/checkpoint") as folder:
        ...     pipe.save_pretrained(folder)

    Raises:
        ValueError: if `path` is a file.
    """
    path = Path(path).absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"`path` must be a folder or not exist yet, got the file {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # A hidden temporary folder holds the new version and, briefly, the old one.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as workspace:
        new, old = Path(workspace, "new"), Path(workspace, "old")
        new.mkdir()
        yield new
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                shutil.move(old, path)
            raise


def weights_digest(module: nn.Module) -> str:
    """A short fingerprint of all parameters and buffers, the same on every device."""
    digest = hashlib.sha256()
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        digest.update(name.encode())
        digest.update(_bytes_of(value).data)
    return digest.hexdigest()[:16]


def tensor_digest(tensor: Tensor) -> str:
    """A short fingerprint of a tensor's shape and values, the same on every device."""
    return hashlib.sha256(repr(tuple(tensor.shape)).encode() + _bytes_of(tensor).tobytes()).hexdigest()[:16]


def _bytes_of(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
