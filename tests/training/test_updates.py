"""Running means of weights and of w, and the guard on gradients."""

import copy
import math

import pytest
import torch
from polyinr_hf.training.updates import ema_decay, guard_gradients, update_ema, update_w_mean
from torch import nn


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
