"""How an inversion descends: phases of Adam on random pixels and of L-BFGS on all of them, with checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ..modeling_poly_inr import PolyINRGenerator
from ..schedules import half_cosine
from .checkpoint import save_state
from .losses import InversionLoss
from .muon import Muon
from .result import draw

RAMP = 0.1  # share of Adam's steps in which the learning rate rises
PLATEAU = 1e-3  # relative decrease of the mean loss over `patience` steps below which a phase ends
LBFGS_BLOCK = 10  # iterations between two callbacks and saves
LBFGS_HISTORY = 50  # pairs of steps; each holds two copies of the parameters
CHECKPOINT_SECONDS = 20.0  # between two saves: what an interruption can lose


class Problem(Protocol):
    """What is searched for: leaf tensors, and the image that they stand for."""

    model: PolyINRGenerator
    variables: list[Tensor]

    def affine(self) -> Tensor:
        """A (1, L, n, 3) of the variables' present values; differentiable."""

    def parameter_groups(self) -> list[dict]:
        """Groups of the variables; each one's `size` multiplies the learning rate, `matrices` asks for Muon."""

    def evaluate(self, objective: InversionLoss, pixels: Tensor, perceptual: bool, random: torch.Generator) -> float:
        """The loss on `pixels`; its gradients go to the variables' `grad`."""


@dataclass(frozen=True)
class Phase:
    """Some steps towards one objective.

    Attributes:
        method: `"adam"`, on random pixels and features, or `"lbfgs"`, on the squared error of all known pixels.
        objective: the loss.
        num_steps: number of steps (Adam) or iterations (L-BFGS).
    """

    method: str
    objective: InversionLoss
    num_steps: int


@dataclass(frozen=True)
class InversionStep:
    """What callbacks are given.

    Attributes:
        step: number of steps done, from 1.
        num_steps: number of steps of all phases.
        loss: at the last step.
        seconds: spent so far, those before an interruption included.
    """

    step: int
    num_steps: int
    loss: float
    seconds: float
    problem: Problem
    size: tuple[int, int]

    def preview(self, max_side: int = 64) -> Image.Image:
        """The image as it is now, its longest side `max_side` pixels or the original's, whichever is smaller."""
        scale = min(1.0, max_side / max(self.size))
        height, width = (max(1, round(side * scale)) for side in self.size)
        with torch.no_grad():
            return draw(self.problem.model, self.problem.affine(), height, width)[1]


