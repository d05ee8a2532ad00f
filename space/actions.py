"""What the page does, without the page: one method for each action, over the public calls of polyinr_hf."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice

from photos import RebuiltPhotos, open_photo
from PIL import Image
from settings import MAX_DRAWN, MAX_ENCODED, MAX_PIXELS, PHOTO_SIZE, SIZES, class_ids, settings_of
from torch import Tensor

from polyinr_hf import PolyINRPipeline
from polyinr_hf.editing import detail, draw_frames, encode_seeds, extrapolate, mix_levels, walk
from polyinr_hf.inversion import InversionSettings, InversionStep, invert

MORPH_STEPS = 100  # places between two images
PAN = 0.25  # of what is seen
MOVES = {
    "left": (0, -PAN, 0),
    "right": (0, PAN, 0),
    "up": (-PAN, 0, 0),
    "down": (PAN, 0, 0),
    "in": (0, 0, 1),
    "out": (0, 0, -1),
}
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Whatever the model computes in this block after so many seconds ends in a TimeoutError."""
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    except TimeoutError as error:
        raise TimeoutError(f"This took more than {seconds:g} seconds: ask for less.") from error
    finally:
        _deadline.reset(token)


def _check_time(*_) -> None:
    if time.monotonic() > _deadline.get():
        raise TimeoutError


class Studio:
    """A pipeline and what is kept of it between requests.

    Methods take settings that `check` has passed; A is (1, L, n, 3).
    """

    def __init__(self, pipe: PolyINRPipeline):
        self.pipe = pipe
        pipe.set_progress_bar_config(disable=True)
        pipe.generator.to_rgb.register_forward_pre_hook(_check_time)  # the end of every chunk of pixels
        self.class_ids, self.settings = class_ids(pipe), settings_of(pipe)
        self.photos = RebuiltPhotos()
        self._encode = lru_cache(MAX_ENCODED)(self._encode)
        self._draw_sample = lru_cache(MAX_DRAWN)(self._draw_sample)

    def check(self, values: dict) -> dict:
        """The settings, each checked; ValueError with a sentence for the person who asked."""
        return {name: self.settings[name].check(value) for name, value in values.items()}

    def generate(self, class_label, seed, truncation_psi, count, size) -> list[tuple[Image.Image, str]]:
        """Images of a class with consecutive seeds."""
        check_pixels(count, size)
        seeds = [(seed + i) % 2**32 for i in range(count)]
        return [(self._draw_sample(class_label, s, truncation_psi, size), f"seed {s}") for s in seeds]

    def zoom(self, class_label, seed, truncation_psi, photo, row, column, zoom, border, size) -> Image.Image:
        """A square part of an image, or what lies beyond its border, drawn anew at full sharpness."""
        A = self._image(photo, class_label, seed, truncation_psi)
        extent = detail((row, column), 2.0**zoom)
        return extrapolate(self.pipe, A, extent, size, size, border="yellow" if border else None)[0]

    def mix(
        self, class_label, seed, truncation_psi, photo, second_class_label, second_seed, levels, size
    ) -> tuple[Image.Image, Image.Image, Image.Image]:
        """The first image with some levels of the second: first, second, mixed."""
        A = self._image(photo, class_label, seed, truncation_psi)
        source = self._encode(second_class_label, second_seed, truncation_psi)
        first = self._draw(A, size) if photo else self._draw_sample(class_label, seed, truncation_psi, size)
        second = self._draw_sample(second_class_label, second_seed, truncation_psi, size)
        return first, second, self._draw(mix_levels(A, source, levels), size) if levels else first

    def morph(self, class_label, seed, truncation_psi, second_class_label, second_seed, position, size) -> Image.Image:
        """An image between two, w moving evenly."""
        way = self._walk(class_label, seed, truncation_psi, second_class_label, second_seed, MORPH_STEPS + 1)
        return self._draw(next(islice(way, round(position * MORPH_STEPS), None)), size)

    def film(
        self, class_label, seed, truncation_psi, second_class_label, second_seed, num_frames, size
    ) -> list[Image.Image]:
        """Frames from one image to another and back, `num_frames` of them drawn."""
        check_pixels(num_frames, size)
        way = self._walk(class_label, seed, truncation_psi, second_class_label, second_seed, num_frames)
        frames = list(draw_frames(self.pipe, way, height=size, width=size))
        return frames + frames[-2:0:-1]

    def rebuild(
        self, path: str, num_steps: int, size: int, callback: Callable[[InversionStep], None] | None = None
    ) -> tuple[Image.Image, str, str]:
        """Inverts an uploaded image: what was found, its code for the other actions, how close it is."""
        original = open_photo(path, min(PHOTO_SIZE, self.pipe.generator.config.sample_size))
        settings = InversionSettings(num_steps=num_steps // 5, num_refine_steps=num_steps - num_steps // 5)
        result = invert(self.pipe, original, backbone=None, callback=callback, settings=settings)
        code = self.photos.keep(result.affine_parameters)
        steps = len(result.losses)
        report = f"{result.psnr:.1f} dB PSNR after {steps} steps and {result.seconds:.0f} seconds"
        return self.photo(code, size), code, report

    def photo(self, photo: str, size: int) -> Image.Image:
        """A rebuilt image."""
        return self._draw(self.photos.find(photo), size)

    def _image(self, photo: str, class_label: str | None, seed: int, psi: float) -> Tensor:
        return self.photos.find(photo.strip()) if photo.strip() else self._encode(class_label, seed, psi)

    def _encode(self, class_label: str | None, seed: int, psi: float) -> Tensor:
        return encode_seeds(self.pipe, self.class_ids.get(class_label), seed, psi)

    def _draw_sample(self, class_label: str | None, seed: int, psi: float, size: int) -> Image.Image:
        return self._draw(self._encode(class_label, seed, psi), size)

    def _walk(self, class_label, seed, psi, second_class_label, second_seed, num_frames) -> Iterator[Tensor]:
        labels = [self.class_ids[label] for label in (class_label, second_class_label)] if self.class_ids else None
        return walk(self.pipe, labels, [seed, second_seed], num_frames, truncation_psi=psi)

    def _draw(self, A: Tensor, size: int) -> Image.Image:
        return self.pipe(affine_parameters=A, height=size, width=size).images[0]


def check_pixels(count: int, size: int) -> None:
    """Raises ValueError for more pixels than one request may ask for."""
    if count * size**2 > MAX_PIXELS:
        most = max(s for s in SIZES if count * s**2 <= MAX_PIXELS)
        raise ValueError(f"{count} images of {size} pixels are too many at once: choose {most} pixels, or fewer.")


def move(way: str, row: float, column: float, zoom: float, settings: dict) -> tuple[float, float, float]:
    """Centre and zoom after a button, in their ranges: a quarter of what is seen further, or one doubling."""
    down, across, doublings = MOVES[way]
    side = 2.0**-zoom
    moved = {"row": row + down * side, "column": column + across * side, "zoom": zoom + doublings}
    return tuple(min(max(value, settings[name].minimum), settings[name].maximum) for name, value in moved.items())
