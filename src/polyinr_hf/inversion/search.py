"""What an inversion changes: an image's affine parameters, w or z, and, in tuning, the weights; and where it starts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from ..modeling_poly_inr import PolyINRGenerator
from .objective import InversionLoss, PerceptualLoss, Target, synthesize
from .settings import InversionSettings, TuningSettings

if TYPE_CHECKING:
    from ..feature_networks import FeatureNetwork

SPACES = ("affine", "w", "z")
START_SIDE = 32  # longest side, in pixels, at which starts are compared (not tuned)
START_BATCH = 8  # starts drawn at once: memory against calls
START_CLASSES = 5  # the classifier's likeliest, ImageNet's top 5
MIN_SCALE = 1e-3  # of parameters that are all but zero, which could not move otherwise (not tuned)
LOCALITY_PIXELS = 1024  # of another image, at each step (not tuned)
ADAM_SHARE = 1 / 3  # Adam's learning rate, for what is no matrix, as a share of Muon's (not tuned)
# [u, v, 1] = CENTERED @ [2u - 1, 2v - 1, 1]: about the image's center, slope and height of a modulation pull apart.
CENTERED = ((0.5, 0.0, 0.5), (0.0, 0.5, 0.5), (0.0, 0.0, 1.0))


class Search:
    """Leaf tensors that are searched for, and the image that they stand for.

    They are those of an image, `value + delta * scale`, so that one learning rate fits, and in tuning the synthesis
    weights of a copy of the model.

    Args:
        model: The generator, which is not changed.
        value: The start: affine parameters in centered coordinates (1, L, n, 3), w (1, L, w_dim) or z (1, z_dim).
        scale: Root mean square of the parameters, broadcast to `value`'s shape.
        class_label: z's class; otherwise of no effect.
        space: One of `SPACES`.
        tuning: How the weights are tuned; `None` leaves them as they are.

    Attributes:
        model: The model that draws the image.
        variables: What is searched for.
    """

    def __init__(
        self,
        model: PolyINRGenerator,
        value: Tensor,
        scale: Tensor,
        class_label: int | None,
        space: str = "affine",
        tuning: TuningSettings | None = None,
    ):
        self.original, self.model, self.space, self.tuning = model, model, space, tuning
        self.value, self.scale = value.to(model.device), scale.to(model.device)
        self.class_labels = None
        if model.config.num_classes is not None and class_label is not None:
            self.class_labels = torch.tensor([class_label], device=model.device)
        self.moves = tuning is None or tuning.affine_lr > 0  # whether the image's own parameters are searched for
        self.delta = torch.zeros_like(self.value).requires_grad_(self.moves)
        self.layers, self.weights = [], []
        if tuning is not None:
            self.model = copy.deepcopy(model).requires_grad_(False)
            self.layers = [*self.model.synthesis_levels, self.model.to_rgb]
            self.weights = [parameter.requires_grad_() for layer in self.layers for parameter in layer.parameters()]
        self.variables = self.weights + ([self.delta] if self.moves else [])

    def parameters(self) -> Tensor:
        """The image's present parameters, shaped as `value`; differentiable."""
        return self.value + self.delta * self.scale

    def affine(self) -> Tensor:
        """A (1, L, n, 3) of the present parameters; differentiable if they are searched for."""
        parameters = self.parameters()
        if self.space == "affine":
            return parameters @ torch.linalg.inv(torch.tensor(CENTERED)).to(parameters.device)
        if self.space == "w":
            return self.model.affine(parameters)
        return self.model.affine(self.model.map(parameters, self.class_labels))

    @torch.no_grad()
    def draw(self, height: int, width: int) -> tuple[Tensor, Image.Image]:
        """The present image, as (1, 3, H, W) in [-1, 1] on the CPU, and as 8-bit RGB."""
        drawn = self.model.render(self.affine(), height, width).clamp(-1, 1).cpu()
        pictures: Any = VaeImageProcessor().postprocess(drawn, "pil")
        return drawn, pictures[0]

    def parameter_groups(self) -> list[dict]:
        """Groups of the variables; each one's `size` multiplies the learning rate, `matrices` asks for Muon.

        A layer's size is its weights' root mean square.
        """
        if self.tuning is None:
            return [{"params": self.variables, "size": 1.0}]
        groups, muon = [], self.tuning.optimizer == "muon"
        for layer in self.layers:
            size = layer.weight.detach().square().mean().sqrt().item()
            if muon and layer is not self.model.to_rgb:
                groups.append({"params": [layer.weight], "size": size, "matrices": True})
                groups.append({"params": [layer.bias], "size": ADAM_SHARE * size})
            else:
                groups.append({"params": list(layer.parameters()), "size": size * (ADAM_SHARE if muon else 1.0)})
        if self.moves:
            groups.append({"params": [self.delta], "size": self.tuning.affine_lr / self.tuning.lr})
        return groups

    def evaluate(
        self, objective: InversionLoss, pixels: Tensor, perceptual: bool, random: torch.Generator | None
    ) -> float:
        """The loss on `pixels`; its gradients go to the variables' `grad`."""
        with torch.enable_grad():
            A = self.affine()  # (1, L, n, 3)
            loss, gradients = objective(A, pixels, perceptual, self.weights)
            if self.moves:
                (self.delta.grad,) = torch.autograd.grad(A, self.delta, gradients.pop(0))
        if self.tuning is not None and self.tuning.locality_weight > 0:
            change = self._locality(random, self.tuning.precision)
            torch._foreach_add_(gradients, change, alpha=self.tuning.locality_weight)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        return loss

    def _locality(self, random: torch.Generator | None, precision: str) -> list[Tensor]:
        """Gradients of the mean squared change of a random sample's image (the regularization of Roich et al. 2022).

        The sample's A is the same in both models.
        """
        config, device = self.original.config, self.original.device
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
        return list(torch.autograd.grad(change, self.weights))

    def finish(self) -> PolyINRGenerator:
        """The tuned model, trainable where the original is."""
        for parameter, original in zip(self.model.parameters(), self.original.parameters(), strict=True):
            parameter.grad = None
            parameter.requires_grad_(original.requires_grad)
        return self.model


