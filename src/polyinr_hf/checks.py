"""Checks of arguments that several modules share."""

import math
from numbers import Real


def check_number(name: str, value: float, positive: bool = False) -> None:
    """Raises ValueError unless `value` is finite and not negative, or not zero either."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (positive and value == 0):
        raise ValueError(f"`{name}` must be a finite number {'above 0' if positive else 'from 0'}, got {value!r}.")


def check_count(name: str, value: int, minimum: int = 1) -> None:
    """Raises ValueError unless `value` is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"`{name}` must be a whole number from {minimum}, got {value!r}.")
