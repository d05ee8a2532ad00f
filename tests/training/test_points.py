"""Colours at single points: where the points lie, that their colours are the real image's, and training on them."""

import copy
import json

import pytest
import torch

from polyinr_hf import PolyINRGenerator
from polyinr_hf.images import to_float
from polyinr_hf.modeling_poly_inr import pixel_coordinates
from polyinr_hf.training.image_generator import ImageGenerator
from polyinr_hf.training.matching import LatentCells, images_of_latents, load_cells, save_cells, selector
from polyinr_hf.training.points import EDGE_RADIUS, PointMatching, colors_at, edge_pixels, random_points
from polyinr_hf.training.trainer import Trainer

SIDE = 16
POINTS = ("loss.points_weight=2", "loss.points_per_image=24", "run.adam_betas=[0.9,0.99]")


def latents_of(quantiles):
    """Latents (B, 8) whose selector has these quantiles."""
    z = torch.randn(len(quantiles), 8, generator=torch.Generator().manual_seed(0))
    wanted = torch.special.ndtri(torch.tensor(quantiles))
    return z + (wanted - selector(z))[:, None] / z.shape[1] ** 0.5


@pytest.fixture
def images():
    """Four noisy images (4, 3, 16, 16), uint8, no two pixels of a channel alike; then one of a single colour."""
    pixels = torch.stack([torch.randperm(256, generator=torch.Generator().manual_seed(seed)) for seed in range(12)])
    images = pixels.view(4, 3, SIDE, SIDE).to(torch.uint8)
    return torch.cat([images, torch.full((1, 3, SIDE, SIDE), 77, dtype=torch.uint8)])


def test_points_have_the_colours_of_the_image_that_the_latent_stands_for(images):
    matching, labels = PointMatching(40, num_classes=3), torch.tensor([1, 0, 1, 0, 2])
    matching.keep_images(images, labels)
    z, classes, expected = latents_of([0.1, 0.9, 0.4, 0.6, 0.5]), torch.tensor([1, 1, 0, 0, 2]), [0, 2, 1, 3, 4]
    points, colours = matching.draw(z, classes, torch.rand(5, 40))
    assert points.shape == (5, 40, 2) and colours.shape == (5, 40, 3)
    for where, found, image in zip(points, colours, expected, strict=True):
        pixels = (where * (SIDE - 1)).round().long()
        torch.testing.assert_close(where, pixels / (SIDE - 1))  # pixel centres, as `render` draws them
        assert torch.equal(found, to_float(images[image])[:, pixels[:, 0], pixels[:, 1]].T)


def test_cells_that_a_run_on_few_pictures_left_say_what_latents_stand_for(images, tmp_path):
    """In place of quantiles, for points and for matching by latent; cells of another number of images say nothing."""
    cells = LatentCells(5, 8)
    cells.fit(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)))
    save_cells(cells, tmp_path)
    assert load_cells(str(tmp_path), 4) is None and load_cells(str(tmp_path / "none"), 5) is None
    found, z = load_cells(str(tmp_path), 5), torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    expected = cells(z)
    assert len(expected.unique()) == 5
    matching = PointMatching(16, cells=found)
    matching.keep_images(images, None)
    points, colors = matching.draw(z, None, torch.rand(60, 16))
    torch.testing.assert_close(colors, colors_at(images, expected, points))
    assert torch.equal(images_of_latents(z, torch.zeros(60, dtype=torch.long), [torch.arange(5)], found), expected)


def test_half_of_the_points_lie_near_edges():
    """Of a square on a plain ground: those within two pixels of its border; the others are spread evenly."""
    image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    image[:, :, 20:40, 20:40] = 200
    matching = PointMatching(4000)
    matching.keep_images(image, None)
    points, _ = matching.draw(torch.zeros(1, 8), None, torch.rand(1, 4000))
    pixels = (points[0] * 63).round()
    outside = (19.5 - pixels).clamp(min=0) + (pixels - 39.5).clamp(min=0)
    distance = torch.where((outside > 0).any(dim=1), outside.amax(dim=1), (10 - (pixels - 29.5).abs()).amin(dim=1))
    near = distance < EDGE_RADIUS
    assert near[:2000].all()
    assert near[2000:].float().mean() == pytest.approx((24**2 - 16**2) / 64**2, abs=0.03)
    assert pixels[2000:].mean() == pytest.approx(31.5, abs=1)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    return ImageGenerator(PolyINRGenerator(channels=32, num_levels=4, num_classes=3, sample_size=16))


def test_the_generator_gives_colours_at_points_beside_images(generator):
    z, labels, grid = torch.randn(3, 64), torch.tensor([0, 2, 1]), pixel_coordinates(8, 8).expand(3, -1, -1)
    images, colours = generator(z, labels, 8, points=grid)
    torch.testing.assert_close(images.flatten(2).transpose(1, 2), colours)
    assert torch.equal(images, generator(z, labels, 8))
    nothing, alone = generator(z, labels, None, points=grid)
    assert nothing is None and torch.equal(alone, colours)


