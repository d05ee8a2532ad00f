"""Generated images are matched with real ones of their class, each as often as the others."""

import copy
import json

import pytest
import torch

from polyinr_hf.data.dataset import image_batches, load_image_dataset
from polyinr_hf.feature_networks import load_feature_network
from polyinr_hf.images import to_float
from polyinr_hf.training.matching import FeatureMatching, selector
from polyinr_hf.training.reporting import plot_log
from polyinr_hf.training.trainer import Trainer

RESOLUTION = 16
Z = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network():
    return load_feature_network("tf_efficientnet_lite0", feature_resolution=64)


def see(network, folder, by="likeness"):
    dataset = load_image_dataset(folder)
    matching = FeatureMatching(network, len(dataset), dataset.num_classes, by)
    matching.cache_features(image_batches(dataset, RESOLUTION, 5))
    ((images, labels),) = image_batches(dataset, RESOLUTION, len(dataset))
    return matching, to_float(images), labels


def match(matching, images, z, labels=None):
    return matching(images, *matching.choose(z, labels))


@pytest.fixture
def seen(network, labelled_images):
    return see(network, labelled_images)


def test_a_real_image_is_its_own_match(seen):
    matching, images, labels = seen
    distance, matches = match(matching, images, Z[: len(images)], labels)
    assert torch.equal(matches, torch.arange(len(images)))
    assert distance < 1e-3  # features are kept with few digits


def test_unrelated_images_are_about_two_apart(seen):
    """In squared distance: all maps, and pixels, count alike."""
    features = seen[0].reals.float()
    squared = torch.cdist(features, features).square()
    assert squared.sum() / (len(features) * (len(features) - 1)) == pytest.approx(2, rel=0.15)


def test_matches_are_of_the_same_class(seen):
    matching, images, labels = seen
    other = (labels + 1) % 3
    distance, matches = match(matching, images, Z[: len(images)], other)
    assert torch.equal(labels[matches], other)
    assert distance > 0.3


def test_without_classes_all_may_be_matched(network, unlabelled_images):
    matching, images, labels = see(network, unlabelled_images)
    assert labels is None
    matching.update_dual(match(matching, images.flip(0), Z[: len(images)])[1])
    assert torch.equal(match(matching, images, Z[: len(images)])[1], torch.arange(len(images)))


def test_all_real_images_are_chosen_equally_often(seen):
    """By images that are all near the same one, too, after a while; other classes have no part in it."""
    matching, images, labels = seen
    mine = torch.nonzero(labels == 0).flatten()
    random = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(images))
    for step in range(160):
        batch = images[:1] + 0.1 * torch.randn(4, *images.shape[1:], generator=random)
        with torch.no_grad():
            matches = match(matching, batch, Z[:4], labels[:1].expand(4))[1]
        matching.update_dual(matches, labels[:1].expand(4))
        if step == 0:
            assert matches.eq(0).all()
        if step >= 80:
            counts += torch.bincount(matches, minlength=len(images))
    assert counts[labels != 0].sum() == 0 and matching.dual[labels != 0].abs().sum() == 0
    torch.testing.assert_close(counts[mine] / counts.sum(), torch.full((len(mine),), 1 / len(mine)), rtol=0.1, atol=0)


def test_gradients_reach_the_images_alone_and_lead_to_the_match(seen):
    matching, images, labels = seen
    batch = (0.5 * images[:3]).requires_grad_()
    before = match(matching, batch, Z[:3], labels[:3])[0]
    (gradient,) = torch.autograd.grad(before, batch)
    assert match(matching, batch - 0.1 * gradient, Z[:3], labels[:3])[0] < before
    assert all(parameter.grad is None for parameter in matching.parameters())


def test_by_latent_the_selector_says_which(network, labelled_images):
    """Its quantile among the class's images, in the dataset's order, however the images look."""
    matching, images, labels = see(network, labelled_images, by="latent")
    mine = torch.nonzero(labels == 1).flatten()
    uniform = (torch.arange(len(mine)) + 0.5) / len(mine)
    wanted = torch.special.ndtri(uniform)
    wanted[0], wanted[-1] = -60, 60
    z = Z[: len(mine)]
    z = z + (wanted - selector(z))[:, None] / z.shape[1] ** 0.5
    batch = images[: len(mine)]
    distance, matches = match(matching, batch, z, labels[mine])
    assert torch.equal(matches, mine)
    assert torch.equal(match(matching, batch.flip(0), z, labels[mine])[1], mine)
    assert torch.equal(distance, matching(batch, mine)[0])
    assert matching(images[mine], mine)[0] < 1e-3 < distance  # features are kept with few digits


