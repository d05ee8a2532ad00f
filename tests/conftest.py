"""What several tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference_values() -> Path:
    """The folder of reference values."""
    return Path(__file__).with_name("reference")
