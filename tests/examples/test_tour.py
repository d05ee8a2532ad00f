"""examples/tour.ipynb runs from top to bottom, with less of everything, and is committed without outputs."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
# What takes the time of the tour, and what the test takes instead.
LESS = {
    "STEPS = 150": "STEPS = 2",
    "MINUTES = 2.0": "MINUTES = 0.1",
    "size=512": "size=64",
    "num_frames=36": "num_frames=4",
}
JUPYTER = """
import sys
import types

display = types.ModuleType("IPython.display")
display.Image = lambda filename: open(filename, "rb").close()
sys.modules |= {"IPython": types.ModuleType("IPython"), "IPython.display": display}
"""


def test_it_is_committed_without_outputs():
    for cell in CELLS:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_cells_name_what_the_package_has():
    """What a cell imports from the package is there; no cell needs more than Python."""
    found = [node for code in CODE for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in found if node.module.startswith("polyinr_hf")]
    assert len(ours) > 4
    for node in ours:
        for alias in node.names:
            assert hasattr(importlib.import_module(node.module), alias.name), f"{node.module}.{alias.name}"


def test_it_says_how_colab_opens_it():
    text = "".join("".join(cell["source"]) for cell in CELLS)
    assert "https://colab.research.google.com/github/USER/polyinr-hf/blob/main/examples/tour.ipynb" in text


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path):
    code = "\n\n".join(CODE)
    for much, less in LESS.items():
        assert much in code
        code = code.replace(much, less)
    script = tmp_path / "tour.py"
    script.write_text(JUPYTER + code, encoding="utf-8")
    environment = {"TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, script], env=os.environ | environment, capture_output=True, text=True, timeout=900
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert re.search(r"^1,?040 classes, such as", ran.stdout, re.MULTILINE)
    (folder,) = tmp_path.glob("tour-*")
    assert (folder / "walk.gif").is_file() and list((folder / "run" / "exports").glob("*/model_index.json"))
