"""Generated images are matched with real ones of their class, each as often as the others."""

import pytest
import torch

from polyinr_hf.data import image_batches, load_image_dataset, to_float
from polyinr_hf.training.feature_networks import load_feature_network
from polyinr_hf.training.matching import FeatureMatching
from polyinr_hf.training.trainer import Trainer

RESOLUTION = 16


@pytest.fixture(scope="module")
def network():
    return load_feature_network("tf_efficientnet_lite0", feature_resolution=64)


def see(network, folder):
    dataset = load_image_dataset(folder)
    matching = FeatureMatching(network, len(dataset), dataset.num_classes)
    matching.see_real_images(dataset, RESOLUTION, batch_size=5)
    ((images, labels),) = image_batches(dataset, RESOLUTION, len(dataset))
    return matching, to_float(images), labels


@pytest.fixture
def seen(network, labelled_images):
    return see(network, labelled_images)


def test_a_real_image_is_its_own_match(seen):
    matching, images, labels = seen
    distance, matches = matching(images, labels)
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
    distance, matches = matching(images, other)
    assert torch.equal(labels[matches], other)
    assert distance > 0.3


def test_without_classes_all_may_be_matched(network, unlabelled_images):
    matching, images, labels = see(network, unlabelled_images)
    assert labels is None
    matching.update_bonus(matching(images.flip(0))[1])
    assert torch.equal(matching(images)[1], torch.arange(len(images)))


def test_all_real_images_are_chosen_equally_often(seen):
    """By images that are all near the same one, too, after a while; other classes have no part in it."""
    matching, images, labels = seen
    mine = torch.nonzero(labels == 0).flatten()
    random = torch.Generator().manual_seed(0)
    counts = torch.zeros(len(images))
    for step in range(240):
        batch = images[:1] + 0.1 * torch.randn(4, *images.shape[1:], generator=random)
        matches = matching(batch, labels[:1].expand(4))[1]
        matching.update_bonus(matches, labels[:1].expand(4))
        if step == 0:
            assert matches.eq(0).all()
        if step >= 80:
            counts += torch.bincount(matches, minlength=len(images))
    assert counts[labels != 0].sum() == 0 and matching.bonus[labels != 0].abs().sum() == 0
    torch.testing.assert_close(counts[mine] / counts.sum(), torch.full((len(mine),), 1 / len(mine)), rtol=0.1, atol=0)


def test_gradients_reach_the_images_alone_and_lead_to_the_match(seen):
    matching, images, labels = seen
    batch = (0.5 * images[:3]).requires_grad_()
    before = matching(batch, labels[:3])[0]
    (gradient,) = torch.autograd.grad(before, batch)
    assert matching(batch - 0.1 * gradient, labels[:3])[0] < before
    assert all(parameter.grad is None for parameter in matching.parameters())


# --- in training ------------------------------------------------------------------------------------------------------


def test_the_bonus_is_all_that_checkpoints_hold(seen):
    assert set(seen[0].state_dict()) == {"bonus"}


def test_a_run_resumes_with_its_bonus(make_recipe, tmp_path):
    trainer = Trainer(make_recipe("loss.matching_weight=4"), tmp_path)
    assert trainer.train()
    bonus = trainer.matching.bonus
    assert bonus.abs().sum() > 0 and bonus.sum().abs() < 1e-5  # what one image gains, others lose
    assert torch.equal(Trainer(make_recipe("loss.matching_weight=4"), tmp_path, resume=True).matching.bonus, bonus)


def test_matching_pulls_the_generator(make_recipe, tmp_path, monkeypatch):
    """With a large weight generated images come nearer to real ones than without."""
    stage = "stages=[{resolution: 16, kimg: 0.12, batch_size: 8, lr_generator: 2.0e-3}]"
    distances = []
    for weight in (0.001, 1000.0):
        trainer, seen = Trainer(make_recipe(stage, f"loss.matching_weight={weight}"), tmp_path / str(weight)), []
        forward = trainer.matching.forward
        monkeypatch.setattr(
            trainer.matching, "forward", lambda *args, f=forward, s=seen: (s.append(f(*args)), s[-1])[1]
        )
        assert trainer.train()
        distances.append(sum(distance.item() for distance, _ in seen[-5:]) / 5)
    assert distances[1] < distances[0] - 0.1


def test_micro_batches_make_the_bonus_of_the_whole_batch(make_recipe, tmp_path):
    stage = "stages=[{resolution: 16, kimg: 0.008, batch_size: 8}]"
    bonus = []
    for parts in (1, 2):
        recipe = make_recipe(stage, "loss.matching_weight=1", f"stages.0.gradient_accumulation_steps={parts}")
        trainer = Trainer(recipe, tmp_path / str(parts))
        assert trainer.train()
        bonus.append(trainer.matching.bonus)
    torch.testing.assert_close(*bonus)
