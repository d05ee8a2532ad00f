"""What the page does, without the page: one method for each action, over the public calls of polyinr_hf."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from numbers import Real

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
    Scene,
    class_ids,
    settings_of,
    shortened,
)
from torch import Tensor
from turns import check_turn, preview

from polyinr_hf import PolyINRPipeline
from polyinr_hf.editing import designs, encode_seeds, extrapolate, mix_levels

MIXED_FROM = (0.9, 0.8, 0.7, 0.5, 0.3)  # share of the levels that a mixture leaves as they are
STRIP_COUNT = 7  # thumbnails in a row
CANDIDATES = 24  # seeds that the designs of a class are looked for among
BETWEEN = (0.2, 0.35, 0.5, 0.65, 0.8)  # positions of the thumbnails of a morph


class Studio:
    """A pipeline and what is kept of it between requests.

    Methods take settings that `check` has passed; A is (1, L, n, 3).

    Args:
        card: what the model's card says, Markdown.
        showcase: what examples/emoji/showcase.py wrote: pictures to open with, and classes that can be recognized.
    """

    def __init__(self, pipe: PolyINRPipeline, card: str = "", showcase: dict | None = None):
        self.pipe, self.card = pipe, card
        self.showcase = showcase or {"opening": [], "designs": {}, "recognized": []}
        pipe.set_progress_bar_config(disable=True)
        pipe.generator.to_rgb.register_forward_pre_hook(check_turn)  # the end of every chunk of pixels
        self.class_ids, self.settings = class_ids(pipe), settings_of(pipe, self.showcase["opening"])
        self.photos = RebuiltPhotos()
        self._encode = lru_cache(MAX_ENCODED)(self._encode)
        self._thumbnail = lru_cache(MAX_THUMBNAILS)(self._thumbnail)
        self.design_seeds = lru_cache(MAX_ENCODED)(self.design_seeds)

    def check(self, values: dict) -> dict:
        """The settings, each checked; ValueError with a sentence for the person who asked."""
        return {name: self._check(name, value) for name, value in values.items()}

    def _check(self, name: str, value: object) -> object:
        setting = self.settings[name]
        is_id = isinstance(value, Real) and not isinstance(value, bool)
        if name.endswith("class_label") and self.class_ids and (is_id or isinstance(value, str)):
            if value in self.class_ids:
                return value
            try:
                (class_id,) = self.pipe.class_ids(value)
            except ValueError as error:
                sentence = str(error).removeprefix("`class_labels` has ").replace("`class_labels`", "it")
                raise ValueError(f"{setting.label}: {sentence.replace(repr(value), shortened(value))}") from error
            return setting.choices[class_id]
        return setting.check(value)

    # -- one image ----------------------------------------------------------------------------------------------------
    def generate(self, scene: Scene, count: int, size: int) -> list[tuple[Image.Image, str]]:
        """Images of a class with consecutive seeds."""
        check_pixels(count, size)
        scenes = [replace(scene, seed=(scene.seed + i) % 2**32) for i in range(count)]
        return [(self._draw(*self._first(s), size), f"seed {s.seed}") for s in scenes]

    def zoom(self, scene: Scene, border: bool, size: int) -> Image.Image:
        """A square part of an image, or what lies beyond its border, drawn anew at full sharpness."""
        pipe, A = self._first(scene)
        return extrapolate(pipe, A, scene.extent, size, size, "yellow" if border else None, tolerance=TOLERANCE)[0]

    def preview(self, scene: Scene) -> Image.Image:
        """What /zoom draws, 64 pixels wide, before everything else that waits."""
        with preview():
            return self.zoom(scene, False, PREVIEW_SIZE)

    # -- two images ---------------------------------------------------------------------------------------------------
    def mix(self, scene: Scene, size: int) -> tuple[Image.Image, Image.Image, Image.Image]:
        """The first image with some levels of the second: first, second, mixed."""
        first, second = self._draw(*self._first(scene), size), self._draw(self.pipe, self._second(scene), size)
        return first, second, self._draw(*self._mixed(scene), size) if scene.levels else first

    def morph(self, scene: Scene, size: int) -> Image.Image:
        """An image between two: w moves evenly, or, from a rebuilt image, its affine parameters and weights."""
        return self._draw(*self._between(scene), size)

    def film(self, scene: Scene, num_frames: int, size: int) -> list[Image.Image]:
        """Frames from one image to another and back, `num_frames` of them drawn."""
        frames = list(self.frames(scene, num_frames, size))
        return frames + frames[-2:0:-1]

    def frames(self, scene: Scene, num_frames: int, size: int) -> Iterator[Image.Image]:
        """The frames of a film on its way there, one at a time."""
        check_pixels(num_frames, size)
        return (self.morph(replace(scene, position=i / (num_frames - 1)), size) for i in range(num_frames))

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
    def draw(self, tab: str, scene: Scene, size: int) -> Image.Image:
        """The part of the picture, mixture or picture between (`tab` zoom, mix or morph) of a scene."""
        return self._draw(*self._seen(tab, scene), size, scene.extent)

    def sharper(self, tab: str, scene: Scene, size: int) -> Iterator[Image.Image]:
        """The same, sharper and sharper; the last one is that of `draw`."""
        pipe, A = self._seen(tab, scene)
        for image in pipe.generator.render_progressive(A.to(pipe.device), size, size, scene.extent, TOLERANCE):
            yield pipe.image_processor.postprocess(image, "pil")[0]

    def title(self, tab: str, scene: Scene) -> str:
        """What `draw` shows, in words."""
        first, second = self.names(scene)
        if tab == "mix":
            return f"{first} with levels {', '.join(map(str, scene.levels))} of {second}" if scene.levels else first
        return f"{first} → {second}, {scene.position:.0%}" if tab == "morph" else first

    def file_name(self, tab: str, scene: Scene) -> str:
        """A name for a file of it, without a suffix."""
        names = f" {tab} ".join(self.names(scene)) if tab in ("mix", "morph", "film") else self.names(scene)[0]
        return re.sub(r"[^\w]+", "-", names.lower()).strip("-") or "picture"

    def names(self, scene: Scene) -> tuple[str, str]:
        """The first and the second image in words."""
        first = "your picture" if scene.photo.strip() else readable(scene.class_label, scene.seed)
        return first, readable(scene.second_class_label, scene.second_seed)

    def wall(self) -> tuple[list[dict], Image.Image]:
        """Pictures of as many classes: the settings of each, and a contact sheet.

        Those of the showcase first; then of classes evenly from the list of them, where there is a showcase of those
        that can be recognized.
        """
        psi, picks, images, began = self.settings["truncation_psi"].default, [], [], time.monotonic()
        for class_label, seed in self._wall_picks():
            picks.append({"class_label": class_label, "seed": seed})
            images.append(self._draw(self.pipe, self._encode(class_label, seed, psi, "affine"), PREVIEW_SIZE))
            if time.monotonic() - began > WALL_SECONDS and len(images) >= STRIP_COUNT:
                break
        return picks, contact_sheet(images, columns=10)

    def _wall_picks(self) -> list[tuple[str | None, int]]:
        if not self.class_ids:
            return [(None, seed) for seed in range(WALL_COUNT)]
        picks = [(name, seed) for name, seed in self.showcase["opening"] if name in self.class_ids]
        names = [name for name in self.showcase["recognized"] if name in self.class_ids] or list(self.class_ids)
        names = [name for name in names if name not in dict(picks)]
        count = min(WALL_COUNT - len(picks), len(names))
        chosen = (names[i * len(names) // count] for i in range(count))
        return picks + [(name, self.seed_to_show(name, i)) for i, name in enumerate(chosen)]

    def seed_to_show(self, class_label: str | None, seed: int) -> int:
        """The seed of the showcase for a class; `seed` if there is none."""
        return self.showcase["designs"].get(class_label, [seed])[0]

    def design_seeds(self, class_label: str | None, psi: float) -> list[int]:
        """A seed of each design of a class."""
        return [group[0] for group in designs(self.pipe, self.class_ids.get(class_label), range(CANDIDATES), psi)]

    def others(self, settings: dict) -> list[int]:
        """A seed of each other design of the class; of a class without end, of some."""
        class_label, seed, psi = (settings[name] for name in ("class_label", "seed", "truncation_psi"))
        seeds = self.design_seeds(class_label, psi)
        groups = designs(self.pipe, self.class_ids.get(class_label), [seed, *seeds], psi)
        return [other for other in seeds if not any({seed, other} <= {*group} for group in groups)]

    def picks(self, settings: dict) -> tuple[list[dict], list[dict], list[dict]]:
        """What to offer beside a picture: other designs of its class, mixtures, pictures between; each as new settings.

        A rebuilt image has no other designs.
        """
        num_levels = self.pipe.generator.config.num_levels
        starts = sorted({round(share * num_levels) for share in MIXED_FROM}, reverse=True)
        seeds = [] if settings["photo"].strip() else self.others(settings)[:STRIP_COUNT]
        return (
            [{"tab": "zoom", "seed": seed} for seed in seeds],
            [{"tab": "mix", "levels": list(range(start, num_levels))} for start in starts],
            [{"tab": "morph", "position": position} for position in BETWEEN],
        )

    def strip(self, settings: dict, picks: list[dict]) -> Image.Image | None:
        """The thumbnails of some picks side by side."""
        whole = settings | {name: self.settings[name].default for name in PLACE}
        images = [self._thumbnail(pick["tab"], Scene.of(whole | pick)) for pick in picks]
        return contact_sheet(images, columns=len(images)) if images else None

    def _thumbnail(self, tab: str, scene: Scene) -> Image.Image:
        return self.draw(tab, scene, PREVIEW_SIZE)

    # -- affine parameters, and the pipeline that draws them --------------------------------------------------------
    def _seen(self, tab: str, scene: Scene) -> tuple[PolyINRPipeline, Tensor]:
        if tab == "morph":
            return self._between(scene)
        return self._mixed(scene) if tab == "mix" and scene.levels else self._first(scene)

    def _first(self, scene: Scene, space: str = "affine") -> tuple[PolyINRPipeline, Tensor]:
        if scene.photo.strip():
            return self.photos.find(scene.photo)
        return self.pipe, self._encode(scene.class_label, scene.seed, scene.truncation_psi, space)

    def _second(self, scene: Scene, space: str = "affine") -> Tensor:
        return self._encode(scene.second_class_label, scene.second_seed, scene.truncation_psi, space)

    def _encode(self, class_label: str | None, seed: int, psi: float, space: str) -> Tensor:
        return encode_seeds(self.pipe, self.class_ids.get(class_label), seed, psi, space=space)

    def _mixed(self, scene: Scene) -> tuple[PolyINRPipeline, Tensor]:
        """Levels of w are mixed; of a rebuilt image, which has no w, those of A."""
        space = "affine" if scene.photo.strip() else "w"
        pipe, first = self._first(scene, space)
        mixed = mix_levels(first, self._second(scene, space), scene.levels)
        return pipe, mixed if space == "affine" else pipe.encode(w=mixed)

    def _between(self, scene: Scene) -> tuple[PolyINRPipeline, Tensor]:
        """Between two images w moves evenly; between a rebuilt image, which has no w, and another A and the weights."""
        if scene.photo.strip():
            pipe, A = self.photos.find(scene.photo)
            second = self._second(scene)
            return blend(pipe, self.pipe, scene.position), torch.lerp(A.to(second), second, scene.position)
        first, second = self._first(scene, "w")[1], self._second(scene, "w")
        return self.pipe, self.pipe.encode(w=torch.lerp(first, second, scene.position))

    def _draw(self, pipe: PolyINRPipeline, A: Tensor, size: int, extent=(0.0, 0.0, 1.0, 1.0)) -> Image.Image:
        return pipe(affine_parameters=A, height=size, width=size, extent=extent, tolerance=TOLERANCE).images[0]


def readable(class_label: str | None, seed: int) -> str:
    """A sample in words."""
    name = "picture" if class_label is None else class_label.replace("-", " ").replace("_", " ")
    return f"{name} {seed}"


def describe_others(count: int) -> str:
    """How many other designs a class has, as far as they are shown."""
    if count >= STRIP_COUNT:
        return "Each seed is a picture of its own; some are:"
    words = {0: "All its seeds are this one picture.", 1: "It has one other design:"}
    return words.get(count, f"It has {count} other designs:")


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
