"""An image -> its affine parameters, with the weights fixed (section 4.2 of the paper, "Inversion").

    result = invert(pipe, load_photo("cat.jpg"))
    pipe(affine_parameters=result.affine_parameters, height=1024, width=1024).images[0]

[`~polyinr_hf.inversion.tune`] goes on from there and changes the weights too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..digests import weights_digest
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .checkpoint import load_state, new_state
from .losses import InversionLoss, backbone_name, load_perceptual_network
from .measurement import describe
from .optimization import InversionStep, Phase, optimize, split_steps
from .result import InversionResult
from .search import SPACES, SearchSpace, draw_seed, find_start, float32_generator
from .settings import InversionSettings
from .target import Target

if TYPE_CHECKING:
    from ..feature_networks import FeatureNetwork


def invert(
    pipe: PolyINRPipeline,
    image: Image.Image | Tensor,
    space: str = "affine",
    backbone: str | FeatureNetwork | None = "tf_efficientnet_lite0",
    weights: str | Path | None = None,
    class_label: int | str | None = None,
    mask: Image.Image | Tensor | np.ndarray | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[InversionStep], None] | None = None,
    checkpoint: str | Path | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
    settings: InversionSettings | None = None,
) -> InversionResult:
    """Finds affine parameters (or w, or z) that draw an image, with the weights fixed.

    The search starts from the best of some samples and class means, and goes on as `settings` says. Memory does not
    grow with the image, beyond the image itself.

    Args:
        image: PIL image of any mode, or tensor (3, H, W) or (1, 3, H, W), floating-point in [-1, 1] or uint8; any size.
        space: `"affine"` as the paper; `"w"` (a w for each level) or `"z"` stay nearer to what the model generates.
        backbone: timm name of the network whose features are compared, `"vgg16"` as the paper, or a
            [`~polyinr_hf.feature_networks.FeatureNetwork`]; `None` for pixels alone, which needs no timm.
        weights: the backbone's weight file, see [`~polyinr_hf.feature_networks.load_backbone`].
        class_label: name or id of the class to start from (in z, to stay in); by default any class may be the start.
        mask: as large as the image, white or 1 where it is known. Other pixels are not read; the result shows what
            the model draws there.
        generator: seeds the start and the pixels; by default seed 0. The same seed gives the same result.
        callback: called with an [`~polyinr_hf.inversion.InversionStep`] after every step (L-BFGS: every ten); its
            `preview()` draws the image as it is then.
        checkpoint: file that keeps the state. If it exists, the search is resumed from it, with the same result.
        classifier: images (1, 3, H, W) in [-1, 1] -> logits (1, num_classes) of the model's own classes, such as
            [`~polyinr_hf.feature_networks.build_classifier`] gives for ImageNet; the start is then taken from the
            five likeliest classes.
        settings: numbers of steps, rates and sizes; by default `InversionSettings()`.

    Raises:
        ValueError: for an argument of a wrong kind, shape or range, or a checkpoint that belongs to a different image,
            model or settings, before any work.
        FileNotFoundError: if the backbone's weights cannot be found.
        ImportError: with a backbone and without timm.
    """
    if space not in SPACES:
        raise ValueError(f"`space` must be one of {SPACES}, got {space!r}.")
    settings = InversionSettings() if settings is None else settings
    target = Target.prepare(image, mask)
    class_id = None if class_label is None else pipe.class_ids(class_label)[0]
    model = float32_generator(pipe)
    network = load_perceptual_network(backbone, weights, model.device)
    phases = plan_phases(model, target, settings, network)

    seed = draw_seed(generator)
    record = {"space": space, "height": target.size[0], "width": target.size[1], "masked": not target.is_whole}
    record |= {"backbone": backbone_name(network), "class_label": class_id, "seed": seed} | asdict(settings)
    work = json.dumps({**record, "image": target.digest(), "model": weights_digest(model)})
    state = load_state(checkpoint, work)
    if state is None:
        began = time.monotonic()
        start = find_start(model, target, network, space, class_id, seed, settings, classifier)
        state = new_state(work, start, seconds=time.monotonic() - began)
    search = SearchSpace(model, space, **state["start"])
    optimize(search, phases, state, settings.lr, settings.patience, seed, callback, checkpoint)
    record["class_label"] = state["start"]["class_label"]
    with torch.no_grad():
        A = search.affine()  # (1, L, n, 3)
    latent = None if space == "affine" else search.parameters().detach().cpu()
    return describe(model, target, A, state["losses"], state["seconds"], record, latent)


def plan_phases(
    model: PolyINRGenerator, target: Target, settings: InversionSettings, network: FeatureNetwork | None = None
) -> list[Phase]:
    """Adam on random pixels and features, then L-BFGS on all pixels of small copies of the target, then of itself."""
    features = {"network": network, "perceptual_weight": settings.perceptual_weight}
    early = InversionLoss(model, target, **features, num_pixels=settings.num_pixels, precision=settings.precision)
    copies = target.small_copies(settings.coarse_side)
    coarse = [InversionLoss(model, small, coordinates=coordinates) for small, coordinates in copies]
    steps = split_steps(settings.num_refine_steps, settings.coarse_share, len(copies))
    late = zip([*coarse, InversionLoss(model, target)], steps, strict=True)
    return [Phase("adam", early, settings.num_steps), *(Phase("lbfgs", *pair) for pair in late)]
