"""Every option of every script is read by the script, and has a help text; a wrong one is answered in two lines."""

import argparse
import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SHARED = [
    SCRIPTS / "arguments.py",
    SCRIPTS / "fitting.py",
    SCRIPTS.parent / "benchmarks" / "measuring.py",
]  # imported, not run
RUNNABLE = sorted({*SCRIPTS.glob("*.py"), *SCRIPTS.parent.glob("benchmarks/*.py")} - {*SHARED})


class Stop(Exception):
    pass


def parsers_of(path: Path, monkeypatch) -> list[argparse.ArgumentParser]:
    """The script's parser and those of its commands."""
    found = []

    def stop(self, *args, **kwargs):
        found.append(self)
        raise Stop

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
    monkeypatch.setattr(sys, "argv", [path.name])
    specification = importlib.util.spec_from_file_location(f"options_of_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    with pytest.raises(Stop):
        module.main()
    for parser in found:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += action.choices.values()
    return found


def words_read(path: Path) -> set[str]:
    """Attributes and strings in the script and in what it imports of `SHARED`, outside calls of `add_argument`."""
    words: set[str] = set()
    script = path.read_text(encoding="utf-8")
    for source in (path, *(shared for shared in SHARED if re.search(rf"^(from|import) {shared.stem}\b", script, re.M))):
        tree = ast.parse(source.read_text(encoding="utf-8"))
        declared = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "add_argument"
        ]
        inside = {id(child) for call in declared for child in ast.walk(call)}
        for node in ast.walk(tree):
            if id(node) in inside:
                continue
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                words.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.update(re.findall(r"\w+", node.value) if len(node.value) < 40 else ())
    return words


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_every_option_is_read_and_explained(path, monkeypatch):
    words = words_read(path)
    for parser in parsers_of(path, monkeypatch):
        for action in parser._actions:
            if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
                continue
            name = action.dest.removeprefix("target_")
            assert name in words, f"{path.name}: nothing reads {'/'.join(action.option_strings) or action.dest}"
            assert action.help or action.choices or action.metavar, f"{path.name}: {action.dest} has no help"
            subject = not re.match(r"(of|in) ", action.help or "")
            assert subject, f"{path.name} {action.dest}: {action.help!r} has no subject"


@pytest.mark.parametrize("path", [path for path in RUNNABLE if path.parent == SCRIPTS], ids=lambda path: path.stem)
def test_a_wrong_option_is_answered_in_two_lines(path, monkeypatch, capsys):
    for parser in parsers_of(path, monkeypatch):
        with pytest.raises(SystemExit) as end:
            parser.error("argument --seed: 'x' is wrong")
        assert end.value.code == 2
        said = f"error: argument --seed: 'x' is wrong\n{parser.prog} --help says more.\n"
        assert capsys.readouterr() == ("", said)
