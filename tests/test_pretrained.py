"""The bundled checkpoint's folder is what `save_pretrained` writes today."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import polyinr_hf
from polyinr_hf.pipeline_poly_inr import CODE_FILES

BUNDLED = Path(__file__).resolve().parents[1] / "pretrained" / "poly-inr-emoji"
REFRESH = "rewrite it: `PolyINRPipeline.from_pretrained(folder).save_config(folder)`"


@pytest.mark.parametrize(
    "path", [Path(place, name) for name, places in CODE_FILES.items() for place in places], ids=str
)
def test_the_code_is_todays(path):
    ours = Path(polyinr_hf.__file__).with_name(path.name).read_text(encoding="utf-8")
    assert (BUNDLED / path).read_text(encoding="utf-8") == ours, f"{BUNDLED / path} is of an older version; {REFRESH}"


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