def test_colors_between_pixels_are_those_of_bilinear_interpolation(images):
    points = torch.rand(3, 50, 2, generator=torch.Generator().manual_seed(0))
    points[0, :4] = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    rows = torch.tensor([4, 0, 2])
    grid = points.flip(-1)[:, None] * 2 - 1
    expected = torch.nn.functional.grid_sample(to_float(images[rows]), grid, align_corners=True)[:, :, 0]
    torch.testing.assert_close(colors_at(images, rows, points), expected.transpose(1, 2), rtol=0, atol=1e-5)
    assert torch.equal(colors_at(images, rows, points)[0, :4], torch.full((4, 3), 77.0) / 127.5 - 1)


def test_random_points_are_half_near_edges_and_half_anywhere():
    """Of a picture with a square, and of a plain one, which has no edges: all are anywhere."""
    pictures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    pictures[0, :, 20:40, 20:40] = 200
    near_edges = edge_pixels(pictures)
    assert near_edges[0].sum() == 24**2 - 16**2 and not near_edges[1].any()
    points = random_points(near_edges, torch.tensor([1, 0]), 4000, torch.Generator().manual_seed(0))
    assert points.shape == (2, 4000, 2) and points.min() >= 0 and points.max() <= 1
    pixels = (points[1] * 63).round().long()
    near = near_edges[0, pixels[:, 0], pixels[:, 1]].float()
    by_chance = (24**2 - 16**2) / 64**2
    assert near[:2000].mean() == pytest.approx(1 - (1 - by_chance) ** 8, abs=0.05)
    assert near[2000:].mean() == pytest.approx(by_chance, abs=0.03)
    assert points[0].mean() == pytest.approx(0.5, abs=0.02)


# --- in training ------------------------------------------------------------------------------------------------------


def read_losses(folder, name):
    return [json.loads(line)[name] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_points_alone_teach_the_generator_and_draw_no_image(make_recipe, tmp_path, monkeypatch):
    """Their error falls; the discriminator stays as it was."""
    stage = "stages=[{resolution: 32, kimg: 0.8, batch_size: 8, lr_generator: 3.0e-3}]"
    trainer = Trainer(make_recipe(stage, *POINTS, "loss.adversarial_start_kimg=1"), tmp_path)
    before = copy.deepcopy(trainer.discriminator.state_dict())
    monkeypatch.setattr(ImageGenerator, "_draw", None)
    assert trainer.train()
    errors = read_losses(tmp_path, "points_loss")
    assert sum(errors[-20:]) / 20 < 0.9 * sum(errors[:3]) / 3
    assert all(torch.equal(values, before[name]) for name, values in trainer.discriminator.state_dict().items())


def test_points_join_the_discriminator_and_resume_bit_for_bit(make_recipe, tmp_path):
    """On windows: one run, and one stopped after half of its steps, end with the same weights; both losses count."""
    stage = (
        "stages=[{resolution: 12, image_resolution: 32, window_scales: [0.25, 0.6], whole_share: 0.2, batch_size: 4, "
        "kimg: 0.024}]"
    )
    overrides = (stage, *POINTS, "run.checkpoint_every_kimg=0.012")
    whole = Trainer(make_recipe(*overrides), tmp_path / "whole")
    assert whole.train()
    stopped = Trainer(make_recipe(*overrides), tmp_path / "stopped")
    step = stopped.train_step

    def stop_half_way(*args):
        step(*args)
        if stopped.step == 3:
            stopped.request_stop()

    stopped.train_step = stop_half_way
    assert not stopped.train()
    resumed = Trainer(make_recipe(*overrides), tmp_path / "stopped", resume=True)
    assert resumed.step == 3 and resumed.train()
    for name, values in whole.generator.state_dict().items():
        assert torch.equal(resumed.generator.state_dict()[name], values), name
    assert len(read_losses(tmp_path / "whole", "points_loss")) == 6
    assert len(read_losses(tmp_path / "whole", "discriminator_loss")) == 6


def test_micro_batches_draw_the_same_points(make_recipe, tmp_path):
    """The generator's gradients, which Adam's first moment without a beta is, are the same however its batch is cut."""
    gradients = []
    for parts in (1, 2):
        stage = f"stages=[{{resolution: 32, kimg: 0.008, batch_size: 8, gradient_accumulation_steps: {parts}}}]"
        trainer = Trainer(make_recipe(stage, *POINTS, "loss.adversarial_start_kimg=1"), tmp_path / str(parts))
        assert trainer.train()
        state = trainer.networks.G_optimizer.state
        gradients.append(torch.cat([state[p]["exp_avg"].flatten() for p in trainer.generator.parameters()]))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[0].norm()