def test_neighbouring_seeds_choose_independently():
    """Small seeds, too, choose each of a class's three images equally often, whatever the seeds before chose."""
    z = torch.stack([torch.randn(256, generator=torch.Generator().manual_seed(seed)) for seed in range(1000)])
    assert selector(z).std() == pytest.approx(1, abs=0.1)
    chosen = (torch.special.ndtr(selector(z)) * 3).long()
    for number, most in ((16, 9), (100, 46), (1000, 373)):  # one in a hundred fair draws is above these, or fewer
        assert torch.bincount(chosen[:number], minlength=3).max() <= most
    pairs = torch.bincount(chosen[:-1] * 3 + chosen[1:], minlength=9)
    assert ((pairs - 111).square() / 111).sum() < 20.1  # chi-squared of 8 degrees of freedom, one in a hundred
    first = (torch.special.ndtr(z[:16, 0]) * 3).long()
    assert torch.bincount(first, minlength=3).max() > 9  # what single numbers of a latent do


# --- in training ------------------------------------------------------------------------------------------------------


def test_the_dual_variables_are_all_that_checkpoints_hold(seen):
    assert set(seen[0].state_dict()) == {"dual"}


def test_a_run_resumes_with_its_dual_variables(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("loss.matching_weight=4"), tmp_path)
    assert trainer.train()
    duals = trainer.matching.dual
    assert duals.abs().sum() > 0 and duals.sum().abs() < 1e-5  # what one image gains, others lose
    assert torch.equal(Trainer(make_recipe("loss.matching_weight=4"), tmp_path, resume=True).matching.dual, duals)


def test_matching_pulls_the_generator(make_recipe, tmp_path):
    """With a large weight generated images come nearer to real ones than without."""
    stage = "stages=[{resolution: 16, kimg: 0.12, batch_size: 8, lr_generator: 2.0e-3}]"
    distances = []
    for weight in (0.001, 1000.0):
        assert Trainer(make_recipe(stage, f"loss.matching_weight={weight}"), tmp_path / str(weight)).train()
        lines = (tmp_path / str(weight) / "log.jsonl").read_text().splitlines()
        distances.append(sum(json.loads(line)["matching_loss"] for line in lines[-5:]) / 5)
    assert distances[1] < distances[0] - 0.1


def test_micro_batches_make_the_dual_variables_of_the_whole_batch(make_recipe, tmp_path):
    stage = "stages=[{resolution: 16, kimg: 0.008, batch_size: 8}]"
    duals = []
    for parts in (1, 2):
        recipe = make_recipe(stage, "loss.matching_weight=1", f"stages.0.gradient_accumulation_steps={parts}")
        trainer = Trainer(recipe, tmp_path / str(parts))
        assert trainer.train()
        duals.append(trainer.matching.dual)
    torch.testing.assert_close(*duals)


def test_the_discriminator_waits_while_matching_is_alone(make_recipe, tmp_path):
    """Without it the generator learns, its mean w is kept; the log holds a discriminator's losses only from there."""
    stage = "stages=[{resolution: 16, kimg: 0.032, batch_size: 8}]"
    overrides = (stage, "loss.matching_weight=4", "loss.matching_by=latent", "run.log_every_steps=1")
    trainer = Trainer(make_recipe(*overrides, "loss.adversarial_start_kimg=0.016"), tmp_path)
    before = {name: values.clone() for name, values in trainer.discriminator.state_dict().items()}
    generator, seen = copy.deepcopy(trainer.generator), []
    step = trainer.train_step

    def watched(*args):
        step(*args)
        now = trainer.discriminator.state_dict()
        moved = (trainer.generator.to_rgb.weight - generator.to_rgb.weight).abs().max() > 0
        seen.append((bool(moved), all(torch.equal(now[name], values) for name, values in before.items())))

    trainer.train_step = watched
    assert trainer.train()
    assert seen == [(True, True), (True, True), (True, False), (True, False)]
    assert trainer.generator.w_mean.abs().sum() > 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["discriminator_loss" in line for line in lines] == [False, False, True, True]
    plot_log(tmp_path / "log.jsonl", tmp_path / "log.png")
