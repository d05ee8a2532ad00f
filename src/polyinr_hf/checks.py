"""Checks of arguments that several modules share. Numbers may be Python's, numpy's or torch's; Python's come back."""

from collections.abc import Iterable

from .modeling_poly_inr import check_count, finite_number, whole_number

__all__ = ["check_count", "check_number", "whole_numbers"]


def check_number(name: str, value: float, positive: bool = False) -> float:
    """`value` as a float or int; raises ValueError unless it is finite and not negative, or not zero either."""
    number = finite_number(value)
    if number is None or number < 0 or (positive and number == 0):
        raise ValueError(f"`{name}` must be a finite number {'above 0' if positive else 'from 0'}, got {value!r}.")
    return number


def whole_numbers(values: int | Iterable[int]) -> list[int | None]:
    """One or several numbers as a list of ints, None for what is no whole number."""
    number = whole_number(values)
    return [whole_number(value) for value in values] if number is None and isinstance(values, Iterable) else [number]
