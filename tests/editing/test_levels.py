import copy

import pytest
import torch
from PIL import Image

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.editing.levels import colorize, heat_maps, level_figure, prefix_images
from polyinr_hf.modeling_poly_inr import pixel_coordinates

SIZE, LEVELS, CHANNELS = 10, 3, 16


@pytest.fixture(scope="module")
def pipe() -> PolyINRPipeline:
    torch.manual_seed(0)
    model = PolyINRGenerator(8, 16, CHANNELS, num_levels=LEVELS, num_classes=None, sample_size=SIZE)
    return PolyINRPipeline(model.eval())


@pytest.fixture(scope="module")
def A(pipe) -> torch.Tensor:
    return pipe.encode(num_images_per_label=2, generator=torch.Generator().manual_seed(0))


def assert_same(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def test_heat_maps_weigh_channels_by_their_mean(pipe, A):
    maps = heat_maps(pipe.generator, A, height=6, width=7)
    assert maps.shape == (2, LEVELS, 6, 7)
    assert not maps.requires_grad
    coordinates = pixel_coordinates(6, 7)
    for level, x in enumerate(pipe.generator.features(A, coordinates)):  # (B, N, n)
        for image in range(2):
            weighted = torch.zeros(42)
            for channel in range(CHANNELS):
                weighted += x[image, :, channel].mean() * x[image, :, channel]
            scaled = (weighted - weighted.min()) / (weighted.max() - weighted.min())
            assert_same(maps[image, level].flatten(), scaled.detach())
    assert maps.amin(dim=(2, 3)).eq(0).all()
    assert maps.amax(dim=(2, 3)).eq(1).all()


def test_heat_maps_at_a_larger_size_are_of_the_same_image(pipe, A):
    small = heat_maps(pipe.generator, A, 21, 21)
    large = heat_maps(pipe.generator, A, 41, 41)
    assert (small - large[:, :, ::2, ::2]).abs().mean() < 0.02
    part = heat_maps(pipe.generator, A, 11, 11, extent=(0, 0, 0.5, 0.5))
    assert not torch.allclose(part, small[:, :, :11, :11], atol=1e-3)


def test_a_flat_level_has_a_map_of_zeros(pipe):
    flat = torch.zeros(1, LEVELS, CHANNELS, 3)
    flat[..., 2] = 1  # the modulation is 1 everywhere
    assert torch.equal(heat_maps(pipe.generator, flat), torch.zeros(1, LEVELS, SIZE, SIZE))


def test_prefix_images_pass_features_through(pipe, A):
    images = prefix_images(pipe.generator, A, 6, 7, extent=(-0.5, 0, 1, 2))
    assert images.shape == (2, LEVELS, 3, 6, 7)
    assert_same(images[:, -1], pipe.generator.render(A, 6, 7, extent=(-0.5, 0, 1, 2)))
    features = list(pipe.generator.features(A, pixel_coordinates(6, 7, (-0.5, 0, 1, 2))))
    expected = pipe.generator.to_rgb(features[1]).transpose(1, 2).unflatten(2, (6, 7))
    assert_same(images[:, 1], expected.detach())


@pytest.mark.parametrize("function", [heat_maps, prefix_images])
def test_chunks_change_nothing_and_bound_what_is_held(pipe, A, monkeypatch, function):
    whole = function(pipe.generator, A)
    sizes, done = [], []
    features = pipe.generator.features
    monkeypatch.setattr(
        pipe.generator, "features", lambda A, chunk: sizes.append(len(A) * len(chunk)) or features(A, chunk)
    )
    chunked = function(pipe.generator, A, chunk_size=14, callback=lambda *counts: done.append(counts))
    assert_same(chunked, whole)
    assert max(sizes) == 14
    passes = 2 if function is heat_maps else 1
    assert sum(sizes) == passes * 2 * SIZE**2
    assert done[0] == (7, passes * SIZE**2)
    assert done[-1] == (passes * SIZE**2, passes * SIZE**2)


@pytest.mark.parametrize("function", [heat_maps, prefix_images])
def test_in_bfloat16(pipe, A, function):
    exact = function(pipe.generator, A)
    result = function(copy.deepcopy(pipe.generator).to(torch.bfloat16), A)
    assert result.dtype == torch.float32
    assert 0 < (result - exact).abs().mean() < 0.05


@pytest.mark.parametrize("function", [heat_maps, prefix_images])
@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"affine_parameters": torch.zeros(1, 5, CHANNELS, 3)}, r"\(B, 3, 16, 3\).*\(1, 5, 16, 3\)"),
        ({"height": 0}, "`height`"),
        ({"extent": (0, 0, 0, 1)}, "`extent`"),
        ({"chunk_size": 0}, "`chunk_size`.*0"),
    ],
)
def test_bad_input(pipe, A, function, kwargs, message):
    with pytest.raises(ValueError, match=message):
        function(pipe.generator, **{"affine_parameters": A, **kwargs})


def test_colors():
    (image,) = colorize(torch.tensor([[[0.0, 0.25, 0.5, 0.75, 1.0]]]))
    assert [image.getpixel((x, 0)) for x in range(5)] == [
        (0, 0, 128),
        (0, 128, 255),
        (128, 255, 128),
        (255, 128, 0),
        (128, 0, 0),
    ]
    with pytest.raises(ValueError, match="`maps`"):
        colorize(torch.tensor([[[1.1]]]))
    with pytest.raises(ValueError, match="`maps`.*(2, 2)"):
        colorize(torch.zeros(2, 2))


def test_level_figure(pipe, A):
    done = []
    figure = level_figure(pipe, A, height=6, width=7, callback=lambda *counts: done.append(counts))
    heat, after = 18 + 6 + 18, 18 + 6  # rows of pixels: a title above each row, names below the heat maps
    assert figure.size == (LEVELS * 7, 2 * (heat + after))
    pictures = colorize(heat_maps(pipe.generator, A, 6, 7)[1])
    top = heat + after + 18
    assert figure.crop((7, top, 14, top + 6)) == pictures[1]
    last = pipe(affine_parameters=A[1:], height=6, width=7).images[0]
    top = 2 * heat + after + 18
    corner = figure.crop((14, top, 21, top + 6))
    assert max(abs(a - b) for a, b in zip(corner.tobytes(), last.tobytes(), strict=True)) <= 1
    assert [count for count, _ in done] == sorted(count for count, _ in done)
    assert done[-1] == (3 * 42, 3 * 42)
    assert isinstance(figure, Image.Image)
