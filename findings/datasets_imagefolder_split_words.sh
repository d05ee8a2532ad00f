#!/usr/bin/env bash
# datasets 5.2.0, pillow 12.3.0; Python 3.11.
#
# `imagefolder` takes the words train, test, val, dev, eval and their kind, anywhere in the name of a folder or file, for the
# name of a split. If one class is called so, only its pictures are loaded, without a label; the rest is left out without a
# word. If one of three pictures is called val_2.png, it is the only one, and metadata.csv beside it is not read.
#
# Output seen:
#   20 pictures in car, plane, ship, train: {'train': (5, ['image'])}
#   20 pictures in car, plane, ship, tram: {'train': (20, ['image', 'label'])}
#   1.png, val_2.png, 3.png and metadata.csv: {'validation': (1, ['image'])}
#   1.png, 2.png, 3.png and metadata.csv: {'train': (3, ['image', 'text'])}
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


def load(folder):
    loaded = datasets.load_dataset("imagefolder", data_dir=folder)
    return {split: (len(rows), rows.column_names) for split, rows in loaded.items()}


def load_classes(last):
    classes = ["car", "plane", "ship", last]
    write(*(f"classes-{last}/{name}/{index}.png" for name in classes for index in range(5)))
    loaded = load(f"classes-{last}")
    print(f"20 pictures in {', '.join(classes)}: {loaded}")
    return loaded


def load_captions(folder, second):
    names = ["1.png", second, "3.png"]
    write(*(f"{folder}/{name}" for name in names))
    Path(folder, "metadata.csv").write_text("file_name,text\n" + "".join(f"{name},a pet\n" for name in names))
    loaded = load(folder)
    print(f"1.png, {second}, 3.png and metadata.csv: {loaded}")
    return loaded


assert load_classes("train") == {"train": (5, ["image"])}
assert load_classes("tram") == {"train": (20, ["image", "label"])}
assert load_captions("a", "val_2.png") == {"validation": (1, ["image"])}
assert load_captions("b", "2.png") == {"train": (3, ["image", "text"])}
PYTHON
cd "$folder"
"$folder/venv/bin/python" check.py 2>"$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
