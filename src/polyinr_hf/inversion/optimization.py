"""How inversion goes downhill: Adam on everything, then L-BFGS on pixels, few before many; and its checkpoint."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..files import replace_file
from ..modeling_poly_inr import PolyINRGenerator
from .losses import InversionLoss
from .search import SearchSpace

RAMP = 0.1  # share of the steps in which the learning rate rises
PLATEAU = 1e-3  # relative decrease of the mean loss over `patience` steps below which work stops
LBFGS_BLOCK = 10  # iterations between two saves
LBFGS_HISTORY = 50  # pairs of steps; each holds two copies of the parameters
CHECKPOINT_SECONDS = 20.0


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Rises in a line over the first tenth of the steps, then falls as half a cosine to almost 0."""
    progress = (step + 1) / (num_steps + 1)
    return min(1.0, progress / RAMP) * (0.5 + 0.5 * math.cos(math.pi * progress))


def has_settled(losses: list[float], patience: int | None) -> bool:
    """Whether the mean of the last `patience` losses is hardly below that of those before."""
    if patience is None or len(losses) < 2 * patience:
        return False
    before = sum(losses[-2 * patience : -patience])
    return sum(losses[-patience:]) >= (1 - PLATEAU) * before


def new_state(work: str, start: dict) -> dict:
    """Nothing done yet. `start` holds the arguments of `SearchSpace`, `work` says what is being done."""
    state = {"work": work, "start": start, "delta": torch.zeros_like(start["value"]), "optimizer": None}
    return state | {"phase": 0, "phase_step": 0, "losses": [], "seconds": 0.0}


def optimize(
    search: SearchSpace,
    objectives: Sequence[InversionLoss],
    state: dict,
    lr: float,
    phase_steps: Sequence[int],
    patience: int | None,
    seed: int,
    callback: Callable[[int, int, float], None] | None = None,
    checkpoint: str | Path | None = None,
) -> None:
    """Does what `state` has not done yet, and leaves the outcome in it.

    Args:
        objectives: of each phase: Adam's, then L-BFGS's, of any number.
        phase_steps: steps of each phase.
        callback, checkpoint: see [`~polyinr_hf.inversion.invert`].
    """
    delta = state["delta"].to(objectives[0].device).requires_grad_()
    resumed_at, spent = time.monotonic(), state["seconds"]
    saved = -math.inf  # the start is worth keeping
    optimizer = None
    while state["phase"] < len(phase_steps):
        remaining = phase_steps[state["phase"]] - state["phase_step"]
        this_phase = state["losses"][len(state["losses"]) - state["phase_step"] :]
        if remaining <= 0 or has_settled(this_phase, patience):
            state |= {"phase": state["phase"] + 1, "phase_step": 0, "optimizer": None}
            optimizer = None
            continue
        objective = objectives[state["phase"]]
        if optimizer is None:
            optimizer = _adam(delta) if state["phase"] == 0 else _lbfgs(delta)
            if state["optimizer"] is not None:
                optimizer.load_state_dict(state["optimizer"])
        if state["phase"] == 0:
            optimizer.param_groups[0]["lr"] = lr * learning_rate_factor(state["phase_step"], phase_steps[0])
            random = torch.Generator().manual_seed((seed + state["phase_step"]) % 2**63)
            pixels = objective.draw_pixels(random)
            losses = [_evaluate(search, objective, delta, pixels, perceptual=True)]
            optimizer.step()
        else:
            losses = _lbfgs_steps(optimizer, min(LBFGS_BLOCK, remaining), search, objective, delta)
        state["losses"] += losses
        state["phase_step"] += len(losses)
        now = time.monotonic()
        state |= {"delta": delta.detach().cpu(), "optimizer": optimizer.state_dict()}
        state["seconds"] = spent + now - resumed_at
        if state["phase"] > 0 and len(losses) < min(LBFGS_BLOCK, remaining):  # no way further down
            state |= {"phase": state["phase"] + 1, "phase_step": 0, "optimizer": None}
            optimizer = None
        is_done = state["phase"] == len(phase_steps)
        if checkpoint is not None and (now - saved > CHECKPOINT_SECONDS or is_done):
            saved = now
            save_state(state, checkpoint)
        if callback is not None:
            done = sum(phase_steps[: state["phase"]]) + state["phase_step"]
            callback(done, sum(phase_steps), (losses or state["losses"] or [math.nan])[-1])
    state["optimizer"] = None
    if checkpoint is not None:
        save_state(state, checkpoint)


def _adam(delta: Tensor) -> torch.optim.Optimizer:
    return torch.optim.Adam([delta], betas=(0.9, 0.99))


def _lbfgs(delta: Tensor) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(
        [delta],
        max_iter=1,
        max_eval=25,
        history_size=LBFGS_HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=0,
        tolerance_change=0,
    )


def _evaluate(search, objective, delta: Tensor, pixels: Tensor, perceptual: bool) -> float:
    """The loss; its gradient goes to `delta.grad`."""
    with torch.enable_grad():
        A = search.affine(delta)  # (1, L, n, 3)
        loss, (gradient,) = objective(A, pixels, perceptual)
        (delta.grad,) = torch.autograd.grad(A, delta, gradient)
    return loss


def _lbfgs_steps(optimizer, num_steps: int, search, objective, delta: Tensor) -> list[float]:
    """Up to `num_steps` iterations on the mean squared error of all known pixels; the loss before each."""
    known = {"delta": None}  # the last point evaluated: where an iteration ends, the next begins

    def closure() -> Tensor:
        if known["delta"] is None or not torch.equal(known["delta"], delta):
            known["loss"] = _evaluate(search, objective, delta, objective.known, perceptual=False)
            known["delta"], known["gradient"] = delta.detach().clone(), delta.grad
        delta.grad = known["gradient"]
        return torch.tensor(known["loss"])

    losses = []
    for _ in range(num_steps):
        before = delta.detach().clone()
        loss = float(optimizer.step(closure))
        if torch.equal(before, delta):  # the line search finds nothing lower
            break
        losses.append(loss)
    return losses


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------
def save_state(state: dict, checkpoint: str | Path) -> None:
    """Writes a checkpoint whole or not at all."""
    with replace_file(checkpoint) as partial:
        torch.save(state, partial)


def load_state(checkpoint: str | Path | None, work: str) -> dict | None:
    """The state in a checkpoint, None if there is none yet.

    Raises:
        ValueError: if the file is no checkpoint, or of another image, model or other settings.
    """
    if checkpoint is None or not Path(checkpoint).exists():
        return None
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        theirs = json.loads(state["work"])
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"`checkpoint` {str(checkpoint)!r} cannot be read: {error}") from error
    ours = json.loads(work)
    if theirs != ours:
        names = ", ".join(sorted(name for name in ours if theirs.get(name) != ours[name]))
        raise ValueError(f"`checkpoint` {str(checkpoint)!r} is of other work ({names}): remove it or name another.")
    return state


def model_digest(model: PolyINRGenerator) -> str:
    """Differs for models whose weights differ."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
