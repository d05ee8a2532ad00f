"""Regions of the image plane: details, zoom paths, and what lies beyond the border."""

import math
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from ..checks import check_count, check_extent, check_number, finite_number
from ..pipeline_poly_inr import PolyINRPipeline

Extent = tuple[float, float, float, float]  # (top, left, bottom, right)


def detail(center: tuple[float, float] = (0.5, 0.5), factor: float = 8.0) -> Extent:
    """The extent `factor` times smaller than the image around `center` (row, column).

    Coordinates are float32, 24 bits: beyond a factor of about 10,000 neighboring pixels begin to share one.

    Raises:
        ValueError: for a center or a factor that is not finite, or a factor not above 0.
    """
    given = [finite_number(value) for value in center]
    place = [number for number in given if number is not None]
    if len(given) != 2 or len(place) != 2:
        raise ValueError(f"`center` must be two finite numbers (row, column), got {center!r}.")
    (row, column), half = place, 0.5 / check_number("factor", factor, positive=True)
    return row - half, column - half, row + half, column + half


def interpolate_extents(start: Extent, end: Extent, num_frames: int) -> list[Extent]:
    """Extents from `start` to `end`, both included: a zoom, a pan, or both at once.

    Sides grow geometrically, so that a zoom looks even, and what both ends have at the same place of the picture stays
    there; sides that keep their length move evenly.

    Raises:
        ValueError: for an extent that is none, or fewer than two frames.
    """
    start, end, num_frames = check_extent(start), check_extent(end), check_count("num_frames", num_frames, minimum=2)
    extents = []
    for frame in range(1, num_frames - 1):
        t = frame / (num_frames - 1)
        axes = [_interpolate_sides(start[i], start[i + 2], end[i], end[i + 2], t) for i in (0, 1)]
        extents.append((axes[0][0], axes[1][0], axes[0][1], axes[1][1]))
    return [start, *extents, end]


def _interpolate_sides(low_0: float, high_0: float, low_1: float, high_1: float, t: float) -> tuple[float, float]:
    side_0, side_1 = high_0 - low_0, high_1 - low_1
    ratio = side_1 / side_0
    # (ratio^t - 1) / (ratio - 1): how far the corner is on its way when the side is ratio^t long; t where both agree.
    way = t if math.isclose(ratio, 1) else math.expm1(t * math.log(ratio)) / (ratio - 1)
    low = low_0 + way * (low_1 - low_0)
    return low, low + side_0 * ratio**t


def extrapolate(
    pipe: PolyINRPipeline,
    affine_parameters: Tensor,
    extent: Extent = (-0.25, -0.25, 1.25, 1.25),
    height: int | None = None,
    width: int | None = None,
    border: str | None = "yellow",
    antialias: int = 1,
    tolerance: float = 0.0,
) -> list[Image.Image]:
    """Images over a larger extent, with the square that is the image itself drawn in (figure 4).

    Args:
        affine_parameters: A (B, L, n, 3).
        extent: (top, left, bottom, right), the figure's by default.
        height, width: by default pixels as close as in an image of the model's own size.
        border: color of the square, any that Pillow knows; None for no square.
        antialias, tolerance: as in the pipeline.

    Raises:
        ValueError: as the pipeline, and for an unknown color.

    Example:
        >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
        >>> from polyinr_hf.editing import encode_seeds, extrapolate
        >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
        >>> extrapolate(pipe, encode_seeds(pipe, "grinning face", 0))[0].save("beyond.png")
    """
    check_extent(extent)
    if border is not None:
        Image.new("RGB", (1, 1), border)  # its error names the color
    top, left, bottom, right = extent
    side: int = pipe.generator.config.sample_size
    height = 1 + round((side - 1) * (bottom - top)) if height is None else height
    width = 1 + round((side - 1) * (right - left)) if width is None else width
    images: Any = pipe(
        affine_parameters=affine_parameters,
        height=height,
        width=width,
        extent=extent,
        antialias=antialias,
        tolerance=tolerance,
    ).images
    if border is not None:
        rows = [round((height - 1) * (value - top) / (bottom - top)) for value in (0, 1)]
        columns = [round((width - 1) * (value - left) / (right - left)) for value in (0, 1)]
        for image in images:
            box = (columns[0], rows[0], columns[1], rows[1])
            ImageDraw.Draw(image).rectangle(box, outline=border, width=max(1, round(min(image.size) / 200)))
    return images
