"""What an inversion aims at: an image, which of its pixels are known, and how far from it another one is.

The loss's gradients are added up over chunks of pixels, so that memory stays that of one chunk, whatever the size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

from .._lazy import naming_extra
from ..devices import autocast
from ..files import tensor_digest
from ..images import SSIM, psnr, ssim, to_float, to_rgb
from ..modeling_poly_inr import PolyINRGenerator, pixel_coordinates

if TYPE_CHECKING:
    from ..feature_networks import FeatureNetwork

PIXEL_CHUNK = 2048  # pixels with a graph at once: memory against calls (not tuned)
PERCEPTUAL_SIDE = 64  # longest side, in pixels, at which features are compared: each step draws all of them twice


# --- the image --------------------------------------------------------------------------------------------------------


@dataclass
class Target:
    """An image to be inverted.

    Args:
        image: (1, 3, H, W) float32 in [-1, 1], on the CPU; zero where unknown.
        known: (1, 1, H, W) float32, 1 where the image is known and 0 elsewhere.
        coordinates: (H * W, 2) of the pixels, (row, column).
    """

    image: Tensor
    known: Tensor
    coordinates: Tensor

    @classmethod
    def prepare(cls, image: Image.Image | Tensor, mask: Image.Image | Tensor | np.ndarray | None = None) -> Target:
        """Checks an image and a mask; arguments as in [`~polyinr_hf.inversion.invert`].

        Raises:
            ValueError: For an image or mask of a wrong kind, shape or range, or a mask without a known pixel.
        """
        if isinstance(image, Image.Image):
            image = torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)  # (3, H, W)
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
        size = pixels.shape[2], pixels.shape[3]
        known = torch.ones(1, 1, *size, dtype=torch.bool) if mask is None else _known_pixels(mask, *size)
        pixels = torch.where(known, pixels.float(), 0.0)  # from here on, nothing of the unknown pixels is left
        if not (pixels.abs() <= 1).all():
            raise ValueError("`image` must be finite and in [-1, 1], or uint8, got other values in it.")
        return cls(pixels, known.float(), pixel_coordinates(*size))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.shape[2], self.image.shape[3]

    @property
    def is_whole(self) -> bool:
        return bool(self.known.all())

    def downscaled(self, max_side: int) -> Target:
        """The image with no side longer than `max_side`; its pixels' coordinates are those of what they average.

        A pixel is known if half of what it averages is, and averages only that.
        """
        height, width = self.size
        factor = min(1.0, max_side / max(height, width))
        small = (max(1, round(height * factor)), max(1, round(width * factor)))
        if small == (height, width):
            return self
        cover = _shrink(self.known, small)
        image = torch.where(cover >= 0.5, _shrink(self.image, small) / cover.clamp(min=0.5), 0.0)
        known = (cover >= 0.5).float()
        if not known.any():  # only specks are known
            known = (cover == cover.max()).float()
            image = known * _shrink(self.image, small) / cover.max()
        # Pixel centers of the small image, in units where those of the large one's corners are 0 and 1.
        top, left = (
            (0.5 * full / part - 0.5) / (full - 1) if part < full else 0.0
            for full, part in zip((height, width), small, strict=True)
        )
        extent = [top, left, 1 - top, 1 - left]
        for axis in (0, 1):  # a lone row is taken from the middle of any extent
            if small[axis] == 1:
                extent[axis], extent[axis + 2] = 0.0, 1.0
        return Target(image.clamp(-1, 1), known, pixel_coordinates(*small, tuple(extent)))

    def small_copies(self, side: int | None) -> list[Target]:
        """`downscaled` to `side`, 2 `side`, 4 `side` ... pixels, as long as that is smaller; none without `side`."""
        sides = []
        while side is not None and side < max(self.size):
            sides.append(side)
            side *= 2
        return [self.downscaled(side) for side in sides]

    def digest(self) -> str:
        """A fingerprint of the image and the mask."""
        return tensor_digest(torch.cat([self.image, self.known], dim=1))

    def psnr(self, drawn: Tensor) -> float:
        """PSNR in dB of an image (1, 3, H, W) in [-1, 1] over the known pixels."""
        known = self.known[0, 0].bool()  # (H, W)
        return psnr(drawn[:, :, known].unsqueeze(2), self.image[:, :, known].unsqueeze(2))[0]

    def ssim(self, drawn: Tensor) -> float:
        """SSIM of an image (1, 3, H, W) in [-1, 1], a mean over the known pixels; unknown ones are gray in both.

        NaN under 11 pixels, the window's size.
        """
        if min(self.size) < 11:
            return math.nan
        if self.is_whole:
            return ssim(drawn, self.image)[0]
        pair = [(image * self.known)[0].double().numpy() for image in (drawn, self.image)]
        similarity: Any = structural_similarity  # scikit-image's types allow for more results
        _, values = similarity(*pair, channel_axis=0, data_range=2, full=True, **SSIM)  # (3, H, W)
        return float(values[:, self.known[0, 0].bool().numpy()].mean())


def _known_pixels(mask: Image.Image | Tensor | np.ndarray, height: int, width: int) -> Tensor:
    """(1, 1, H, W) bool, of a mask as users give it."""
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L")) / 255
    if not isinstance(mask, (Tensor, np.ndarray)):
        raise ValueError(f"`mask` must be a PIL image, a tensor or an array, got {type(mask).__name__}.")
    mask = torch.as_tensor(mask).detach().cpu()
    shape = tuple(mask.shape)
    if shape not in ((height, width), (1, height, width), (1, 1, height, width)):
        raise ValueError(f"`mask` must be as large as the image, {height} x {width} pixels, got {shape}.")
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError("`mask` must be in 0..1, 1 where the image is known, got other values in it.")
    known = mask.reshape(1, 1, height, width) >= 0.5
    if not known.any():
        raise ValueError("`mask` must be 1 where the image is known, got 0 everywhere: no pixel is known.")
    return known


def _shrink(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


# --- how far an image is from it --------------------------------------------------------------------------------------


def synthesize(generator: PolyINRGenerator, A: Tensor, coordinates: Tensor, precision: str) -> Tensor:
    """`generator.synthesize`, (1, N, 3) in float32, its products with the weights in `precision`."""
    if precision == "float32":
        return generator.synthesize(A, coordinates)
    with autocast(torch.bfloat16, generator.device):
        return generator.synthesize(A, coordinates).float()


def load_perceptual_network(
    backbone: str | FeatureNetwork | None, weights: str | Path | None, device: torch.device
) -> FeatureNetwork | None:
    """A frozen timm network by its name, as it is, or none; errors as in `load_feature_network`.

    Only this needs timm: pixels alone are compared without it.
    """
    if backbone is None:
        return None
    with naming_extra("`backbone`", "eval", ", or give None (in a script, none) to compare pixels alone"):
        from ..feature_networks import FeatureNetwork, load_feature_network

    if isinstance(backbone, str):
        backbone = load_feature_network(backbone, weights, feature_resolution=128)
    elif not isinstance(backbone, FeatureNetwork):
        raise ValueError(f"`backbone` must be a timm name, a FeatureNetwork or None, got {type(backbone).__name__}.")
    return backbone.to(device)


def backbone_name(network: FeatureNetwork | None) -> str | None:
    """timm's name of the network whose features are compared."""
    return network and network.backbone.pretrained_cfg.get("architecture", type(network.backbone).__name__)


