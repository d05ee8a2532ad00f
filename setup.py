"""What pyproject.toml cannot say: the description on a package index is the README without pictures and links into the
repository, which lead nowhere there."""

import re
from pathlib import Path

from setuptools import setup

README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
PICTURE = re.compile(r"^!\[.*?\]\((?!https?:).*?\)\n(\n\*.*?\*\n)?", re.MULTILINE | re.DOTALL)  # and its caption
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)[^)]*\)")

setup(
    long_description=LINK.sub(r"\1", PICTURE.sub("", README)),
    long_description_content_type="text/markdown",
)
