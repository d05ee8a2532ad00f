"""pictures.py: what the documents show is drawn by it, or it says why not."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pictures

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
SHOWN = re.compile(r"!\[[^\]]*\]\((?!https?:)([^)]+)\)|<img src=\"(?!https?:)([^\"]+)\"")


def test_every_picture_of_the_documents_is_known_and_small():
    shown = set()
    for document in DOCUMENTS:
        for found in SHOWN.findall(document.read_text(encoding="utf-8")):
            shown.add((document.parent / next(filter(None, found))).resolve().relative_to(ROOT).as_posix())
    drawn = {picture.path for picture in pictures.PICTURES}
    assert len(shown) > 20 and shown <= drawn | set(pictures.SKIPPED)
    assert not drawn & set(pictures.SKIPPED)
    for path in drawn | set(pictures.SKIPPED):
        assert (ROOT / path).stat().st_size <= pictures.MAX_BYTES, path


def test_the_list_names_class_seed_and_command(capsys):
    pictures.main(["--list", "walk.gif"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["docs/images/walk.gif", f"    {pictures.PICTURES[0].shows}"]
    assert lines[2].strip().startswith("scripts/edit.py interpolate ") and "frog 1" in lines[1]
    assert any(line.startswith("docs/images/own_pictures.png: ") for line in lines)
    with pytest.raises(SystemExit, match="`NAME` must be of .*walk.gif.*got no.png"):
        pictures.main(["no.png"])


def test_what_needs_drawings_is_skipped_with_the_reason(tmp_path, capsys):
    pictures.main(["neighbors.png", "--drawings", str(tmp_path / "no")])
    assert "neighbors.png: skipped, there is no" in capsys.readouterr().out


def test_films_and_large_pictures_get_a_palette(tmp_path, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame) for frame in noise]
    frames[0].save(tmp_path / "a.png")
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[70, 70, 70])
    for name, mode in (("a.png", "RGB"), ("a.gif", "P")):
        pictures.save_small(tmp_path / name, tmp_path / "small" / name)
        assert Image.open(tmp_path / "small" / name).mode == mode
    assert Image.open(tmp_path / "small" / "a.gif").n_frames == 3
    monkeypatch.setattr(pictures, "PALETTE_BYTES", 1000)
    pictures.save_small(tmp_path / "a.png", tmp_path / "small" / "a.png")
    assert Image.open(tmp_path / "small" / "a.png").mode == "P"
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"a\.png must have at most 1,000 bytes"):
        pictures.save_small(tmp_path / "a.png", tmp_path / "b" / "a.png")
    assert not (tmp_path / "b" / "a.png").exists()
