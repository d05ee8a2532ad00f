"""`.ci/run`, on a repository of three files: what runs is what is committed, in a clone that is gone afterwards."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[1] / ".ci" / "run"
MAKEFILE = """
test:
\t@pwd > {place}
\t@cat data.txt; read line || true
\t@echo "3 passed, 1 {outcome} in 0.25s"; echo "a last word" >&2
\t@test {outcome} = skipped
"""

pytestmark = pytest.mark.skipif(not (shutil.which("git") and shutil.which("make")), reason="needs git and make")


def run_ci(tmp_path, outcome):
    """Output of `.ci/run` in a repository whose tests end in `outcome`, its exit code, and where they ran."""
    tree, place = tmp_path / "tree", tmp_path / "place"
    (tree / ".ci").mkdir(parents=True)
    (tmp_path / "temporary").mkdir()
    shutil.copy(RUN, tree / ".ci")
    (tree / "Makefile").write_text(MAKEFILE.format(place=place, outcome=outcome))
    (tree / "data.txt").write_text("committed\n")
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    (tree / "data.txt").write_text("not committed\n")
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run([tree / ".ci" / "run"], capture_output=True, text=True, env=environment, timeout=60)
    return done.stdout.splitlines(), done.returncode, Path(place.read_text().strip())


@pytest.mark.parametrize("outcome", ["skipped", "failed"])
def test_runs_in_a_clone_and_reports_what_the_tests_say(tmp_path, outcome):
    output, code, place = run_ci(tmp_path, outcome)
    assert output[0] == "committed"
    assert output[-1] == f"3 passed, 1 {outcome} in 0.25s"
    assert (code == 0) == (outcome == "skipped")
    assert place.name == "clone" and place.parents[1] == tmp_path / "temporary"
    assert list((tmp_path / "temporary").iterdir()) == []
    assert (tmp_path / "tree" / "data.txt").read_text() == "not committed\n"
