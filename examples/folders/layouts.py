"""Writes the layouts in docs/folders.md and its picture: folders of pictures, as they are read.

    python examples/folders/layouts.py --output docs

Each layout is written to a temporary folder, of pictures that are drawn here, and opened as training opens it.
"""

import argparse
import json
import logging
import math
import os
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import pandas as pd
from diffusers.utils import make_image_grid
from PIL import Image, ImageDraw, ImageOps

from polyinr_hf.data import ImageDataset, load_image_dataset
from polyinr_hf.images import CAPTION_HEIGHT, caption

SIZE = 48  # pixels of a picture
CELL = 88  # pixels of its place in the sheet
CORNERS = {"cat": 3, "dog": 4, "train tracks": 6, "café": 5}  # of the shape that shows what a picture truly is
MARK = "<!-- From here on written by examples/folders/layouts.py, which reads each of these folders. -->"


@dataclass
class Layout:
    """A folder, and what must come out.

    Args:
        title: What people call it.
        files: Name and content of each file: the kind of a picture to draw, a text, or bytes.
        rows: Name of each picture's file and its class, of the split `train`.
        finish: What is done to the folder once its files are there.
        note: A sentence on it.
    """

    title: str
    files: dict[str, str | bytes]
    rows: list[tuple[str, str | None]]
    note: str = ""
    finish: Callable[[Path], None] = lambda folder: None
    folder: Path = field(default=Path("pets"), init=False)

    def write(self) -> None:
        """Writes the folder below the working directory."""
        for number, (name, content) in enumerate(self.files.items()):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content in CORNERS:
                draw_picture(content, number).save(path)
            elif isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content, encoding="utf-8")
        self.finish(self.folder)

    def read(self, **options) -> ImageDataset:
        return load_image_dataset(str(self.folder), cache_dir="cache", **options)


def draw_picture(kind: str, number: int) -> Image.Image:
    """A polygon with as many corners as `CORNERS` says, in a color by number."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    corners, radius = CORNERS[kind], 0.42 * SIZE
    turns = [2 * math.pi * (corner + 0.5 * (corners == 4)) / corners for corner in range(corners)]
    points = [(SIZE / 2 + radius * math.sin(turn), SIZE / 2 - radius * math.cos(turn)) for turn in turns]
    ImageDraw.Draw(image).polygon(points, fill=f"hsl({83 * number % 360}, 70%, 50%)")
    return image


def pack(folder: Path) -> None:
    """Puts all pictures of a folder into pets.zip in it."""
    pictures = sorted(folder.rglob("*.png"))
    with zipfile.ZipFile(folder / "pets.zip", "w") as archive:
        for path in pictures:
            archive.write(path, path.relative_to(folder))


def pack_alone(folder: Path) -> None:
    pack(folder)
    for path in sorted(folder.rglob("*.png")):
        path.unlink()
    for path in [path for path in folder.iterdir() if path.is_dir()]:
        path.rmdir()


def write_table(folder: Path) -> None:
    """pets.parquet as pandas writes it, of the pictures in the folder."""
    pictures = sorted(folder.glob("*.png"))
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in pictures]
    pd.DataFrame({"image": images, "label": [2019, 2021, 2019]}).to_parquet(folder / "pets.parquet")
    for path in pictures:
        path.unlink()


MAC = unicodedata.normalize("NFD", "café")
SHARDS = ["00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png"]
TWO = {"cat/1.png": "cat", "dog/2.png": "dog"}
TWO_ROWS = [("cat/1.png", "cat"), ("dog/2.png", "dog")]
LAYOUTS = [
    Layout(
        "A folder for each class",
        {"cat/1.png": "cat", "cat/2.jpg": "cat", "train tracks/3.png": "train tracks"},
        [("cat/1.png", "cat"), ("cat/2.jpg", "cat"), ("train tracks/3.png", "train tracks")],
    ),
    Layout(
        "Pictures alone",
        {"1.png": "cat", "2.jpg": "dog", "3.webp": "cat"},
        [("1.png", None), ("2.jpg", None), ("3.webp", None)],
    ),
    Layout(
        "Splits",
        {"train/cat/1.png": "cat", "train/dog/2.png": "dog", "test/dog/3.png": "dog"},
        [("train/cat/1.png", "cat"), ("train/dog/2.png", "dog")],
        "`data.split=test` has the third picture, and the same classes.",
    ),
    Layout(
        "StyleGAN's",
        dict(zip(SHARDS, ("cat", "dog", "cat"), strict=True))
        | {
            "dataset.json": json.dumps(
                {"labels": [[name, label] for name, label in zip(SHARDS, (7, 3, 7), strict=True)]}
            )
        },
        list(zip(SHARDS, ("7", "3", "7"), strict=True)),
        'As `dataset_tool.py` writes it, as a folder or as a zip; `"labels": null` is no classes.',
    ),
    Layout(
        "Metadata with labels",
        {"1.png": "cat", "2.png": "dog", "metadata.csv": "file_name,label\n2.png,dog\n1.png,cat\n"},
        [("2.png", "dog"), ("1.png", "cat")],
    ),
    Layout(
        "Metadata with captions",
        TWO | {"metadata.jsonl": "".join(json.dumps({"file_name": name, "text": "a pet"}) + "\n" for name in TWO)},
        TWO_ROWS,
    ),
    Layout("A zip alone", TWO, TWO_ROWS, "Several zips are folders of their names.", pack_alone),
    Layout("A zip beside what was in it", TWO, TWO_ROWS, finish=pack),
    Layout(
        "Tables and notes beside pictures",
        TWO | {"cat/1.json": "{}", "dog/2.json": "{}", "labels.csv": "id,breed\n1,tabby\n"},
        TWO_ROWS,
        "To be read, a table is called `metadata.csv` and names each picture in a column `file_name`.",
    ),
    Layout(
        "A link to what is there already",
        TWO,
        TWO_ROWS,
        finish=lambda folder: (folder / "dog" / "all").symlink_to(os.pardir),
    ),
    Layout(
        "Formats, and what systems leave behind",
        {
            "__dog/2.avif": "dog",
            "cat/1.png": "cat",
            "cat/3.heic": b"",
            "cat/._1.png": b"",
            "__MACOSX/cat/1.png": b"",
        },
        [("__dog/2.avif", "__dog"), ("cat/1.png", "cat")],
    ),
    Layout(
        "Names from a Mac",
        {f"{MAC}/1.png": "café", "cat/2.png": "cat"},
        [(f"{MAC}/1.png", "café"), ("cat/2.png", "cat")],
        'It writes "é" as two characters; the class has one, and `pipe("café")` finds it in either spelling.',
    ),
    Layout(
        "A table of pandas, Dask or Spark",
        {"1.png": "cat", "2.png": "dog", "3.png": "cat"},
        [("1.png", "2019"), ("2.png", "2021"), ("3.png", "2019")],
        "One column of structs {bytes, path}, one of whole numbers.",
        write_table,
    ),
]


def draw_tree(folder: Path, indent: str = "") -> list[str]:
    """The lines of a folder's tree."""
    lines = []
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    for path in entries:
        last = path == entries[-1]
        end = f" -> {path.readlink()}" if path.is_symlink() else "/" if path.is_dir() else ""
        lines.append(f"{indent}{'└── ' if last else '├── '}{path.name}{end}")
        if path.is_dir() and not path.is_symlink():
            lines += draw_tree(path, indent + ("    " if last else "│   "))
    return lines


