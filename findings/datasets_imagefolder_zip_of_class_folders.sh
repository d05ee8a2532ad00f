#!/usr/bin/env bash
# datasets 5.2.0, pillow 12.3.0; Python 3.11.
#
# A zip of class folders cannot be loaded by `imagefolder`: the classes are collected from the folders in the zip, and then
# each row is given the name of the folder that the zip itself lies in, which is none of them. With suffixes in capitals,
# which count in a folder, the pictures are loaded and the classes are gone. A zip of pictures without folders is loaded.
#
# Output seen:
#   cat/1.png, dog/2.png: ValueError: Invalid string class label here
#   cat/1.PNG, dog/2.PNG: 2 rows of ['image']
#   1.png, 2.png: 2 rows of ['image']
#   the folder cat/1.PNG, dog/2.PNG: 2 rows of ['image', 'label']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==12.3.0
export HF_HOME="$folder/home" HF_HUB_OFFLINE=1
cat >"$folder/check.py" <<'PYTHON'
import zipfile
from pathlib import Path

import datasets
from PIL import Image


def write(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12)).save(name)


def load(*names):
    path = Path("here", f"{len(list(Path().rglob('*.zip')))}.zip")
    path.parent.mkdir(exist_ok=True)
    write("picture.png")
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.write("picture.png", name)
    try:
        rows = datasets.load_dataset("imagefolder", data_files=str(path), split="train")
        outcome = f"{len(rows)} rows of {rows.column_names}"
    except datasets.exceptions.DatasetGenerationError as error:
        outcome = f"{type(error.__cause__).__name__}: {error.__cause__}"
    print(f"{', '.join(names)}: {outcome}")
    return outcome


assert load("cat/1.png", "dog/2.png") == "ValueError: Invalid string class label here"
assert load("cat/1.PNG", "dog/2.PNG") == "2 rows of ['image']"
assert load("1.png", "2.png") == "2 rows of ['image']"
write("pets/cat/1.PNG", "pets/dog/2.PNG")
rows = datasets.load_dataset("imagefolder", data_dir="pets", split="train")
print(f"the folder cat/1.PNG, dog/2.PNG: {len(rows)} rows of {rows.column_names}")
assert (len(rows), rows.column_names) == (2, ["image", "label"])
PYTHON
cd "$folder"
"$folder/venv/bin/python" check.py 2>"$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
