"""Every block of README.md, docs/ and examples/ runs as printed, in a copy of the repository, from top to bottom.

Stand-ins take the place of what needs a network or is the reader's own: a folder of pictures, one of the authors'
checkpoints, the emoji drawings. What would take minutes is shortened by arguments appended here; what takes
hours, in docs/ and examples/, is parsed as the script parses it, recipe and all, and not started. A block that cannot
run at all is preceded by the comment `<!-- not run: REASON -->`.
"""

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?```(?P<language>python|bash)\n(?P<code>.*?)```", re.DOTALL
)
# Commands that fetch or serve, with what holds them instead.
NOT_RUN = {
    "pip": "the extras that it names are checked",
    "hf": "needs an account",
    "make": "its target is checked",
    "examples/emoji/prepare.py": "fetches drawings from npm; tests/examples/test_emoji.py",
    "space/app.py": "serves until it is stopped; tests/space",
}
# Minutes each; their arguments are checked, as those of scripts in docs/.
LONG = ["examples/emoji/showcase.py", "benchmarks/own_pictures.py"]
# In docs/ the arguments of scripts are checked, but for the export that a block of Python opens; in the README they run
# with what this appends.
SHORTER = {
    "scripts/train.py small": ["--minutes", "0.2"],
    "scripts/edit.py zoom": ["--frames", "4"],
    "scripts/edit.py invert": ["--num_steps", "2", "--num_refine_steps", "2"],
    "scripts/edit.py tune": ["--num_steps", "2"],
    "scripts/evaluate.py": ["--num_samples", "330"],
}


def blocks(document: Path) -> list[tuple[str, str, str | None]]:
    """(language, code, reason not to run it) of each block."""
    text = document.read_text(encoding="utf-8")
    return [(m["language"], m["code"], m["reason"]) for m in BLOCK.finditer(text)]


def commands(code: str) -> list[list[str]]:
    """The commands of a shell block as words."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def draw_pictures(folder: Path, count: int, size: int) -> None:
    """Discs of two colours, a folder for each."""
    for index in range(count):
        colour = ("tomato", "royalblue")[index % 2]
        image = Image.new("RGB", (size, size + index % 3), "white")
        ImageDraw.Draw(image).ellipse((4, 4, size - 4 - index % 5, size - 6), fill=colour)
        path = folder / colour / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)


def write_emoji_stand_in(folder: Path) -> None:
    """A dataset like `examples/emoji/prepare.py`'s: for each name of the bundled checkpoint a square of some colour."""
    from emoji_dataset import build_emoji_splits, write_emoji_dataset
    from emoji_sets import Emoji
    from polyinr_hf import PolyINRPipeline

    labels = PolyINRPipeline.from_pretrained(ROOT / "pretrained" / "poly-inr-emoji").id2label
    square = '<path fill="hsl({},70%,50%)" d="M1 1h{}v6H1z"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{square}</svg>'
    drawings = [
        Emoji("noto", name, "Food & Drink", "fruit and vegetable", f"{key:x}", svg.format(key % 360, 2 + key % 6))
        for key, name in labels.items()
    ]
    write_emoji_dataset(build_emoji_splits(drawings, 64), folder, 64)


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of the working tree with the stand-ins in it."""
    folder = tmp_path_factory.mktemp("clone")
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in filter(None, files):
        if not name.startswith(("tests/", "docs/images/")) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    draw_pictures(folder / "my" / "pictures", 24, 40)
    shutil.copyfile(ROOT / "tests" / "reference" / "official_conditional_n64.pkl", folder / "best_model.pkl")
    return folder


def check_arguments(script: Path, arguments: list[str]) -> None:
    """Parses a command's arguments as the script does, and its recipe, without starting the work."""

    class Parsed(Exception):
        pass

    def stopping(parse):
        def parse_and_stop(self, *args, **kwargs):
            parsed = parse(self, *args, **kwargs)
            if self.prog == script.name:
                raise Parsed(parsed)
            return parsed

        return parse_and_stop

    specification = importlib.util.spec_from_file_location(f"documented_{script.stem}", script)
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(script.parent)
        specification.loader.exec_module(module)
        for name in ("parse_args", "parse_intermixed_args"):
            patch.setattr(argparse.ArgumentParser, name, stopping(getattr(argparse.ArgumentParser, name)))
        patch.setattr(sys, "argv", [script.name, *arguments])
        with pytest.raises(Parsed) as parsed:
            module.main()
    values = vars(parsed.value.args[0])
    if str(values.get("recipe", "")).endswith(".yaml"):
        from polyinr_hf.training import load_recipe

        load_recipe(values["recipe"], values.get("overrides"))


