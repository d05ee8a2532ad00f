"""What inversion compares an image with, and how far off it is: pixels and features, in bounded memory.

The loss's gradient with respect to the affine parameters is added up over chunks of pixels, so that memory stays that
of one chunk, however large the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .data import to_float, to_rgb
from .modeling_poly_inr import PolyINRGenerator, pixel_coordinates
from .training.feature_networks import FeatureNetwork, load_feature_network

PIXEL_CHUNK = 2048  # pixels with a graph at once
PRECISIONS = ("float32", "bfloat16")


def synthesize(generator: PolyINRGenerator, A: Tensor, coordinates: Tensor, precision: str) -> Tensor:
    """`generator.synthesize`, (1, N, 3) in float32, its products with the weights in one of `PRECISIONS`."""
    if precision == "float32":
        return generator.synthesize(A, coordinates)
    with torch.autocast(generator.device.type, torch.bfloat16):
        return generator.synthesize(A, coordinates).float()


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

    def digest(self) -> str:
        """Differs for images or masks that differ."""
        data = np.ascontiguousarray(torch.cat([self.image, self.known], dim=1).numpy())
        return hashlib.sha256(repr(data.shape).encode() + data.tobytes()).hexdigest()


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


class PerceptualLoss:
    """Distance of two images' features, each unit-normalised over channels and averaged over maps (after LPIPS).

    Unknown pixels are painted grey in both images.

    Args:
        network: see [`load_perceptual_network`].
        target: (1, 3, h, w), with `known` (1, 1, h, w), both on the network's device.
    """

    def __init__(self, network: FeatureNetwork, target: Tensor, known: Tensor):
        self.network, self.known = network, known
        with torch.no_grad():
            self.target = self._features(target)

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, 3, h, w) nominally in [-1, 1] -> (B,), 0 for equal images."""
        distances = [
            (x - y).square().sum(dim=1).mean(dim=(1, 2))
            for x, y in zip(self._features(images), self.target, strict=True)
        ]
        return torch.stack(distances).mean(dim=0)  # (B,)

    def _features(self, images: Tensor) -> list[Tensor]:
        return [F.normalize(features, dim=1) for features in self.network(images * self.known)]


def load_perceptual_network(
    backbone: str | FeatureNetwork | None, weights: str | Path | None, device: torch.device
) -> FeatureNetwork | None:
    """A frozen timm network by name (`"vgg16"` as the paper, `"tf_efficientnet_lite0"`), or none; errors as there."""
    if isinstance(backbone, str):
        backbone = load_feature_network(backbone, weights, feature_resolution=128)
    elif backbone is not None and not isinstance(backbone, FeatureNetwork):
        raise ValueError(f"`backbone` must be a timm name, a FeatureNetwork or None, got {type(backbone).__name__}.")
    return None if backbone is None else backbone.to(device)


class InversionLoss:
    """Mean squared error over the known pixels, plus the perceptual distance at a bounded size.

    Args:
        generator: the network, whose weights stay as they are.
        target: the image.
        network: of the perceptual distance, or none.
        perceptual_weight: of the perceptual distance beside the mean squared error.
        num_pixels: pixels drawn at random at each evaluation; all known ones if `None` or more than there are.
        perceptual_side: longest side, in pixels, at which features are compared. Every step draws all its pixels twice.
        coordinates: (H * W, 2) of the target's pixels, where they are not those of a whole image.
        precision: one of `PRECISIONS`, of the products with the weights; all else is float32.
    """

    def __init__(
        self,
        generator: PolyINRGenerator,
        target: Target,
        network: FeatureNetwork | None = None,
        perceptual_weight: float = 0.0,
        num_pixels: int | None = None,
        perceptual_side: int = 64,
        coordinates: Tensor | None = None,
        precision: str = "float32",
    ):
        self.generator, self.perceptual_weight, self.precision = generator, perceptual_weight, precision
        self.device = generator.device
        self.known = target.known.flatten().nonzero().squeeze(1)  # (K,)
        self.colours = target.image.flatten(2)[0].T  # (H * W, 3)
        self.coordinates = pixel_coordinates(*target.size) if coordinates is None else coordinates  # (H * W, 2)
        self.num_pixels = None if num_pixels is None or num_pixels >= len(self.known) else num_pixels
        self.perceptual = None
        if network is not None and perceptual_weight > 0:
            small, coordinates = target.downscaled(perceptual_side)
            self.small_size, self.small_coordinates = small.size, coordinates.to(self.device)
            self.perceptual = PerceptualLoss(network, small.image.to(self.device), small.known.to(self.device))

    def draw_pixels(self, random: torch.Generator) -> Tensor:
        """Indices (N,) of this evaluation's pixels among H * W."""
        if self.num_pixels is None:
            return self.known
        return self.known[torch.randperm(len(self.known), generator=random)[: self.num_pixels]]

    def __call__(
        self, A: Tensor, pixels: Tensor, perceptual: bool = True, weights: Sequence[Tensor] = ()
    ) -> tuple[float, list[Tensor]]:
        """The loss at affine parameters A (1, L, n, 3), over `draw_pixels`'s pixels, and its gradients.

        They are with respect to `weights`, parameters of the generator, or, where none are given, `[A]`.
        """
        A = A.detach().requires_grad_(not weights)
        inputs = list(weights) or [A]
        gradients = [torch.zeros_like(tensor) for tensor in inputs]
        loss = 0.0
        for part in pixels.split(PIXEL_CHUNK):
            with torch.enable_grad():
                rgb = self._colours(A, self.coordinates[part].to(self.device))  # (N, 3)
                error = (rgb - self.colours[part].to(self.device)).square().sum() / (3 * len(pixels))
            torch._foreach_add_(gradients, torch.autograd.grad(error, inputs))
            loss += error.item()
        if perceptual and self.perceptual is not None:
            loss += self.perceptual_weight * self._add_perceptual(A, inputs, gradients)
        return loss, gradients

    def _add_perceptual(self, A: Tensor, inputs: list[Tensor], gradients: list[Tensor]) -> float:
        # First without a graph; then the gradient with respect to the colours goes back chunk by chunk.
        with torch.no_grad():
            parts = [self._colours(A, part) for part in self.small_coordinates.split(PIXEL_CHUNK)]
        image = torch.cat(parts).T.unflatten(1, self.small_size).unsqueeze(0).requires_grad_()  # (1, 3, h, w)
        with torch.enable_grad():
            distance = self.perceptual(image)[0]
        (image_gradient,) = torch.autograd.grad(self.perceptual_weight * distance, image)
        image_gradient = image_gradient[0].flatten(1).T  # (h * w, 3)
        chunks = zip(self.small_coordinates.split(PIXEL_CHUNK), image_gradient.split(PIXEL_CHUNK), strict=True)
        for part, part_gradient in chunks:
            with torch.enable_grad():
                rgb = self._colours(A, part)  # (N, 3)
            torch._foreach_add_(gradients, torch.autograd.grad(rgb, inputs, part_gradient))
        return distance.item()

    def _colours(self, A: Tensor, coordinates: Tensor) -> Tensor:
        return synthesize(self.generator, A, coordinates, self.precision)[0]  # (N, 3)
