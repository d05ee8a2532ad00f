"""The command `polyinr`, which runs the repository's scripts wherever they are installed, and the files beside them.

    polyinr                    the commands, a line each
    polyinr generate --help    as python scripts/generate.py --help

A clone has scripts, recipes and the bundled model beside src/; a wheel carries them inside the package (setup.py).
"""

import argparse
import ast
import importlib
import re
import sys
from pathlib import Path
from typing import NoReturn

PACKAGE = Path(__file__).resolve().parent
CARRIED = ("scripts", "space", "configs", "model_cards", "pretrained")  # folders of the repository, in a wheel
IS_WHEEL = (PACKAGE / "scripts").is_dir()
ROOT = PACKAGE if IS_WHEEL else PACKAGE.parents[1]
BUNDLED_MODEL = ROOT / "pretrained" / "poly-inr-emoji"  # a pipeline's folder

COMMANDS = {
    "generate": "scripts/generate.py",
    "edit": "scripts/edit.py",
    "train": "scripts/train.py",
    "plot": "scripts/plot_log.py",
    "evaluate": "scripts/evaluate.py",
    "plan": "scripts/plan.py",
    "convert": "scripts/convert_original.py",
    "export": "scripts/export_onnx.py",
    "push": "scripts/push_to_hub.py",
    "space": "space/app.py",
}


class Parser(argparse.ArgumentParser):
    """Says in two lines what is wrong with an argument, without the usage, which --help has; exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n{self.prog} --help says more.\n")


def make_parser(description: str | None) -> Parser:
    """A script's parser, whose help is the script's docstring as it is written."""
    return Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def command_line(name: str, launched: bool = False) -> str:
    """How to call a command from where this runs: `polyinr train`, or `python scripts/train.py` in a clone.

    With `launched` it is called in several processes.
    """
    if IS_WHEEL or sys.argv[0].startswith("polyinr "):
        return f"accelerate launch -m polyinr_hf.commands {name}" if launched else f"polyinr {name}"
    return f"accelerate launch {COMMANDS[name]}" if launched else f"python {COMMANDS[name]}"


def find_file(path: str | Path) -> Path:
    """`path`, or where there is no such file the repository's own of that name, such as configs/finetune.yaml."""
    own = ROOT / path
    return own if own.is_file() and not Path(path).exists() else Path(path)


def describe_commands() -> str:
    """The commands, each with the first sentence of its script."""
    lines = []
    for name, script in COMMANDS.items():
        text = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<10}{text.splitlines()[0]}")
    return "\n".join(["usage: polyinr COMMAND ...", "", *lines, "", "polyinr COMMAND --help says more of each."])


def call_by_name(text: str) -> str:
    """A script's text with `polyinr NAME` for `python scripts/NAME.py`; launchers are given the module instead."""
    for name, script in COMMANDS.items():
        text = text.replace(f"python {script}", f"polyinr {name}")
        text = re.sub(rf"(?<!\S){re.escape(script)}", f"-m polyinr_hf.commands {name}", text)
    return text


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(describe_commands())
        return
    if name not in COMMANDS:
        print(describe_commands(), file=sys.stderr)
        sys.exit(f"\nerror: `COMMAND` must be {', '.join(COMMANDS)}, got {name!r}.")
    script = ROOT / COMMANDS[name]
    sys.argv[:2] = [f"polyinr {name}"]  # what the script's parser calls itself
    sys.path.insert(0, str(script.parent))  # as for a script that is run: it imports others beside it
    module = importlib.import_module(script.stem)
    module.__doc__ = call_by_name(module.__doc__ or "")
    module.main()


if __name__ == "__main__":
    main()
