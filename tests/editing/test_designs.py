from pathlib import Path

import pytest
import torch

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.editing import designs
from polyinr_hf.editing.seeds import _group

BUNDLED = Path(__file__).resolve().parents[2] / "pretrained" / "poly-inr-emoji"


@pytest.fixture(scope="module")
def pipe() -> PolyINRPipeline:
    torch.manual_seed(0)
    generator = PolyINRGenerator(z_dim=8, w_dim=16, channels=16, num_levels=4, num_classes=1, sample_size=8).eval()
    generator.w_mean.normal_()
    pipe = PolyINRPipeline(generator, {0: "varied"})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_points_on_a_line_are_grouped_around_their_middles():
    points = torch.tensor([0.0, 5.0, 0.2, 9.0, 5.1, 0.3])
    distances = (points[:, None] - points).abs()
    assert _group(distances, 0.25) == [[2, 5, 0], [1, 4], [3]]
    assert _group(distances, 0.0) == [[i] for i in range(6)]
    assert sorted(_group(distances, 10.0)[0]) == list(range(6))


def test_images_that_are_all_different_are_a_design_each(pipe):
    assert designs(pipe, "varied", [4, 2, 2, 9], alike=0) == [[4], [2], [9]]
    assert sorted(sum(designs(pipe, "varied", range(6), alike=2.1), [])) == list(range(6))


def test_truncation_leaves_one_design(pipe):
    (group,) = designs(pipe, "varied", range(5), truncation_psi=0.0)
    assert sorted(group) == list(range(5))


def test_an_unconditional_model_has_designs_too():
    torch.manual_seed(0)
    generator = PolyINRGenerator(z_dim=8, w_dim=16, channels=16, num_levels=4, num_classes=None, sample_size=8).eval()
    assert designs(PolyINRPipeline(generator), None, [3], alike=0.1) == [[3]]


def test_the_bundled_model_has_a_design_for_each_drawing():
    """Seeds of one design have images near each other, those of two are far apart; passages are in none."""
    pipe = PolyINRPipeline.from_pretrained(BUNDLED)
    groups = designs(pipe, "avocado")
    assert len(groups) == 3
    assert 18 <= len(sum(groups, [])) < 24
    firsts = [group[0] for group in groups]
    assert designs(pipe, "avocado", firsts) == [[seed] for seed in firsts]
    assert len(designs(pipe, "avocado", groups[0])) == 1


@pytest.mark.parametrize("arguments, message", [({"alike": -1}, "`alike`"), ({"seeds": []}, "`seeds`")])
def test_what_has_no_designs(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        designs(pipe, "varied", **arguments)
