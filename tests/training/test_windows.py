"""Windows of images: where they lie, that real and generated ones agree, and that training on them is repeatable."""

import math

import PIL.Image
import pytest
import torch

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.feature_networks import load_feature_network
from polyinr_hf.modeling_poly_inr import pixel_coordinates
from polyinr_hf.training.image_generator import ImageGenerator, Windows, cut_windows, sample_extents, window_coordinates
from polyinr_hf.training.matching import FeatureMatching
from polyinr_hf.training.step import apply_gradients
from polyinr_hf.training.trainer import Trainer

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
STAGE = (
    "{resolution: 12, image_resolution: 32, window_scales: [0.25, 1.0], whole_share: 0.3, batch_size: 4, kimg: 0.024}"
)
LATENT = ("loss.matching_by=latent", "loss.matching_weight=2")


def source(seed=0):
    return torch.Generator().manual_seed(seed)


def disc(points, centre=(0.3, 0.6), radius=0.2, softness=0.01):
    """Values (...) in [-1, 1] of a disc with a soft edge at points (..., 2)."""
    distance = (points - torch.tensor(centre)).norm(dim=-1)
    return torch.tanh((radius - distance) / softness)


# --- extents ----------------------------------------------------------------------------------------------------------


def test_extents_are_squares_inside_the_image_of_the_scales_asked_for():
    extents = sample_extents(20_000, (0.125, 0.5), 0.25, source())
    top, left, bottom, right = extents.unbind(dim=1)
    side = bottom - top
    torch.testing.assert_close(right - left, side)
    assert top.min() >= 0 and left.min() >= 0 and bottom.max() <= 1 and right.max() <= 1
    whole = side == 1
    assert whole.float().mean() == pytest.approx(0.25, abs=0.02)
    assert side[~whole].min() >= 0.125 - 1e-9 and side[~whole].max() <= 0.5 + 1e-9
    quantiles = torch.log(side[~whole] / 0.125) / math.log(4)  # log-uniform: uniform here
    position = top[~whole] / (1 - side[~whole])
    for values in (quantiles, position, left[~whole] / (1 - side[~whole])):
        shares = torch.histc(values.float(), bins=5, min=0, max=1) / len(values)
        torch.testing.assert_close(shares, torch.full((5,), 0.2), rtol=0, atol=0.02)


def test_points_of_a_window_are_those_that_render_draws():
    extents = sample_extents(3, (0.2, 0.7), 0.0, source())
    for points, extent in zip(window_coordinates(extents, 9, 1), extents.tolist(), strict=True):
        assert torch.equal(points, pixel_coordinates(9, 9, extent))
    assert torch.equal(window_coordinates(WHOLE, 9, 1)[0], pixel_coordinates(9, 9))


def test_several_points_are_spread_over_the_pixels_square():
    extents = torch.tensor([[0.2, 0.3, 0.6, 0.7]], dtype=torch.float64)
    points = window_coordinates(extents, 5, 2).unflatten(1, (25, 4))[0]  # pixels 0.1 apart
    centres = pixel_coordinates(5, 5, extents[0].tolist())
    torch.testing.assert_close(points.mean(dim=1), centres)
    offsets = torch.tensor([[-0.025, -0.025], [-0.025, 0.025], [0.025, -0.025], [0.025, 0.025]])
    torch.testing.assert_close(points - centres[:, None], offsets.expand(25, 4, 2), rtol=0, atol=1e-6)


# --- real windows -----------------------------------------------------------------------------------------------------


def test_a_pixel_is_the_mean_over_its_square():
    """Of a picture linear in its coordinates that is its centre's value, but where the square reaches beyond it."""
    slope = torch.tensor([0.6, -0.8])
    image = (pixel_coordinates(64, 64) @ slope).view(1, 1, 64, 64).expand(5, 3, 64, 64)
    windows = Windows(torch.cat([sample_extents(4, (0.1, 0.9), 0.0, source()), WHOLE]), 64)
    ours = cut_windows(image, windows, 8)
    expected = (window_coordinates(windows.extents, 8, 1) @ slope).view(5, 1, 8, 8)
    torch.testing.assert_close(ours[:4, :1, 1:-1, 1:-1], expected[:4, :, 1:-1, 1:-1])
    torch.testing.assert_close(ours[4:, :1, 1:-1, 1:-1], expected[4:, :, 1:-1, 1:-1])
    checkers = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).mul(2).sub(1).float().expand(1, 3, 64, 64)
    assert cut_windows(checkers, Windows(WHOLE, 64), 8)[..., 1:-1, 1:-1].abs().max() < 0.01  # nothing left to alias
    torch.testing.assert_close(
        cut_windows(torch.full((1, 3, 64, 64), 255, dtype=torch.uint8), Windows(WHOLE, 64), 8), torch.ones(1, 3, 8, 8)
    )


