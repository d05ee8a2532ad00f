"""Square windows of images: details at the price of small images (Chai et al., Any-resolution Training, ECCV 2022).

A window is an extent (top, left, bottom, right), with the pixels that the generator's `render` draws for it: the first
and last pixel centres lie on its borders. A real image of S pixels, likewise, has its pixel centres at i / (S - 1).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..images import to_float
from ..modeling_poly_inr import full_precision

FINE_PITCH = 2.0  # up to this distance of a window's pixels, in the image's, their centres stand for them
COARSE_SAMPLES = 2  # points a side of a coarser pixel, whose colours are averaged


@dataclass(frozen=True)
class Windows:
    """Extents (B, 4), in float64 on the CPU, of square images with `image_resolution` pixels a side."""

    extents: Tensor
    image_resolution: int

    def samples(self, resolution: int) -> Tensor:
        """Points a side, (B,), that the generator's colour of a window's pixel is the mean of."""
        pitch = (self.extents[:, 2] - self.extents[:, 0]) * (self.image_resolution - 1) / (resolution - 1)  # (B,)
        return torch.where(pitch > FINE_PITCH, COARSE_SAMPLES, 1)


def draw_extents(number: int, scales: tuple[float, float], whole_share: float, source: torch.Generator) -> Tensor:
    """Draws extents (number, 4): a `whole_share` of them the whole image, the others square windows inside it.

    Their sides are log-uniform in `scales`, shares of the image's side in (0, 1], their positions uniform.
    """
    uniform = torch.rand(number, 4, generator=source, dtype=torch.float64)  # whole or not, side, top, left
    low, high = (math.log(scale) for scale in scales)
    side = torch.exp(low + uniform[:, 1] * (high - low)).clamp(max=1)
    side = torch.where(uniform[:, 0] < whole_share, torch.ones_like(side), side)  # (number,)
    corner = uniform[:, 2:] * (1 - side[:, None])  # (number, 2)
    return torch.cat([corner, corner + side[:, None]], dim=1)


def window_coordinates(extents: Tensor, resolution: int, samples: int) -> Tensor:
    """Points (B, R * R * samples^2, 2), float32, pixel by pixel: those of a pixel are spread evenly over its square.

    With one sample, the coordinates of `render` for extents (B, 4).
    """
    steps = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples - 0.5  # of a pixel
    unit = torch.linspace(0, 1, resolution, dtype=torch.float64)[:, None] + steps / (resolution - 1)  # (R, samples)
    corner, side = extents[:, :2], extents[:, 2:] - extents[:, :2]  # (B, 2)
    axes = corner[:, :, None, None] + side[:, :, None, None] * unit  # (B, 2, R, samples)
    shape = (len(extents), resolution, resolution, samples, samples)
    rows = axes[:, 0, :, None, :, None].expand(shape)
    columns = axes[:, 1, None, :, None, :].expand(shape)
    points = torch.stack([rows, columns], dim=-1).flatten(1, 4)  # (B, R * R * samples^2, 2)
    return points.clamp(0, 1).float()  # squares on the border reach beyond the image, which is constant there


def cut_windows(images: Tensor, windows: Windows, resolution: int) -> Tensor:
    """Windows (B, 3, R, R) of images (B, 3, S, S), uint8 or [-1, 1]; float32 in [-1, 1].

    Each pixel is the mean over its square of the image, which is linear between its pixel centres.
    """
    images = to_float(images) if images.dtype == torch.uint8 else images.float()
    rows, columns = (
        _box_weights(windows.extents[:, [first, first + 2]], resolution, images.shape[-1]) for first in (0, 1)
    )  # (B, R, S) each
    rows, columns = (weights.float().unsqueeze(1).to(images.device) for weights in (rows, columns))
    with full_precision(images.device):
        return rows @ images @ columns.transpose(2, 3)


def _box_weights(ends: Tensor, resolution: int, size: int) -> Tensor:
    """(B, R, S): the share of each of S pixels in each of R, along an axis from and to `ends` (B, 2) of the unit."""
    start, end = (ends * (size - 1)).unbind(dim=1)  # in the image's pixels
    pitch = ((end - start) / (resolution - 1))[:, None, None]
    centres = start[:, None] + (end - start)[:, None] * torch.linspace(0, 1, resolution, dtype=torch.float64)
    low, high = centres[:, :, None] - pitch / 2, centres[:, :, None] + pitch / 2  # (B, R, 1)
    inside_low, inside_high = low.clamp(0, size - 1), high.clamp(0, size - 1)
    pixels = torch.arange(size, dtype=torch.float64)
    weights = _tent_integral(inside_high - pixels) - _tent_integral(inside_low - pixels)  # (B, R, S)
    weights[:, :, :1] += inside_low - low  # beyond the border the image is constant
    weights[:, :, -1:] += high - inside_high
    return weights / pitch


def _tent_integral(x: Tensor) -> Tensor:
    """Integral from -infinity to x of the tent max(0, 1 - |t|), by which linear interpolation weighs a pixel."""
    x = x.clamp(-1, 1)
    return torch.where(x < 0, (1 + x).square() / 2, 1 - (1 - x).square() / 2)