class PerceptualLoss:
    """Distance of two images' features, each unit-normalized over channels and averaged over maps (after LPIPS).

    Unknown pixels are painted gray in both images.

    Args:
        network: See [`load_perceptual_network`].
        target: The image; the network is on `device`.
    """

    def __init__(self, network: FeatureNetwork, target: Target, device: torch.device):
        self.network, self.known = network, target.known.to(device)
        with torch.no_grad():
            self.features = self._features(target.image.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, 3, h, w) nominally in [-1, 1] -> (B,), 0 for equal images."""
        pairs = zip(self._features(images), self.features, strict=True)
        return torch.stack([(x - y).square().sum(dim=1).mean(dim=(1, 2)) for x, y in pairs]).mean(dim=0)  # (B,)

    def _features(self, images: Tensor) -> list[Tensor]:
        return [F.normalize(features, dim=1) for features in self.network(images * self.known)]


class InversionLoss:
    """Mean squared error over the known pixels, plus the perceptual distance at `PERCEPTUAL_SIDE` pixels.

    Args:
        generator: The model.
        target: The image.
        network: The network of the perceptual distance, or none.
        perceptual_weight: Weight of the perceptual distance; that of the mean squared error is 1.
        num_pixels: Pixels chosen at random at each evaluation; all known ones if `None` or more than there are.
        precision: `"float32"` or `"bfloat16"`, the dtype of products with the weights; all else is float32.
    """

    def __init__(
        self,
        generator: PolyINRGenerator,
        target: Target,
        network: FeatureNetwork | None = None,
        perceptual_weight: float = 0.0,
        num_pixels: int | None = None,
        precision: str = "float32",
    ):
        self.generator, self.perceptual_weight, self.precision = generator, perceptual_weight, precision
        self.device, self.size, self.coordinates = generator.device, target.size, target.coordinates  # (H * W, 2)
        self.known = target.known.flatten().nonzero().squeeze(1)  # (K,)
        self.colors = target.image.flatten(2)[0].T  # (H * W, 3)
        self.num_pixels = None if num_pixels is None or num_pixels >= len(self.known) else num_pixels
        self.perceptual = None
        small = target.downscaled(PERCEPTUAL_SIDE)
        self.small_size, self.small_coordinates = small.size, small.coordinates.to(self.device)
        if network is not None and perceptual_weight > 0:
            self.perceptual = PerceptualLoss(network, small, self.device)

    def sample_pixels(self, random: torch.Generator) -> Tensor:
        """Indices (N,) of this evaluation's pixels among H * W."""
        if self.num_pixels is None:
            return self.known
        return self.known[torch.randperm(len(self.known), generator=random)[: self.num_pixels]]

    def __call__(
        self, A: Tensor, pixels: Tensor, perceptual: bool = True, weights: Sequence[Tensor] = ()
    ) -> tuple[float, list[Tensor]]:
        """The loss at affine parameters A (1, L, n, 3), over `sample_pixels`'s pixels, and its gradients.

        They are with respect to `A`, if it requires a gradient, and to `weights`, parameters of the generator.
        """
        requires_grad = A.requires_grad
        A = A.detach().requires_grad_(requires_grad)
        inputs = [A, *weights] if requires_grad else list(weights)
        gradients = [torch.zeros_like(tensor) for tensor in inputs]
        loss = 0.0
        for part in pixels.split(PIXEL_CHUNK):
            with torch.enable_grad():
                rgb = self._draw(A, self.coordinates[part].to(self.device))  # (N, 3)
                error = (rgb - self.colors[part].to(self.device)).square().sum() / (3 * len(pixels))
            torch._foreach_add_(gradients, torch.autograd.grad(error, inputs))
            loss += error.item()
        if perceptual and self.perceptual is not None:
            loss += self.perceptual_weight * self._add_perceptual(self.perceptual, A, inputs, gradients)
        return loss, gradients

    def _add_perceptual(
        self, perceptual: PerceptualLoss, A: Tensor, inputs: list[Tensor], gradients: list[Tensor]
    ) -> float:
        # First without a graph; then the gradient with respect to the colors goes back chunk by chunk.
        parts = self.small_coordinates.split(PIXEL_CHUNK)
        with torch.no_grad():
            rgb = torch.cat([self._draw(A, part) for part in parts])  # (h * w, 3)
        image = rgb.T.unflatten(1, self.small_size).unsqueeze(0).requires_grad_()  # (1, 3, h, w)
        with torch.enable_grad():
            distance = perceptual(image)[0]
        (image_gradient,) = torch.autograd.grad(self.perceptual_weight * distance, image)
        rgb_gradients = image_gradient[0].flatten(1).T.split(PIXEL_CHUNK)  # of (N, 3)
        for part, rgb_gradient in zip(parts, rgb_gradients, strict=True):
            with torch.enable_grad():
                rgb = self._draw(A, part)  # (N, 3)
            torch._foreach_add_(gradients, torch.autograd.grad(rgb, inputs, rgb_gradient))
        return distance.item()

    def _draw(self, A: Tensor, coordinates: Tensor) -> Tensor:
        return synthesize(self.generator, A, coordinates, self.precision)[0]  # (N, 3)
