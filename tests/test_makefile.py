"""`make demo` says what it costs before it begins, what it is at, and why it ended; pip is a stand-in."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
case "$*" in
  *venv*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *pip*) echo "$@" > pip.txt; echo "Collecting torch"; echo "  Downloading torch.whl (500 MB)"; sleep 3
    echo "the last line of pip"; exit $PIP_ENDS ;;
  *) echo "draws by $*" ;;
esac
"""

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


def run_demo(tmp_path, pip_ends=0, *variables):
    python = tmp_path / "python.sh"
    python.write_text(PYTHON)
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements/constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if not (tmp_path / name).exists():  # a newer one would be installed again
            shutil.copyfile(ROOT / name, tmp_path / name)
    command = ["make", "demo", f"PYTHON={python}", "NEWS_SECONDS=1", *variables]
    environment = {"PATH": os.environ["PATH"], "PIP_ENDS": str(pip_ends)}
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)


def test_the_demo_says_what_it_costs_and_what_it_is_at(tmp_path):
    done = run_demo(tmp_path, 0, "TORCH_INDEX=some/index")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "GB" in lines[0] and "minutes" in lines[1]
    news = [line for line in lines if "MB:" in line]
    assert news and all(line.endswith("Downloading torch.whl (500 MB)") for line in news)
    assert lines[-1] == "draws by scripts/demo.py --output out"
    assert "--extra-index-url some/index --editable ." in (tmp_path / "pip.txt").read_text()
    again = run_demo(tmp_path)
    assert again.stdout.splitlines() == lines[-1:]  # nothing is installed twice


def test_an_installation_that_fails_shows_how(tmp_path):
    done = run_demo(tmp_path, 1)
    assert done.returncode != 0
    assert "the last line of pip" in done.stderr
    assert "draws" not in done.stdout
    assert "extra-index-url" not in (tmp_path / "pip.txt").read_text()
    assert not (tmp_path / ".venv" / "installed-core").exists()
