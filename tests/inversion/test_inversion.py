"""Inversion: affine parameters, w or z of an image, with the weights fixed."""

import copy
import dataclasses
import io
import itertools
import math
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from polyinr_hf import PolyINRGenerator, PolyINRPipeline, inversion
from polyinr_hf.devices import KNOWN, Device
from polyinr_hf.feature_networks import load_feature_network
from polyinr_hf.images import load_photo, psnr, ssim
from polyinr_hf.inversion import InversionSettings, Target, estimate_seconds, load_affine_parameters
from polyinr_hf.inversion.objective import InversionLoss
from polyinr_hf.inversion.optimization import Phase, learning_rate_factor

FAST = {"num_steps": 8, "num_refine_steps": 12, "num_starts": 4, "num_pixels": 64}
SETTINGS = {field.name for field in dataclasses.fields(InversionSettings)}


def invert(pipe, image, space="affine", backbone=None, **options):
    """`polyinr_hf.inversion.invert`, the settings among its arguments."""
    settings = InversionSettings(**{name: value for name, value in options.items() if name in SETTINGS})
    others = {name: value for name, value in options.items() if name not in SETTINGS}
    return inversion.invert(pipe, image, space, backbone, settings=settings, **others)


@pytest.fixture(scope="module")
def pipe() -> PolyINRPipeline:
    torch.manual_seed(0)
    model = PolyINRGenerator(z_dim=8, w_dim=16, channels=32, num_levels=4, num_classes=3, sample_size=16)
    pipe = PolyINRPipeline(model, {0: "cat", 1: "dog", 2: "fish"})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return load_feature_network("tf_efficientnet_lite0", pretrained=False, feature_resolution=64)


