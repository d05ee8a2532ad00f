"""What several tests share."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained" / "poly-inr-emoji"


@pytest.fixture(scope="session")
def reference_values() -> Path:
    """The folder of reference values."""
    return Path(__file__).with_name("reference")


@pytest.fixture(scope="session")
def bundled_onnx(tmp_path_factory) -> Path:
    """The bundled checkpoint exported to ONNX, once for all of the session's processes."""
    from polyinr_hf import PolyINRPipeline
    from polyinr_hf.onnx_export import export_onnx

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "bundled_onnx"
    with FileLock(base / "bundled_onnx.lock"):
        if not folder.exists():
            export_onnx(PolyINRPipeline.from_pretrained(PRETRAINED), folder)
    return folder
