"""The generator as training calls it: whole images or windows of them, with a graph no larger than a chunk of pixels.

A window shows details at the price of a small image (Chai et al., Any-resolution Training, ECCV 2022): an extent (top,
left, bottom, right), with the pixels that the generator's `render` draws for it: the first and last pixel centers lie
on its borders. A real image of S pixels, likewise, has its pixel centers at i / (S - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..images import to_float
from ..modeling_poly_inr import PolyINRGenerator, full_precision, pixel_coordinates

# Of one level evaluated at once, 4 MB: activations that leave a CPU's cache cost more than the products. Forward and
# backward take two thirds of the time that the whole batch takes; the number itself was not tuned.
CPU_FEATURES = 2**20
FINE_PITCH = 2.0  # up to this distance of a window's pixels, in the image's, their centers stand for them; not tuned
COARSE_POINTS = 2  # points a side of a coarser pixel, whose colors are averaged


class ImageGenerator(nn.Module):
    """The generator as training calls it: latents and labels to images, in chunks of pixels if asked.

    With `pixel_chunk`, the forward keeps no graph; in the backward each chunk's forward is run again and its gradients
    are added up: pixels are independent, so gradients are the same and memory stays that of one chunk.
    """

    def __init__(self, generator: PolyINRGenerator, compile_synthesis: bool = False):
        super().__init__()
        self.generator = generator
        self._synthesize = (
            torch.compile(generator.synthesize, dynamic=False) if compile_synthesis else generator.synthesize
        )

    def forward(
        self,
        z: Tensor,
        class_labels: Tensor | None,
        resolution: int | None,
        pixel_chunk: int | None = None,
        windows: Windows | None = None,
        points: Tensor | None = None,
    ) -> Tensor | tuple[Tensor | None, Tensor] | None:
        """z (B, z_dim) and labels (B,) -> images (B, 3, R, R); `pixel_chunk` counts points of the whole batch.

        Whole images, a point in each pixel, or `windows`, several in the coarser ones. With `points` (B, P, 2), images
        and the colors (B, P, 3) there; None for images without a resolution.
        """
        with full_precision(z.device):  # a hundred-thousandth of the products; bfloat16 would round w to three digits
            w = self.generator.map(z, class_labels)  # (B, L, w_dim)
        A = self.generator.affine(w)  # (B, L, n, 3)
        images = None if resolution is None else self._draw(A, resolution, pixel_chunk, windows)
        return images if points is None else (images, self._synthesize(A, points))

    def from_w(
        self, w: Tensor, resolution: int, pixel_chunk: int | None = None, windows: Windows | None = None
    ) -> Tensor:
        """w (B, L, w_dim) -> images (B, 3, R, R)."""
        return self._draw(self.generator.affine(w), resolution, pixel_chunk, windows)

    def _draw(self, A: Tensor, resolution: int, pixel_chunk: int | None, windows: Windows | None) -> Tensor:
        """A (B, L, n, 3) -> images (B, 3, R, R)."""
        if windows is None:
            rgb = self._colors(A, pixel_coordinates(resolution, resolution, device=A.device), pixel_chunk)
        else:
            rgb = self._window_colors(A, windows, resolution, pixel_chunk)
        return rgb.transpose(1, 2).unflatten(2, (resolution, resolution))  # (B, 3, R, R)

    def _window_colors(self, A: Tensor, windows: Windows, resolution: int, pixel_chunk: int | None) -> Tensor:
        """Colors (B, R * R, 3) of windows' pixels: those with as many points in a pixel together."""
        counts = windows.points_a_side(resolution)
        groups, colors = [], []
        for count in sorted(set(counts)):
            groups.append(torch.tensor([index for index, those in enumerate(counts) if those == count]))
            coordinates = window_coordinates(windows.extents[groups[-1]], resolution, count).to(A.device)  # (G, N, 2)
            rgb = self._colors(A[groups[-1].to(A.device)], coordinates, pixel_chunk)  # (G, N, 3)
            colors.append(rgb.unflatten(1, (resolution**2, count**2)).mean(dim=2))
        return torch.cat(colors)[torch.cat(groups).argsort().to(A.device)]

    def _colors(self, A: Tensor, coordinates: Tensor, pixel_chunk: int | None) -> Tensor:
        """Colors (B, N, 3) at coordinates (N, 2) of all images, or (B, N, 2)."""
        if pixel_chunk is not None and pixel_chunk < len(A) * coordinates.shape[-2]:  # else there is but one chunk
            weights = [*self.generator.synthesis_levels.parameters(), *self.generator.to_rgb.parameters()]
            chunk = max(1, pixel_chunk // len(A))  # points of each image
            return _ChunkedSynthesis.apply(self._synthesize, A, coordinates, chunk, *weights)
        images, whole = len(A), coordinates.ndim == 2  # at a time
        if A.device.type == "cpu" and pixel_chunk is None:
            images = max(1, CPU_FEATURES // (coordinates.shape[-2] * self.generator.config.channels)) if whole else 1
        if whole:  # windows come in groups of any size, which one at a time are of few shapes to compile
            return torch.cat([self._synthesize(part, coordinates) for part in A.split(images)])
        parts = zip(A.split(images), coordinates.split(images), strict=True)
        return torch.cat([self._synthesize(*part) for part in parts])


class _ChunkedSynthesis(torch.autograd.Function):
    """`synthesize(A, coordinates)`, a function of `A` and `weights`, chunk by chunk.

    Checkpointing each chunk in one graph computes the same, but the graph's small objects, left between the chunks'
    large ones, fragment the memory of a CPU process until it grows with the image after all.
    """

    @staticmethod
    def forward(ctx, synthesize: Callable, A: Tensor, coordinates: Tensor, chunk: int, *weights: Tensor) -> Tensor:
        ctx.synthesize, ctx.chunk, device = synthesize, chunk, A.device.type
        ctx.autocast = None
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            ctx.autocast = torch.get_autocast_dtype(device)
        ctx.save_for_backward(A, coordinates, *weights)
        fixed = A.detach()  # hooks of modules, such as torch's FLOP counter, would look for a graph that is not kept
        return torch.cat([synthesize(fixed, part) for part in coordinates.split(chunk, dim=-2)], dim=1)  # (B, N, 3)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple:
        A, coordinates, *weights = ctx.saved_tensors
        inputs = [A.detach().requires_grad_(), *weights]
        totals = [torch.zeros_like(tensor) for tensor in inputs]
        parts = zip(coordinates.split(ctx.chunk, dim=-2), gradient.split(ctx.chunk, dim=1), strict=True)
        for part, part_gradient in parts:
            with torch.enable_grad(), _autocast(A.device.type, ctx.autocast):
                rgb = ctx.synthesize(inputs[0], part)  # (B, chunk, 3)
            torch._foreach_add_(totals, torch.autograd.grad(rgb, inputs, part_gradient))
        return None, totals[0], None, None, *totals[1:]


def _autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager:
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype=dtype)


# --- windows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Windows:
    """Extents (B, 4), in float64 on the CPU, of square images with `image_resolution` pixels a side."""

    extents: Tensor
    image_resolution: int

    def points_a_side(self, resolution: int) -> list[int]:
        """For each window, the points a side of a pixel that the generator's color of it is the mean of."""
        sides = (bottom - top for top, _, bottom, _ in self.extents.tolist())  # shares of the image's
        pitches = (side * (self.image_resolution - 1) / (resolution - 1) for side in sides)
        return [COARSE_POINTS if pitch > FINE_PITCH else 1 for pitch in pitches]


def sample_extents(number: int, scales: tuple[float, float], whole_share: float, source: torch.Generator) -> Tensor:
    """Draws extents (number, 4): a `whole_share` of them the whole image, the others square windows inside it.

    Their sides are log-uniform in `scales`, shares of the image's side in (0, 1], their positions uniform.
    """
    uniform = torch.rand(number, 4, generator=source, dtype=torch.float64)  # whole or not, side, top, left
    low, high = (math.log(scale) for scale in scales)
    side = torch.exp(low + uniform[:, 1] * (high - low)).clamp(max=1)
    side = torch.where(uniform[:, 0] < whole_share, torch.ones_like(side), side)  # (number,)
    corner = uniform[:, 2:] * (1 - side[:, None])  # (number, 2)
    return torch.cat([corner, corner + side[:, None]], dim=1)


def window_coordinates(extents: Tensor, resolution: int, points_a_side: int) -> Tensor:
    """Points (B, R * R * points_a_side^2, 2), float32, pixel by pixel: a pixel's are spread evenly over its square.

    With one, the coordinates of `render` for extents (B, 4).
    """
    count = points_a_side
    steps = (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5  # of a pixel
    unit = torch.linspace(0, 1, resolution, dtype=torch.float64)[:, None] + steps / (resolution - 1)  # (R, count)
    corner, side = extents[:, :2], extents[:, 2:] - extents[:, :2]  # (B, 2)
    axes = corner[:, :, None, None] + side[:, :, None, None] * unit  # (B, 2, R, count)
    shape = (len(extents), resolution, resolution, count, count)
    rows = axes[:, 0, :, None, :, None].expand(shape)
    columns = axes[:, 1, None, :, None, :].expand(shape)
    points = torch.stack([rows, columns], dim=-1).flatten(1, 4)  # (B, R * R * count^2, 2)
    return points.clamp(0, 1).float()  # squares on the border reach beyond the image, which is constant there


def cut_windows(images: Tensor, windows: Windows, resolution: int) -> Tensor:
    """Windows (B, 3, R, R) of images (B, 3, S, S), uint8 or [-1, 1]; float32 in [-1, 1].

    Each pixel is the mean over its square of the image, which is linear between its pixel centers.
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
    centers = start[:, None] + (end - start)[:, None] * torch.linspace(0, 1, resolution, dtype=torch.float64)
    low, high = centers[:, :, None] - pitch / 2, centers[:, :, None] + pitch / 2  # (B, R, 1)
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
