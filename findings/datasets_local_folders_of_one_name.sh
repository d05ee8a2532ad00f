#!/usr/bin/env bash
# datasets 5.2.0; Python 3.11.
#
# The rows of a local folder whose card has `configs` are cached under the folder's name and a hash of the card: neither the
# folder's path nor the files' names and times are in it. Another folder of that name, and the same folder written anew,
# give the first one's rows without a word, with the same fingerprint. Without `configs` in the card both are read.
#
# Output seen:
#   configs in the card: a/pets [1, 1], b/pets [1, 1], a/pets written anew [1, 1]; fingerprints: 1
#   no configs: a/pets [1, 1], b/pets [2, 2, 2], a/pets written anew [3, 3, 3, 3]; fingerprints: 3
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0
export HF_HOME="$folder/home" HF_HUB_OFFLINE=1
cat >"$folder/check.py" <<'PYTHON'
from pathlib import Path

import datasets

CONFIGS = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
"""


def write(folder, card, numbers):
    Path(folder, "data").mkdir(parents=True, exist_ok=True)
    Path(folder, "README.md").write_text(card)
    datasets.Dataset.from_dict({"n": numbers}).to_parquet(f"{folder}/data/train-00000-of-00001.parquet")


def load(what, top, card):
    rows = []
    for folder, numbers in (("a/pets", [1, 1]), ("b/pets", [2, 2, 2]), ("a/pets", [3, 3, 3, 3])):
        write(f"{top}/{folder}", card, numbers)
        rows.append(datasets.load_dataset(f"./{top}/{folder}", split="train", cache_dir=f"cache-{top}"))
    found = [list(part["n"]) for part in rows]
    count = len({part._fingerprint for part in rows})
    print(f"{what}: a/pets {found[0]}, b/pets {found[1]}, a/pets written anew {found[2]}; fingerprints: {count}")
    return found, count


assert load("configs in the card", "card", CONFIGS) == ([[1, 1]] * 3, 1)
assert load("no configs", "plain", "# Pets\n") == ([[1, 1], [2, 2, 2], [3, 3, 3, 3]], 3)
PYTHON
cd "$folder"
"$folder/venv/bin/python" check.py 2>"$folder/log" || { tail -n 5 "$folder/log"; exit 1; }
