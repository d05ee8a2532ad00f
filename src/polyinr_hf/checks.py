"""Checks of arguments and of the machine that several modules share.

Numbers may be Python's, numpy's or torch's; Python's come back.
"""

from collections.abc import Iterable

import torch

from .modeling_poly_inr import check_count, finite_number, whole_number

__all__ = ["check_count", "check_number", "cpu_multiplies_bfloat16", "whole_numbers"]


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


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products; without them float32 is many times faster."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
