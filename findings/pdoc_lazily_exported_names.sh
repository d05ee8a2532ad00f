#!/usr/bin/env bash
# pdoc 16.0.0; Python 3.11.
#
# A package that exports names by a module's __getattr__ (PEP 562), lists them in __all__ and __dir__, and gives them to
# every importer, has them documented as empty: pdoc warns that they do not resolve and leaves out docstrings and
# signatures. Where __getattr__ also keeps what it gives in the module's globals, which PEP 562 leaves open, they are
# documented.
#
# Output seen:
#   given: warnings 2, docstrings 0, entries 2
#   given and kept: warnings 0, docstrings 2, entries 2
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "pdoc==16.0.0"
cd "$folder"
mkdir lazy
cat >lazy/__init__.py <<'PYTHON'
"""A package."""

import importlib
import os

__all__ = ["work", "Thing"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(name)
    value = getattr(importlib.import_module("lazy.inner"), name)
    if os.environ["KEEP"]:
        globals()[name] = value
    return value


def __dir__():
    return __all__
PYTHON
cat >lazy/inner.py <<'PYTHON'
def work(count: int) -> int:
    """Works as often as that."""
    return count


class Thing:
    """A thing that is worked on."""
PYTHON
cat >check.py <<'PYTHON'
import re
import sys
import warnings

import pdoc

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    page = pdoc.pdoc("lazy")
found = [text in page for text in ("Works as often as that", "A thing that is worked on")]
entries = len(re.findall(r'id="(?:work|Thing)"', page))
print(f"{sys.argv[1]}: warnings {len(caught)}, docstrings {sum(found)}, entries {entries}")
PYTHON
seen=$(
    KEEP="" venv/bin/python check.py "given" 2>errors
    KEEP=1 venv/bin/python check.py "given and kept" 2>errors
)
echo "$seen"
test "$seen" = "given: warnings 2, docstrings 0, entries 2
given and kept: warnings 0, docstrings 2, entries 2"
