"""Where inversion searches: affine parameters, w or z, scaled so that one learning rate fits; and where it starts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .losses import InversionLoss, PerceptualLoss
from .settings import InversionSettings
from .target import Target

if TYPE_CHECKING:
    from ..feature_networks import FeatureNetwork

SPACES = ("affine", "w", "z")
START_SIDE = 32  # longest side, in pixels, at which starts are compared
START_BATCH = 8  # starts drawn at once: memory against calls
START_CLASSES = 5  # the classifier's likeliest
# [u, v, 1] = CENTRED @ [2u - 1, 2v - 1, 1]: about the image's centre, slope and height of a modulation pull apart.
CENTRED = ((0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (0.0, 0.0, 1.0))


def float32_generator(pipe: PolyINRPipeline) -> PolyINRGenerator:
    """The pipeline's generator, or a copy in float32 if it is in another dtype, which is too coarse for small steps."""
    model = pipe.generator
    return model if model.dtype == torch.float32 else copy.deepcopy(model).float()


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed drawn from `generator`; 0 without one."""
    if generator is None:
        return 0
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


class SearchSpace:
    """Parameters as `value + delta * scale`, `delta` being searched for, and the affine parameters they stand for.

    Args:
        model: the generator.
        space: one of `SPACES`.
        value: the start: affine parameters in centred coordinates (1, L, n, 3), w (1, L, w_dim) or z (1, z_dim).
        scale: root mean square of the parameters, broadcast to `value`'s shape.
        class_label: z's class; otherwise of no effect.
    """

    def __init__(self, model: PolyINRGenerator, space: str, value: Tensor, scale: Tensor, class_label: int | None):
        self.model, self.space = model, space
        self.value, self.scale = value.to(model.device), scale.to(model.device)
        self.delta = torch.zeros_like(self.value).requires_grad_()
        self.variables = [self.delta]
        self.class_labels = None
        if model.config.num_classes is not None and class_label is not None:
            self.class_labels = torch.tensor([class_label], device=model.device)

    def parameters(self) -> Tensor:
        """Their present values, shaped as `value`; differentiable."""
        return self.value + self.delta * self.scale

    def affine(self) -> Tensor:
        """A (1, L, n, 3) of the present parameters; differentiable."""
        parameters = self.parameters()
        if self.space == "affine":
            return parameters @ torch.linalg.inv(torch.tensor(CENTRED)).to(parameters.device)
        if self.space == "w":
            return self.model.affine(parameters)
        return self.model.affine(self.model.map(parameters, self.class_labels))

    def parameter_groups(self) -> list[dict]:
        return [{"params": self.variables, "size": 1.0}]

    def evaluate(self, objective: InversionLoss, pixels: Tensor, perceptual: bool, random: torch.Generator) -> float:
        with torch.enable_grad():
            A = self.affine()  # (1, L, n, 3)
            loss, (gradient,) = objective(A, pixels, perceptual)
            (self.delta.grad,) = torch.autograd.grad(A, self.delta, gradient)
        return loss


@torch.no_grad()
def find_start(
    model: PolyINRGenerator,
    target: Target,
    network: FeatureNetwork | None,
    space: str,
    class_label: int | None,
    seed: int,
    settings: InversionSettings,
    classifier: Callable[[Tensor], Tensor] | None = None,
) -> dict:
    """The best of `settings.num_starts` samples and of their classes' means, by the loss at low resolution.

    Returns the arguments of [`SearchSpace`] after the first two, on the CPU.
    """
    random, config, device = torch.Generator().manual_seed(seed), model.config, model.device
    num_starts, perceptual_weight = settings.num_starts, settings.perceptual_weight
    labels = _candidate_labels(model, target, class_label, num_starts, random, classifier)
    z = torch.randn(num_starts, config.z_dim, generator=random)  # (B, z_dim)
    w = torch.cat([model.map(*part) for part in _batches(z, labels, device)])  # (B, L, w_dim)
    if space != "z":  # a mean of w has no z
        rows = torch.zeros(1, dtype=torch.long) if labels is None else labels.unique()
        means = model.w_mean[rows.to(device)].to(w.dtype)  # (M, w_dim)
        w = torch.cat([w, means.unsqueeze(1).expand(-1, config.num_levels, -1)])
        labels = None if labels is None else torch.cat([labels, rows])

    small, coordinates = target.downscaled(START_SIDE)
    image, known, coordinates = small.image.to(device), small.known.to(device), coordinates.to(device)
    perceptual = PerceptualLoss(network, image, known) if network is not None and perceptual_weight > 0 else None
    losses = []
    for part in w.split(START_BATCH):
        images = model.synthesize(model.affine(part), coordinates)  # (B, N, 3)
        images = images.transpose(1, 2).unflatten(2, small.size)  # (B, 3, h, w)
        loss = ((images - image) * known).square().sum(dim=(1, 2, 3)) / (3 * known.sum())
        losses.append(loss if perceptual is None else loss + perceptual_weight * perceptual(images))
    best = int(torch.cat(losses).nan_to_num(nan=torch.inf).argmin())

    label = None if labels is None else int(labels[best])
    if space == "affine":
        return affine_start(model.affine(w[best : best + 1]), label)
    if space == "w":
        value, scale = w[best : best + 1], w.std(dim=0, correction=0).square().mean().sqrt()
    else:
        value, scale = z[best : best + 1], torch.tensor(1.0)
    return {"value": value.float().cpu(), "scale": scale.float().clamp(min=1e-3).cpu(), "class_label": label}


def affine_start(A: Tensor, class_label: int | None = None) -> dict:
    """The arguments of [`SearchSpace`] after the first two, to search from affine parameters A (1, L, n, 3)."""
    value = A.float().cpu() @ torch.tensor(CENTRED)  # (1, L, n, 3)
    # One size for a level's slopes and heights: a level that hardly sees coordinates yet may come to.
    scale = value.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp(min=1e-3)  # (1, L, 1, 1)
    return {"value": value, "scale": scale, "class_label": class_label}


def _candidate_labels(model, target, class_label, num_starts, random, classifier) -> Tensor | None:
    """Class of each sample (num_starts,), None for an unconditional model: the one asked for, likely ones, or all."""
    num_classes = model.config.num_classes
    if num_classes is None:
        return None
    if class_label is not None:
        choice = torch.tensor([class_label])
    elif classifier is not None:
        logits = classifier(target.image.to(model.device))
        if logits.shape != (1, num_classes):
            raise ValueError(
                f"`classifier` must give logits (1, {num_classes}), one for each of the model's classes, "
                f"got {tuple(logits.shape)}."
            )
        choice = logits[0].topk(min(START_CLASSES, num_classes)).indices.cpu()
    else:
        choice = torch.randperm(num_classes, generator=random)
    return choice.repeat(-(-num_starts // len(choice)))[:num_starts]


def _batches(z: Tensor, labels: Tensor | None, device: torch.device):
    for index in torch.arange(len(z)).split(START_BATCH):
        yield z[index].to(device), None if labels is None else labels[index].to(device)
