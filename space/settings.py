"""What may be chosen on the page: the limits, each setting's default and legal values, and the link that holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from urllib.parse import urlencode

from polyinr_hf import PolyINRPipeline
from polyinr_hf.editing import detail

# Of one request.
SIZES = (64, 128, 256, 512, 1024)  # pixels, of a side
PREVIEW_SIZE = 64  # pixels: what is drawn at once, while the picture moves
TOLERANCE = 0.1  # of a color, of a range of 2: the network runs where there is detail, several times faster
MAX_PIXELS = 2**22  # of all its images together: four of 1024 x 1024, or a film of 60 frames of 256 x 256
MAX_COUNT = 9  # images
MAX_FRAMES = 60  # of a film, there: five seconds, and as many back
FILM_SIZE = 256  # pixels: a film made on the page is at most this large
MAX_STEPS = 600  # of rebuilding
REQUEST_SECONDS = 180.0  # of work for one request: others wait behind it
MAX_UPLOAD_BYTES = 10 * 2**20  # each is read into memory
MAX_UPLOAD_PIXELS = 2**24  # 16 megapixels, 48 MB once decoded
PHOTO_SIZE = 96  # pixels: an uploaded image is rebuilt from a square of this side
# Of the server.
QUEUE_LENGTH = 64  # requests waiting
MAX_PHOTOS = 50  # rebuilt images kept in memory, the latest; each has its own synthesis weights, 3 MB if bundled
MAX_ENCODED = 256  # affine parameters kept in memory
MAX_THUMBNAILS = 1000  # kept in memory, 64 pixels wide
CACHE_SECONDS = 3600  # files made or uploaded are deleted after this time
WALL_COUNT = 100  # pictures that the page opens with
WALL_SECONDS = 60.0  # to draw them in, when the server starts; a slow model gets a smaller wall

MAX_SEED = 2**32 - 1
SAMPLE = ("class_label", "seed", "truncation_psi")
SECOND = ("second_class_label", "second_seed")
PLACE = ("row", "column", "zoom")
TABS = {  # what the link to each kind of picture holds
    "generate": (*SAMPLE, "count", "size"),
    "zoom": (*SAMPLE, "photo", *PLACE, "border", "size"),
    "mix": (*SAMPLE, "photo", *SECOND, "levels", *PLACE, "border", "size"),
    "morph": (*SAMPLE, "photo", *SECOND, "position", *PLACE, "border", "size"),
    "film": (*SAMPLE, "photo", *SECOND, "num_frames", "size"),
    "rebuild": ("photo", "num_steps", "size"),
}
ENDPOINTS = {  # what each takes beside those of a scene, in the order of its parameters; see `Studio`
    "generate": (*SAMPLE, "count", "size"),
    "zoom": (*SAMPLE, "photo", *PLACE, "border", "size"),
    "preview": (*SAMPLE, "photo", *PLACE),
    "mix": (*SAMPLE, "photo", *SECOND, "levels", "size"),
    "morph": (*SAMPLE, "photo", *SECOND, "position", "size"),
    "film": (*SAMPLE, "photo", *SECOND, "num_frames", "size"),
    "photo": ("photo", "size"),
    "rebuild": ("num_steps", "size"),
}
SHOWING = {"zoom": "the picture", "mix": "the mixture", "morph": "the picture between"}  # tab -> its name on the page


@dataclass(frozen=True)
class Scene:
    """What can be seen: an image, what is mixed into it or lies between it and another, and the part of it."""

    class_label: str | None
    seed: int
    truncation_psi: float
    photo: str = ""  # ID of a rebuilt image, in place of class and seed
    second_class_label: str | None = None
    second_seed: int = 0
    levels: tuple[int, ...] = ()  # that are the second image's in a mixture
    position: float = 0.0  # between the two
    row: float = 0.5
    column: float = 0.5
    zoom: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> Scene:
        """Of checked settings, of which a scene leaves those that are none of its own."""
        given = {field.name: settings[field.name] for field in fields(cls) if field.name in settings}
        return cls(**given | {"levels": tuple(given.get("levels", ()))})

    @property
    def extent(self) -> tuple[float, float, float, float]:
        return detail((self.row, self.column), 2.0**self.zoom)


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
        """The value: whole numbers as `int`, and a choice that came as text as the choice itself.

        Raises:
            ValueError: with a sentence for the person who asked.
        """
        if isinstance(self.default, list):
            if not isinstance(value, (list, tuple)):
                raise ValueError(
                    f"{self.label} must be a list of some of {listed(self.choices)}, not {shortened(value)}."
                )
            return [self._choice(item) for item in value]
        if self.choices:
            return self._choice(value)
        if isinstance(self.default, (bool, str)):
            if not isinstance(value, type(self.default)):
                kind = "true or false" if isinstance(self.default, bool) else "a text"
                raise ValueError(f"{self.label} must be {kind}, not {shortened(value)}.")
            return value
        return None if self.default is None else self._check_number(value)

    def _choice(self, value: object) -> object:
        if isinstance(value, (str, Real)) and not isinstance(value, bool):
            for choice in self.choices:
                if value in (choice, str(choice)):
                    return choice
        raise ValueError(f"{self.label} must be one of {listed(self.choices)}, not {shortened(value)}.")

    def _check_number(self, value: object) -> float:
        legal = f"between {self.minimum:,g} and {self.maximum:,.10g}"
        if self.step == 1:
            legal = f"a whole number {legal}"
        is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        is_legal = is_number and self.minimum <= value <= self.maximum and (self.step != 1 or value == int(value))
        if not is_legal:
            given = "it is empty" if value is None else f"not {shortened(value)}"
            raise ValueError(f"{self.label} must be {legal}, {given}.")
        return int(value) if self.step == 1 else float(value)

    def parse(self, text: str) -> object:
        """The value that a link's text stands for.

        Raises:
            ValueError: if it is none.
        """
        if isinstance(self.default, list):
            return self.check([part for part in text.split(",") if part])
        if isinstance(self.default, bool):
            return self.check({"1": True, "0": False}.get(text, text))
        if isinstance(self.default, str) or self.default is None or self.choices:
            return self.check(text)
        try:
            return self.check(float(text))
        except (ValueError, OverflowError):
            return self.check(text)  # whose sentence quotes the link


def shortened(value: object) -> str:
    """A value as an error quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def listed(choices: tuple) -> str:
    """Choices as an error lists them, the first of many."""
    return ", ".join(map(str, choices[:12])) + (f" and {len(choices) - 12:,} more" if len(choices) > 12 else "")


