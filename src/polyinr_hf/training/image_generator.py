"""The generator as training calls it: whole images, with a graph no larger than a chunk of pixels if asked."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ..modeling_poly_inr import PolyINRGenerator, full_precision, pixel_coordinates
from .windows import Windows, window_coordinates

CPU_FEATURES = 2**20  # of one level evaluated at once: activations that leave a CPU's cache cost more than the products


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
    ) -> Tensor | tuple[Tensor | None, Tensor]:
        """z (B, z_dim) and labels (B,) -> images (B, 3, R, R); `pixel_chunk` counts points of the whole batch.

        Whole images, a point in each pixel, or `windows`, several in the coarser ones. With `points` (B, P, 2), images
        and the colours (B, P, 3) there; None for images without a resolution.
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
            rgb = self._colours(A, pixel_coordinates(resolution, resolution, device=A.device), pixel_chunk)
        else:
            rgb = self._window_colours(A, windows, resolution, pixel_chunk)
        return rgb.transpose(1, 2).unflatten(2, (resolution, resolution))  # (B, 3, R, R)

    def _window_colours(self, A: Tensor, windows: Windows, resolution: int, pixel_chunk: int | None) -> Tensor:
        """Colours (B, R * R, 3) of windows' pixels: those with as many points in a pixel together."""
        samples = windows.samples(resolution)
        groups, colours = [], []
        for count in samples.unique().tolist():
            groups.append(torch.nonzero(samples == count).flatten())
            coordinates = window_coordinates(windows.extents[groups[-1]], resolution, count).to(A.device)  # (G, N, 2)
            rgb = self._colours(A[groups[-1].to(A.device)], coordinates, pixel_chunk)  # (G, N, 3)
            colours.append(rgb.unflatten(1, (resolution**2, count**2)).mean(dim=2))
        return torch.cat(colours)[torch.cat(groups).argsort().to(A.device)]

    def _colours(self, A: Tensor, coordinates: Tensor, pixel_chunk: int | None) -> Tensor:
        """Colours (B, N, 3) at coordinates (N, 2) of all images, or (B, N, 2)."""
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
