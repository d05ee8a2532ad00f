"""How long an inversion or a tuning is going to take on this machine."""

from __future__ import annotations

import math
import time

import torch

from ..checks import check_size
from ..pipeline_poly_inr import PolyINRPipeline
from . import inversion, tuning
from .losses import PERCEPTUAL_SIDE, PIXEL_CHUNK
from .search import START_SIDE, SearchSpace, affine_start, float32_generator
from .settings import InversionSettings, TuningSettings
from .target import Target

# In units of a pixel's cost in a step, which draws it with a graph: two thirds of that are the backward pass.
WITHOUT_GRAPH = 1 / 3
LBFGS_EVALUATIONS = 1.1  # per iteration: most line searches accept their first point
TRIALS = 2  # the first one also warms up


def estimate_seconds(
    pipe: PolyINRPipeline,
    height: int,
    width: int,
    settings: InversionSettings | TuningSettings | None = None,
    features: bool = False,
) -> float:
    """Seconds that [`invert`] or [`tune`] takes for an image, from the time of one step on a few pixels.

    It is a forecast, often within a third: phases may end early, and the machine may be busy with other work.

    Args:
        height, width: size of the image in pixels.
        settings: those of `invert` (the default) or of `tune`.
        features: whether a backbone's features are compared.

    Raises:
        ValueError: for a size below 1.
    """
    check_size(height, width)
    settings = InversionSettings() if settings is None else settings
    model = float32_generator(pipe)
    target = Target(torch.zeros(1, 3, height, width), torch.ones(1, 1, height, width))
    A = torch.zeros(1, model.config.num_levels, model.config.channels, 3)
    if isinstance(settings, TuningSettings):
        problem = tuning.WeightSearch(model, settings, affine_start(A))
        phases = tuning.plan_phases(problem.model, target, settings)
        work = 0.0
    else:
        problem = SearchSpace(model, "affine", **affine_start(A))
        phases = inversion.plan_phases(model, target, settings)
        work = 2 * settings.num_starts * math.prod(target.downscaled(START_SIDE)[0].size) * WITHOUT_GRAPH
    for phase in phases:
        pixels = len(phase.objective.draw_pixels(torch.Generator()))
        if phase.method == "lbfgs":
            pixels *= LBFGS_EVALUATIONS
        elif features:
            pixels += (1 + WITHOUT_GRAPH) * math.prod(target.downscaled(PERCEPTUAL_SIDE)[0].size)
        work += phase.num_steps * pixels

    objective, fastest = phases[-1].objective, math.inf
    pixels = torch.arange(PIXEL_CHUNK) % (height * width)
    for _ in range(TRIALS):
        began = time.monotonic()
        problem.evaluate(objective, pixels, perceptual=False, random=torch.Generator())
        fastest = min(fastest, time.monotonic() - began)
    return work * fastest / PIXEL_CHUNK
