"""How close an inversion came to its image: PSNR and SSIM, as in section 4.2 of the paper, over the known pixels."""

import math

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from ..modeling_poly_inr import PolyINRGenerator
from ..reconstruction import SSIM, psnr, ssim
from .result import InversionResult, draw
from .target import Target


@torch.no_grad()
def describe(
    model: PolyINRGenerator,
    target: Target,
    A: Tensor,
    losses: list[float],
    seconds: float,
    settings: dict,
    latent: Tensor | None = None,
) -> InversionResult:
    """How well affine parameters A (1, L, n, 3) draw an image."""
    rendered, image = draw(model, A, *target.size)
    figures = known_psnr(rendered, target), known_ssim(rendered, target)
    return InversionResult(A.cpu(), image, *figures, losses, seconds, settings, latent)


def known_psnr(rendered: Tensor, target: Target) -> float:
    """PSNR in dB of an image (1, 3, H, W) in [-1, 1] over the target's known pixels."""
    known = target.known[0, 0].bool()  # (H, W)
    return psnr(rendered[:, :, known].unsqueeze(2), target.image[:, :, known].unsqueeze(2))[0]


def known_ssim(rendered: Tensor, target: Target) -> float:
    """SSIM of an image (1, 3, H, W) in [-1, 1], a mean over the known pixels; unknown ones are grey in both."""
    if min(target.size) < 11:
        return math.nan
    if target.is_whole:
        return ssim(rendered, target.image)[0]
    pair = [(image * target.known)[0].double().numpy() for image in (rendered, target.image)]
    _, values = structural_similarity(*pair, channel_axis=0, data_range=2, full=True, **SSIM)  # (3, H, W)
    return float(values[:, target.known[0, 0].bool().numpy()].mean())
