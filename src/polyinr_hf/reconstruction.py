"""How close a reconstruction is to its image: PSNR and SSIM, scikit-image's."""

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor


def psnr(reconstructions: Tensor, images: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB of each image, infinite for equal ones.

    Args:
        reconstructions, images: (B, 3, H, W) in [-1, 1]; reconstructions are clipped to it.

    Raises:
        ValueError: different shapes, or an image outside [-1, 1].
    """
    with np.errstate(divide="ignore"):
        return [float(peak_signal_noise_ratio(y, x, data_range=2)) for x, y in _pairs(reconstructions, images)]


def ssim(reconstructions: Tensor, images: Tensor) -> list[float]:
    """Structural similarity of each image, 1 for equal ones; Gaussian window of sigma 1.5 (Wang et al. 2004).

    Arguments and errors as `psnr`; images are at least 11 pixels high and wide.
    """
    if min(images.shape[-2:]) < 11:
        raise ValueError(f"images: {tuple(images.shape)} given, at least 11 x 11 pixels needed")
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return [
        float(structural_similarity(y, x, channel_axis=0, data_range=2, **options))
        for x, y in _pairs(reconstructions, images)
    ]


def _pairs(reconstructions: Tensor, images: Tensor):
    if reconstructions.shape != images.shape or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"reconstructions, images: {tuple(reconstructions.shape)} and {tuple(images.shape)} given, "
            "the same (B, 3, H, W) needed"
        )
    if not (images.abs() <= 1).all():
        raise ValueError("images: there are values outside [-1, 1]")
    if not reconstructions.isfinite().all():
        raise ValueError("reconstructions: there are NaN or infinite values")
    x, y = reconstructions.detach().clamp(-1, 1).double().cpu().numpy(), images.detach().double().cpu().numpy()
    return zip(x, y, strict=True)
