"""Pivotal tuning: the weights, too, are fitted to an image, around its affine parameters (Roich et al., TOG 2022)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks import check_count, check_number
from ..feature_networks import FeatureNetwork
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .inversion import backbone_name, check_precision, draw_seed
from .losses import InversionLoss, load_perceptual_network, synthesize
from .optimization import learning_rate_factor
from .result import InversionResult, describe
from .search import float32_generator
from .target import Target

LOCALITY_PIXELS = 1024  # of another image, at each step


def tune(
    pipe: PolyINRPipeline,
    image: Image.Image | Tensor,
    affine_parameters: Tensor,
    num_steps: int = 200,
    lr: float = 0.003,
    locality_weight: float = 0.1,
    mask: Image.Image | Tensor | np.ndarray | None = None,
    backbone: str | FeatureNetwork | None = None,
    weights: str | Path | None = None,
    perceptual_weight: float = 0.05,
    num_pixels: int | None = 4096,
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, float], None] | None = None,
    precision: str = "float32",
) -> tuple[PolyINRPipeline, InversionResult]:
    """Fits the synthesis weights (W_l, b_l and the colour layer) to an image, its affine parameters held fixed.

    Each step adds the mean squared error on the image and, as locality, on a sample the model draws anew each time,
    against what it drew before tuning. `pipe` stays as it is; the new pipeline saves like any other.

    Args:
        image, mask, backbone, weights, perceptual_weight, num_pixels, generator, callback: see
            [`~polyinr_hf.inversion.invert`]. By default pixels alone are compared: the pivot has the features right.
        affine_parameters: the pivot A (1, L, n, 3), as inversion finds it.
        lr: Adam's rate, in units of each weight matrix's root mean square.
        locality_weight: how much other images are to stay; 0 lets them go.
        precision: `"bfloat16"` multiplies by the weights with fewer digits, in half the time on a processor that can.

    Returns:
        The tuned pipeline, in float32, and how it draws the image.

    Raises:
        ValueError: for an argument of a wrong kind, shape or range, before any work.
        FileNotFoundError: if the backbone's weights cannot be had.
    """
    from .. import reconstruction  # noqa: F401  scikit-image must be there before the work, not after it

    check_count("num_steps", num_steps, minimum=0)
    if num_pixels is not None:
        check_count("num_pixels", num_pixels)
    check_number("lr", lr, positive=True)
    check_number("locality_weight", locality_weight)
    check_number("perceptual_weight", perceptual_weight)
    check_precision(precision)
    target = Target.prepare(image, mask)
    original = float32_generator(pipe)
    original._check_affine_parameters(affine_parameters)
    if len(affine_parameters) != 1 or not affine_parameters.isfinite().all():
        raise ValueError(f"`affine_parameters` must be of one image, finite, got {tuple(affine_parameters.shape)}.")
    A = affine_parameters.detach().float().to(original.device)
    tuned = copy.deepcopy(original)
    network = load_perceptual_network(backbone, weights, original.device)
    objective = InversionLoss(tuned, target, network, perceptual_weight, num_pixels, precision=precision)
    seed = draw_seed(generator)

    began = time.monotonic()
    parameters = [*tuned.synthesis_levels.parameters(), *tuned.to_rgb.parameters()]
    trainable = [parameter.requires_grad for parameter in tuned.parameters()]
    tuned.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_()
    optimizer = _optimizer(tuned)
    losses = []
    for step in range(num_steps):
        random = torch.Generator().manual_seed((seed + step) % 2**63)
        loss, gradients = objective(A, objective.draw_pixels(random), weights=parameters)
        if locality_weight > 0:
            changes = _locality(original, tuned, parameters, random, precision)
            torch._foreach_add_(gradients, changes, alpha=locality_weight)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = lr * group["size"] * learning_rate_factor(step, num_steps)
        optimizer.step()
        losses.append(loss)
        if callback is not None:
            callback(step + 1, num_steps, loss)
    optimizer.zero_grad()
    for parameter, requires_grad in zip(tuned.parameters(), trainable, strict=True):
        parameter.requires_grad_(requires_grad)
    seconds = time.monotonic() - began

    settings = {"tuned": True, "height": target.size[0], "width": target.size[1], "masked": not target.is_whole}
    settings |= {"num_steps": num_steps, "lr": lr, "locality_weight": locality_weight, "num_pixels": num_pixels}
    settings |= {"backbone": backbone_name(network), "perceptual_weight": perceptual_weight, "seed": seed}
    settings |= {"precision": precision}
    return type(pipe)(tuned, pipe.config.id2label), describe(tuned, target, A, losses, seconds, settings)


def _optimizer(model: PolyINRGenerator) -> torch.optim.Optimizer:
    """Adam with a group for each layer, whose `size` is its weights' root mean square."""
    layers = [*model.synthesis_levels, model.to_rgb]
    groups = [
        {"params": list(layer.parameters()), "size": layer.weight.detach().square().mean().sqrt().item()}
        for layer in layers
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))


def _locality(
    original: PolyINRGenerator, tuned: PolyINRGenerator, parameters: list, random: torch.Generator, precision: str
) -> Sequence[Tensor]:
    """Gradients of the mean squared change of a random sample's image; its affine parameters are the same in both."""
    config, device = original.config, original.device
    z = torch.randn(1, config.z_dim, generator=random).to(device)
    labels = None
    if config.num_classes is not None:
        labels = torch.randint(config.num_classes, (1,), generator=random).to(device)
    coordinates = torch.rand(LOCALITY_PIXELS, 2, generator=random).to(device)
    with torch.no_grad():
        A = original.affine(original.map(z, labels))  # (1, L, n, 3)
        before = synthesize(original, A, coordinates, precision)  # (1, N, 3)
    with torch.enable_grad():
        change = (synthesize(tuned, A, coordinates, precision) - before).square().mean()
    return torch.autograd.grad(change, parameters)
