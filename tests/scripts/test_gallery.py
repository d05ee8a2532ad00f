"""docs/gallery.md shows each picture beside the command that scripts/pictures.py draws it by."""

import re
import shlex
from pathlib import Path

import pictures

ROOT = Path(__file__).resolve().parents[2]
SECTION = re.compile(r"!\[[^\]]*\]\((?P<picture>[^)]+)\)\n.*?```bash\n(?P<command>.*?)```", re.DOTALL)
SECTIONS = [(m["picture"], m["command"]) for m in SECTION.finditer((ROOT / "docs" / "gallery.md").read_text("utf-8"))]


def options(words: list[str]) -> list[str]:
    """The words of a command without where it writes to."""
    place = words.index("--output") if "--output" in words else len(words)
    return words[:place] + words[place + 2 :]


def test_every_picture_has_its_command():
    assert len(SECTIONS) > 6
    drawn = {Path(picture.path).name: picture for picture in pictures.PICTURES}
    skipped = {Path(path).name for path in pictures.SKIPPED}
    for path, command in SECTIONS:
        name, words = Path(path).name, shlex.split(command.replace("\\\n", " "))[1:]
        if name in drawn and drawn[name].command:
            assert sorted(options(words)) == sorted(options(drawn[name].command.split())), name
        elif name in drawn:
            assert words == ["scripts/pictures.py", name]
        else:
            assert name in skipped, name
