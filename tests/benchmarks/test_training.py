"""The naive way that a training step is measured against draws the same images."""

import pytest
import torch

from polyinr_hf import PolyINRGenerator
from polyinr_hf.training.image_generator import ImageGenerator, Windows
from training import PlainImageGenerator


def test_the_naive_way_draws_the_same_images_and_is_called_as_ours():
    """By the arguments of a training step, windows among them, which it refuses."""
    torch.manual_seed(0)
    generator = PolyINRGenerator(w_dim=16, channels=16, num_levels=3, num_classes=None)
    arguments = (torch.randn(2, 64), None, 8, None, None)
    with torch.no_grad():
        plain, ours = PlainImageGenerator(generator)(*arguments), ImageGenerator(generator)(*arguments)
    torch.testing.assert_close(plain, ours, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="`stages.0.image_resolution` must be null"):
        PlainImageGenerator(generator)(*arguments[:-1], Windows(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 8))
