"""What the levels of the synthesis network do to an image: figure 3's heat maps, and the image after each level."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from torch import Tensor

from ..checks import check_count
from ..images import caption, stack
from ..modeling_poly_inr import PolyINRGenerator, pixel_coordinates
from ..pipeline_poly_inr import PolyINRPipeline
from .extents import Extent

IMAGE: Extent = (0.0, 0.0, 1.0, 1.0)
HEAT_TITLE = "What each level responds to, from blue (least) to red (most)"
PREFIX_TITLE = "The image if the network ended after this level"


@torch.no_grad()
def heat_maps(
    generator: PolyINRGenerator,
    affine_parameters: Tensor,
    height: int | None = None,
    width: int | None = None,
    extent: Extent = IMAGE,
    chunk_size: int = 4096,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Heat map of each level (B, L, H, W), float32 in [0, 1]; figure 3.

    Section 4.2: the mean of a channel over the pixels is its weight in the sum over the channels. Each map is scaled to
    [0, 1] on its own; a flat one is 0. The pixels are walked twice, in chunks: memory grows with the result only.

    Args:
        affine_parameters: A (B, L, n, 3).
        height, width, extent: as in `PolyINRGenerator.render`.
        chunk_size: pixels of the whole batch at once.
        callback: called with (pixels done, pixels in all) after every chunk; in all are twice those of the picture.

    Raises:
        ValueError: for affine parameters of another model's size, or a size, extent or `chunk_size` out of range.
    """
    height, width, A, walk = _prepare(generator, affine_parameters, height, width, extent, chunk_size, callback, 2)
    batch, levels, channels, _ = A.shape
    weights = torch.zeros(levels, batch, channels, device=A.device)
    for _, level, features in walk():
        weights[level] += features.float().sum(dim=1) / (height * width)  # (B, n)
    maps = torch.empty(batch, levels, height * width, device=A.device)
    for pixels, level, features in walk():
        maps[:, level, pixels] = (features.float() @ weights[level].unsqueeze(2)).squeeze(2)  # (B, N)
    low, high = maps.amin(dim=2, keepdim=True), maps.amax(dim=2, keepdim=True)
    maps = torch.where(high > low, (maps - low) / (high - low), 0.0)
    return maps.unflatten(2, (height, width))  # (B, L, H, W)


@torch.no_grad()
def prefix_images(
    generator: PolyINRGenerator,
    affine_parameters: Tensor,
    height: int | None = None,
    width: int | None = None,
    extent: Extent = IMAGE,
    chunk_size: int = 4096,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The image after each level (B, L, 3, H, W) if later levels passed features through, in [-1, 1], not clipped.

    The last is the image itself. Arguments and errors as `heat_maps`; the pixels are walked once.
    """
    height, width, A, walk = _prepare(generator, affine_parameters, height, width, extent, chunk_size, callback, 1)
    images = torch.empty(*A.shape[:2], 3, height * width, device=A.device)
    for pixels, level, features in walk():
        images[:, level, :, pixels] = generator.to_rgb(features).transpose(1, 2).float()  # (B, 3, N)
    return images.unflatten(3, (height, width))  # (B, L, 3, H, W)


def _prepare(
    generator: PolyINRGenerator, affine_parameters: Tensor, height, width, extent, chunk_size, callback, passes: int
) -> tuple[int, int, Tensor, Callable[[], Iterator[tuple[slice, int, Tensor]]]]:
    """Size, A where the model is, and a function that goes once through all (pixels, level, features (B, N, n))."""
    generator.check_affine_parameters(affine_parameters)
    height, width = generator.size_or_default(height, width)
    A = affine_parameters.to(generator.device)
    coordinates = pixel_coordinates(height, width, extent, device=A.device)  # (H * W, 2)
    step, done = max(1, check_count("chunk_size", chunk_size) // len(A)), 0

    def walk() -> Iterator[tuple[slice, int, Tensor]]:
        nonlocal done
        for start in range(0, len(coordinates), step):
            pixels = slice(start, start + step)
            chunk = coordinates[pixels]
            for level, features in enumerate(generator.features(A, chunk)):
                yield pixels, level, features
            done += len(chunk)
            if callback is not None:
                callback(done, passes * len(coordinates))

    return height, width, A, walk


def colorize(maps: Tensor) -> list[Image.Image]:
    """Maps (M, H, W) in [0, 1] -> pictures from dark blue (0) over green (0.5) to dark red (1).

    Raises:
        ValueError: for another shape or values outside [0, 1].
    """
    if maps.ndim != 3 or not ((maps >= 0) & (maps <= 1)).all():
        raise ValueError(f"`maps` must be (M, H, W) with values in [0, 1], got {tuple(maps.shape)}.")
    # "Jet": each channel is a trapezoid, a quarter apart from the next.
    centers = torch.tensor([3.0, 2.0, 1.0], device=maps.device)  # red, green, blue
    rgb = (1.5 - (4 * maps.unsqueeze(-1) - centers).abs()).clamp(0, 1)  # (M, H, W, 3)
    return [Image.fromarray(array) for array in (rgb * 255).round().byte().cpu().numpy()]


def level_figure(
    pipe: PolyINRPipeline,
    affine_parameters: Tensor,
    height: int | None = None,
    width: int | None = None,
    extent: Extent = IMAGE,
    callback: Callable[[int, int], None] | None = None,
) -> Image.Image:
    """Two rows for each image, with captions: the heat map of each level (figure 3), and the image after each level.

    Arguments and errors as `heat_maps`; `callback` counts both walks as one.
    """
    generator = pipe.generator
    size = generator.size_or_default(height, width)
    pixels = size[0] * size[1]

    def report(offset: int) -> Callable[[int, int], None]:
        return lambda done, _: callback(offset + done, 3 * pixels) if callback is not None else None

    maps = heat_maps(generator, affine_parameters, *size, extent, callback=report(0))  # (B, L, H, W)
    images = prefix_images(generator, affine_parameters, *size, extent, callback=report(2 * pixels))
    rows = []
    for heat, image in zip(maps, images, strict=True):
        levels = [caption(picture, f"level {level}") for level, picture in enumerate(colorize(heat))]
        after: Any = pipe.image_processor.postprocess(image, "pil")
        rows += [
            caption(make_image_grid(levels, 1, len(levels)), HEAT_TITLE, above=True),
            caption(make_image_grid(after, 1, len(after)), PREFIX_TITLE, above=True),
        ]
    return stack(rows)
