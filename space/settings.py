"""What may be chosen on the page: the limits, each setting's default and legal values, and the link that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from urllib.parse import urlencode

from polyinr_hf import PolyINRPipeline

# Of one request.
SIZES = (64, 128, 256, 512, 1024)  # pixels, of a side
MAX_PIXELS = 2**22  # of all its images together: four of 1024 x 1024, or a film of 60 frames of 256 x 256
MAX_COUNT = 9  # images
MAX_FRAMES = 60
MAX_STEPS = 400  # of inversion
REQUEST_SECONDS = 180.0
MAX_UPLOAD_BYTES = 10 * 2**20
MAX_UPLOAD_PIXELS = 2**24
PHOTO_SIZE = 128  # pixels: an uploaded image is rebuilt from a square of at most this side
# Of the server.
QUEUE_LENGTH = 16  # requests waiting
MAX_PHOTOS = 200  # rebuilt images kept in memory, the latest
MAX_ENCODED = 256  # affine parameters of samples kept in memory
MAX_DRAWN = 32  # drawn samples kept in memory: what the page shows first, and what a mixture is made of
CACHE_SECONDS = 3600  # files made or uploaded are deleted after this time

MAX_SEED = 2**32 - 1
SAMPLE = ("class_label", "seed", "truncation_psi")
TABS = {  # what each tab's link holds
    "generate": (*SAMPLE, "count", "size"),
    "zoom": (*SAMPLE, "photo", "row", "column", "zoom", "border", "size"),
    "mix": (*SAMPLE, "photo", "second_class_label", "second_seed", "levels", "size"),
    "morph": (*SAMPLE, "second_class_label", "second_seed", "position", "num_frames", "size"),
    "rebuild": ("photo", "num_steps", "size"),
}


@dataclass(frozen=True)
class Setting:
    """One thing to choose: a number in a range, one or several (a list) of `choices`, yes or no, or a text."""

    label: str
    default: object
    minimum: float | None = None
    maximum: float | None = None
    step: float = 1  # of numbers; 1 for whole ones
    choices: tuple = ()
    info: str | None = None

    def check(self, value: object) -> object:
        """The value, whole numbers as `int`.

        Raises:
            ValueError: with a sentence for the person who asked.
        """
        several = isinstance(self.default, list)
        if self.choices or several:
            if not (isinstance(value, list) and all(v in self.choices for v in value) if several else self._has(value)):
                raise ValueError(f"{self.label} must be chosen from the list, not {value!r}.")
        elif isinstance(self.default, (bool, str)):
            if not isinstance(value, type(self.default)):
                raise ValueError(f"{self.label} must be a {type(self.default).__name__}, not {value!r}.")
        elif self.default is None:
            return None
        else:
            return self._check_number(value)
        return value

    def _has(self, value: object) -> bool:
        return not isinstance(value, (list, dict)) and value in self.choices

    def _check_number(self, value: object) -> float:
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or not self.minimum <= value <= self.maximum:
            raise ValueError(f"{self.label} must be between {self.minimum:g} and {self.maximum:g}, not {value!r}.")
        if self.step == 1 and value != int(value):
            raise ValueError(f"{self.label} must be a whole number, not {value!r}.")
        return int(value) if self.step == 1 else float(value)

    def parse(self, text: str) -> object:
        """The value that a link's text stands for.

        Raises:
            ValueError: if it is none.
        """
        choices = {str(choice): choice for choice in self.choices}
        if isinstance(self.default, list):
            return self.check([choices.get(part, part) for part in text.split(",") if part])
        if choices:
            return self.check(choices.get(text, text))
        if isinstance(self.default, bool):
            return self.check({"1": True, "0": False}.get(text))
        if isinstance(self.default, str) or self.default is None:
            return self.check(text)
        return self.check(float(text))


def class_ids(pipe: PolyINRPipeline) -> dict[str, int]:
    """Class name -> class id: the first synonym, with the id where others have it too; none if unconditional."""
    count = pipe.generator.config.num_classes or 0
    names = [pipe.id2label.get(i, f"class {i}").split(",")[0].strip() for i in range(count)]
    return {f"{name} ({i})" if names.count(name) > 1 else name: i for i, name in enumerate(names)}


def settings_of(pipe: PolyINRPipeline) -> dict[str, Setting]:
    """All settings of all tabs by name."""
    names = tuple(class_ids(pipe))
    num_levels = pipe.generator.config.num_levels
    levels = tuple(range(num_levels))
    two = {"minimum": 0, "maximum": MAX_SEED}
    return {
        "class_label": Setting("Class", names[0] if names else None, choices=names),
        "seed": Setting("Seed", 0, **two),
        "truncation_psi": Setting("Truncation psi", 0.7, 0, 1.2, 0.05, info="towards 0 typical, at 1 varied"),
        "count": Setting("Images", 4, 1, MAX_COUNT),
        "size": Setting("Size", 256, choices=SIZES, info="pixels"),
        "photo": Setting("Rebuilt image", "", info="its code from the last tab; empty for class and seed"),
        "row": Setting("Centre, down", 0.5, -1, 2, 0.0001, info="0 is the upper border, 1 the lower"),
        "column": Setting("Centre, across", 0.5, -1, 2, 0.0001, info="0 is the left border, 1 the right"),
        "zoom": Setting("Zoom", 0.0, -2, 8, 0.25, info="doublings; below 0 shows what lies beyond the border"),
        "border": Setting("Mark the border", True),
        "second_class_label": Setting("Second class", names[-1] if names else None, choices=names),
        "second_seed": Setting("Second seed", 1, **two),
        "levels": Setting("Levels from the second", list(levels[num_levels // 2 :]), choices=levels),
        "position": Setting("Position", 0.5, 0, 1, 0.01, info="0 is the first image, 1 the second"),
        "num_frames": Setting("Frames of the film", 24, 2, MAX_FRAMES),
        "num_steps": Setting("Steps", 100, 10, MAX_STEPS, info="more are slower and closer"),
    }


def link(tab: str, values: Mapping[str, object]) -> str:
    """The query string that `restore` reads."""

    def text(value: object) -> str:
        if isinstance(value, (list, tuple)):
            return ",".join(map(str, value))
        if isinstance(value, (bool, float)):
            return f"{value:.10g}"
        return str(value)

    held = {name: text(values[name]) for name in TABS[tab] if values.get(name) not in (None, "")}
    return "?" + urlencode({"tab": tab, **held}, safe=",")


def restore(query: Mapping[str, str], settings: Mapping[str, Setting]) -> tuple[str, dict[str, object]]:
    """The tab and the values that a link holds; defaults where it holds none, or none that is legal."""
    tab = query.get("tab")
    tab = tab if tab in TABS else next(iter(TABS))
    values = {}
    for name in TABS[tab]:
        values[name] = settings[name].default
        if name in query:
            try:
                values[name] = settings[name].parse(query[name])
            except (ValueError, OverflowError):
                continue
    return tab, values
