"""Imports that wait until they are needed: public names of packages (PEP 562), and the sentence on a missing extra."""

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming_extra(user: str, extra: str | None, instead: str = "") -> Iterator[None]:
    """Where a package of the block's imports is missing, raises ImportError that says in a sentence what to install.

    Args:
        user: What needs the package.
        extra: The optional dependencies that bring it, as pyproject.toml names them; None leaves the error as it is.
        instead: What else can be done, the sentence's end.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("polyinr_hf"):
            raise
        install = f'pip install "polyinr-hf[{extra}]"{instead}'
        raise ImportError(
            f"{user} needs the package {error.name}, which is not installed: {install}", name=error.name
        ) from error


def lazy_exports(
    package: str, file: str, extra: str | dict[str, str] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Returns a package's `__getattr__`, `__dir__` and `__all__`.

    The names are those that the stub beside `file` imports, where editors and type checkers find them too.

    Args:
        package: The package's `__name__`.
        file: The `__file__` of its `__init__.py`, beside which `__init__.pyi` lies.
        extra: The optional dependencies that the modules need, as pyproject.toml names them: one for all, or by module
            (".dataset").
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    module_of = {alias.name: "." * node.level + (node.module or "") for node in imports for alias in node.names}

    def load(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = module_of[name]
        with naming_extra(f"{package}.{name}", extra.get(module) if isinstance(extra, dict) else extra):
            value = getattr(importlib.import_module(module, package), name)
        setattr(sys.modules[package], name, value)  # the next access does not come here
        return value

    return load, lambda: sorted(module_of), sorted(module_of)
