#!/usr/bin/env bash
# datasets 5.2.0, pillow 12.3.0; Python 3.11.
#
# `imagefolder` passes over AVIF pictures, which Pillow reads since 11.3, and over folders whose names begin with two
# underscores, without a word: its list of suffixes is fixed, and such folders count as hidden. A class of either is gone.
#
# Output seen:
#   cat/1.png, dog/2.avif: 1 rows of ['image']
#   cat/1.png, __dog/2.png: 1 rows of ['image']
#   cat/1.png, dog/2.webp: 2 rows of ['image', 'label']
#   Pillow reads dog/2.avif: (12, 12)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==12.3.0
export HF_HOME="$folder/home" HF_HUB_OFFLINE=1
cat >"$folder/check.py" <<'PYTHON'
from pathlib import Path

import datasets
from PIL import Image


def write(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12)).save(name)


def load(folder, *names):
    write(*(f"{folder}/{name}" for name in names))
    rows = datasets.load_dataset("imagefolder", data_dir=folder, split="train")
    print(f"{', '.join(names)}: {len(rows)} rows of {rows.column_names}")
    return len(rows), rows.column_names


assert load("a", "cat/1.png", "dog/2.avif") == (1, ["image"])
assert load("b", "cat/1.png", "__dog/2.png") == (1, ["image"])
assert load("c", "cat/1.png", "dog/2.webp") == (2, ["image", "label"])
size = Image.open("a/dog/2.avif").size
print("Pillow reads dog/2.avif:", size)
assert size == (12, 12)
PYTHON
cd "$folder"
"$folder/venv/bin/python" check.py 2>"$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
