"""The losses against their definitions, summed up number by number."""

import math

import pytest
import torch
from polyinr_hf.training.losses import classifier_guidance_loss, generator_loss, hinge_loss_fake, hinge_loss_real

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
