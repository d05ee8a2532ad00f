"""What pyproject.toml cannot say: what a wheel carries from outside src/, and its description on a package index."""

import re
import runpy
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PICTURE = re.compile(r"^!\[.*?\]\((?!https?:).*?\)\n(\n\*.*?\*\n)?", re.MULTILINE | re.DOTALL)  # and its caption
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)[^)]*\)")


class BuildWithFolders(build_py):
    """Puts the folders that commands run and read into the package: around a wheel there is no clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for name in runpy.run_path(str(ROOT / "src" / "polyinr_hf" / "commands.py"))["CARRIED"]:
            folder = Path(self.build_lib, "polyinr_hf", name)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(ROOT / name, folder, ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))


# Pictures and links into the repository lead nowhere on a package index.
README = (ROOT / "README.md").read_text(encoding="utf-8")
setup(
    cmdclass={"build_py": BuildWithFolders},
    long_description=LINK.sub(r"\1", PICTURE.sub("", README)),
    long_description_content_type="text/markdown",
)
