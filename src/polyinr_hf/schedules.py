"""The learning-rate schedule that training and inversion share."""

import math


def half_cosine(progress: float) -> float:
    """Falls as half a cosine from 1, at progress 0, to 0, at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))
