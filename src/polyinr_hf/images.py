"""Pictures in and out: photographs opened safely, arrays and tensors of pixels, grids; PSNR and SSIM."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import make_image_grid
from PIL import ExifTags, Image, ImageDraw, ImageFont, UnidentifiedImageError
from torch import Tensor

from ._lazy import naming_extra
from .modeling_poly_inr import PolyINRGenerator

MAX_PHOTO_PIXELS = 2**26  # 8,192 x 8,192: 200 MB decoded
CAPTION_HEIGHT, CAPTION_SIZES = 18, (12, 10, 9, 8)  # pixels of a line, and of its letters as far as they fit
# What Pillow decodes by itself: no vector formats, which it would hand to another program.
PHOTO_FORMATS = ("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "TGA")


_TURNS = {  # EXIF's orientation: what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_photo(path: str | Path, max_pixels: int = MAX_PHOTO_PIXELS) -> Image.Image:
    """Opens an image file as upright 8-bit RGB: transparency over white, 16 bits, gray, palettes and CMYK converted.

    Of several frames, the first is taken. The result carries no metadata.

    Args:
        path: The file.
        max_pixels: Larger images are refused before they are decoded.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, damaged, of a format or mode that is not read (SVG, PDF, floating-point, 32-bit
            grayscale), or too large.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"`path` must be an existing file, got {str(path)!r}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of a size that `max_pixels` is about
            return read_image(path, max_pixels)
    except Exception as error:  # decoders raise anything from OSError to SyntaxError
        raise ValueError(f"`path` must be an image, got {str(path)!r}, which cannot be read: {error}.") from error


def read_image(source: Path | BinaryIO, max_pixels: int = MAX_PHOTO_PIXELS, draft: int | None = None) -> Image.Image:
    """`load_photo` of a path or an open file, raising whatever Pillow's decoders raise.

    A JPEG with sides of at least twice `draft` is decoded at the smallest of its sizes with sides of at least `draft`.
    """
    Image.init()
    formats = [name for name in PHOTO_FORMATS if name in Image.OPEN]
    try:
        image = Image.open(source, formats=formats)
    except UnidentifiedImageError as error:
        raise ValueError(f"it is not an image of a known format ({', '.join(formats)})") from error
    with image:
        if image.width * image.height > max_pixels:
            raise ValueError(f"it has {image.width} x {image.height} pixels, more than {max_pixels:,}")
        if draft is not None and image.format == "JPEG" and min(image.size) >= 2 * draft:
            image.draft(image.mode, (draft, draft))
        return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as upright (EXIF orientation) 8-bit RGB without metadata; transparency becomes white.

    16-bit (and, in TIFF files, 12-bit) grayscale is scaled to 8 bits.

    Raises:
        ValueError: For floating-point and 32-bit grayscale, whose range is unknown.
    """
    sixteen_bit_colors = image.mode == "RGB" and any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if sixteen_bit_colors and isinstance(image.info.get("transparency"), tuple):
        raise ValueError("colors of 16 bits with a transparent one among them are not read")
    image.load()
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation) or 0)
    except Exception:  # damaged EXIF raises anything; the pixels are none the worse
        turn = None
    if image.mode.startswith("I"):
        image = _gray_to_rgb(image)
    elif image.mode == "F":
        raise ValueError("floating-point images have no known range")
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB") if turn is None else image.convert("RGB").transpose(turn)
    image.info = {}  # damaged metadata would break the next one who looks at them
    return image


def _gray_to_rgb(image: Image.Image) -> Image.Image:
    """Grayscale of more than 8 bits; Pillow's own conversion clips at 255 instead of scaling."""
    values = np.asarray(image).astype(np.int64)
    tags: Any = getattr(image, "tag_v2", {})  # of a TIFF file
    bits = tags.get(ExifTags.Base.BitsPerSample, (16,))[0] if image.format == "TIFF" else 16
    if image.mode == "I" and (bits != 16 or image.format == "TIFF" or values.min() < 0 or values.max() > 65535):
        raise ValueError("grayscale of 32 bits, or signed, has no known range")
    gray = np.round(np.clip(values / (2**bits - 1), 0, 1) * 255).astype(np.uint8)
    if isinstance(transparent := image.info.get("transparency"), int):
        gray[values == transparent] = 255
    return Image.fromarray(gray).convert("RGB")


def preprocess_image(image: Image.Image, resolution: int) -> Tensor:
    """Upright RGB, center crop to a square, antialiased resize (Lanczos, as StyleGAN-XL prepares its data).

    Args:
        image: Of any mode and size.
        resolution: Side in pixels.

    Returns:
        uint8 tensor (3, resolution, resolution); `to_float` maps it to [-1, 1].
    """
    image = to_rgb(image)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if side != resolution:
        image = image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (3, R, R)


