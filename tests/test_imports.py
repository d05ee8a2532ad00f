"""Which module may use what of which: layers (pyproject.toml names them), relative names, and the files that travel."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from polyinr_hf.pipeline_poly_inr import CODE_FILES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "polyinr_hf"
INSTALLED = {"torch", "numpy", "PIL", "diffusers", "huggingface_hub", "safetensors", *sys.stdlib_module_names}


def imports(path: Path) -> list[tuple[int, str]]:
    """(level, module) of all that a module imports, also inside functions; level 0 is an absolute name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or ""))
    return found


def test_imports_go_downward_and_never_in_a_circle():
    """In a process of its own: it switches off all loggers that there are."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout


def test_imports_inside_the_package_are_relative():
    """What travels is loaded under another name in a Hub repository, and a copy of the package tests itself."""
    absolute = [p.name for p in PACKAGE.rglob("*.py") for _, name in imports(p) if name.split(".")[0] == "polyinr_hf"]
    assert absolute == []


@pytest.mark.parametrize("name", CODE_FILES)
def test_travelling_files_import_only_what_travels_or_is_installed_with_diffusers(name):
    for level, module in imports(PACKAGE / name):
        if level:
            assert level == 1 and f"{module}.py" in CODE_FILES, f"{name} imports {module}"
        else:
            assert module.split(".")[0] in INSTALLED, f"{name} imports {module}"