def class_ids(pipe: PolyINRPipeline) -> dict[str, int]:
    """Class name -> class id: the first synonym, with the id where others have it too; none if unconditional."""
    count = pipe.generator.config.num_classes or 0
    names = [pipe.id2label.get(i, f"class {i}").split(",")[0].strip() for i in range(count)]
    return {f"{name} ({i})" if names.count(name) > 1 else name: i for i, name in enumerate(names)}


def settings_of(pipe: PolyINRPipeline, opening: Sequence[tuple[str, int]] = ()) -> dict[str, Setting]:
    """All settings of the page by name; the first two pictures of `opening`, classes and seeds, are the defaults."""
    names = tuple(class_ids(pipe))
    first, second = (names[0] if names else None, 0), (names[len(names) // 2] if names else None, 1)
    first, second = ([tuple(pick) for pick in opening if pick[0] in names][:2] + [first, second])[:2]
    num_levels = pipe.generator.config.num_levels
    levels = tuple(range(num_levels))
    seeds = {"minimum": 0, "maximum": MAX_SEED}
    psi = pipe.config.get("default_truncation_psi", 1.0)  # what the model itself recommends
    return {
        "class_label": Setting("Class", first[0], choices=names),
        "seed": Setting("Seed", first[1], **seeds),
        "truncation_psi": Setting("Truncation psi", psi, 0, 1.2, 0.05, info="towards 0 typical, at 1 varied"),
        "count": Setting("Images", 4, 1, MAX_COUNT),
        "size": Setting("Size", 512, choices=SIZES, info="pixels"),
        "photo": Setting("Rebuilt image", "", info="its ID; empty for class and seed"),
        "row": Setting("Center, down", 0.5, -1, 2, 1e-6, info="0 is the upper border, 1 the lower"),
        "column": Setting("Center, across", 0.5, -1, 2, 1e-6, info="0 is the left border, 1 the right"),
        "zoom": Setting("Zoom", 0.0, -2, 8, 0.01, info="doublings; below 0 shows what lies beyond the border"),
        "border": Setting("Mark the border", True),
        "second_class_label": Setting("Second class", second[0], choices=names),
        "second_seed": Setting("Second seed", second[1], **seeds),
        "levels": Setting("Levels from the second", list(levels[round(0.7 * num_levels) :]), choices=levels),
        "position": Setting("Position", 0.5, 0, 1, 0.01, info="0 is the first image, 1 the second"),
        "num_frames": Setting("Frames of the film", 24, 2, MAX_FRAMES),
        "num_steps": Setting("Steps", 200, 20, MAX_STEPS, info="more are slower and closer"),
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


def restore(
    query: Mapping[str, str], settings: Mapping[str, Setting], names: Iterable[str] | None = None
) -> tuple[str, dict[str, object], list[str]]:
    """The tab and the values that a link holds, with defaults for what it leaves out.

    Args:
        names: of the values wanted; those that the tab's links hold by default.

    Returns:
        tab, values, and a sentence for each thing in the link that is not legal and was replaced by its default.
    """
    tab, complaints = query.get("tab", "zoom"), []
    if tab not in TABS:
        complaints.append(f"The link must be to one of {', '.join(TABS)}, not {shortened(tab)}.")
        tab = "zoom"
    values = {}
    for name in TABS[tab] if names is None else names:
        values[name] = settings[name].default
        if name in TABS[tab] and name in query:
            try:
                values[name] = settings[name].parse(query[name])
            except ValueError as error:
                complaints.append(str(error))
    return tab, values, complaints
