#!/usr/bin/env bash
# safetensors 0.8.0, torch 2.14.1; Python 3.11, CPU.
#
# Under torch's FakeTensorMode, in which models are planned without memory, torch.load gives fake tensors (mapped or
# not). safetensors raises instead, by every way in: load_file and safe_open a ValueError about the "shape of object type
# 'torch.storage.UntypedStorage'", which names neither file nor mode; load, of bytes, an AssertionError.
#
# Output seen:
#   torch.load: FakeTensor (4, 4)
#   torch.load, mapped: FakeTensor (4, 4)
#   load_file: ValueError could not determine the shape of object type 'torch.storage.UntypedStorage'
#   safe_open: ValueError could not determine the shape of object type 'torch.storage.UntypedStorage'
#   load: AssertionError Please convert all Tensors to FakeTensors first
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "safetensors==0.8.0" "torch==2.14.1" "numpy>=2"
cat >"$folder/check.py" <<'PYTHON'
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file
from torch._subclasses.fake_tensor import FakeTensorMode


def open_and_get():
    with safe_open("w.safetensors", "pt") as file:
        return {"w": file.get_tensor("w")}


def load_bytes():
    with open("w.safetensors", "rb") as file:
        return load(file.read())


weights = {"w": torch.zeros(4, 4)}
save_file(weights, "w.safetensors")
torch.save(weights, "w.pt")
ways = {
    "torch.load": lambda: torch.load("w.pt"),
    "torch.load, mapped": lambda: torch.load("w.pt", mmap=True),
    "load_file": lambda: load_file("w.safetensors"),
    "safe_open": open_and_get,
    "load": load_bytes,
}
for name, way in ways.items():
    with FakeTensorMode():
        try:
            found = way()["w"]
            print(f"{name}: {type(found).__name__} {tuple(found.shape)}")
        except Exception as error:
            print(f"{name}: {type(error).__name__} {str(error).split(' or instantiate')[0]}")
PYTHON
cd "$folder"
seen=$("$folder/venv/bin/python" check.py 2>"$folder/errors")
echo "$seen"
test "$seen" = "torch.load: FakeTensor (4, 4)
torch.load, mapped: FakeTensor (4, 4)
load_file: ValueError could not determine the shape of object type 'torch.storage.UntypedStorage'
safe_open: ValueError could not determine the shape of object type 'torch.storage.UntypedStorage'
load: AssertionError Please convert all Tensors to FakeTensors first"
