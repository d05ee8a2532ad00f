"""Images are numbers that were computed: no NaN, no memory that nobody wrote."""

import pytest
import torch

from polyinr_hf import PolyINRGenerator


def make(**options):
    torch.manual_seed(0)
    return PolyINRGenerator(
        **({"channels": 32, "num_levels": 10, "num_classes": None, "sample_size": 16} | options)
    ).eval()


@torch.no_grad()
def encode(generator):
    return generator.affine(generator.map(torch.randn(2, 64, generator=torch.Generator().manual_seed(1))))


@pytest.mark.parametrize("options", [{}, {"compose_coordinates": False, "modulation_activation": "none"}])
@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_float16_is_finite_far_beyond_the_border(options, tolerance):
    generator = make(**options)
    A = encode(generator)
    exact = generator.render(A, 48, 48, (0, 0, 1, 1))
    half = generator.half()
    drawn = half.render(A, 48, 48, (-50, -50, 51, 51), tolerance=tolerance)
    assert torch.isfinite(drawn).all() and drawn.float().std() > 0
    assert (half.render(A, 48, 48).float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_largest_product_of_float16_is_kept_finite_with_a_graph_too():
    generator = make().half()
    A = (1e4 * encode(generator.float())).requires_grad_()
    generator.half()
    rgb = generator.synthesize(A, torch.tensor([[50.0, -50.0], [0.5, 0.5]]))
    assert torch.isfinite(rgb).all()


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
def test_nan_parameters_and_weights_are_an_error(tolerance):
    generator = make()
    A = encode(generator)
    broken = A.clone()
    broken[0, 3, 2, 1] = float("nan")
    with pytest.raises(ValueError, match="`affine_parameters` must be finite"):
        generator.render(broken, 8, 8, tolerance=tolerance)
    with torch.no_grad():
        generator.synthesis_levels[4].bias[3] = float("nan")
    with pytest.raises(ValueError, match=r"weights that do: synthesis_levels\.4\.bias\."):
        generator.render(A, 8, 8, tolerance=tolerance)


@pytest.mark.parametrize("tolerance", [0.0, 0.1])
@pytest.mark.parametrize("name", ["to_rgb", "synthesis_levels.0", "synthesis_levels.5"])
def test_weights_that_were_never_loaded_draw_nothing(name, tolerance):
    generator = make()
    A = encode(generator)
    generator.get_submodule(name).to("meta")
    with pytest.raises((ValueError, RuntimeError), match="meta"):
        generator.render(A, 8, 8, tolerance=tolerance)
