"""Pictures of every kind through the one reader: right, or refused in a sentence."""

import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from polyinr_hf.images import caption, load_photo, preprocess_image, to_rgb, wrap_caption


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_16(values: np.ndarray, transparent: bytes | None = None) -> bytes:
    """A 16-bit PNG of values (H, W) or (H, W, 3), which Pillow cannot write with a transparent value."""
    kind = 0 if values.ndim == 2 else 2
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = chunk(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0))
    if transparent is not None:
        content += chunk(b"tRNS", transparent)
    return b"\x89PNG\r\n\x1a\n" + content + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(bits: int, content: bytes, width: int, height: int, sample_format: int = 1) -> bytes:
    """An uncompressed grayscale TIFF."""
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1), (278, height)]
    tags += [(279, len(content)), (339, sample_format)]
    content += b"\0" * (len(content) % 2)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory + b"\0" * 4


def jpeg(exif: bytes) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 4), (200, 0, 0)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def read(tmp_path, content: bytes) -> PIL.Image.Image:
    (tmp_path / "picture").write_bytes(content)
    return load_photo(tmp_path / "picture")


def grays(image) -> list[int]:
    return np.asarray(image)[..., 0].ravel().tolist()


def test_a_transparent_16_bit_gray_is_white(tmp_path):
    values = np.array([[0, 1000, 1001, 65535]], np.uint16)
    assert grays(read(tmp_path, png_16(values))) == [0, 4, 4, 255]
    assert grays(read(tmp_path, png_16(values, struct.pack(">H", 1000)))) == [0, 255, 4, 255]


def test_a_transparent_16_bit_color_is_refused(tmp_path):
    values = np.full((2, 2, 3), 1000, np.uint16)
    assert read(tmp_path, png_16(values)).getpixel((0, 0)) == (3, 3, 3)
    with pytest.raises(ValueError, match="cannot be read: colors of 16 bits with a transparent one"):
        read(tmp_path, png_16(values, struct.pack(">HHH", 1000, 1000, 1000)))


def test_12_bit_tiff_is_scaled(tmp_path):
    packed = bytes([0xFF, 0xF8, 0x00, 0x00, 0x00, 0x00])  # 4095, 2048, 0, 0
    assert grays(read(tmp_path, tiff(12, packed, 4, 1))) == [255, 128, 0, 0]


def test_16_bit_tiff_is_scaled(tmp_path):
    values = np.array([0, 257 * 90, 65535], "<u2")
    assert grays(read(tmp_path, tiff(16, values.tobytes(), 3, 1))) == [0, 90, 255]


@pytest.mark.parametrize("bits, sample_format, dtype", [(32, 1, "<u4"), (32, 2, "<i4"), (16, 2, "<i2")])
def test_gray_of_unknown_range_is_refused(tmp_path, bits, sample_format, dtype):
    values = np.array([0, 100, 30_000], dtype)
    with pytest.raises(ValueError, match="cannot be read: .*32 bits, or signed, has no known range"):
        read(tmp_path, tiff(bits, values.tobytes(), 3, 1, sample_format))


@pytest.mark.parametrize("values", [[0, 65_536], [-1, 5]])
def test_integers_beyond_16_bits_are_refused(values):
    with pytest.raises(ValueError, match="no known range"):
        to_rgb(PIL.Image.fromarray(np.array([values], np.int32)))


def test_floating_point_is_refused(tmp_path):
    with pytest.raises(ValueError, match="floating-point images have no known range"):
        read(tmp_path, tiff(32, np.array([0.5], "<f4").tobytes(), 1, 1, 3))


DAMAGED = {
    "no TIFF": b"Exif\0\0nonsense",
    "cut short": b"Exif\0\0II*\0\x08\0\0\0\x05\0",
    "offset beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "orientation, then a wrong type": b"Exif\0\0II*\0\x08\0\0\0\x02\0"
    + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    + struct.pack("<HHII", 0x0110, 2, 2**31 - 1, 2**31 - 1)
    + b"\0" * 4,
    "orientation as text": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0") + b"\0" * 4,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_exif_does_not_stop_a_photo_and_is_not_passed_on(tmp_path, name):
    image = read(tmp_path, jpeg(DAMAGED[name]))
    assert image.size == ((4, 8) if name == "orientation, then a wrong type" else (8, 4))
    assert image.info == {} and not image.getexif()
    assert to_rgb(image).size == image.size
    assert preprocess_image(image, 4).shape == (3, 4, 4)
    image.save(tmp_path / "again.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    image = load_photo(tmp_path / "a.png")
    assert (np.asarray(image)[..., 0] == upright).all()
    assert (np.asarray(to_rgb(image)) == np.asarray(image)).all()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("content", [EPS, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4\n", b""])
def test_formats_of_interpreters_are_refused_whatever_their_name(tmp_path, content, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match="a.png', which cannot be read: it is not an image of a known format"):
        load_photo(tmp_path / "a.png")


@pytest.mark.parametrize(
    "text, lines",
    [
        ("avocado 4", ["avocado 4"]),
        ("grinning-face-with-big-eyes 4", ["grinning-face-", "with-big-eyes 4"]),
        ("a red apple that is large 4", ["a red apple that", "is large 4"]),
        ("one-word-too-many-for-two-short-lines", ["one-word-too-", "many-for-two-short-lines"]),
        ("", [""]),
    ],
)
def test_captions_are_broken_where_words_end(text, lines):
    assert wrap_caption(text, 96, 2) == lines
    assert wrap_caption(text, 96, 1) == [text]


def letters(picture: PIL.Image.Image, rows: slice) -> int:
    """Height in pixels of what is written in some rows."""
    return int((np.asarray(picture.convert("L"))[rows] < 128).any(axis=1).sum())


def test_a_caption_of_two_lines_keeps_its_size():
    image, text = PIL.Image.new("RGB", (96, 20), "white"), "smiling-face-with-horns 4"
    one, two = caption(image, text), caption(image, text, num_lines=2)
    assert one.size == (96, 20 + 18) and two.size == (96, 20 + 36)
    assert letters(two, slice(20, 38)) > letters(one, slice(20, 38)) > 0
    assert letters(two, slice(38, 56)) > 0 == letters(two, slice(20))
    above = caption(image, text, above=True, num_lines=2)
    assert letters(above, slice(36)) == letters(two, slice(20, 56)) and letters(above, slice(36, 56)) == 0
