#!/usr/bin/env bash
# dill 0.3.4, 0.3.5.1, 0.3.6, 0.3.7, 0.3.8, 0.4.1; Python 3.11.
#
# dill 0.3.6 and 0.3.7 write a class with its whole content, code of its methods included, if a function of its module's
# name stands where the module would be looked up: `from .spectral_norm import spectral_norm` in a package's __init__.
# torch.nn.utils is such a package (seen with torch 1.9.1 and 2.14.1). What is read back then belongs to a copy of
# SpectralNorm, isinstance is false, and torch.nn.utils.remove_spectral_norm says "spectral_norm of 'weight' not found in
# Linear(...)" of a layer that has one. Pickle and other versions of dill write the class by name.
#
# Output seen:
#   dill 0.3.4: 54 bytes, the same class: True
#   dill 0.3.5.1: 54 bytes, the same class: True
#   dill 0.3.6: 1121 bytes, the same class: False
#   dill 0.3.7: 1154 bytes, the same class: False
#   dill 0.3.8: 54 bytes, the same class: True
#   dill 0.4.1: 54 bytes, the same class: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
mkdir "$folder/networks"
echo "from .spectral_norm import spectral_norm" >"$folder/networks/__init__.py"
cat >"$folder/networks/spectral_norm.py" <<'PYTHON'
class SpectralNorm:
    def __call__(self, layer):
        return layer


def spectral_norm(layer):
    return SpectralNorm()(layer)
PYTHON
cat >"$folder/check.py" <<'PYTHON'
import pickle
import sys

import dill

import networks

kind = sys.modules["networks.spectral_norm"].SpectralNorm
assert pickle.loads(pickle.dumps(kind)) is kind
content = dill.dumps(kind)
same = dill.loads(content) is kind
print(f"dill {dill.__version__}: {len(content)} bytes, the same class: {same}")
assert same == (dill.__version__ not in ("0.3.6", "0.3.7"))
PYTHON
for package in dill==0.3.4 dill==0.3.5.1 dill==0.3.6 dill==0.3.7 dill==0.3.8 dill==0.4.1; do
    "$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/$package" "$package"
    PYTHONPATH="$folder/$package" "$folder/venv/bin/python" "$folder/check.py"
done
