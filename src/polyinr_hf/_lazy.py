"""Package faces: public names that are imported when they are first asked for (PEP 562)."""

import importlib
import sys
from collections.abc import Callable


def lazy_exports(
    package: str, homes: dict[str, tuple[str, ...]], extra: str | dict[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Returns a package's `__getattr__`, `__dir__` and `__all__`.

    Args:
        package: The package's `__name__`.
        homes: Public names by the module that defines them, relative to the package (".films", "..reconstruction").
        extra: The optional dependencies that the modules need, as setup.py names them: one for all, or by module.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = module_of[name]
        try:
            value = getattr(importlib.import_module(module, package), name)
        except ModuleNotFoundError as error:
            needed = extra.get(module) if isinstance(extra, dict) else extra
            if needed is None or (error.name or "").startswith("polyinr_hf"):
                raise
            raise ImportError(
                f"{package}.{name} needs the package {error.name}, which is not installed: "
                f'pip install "polyinr-hf[{needed}]"',
                name=error.name,
            ) from error
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    return load, lambda: sorted(module_of), sorted(module_of)
