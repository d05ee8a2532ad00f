"""The documented API as a type checker sees it: README's blocks are right, every public name has a type of its own."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("polyinr_hf", *(f"polyinr_hf.{path.parent.name}" for path in (ROOT / "src" / "polyinr_hf").glob("*/*.pyi")))

pytestmark = pytest.mark.skipif(not shutil.which("npm"), reason="pyright comes from npm")


def check(folder: Path, code: str) -> list[tuple[str, str]]:
    """(severity, message) of all that pyright says of `code`, "error" or "information"."""
    (folder / "code.py").write_text(code, encoding="utf-8")
    settings = {"include": ["code.py"], "extraPaths": [str(ROOT / "src")], "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "--project",
        str(folder),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    report = json.loads(result.stdout[result.stdout.index("{") :])  # npm may have spoken before
    return [(entry["severity"], entry["message"]) for entry in report["generalDiagnostics"]]


@pytest.mark.slow
def test_readme_is_free_of_type_errors(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 3
    assert check(tmp_path, "\n\n".join(blocks)) == []


@pytest.mark.slow
def test_every_public_name_has_a_type_of_its_own(tmp_path):
    names = [(package, name) for package in PACKAGES for name in importlib.import_module(package).__all__]
    assert len(names) > 80
    lines = [f"import {package}" for package in PACKAGES]
    lines += [f"reveal_type({package}.{name})" for package, name in names]
    said = check(tmp_path, "\n".join(lines))
    assert [message for severity, message in said if severity == "error"] == []
    types = [re.fullmatch(r'Type of "(.*?)" is "(.*)"', message, re.DOTALL).groups() for _, message in said]
    assert len(types) == len(names)
    assert [name for name, kind in types if kind in ("object", "Unknown", "Any")] == []
