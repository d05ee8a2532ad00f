"""What several tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """The folder of reference values; the environment variable POLYINR_SHARED names another place for its parent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("POLYINR_SHARED", default)) / "fixtures"
    if not folder.is_dir():
        pytest.fail(f"No reference values at {folder}: set POLYINR_SHARED to the folder that holds fixtures/.")
    return folder
