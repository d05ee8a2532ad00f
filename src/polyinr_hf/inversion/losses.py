"""How far an image is from its target: pixels and features, in bounded memory.

The loss's gradient with respect to the affine parameters is added up over chunks of pixels, so that memory stays that
of one chunk, however large the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .._lazy import naming_extra
from ..modeling_poly_inr import PolyINRGenerator, pixel_coordinates
from .target import Target

if TYPE_CHECKING:
    from ..feature_networks import FeatureNetwork

PIXEL_CHUNK = 2048  # pixels with a graph at once
PERCEPTUAL_SIDE = 64  # longest side, in pixels, at which features are compared


def synthesize(generator: PolyINRGenerator, A: Tensor, coordinates: Tensor, precision: str) -> Tensor:
    """`generator.synthesize`, (1, N, 3) in float32, its products with the weights in `precision`."""
    if precision == "float32":
        return generator.synthesize(A, coordinates)
    with torch.autocast(generator.device.type, torch.bfloat16):
        return generator.synthesize(A, coordinates).float()


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


class InversionLoss:
    """Mean squared error over the known pixels, plus the perceptual distance at a bounded size.

    Args:
        generator: the model.
        target: the image.
        network: the network of the perceptual distance, or none.
        perceptual_weight: weight of the perceptual distance; that of the mean squared error is 1.
        num_pixels: pixels drawn at random at each evaluation; all known ones if `None` or more than there are.
        perceptual_side: longest side, in pixels, at which features are compared. Every step draws all its pixels twice.
        coordinates: (H * W, 2) of the target's pixels, where they are not those of a whole image.
        precision: `"float32"` or `"bfloat16"`, the dtype of products with the weights; all else is float32.
    """

    def __init__(
        self,
        generator: PolyINRGenerator,
        target: Target,
        network: FeatureNetwork | None = None,
        perceptual_weight: float = 0.0,
        num_pixels: int | None = None,
        perceptual_side: int = PERCEPTUAL_SIDE,
        coordinates: Tensor | None = None,
        precision: str = "float32",
    ):
        self.generator, self.perceptual_weight, self.precision = generator, perceptual_weight, precision
        self.device, self.size = generator.device, target.size
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

        They are with respect to `A`, if it requires a gradient, and to `weights`, parameters of the generator.
        """
        requires_grad = A.requires_grad
        A = A.detach().requires_grad_(requires_grad)
        inputs = [A, *weights] if requires_grad else list(weights)
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