@pytest.fixture
def image() -> torch.Tensor:
    """Smooth, 16 x 12, not one of the model's."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, 16), torch.linspace(-1, 1, 12), indexing="ij")
    return torch.stack([torch.sin(3 * u), u * v, torch.cos(2 * v + u)]) * 0.8


# -- the result -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("space, gain", [("affine", 6), ("w", 2), ("z", 0.2)])
def test_inversion_fits_the_image_better_than_its_start(pipe, image, space, gain):
    start = invert(pipe, image, space, **FAST | {"num_steps": 0, "num_refine_steps": 0})
    result = invert(pipe, image, space, **FAST)
    assert result.psnr > start.psnr + gain
    assert result.ssim > start.ssim
    assert start.losses == []
    assert result.affine_parameters.shape == (1, 4, 32, 3)
    assert result.affine_parameters.dtype == torch.float32
    assert len(result.losses) == 20 and result.losses[-1] < result.losses[0]
    assert result.seconds > 0


def test_figures_are_those_of_the_image(pipe, image):
    result = invert(pipe, image, **FAST)
    drawn = pipe.generator.render(result.affine_parameters, 16, 12)
    assert result.psnr == psnr(drawn, image[None])[0]
    assert result.ssim == ssim(drawn, image[None])[0]
    assert result.image.size == (12, 16)
    same = pipe(affine_parameters=result.affine_parameters, height=16, width=12).images[0]
    assert np.abs(np.asarray(result.image).astype(int) - np.asarray(same)).max() <= 1


@pytest.mark.parametrize("space", ["w", "z"])
def test_the_latent_gives_the_affine_parameters(pipe, image, space):
    result = invert(pipe, image, space, **FAST)
    g = pipe.generator
    with torch.no_grad():
        w = result.latent if space == "w" else g.map(result.latent, torch.tensor([result.settings["class_label"]]))
        torch.testing.assert_close(g.affine(w), result.affine_parameters)


@pytest.mark.slow
def test_a_sample_is_found_again_from_its_class(pipe):
    """The best start of many is nearer than the first; a class asked for is kept."""
    few = invert(pipe, pipe("dog").images[0], "z", class_label="dog", **FAST | {"num_starts": 1, "num_steps": 0})
    assert few.settings["class_label"] == 1
    sample = pipe(2, generator=torch.Generator().manual_seed(5), output_type="pt").images * 2 - 1
    one, many = (
        invert(pipe, sample, "z", **FAST | {"num_starts": n, "num_steps": 0, "num_refine_steps": 0}) for n in (1, 64)
    )
    assert many.psnr > one.psnr


def test_a_classifier_chooses_the_class(pipe, image):
    def logits(images):
        assert images.shape == (1, 3, 16, 12)
        return torch.tensor([[0.0, -9.0, 5.0]])

    options = FAST | {"num_starts": 1, "num_steps": 0, "num_refine_steps": 0}
    assert invert(pipe, image, "z", classifier=logits, **options).settings["class_label"] == 2
    with pytest.raises(ValueError, match=r"`classifier`.*\(1, 3\)"):
        invert(pipe, image, classifier=lambda images: torch.zeros(1, 1000), **options)


def test_unconditional_model(image):
    torch.manual_seed(0)
    model = PolyINRGenerator(z_dim=8, w_dim=16, channels=16, num_levels=3, num_classes=None, sample_size=16)
    for space in ("affine", "z"):
        assert invert(PolyINRPipeline(model), image, space, **FAST).settings["class_label"] is None


def test_seeds(pipe, image):
    def losses(seed):
        return invert(pipe, image, generator=torch.Generator().manual_seed(seed), **FAST).losses

    assert losses(0) == losses(0) != losses(1)


def test_the_pipeline_stays_as_it_is(pipe, image):
    before = copy.deepcopy(pipe.generator.state_dict())
    flags = [p.requires_grad for p in pipe.generator.parameters()]
    invert(pipe, image, **FAST)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.generator.state_dict().items())
    assert [p.requires_grad for p in pipe.generator.parameters()] == flags
    assert all(p.grad is None for p in pipe.generator.parameters())


def test_an_image_of_the_trained_size_is_fitted_on_the_trained_grid(image):
    """What the pipeline draws is then what was fitted, not what a uniform grid would have shown."""
    torch.manual_seed(0)
    options = {"z_dim": 8, "w_dim": 16, "channels": 32, "num_levels": 4, "sample_size": 16, "num_classes": None}
    trained = PolyINRGenerator(**options, grid_size=16)
    trained.grid_displacement.fill_(2.0)  # pixels
    uniform = copy.deepcopy(trained)
    assert uniform.drop_trained_grid()
    square = torch.cat([image, image[:, :, :4].flip(2)], dim=2)
    on_grid, on_uniform = (invert(PolyINRPipeline(model), square, **FAST) for model in (trained, uniform))
    drawn = trained.render(on_uniform.affine_parameters, 16, 16)
    assert on_grid.psnr > psnr(drawn, square[None])[0] + 1.5
    assert on_grid.psnr == psnr(trained.render(on_grid.affine_parameters, 16, 16), square[None])[0]


def test_a_bfloat16_pipeline_is_inverted_in_float32(pipe, image):
    half = PolyINRPipeline(copy.deepcopy(pipe.generator).bfloat16())
    result = invert(half, image, **FAST)
    assert half.generator.dtype == torch.bfloat16
    assert result.affine_parameters.dtype == torch.float32
    assert result.psnr > 15


# -- small copies first, and fewer digits ------------------------------------------------------------------------------
def pixels_of_each_step(pipe, image, monkeypatch, **options) -> list[int]:
    """Pixels drawn with a graph in each evaluation of L-BFGS."""
    counts = []
    evaluate = InversionLoss.__call__

    def spy(self, A, pixels, *args, **kwargs):
        counts.append(len(pixels))
        return evaluate(self, A, pixels, *args, **kwargs)

    monkeypatch.setattr(InversionLoss, "__call__", spy)
    invert(pipe, image, **FAST | {"num_steps": 0} | options)
    return counts


def test_the_first_steps_see_small_copies(pipe, image, monkeypatch):
    counts = pixels_of_each_step(pipe, image, monkeypatch, coarse_side=8, coarse_share=0.5)
    assert counts == sorted(counts) and set(counts) == {8 * 6, 16 * 12}
    assert set(pixels_of_each_step(pipe, image, monkeypatch, coarse_side=8, coarse_share=1)) == {8 * 6}
    counts = pixels_of_each_step(pipe, image, monkeypatch, coarse_side=4, coarse_share=0.75)
    assert counts == sorted(counts) and set(counts) == {4 * 3, 8 * 6, 16 * 12}
    for options in ({"coarse_side": 8, "coarse_share": 0}, {"coarse_side": 16}, {"coarse_side": None}):
        assert set(pixels_of_each_step(pipe, image, monkeypatch, **options)) == {16 * 12}


def test_a_small_copy_leads_to_the_image(pipe, image):
    """Steps on the copy count: they leave the image better than the start they were taken from."""
    start, coarse = (
        invert(pipe, image, **FAST | {"num_steps": 0, "num_refine_steps": n}, coarse_side=8, coarse_share=1)
        for n in (0, 12)
    )
    assert coarse.psnr > start.psnr + 4
    assert len(coarse.losses) == 12
    assert (coarse.settings["coarse_side"], coarse.settings["coarse_share"]) == (8, 1)


def test_bfloat16_is_for_adam_where_the_device_multiplies_it(pipe, image, monkeypatch):
    monkeypatch.setitem(KNOWN, "cpu", Device("cpu"))
    dtypes = []
    synthesize = PolyINRGenerator.synthesize

    def spy(self, *args):
        if torch.is_grad_enabled():
            dtypes.append(torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32)
        return synthesize(self, *args)

    monkeypatch.setattr(PolyINRGenerator, "synthesize", spy)
    full = invert(pipe, image, **FAST)
    assert set(dtypes) == {torch.float32}
    dtypes.clear()
    half = invert(pipe, image, precision="bfloat16", coarse_side=8, **FAST)
    assert set(dtypes[:8]) == {torch.bfloat16} and set(dtypes[8:]) == {torch.float32}
    assert half.settings["precision"] == "bfloat16" and half.affine_parameters.dtype == torch.float32
    assert half.psnr > full.psnr - 3
    dtypes.clear()
    monkeypatch.setitem(KNOWN, "cpu", Device("cpu", products=frozenset()))
    emulated = invert(pipe, image, precision="bfloat16", **FAST)
    assert set(dtypes) == {torch.float32} and torch.equal(emulated.affine_parameters, full.affine_parameters)


# -- losses -----------------------------------------------------------------------------------------------------------
def test_random_pixels_give_the_whole_gradient_on_average(pipe, image):
    A = pipe.generator.affine(pipe.generator.map(torch.randn(1, 8), torch.tensor([0]))).detach()
    target = Target.prepare(image)
    whole, part = InversionLoss(pipe.generator, target), InversionLoss(pipe.generator, target, num_pixels=48)
    (expected,) = whole(A.requires_grad_(), whole.known)[1]
    random = torch.Generator().manual_seed(0)
    draws = [part.sample_pixels(random) for _ in range(200)]
    assert all(len(draw.unique()) == 48 for draw in draws)
    mean = torch.stack([part(A, draw)[1][0] for draw in draws]).mean(dim=0)
    assert (mean - expected).norm() < 0.1 * expected.norm()


def test_gradient_in_chunks_is_that_of_the_whole_graph(pipe, network, image, monkeypatch):
    A = pipe.generator.affine(pipe.generator.map(torch.randn(1, 8), torch.tensor([0]))).detach().requires_grad_()
    loss = InversionLoss(pipe.generator, Target.prepare(image), network, perceptual_weight=0.5)
    whole, (expected,) = loss(A, loss.known)
    monkeypatch.setattr("polyinr_hf.inversion.objective.PIXEL_CHUNK", 50)
    chunked, (gradient,) = loss(A, loss.known)
    assert chunked == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    # Against the naive implementation: one graph.
    rgb = pipe.generator.synthesize(A, loss.coordinates)  # (1, N, 3)
    drawn = rgb.transpose(1, 2).unflatten(2, (16, 12))
    plain = (drawn - image).square().mean() + 0.5 * loss.perceptual(drawn)[0]
    assert plain.item() == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(torch.autograd.grad(plain, A)[0], expected, rtol=1e-3, atol=1e-5)


def test_no_step_sees_more_pixels_than_asked_for(pipe, network, monkeypatch):
    """A 200 x 300 image: neither a random step nor a graph holds more than its share."""
    sizes = []
    synthesize = PolyINRGenerator.synthesize

    def spy(self, A, coordinates):
        sizes.append(len(coordinates) * len(A))
        return synthesize(self, A, coordinates)

    monkeypatch.setattr(PolyINRGenerator, "synthesize", spy)
    image = torch.zeros(3, 200, 300)
    options = {"num_starts": 2, "num_steps": 1, "num_pixels": 100}
    result = invert(pipe, image, backbone=network, num_refine_steps=1, **options)
    assert result.image.size == (300, 200)
    assert max(sizes) <= 2 * 32 * 32 * 2 and 100 in sizes


def test_features_pull_towards_the_image(pipe, network, image):
    loss = InversionLoss(pipe.generator, Target.prepare(image), network, perceptual_weight=1.0)
    assert loss.perceptual(image[None]).item() == pytest.approx(0, abs=1e-6)
    assert loss.perceptual(image[None].flip(3)).item() > 0.01
    result = invert(pipe, image, perceptual_weight=1.0, **FAST | {"backbone": network})
    assert result.settings["backbone"] == "tf_efficientnet_lite0"


def test_the_small_image_lies_where_the_large_one_does():
    """A ramp in row and column, made small, has the colors of its coordinates."""
    v, u = torch.meshgrid(torch.linspace(0, 1, 200), torch.linspace(0, 1, 120), indexing="ij")
    small = Target.prepare(torch.stack([v, u, 0 * u])).downscaled(50)
    assert small.size == (50, 30)
    inner = (small.coordinates > 0.1).all(dim=1) & (small.coordinates < 0.9).all(dim=1)
    colors = small.image[0, :2].flatten(1).T
    torch.testing.assert_close(colors[inner], small.coordinates[inner], rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_thin_images(pipe, size):
    result = invert(pipe, torch.full((3, *size), 0.3), **FAST)
    assert result.image.size == size[::-1]
    assert math.isnan(result.ssim) and result.psnr > 15


def test_schedule():
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert max(factors) == factors[10] > 0.95
    assert factors == sorted(factors[:10]) + sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.01


def test_early_stop(pipe):
    phase = Phase("lbfgs", None, 99, patience=10)
    assert phase.has_settled([1.0] * 20) and not phase.has_settled([1.0] * 19)
    assert not phase.has_settled([1.0] * 10 + [0.9] * 10)
    assert not Phase("lbfgs", None, 99).has_settled([1.0] * 99)
    sample = pipe(0, generator=torch.Generator().manual_seed(0), output_type="pt").images[0]
    flat = torch.zeros_like(sample)
    options = FAST | {"num_steps": 0, "num_refine_steps": 400}
    assert len(invert(pipe, flat, patience=5, **options).losses) < 400


def test_previews_show_the_image_as_it_forms(pipe, image):
    steps, previews = [], []

    def callback(step):
        steps.append(step)
        previews.append(step.preview(max_side=8))

    result = invert(pipe, image, callback=callback, **FAST)
    assert [step.step for step in steps] == [*range(1, 9), 18, 20]
    assert all(picture.size == (6, 8) for picture in previews)
    assert all(later.seconds > earlier.seconds for earlier, later in itertools.pairwise(steps))
    assert [step.loss for step in steps[:8]] == result.losses[:8]
    small = Target.prepare(image).downscaled(8)
    errors = [(Target.prepare(preview).image - small.image).square().mean().item() for preview in previews]
    assert errors[-1] < 0.25 * errors[0]
    full = steps[-1].preview(max_side=100)  # not beyond the original's size
    assert np.array_equal(np.asarray(full), np.asarray(result.image))


def test_the_estimate_grows_with_the_work(pipe):
    def estimate(side, **changes):
        return estimate_seconds(pipe, side, side, InversionSettings(num_pixels=None, **changes))

    assert 0 < estimate(64, num_refine_steps=10) < 0.5 * estimate(128, num_refine_steps=100)
    with pytest.raises(ValueError, match="`height`"):
        estimate(0)


# -- mask -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", ["affine", "w"])
def test_unknown_pixels_are_not_read(pipe, network, image, space):
    mask = torch.ones(16, 12)
    mask[4:9, 3:8] = 0
    other = torch.where(mask.bool(), image, torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1)
    nothing = torch.where(mask.bool(), image, torch.nan)
    options = FAST | {"backbone": network, "mask": mask}
    results = [invert(pipe, x, space, **options) for x in (image, other, nothing)]
    for result in results[1:]:
        assert torch.equal(result.affine_parameters, results[0].affine_parameters)
        assert (result.psnr, result.ssim, result.losses) == (results[0].psnr, results[0].ssim, results[0].losses)
    whole = invert(pipe, image, space, **FAST | {"backbone": network})
    assert not torch.equal(whole.affine_parameters, results[0].affine_parameters)


def test_known_pixels_are_fitted(pipe, image):
    mask = np.zeros((16, 12), bool)
    mask[:, :6] = True
    result = invert(pipe, image, mask=mask, **FAST | {"num_refine_steps": 60})
    drawn = pipe.generator.render(result.affine_parameters, 16, 12)[0]
    known = -10 * math.log10((drawn.clamp(-1, 1) - image)[:, :, :6].square().mean().item() / 4)
    assert result.psnr == pytest.approx(known, abs=1e-3)
    assert result.psnr > 22
    assert -1 <= result.ssim <= 1 and result.ssim > 0.8


@pytest.mark.slow
def test_a_mask_of_a_large_image_stays_unread(pipe, network):
    """Shrunk for features and start, unknown pixels do not bleed into known ones."""
    torch.manual_seed(0)
    image, mask = torch.rand(3, 150, 140) * 2 - 1, Image.new("L", (140, 150), 255)
    mask.paste(0, (20, 30, 90, 101))
    other = image.clone()
    other[:, 30:101, 20:90] = -1
    options = FAST | {"backbone": network, "mask": mask, "num_steps": 1, "num_refine_steps": 3}
    first, second = (invert(pipe, x, **options) for x in (image, other))
    assert torch.equal(first.affine_parameters, second.affine_parameters)


@pytest.mark.parametrize(
    "mask, message",
    [
        (torch.ones(12, 16), "as large as the image"),
        (torch.zeros(16, 12), "no pixel is known"),
        (torch.full((16, 12), 255), "0..1"),
        (torch.full((16, 12), float("nan")), "0..1"),
        ("mask.png", "PIL image, a tensor or an array"),
    ],
)
def test_bad_masks(pipe, image, mask, message):
    with pytest.raises(ValueError, match=f"`mask`.*{message}"):
        invert(pipe, image, mask=mask, **FAST)


# -- going on, saving -------------------------------------------------------------------------------------------------
class Stop(Exception):
    pass


@pytest.mark.parametrize("coarse_side", [None, 4])
@pytest.mark.parametrize("stop_at", [3, 8, 18, 32])
def test_going_on_gives_the_same_result(pipe, image, tmp_path, monkeypatch, stop_at, coarse_side):
    monkeypatch.setattr("polyinr_hf.inversion.optimization.CHECKPOINT_SECONDS", 0.0)
    options = FAST | {"num_refine_steps": 32, "coarse_side": coarse_side}
    expected = invert(pipe, image, **options)

    def stop(step):
        assert step.num_steps == 40
        if step.step >= stop_at:
            raise Stop

    path = tmp_path / "state.pt"
    with pytest.raises(Stop):
        invert(pipe, image, callback=stop, checkpoint=path, **options)
    steps = []
    result = invert(pipe, image, callback=lambda step: steps.append(step.step), checkpoint=path, **options)
    assert steps[0] > stop_at and steps[-1] == 40
    assert torch.equal(result.affine_parameters, expected.affine_parameters)
    assert result.losses == expected.losses
    # All done: nothing is left to do.
    again = invert(pipe, image, callback=lambda step: pytest.fail("a step"), checkpoint=path, **options)
    assert torch.equal(again.affine_parameters, expected.affine_parameters)
    assert again.seconds == result.seconds
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stop_at", [3, 18])
def test_a_callback_ends_the_search_with_what_was_found(pipe, image, tmp_path, stop_at):
    """By default what lies between two saves is lost only to those that are killed."""
    options, path = FAST | {"num_refine_steps": 22}, tmp_path / "state.pt"
    whole = invert(pipe, image, **options)
    stopped = invert(pipe, image, callback=lambda step: step.step >= stop_at, checkpoint=path, **options)
    assert stopped.losses == whole.losses[:stop_at]
    assert stopped.psnr < whole.psnr and stopped.affine_parameters.shape == whole.affine_parameters.shape
    steps = []
    resumed = invert(pipe, image, callback=lambda step: steps.append(step.step), checkpoint=path, **options)
    assert steps[0] > stop_at and torch.equal(resumed.affine_parameters, whole.affine_parameters)


def test_a_checkpoint_of_other_work_is_refused(pipe, image, tmp_path):
    path = tmp_path / "state.pt"
    invert(pipe, image, checkpoint=path, **FAST)
    with pytest.raises(ValueError, match=r"`checkpoint`.*\(other: image\)"):
        invert(pipe, -image, checkpoint=path, **FAST)
    with pytest.raises(ValueError, match=r"`checkpoint`.*\(other: lr, space\)"):
        invert(pipe, image, "w", lr=0.2, checkpoint=path, **FAST)
    other = PolyINRPipeline(copy.deepcopy(pipe.generator))
    other.generator.to_rgb.bias.data += 1
    with pytest.raises(ValueError, match=r"`checkpoint`.*\(other: model\)"):
        invert(other, image, checkpoint=path, **FAST)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="`checkpoint` must be one of an inversion"):
        invert(pipe, image, checkpoint=path, **FAST)


def test_save_and_load(pipe, image, tmp_path):
    result = invert(pipe, image, **FAST)
    path = tmp_path / "new" / "image.safetensors"
    result.save(path)
    A = load_affine_parameters(path)
    assert torch.equal(A, result.affine_parameters)
    assert np.array_equal(*(pipe(affine_parameters=x, output_type="np").images for x in (A, result.affine_parameters)))
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        load_affine_parameters(tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ValueError, match="`path` must (hold affine parameters|be a safetensors file)"):
        load_affine_parameters(tmp_path / "text")
    pipe.generator.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="`path` must (hold affine parameters|be a safetensors file)"):
        load_affine_parameters(next((tmp_path / "model").glob("*.safetensors")))


# -- bad input --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change, message",
    [
        ({"image": "cat.png"}, "`image`.*PIL image or a tensor"),
        ({"image": torch.zeros(16, 12)}, "`image`.*shape"),
        ({"image": torch.zeros(2, 3, 16, 12)}, "`image`.*shape"),
        ({"image": torch.zeros(3, 0, 12)}, "`image`.*shape"),
        ({"image": torch.full((3, 4, 4), 2.0)}, "`image`.*values"),
        ({"image": torch.full((3, 4, 4), float("nan"))}, "`image`.*values"),
        ({"image": torch.zeros(3, 4, 4, dtype=torch.int64)}, "`image`.*int64"),
        ({"space": "w+"}, "`space`.*affine"),
        ({"class_label": "dgo"}, "Did you mean 'dog'"),
        ({"class_label": 3}, "`class_labels`.*0..2"),
        ({"num_steps": -1}, "`num_steps`"),
        ({"num_refine_steps": 1.5}, "`num_refine_steps`"),
        ({"num_pixels": 0}, "`num_pixels`"),
        ({"num_starts": 0}, "`num_starts`"),
        ({"patience": 0}, "`patience`"),
        ({"lr": 0}, "`lr`"),
        ({"coarse_side": 0}, "`coarse_side`"),
        ({"coarse_share": 1.5}, "`coarse_share`.*0..1"),
        ({"coarse_share": -0.1}, "`coarse_share`"),
        ({"precision": "float16"}, "`precision`.*bfloat16"),
        ({"perceptual_weight": float("inf")}, "`perceptual_weight`"),
        ({"backbone": "no_such_network"}, "no_such_network"),
        ({"backbone": torch.nn.Identity()}, "`backbone`.*Identity"),
    ],
)
def test_bad_arguments(pipe, image, change, message):
    with pytest.raises(ValueError, match=message):
        invert(pipe, **{"image": image, **FAST, **change})


def test_pixels_of_all_kinds_are_the_same_image(pipe):
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    tensor = torch.from_numpy(values).permute(2, 0, 1)
    targets = [Target.prepare(x).image for x in (Image.fromarray(values), tensor, tensor[None].float() / 127.5 - 1)]
    for target in targets[1:]:
        torch.testing.assert_close(target, targets[0])


# -- photographs ------------------------------------------------------------------------------------------------------
def saved(image: Image.Image, path, **options):
    image.save(path, **options)
    return load_photo(path)


def test_photos_of_all_modes(tmp_path):
    rgb = saved(Image.new("RGB", (5, 4), (10, 20, 30)), tmp_path / "rgb.png")
    assert (rgb.mode, rgb.size, rgb.getpixel((0, 0))) == ("RGB", (5, 4), (10, 20, 30))
    assert saved(Image.new("L", (5, 4), 77), tmp_path / "gray.png").getpixel((1, 1)) == (77, 77, 77)
    assert saved(Image.new("RGBA", (5, 4), (0, 0, 0, 0)), tmp_path / "clear.png").getpixel((1, 1)) == (255, 255, 255)
    half = saved(Image.new("RGBA", (5, 4), (0, 0, 0, 128)), tmp_path / "half.png").getpixel((1, 1))
    assert all(abs(value - 127) <= 1 for value in half)
    deep = Image.fromarray(np.full((4, 5), 257 * 100, np.uint16))
    assert saved(deep, tmp_path / "deep.png").getpixel((1, 1)) == (100, 100, 100)
    assert saved(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), tmp_path / "cmyk.jpg").getpixel((1, 1)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    assert saved(Image.new("RGB", (5, 4)), tmp_path / "turned.jpg", exif=exif).size == (4, 5)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is large, and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def cut_short() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "PNG")
    return file.getvalue()[:500]


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("text.png", b"not an image", "not an image of a known format"),
        ("empty.png", b"", "not an image of a known format"),
        ("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "not an image"),
        ("page.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        ("cut.png", cut_short(), "cannot be read"),
        ("bomb.png", png_header(9000, 9000), "9000 x 9000 pixels"),
        ("huge_bomb.png", png_header(60000, 60000), "cannot be read"),
    ],
)
def test_no_photos(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        load_photo(path)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_photo_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.png"):
        load_photo(tmp_path / "none.png")
    with pytest.raises(ValueError, match="cannot be read"):
        load_photo(tmp_path)
