"""The command `polyinr`, from a clone and from a wheel that lies outside one."""

import argparse
import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from polyinr_hf import BUNDLED_MODEL, commands

ROOT = Path(__file__).resolve().parents[1]


def polyinr(*arguments: str, path: Path = ROOT / "src", cwd: Path | None = None) -> subprocess.CompletedProcess:
    """What the installed command does, with the package at `path`."""
    code = f"import sys; sys.path.insert(0, {str(path)!r}); sys.argv[0] = 'bin/polyinr'\n"
    code += "from polyinr_hf.commands import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_alone_it_lists_the_commands(arguments):
    told = polyinr(*arguments)
    assert told.returncode == 0
    lines = {words[0]: line for line in told.stdout.splitlines() if (words := line.split())}
    for name, script in commands.COMMANDS.items():
        first = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8"))).splitlines()[0]
        assert lines[name].strip() == f"{name:<10}{first}"


def test_an_unknown_command_is_answered_with_the_list():
    told = polyinr("draw")
    assert told.returncode == 1 and told.stdout == ""
    assert told.stderr.startswith(commands.describe_commands())
    assert told.stderr.endswith(f"error: `COMMAND` must be {', '.join(commands.COMMANDS)}, got 'draw'.\n")


def test_neither_the_list_nor_the_package_waits_for_torch():
    code = "import sys, polyinr_hf.commands as commands; commands.describe_commands(); print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"


@pytest.mark.slow
def test_help_calls_scripts_by_the_command():
    told = polyinr("train", "--help").stdout
    assert told.startswith("usage: polyinr train [-h]")
    assert "    polyinr train small --output runs/mine" in told
    assert "    accelerate launch -m polyinr_hf.commands train configs/imagenet.yaml" in told
    assert "scripts/" not in told


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_has_a_parser_of_its_own(name, monkeypatch):
    """The script's `main` parses, by the command's name."""
    names = []

    def parse(self, *args, **kwargs):
        names.append(self.prog)
        assert isinstance(self, commands.Parser)
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    monkeypatch.setattr(sys, "argv", ["bin/polyinr", name, "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as in a script; else the runner's name is taken
    with pytest.raises(SystemExit):
        commands.main()
    assert names == [f"polyinr {name}"]


def test_files_of_the_repository_are_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.find_file("configs/ffhq.yaml") == ROOT / "configs" / "ffhq.yaml"
    assert commands.find_file("configs/no.yaml") == Path("configs/no.yaml")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ffhq.yaml").write_text("own")
    assert commands.find_file("configs/ffhq.yaml") == Path("configs/ffhq.yaml")


@pytest.mark.parametrize(
    "program, launched, expected",
    [
        ("scripts/train.py", False, "python scripts/train.py"),
        ("scripts/train.py", True, "accelerate launch scripts/train.py"),
        ("polyinr train", False, "polyinr train"),
        ("polyinr train", True, "accelerate launch -m polyinr_hf.commands train"),
    ],
)
def test_commands_that_come_next_are_called_as_this_one_was(program, launched, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    assert commands.command_line("train", launched) == expected


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the working tree, unpacked outside it."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        if not name.startswith(("tests/", "docs/", "findings/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*command, "--wheel-dir", folder, source], capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (archive,) = folder.glob("*.whl")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.mark.slow
def test_a_wheel_carries_what_commands_run_and_read(wheel):
    files = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    for script in commands.COMMANDS.values():
        assert f"polyinr_hf/{script}" in files
    bundled = {path.relative_to(BUNDLED_MODEL.parents[1]).as_posix() for path in BUNDLED_MODEL.rglob("*.safetensors")}
    assert bundled and {f"polyinr_hf/{name}" for name in bundled} <= files
    assert "polyinr_hf/configs/imagenet.yaml" in files and "polyinr_hf/space/style.css" in files
    (metadata,) = wheel.glob("*.dist-info")
    assert "polyinr = polyinr_hf.commands:main" in (metadata / "entry_points.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_wheel_draws_with_the_model_that_it_carries(wheel, tmp_path):
    told = polyinr("generate", "--class", "penguin", "--height", "8", "--width", "8", path=wheel, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert Image.open(tmp_path / told.stdout.strip()).size == (8, 8)
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import polyinr_hf; print(polyinr_hf.BUNDLED_MODEL)"
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(wheel / "polyinr_hf" / "pretrained" / "poly-inr-emoji")