# --- where it starts --------------------------------------------------------------------------------------------------


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

    Returns:
        `value`, `scale` and `class_label` of [`Search`], on the CPU.
    """
    random, config, device = torch.Generator().manual_seed(seed), model.config, model.device
    labels = _candidate_labels(model, target, class_label, settings.num_starts, random, classifier)
    z = torch.randn(settings.num_starts, config.z_dim, generator=random)  # (B, z_dim)
    parts = [slice(i, i + START_BATCH) for i in range(0, len(z), START_BATCH)]
    w = [model.map(z[part].to(device), None if labels is None else labels[part].to(device)) for part in parts]
    w = torch.cat(w)  # (B, L, w_dim)
    if space != "z":  # a mean of w has no z
        rows = torch.zeros(1, dtype=torch.long) if labels is None else labels.unique()
        means = model.w_mean[rows.to(device)].to(w.dtype)  # (M, w_dim)
        w = torch.cat([w, means.unsqueeze(1).expand(-1, config.num_levels, -1)])
        labels = None if labels is None else torch.cat([labels, rows])

    small = target.downscaled(START_SIDE)
    image, known, coordinates = (part.to(device) for part in (small.image, small.known, small.coordinates))
    perceptual = None
    if network is not None and settings.perceptual_weight > 0:
        perceptual = PerceptualLoss(network, small, device)
    losses = []
    for part in w.split(START_BATCH):
        images = model.synthesize(model.affine(part), coordinates)  # (B, N, 3)
        images = images.transpose(1, 2).unflatten(2, small.size)  # (B, 3, h, w)
        loss = ((images - image) * known).square().sum(dim=(1, 2, 3)) / (3 * known.sum())
        losses.append(loss if perceptual is None else loss + settings.perceptual_weight * perceptual(images))
    best = int(torch.cat(losses).nan_to_num(nan=torch.inf).argmin())

    label = None if labels is None else int(labels[best])
    if space == "affine":
        return affine_start(model.affine(w[best : best + 1]), label)
    if space == "w":
        value, scale = w[best : best + 1], w.std(dim=0, correction=0).square().mean().sqrt()
    else:
        value, scale = z[best : best + 1], torch.tensor(1.0)
    return {"value": value.float().cpu(), "scale": scale.float().clamp(min=MIN_SCALE).cpu(), "class_label": label}


def affine_start(A: Tensor, class_label: int | None = None) -> dict:
    """`value`, `scale` and `class_label` of [`Search`], to start from affine parameters A (1, L, n, 3)."""
    value = A.float().cpu() @ torch.tensor(CENTERED)  # (1, L, n, 3)
    # One size for a level's slopes and heights: a level that hardly sees coordinates yet may come to.
    scale = value.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp(min=MIN_SCALE)  # (1, L, 1, 1)
    return {"value": value, "scale": scale, "class_label": class_label}


def _candidate_labels(
    model: PolyINRGenerator,
    target: Target,
    class_label: int | None,
    num_starts: int,
    random: torch.Generator,
    classifier: Callable[[Tensor], Tensor] | None,
) -> Tensor | None:
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
