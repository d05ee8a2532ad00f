"""The page's modules that need no page, in node."""

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="needs node: apt-get install nodejs npm")
def test_modules():
    done = subprocess.run(
        [NODE, "--test", Path(__file__).with_name("modules.test.mjs")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout
