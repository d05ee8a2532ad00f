"""An image -> its affine parameters, the weights staying as they are (section 4.3 of the paper, "Inversion").

    result = invert(pipe, load_photo("cat.jpg"))
    pipe(affine_parameters=result.affine_parameters, height=1024, width=1024).images[0]

[`~polyinr_hf.inversion.tune`] goes on from there by changing the weights too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checks import check_count, check_number
from ..feature_networks import FeatureNetwork
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .losses import PRECISIONS, InversionLoss, load_perceptual_network
from .optimization import load_state, model_digest, new_state, optimize
from .result import InversionResult, describe
from .search import SPACES, SearchSpace, find_start, float32_generator
from .target import Target


# ---------------------------------------------------------------------------------------------------------------------
# Inversion
# ---------------------------------------------------------------------------------------------------------------------
def invert(
    pipe: PolyINRPipeline,
    image: Image.Image | Tensor,
    space: str = "affine",
    backbone: str | FeatureNetwork | None = "tf_efficientnet_lite0",
    weights: str | Path | None = None,
    class_label: int | str | None = None,
    num_steps: int = 50,
    lr: float = 0.1,
    num_refine_steps: int = 400,
    perceptual_weight: float = 0.05,
    num_pixels: int | None = 4096,
    mask: Image.Image | Tensor | np.ndarray | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, float], None] | None = None,
    checkpoint: str | Path | None = None,
    num_starts: int = 64,
    classifier: Callable[[Tensor], Tensor] | None = None,
    patience: int | None = 100,
    coarse_side: int | None = 32,
    coarse_share: float = 0.75,
    precision: str = "float32",
) -> InversionResult:
    """Finds affine parameters (or w, or z) that draw an image, the weights staying as they are.

    From the best of some samples and class means, Adam takes `num_steps` steps on mean squared error and features,
    its rate rising in a line and falling as a cosine, then L-BFGS `num_refine_steps` on the squared error alone,
    the first of them on small copies of the image, each twice as large as the one before.
    Memory does not grow with the image, beyond the image itself.

    Args:
        image: PIL image of any mode, or tensor (3, H, W) or (1, 3, H, W), floating-point in [-1, 1] or uint8; any size.
        space: `"affine"` as the paper; `"w"` (a w for each level) or `"z"` stay nearer to what the model generates.
        backbone: timm name of the network whose features are compared, `"vgg16"` as the paper, or a
            [`~polyinr_hf.training.feature_networks.FeatureNetwork`]; `None` for pixels alone.
        weights: the backbone's weight file, see `load_backbone`.
        class_label: name or id of the class to start from (in z, to stay in); by default any may.
        lr: Adam's rate, in units of the parameters' own size.
        perceptual_weight: of the distance of features, beside the mean squared error in [-1, 1]^2 units.
        num_pixels: pixels of each Adam step, drawn at random; `None` for all.
        mask: as large as the image, white or 1 where it is known. Other pixels are not read: the result says what
            the model draws there.
        generator: seeds the start and the pixels; by default seed 0. The same seed gives the same result.
        callback: called with (step, steps in all, loss) after every step.
        checkpoint: file that keeps the state; if it is there, the work goes on from it, with the same result.
        num_starts: samples to choose the start from.
        classifier: images (1, 3, H, W) in [-1, 1] -> logits (1, num_classes) of the model's own classes, such as
            `build_classifier` gives for ImageNet; the start is then taken from the five likeliest.
        patience: stop early once this many steps have lowered the mean loss by less than 0.1 %; `None` for never.
        coarse_side: longest side, in pixels, of the smallest copy; a smaller image, or any with `None`, has none.
        coarse_share: of L-BFGS's steps, how many are taken on copies, 0 to 1; each gets as many.
        precision: of Adam's steps; `"bfloat16"` multiplies by the weights with fewer digits, in half the time on a
            processor that can. L-BFGS needs float32: its line search gets stuck in the rounding.

    Raises:
        ValueError: for an argument of a wrong kind, shape or range, or a checkpoint of other work, before any work.
        FileNotFoundError: if the backbone's weights cannot be had.
    """
    from .. import reconstruction  # noqa: F401  scikit-image must be there before the work, not after it

    if space not in SPACES:
        raise ValueError(f"`space` must be one of {SPACES}, got {space!r}.")
    for name, value in (("num_steps", num_steps), ("num_refine_steps", num_refine_steps)):
        check_count(name, value, minimum=0)
    for name, value in (("num_pixels", num_pixels), ("patience", patience), ("coarse_side", coarse_side)):
        if value is not None:
            check_count(name, value)
    check_count("num_starts", num_starts)
    check_number("lr", lr, positive=True)
    check_number("perceptual_weight", perceptual_weight)
    check_number("coarse_share", coarse_share)
    if coarse_share > 1:
        raise ValueError(f"`coarse_share` must be in 0..1, got {coarse_share!r}.")
    check_precision(precision)
    target = Target.prepare(image, mask)
    class_id = None if class_label is None else pipe._class_ids(class_label, 1)[0]
    model = float32_generator(pipe)
    network = load_perceptual_network(backbone, weights, model.device)
    early = InversionLoss(model, target, network, perceptual_weight, num_pixels, precision=precision)
    copies = [] if coarse_side is None else small_copies(model, target, coarse_side)
    objectives = [early, *copies, InversionLoss(model, target)]
    coarse_steps = round(coarse_share * num_refine_steps) if copies else 0
    ends = [coarse_steps * number // max(len(copies), 1) for number in range(len(copies) + 1)]
    steps = [num_steps, *(end - start for start, end in pairwise(ends)), num_refine_steps - coarse_steps]

    seed = draw_seed(generator)
    settings = {"space": space, "height": target.size[0], "width": target.size[1], "masked": not target.is_whole}
    settings |= {"backbone": backbone_name(network), "class_label": class_id, "num_steps": num_steps, "lr": lr}
    settings |= {"num_refine_steps": num_refine_steps, "perceptual_weight": perceptual_weight, "patience": patience}
    settings |= {"num_pixels": num_pixels, "num_starts": num_starts, "seed": seed}
    settings |= {"coarse_side": coarse_side, "coarse_share": coarse_share, "precision": precision}
    work = json.dumps({**settings, "image": target.digest(), "model": model_digest(model)})

    state = load_state(checkpoint, work)
    if state is None:
        began = time.monotonic()
        start = find_start(model, target, network, perceptual_weight, space, class_id, num_starts, seed, classifier)
        state = new_state(work, start)
        state["seconds"] = time.monotonic() - began
    search = SearchSpace(model, space, **state["start"])
    optimize(search, objectives, state, lr, steps, patience, seed, callback, checkpoint)
    with torch.no_grad():
        latent = search.value + state["delta"].to(model.device) * search.scale
        A = search.to_affine(latent)  # (1, L, n, 3)
    settings["class_label"] = state["start"]["class_label"]
    return describe(
        model, target, A, state["losses"], state["seconds"], settings, None if space == "affine" else latent.cpu()
    )


def small_copies(model: PolyINRGenerator, target: Target, side: int) -> list[InversionLoss]:
    """The squared error on copies whose longest side is `side`, 2 `side`, 4 `side` ... pixels, below the image's."""
    copies = []
    while side < max(target.size):
        small, coordinates = target.downscaled(side)
        copies.append(InversionLoss(model, small, coordinates=coordinates))
        side *= 2
    return copies


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------


def check_precision(precision: str) -> None:
    """Raises ValueError unless it is one that inversion knows."""
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}, got {precision!r}.")


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed drawn from `generator`; 0 without one."""
    if generator is None:
        return 0
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def backbone_name(network: FeatureNetwork | None) -> str | None:
    """timm's name of the network whose features are compared."""
    return network and network.backbone.pretrained_cfg.get("architecture", type(network.backbone).__name__)
