"""The bundled checkpoint's folder is what `save_pretrained` writes today."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polyinr_hf.pipeline_poly_inr import travelling_code

BUNDLED = Path(__file__).resolve().parents[1] / "pretrained" / "poly-inr-emoji"
REFRESH = "rewrite it: `PolyINRPipeline.from_pretrained(folder).save_config(folder)`"


@pytest.mark.parametrize("path", sorted(travelling_code()))
def test_the_code_is_todays(path):
    ours = travelling_code()[path]
    assert (BUNDLED / path).read_text(encoding="utf-8") == ours, f"{BUNDLED / path} is of an older version; {REFRESH}"


def test_no_other_code_is_there():
    assert {path.relative_to(BUNDLED).as_posix() for path in BUNDLED.rglob("*.py")} == set(travelling_code())


def test_the_generators_code_needs_no_file_beside_it():
    source = travelling_code()["generator/modeling_poly_inr.py"]
    tree = ast.parse(source)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    targets = [node.targets for node in tree.body if isinstance(node, ast.Assign)]
    names += [
        leaf.id for assigned in targets for node in assigned for leaf in ast.walk(node) if isinstance(leaf, ast.Name)
    ]
    assert len(names) == len(set(names))  # files that are written into one must not share a name
    namespace = {"__name__": "alone"}
    exec(compile(source, "alone.py", "exec"), namespace)
    assert "PolyINRGenerator" in namespace


def test_the_index_has_the_models_own_psi():
    index = json.loads((BUNDLED / "model_index.json").read_text(encoding="utf-8"))
    assert index["default_truncation_psi"] == 1.0, REFRESH


def test_diffusers_opens_it_without_the_package(tmp_path):
    code = f"""
import sys
sys.modules["polyinr_hf"] = None
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(BUNDLED)!r}, trust_remote_code=True)
again = type(pipe).from_pipe(pipe, default_size=4)
image = again("Grinning Face", generator=torch.Generator().manual_seed(0)).images[0]
print(type(pipe).__name__, image.size, len(set(image.getdata())) > 1)
"""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "PolyINRPipeline (4, 4) True"
    assert "Expected types" not in ran.stderr
