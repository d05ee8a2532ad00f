"""What the page does, without the page: one method for each action, over the public calls of polyinr_hf."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from photos import RebuiltPhotos, open_photo
from PIL import Image
from rebuilding import blend, rebuild
from settings import (
    MAX_ENCODED,
    MAX_PIXELS,
    MAX_THUMBNAILS,
    PHOTO_SIZE,
    PLACE,
    PREVIEW_SIZE,
    SIZES,
    TOLERANCE,
    WALL_COUNT,
    WALL_SECONDS,
    class_ids,
    settings_of,
)
from torch import Tensor
from turns import check_turn, preview

from polyinr_hf import PolyINRPipeline
from polyinr_hf.editing import detail, encode_seeds, extrapolate, mix_levels

MIXED_FROM = (0.9, 0.8, 0.7, 0.5, 0.3)  # share of the levels that a mixture leaves as they are
STRIP_COUNT = 7  # thumbnails in a row
BETWEEN = (0.2, 0.35, 0.5, 0.65, 0.8)  # positions of the thumbnails of a morph


class Studio:
    """A pipeline and what is kept of it between requests.

    Methods take settings that `check` has passed; A is (1, L, n, 3).

    Args:
        card: what the model's card says, Markdown.
    """

    def __init__(self, pipe: PolyINRPipeline, card: str = ""):
        self.pipe, self.card = pipe, card
        pipe.set_progress_bar_config(disable=True)
        pipe.generator.to_rgb.register_forward_pre_hook(check_turn)  # the end of every chunk of pixels
        self.class_ids, self.settings = class_ids(pipe), settings_of(pipe)
        self.photos = RebuiltPhotos()
        self._encode = lru_cache(MAX_ENCODED)(self._encode)
        self._thumbnail = lru_cache(MAX_THUMBNAILS)(self._thumbnail)

    def check(self, values: dict) -> dict:
        """The settings, each checked; ValueError with a sentence for the person who asked."""
        return {name: self._check(name, value) for name, value in values.items()}

    def _check(self, name: str, value: object) -> object:
        setting = self.settings[name]
        if name.endswith("class_label") and isinstance(value, str) and self.class_ids and value not in self.class_ids:
            try:
                (class_id,) = self.pipe.get_label_ids(value)
            except ValueError as error:
                raise ValueError(f"{setting.label}: {str(error).removeprefix('`class_labels` has ')}") from error
            return setting.choices[class_id]
        return setting.check(value)

    # -- one image ----------------------------------------------------------------------------------------------------
    def generate(self, class_label, seed, truncation_psi, count, size) -> list[tuple[Image.Image, str]]:
        """Images of a class with consecutive seeds."""
        check_pixels(count, size)
        seeds = [(seed + i) % 2**32 for i in range(count)]
        return [(self._draw(*self._image("", class_label, s, truncation_psi), size), f"seed {s}") for s in seeds]

    def zoom(self, class_label, seed, truncation_psi, photo, row, column, zoom, border, size) -> Image.Image:
        """A square part of an image, or what lies beyond its border, drawn anew at full sharpness."""
        pipe, A = self._image(photo, class_label, seed, truncation_psi)
        extent = detail((row, column), 2.0**zoom)
        return extrapolate(pipe, A, extent, size, size, "yellow" if border else None, tolerance=TOLERANCE)[0]

    def preview(self, class_label, seed, truncation_psi, photo, row, column, zoom) -> Image.Image:
        """What /zoom draws, 64 pixels wide, before everything else that waits."""
        with preview():
            return self.zoom(class_label, seed, truncation_psi, photo, row, column, zoom, False, PREVIEW_SIZE)

    # -- two images ---------------------------------------------------------------------------------------------------
    def mix(
        self, class_label, seed, truncation_psi, photo, second_class_label, second_seed, levels, size
    ) -> tuple[Image.Image, Image.Image, Image.Image]:
        """The first image with some levels of the second: first, second, mixed."""
        pipe, A = self._image(photo, class_label, seed, truncation_psi)
        source = self._encode(second_class_label, second_seed, truncation_psi)
        first, second = self._draw(pipe, A, size), self._draw(self.pipe, source, size)
        return first, second, self._draw(pipe, mix_levels(A, source, levels), size) if levels else first

    def morph(
        self, class_label, seed, truncation_psi, photo, second_class_label, second_seed, position, size
    ) -> Image.Image:
        """An image between two: w moves evenly, or, from a rebuilt image, its affine parameters and weights."""
        first = (class_label, seed, truncation_psi, photo)
        return self._draw(*self._between(*first, second_class_label, second_seed, position), size)

    def film(
        self, class_label, seed, truncation_psi, photo, second_class_label, second_seed, num_frames, size
    ) -> list[Image.Image]:
        """Frames from one image to another and back, `num_frames` of them drawn."""
        first = (class_label, seed, truncation_psi, photo)
        frames = list(self.frames(*first, second_class_label, second_seed, num_frames, size))
        return frames + frames[-2:0:-1]

    def frames(
        self, class_label, seed, truncation_psi, photo, second_class_label, second_seed, num_frames, size
    ) -> Iterator[Image.Image]:
        """The frames of a film on its way there, one at a time."""
        check_pixels(num_frames, size)
        ends = (class_label, seed, truncation_psi, photo, second_class_label, second_seed)
        return (self._draw(*self._between(*ends, i / (num_frames - 1)), size) for i in range(num_frames))

    # -- an image of one's own ----------------------------------------------------------------------------------------
    def rebuild(
        self, path: str, num_steps: int, size: int, callback: Callable[[int, int, Callable], None] | None = None
    ) -> tuple[Image.Image, str, str]:
        """Rebuilds an uploaded image: what was found, its ID for the other actions, how close it is.

        Args:
            callback: called with the steps done, those in all, and a function that draws the image as it is then.
        """
        result = rebuild(self.pipe, open_photo(path, PHOTO_SIZE), num_steps, callback)
        code = self.photos.keep(result.pipe, result.affine_parameters)
        report = f"{result.psnr:.1f} dB PSNR after {num_steps} steps and {result.seconds:.0f} seconds"
        return self.photo(code, size), code, report

    def photo(self, photo: str, size: int) -> Image.Image:
        """A rebuilt image."""
        if not photo.strip():
            raise ValueError("Give the ID of a rebuilt image: /rebuild returns it.")
        return self._draw(*self.photos.find(photo), size)

    # -- what the page shows ------------------------------------------------------------------------------------------
    def scene(self, tab: str, settings: dict, size: int) -> Image.Image:
        """The part of the picture, mixture or picture between (`tab` zoom, mix or morph) that `settings` ask for."""
        pipe, A, extent = self._part(tab, settings)
        return self._draw(pipe, A, size, extent)

    def sharper(self, tab: str, settings: dict) -> Iterator[Image.Image]:
        """The same in the size that the settings ask for, sharper and sharper; the last one is that of `scene`."""
        pipe, A, extent = self._part(tab, settings)
        size = settings["size"]
        for image in pipe.generator.render_progressive(A.to(pipe.device), size, size, extent, TOLERANCE):
            yield pipe.image_processor.postprocess(image, "pil")[0]

    def _part(self, tab: str, settings: dict) -> tuple[PolyINRPipeline, Tensor, tuple]:
        s = settings
        first = (s["class_label"], s["seed"], s["truncation_psi"], s["photo"])
        if tab == "morph":
            pipe, A = self._between(*first, s["second_class_label"], s["second_seed"], s["position"])
        else:
            pipe, A = self._image(s["photo"], *first[:3])
        if tab == "mix" and s["levels"]:
            A = mix_levels(A, self._encode(s["second_class_label"], s["second_seed"], first[2]), s["levels"])
        return pipe, A, detail((s["row"], s["column"]), 2.0 ** s["zoom"])

    def title(self, tab: str, settings: dict) -> str:
        """What `scene` shows, in words."""
        first, second = self.names(settings)
        if tab == "mix":
            levels = ", ".join(map(str, settings["levels"]))
            return f"{first} with levels {levels} of {second}" if levels else first
        return f"{first} → {second}, {settings['position']:.0%}" if tab == "morph" else first

    def file_name(self, tab: str, settings: dict) -> str:
        """A name for a file of it, without a suffix."""
        names = f" {tab} ".join(self.names(settings)) if tab in ("mix", "morph", "film") else self.names(settings)[0]
        return re.sub(r"[^\w]+", "-", names.lower()).strip("-") or "picture"

    def names(self, settings: dict) -> tuple[str, str]:
        """The first and the second image in words."""
        second = readable(settings["second_class_label"], settings["second_seed"])
        if settings["photo"].strip():
            return "your picture", second
        return readable(settings["class_label"], settings["seed"]), second

    def wall(self) -> tuple[list[dict], Image.Image]:
        """Pictures of as many classes, evenly from the list of them: the settings of each, and a contact sheet."""
        names, psi = list(self.class_ids) or [None], self.settings["truncation_psi"].default
        count = WALL_COUNT if names == [None] else min(WALL_COUNT, len(names))
        picks, images, began = [], [], time.monotonic()
        for i in range(count):
            picks.append({"class_label": names[i * len(names) // count], "seed": i})
            images.append(self._draw(self.pipe, self._encode(*picks[-1].values(), psi), PREVIEW_SIZE))
            if time.monotonic() - began > WALL_SECONDS and len(images) >= STRIP_COUNT:
                break
        return picks, contact_sheet(images, columns=10)

    def picks(self, settings: dict) -> tuple[list[dict], list[dict], list[dict]]:
        """What to offer beside a picture: other seeds of its class, mixtures, pictures between; each as new settings.

        A rebuilt image has no other seeds.
        """
        first = settings["seed"] + 1
        num_levels = self.pipe.generator.config.num_levels
        starts = sorted({round(share * num_levels) for share in MIXED_FROM}, reverse=True)
        seeds = [] if settings["photo"].strip() else [(first + i) % 2**32 for i in range(STRIP_COUNT)]
        return (
            [{"tab": "zoom", "seed": seed} for seed in seeds],
            [{"tab": "mix", "levels": list(range(start, num_levels))} for start in starts],
            [{"tab": "morph", "position": position} for position in BETWEEN],
        )

    def strip(self, settings: dict, picks: list[dict]) -> Image.Image | None:
        """The thumbnails of some picks side by side."""
        whole = settings | {name: self.settings[name].default for name in PLACE}
        images = []
        for pick in picks:
            chosen = whole | {"size": PREVIEW_SIZE} | pick
            values = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in chosen.items() if k != "border")
            images.append(self._thumbnail(values))
        return contact_sheet(images, columns=len(images)) if images else None

    def _thumbnail(self, values: tuple) -> Image.Image:
        settings = dict(values)
        return self.scene(settings["tab"], settings, settings["size"])

    # -- affine parameters, and the pipeline that draws them --------------------------------------------------------
    def _image(self, photo: str, class_label: str | None, seed: int, psi: float) -> tuple[PolyINRPipeline, Tensor]:
        return self.photos.find(photo) if photo.strip() else (self.pipe, self._encode(class_label, seed, psi))

    def _encode(self, class_label: str | None, seed: int, psi: float) -> Tensor:
        return encode_seeds(self.pipe, self.class_ids.get(class_label), seed, psi)

    @torch.no_grad()
    def _between(
        self, class_label, seed, psi, photo, second_class_label, second_seed, position
    ) -> tuple[PolyINRPipeline, Tensor]:
        """Between two images w moves evenly; between a rebuilt image, which has no w, and another A and the weights."""
        if photo.strip():
            pipe, A = self.photos.find(photo)
            second = self._encode(second_class_label, second_seed, psi)
            return blend(pipe, self.pipe, position), torch.lerp(A.to(second), second, position)
        first, second = self._w(class_label, seed, psi), self._w(second_class_label, second_seed, psi)
        return self.pipe, self.pipe.generator.affine(torch.lerp(first, second, position))

    def _w(self, class_label: str | None, seed: int, psi: float) -> Tensor:
        """w (1, L, w_dim)."""
        model = self.pipe.generator
        z = self.pipe.prepare_latents(1, torch.Generator().manual_seed(seed)).to(model.device)
        label = torch.tensor([self.class_ids[class_label]], device=model.device) if self.class_ids else None
        return model.map(z, label, psi)

    def _draw(self, pipe: PolyINRPipeline, A: Tensor, size: int, extent=(0.0, 0.0, 1.0, 1.0)) -> Image.Image:
        return pipe(affine_parameters=A, height=size, width=size, extent=extent, tolerance=TOLERANCE).images[0]


def readable(class_label: str | None, seed: int) -> str:
    """A sample in words."""
    name = "picture" if class_label is None else class_label.replace("-", " ").replace("_", " ")
    return f"{name} {seed}"


def contact_sheet(images: list[Image.Image], columns: int) -> Image.Image:
    """Images of one size in rows; what is left of the last row is transparent."""
    width, height = images[0].size
    sheet = Image.new("RGBA", (columns * width, -(-len(images) // columns) * height))
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def check_pixels(count: int, size: int) -> None:
    """Raises ValueError for more pixels than one request may ask for."""
    if count * size**2 > MAX_PIXELS:
        most = max(s for s in SIZES if count * s**2 <= MAX_PIXELS)
        raise ValueError(f"{count} images of {size} pixels are too many at once: choose {most} pixels, or fewer.")
