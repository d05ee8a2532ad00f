"""fd_lite0 on real weights and real emoji: it orders images as eyes do."""

import io

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image, ImageFilter

from emoji_sets import rasterize, read_emoji
from polyinr_hf.evaluation.extractors import load_extractor
from polyinr_hf.evaluation.features import Extraction
from polyinr_hf.evaluation.metrics import FeatureSet, frechet_distance

pytestmark = pytest.mark.slow

COUNT = 24


@pytest.fixture(scope="module")
def emoji():
    """Two sets of different emoji, uint8 (COUNT, 3, 64, 64)."""
    chosen = read_emoji(("openmoji",), ("Smileys & Emotion", "Food & Drink"))
    order = np.random.default_rng(0).permutation(len(chosen))[: 2 * COUNT]
    pictures = [Image.open(io.BytesIO(rasterize(chosen[i].svg, 64))).convert("RGB") for i in order]
    return pictures[:COUNT], pictures[COUNT:]


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    extractors = {"lite0": load_extractor("lite0", ["pooled"])}
    extraction = Extraction(extractors, Accelerator(cpu=True), tmp_path_factory.mktemp("cache"))

    def compute(images):
        return FeatureSet.from_features(extraction.extract("lite0", images)["pooled"])

    return compute


@pytest.fixture(scope="module")
def real(emoji, features):
    return features(to_tensor(emoji[0]))


def to_tensor(pictures):
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def test_distance_falls_as_noise_is_taken_off(emoji, features, real):
    images = to_tensor(emoji[0])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    distances = []
    for std in (128, 32, 8):
        noisy = (images + std * noise).round().clamp(0, 255).to(torch.uint8)
        distances.append(frechet_distance(features(noisy), real))
    assert all(more > 1.5 * less for more, less in zip(distances, distances[1:], strict=False)), distances


def test_held_out_emoji_are_nearer_than_blurred_ones(emoji, features, real):
    held_out = features(to_tensor(emoji[1]))
    blurred = features(to_tensor([picture.filter(ImageFilter.GaussianBlur(3)) for picture in emoji[1]]))
    distances = [frechet_distance(images, real) for images in (blurred, held_out)]
    assert distances[0] > 1.5 * distances[1], distances
