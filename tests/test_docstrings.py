"""Examples in docstrings run, and the reference that is built from docstrings holds every public name."""

import doctest
import importlib
import importlib.util
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import polyinr_hf

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["polyinr_hf", *(module.name for module in pkgutil.walk_packages(polyinr_hf.__path__, "polyinr_hf."))]
EXAMPLES = [
    pytest.param(test, id=test.name)
    for name in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if test.examples
]


def test_there_are_examples():
    assert len(EXAMPLES) >= 8


def test_no_public_name_is_a_modules():
    """Importing such a module would put it in the place of what its package offers under that name."""
    packages = [importlib.import_module(name) for name in MODULES if hasattr(importlib.import_module(name), "__path__")]
    for package in packages:
        modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
        assert not modules & set(package.__all__), package.__name__


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    outcome = doctest.DocTestRunner().run(example, out=said.append)
    assert outcome.failed == 0, "".join(said)


@pytest.mark.slow
def test_reference_holds_every_public_name_without_a_warning(tmp_path):
    pytest.importorskip("pdoc", reason="comes with the extra docs")
    command = [sys.executable, ROOT / "scripts" / "build_api.py", "--output", tmp_path / "api"]
    built = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stderr
    assert built.stderr == "" and built.stdout == f"{tmp_path / 'api' / 'index.html'}\n"
    specification = importlib.util.spec_from_file_location("build_api", ROOT / "scripts" / "build_api.py")
    build_api = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(build_api)
    for module in ("", *build_api.MODULES):
        name = f"polyinr_hf.{module}".rstrip(".")
        page = (tmp_path / "api" / f"{name.replace('.', '/')}.html").read_text(encoding="utf-8")
        for public in getattr(importlib.import_module(name), "__all__", ()):
            assert f'id="{public}"' in page, f"{name}.{public}"
        assert "[<code>" not in page  # a reference that was not understood
        assert str(ROOT) not in page
