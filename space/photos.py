"""Uploaded images: opened with suspicion, and, once rebuilt, kept for a while."""

from __future__ import annotations

import threading
import zipfile
from collections import OrderedDict
from pathlib import Path

from PIL import Image, ImageOps
from settings import MAX_PHOTOS, MAX_UPLOAD_BYTES, MAX_UPLOAD_PIXELS
from torch import Tensor

from polyinr_hf import PolyINRPipeline
from polyinr_hf.files import tensor_digest
from polyinr_hf.images import load_photo

SCRIPT_MARKS = (b"<script", b"<!doctype html", b"<?php", b"<!entity")
PDF_MARK, PDF_HEAD = b"%PDF-", 1024  # a PDF may begin anywhere in its first bytes


def open_photo(path: str | Path, side: int) -> Image.Image:
    """The square in the middle of an uploaded image, RGB, `side` pixels wide.

    Raises:
        ValueError: with a sentence for the person who sent it, if it is too large, no image, or something else, too.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size == 0:
        raise ValueError("This file is empty.")
    if path.stat().st_size > MAX_UPLOAD_BYTES:
        raise ValueError(f"This file is too large: at most {MAX_UPLOAD_BYTES >> 20} MB, please.")
    if is_something_else(path):
        raise ValueError("This file is more than an image (an archive, a PDF or a script): save it as a plain PNG.")
    try:
        photo = load_photo(path, max_pixels=MAX_UPLOAD_PIXELS)
    except ValueError as error:
        if "pixels" in str(error.__cause__):  # the limit above, or Pillow's own beyond it
            raise ValueError(f"This image is too large: at most {MAX_UPLOAD_PIXELS:,} pixels, please.") from error
        raise ValueError("This file cannot be read as an image: try a PNG, JPEG or WebP.") from error
    return ImageOps.fit(photo, (side, side), Image.Resampling.LANCZOS)


def is_something_else(path: Path) -> bool:
    """Whether a file that may be an image is also an archive, a PDF or a page with scripts: a polyglot."""
    content = path.read_bytes()
    lower = content.lower()
    return zipfile.is_zipfile(path) or PDF_MARK in content[:PDF_HEAD] or any(mark in lower for mark in SCRIPT_MARKS)


class RebuiltPhotos:
    """The latest rebuilt images, each under an ID that only its own affine parameters give."""

    def __init__(self, max_photos: int = MAX_PHOTOS):
        self.max_photos = max_photos
        self._kept: OrderedDict[str, tuple[PolyINRPipeline, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, pipe: PolyINRPipeline, A: Tensor) -> str:
        """Keeps A (1, L, n, 3) and the pipeline that draws it, and returns their ID."""
        code = tensor_digest(A)
        with self._lock:
            self._kept[code] = pipe, A
            self._kept.move_to_end(code)
            while len(self._kept) > self.max_photos:
                self._kept.popitem(last=False)
        return code

    def find(self, code: str) -> tuple[PolyINRPipeline, Tensor]:
        """The pipeline, and A (1, L, n, 3).

        Raises:
            ValueError: if nothing is kept under this ID.
        """
        with self._lock:
            kept = self._kept.get(code.strip())
        if kept is None:
            raise ValueError("The rebuilt image with this ID is no longer kept here: rebuild it once more.")
        return kept
