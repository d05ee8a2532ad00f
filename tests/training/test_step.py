"""What a step is made of: losses against their definitions, running means of weights and of w, guarded gradients."""

import copy
import math

import pytest
import torch
from torch import nn

from polyinr_hf.training.step import (
    classifier_guidance_loss,
    ema_decay,
    generator_loss,
    guard_gradients,
    hinge_loss_fake,
    hinge_loss_real,
    update_ema,
    update_w_mean,
)

LOGITS = {
    "first": torch.tensor([[2.0, 0.5, -1.0], [1.0, -3.0, 0.0]]),
    "second": torch.tensor([[-0.5], [4.0]]),
}


def by_hand(function):
    return sum(
        sum(function(value) for value in logits.flatten().tolist()) / logits.numel() for logits in LOGITS.values()
    )


def test_hinge_losses():
    assert hinge_loss_real(LOGITS).item() == pytest.approx(by_hand(lambda x: max(0, 1 - x)))
    assert hinge_loss_fake(LOGITS).item() == pytest.approx(by_hand(lambda x: max(0, 1 + x)))


def test_hinge_has_no_gradient_beyond_its_margin():
    logits = torch.tensor([[1.5, 0.5]], requires_grad=True)
    hinge_loss_real({"network": logits}).backward()
    assert logits.grad.tolist() == [[0.0, -0.5]]


def test_generator_loss():
    assert generator_loss(LOGITS).item() == pytest.approx(by_hand(lambda x: -x))


@pytest.mark.parametrize("loss", [hinge_loss_real, hinge_loss_fake, generator_loss])
def test_losses_are_batch_means(loss):
    """The mean over equal parts of a batch is the loss of the batch, as gradient accumulation needs."""
    parts = [loss({name: logits[i : i + 1] for name, logits in LOGITS.items()}) for i in (0, 1)]
    torch.testing.assert_close(sum(parts) / 2, loss(LOGITS))


def test_classifier_guidance_is_cross_entropy_and_reaches_the_images():
    weight = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    labels = torch.tensor([4, 0, 2])

    loss = classifier_guidance_loss(lambda x: x.flatten(1) @ weight.T, images, labels)
    loss.backward()

    logits = (images.detach().flatten(1) @ weight.T).tolist()
    expected = 0.0
    for row, label in zip(logits, labels.tolist(), strict=True):
        expected += (math.log(sum(math.exp(value) for value in row)) - row[label]) / len(logits)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    probabilities = torch.softmax(images.detach().flatten(1) @ weight.T, dim=1)
    gradient = (probabilities - torch.eye(5)[labels]) @ weight / 3
    torch.testing.assert_close(images.grad.flatten(1), gradient)


# --- running means and gradients --------------------------------------------------------------------------------------


def test_ema_halves_after_its_half_life():
    decay = ema_decay(64, 10**9, half_life_kimg=None, ramp_up=0.05)
    assert decay ** (64 * 10 / 32 * 1000 / 64) == pytest.approx(0.5)  # batch * 10 / 32 kimg, in steps
    assert ema_decay(32, 0, half_life_kimg=3.2, ramp_up=None) ** 100 == pytest.approx(0.5)


def test_ema_half_life_ramps_up_with_images_seen():
    assert ema_decay(64, 0, None, 0.05) == 0  # the weights themselves
    seen = 12_800
    assert ema_decay(64, seen, None, 0.05) ** (0.05 * seen / 64) == pytest.approx(0.5)
    decays = [ema_decay(64, images, None, 0.05) for images in range(0, 800_000, 50_000)]
    assert decays == sorted(decays)
    assert decays[-1] == ema_decay(64, 10**9, None, None)  # from 20 kimg / 0.05 = 400 kimg on


def test_ema_averages_parameters_and_copies_buffers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = copy.deepcopy(model).requires_grad_(False)
    before = {name: value.clone() for name, value in ema.named_parameters()}
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    model(torch.randn(8, 3))  # moves the running statistics
    update_ema(ema, model, 0.75)
    for name, value in model.named_parameters():
        torch.testing.assert_close(ema.get_parameter(name), 0.75 * before[name] + 0.25 * value)
    assert ema[1].num_batches_tracked == 1
    for theirs, ours in zip(model.buffers(), ema.buffers(), strict=True):
        assert torch.equal(theirs, ours)
        assert theirs is not ours


def test_w_mean_moves_the_rows_of_the_batchs_classes():
    torch.manual_seed(0)
    w_mean, w, labels = torch.randn(4, 5), torch.randn(6, 5), torch.tensor([0, 2, 2, 0, 2, 3])
    before = w_mean.clone()
    update_w_mean(w_mean, w, labels, 0.9)
    for label in (0, 2, 3):
        torch.testing.assert_close(w_mean[label], 0.9 * before[label] + 0.1 * w[labels == label].mean(dim=0))
    assert torch.equal(w_mean[1], before[1])


def test_w_mean_starts_from_the_first_mean():
    w_mean, w = torch.zeros(3, 5), torch.randn(4, 5)
    update_w_mean(w_mean, w, torch.tensor([1, 1, 1, 1]), 0.998)
    torch.testing.assert_close(w_mean[1], w.mean(dim=0))
    assert not w_mean[[0, 2]].any()


def test_w_mean_without_classes_is_one_row():
    w_mean, w = torch.ones(1, 5), torch.randn(4, 5)
    update_w_mean(w_mean, w, None, 0.998)
    torch.testing.assert_close(w_mean, (0.998 + 0.002 * w.mean(dim=0)).unsqueeze(0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_are_replaced_and_counted(value):
    bad, good, without = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    bad.grad, good.grad = torch.tensor([1.0, value, -2.0]), torch.tensor([3.0, 4.0, 1e30])
    expected = 0.0 if math.isnan(value) else math.copysign(1e5, value)
    assert guard_gradients([good, bad, without]) == 1
    assert bad.grad.tolist() == [1.0, expected, -2.0]
    assert good.grad.tolist() == torch.tensor([3.0, 4.0, 1e30]).tolist()  # large, but finite
    assert guard_gradients([good, bad, without]) == 0