def to_float(images: Tensor) -> Tensor:
    """uint8 [0, 255] -> float32 [-1, 1]: `x / 127.5 - 1`."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor, what: str) -> Tensor:
    """Images in [0, 1] -> uint8, rounded; what lies outside is clipped.

    Args:
        images: The images.
        what: What an error calls them.

    Raises:
        ValueError: NaN or infinity.
    """
    if not torch.isfinite(images).all():
        raise ValueError(f"{what} must be finite, got NaN or infinite pixels.")
    return images.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)


@torch.no_grad()
def sample_images(generator: PolyINRGenerator, resolution: int, columns: int) -> Tensor:
    """Images (rows * columns, 3, R, R) of fixed latents: a row a class, of at most `columns` classes."""
    num_classes, device = generator.config.num_classes, generator.device
    rows = columns if num_classes is None else min(columns, num_classes)
    latents = torch.randn(rows * columns, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    labels = None
    if num_classes is not None:
        labels = torch.linspace(0, num_classes - 1, rows).round().long().repeat_interleave(columns).to(device)
    A = generator.affine(generator.map(latents.to(device), labels))  # (rows * columns, L, n, 3)
    return torch.cat([generator.render(part, resolution, resolution) for part in A.split(1)])


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Writes images (B, 3, R, R) in [-1, 1] as one PNG of full rows."""
    rows = max(1, len(images) // columns)
    columns = min(columns, len(images))
    pictures: Any = VaeImageProcessor().postprocess(images[: rows * columns].float().cpu(), "pil")
    path.parent.mkdir(parents=True, exist_ok=True)
    make_image_grid(pictures, rows, columns).save(path)


def caption(image: Image.Image, text: str, above: bool = False, num_lines: int = 1) -> Image.Image:
    """The image with a white strip of 18 pixels a line below (or above) it that holds a text, shortened to fit."""
    lines = wrap_caption(text, image.width, num_lines)
    size = next((size for size in CAPTION_SIZES if max(_text_width(line, size) for line in lines) <= image.width), 8)
    height = num_lines * CAPTION_HEIGHT
    picture = Image.new("RGB", (image.width, image.height + height), "white")
    picture.paste(image, (0, height if above else 0))
    brush, font = ImageDraw.Draw(picture), ImageFont.load_default(size=size)
    for y, line in enumerate(lines):
        while line and _text_width(line, size) > image.width:
            line = line.rstrip("…")[:-1] + "…" if len(line.rstrip("…")) > 1 else ""
        middle = (0 if above else image.height) + y * CAPTION_HEIGHT + CAPTION_HEIGHT // 2
        brush.text((image.width // 2, middle), line, fill="black", anchor="mm", font=font)
    return picture


def wrap_caption(text: str, width: int, num_lines: int) -> list[str]:
    """A caption in at most `num_lines` lines, each as full as `width` pixels allow, broken after spaces and hyphens."""
    first, *words = re.split(r"(?<=[\s-])", text)
    lines = [first]
    for word in words:
        if len(lines) < num_lines and _text_width(f"{lines[-1]}{word}".rstrip(), CAPTION_SIZES[0]) > width:
            lines.append(word)
        else:
            lines[-1] += word
    return [line.rstrip() for line in lines]


def _text_width(text: str, size: int) -> float:
    return ImageFont.load_default(size=size).getlength(text)


def stack(images: list[Image.Image]) -> Image.Image:
    """Images below each other, on white."""
    picture = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    y = 0
    for image in images:
        picture.paste(image, (0, y))
        y += image.height
    return picture


# --- how close a reconstruction is ------------------------------------------------------------------------------------

SSIM = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}  # as Wang et al. (2004) define it


def psnr(reconstructions: Tensor, images: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB of each image, infinite for equal ones.

    Args:
        reconstructions, images: (B, 3, H, W) in [-1, 1]; reconstructions are clipped to it.

    Raises:
        ValueError: Different shapes, or an image outside [-1, 1].
    """
    x, y = _checked(reconstructions, images)
    return (10 * (4 / (x - y).square().mean(dim=(1, 2, 3))).log10()).tolist()  # 4: the range's 2, squared


def ssim(reconstructions: Tensor, images: Tensor) -> list[float]:
    """Structural similarity of each image, 1 for equal ones; Gaussian window of sigma 1.5 (Wang et al. 2004).

    Arguments and errors as `psnr`; images are at least 11 pixels high and wide. Needs scikit-image.
    """
    with naming_extra("ssim", "eval"):
        from skimage.metrics import structural_similarity
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"`images` must be at least 11 x 11 pixels, got {tuple(images.shape)}.")
    similarity: Any = structural_similarity  # scikit-image's types allow for more results
    pairs = zip(*(part.cpu().numpy() for part in _checked(reconstructions, images)), strict=True)
    return [float(similarity(x, y, channel_axis=0, data_range=2, **SSIM)) for x, y in pairs]


def _checked(reconstructions: Tensor, images: Tensor) -> Iterator[Tensor]:
    """Both in float64, reconstructions clipped."""
    if reconstructions.shape != images.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            "`reconstructions` and `images` must have the same shape (B, 3, H, W), got "
            f"{tuple(reconstructions.shape)} and {tuple(images.shape)}."
        )
    if not (images.abs() <= 1).all():
        raise ValueError("`images` must be in [-1, 1], got values outside [-1, 1].")
    if not reconstructions.isfinite().all():
        raise ValueError("`reconstructions` must be finite, got NaN or infinity.")
    return (part.detach().double() for part in (reconstructions.clamp(-1, 1), images))