@pytest.mark.parametrize("scales", [(0.1, 0.12), (0.3, 0.5), (1.0, 1.0)])
def test_real_and_generated_windows_show_the_same_places(scales):
    """A disc drawn on 256 pixels and cut, and drawn at the generator's points; half a pixel aside they would not."""
    windows = Windows(sample_extents(6, scales, 0.0, source()), 256)
    windows.extents[0] = torch.tensor([0.3, 0.6, 0.3, 0.6]) + 0.5 * scales[0] * torch.tensor([-1, -1, 1, 1])
    windows = Windows(windows.extents.clamp(0, 1), 256)
    image = disc(pixel_coordinates(256, 256)).view(1, 1, 256, 256).expand(6, 3, 256, 256)
    real = cut_windows(image, windows, 32)[:, 0]
    count = max(windows.points_a_side(32))

    def generated(offset=0.0):
        pixel = (windows.extents[:, 2] - windows.extents[:, 0]) / 31
        points = window_coordinates(windows.extents + offset * pixel[:, None], 32, count)
        return disc(points).view(6, 32, 32, count**2).mean(dim=-1)

    error = (generated() - real).square().mean()
    assert 10 * error < (generated(0.5) - real).square().mean()


# --- generated windows ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return ImageGenerator(PolyINRGenerator(channels=32, num_levels=4, num_classes=3, sample_size=16))


def test_generated_windows_are_renders_of_their_extents(generator):
    """Fine windows point by point, coarse ones averaged over each pixel; each in its place in the batch."""
    extents = torch.cat([sample_extents(3, (0.1, 0.2), 0.0, source()), WHOLE.clone()])[[0, 3, 1, 2]]
    windows = Windows(extents, 64)
    assert windows.points_a_side(8) == [1, 2, 1, 1]
    z, labels = torch.randn(4, 64, generator=source()), torch.tensor([0, 1, 2, 1])
    A = generator.generator.affine(generator.generator.map(z, labels))
    images = generator(z, labels, 8, windows=windows)
    for i, samples in enumerate((1, 2, 1, 1)):
        expected = generator.generator.render(A[i : i + 1], 8, 8, tuple(extents[i].tolist()), antialias=samples)
        inner = slice(1, -1) if i == 1 else slice(None)  # the whole image's border squares end at the image
        torch.testing.assert_close(images[i, :, inner, inner], expected[0, :, inner, inner])