def split_steps(num_steps: int, coarse_share: float, num_copies: int) -> list[int]:
    """Steps on each small copy of the image, as equal as can be, then those on the image itself."""
    coarse = round(coarse_share * num_steps) if num_copies else 0
    ends = [coarse * number // max(num_copies, 1) for number in range(num_copies + 1)]
    return [*(end - start for start, end in pairwise(ends)), num_steps - coarse]


def optimize(
    problem: Problem,
    phases: Sequence[Phase],
    state: dict,
    lr: float,
    patience: int | None,
    seed: int,
    callback: Callable[[InversionStep], None] | None = None,
    checkpoint: str | Path | None = None,
) -> None:
    """Runs the remaining steps of the phases, and updates `problem.variables` and `state` in place.

    Args:
        state: see `new_state`; where it comes from a checkpoint, its variables replace those of the problem.
        lr: Adam's highest learning rate, of which all Adam phases share one schedule.
        patience: see [`~polyinr_hf.inversion.InversionSettings`].
        seed: of the pixels that are drawn.
        callback, checkpoint: see [`~polyinr_hf.inversion.invert`].
    """
    if state["variables"] is not None:
        for variable, value in zip(problem.variables, state["variables"], strict=True):
            variable.data.copy_(value)
    total, size = sum(phase.num_steps for phase in phases), phases[-1].objective.size
    adam_steps = sum(phase.num_steps for phase in phases if phase.method == "adam")
    resumed_at, spent = time.monotonic(), state["seconds"]
    saved = -math.inf  # the start is worth keeping
    optimizer = None
    while state["phase"] < len(phases):
        phase = phases[state["phase"]]
        remaining = phase.num_steps - state["phase_step"]
        this_phase = state["losses"][len(state["losses"]) - state["phase_step"] :]
        if remaining <= 0 or has_settled(this_phase, patience):
            optimizer = _next_phase(phases, state, optimizer)
            continue
        if optimizer is None:
            optimizer = _adam(problem) if phase.method == "adam" else [_lbfgs(problem)]
            for part, saved_part in zip(optimizer, state["optimizer"] or [], strict=False):
                part.load_state_dict(saved_part)
        done = sum(earlier.num_steps for earlier in phases[: state["phase"]]) + state["phase_step"]
        if phase.method == "adam":
            factor = lr * learning_rate_factor(done, adam_steps)
            losses = [_adam_step(optimizer, factor, problem, phase.objective, (seed + done) % 2**63)]
        else:
            losses = _lbfgs_steps(optimizer[0], min(LBFGS_BLOCK, remaining), problem, phase.objective)
        state["losses"] += losses
        state["phase_step"] += len(losses)
        now = time.monotonic()
        state |= {"optimizer": [part.state_dict() for part in optimizer], "seconds": spent + now - resumed_at}
        if phase.method == "lbfgs" and len(losses) < min(LBFGS_BLOCK, remaining):  # no way further down
            optimizer = _next_phase(phases, state, optimizer)
        is_done = state["phase"] == len(phases)
        if checkpoint is not None and (now - saved > CHECKPOINT_SECONDS or is_done):
            saved = now
            _save(problem, state, checkpoint)
        if callback is not None:
            done = sum(earlier.num_steps for earlier in phases[: state["phase"]]) + state["phase_step"]
            loss = (losses or state["losses"] or [math.nan])[-1]
            callback(InversionStep(done, total, loss, state["seconds"], problem, size))
    state["optimizer"] = None
    if checkpoint is not None:
        _save(problem, state, checkpoint)


def _next_phase(phases: Sequence[Phase], state: dict, optimizer):
    """Moves `state` to the next phase. Adam goes on across its phases; L-BFGS starts anew with every objective."""
    state |= {"phase": state["phase"] + 1, "phase_step": 0}
    following = phases[state["phase"] : state["phase"] + 1]
    if following and following[0].method == phases[state["phase"] - 1].method == "adam":
        return optimizer
    state["optimizer"] = None
    return None


def _save(problem: Problem, state: dict, checkpoint: str | Path) -> None:
    state["variables"] = [variable.detach().cpu().clone() for variable in problem.variables]
    save_state(state, checkpoint)


def has_settled(losses: list[float], patience: int | None) -> bool:
    """Whether the mean of the last `patience` losses is hardly below that of those before."""
    if patience is None or len(losses) < 2 * patience:
        return False
    before = sum(losses[-2 * patience : -patience])
    return sum(losses[-patience:]) >= (1 - PLATEAU) * before


# ---------------------------------------------------------------------------------------------------------------------
# Adam
# ---------------------------------------------------------------------------------------------------------------------
def learning_rate_factor(step: int, num_steps: int) -> float:
    """Rises linearly over the first tenth of the steps, then falls as half a cosine to almost 0."""
    progress = (step + 1) / (num_steps + 1)
    return min(1.0, progress / RAMP) * half_cosine(progress)


def _adam(problem: Problem) -> list[torch.optim.Optimizer]:
    """Adam for the groups of the problem, Muon for those of matrices."""
    groups = problem.parameter_groups()
    matrices = [group for group in groups if group.get("matrices")]
    others = [group for group in groups if not group.get("matrices")]
    return [torch.optim.Adam(others, betas=(0.9, 0.99)), *([Muon(matrices)] if matrices else [])]


def _adam_step(optimizers, lr: float, problem: Problem, objective: InversionLoss, seed: int) -> float:
    random = torch.Generator().manual_seed(seed)
    loss = problem.evaluate(objective, objective.draw_pixels(random), perceptual=True, random=random)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["size"]
        optimizer.step()
    return loss


# ---------------------------------------------------------------------------------------------------------------------
# L-BFGS
# ---------------------------------------------------------------------------------------------------------------------
def _lbfgs(problem: Problem) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(
        problem.variables,
        max_iter=1,
        max_eval=25,
        history_size=LBFGS_HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )


def _lbfgs_steps(optimizer, num_steps: int, problem: Problem, objective: InversionLoss) -> list[float]:
    """Up to `num_steps` iterations on the mean squared error of all known pixels; the loss before each."""
    variables = problem.variables
    known = {"variables": None}  # the last point evaluated: where an iteration ends, the next begins

    def closure() -> Tensor:
        if known["variables"] is None or not _equal(known["variables"], variables):
            known["loss"] = problem.evaluate(objective, objective.known, perceptual=False, random=None)
            known["variables"] = [variable.detach().clone() for variable in variables]
            known["gradients"] = [variable.grad for variable in variables]
        for variable, gradient in zip(variables, known["gradients"], strict=True):
            variable.grad = gradient
        return torch.tensor(known["loss"])

    losses = []
    for _ in range(num_steps):
        before = [variable.detach().clone() for variable in variables]
        loss = float(optimizer.step(closure))
        if _equal(before, variables):  # the line search finds nothing lower
            break
        losses.append(loss)
    return losses


def _equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
