"""A picture of one's own as an image of the model, whose weights are tuned to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from polyinr_hf import PolyINRPipeline
from polyinr_hf.inversion import STRENGTHS, InversionStep, tune

SYNTHESIS = ("synthesis_levels", "to_rgb")  # what tuning changes


@dataclass
class Rebuilt:
    """A picture, rebuilt.

    Attributes:
        pipe: a pipeline that draws it from `affine_parameters` (1, L, n, 3); it shares with the model it came from
            everything but the synthesis network.
        psnr: in dB.
        seconds: that it took.
    """

    pipe: PolyINRPipeline
    affine_parameters: Tensor
    psnr: float
    seconds: float


def rebuild(
    pipe: PolyINRPipeline,
    picture: Image.Image,
    num_steps: int,
    callback: Callable[[int, int, Callable[[], Image.Image]], None] | None = None,
) -> Rebuilt:
    """Finds affine parameters and weights that draw a picture so that it is recognized.

    Args:
        callback: see [`actions.Studio.rebuild`].
    """
    settings = replace(STRENGTHS["close"], num_steps=num_steps)

    def report(step: InversionStep) -> None:
        if callback is not None:
            callback(step.step, step.num_steps, step.preview)

    tuned, result = tune(pipe, picture, settings=settings, callback=report)
    for name, module in pipe.generator.named_children():
        if name not in SYNTHESIS:
            setattr(tuned.generator, name, module)
    tuned.to(pipe.device)
    tuned.set_progress_bar_config(disable=True)
    return Rebuilt(tuned, result.affine_parameters, result.psnr, result.seconds)


@torch.no_grad()
def blend(start: PolyINRPipeline, end: PolyINRPipeline, position: float) -> PolyINRPipeline:
    """A pipeline whose synthesis weights are between those of two, position 0 to 1; the rest is the first one's."""
    model = start.generator
    shared = {id(module): module for name, module in model.named_children() if name not in SYNTHESIS}
    blended = copy.deepcopy(model, shared)
    for name in SYNTHESIS:
        pairs = zip(getattr(blended, name).parameters(), getattr(end.generator, name).parameters(), strict=True)
        for parameter, other in pairs:
            parameter.copy_(torch.lerp(parameter, other.to(parameter), position))
    pipe = type(start)(blended, start.config.id2label)
    pipe.set_progress_bar_config(disable=True)
    return pipe