def test_pixel_chunks_leave_gradients_of_windows_as_they_are(generator):
    windows = Windows(sample_extents(4, (0.1, 0.9), 0.3, source(3)), 64)
    assert len(set(windows.points_a_side(8))) == 2
    z, labels = torch.randn(4, 64, generator=source()), torch.tensor([0, 1, 2, 1])
    results = []
    for chunk in (None, 50):
        generator.zero_grad()
        images = generator(z, labels, 8, chunk, windows)
        images.backward(torch.randn(images.shape, generator=source(1)))
        results.append((images.detach(), [parameter.grad.clone() for parameter in generator.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for plain, chunked in zip(results[0][1], results[1][1], strict=True):
        assert plain.abs().max() > 0
        # By the whole tensor: a feature at the kink of its leaky ReLU may fall on the other side of it.
        assert (chunked - plain).norm() < 1e-3 * plain.norm()


# --- matching ---------------------------------------------------------------------------------------------------------


def test_a_window_is_compared_with_the_same_window_of_its_match():
    network = load_feature_network("tf_efficientnet_lite0", feature_resolution=64)
    matching = FeatureMatching(network, 6, None, "latent")
    images = torch.nn.functional.interpolate(torch.rand(6, 3, 5, 5, generator=source()), 64, mode="bicubic")
    images = (images.clamp(0, 1) * 255).to(torch.uint8)
    matching.keep_images(images, None, 16)
    extents = sample_extents(4, (0.3, 0.6), 0.0, source())
    windows, matches = Windows(extents, 64), torch.tensor([5, 2, 2, 0])
    real = cut_windows(images[matches], windows, 16)
    assert matching(real, matches, windows=windows)[0] < 1e-6
    assert matching(real, matches, windows=Windows(extents.flip(0), 64))[0] > 0.05


# --- training ---------------------------------------------------------------------------------------------------------


def weights_of(trainer):
    return {
        f"{name}.{key}": value.clone()
        for name in ("generator", "ema", "discriminator", "codes")
        if hasattr(trainer, name)
        for key, value in getattr(trainer, name).state_dict().items()
    }


def test_real_and_generated_windows_of_a_step_have_the_same_extents(make_recipe, tmp_path):
    """New ones in each step, and the same for the same step."""
    trainer = Trainer(make_recipe(f"stages=[{STAGE}]", *LATENT), tmp_path)
    stage = trainer.recipe.stages[0]
    loaded = [next(trainer.enter_stage(stage))]
    assert loaded[0]["images"].shape == (4, 3, 32, 32)
    (batch,), (again,), (later,) = (trainer.networks.sample(stage, step, loaded) for step in (5, 5, 6))
    assert torch.equal(batch.images, cut_windows(loaded[0]["images"], batch.windows, 12))
    assert torch.equal(batch.windows.extents, again.windows.extents)
    assert not torch.equal(batch.windows.extents, later.windows.extents)


def test_a_stopped_run_on_windows_resumes_bit_for_bit(make_recipe, tmp_path):
    overrides = (f"stages=[{STAGE}]", *LATENT)
    whole = Trainer(make_recipe(*overrides), tmp_path / "whole")
    assert whole.train()
    stopped = Trainer(make_recipe(*overrides), tmp_path / "stopped")
    step = stopped.train_step

    def stop_after_three(*args):
        step(*args)
        if stopped.step == 3:
            stopped.request_stop()

    stopped.train_step = stop_after_three
    assert not stopped.train()
    resumed = Trainer(make_recipe(*overrides), tmp_path / "stopped", resume=True)
    assert resumed.step == 3 and resumed.train()
    ours, theirs = weights_of(resumed), weights_of(whole)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert whole.generator.config.sample_size == 32  # what it was taught to draw


def test_micro_batches_leave_gradients_on_windows_as_they_are(make_recipe, tmp_path):
    stage = STAGE.replace("batch_size: 4, kimg: 0.024", "batch_size: 8, kimg: 0.008")
    captured = []
    for parts in (1, 2):
        recipe = make_recipe(
            f"stages=[{stage}]",
            *LATENT,
            f"stages.0.gradient_accumulation_steps={parts}",
            "discriminator.batch_norm=4",
        )
        trainer = Trainer(recipe, tmp_path / str(parts))
        networks, stage_config = trainer.networks, recipe.stages[0]
        loader = trainer.enter_stage(stage_config)
        batches = networks.sample(stage_config, 0, [next(loader) for _ in range(parts)])
        networks.generator_gradients(stage_config, batches, 1.0, trainer.log)
        gradients = [gradient_of(trainer.generator)]
        apply_gradients(trainer.accelerator, networks.G_optimizer, "generator", trainer.log)
        networks.discriminator_gradients(stage_config, batches, 1.0, trainer.log)
        captured.append([*gradients, gradient_of(trainer.discriminator)])
    for whole, cut in zip(*captured, strict=True):
        assert (cut - whole).norm() < 1e-4 * whole.norm()


def gradient_of(network) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def test_a_folder_of_large_photographs_trains_by_the_same_keys(make_recipe, tmp_path):
    """Rectangular photographs in a flat folder: windows of them show a part, at up to the photographs' own detail."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        photo = PIL.Image.fromarray(getattr(data, name)())
        photo.resize((4 * photo.width, 4 * photo.height)).save(folder / f"{name}.jpg")
    stage = "{resolution: 16, image_resolution: 1024, window_scales: [0.03125, 1.0], batch_size: 4, kimg: 0.008}"
    overrides = (f"data.dataset={folder}", "data.class_conditional=false")
    trainer = Trainer(make_recipe(f"stages=[{stage}]", *overrides), tmp_path / "run")
    batch = next(trainer.enter_stage(trainer.recipe.stages[0]))
    assert batch["images"].shape == (4, 3, 1024, 1024)
    (drawn,) = trainer.networks.sample(trainer.recipe.stages[0], 0, [batch])
    for image, extent, part in zip(batch["images"], drawn.windows.extents.tolist(), drawn.images, strict=True):
        top, left, bottom, right = (round(1023 * value) for value in extent)
        inside = image[:, top : bottom + 1, left : right + 1]
        assert (inside.mean(dim=(1, 2)) - part.mean(dim=(1, 2))).abs().max() < 0.08
    assert trainer.train()
    (export,) = (tmp_path / "run" / "exports").iterdir()
    assert PolyINRPipeline.from_pretrained(export).generator.config.sample_size == 1024


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["8"], "`stages.0.image_resolution` must be at least `resolution`, 16, .* got 8"),
        (["32", "stages.0.window_scales=[0.5,0.25]"], r"`stages.0.window_scales` .* got \(0\.5"),
        (["32", "stages.0.window_scales=[0.0,1.0]"], r"`stages.0.window_scales` .* got \(0\.0"),
        (["32", "stages.0.whole_share=1.5"], r"`stages.0.whole_share` must be in \[0, 1\], got 1.5"),
        (["32", "loss.matching_weight=1"], "`loss.matching_by` must be 'latent' .* got 'likeness'"),
    ],
)
def test_windows_that_cannot_be_are_refused(make_recipe, overrides, message):
    side, *others = overrides
    with pytest.raises(ValueError, match=message):
        make_recipe(f"stages.0.image_resolution={side}", *others)
