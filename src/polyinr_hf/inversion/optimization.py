"""How an inversion descends: phases of Adam or Muon on random pixels and of L-BFGS on all of them, with checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..files import replace_file
from ..optimizers import Muon
from .objective import InversionLoss
from .search import Search

RAMP = 0.1  # share of Adam's steps in which the learning rate rises (not tuned)
PLATEAU = 1e-3  # relative decrease of the mean loss over `patience` steps below which a phase ends (not tuned)
ADAM_BETAS = (0.9, 0.99)  # torch's 0.999 averages 1,000 steps, more than there are (not tuned)
LBFGS_BLOCK = 10  # iterations between two callbacks and saves: each takes as long as several steps of Adam
MAX_EVALUATIONS = 25  # at most, of one line search: torch's own for 20 iterations
LBFGS_HISTORY = 50  # pairs of steps; each holds two copies of the parameters (not tuned)
CHECKPOINT_SECONDS = 20.0  # between two saves: what being killed can lose

# Of forecasts, in pixels that are drawn with a graph.
WITHOUT_GRAPH = 1 / 3  # two thirds of a step are the backward pass
LBFGS_EVALUATIONS = 1.1  # per iteration: most line searches accept their first point


@dataclass(frozen=True)
class Phase:
    """Some steps towards one objective.

    Args:
        method: `"adam"`, on random pixels and features, or `"lbfgs"`, on the squared error of all known pixels.
        objective: The loss.
        num_steps: Number of steps (Adam) or iterations (L-BFGS).
        patience: See [`~polyinr_hf.inversion.InversionSettings`].
    """

    method: str
    objective: InversionLoss
    num_steps: int
    patience: int | None = None

    def has_settled(self, losses: list[float]) -> bool:
        """Whether the mean of the last `patience` losses is hardly below that of those before."""
        if self.patience is None or len(losses) < 2 * self.patience:
            return False
        before = sum(losses[-2 * self.patience : -self.patience])
        return sum(losses[-self.patience :]) >= (1 - PLATEAU) * before


@dataclass(frozen=True)
class InversionStep:
    """What callbacks are given.

    Args:
        step: Number of steps done, from 1.
        num_steps: Number of steps of all phases.
        loss: At the last step.
        seconds: Spent so far, those before an interruption included.
        remaining_seconds: A forecast from the time that the steps so far took, by what those to come cost: a step on a
            small copy of the image is much shorter than one on the image. Phases may end early.
        search: What is searched for.
        size: Height and width of the image, in pixels.
    """

    step: int
    num_steps: int
    loss: float
    seconds: float
    remaining_seconds: float
    search: Search
    size: tuple[int, int]

    def preview(self, max_side: int = 64) -> Image.Image:
        """The image as it is now, its longest side `max_side` pixels or the original's, whichever is smaller."""
        scale = min(1.0, max_side / max(self.size))
        return self.search.draw(*(max(1, round(side * scale)) for side in self.size))[1]


@dataclass
class State:
    """How far an inversion is; saved, it goes on with the same result.

    Args:
        work: JSON of the settings, the image and the model.
        start: What was chosen before the first step, the arguments of [`Search`].
        seconds: Spent so far.
        variables: Of the search, as they are.
        optimizer: State dicts of the phase's optimizers.
        phase, phase_step: The phase, and the number of its steps that are done.
        losses: At each step.
    """

    work: str
    start: dict
    seconds: float
    variables: list[Tensor] | None = None
    optimizer: list[dict] | None = None
    phase: int = 0
    phase_step: int = 0
    losses: list[float] = field(default_factory=list)

    def save(self, checkpoint: str | Path) -> None:
        """Writes a checkpoint atomically."""
        with replace_file(checkpoint) as partial:
            torch.save(vars(self), partial)

    @classmethod
    def load(cls, checkpoint: str | Path | None, work: str) -> State | None:
        """Reads a checkpoint; `None` if there is none yet.

        Raises:
            ValueError: If the file is no checkpoint, or belongs to a different image, model or settings.
        """
        if checkpoint is None or not Path(checkpoint).exists():
            return None
        try:
            state = cls(**torch.load(checkpoint, map_location="cpu", weights_only=True))
            theirs = json.loads(state.work)
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"`checkpoint` must be one of an inversion, got {str(checkpoint)!r}: {error}") from error
        ours = json.loads(work)
        if theirs != ours:
            names = sorted(name for name in ours.keys() | theirs.keys() if theirs.get(name) != ours.get(name))
            raise ValueError(
                f"`checkpoint` must be of the same image, model and settings, got {str(checkpoint)!r} (other: "
                f"{', '.join(names)}); remove it or name another file."
            )
        return state