def run_command(words: list[str], folder: Path, is_readme: bool) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    if words[0] == "pip":
        for extra in re.findall(r"[\w]+", "".join(re.findall(r"\[(.*?)\]", " ".join(words)))):
            assert extra in project["optional-dependencies"], f"{' '.join(words)}: there is no extra {extra}"
        return
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"the Makefile has no target {words[1]}"
        return
    if words[0] in NOT_RUN or words[1] in NOT_RUN:
        assert words[0] != "python" or (folder / words[1]).is_file(), f"there is no {words[1]}"
        return
    if (
        not is_readme
        and words[1] != "scripts/export_onnx.py"
        and (script := next((word for word in words if word.startswith("scripts/") or word in LONG), None))
    ):
        check_arguments(folder / script, words[words.index(script) + 1 :])
        return
    if "best_model.pkl" in words:  # the stand-in has four classes
        words = [word for word in words if word not in ("--id2label", "imagenet")]
    for prefix, extra in SHORTER.items():
        if prefix in " ".join(words):
            words = [*words, *extra]
    programs = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [*programs.get(words[0], [words[0]]), *words[1:]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, f"{' '.join(words)}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_document_runs_from_top_to_bottom(document, repository, monkeypatch):
    monkeypatch.chdir(repository)
    names: dict = {}
    if document == README:
        write_emoji_stand_in(repository / "data" / "emoji-64")
    threads = torch.get_num_threads()
    for language, code, reason in blocks(document):
        if reason:
            continue
        if language == "python":
            exec(compile(code, f"{document.name}, block {code.splitlines()[0]!r}", "exec"), names)
        else:
            for words in commands(code):
                run_command(words, repository, is_readme=document == README)
    torch.set_num_threads(threads)


def test_links_inside_the_repository_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_readme_opens_with_a_first_image_of_three_lines():
    language, code, _ = next(block for block in blocks(ROOT / "README.md") if block[0] == "python")
    assert len([line for line in code.splitlines() if line and not line.startswith("#")]) == 3
    assert "pretrained/poly-inr-emoji" in code and ".save(" in code


def tables(document: Path) -> list[str]:
    """The tables of a document, as they are written."""
    return re.findall(r"(?:^\|.*\n)+", document.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "docs/models.md", "examples/emoji/README.md"])
def test_no_table_sets_a_published_fid_beside_another_distance(name):
    assert tables(ROOT / name)
    for table in tables(ROOT / name):
        assert not ("FID" in table and "fd_lite0" in table), table


def test_the_page_of_models_has_what_was_measured_and_published():
    here, releases, _ = tables(ROOT / "docs" / "models.md")
    measured = json.loads((ROOT / "pretrained" / "poly-inr-emoji" / "evaluation.json").read_text(encoding="utf-8"))
    figures = [f"{measured['fd_lite0']:.1f}", *(f"{measured[f'{name}_lite0']:.2f}" for name in ("precision", "recall"))]
    assert f"| {' | '.join(figures)} |" in here
    for size in (128, 256, 512):
        card = (ROOT / "model_cards" / f"imagenet-{size}.yaml").read_text(encoding="utf-8")
        published = re.search(r"FID: (\S+),.*Score: (\S+), Precision: (\S+), Recall: (\S+)}", card).groups()
        row = next(line for line in releases.splitlines() if f"{size} x {size}" in line)
        assert row.endswith(f"| {' | '.join(published)} |")
