"""Run the tests that diffusers has for its own models and pipelines on ours.

    python scripts/run_diffusers_testers.py                     # fetches the tests of the installed diffusers
    python scripts/run_diffusers_testers.py --source diffusers  # a checkout of diffusers
    python scripts/run_diffusers_testers.py -- -k compile -x    # arguments for pytest

What is run, and what does not apply and why: tests/external/diffusers_testers.py. Packages of diffusers do not hold its
tests: they come from GitHub, through pip; where that is out of reach, a line says so and nothing is run (exit code 0).
Without an accelerator, tests that ask for one run on the CPU.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import diffusers
import torch

from polyinr_hf.commands import make_parser

ROOT = Path(__file__).resolve().parents[1]
TESTERS = ROOT / "tests" / "external" / "diffusers_testers.py"
ARCHIVE = "https://github.com/huggingface/diffusers/archive/refs/tags/v{version}.tar.gz"
NEEDED = ("testing_utils.py", "models/testing_utils/common.py", "pipelines/testing_utils/common.py")


def fetch(folder: Path) -> Path:
    """The source of the installed diffusers, downloaded and unpacked into `folder`; OSError if it cannot be had."""
    url = ARCHIVE.format(version=diffusers.__version__)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--dest",
        folder,
    ]
    ran = subprocess.run([*command, url], capture_output=True, text=True, check=False)
    archives = sorted(folder.glob("*.tar.gz"))
    if ran.returncode or not archives:
        reason = (ran.stderr.strip().splitlines() or ["no archive"])[-1].partition(" (Caused")[0]
        raise OSError(f"{url} cannot be had ({reason})")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(path.parents[1] for path in sorted(folder.glob("*/tests/testing_utils.py")))


def main(argv=None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--source", type=Path, help="checkout of diffusers (default: the installed version's, fetched)")
    parser.add_argument("pytest_arguments", nargs="*", help="arguments for pytest, after --")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as workspace:
        try:
            source = (args.source or fetch(Path(workspace))).resolve()
        except OSError as error:
            print(f"skipped: {error}; a checkout of diffusers may be given as --source", file=sys.stderr)
            return 0
        if missing := [name for name in NEEDED if not (source / "tests" / name).is_file()]:
            sys.exit(f"error: --source: {source} has no tests/{missing[0]}: it is no diffusers, or an older one")
        version = re.search(r'^__version__ = "(.+)"$', (source / "src/diffusers/__init__.py").read_text(), re.MULTILINE)
        if version is None or version[1] != diffusers.__version__:
            found = version[1] if version else "unknown"
            sys.exit(f"error: --source: must be diffusers {diffusers.__version__}, which is installed, got {found}")
        device = "cuda" if torch.cuda.is_available() else "cpu:0"  # not "cpu", for which tests are skipped
        environment = {"DIFFUSERS_TEST_DEVICE": device, "PYTHONPATH": f"{source}{os.pathsep}{ROOT / 'src'}"}
        command = [sys.executable, "-m", "pytest", "--rootdir", source, "-c", os.devnull, "--noconftest", "-p"]
        command += ["no:cacheprovider", "-rs", "-q", TESTERS, *args.pytest_arguments]
        return subprocess.run(command, cwd=source, env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
