"""What happens to an image on its way to the discriminator: a fading blur and differentiable augmentation.

Images are (B, 3, H, W) in [-1, 1]. Everything here is differentiable with respect to the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling_poly_inr import full_precision

# Of the release, for projected GANs; DiffAugment's own cutout is larger, half the side.
TRANSLATION_RATIO = 1 / 8  # largest shift, in image sides
CUTOUT_RATIO = 0.2  # side of the square cut out, in image sides


class DiffAugment:
    """Differentiable augmentation for data-efficient GAN training (Zhao et al., 2020), each image on its own draws.

    All randomness enters as one tensor of uniform numbers, drawn by [`~DiffAugment.sample`] image by image: drawing for
    a batch, or for its parts one after the other from the same generator, gives the same augmentations.

    Args:
        policy (`str` or `Sequence[str]`, defaults to `"color,translation,cutout"`):
            Augmentations in order of application, comma-separated or as a sequence. `"color"`: brightness +-0.5,
            then saturation x0..2, then contrast x0.5..1.5. `"translation"`: by up to 1/8 of the side, zeros moving in.
            `"cutout"`: a square of 0.2 of the side set to zero. An empty policy leaves images as they are.

    Raises:
        ValueError: if the policy names an augmentation that does not exist, or one twice.
    """

    def __init__(self, policy: str | Sequence[str] = ("color", "translation", "cutout")):
        names = policy.split(",") if isinstance(policy, str) else policy
        self.policy = tuple(name.strip() for name in names if name.strip())
        unknown = [name for name in self.policy if name not in _AUGMENTATIONS]
        if unknown or len(set(self.policy)) < len(self.policy):
            raise ValueError(f"`policy` must be of {', '.join(_AUGMENTATIONS)}, each once at most, got {policy!r}.")
        self.num_draws = sum(_AUGMENTATIONS[name][1] for name in self.policy)

    def sample(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws (batch_size, num_draws) uniform numbers in [0, 1), on the generator's device if one is given."""
        source = generator.device if generator is not None else device
        return torch.rand(batch_size, self.num_draws, generator=generator, device=source).to(device)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augments images (B, 3, H, W) by uniform draws (B, num_draws)."""
        start = 0
        for name in self.policy:
            augment, width = _AUGMENTATIONS[name]
            images = augment(images, draws[:, start : start + width])  # (B, 3, H, W)
            start += width
        return images

    def __repr__(self) -> str:
        return f"DiffAugment({','.join(self.policy)!r})"


def _color(images: Tensor, draws: Tensor) -> Tensor:
    brightness, saturation, contrast = draws[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1) each
    images = images + (brightness - 0.5)
    gray = images.mean(dim=1, keepdim=True)  # (B, 1, H, W)
    images = gray + (images - gray) * (2 * saturation)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1)
    return mean + (images - mean) * (0.5 + contrast)


def _translation(images: Tensor, draws: Tensor) -> Tensor:
    height, width = images.shape[2:]
    reach_rows, reach_columns = _round_half_up(height * TRANSLATION_RATIO), _round_half_up(width * TRANSLATION_RATIO)
    rows = _integers(draws[:, 0], 2 * reach_rows + 1)[:, None] + torch.arange(height, device=images.device)  # (B, H)
    columns = _integers(draws[:, 1], 2 * reach_columns + 1)[:, None] + torch.arange(width, device=images.device)
    images = F.pad(images, (reach_columns, reach_columns, reach_rows, reach_rows))
    images = images.gather(2, rows[:, None, :, None].expand(-1, images.shape[1], -1, images.shape[3]))
    return images.gather(3, columns[:, None, None, :].expand(-1, images.shape[1], height, -1))  # (B, 3, H, W)


def _cutout(images: Tensor, draws: Tensor) -> Tensor:
    height, width = images.shape[2:]
    rows = _in_cut(draws[:, 0], height)  # (B, H)
    columns = _in_cut(draws[:, 1], width)  # (B, W)
    cut = (rows[:, :, None] & columns[:, None, :])[:, None]  # (B, 1, H, W)
    return images.masked_fill(cut, 0)


def _in_cut(draw: Tensor, size: int) -> Tensor:
    """Which positions 0..size-1 lie in the cut whose center is drawn: (B,) -> (B, size); a cut may overlap the edge."""
    cut = _round_half_up(size * CUTOUT_RATIO)
    center = _integers(draw, size + 1 - cut % 2)  # an even cut is centerd between pixels: one more place for it
    offset = torch.arange(size, device=draw.device) - (center - cut // 2)[:, None]
    return (offset >= 0) & (offset < cut)


def _integers(draw: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) to integers 0..count-1."""
    return (draw.float() * count).long().clamp(max=count - 1)


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


# name -> (function of images and draws, draws per image)
_AUGMENTATIONS = {"color": (_color, 3), "translation": (_translation, 2), "cutout": (_cutout, 2)}


def gaussian_kernel(sigma: float, device: torch.device | str | None = None) -> Tensor:
    """The release's blur kernel: `2^-(x / sigma)^2` on integers |x| <= floor(3 sigma), summing to 1; `sigma` in pixels.

    (Base 2, so its standard deviation is 0.85 sigma.)
    """
    reach = math.floor(3 * sigma)
    if reach == 0:
        return torch.ones(1, device=device)
    kernel = torch.arange(-reach, reach + 1, device=device, dtype=torch.float32).div(sigma).square().neg().exp2()
    return kernel / kernel.sum()  # (2 floor(3 sigma) + 1,)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blurs images (B, C, H, W) along both axes with [`gaussian_kernel`]; outside the image is zero (mid gray).

    A `sigma` below 1/3 pixel leaves images as they are.

    Raises:
        ValueError: if `sigma` is negative.
    """
    if sigma < 0:
        raise ValueError(f"`sigma` must be 0 or more pixels, got {sigma}.")
    if math.floor(3 * sigma) == 0:
        return images
    batch, channels, height, width = images.shape
    kernel = gaussian_kernel(sigma, device=images.device)
    reach = len(kernel) // 2
    with full_precision(images.device):  # the discriminator judges pixels: keep them exact
        blurred = images.float().reshape(batch * channels, 1, height, width)
        blurred = F.conv2d(blurred, kernel.view(1, 1, -1, 1), padding=(reach, 0))
        blurred = F.conv2d(blurred, kernel.view(1, 1, 1, -1), padding=(0, reach))
    return blurred.view(batch, channels, height, width).to(images.dtype)
