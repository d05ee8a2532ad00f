"""The benchmarks under one name, as they were called first; each is a command of its own.

python scripts/benchmark.py render ...               # python benchmarks/rendering.py ...
python scripts/benchmark.py render --pipeline ...    # python benchmarks/adaptive.py --pipeline ...
python scripts/benchmark.py train ...                # python benchmarks/training.py ...
python scripts/benchmark.py plan ...                 # python scripts/plan.py ...
"""

import subprocess
import sys
from pathlib import Path

from polyinr_hf.commands import make_parser

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {"render": "benchmarks/rendering.py", "train": "benchmarks/training.py", "plan": "scripts/plan.py"}


def command_of(argv: list[str] | None) -> list[str]:
    """The command line that `argv` stands for, without the interpreter."""
    parser = make_parser(__doc__)
    parser.add_argument("benchmark", choices=tuple(COMMANDS), help="what to measure; its own options follow")
    args, options = parser.parse_known_args(argv)
    is_adaptive = any(option.partition("=")[0] == "--pipeline" for option in options)
    path = "benchmarks/adaptive.py" if args.benchmark == "render" and is_adaptive else COMMANDS[args.benchmark]
    return [str(ROOT / path), *options]


def main(argv: list[str] | None = None) -> None:
    sys.exit(subprocess.call([sys.executable, *command_of(argv)]))


if __name__ == "__main__":
    main()
