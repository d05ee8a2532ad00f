"""Augmentation and blur, each against its definition written out pixel by pixel."""

import math

import pytest
import torch

from polyinr_hf.training.augmentation import DiffAugment, gaussian_blur, gaussian_kernel
from polyinr_hf.training.step import blur_sigma_at


def make_images(batch=4, height=20, width=28):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make_draws(augment, batch=4):
    return augment.sample(batch, torch.Generator().manual_seed(1))


def test_color_is_brightness_then_saturation_then_contrast():
    images, augment = make_images(), DiffAugment("color")
    draws = make_draws(augment)
    for image, result, (brightness, saturation, contrast) in zip(images, augment(images, draws), draws, strict=True):
        bright = image + brightness - 0.5
        grey = (bright[0] + bright[1] + bright[2]) / 3
        saturated = torch.stack([grey + 2 * saturation * (channel - grey) for channel in bright])
        expected = saturated.mean() + (contrast + 0.5) * (saturated - saturated.mean())
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(("draw", "shift"), [(0.0, -3), (0.5, 0), (0.999999, 3)])
def test_translation_moves_up_to_an_eighth_and_fills_with_zeros(draw, shift):
    images = make_images(1, 24, 24)
    result = DiffAugment("translation")(images, torch.tensor([[draw, 0.5]]))
    expected = torch.zeros_like(images)
    for row in range(24):
        if 0 <= row + shift < 24:
            expected[:, :, row] = images[:, :, row + shift]
    assert torch.equal(result, expected)
    result = DiffAugment("translation")(images, torch.tensor([[0.5, draw]]))
    assert torch.equal(result.mT, DiffAugment("translation")(images.mT, torch.tensor([[draw, 0.5]])))


def test_translation_draws_every_shift_alike():
    images = torch.zeros(2000, 3, 16, 16)
    images[:, :, 8, 8] = 1
    augment = DiffAugment("translation")
    moved = augment(images, make_draws(augment, 2000))[:, 0].flatten(1).argmax(dim=1)
    counts = torch.bincount(moved // 16, minlength=16)
    assert counts.nonzero().flatten().tolist() == [6, 7, 8, 9, 10]
    assert (counts[6:11] - 400).abs().max() < 5 * math.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.parametrize(("draw", "first", "last"), [(0.0, 0, 1), (0.5, 8, 11), (0.999999, 18, 19)])
def test_cutout_zeroes_a_square_of_a_fifth(draw, first, last):
    images = make_images(1, 20, 20)
    result = DiffAugment("cutout")(images, torch.tensor([[draw, 0.5]]))
    expected = images.clone()
    expected[:, :, first : last + 1, 8:12] = 0
    assert torch.equal(result, expected)


def test_policy_is_applied_in_its_order():
    images = make_images()
    both = DiffAugment("cutout, color")
    draws = make_draws(both)
    cut = DiffAugment(["cutout"])(images, draws[:, :2])
    assert torch.equal(both(images, draws), DiffAugment(("color",))(cut, draws[:, 2:]))


@pytest.mark.parametrize("policy", ["colour", ("color", "color"), "color,flip"])
def test_policy_must_name_known_augmentations_once(policy):
    with pytest.raises(ValueError, match="policy.*color, translation, cutout"):
        DiffAugment(policy)


def test_empty_policy_changes_nothing():
    images, augment = make_images(), DiffAugment("")
    assert augment.num_draws == 0
    assert torch.equal(augment(images, make_draws(augment)), images)


def test_a_seed_fixes_the_augmentation_and_a_cut_batch_gets_the_same():
    images, augment = make_images(), DiffAugment()
    whole = augment(images, make_draws(augment))
    generator = torch.Generator().manual_seed(1)
    parts = [augment(part, augment.sample(len(part), generator)) for part in images.split(2)]
    assert torch.equal(whole, torch.cat(parts))
    same = augment(images[:1].expand(4, -1, -1, -1), make_draws(augment))
    assert not torch.equal(same[0], same[1])


def test_gradients_reach_the_pixels_that_stay_in_sight():
    images = make_images(1, 16, 16).requires_grad_()
    augment = DiffAugment("translation,cutout")
    augment(images, torch.tensor([[0.0, 0.5, 0.5, 0.5]])).sum().backward()
    expected = torch.ones(1, 3, 16, 16)
    expected[:, :, 14:] = 0  # moved down by two rows, the last two leave
    expected[:, :, 5:8, 7:10] = 0  # the cut, rows and columns 7..9 of the moved image
    assert torch.equal(images.grad, expected)

    images = make_images(2, 4, 4).double().requires_grad_()
    draws = torch.rand(2, 3, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda x: DiffAugment("color")(x, draws), images)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 1.7, 2.0])
def test_kernel_is_a_power_of_two_cut_at_three_sigma(sigma):
    weights = [2.0 ** -((x / sigma) ** 2) for x in range(-int(3 * sigma), int(3 * sigma) + 1)]
    expected = torch.tensor([weight / sum(weights) for weight in weights])
    torch.testing.assert_close(gaussian_kernel(sigma), expected)


def test_blur_is_the_kernel_along_both_axes_with_zeros_outside():
    image, sigma = make_images(1, 7, 9), 0.9
    kernel = gaussian_kernel(sigma).tolist()
    expected = torch.zeros_like(image)
    for row in range(7):
        for column in range(9):
            for i in range(-2, 3):
                for j in range(-2, 3):
                    if 0 <= row + i < 7 and 0 <= column + j < 9:
                        expected[..., row, column] += kernel[i + 2] * kernel[j + 2] * image[..., row + i, column + j]
    torch.testing.assert_close(gaussian_blur(image, sigma), expected)


def test_blur_below_a_third_of_a_pixel_is_none_and_negative_is_an_error():
    images = make_images()
    assert gaussian_blur(images, 0.0) is images
    assert gaussian_blur(images, 0.33) is images
    with pytest.raises(ValueError, match="`sigma` must be 0 or more pixels, got -1"):
        gaussian_blur(images, -1)


def test_blur_keeps_full_precision_under_autocast():
    images = make_images()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        blurred = gaussian_blur(images, 2.0)
    assert torch.equal(blurred, gaussian_blur(images, 2.0))


@pytest.mark.parametrize(("kimg", "sigma"), [(0, 2.0), (75, 1.5), (150, 1.0), (300, 0.0), (1000, 0.0)])
def test_blur_fades_linearly_over_300_kimg(kimg, sigma):
    assert blur_sigma_at(kimg) == pytest.approx(sigma)


def test_blur_fade_is_configurable():
    assert blur_sigma_at(20, initial_sigma=3.0, fade_kimg=40) == pytest.approx(1.5)
    assert blur_sigma_at(0, fade_kimg=0) == 0
