"""A tiny model, the page on the loopback, and files that nobody should send."""

import io
import random
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image

from polyinr_hf import PolyINRGenerator, PolyINRPipeline

SPACE = Path(__file__).resolve().parents[2] / "space"
sys.path.insert(0, str(SPACE))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """An untrained pipeline of three classes, saved."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    torch.manual_seed(0)
    model = PolyINRGenerator(
        z_dim=16, w_dim=32, channels=32, num_levels=6, num_classes=3, class_embed_dim=16, sample_size=32
    )
    PolyINRPipeline(model.eval(), {0: "cat, tabby", 1: "dog", 2: "tree"}).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def studio(tiny_model):
    from app import load_studio

    return load_studio(str(tiny_model))


@pytest.fixture(scope="session")
def server(studio, tmp_path_factory) -> str:
    """The address of the page, served by this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        from app import build, launch

        demo = build(studio)
        launch(demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
        yield demo.local_url.rstrip("/")
        demo.close(verbose=False)


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    """An honest image: a disc before a slope of colors, not square."""
    path = tmp_path_factory.mktemp("photo") / "disc.png"
    image = Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256), 90)])
    image.resize((96, 64)).save(path)
    return path


def png_of(width: int, height: int) -> bytes:
    """A black PNG of one bit per pixel, which takes few bytes however large it is."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height), 1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def svg_entities() -> bytes:
    """Entities that are made of others, as far as four laughs: an expanding reader would show them."""
    entities = '<!ENTITY a0 "ha"><!ENTITY a1 "&a0;&a0;"><!ENTITY a2 "&a1;&a1;">'
    return f'<?xml version="1.0"?><!DOCTYPE svg [{entities}]><svg>&a2;</svg>'.encode()


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("index.html", "hello")
    return content.getvalue()


HOSTILE = {  # file name -> its bytes, and what the sentence says
    "entities.svg": (svg_entities, "cannot be read|more than an image"),
    "renamed_entities.png": (svg_entities, "cannot be read|more than an image"),
    "plain.svg": (lambda: b'<svg><rect width="9" height="9"/></svg>', "cannot be read"),
    "large.png": (lambda: png_of(4097, 4097), "at most 16,777,216 pixels"),
    "with_archive.png": (lambda: png_of(64, 64) + archive(), "more than an image"),
    "with_script.png": (lambda: png_of(64, 64) + b"<HTML><ScRiPt>alert(1)</ScRiPt>", "more than an image"),
    "pdf.gif": (lambda: b"GIF89a%PDF-1.7 " + bytes(100), "more than an image"),
    "empty.png": (lambda: b"", "empty"),
    "text.png": (lambda: b"I am a text, whatever my name says.\n" * 20, "cannot be read"),
    "torn.png": (lambda: png_of(64, 64)[:50], "cannot be read"),
    "noise.jpg": (lambda: b"\xff\xd8\xff\xe0" + random.Random(0).randbytes(2000), "cannot be read"),
}  # fmt: skip


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path) -> tuple[Path, str]:
    """A file, and a pattern of the sentence that refuses it."""
    make, sentence = HOSTILE[request.param]
    path = tmp_path / request.param
    path.write_bytes(make())
    return path, sentence
