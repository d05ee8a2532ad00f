"""Package faces: public names that are imported when they are first asked for (PEP 562)."""

import importlib
import sys
from collections.abc import Callable


def lazy_exports(package: str, homes: dict[str, tuple[str, ...]]) -> tuple[Callable, Callable, list[str]]:
    """A package's `__getattr__`, `__dir__` and `__all__`.

    Args:
        package: the package's `__name__`.
        homes: public names by the module they live in, relative to the package (".films", "..reconstruction").
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(module_of[name], package), name)
        setattr(sys.modules[package], name, value)  # asked for once
        return value

    return load, lambda: sorted(module_of), sorted(module_of)