def step_costs(search: Search, phases: Sequence[Phase], features: bool) -> list[float]:
    """What each step of the phases takes, in pixels that are drawn with a graph; all steps of a phase take as much.

    Args:
        features: Whether a backbone's features of the image are compared; those of its small copies never are.
    """
    # An iteration of Muon is three products of n x n matrices, as much as the forward and backward pass of n pixels.
    uses_muon = search.tuning is not None and search.tuning.optimizer == "muon"
    muon = uses_muon * Muon.NEWTON_SCHULZ_STEPS * search.model.config.channels
    costs = []
    for phase in phases:
        objective = phase.objective
        cost = float(objective.num_pixels or len(objective.known))
        if phase.method == "lbfgs":
            cost *= LBFGS_EVALUATIONS
        else:
            is_compared = features and objective.size == phases[-1].objective.size
            cost += muon + is_compared * (1 + WITHOUT_GRAPH) * math.prod(objective.small_size)
        costs += [cost] * phase.num_steps
    return costs


def optimize(
    search: Search,
    phases: Sequence[Phase],
    state: State,
    lr: float,
    seed: int,
    callback: Callable[[InversionStep], bool | None] | None = None,
    checkpoint: str | Path | None = None,
) -> None:
    """Runs the remaining steps of the phases, and updates `search.variables` and `state` in place.

    Args:
        state: Where it comes from a checkpoint, its variables replace those of the search.
        lr: Adam's highest learning rate, of which all Adam phases share one schedule.
        seed: Of the pixels that are chosen.
        callback, checkpoint: See [`~polyinr_hf.inversion.invert`].
    """
    if state.variables is not None:
        for variable, value in zip(search.variables, state.variables, strict=True):
            variable.data.copy_(value)
    total, size = sum(phase.num_steps for phase in phases), phases[-1].objective.size
    adam_steps = sum(phase.num_steps for phase in phases if phase.method == "adam")
    costs = step_costs(search, phases, any(phase.objective.perceptual for phase in phases))
    resumed_at, spent, cost = time.monotonic(), state.seconds, 0.0
    saved = -math.inf  # the start is worth keeping
    optimizers, stopped = None, False
    while state.phase < len(phases) and not stopped:
        phase = phases[state.phase]
        remaining = phase.num_steps - state.phase_step
        if remaining <= 0 or phase.has_settled(state.losses[len(state.losses) - state.phase_step :]):
            optimizers = _next_phase(phases, state, optimizers)
            continue
        optimizers = optimizers or _make_optimizers(search, phase, state.optimizer)
        done = sum(earlier.num_steps for earlier in phases[: state.phase]) + state.phase_step
        if phase.method == "adam":
            rate = lr * learning_rate_factor(done, adam_steps)
            losses = [_adam_step(optimizers, rate, search, phase.objective, (seed + done) % 2**63)]
        else:
            losses = _lbfgs_steps(optimizers[0], min(LBFGS_BLOCK, remaining), search, phase.objective)
        now = time.monotonic()
        cost += sum(costs[done : done + max(1, len(losses))])  # a line search that finds nothing takes its time, too
        state.losses += losses
        state.phase_step, state.seconds = state.phase_step + len(losses), spent + now - resumed_at
        state.optimizer = [optimizer.state_dict() for optimizer in optimizers]
        if phase.method == "lbfgs" and len(losses) < min(LBFGS_BLOCK, remaining):  # no way further down
            optimizers = _next_phase(phases, state, optimizers)
        if checkpoint is not None and now - saved > CHECKPOINT_SECONDS:
            saved = now
            _save(search, state, checkpoint)
        if callback is not None:
            done = sum(earlier.num_steps for earlier in phases[: state.phase]) + state.phase_step
            loss = (losses or state.losses or [math.nan])[-1]
            to_come = (now - resumed_at) * sum(costs[done:]) / cost
            stopped = callback(InversionStep(done, total, loss, state.seconds, to_come, search, size)) is True
    if checkpoint is not None:
        _save(search, state, checkpoint)


