"""How close a reconstruction is to its image: PSNR, and scikit-image's SSIM."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ._lazy import naming_extra

SSIM = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}  # as Wang et al. (2004) define it


def psnr(reconstructions: Tensor, images: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB of each image, infinite for equal ones.

    Args:
        reconstructions, images: (B, 3, H, W) in [-1, 1]; reconstructions are clipped to it.

    Raises:
        ValueError: Different shapes, or an image outside [-1, 1].
    """
    x, y = _checked(reconstructions, images)
    return (10 * (4 / (x - y).square().mean(dim=(1, 2, 3))).log10()).tolist()  # 4: the range's 2, squared


def ssim(reconstructions: Tensor, images: Tensor) -> list[float]:
    """Structural similarity of each image, 1 for equal ones; Gaussian window of sigma 1.5 (Wang et al. 2004).

    Arguments and errors as `psnr`; images are at least 11 pixels high and wide. Needs scikit-image.
    """
    with naming_extra("ssim", "eval"):
        from skimage.metrics import structural_similarity
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"`images` must be at least 11 x 11 pixels, got {tuple(images.shape)}.")
    similarity: Any = structural_similarity  # scikit-image's types allow for more results
    pairs = zip(*(part.cpu().numpy() for part in _checked(reconstructions, images)), strict=True)
    return [float(similarity(x, y, channel_axis=0, data_range=2, **SSIM)) for x, y in pairs]


def _checked(reconstructions: Tensor, images: Tensor) -> Iterator[Tensor]:
    """Both in float64, reconstructions clipped."""
    if reconstructions.shape != images.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            "`reconstructions` and `images` must have the same shape (B, 3, H, W), got "
            f"{tuple(reconstructions.shape)} and {tuple(images.shape)}."
        )
    if not (images.abs() <= 1).all():
        raise ValueError("`images` must be in [-1, 1], got values outside [-1, 1].")
    if not reconstructions.isfinite().all():
        raise ValueError("`reconstructions` must be finite, got NaN or infinity.")
    return (part.detach().double() for part in (reconstructions.clamp(-1, 1), images))