def show_rows(dataset: ImageDataset, title: str) -> Image.Image:
    """A dataset's pictures side by side, each with its class below."""
    cells = Image.new("RGB", (3 * CELL, SIZE + CAPTION_HEIGHT), "white")
    for index in range(len(dataset)):
        image, label, _ = dataset.decode_row(index, SIZE)
        cell = Image.new("RGB", (CELL, SIZE), "white")
        cell.paste(Image.fromarray(image.permute(1, 2, 0).numpy()), ((CELL - SIZE) // 2, 0))
        cells.paste(caption(cell, "no class" if label is None else dataset.id2label[label]), (index * CELL, 0))
    cells = caption(cells, title, above=True)
    return ImageOps.expand(cells, border=8, fill="white")


def show(layout: Layout, said: list[str]) -> tuple[str, Image.Image]:
    """A layout's section, in Markdown, and its strip of pictures; `said` gets the lines that are logged."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as workspace:
        os.chdir(workspace)
        try:
            layout.write()
            dataset = layout.read()
            strip = show_rows(dataset, layout.title)
            tree = "\n".join([f"{layout.folder}/", *draw_tree(layout.folder)])
            labels = [dataset.decode_row(index, SIZE)[1] for index in range(len(dataset))]
        finally:
            os.chdir(before)
    counts = {name: labels.count(key) for key, name in (dataset.id2label or {}).items()}
    outcome = ", ".join(f"{name} ({count})" for name, count in counts.items()) or "no classes"
    rows = f"{len(dataset)} rows: {outcome}. {layout.note}"
    parts = [f"## {layout.title}", f"```\n{tree}\n```", f"*{said[-1]}*", rows]
    return "\n\n".join(part.strip() for part in parts), strip


def write_document(output: Path) -> None:
    """Writes what follows `MARK` in folders.md, and images/folders.png, both in `output`."""
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("polyinr_hf")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    datasets.disable_progress_bars()
    sections, strips = [], []
    for number, layout in enumerate(LAYOUTS):
        layout.folder = Path(f"pets-{number + 1}")
        section, strip = show(layout, said)
        sections.append(section)
        if layout.rows[0][1] != "café":  # Pillow's own font has no such letter
            strips.append(strip)
    logger.removeHandler(handler)
    document = output / "folders.md"
    text = document.read_text(encoding="utf-8").partition(MARK)[0]
    document.write_text("\n\n".join([text + MARK, *sections]) + "\n", encoding="utf-8")
    height = -(-len(strips) // 3)
    strips += [Image.new("RGB", strips[0].size, "white")] * (3 * height - len(strips))
    (output / "images").mkdir(exist_ok=True)
    make_image_grid(strips, height, 3).quantize(64).save(output / "images" / "folders.png", optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder to write to (default: docs)")
    write_document(parser.parse_args().output)
