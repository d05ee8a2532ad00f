"""The losses of a projected GAN: hinge for the discriminator, `-logit` and classifier guidance for the generator.

`logits` is what [`ProjectedDiscriminator`] returns: network name -> (B, K). Each loss is the mean over a network's
batch and logits, summed over networks. The mean over logits is the release's; over the samples of a micro-batch the
release *sums*, which Adam's scale invariance hides, except where another loss is added: see
[`classifier_guidance_loss`].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor


def hinge_loss_real(logits: Mapping[str, Tensor]) -> Tensor:
    """`E[max(0, 1 - D(x))]`, the discriminator's hinge loss on real images (Lim & Ye, Geometric GAN, 2017).

    A mean per network, summed over networks (Sauer et al., Projected GANs Converge Faster, 2021, equation 2).
    """
    return sum(F.relu(1 - network_logits).mean() for network_logits in logits.values())


def hinge_loss_fake(logits: Mapping[str, Tensor]) -> Tensor:
    """`E[max(0, 1 + D(G(z)))]`, the discriminator's hinge loss on generated images; see [`hinge_loss_real`]."""
    return sum(F.relu(1 + network_logits).mean() for network_logits in logits.values())


def generator_loss(logits: Mapping[str, Tensor]) -> Tensor:
    """`-E[D(G(z))]`, the generator's adversarial loss that goes with the hinge: a mean per network, summed."""
    return -sum(network_logits.mean() for network_logits in logits.values())


def classifier_guidance_loss(classifier: Callable[[Tensor], Tensor], images: Tensor, class_labels: Tensor) -> Tensor:
    """`E[-log p(c | G(z, c))]` of a frozen classifier (Sauer et al., StyleGAN-XL, 2022, section 3.4), a batch mean.

    Multiply it with the guidance weight before adding it to [`generator_loss`]. Both are batch means here. In the
    release the adversarial loss is a sum over the micro-batch and this one a mean, so that a published weight of 8
    there acts as 8 / (images per micro-batch) does here.

    Args:
        classifier: logits (B, classes) of images (B, 3, H, W) in [-1, 1]; see [`build_classifier`].
        images (`Tensor`): generated images, (B, 3, H, W) in [-1, 1].
        class_labels (`Tensor`): the labels they were generated for, (B,) integers, in the classifier's numbering.
    """
    return F.cross_entropy(classifier(images).float(), class_labels)


def mean_sign(logits: Mapping[str, Tensor]) -> Tensor:
    """Mean sign of logits: 1 if all are judged real, -1 if all are judged generated."""
    return sum(values.detach().sign().mean() for values in logits.values()) / len(logits)
