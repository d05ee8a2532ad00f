"""The bundled model: neighbouring seeds give a name's drawings in turn, each about as often as the others."""

import json
from pathlib import Path

import pytest
import torch

from polyinr_hf import PolyINRPipeline
from polyinr_hf.editing import designs
from polyinr_hf.training.matching import selector

FOLDER = Path(__file__).resolve().parents[1] / "pretrained" / "poly-inr-emoji"
NAMES = ("grinning-face", "octopus", "red-apple", "castle", "rocket", "hamburger")  # three drawings each


@pytest.fixture(scope="module")
def pipeline():
    return PolyINRPipeline.from_pretrained(FOLDER)


def latents(seeds) -> torch.Tensor:
    return torch.stack([torch.randn(256, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@pytest.mark.parametrize("name", NAMES)
def test_seeds_choose_among_a_names_drawings(pipeline, name):
    """A drawing's w is the mean over latents whose selector is in its third; each seed's w is nearest to its own's."""
    generator, label = pipeline.generator, pipeline.labels[name]
    thirds = torch.special.ndtri(torch.tensor([1 / 6, 1 / 2, 5 / 6]))
    z = latents(range(1000, 1020))
    centred = z - selector(z)[:, None] / 16  # sqrt(256)
    with torch.no_grad():
        drawings = torch.stack(
            [generator.map(centred + third / 16, torch.full((20,), label))[:, 0].mean(dim=0) for third in thirds]
        )  # (3, w_dim)
        w = generator.map(latents(range(48)), torch.full((48,), label))[:, 0]
    chosen = torch.cdist(w, drawings).argmin(dim=1)
    expected = (torch.special.ndtr(selector(latents(range(48)))) * 3).long()
    assert (chosen == expected).float().mean() > 0.85
    assert torch.bincount(chosen, minlength=3).min() >= 9
    assert torch.bincount(chosen[:12], minlength=3).max() <= 8  # of seeds 0 to 11


def test_the_showcase_is_of_this_model(pipeline):
    """It has seeds for every name, which show as many designs."""
    showcase = json.loads((FOLDER / "showcase.json").read_text(encoding="utf-8"))
    assert list(showcase["designs"]) == list(pipeline.labels)
    assert {name for name, _ in showcase["opening"]} | set(showcase["recognized"]) < set(pipeline.labels)
    for name in NAMES:
        seeds = showcase["designs"][name]
        assert sorted(seed for group in designs(pipeline, name, seeds) for seed in group) == sorted(seeds)
        assert len(designs(pipeline, name, seeds)) == len(seeds)
