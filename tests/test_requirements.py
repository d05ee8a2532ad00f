"""The bounds of pyproject.toml and the files of pinned versions agree."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(line for lines in PROJECT["optional-dependencies"].values() for line in lines),
]
BOUNDS = dict(line.split(">=") for line in REQUIREMENTS if ">=" in line)


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {normalized(package): version for package, version in pinned.items()}


def normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", version)[0].split("."))


@pytest.mark.parametrize("package", BOUNDS)
def test_the_oldest_versions_are_the_bounds(package):
    bound, pinned = numbers(BOUNDS[package]), numbers(pins("minima.txt")[normalized(package)])
    assert pinned[: len(bound)] == bound, "see the head of requirements/minima.txt"


@pytest.mark.parametrize("package", BOUNDS)
def test_pinned_versions_are_within_the_bounds(package):
    assert numbers(pins("constraints.txt")[normalized(package)]) >= numbers(BOUNDS[package])


def test_the_space_asks_for_the_same_versions():
    lines = (ROOT / "space" / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines == [f"{package}>={BOUNDS[package]}" for package in (line.split(">=")[0] for line in lines)]
