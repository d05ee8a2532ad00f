"""The image that an inversion aims at, and which of its pixels are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..digests import tensor_digest
from ..images import to_float, to_rgb
from ..modeling_poly_inr import pixel_coordinates


@dataclass
class Target:
    """An image to be inverted.

    Attributes:
        image: (1, 3, H, W) float32 in [-1, 1], on the CPU; zero where unknown.
        known: (1, 1, H, W) float32, 1 where the image is known and 0 elsewhere.
    """

    image: Tensor
    known: Tensor

    @classmethod
    def prepare(cls, image: Image.Image | Tensor, mask: Image.Image | Tensor | np.ndarray | None = None) -> Target:
        """Checks an image and a mask; arguments as in [`~polyinr_hf.inversion.invert`].

        Raises:
            ValueError: for an image or mask of a wrong kind, shape or range, or a mask without a known pixel.
        """
        if isinstance(image, Image.Image):
            image = to_float(torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1))  # (3, H, W)
        if not isinstance(image, Tensor):
            raise ValueError(f"`image` must be a PIL image or a tensor, got {type(image).__name__}.")
        pixels = image.detach().cpu()
        pixels = pixels.unsqueeze(0) if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or pixels.shape[:2] != (1, 3) or 0 in pixels.shape:
            raise ValueError(f"`image` must have shape (3, H, W) or (1, 3, H, W), got {tuple(image.shape)}.")
        if pixels.dtype == torch.uint8:
            pixels = to_float(pixels)
        if not pixels.is_floating_point():
            raise ValueError(f"`image` must be uint8, or floating-point in [-1, 1], got {pixels.dtype}.")
        known = _known_pixels(mask, *pixels.shape[2:])
        pixels = torch.where(known, pixels.float(), 0.0)  # from here on, nothing of the unknown pixels is left
        if not (pixels.abs() <= 1).all():
            raise ValueError("`image` must be finite and in [-1, 1], or uint8; there are other values in it.")
        return cls(pixels, known.float())

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return tuple(self.image.shape[2:])

    @property
    def is_whole(self) -> bool:
        return bool(self.known.all())

    def downscaled(self, max_side: int) -> tuple[Target, Tensor]:
        """The image with no side longer than `max_side`, and the coordinates (N, 2) of its pixels' centres.

        A pixel is known if half of what it averages is, and averages only that.
        """
        height, width = self.size
        factor = min(1.0, max_side / max(height, width))
        small = (max(1, round(height * factor)), max(1, round(width * factor)))
        if small == (height, width):
            return self, pixel_coordinates(height, width)
        cover = _shrink(self.known, small)
        image = torch.where(cover >= 0.5, _shrink(self.image, small) / cover.clamp(min=0.5), 0.0)
        known = (cover >= 0.5).float()
        if not known.any():  # only specks are known
            known = (cover == cover.max()).float()
            image = known * _shrink(self.image, small) / cover.max()
        # Pixel centres of the small image, in units where those of the large one's corners are 0 and 1.
        top, left = (
            (0.5 * full / part - 0.5) / (full - 1) if part < full else 0.0
            for full, part in zip((height, width), small, strict=True)
        )
        extent = [top, left, 1 - top, 1 - left]
        for axis in (0, 1):  # a lone row is taken from the middle of any extent
            if small[axis] == 1:
                extent[axis], extent[axis + 2] = 0.0, 1.0
        return Target(image.clamp(-1, 1), known), pixel_coordinates(*small, tuple(extent))

    def small_copies(self, side: int | None) -> list[tuple[Target, Tensor]]:
        """`downscaled` to `side`, 2 `side`, 4 `side` ... pixels, as long as that is smaller; none without `side`."""
        sides = []
        while side is not None and side < max(self.size):
            sides.append(side)
            side *= 2
        return [self.downscaled(side) for side in sides]

    def digest(self) -> str:
        """A fingerprint of the image and the mask."""
        return tensor_digest(torch.cat([self.image, self.known], dim=1))


def _known_pixels(mask, height: int, width: int) -> Tensor:
    """(1, 1, H, W) bool, of a mask as users give it."""
    if mask is None:
        return torch.ones(1, 1, height, width, dtype=torch.bool)
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L")) / 255
    if not isinstance(mask, (Tensor, np.ndarray)):
        raise ValueError(f"`mask` must be a PIL image, a tensor or an array, got {type(mask).__name__}.")
    mask = torch.as_tensor(mask).detach().cpu()
    shape = tuple(mask.shape)
    if shape not in ((height, width), (1, height, width), (1, 1, height, width)):
        raise ValueError(f"`mask` must be as large as the image, {height} x {width} pixels, got {shape}.")
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError("`mask` must be in 0..1, 1 where the image is known.")
    known = mask.reshape(1, 1, height, width) >= 0.5
    if not known.any():
        raise ValueError("`mask` is 0 everywhere: no pixel is known.")
    return known


def _shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
