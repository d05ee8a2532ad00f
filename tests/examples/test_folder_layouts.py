"""The layouts of docs/folders.md: the rows and classes that come out, and that the document shows them."""

from pathlib import Path

import PIL.Image
import pytest
from PIL import ImageChops, ImageStat

from layouts import LAYOUTS, MARK, write_document

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_every_picture_comes_out_with_its_class(layout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layout.write()
    dataset = layout.read()
    for index, (name, expected) in enumerate(layout.rows):
        assert f"/{dataset.dataset[index]['image']['path']}".endswith(f"/{name}")
        label = dataset.decode_row(index, 8)[1]
        assert (None if label is None else dataset.id2label[label]) == expected
    assert len(dataset) == len(layout.rows)


def test_the_document_shows_what_comes_out(tmp_path):
    before = (DOCS / "folders.md").read_text(encoding="utf-8")
    (tmp_path / "folders.md").write_text(before.partition(MARK)[0], encoding="utf-8")
    write_document(tmp_path)
    assert (tmp_path / "folders.md").read_text(encoding="utf-8") == before
    shown, drawn = (PIL.Image.open(folder / "images" / "folders.png") for folder in (DOCS, tmp_path))
    difference = ImageChops.difference(
        shown.convert("RGB"), drawn.convert("RGB")
    )  # AVIF loses colors in ways of its own
    assert ImageStat.Stat(difference).mean == pytest.approx([0, 0, 0], abs=1)