def _next_phase(
    phases: Sequence[Phase], state: State, optimizers: list[torch.optim.Optimizer] | None
) -> list[torch.optim.Optimizer] | None:
    """Moves `state` to the next phase. Adam goes on across its phases; L-BFGS starts anew with every objective."""
    state.phase, state.phase_step = state.phase + 1, 0
    if {phase.method for phase in phases[state.phase - 1 : state.phase + 1]} == {"adam"}:
        return optimizers
    state.optimizer = None
    return None


def _make_optimizers(search: Search, phase: Phase, saved: list[dict] | None) -> list[torch.optim.Optimizer]:
    """The phase's, as they were saved: Adam for the groups of the search and Muon for those of matrices, or L-BFGS."""
    if phase.method == "adam":
        groups = search.parameter_groups()
        matrices = [group for group in groups if group.get("matrices")]
        others = [group for group in groups if not group.get("matrices")]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(others, betas=ADAM_BETAS),
            *([Muon(matrices)] if matrices else []),
        ]
    else:
        lbfgs = torch.optim.LBFGS(
            search.variables,
            max_iter=1,
            max_eval=MAX_EVALUATIONS,
            history_size=LBFGS_HISTORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=0,
            tolerance_change=0,
        )
        optimizers = [lbfgs]
    for optimizer, state_dict in zip(optimizers, saved or [], strict=False):
        optimizer.load_state_dict(state_dict)
    return optimizers


def _save(search: Search, state: State, checkpoint: str | Path) -> None:
    state.variables = [variable.detach().cpu().clone() for variable in search.variables]
    state.save(checkpoint)


# --- Adam or Muon -----------------------------------------------------------------------------------------------------


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Rises linearly over the first tenth of the steps, then falls as half a cosine to almost 0."""
    progress = (step + 1) / (num_steps + 1)
    return min(1.0, progress / RAMP) * 0.5 * (1 + math.cos(math.pi * progress))


def _adam_step(
    optimizers: list[torch.optim.Optimizer], lr: float, search: Search, objective: InversionLoss, seed: int
) -> float:
    random = torch.Generator().manual_seed(seed)
    loss = search.evaluate(objective, objective.sample_pixels(random), perceptual=True, random=random)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr * group["size"]
        optimizer.step()
    return loss


# --- L-BFGS -----------------------------------------------------------------------------------------------------------


def _lbfgs_steps(
    optimizer: torch.optim.Optimizer, num_steps: int, search: Search, objective: InversionLoss
) -> list[float]:
    """Up to `num_steps` iterations on the mean squared error of all known pixels; the loss before each."""
    variables = search.variables
    known: dict[str, Any] = {"variables": None}  # the last point evaluated: where an iteration ends, the next begins

    def closure() -> Any:  # a Tensor, as `LBFGS` has it
        if known["variables"] is None or not _equal(known["variables"], variables):
            known["loss"] = search.evaluate(objective, objective.known, perceptual=False, random=None)
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
