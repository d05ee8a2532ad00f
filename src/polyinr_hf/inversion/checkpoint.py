"""The state of an inversion, and its file: an interrupted inversion is resumed with the same result."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..files import replace_file


def new_state(work: str, start: dict | None = None, seconds: float = 0.0) -> dict:
    """The state of an inversion that has not started.

    Args:
        work: JSON of the settings, the image and the model, which a checkpoint is compared with.
        start: what was chosen before the first step.
        seconds: spent on that choice.
    """
    state = {"work": work, "start": start, "variables": None, "optimizer": None}
    return state | {"phase": 0, "phase_step": 0, "losses": [], "seconds": seconds}


def save_state(state: dict, checkpoint: str | Path) -> None:
    """Writes a checkpoint atomically."""
    with replace_file(checkpoint) as partial:
        torch.save(state, partial)


def load_state(checkpoint: str | Path | None, work: str) -> dict | None:
    """The state in a checkpoint, `None` if there is none yet.

    Raises:
        ValueError: if the file is no checkpoint, or belongs to a different image, model or settings.
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
        names = ", ".join(sorted(name for name in ours.keys() | theirs.keys() if theirs.get(name) != ours.get(name)))
        raise ValueError(
            f"`checkpoint` {str(checkpoint)!r} belongs to a different image, model or settings (other: {names}); "
            "remove it or name another file."
        )
    return state
