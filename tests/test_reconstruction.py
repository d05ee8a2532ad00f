import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from polyinr_hf.evaluation import psnr, ssim


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 24, 20, generator=generator) * 2 - 1
    return (images + 0.2 * torch.randn(images.shape, generator=generator)).clamp(-1, 1), images


def test_psnr(pair):
    expected = [10 * np.log10(4 / ((y - x).numpy().astype(float) ** 2).mean()) for y, x in zip(*pair, strict=True)]
    assert psnr(*pair) == pytest.approx(expected)
    flat = torch.zeros(1, 3, 12, 12)
    assert psnr(flat + 0.02, flat) == pytest.approx([40])  # a hundredth of the range
    assert psnr(flat + 5, flat + 1) == [float("inf")]  # clipped to what can be shown


def test_ssim(pair):
    def structure(y, x):
        def blur(z):
            return gaussian_filter(z, 1.5, truncate=3.5)

        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        covariance = blur(x * y) - blur(x) * blur(y)
        variances = blur(x * x) - blur(x) ** 2 + blur(y * y) - blur(y) ** 2
        means = 2 * blur(x) * blur(y) + c1, blur(x) ** 2 + blur(y) ** 2 + c1
        values = means[0] * (2 * covariance + c2) / (means[1] * (variances + c2))
        return values[5:-5, 5:-5].mean()  # where the window is whole

    expected = [
        np.mean([structure(b, a) for b, a in zip(y, x, strict=True)])
        for y, x in zip(*(images.double().numpy() for images in pair), strict=True)
    ]
    assert ssim(*pair) == pytest.approx(expected, abs=1e-6)
    assert ssim(pair[1], pair[1]) == pytest.approx([1, 1])


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_errors(measure, pair):
    y, x = pair
    with pytest.raises(ValueError, match="the same shape"):
        measure(y[:, :, 1:], x)
    with pytest.raises(ValueError, match=r"outside \[-1, 1\]"):
        measure(y, x * 255)
    with pytest.raises(ValueError, match="NaN"):
        measure(y * float("nan"), x)


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))
