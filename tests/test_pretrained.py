"""The bundled checkpoint's folder, and the code that a saved pipeline carries."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from polyinr_hf import PolyINRPipeline
from polyinr_hf.pipeline_poly_inr import traveling_code

BUNDLED = Path(__file__).resolve().parents[1] / "pretrained" / "poly-inr-emoji"


def test_the_bundled_folder_holds_no_code():
    assert not list(BUNDLED.rglob("*.py"))


def test_a_saved_pipeline_carries_the_code(tmp_path):
    PolyINRPipeline.from_pretrained(BUNDLED).save_pretrained(tmp_path)
    code = {path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.py")}
    assert code == traveling_code()


def test_the_generators_code_needs_no_file_beside_it():
    source = traveling_code()["generator/modeling_poly_inr.py"]
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
    assert index["default_truncation_psi"] == 1.0


def test_diffusers_opens_what_was_saved_without_the_package(tmp_path):
    pipe = PolyINRPipeline.from_pretrained(BUNDLED)
    pipe.save_pretrained(tmp_path / "saved")
    expected = pipe("Grinning Face", height=4, width=4, generator=torch.Generator().manual_seed(0)).images[0]
    code = f"""
import sys
sys.modules["polyinr_hf"] = None
import torch
from diffusers import AutoModel, DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained({str(tmp_path / "saved")!r}, trust_remote_code=True)
model = AutoModel.from_pretrained({str(tmp_path / "saved/generator")!r}, trust_remote_code=True)
assert type(model).__name__ == "PolyINRGenerator"
again = type(pipe).from_pipe(pipe, default_size=4)
image = again("Grinning Face", generator=torch.Generator().manual_seed(0)).images[0]
print(type(pipe).__name__, image.size, image.tobytes().hex())
"""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == f"PolyINRPipeline (4, 4) {expected.tobytes().hex()}"
    assert "Expected types" not in ran.stderr
    assert "not expected" not in ran.stderr
