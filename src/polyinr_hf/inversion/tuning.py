"""Pivotal tuning: the weights, too, are fitted to an image, around its affine parameters (Roich et al., TOG 2022)."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..digests import tensor_digest, weights_digest
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .checkpoint import load_state, new_state
from .losses import InversionLoss, backbone_name, load_perceptual_network, synthesize
from .measurement import describe
from .optimization import InversionStep, Phase, optimize, split_steps
from .result import InversionResult
from .search import SearchSpace, affine_start, draw_seed, find_start, float32_generator
from .settings import STRENGTHS, InversionSettings, TuningSettings
from .target import Target

if TYPE_CHECKING:
    from ..feature_networks import FeatureNetwork

LOCALITY_PIXELS = 1024  # of another image, at each step
ADAM_SHARE = 1 / 3  # Adam's learning rate, for what is no matrix, as a share of Muon's


def tune(
    pipe: PolyINRPipeline,
    image: Image.Image | Tensor,
    affine_parameters: Tensor | None = None,
    strength: str = "close",
    backbone: str | FeatureNetwork | None = None,
    weights: str | Path | None = None,
    mask: Image.Image | Tensor | np.ndarray | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[InversionStep], None] | None = None,
    checkpoint: str | Path | None = None,
    settings: TuningSettings | None = None,
) -> tuple[PolyINRPipeline, InversionResult]:
    """Fits the synthesis weights (W_l, b_l and the RGB layer) to an image.

    `pipe` is not changed; the new pipeline saves like any other.

    Args:
        image, weights, mask, generator, callback, checkpoint: see [`~polyinr_hf.inversion.invert`].
        affine_parameters: A (1, L, n, 3) to start from, as inversion finds them. By default the search starts from
            the best of some samples and class means, as inversion does, which only `"close"` can.
        strength: `"close"` changes weights and affine parameters together until the image is there, whatever becomes
            of other images; `"near"` keeps the affine parameters, and, as locality, adds to the error on the image the
            change of a sample that the model draws anew for each step, so that edits and samples stay what they were.
        backbone: network whose features are compared, see [`~polyinr_hf.inversion.invert`]; by default pixels alone.
        settings: numbers of steps, rates and sizes, in place of the strength's own, `STRENGTHS[strength]`.

    Returns:
        The tuned pipeline, in float32, and how it draws the image: `result.affine_parameters` are those of that
        pipeline.

    Raises:
        ValueError: for an argument of a wrong kind, shape or range, or a checkpoint that belongs to a different image,
            model or settings, before any work.
        FileNotFoundError: if the backbone's weights cannot be found.
        ImportError: with a backbone and without timm.
    """
    if strength not in STRENGTHS:
        raise ValueError(f"`strength` must be one of {tuple(STRENGTHS)}, got {strength!r}.")
    settings = STRENGTHS[strength] if settings is None else settings
    target = Target.prepare(image, mask)
    original = float32_generator(pipe)
    if affine_parameters is not None:
        original.check_affine_parameters(affine_parameters)
        if len(affine_parameters) != 1 or not affine_parameters.isfinite().all():
            raise ValueError(f"`affine_parameters` must be of one image, finite, got {tuple(affine_parameters.shape)}.")
    elif settings.affine_lr == 0:
        raise ValueError("`affine_parameters` is required for `strength` near, which keeps them; invert first.")
    network = load_perceptual_network(backbone, weights, original.device)

    seed = draw_seed(generator)
    record = {"tuned": True, "height": target.size[0], "width": target.size[1], "masked": not target.is_whole}
    record |= {"backbone": backbone_name(network), "seed": seed} | asdict(settings)
    start = None if affine_parameters is None else tensor_digest(affine_parameters.float())
    work = {**record, "image": target.digest(), "model": weights_digest(original), "start": start}
    state = load_state(checkpoint, json.dumps(work))
    if state is None:
        began = time.monotonic()
        if affine_parameters is None:
            start = find_start(original, target, None, "affine", None, seed, InversionSettings())
        else:
            start = affine_start(affine_parameters.detach())
        state = new_state(json.dumps(work), start, seconds=time.monotonic() - began)
    problem = WeightSearch(original, settings, state["start"])
    phases = plan_phases(problem.model, target, settings, network)
    optimize(problem, phases, state, settings.lr, None, seed, callback, checkpoint)
    with torch.no_grad():
        A = problem.affine()  # (1, L, n, 3)
    tuned = problem.finish()
    result = describe(tuned, target, A, state["losses"], state["seconds"], record)
    pipe = copy.copy(pipe)  # `from_pipe` would cast, and diffusers warns of every cast
    pipe.register_modules(generator=tuned)
    return pipe, result


def plan_phases(
    model: PolyINRGenerator, target: Target, settings: TuningSettings, network: FeatureNetwork | None = None
) -> list[Phase]:
    """Adam on small copies of the target, each twice as large as the one before, then on itself."""
    options = {"num_pixels": settings.num_pixels, "precision": settings.precision}
    copies = target.small_copies(settings.coarse_side)
    coarse = [InversionLoss(model, small, coordinates=coordinates, **options) for small, coordinates in copies]
    fine = InversionLoss(model, target, network, settings.perceptual_weight, **options)
    steps = split_steps(settings.num_steps, settings.coarse_share, len(copies))
    return [Phase("adam", *pair) for pair in zip([*coarse, fine], steps, strict=True)]


class WeightSearch:
    """The synthesis weights of a copy of the model and, with an `affine_lr`, the affine parameters beside them.

    Args:
        original: the model, which is not changed.
        start: the affine parameters to start from, as `affine_start` gives them.
    """

    def __init__(self, original: PolyINRGenerator, settings: TuningSettings, start: dict):
        self.original, self.settings = original, settings
        self.model = copy.deepcopy(original).requires_grad_(False)
        self.layers = [*self.model.synthesis_levels, self.model.to_rgb]
        self.weights = [parameter.requires_grad_() for layer in self.layers for parameter in layer.parameters()]
        self.search = SearchSpace(self.model, "affine", **start)
        self.fixed = None if settings.affine_lr > 0 else self.search.affine().detach()
        self.variables = self.weights + (self.search.variables if self.fixed is None else [])

    def affine(self) -> Tensor:
        """A (1, L, n, 3); differentiable if it is searched for."""
        return self.search.affine() if self.fixed is None else self.fixed

    def parameter_groups(self) -> list[dict]:
        """Groups of each layer, whose `size` is its weights' root mean square, and one of the affine parameters."""
        groups = []
        for layer in self.layers:
            size = layer.weight.detach().square().mean().sqrt().item()
            if self.settings.optimizer == "muon" and layer is not self.model.to_rgb:
                groups.append({"params": [layer.weight], "size": size, "matrices": True})
                groups.append({"params": [layer.bias], "size": ADAM_SHARE * size})
            else:
                share = ADAM_SHARE if self.settings.optimizer == "muon" else 1.0
                groups.append({"params": list(layer.parameters()), "size": share * size})
        if self.fixed is None:
            groups.append({"params": self.search.variables, "size": self.settings.affine_lr / self.settings.lr})
        return groups

    def evaluate(self, objective: InversionLoss, pixels: Tensor, perceptual: bool, random: torch.Generator) -> float:
        with torch.enable_grad():
            A = self.affine()  # (1, L, n, 3)
            loss, gradients = objective(A, pixels, perceptual, self.weights)
            if self.fixed is None:
                (self.search.delta.grad,) = torch.autograd.grad(A, self.search.delta, gradients.pop(0))
        if self.settings.locality_weight > 0:
            torch._foreach_add_(gradients, self._locality(random), alpha=self.settings.locality_weight)
        for parameter, gradient in zip(self.weights, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _locality(self, random: torch.Generator) -> Sequence[Tensor]:
        """Gradients of the mean squared change of a random sample's image; its A is the same in both models."""
        config, device, precision = self.original.config, self.original.device, self.settings.precision
        z = torch.randn(1, config.z_dim, generator=random).to(device)
        labels = None
        if config.num_classes is not None:
            labels = torch.randint(config.num_classes, (1,), generator=random).to(device)
        coordinates = torch.rand(LOCALITY_PIXELS, 2, generator=random).to(device)
        with torch.no_grad():
            A = self.original.affine(self.original.map(z, labels))  # (1, L, n, 3)
            before = synthesize(self.original, A, coordinates, precision)  # (1, N, 3)
        with torch.enable_grad():
            change = (synthesize(self.model, A, coordinates, precision) - before).square().mean()
        return torch.autograd.grad(change, self.weights)

    def finish(self) -> PolyINRGenerator:
        """The tuned model, trainable where the original is."""
        for parameter, original in zip(self.model.parameters(), self.original.parameters(), strict=True):
            parameter.grad = None
            parameter.requires_grad_(original.requires_grad)
        return self.model
