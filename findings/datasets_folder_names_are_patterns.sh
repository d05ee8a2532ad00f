#!/usr/bin/env bash
# datasets 5.2.0, pillow 12.3.0; Python 3.11.
#
# A folder whose path has [ and ] in it, as cameras and download programs write, "does not contain any data files": the
# path is taken for a pattern, by `imagefolder` and where the folder itself is named. `data_files` with the path escaped by
# glob.escape loads it.
#
# Output seen:
#   imagefolder of pets [old]: EmptyDatasetError
#   pets [old] itself: EmptyDatasetError
#   escaped: 2 rows of ['image', 'label']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==12.3.0
export HF_HOME="$folder/home" HF_HUB_OFFLINE=1
cat >"$folder/check.py" <<'PYTHON'
import glob
from pathlib import Path

import datasets
from PIL import Image


def write(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 12)).save(name)


def load(what, *args, **kwargs):
    try:
        rows = datasets.load_dataset(*args, split="train", **kwargs)
        outcome = f"{len(rows)} rows of {rows.column_names}"
    except Exception as error:
        outcome = type(error).__name__
    print(f"{what}: {outcome}")
    return outcome


write("pets [old]/cat/1.png", "pets [old]/dog/2.png")
assert load("imagefolder of pets [old]", "imagefolder", data_dir="pets [old]") == "EmptyDatasetError"
assert load("pets [old] itself", "./pets [old]") == "EmptyDatasetError"
files = glob.escape("pets [old]") + "/**"
assert load("escaped", "imagefolder", data_files=files) == "2 rows of ['image', 'label']"
PYTHON
cd "$folder"
"$folder/venv/bin/python" check.py 2>"$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
