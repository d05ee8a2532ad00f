#!/usr/bin/env bash
# dill 0.3.4, 0.3.5.1, 0.3.6, 0.4.1; numpy 1.26.4; Python 3.11.
#
# numpy scalars, such as a layer's gain of 1 / np.sqrt(fan_in), sit in every checkpoint that is a pickle of whole objects.
# Plain pickle and dill from 0.3.5.1 on write "numpy.core.multiarray scalar", the function that makes one. dill 0.3.4
# writes two calls of its own instead, whose argument is a private module of numpy:
# the file cannot be read without dill, and an unpickler that allows numpy's functions by name refuses it. From 0.3.6 on
# it is arrays that dill wraps in a call of its own, so that no version's names do for all of them.
#
# Output seen:
#   pickle: scalar by scalar; array by _reconstruct
#   0.3.4: scalar by scalar, _get_attr, _import_module, numpy.core._multiarray_umath; array by _reconstruct, (the same)
#   0.3.5.1: scalar by scalar; array by _reconstruct
#   0.3.6: scalar by scalar; array by _reconstruct, _create_array
#   0.4.1: scalar by scalar; array by _reconstruct, _create_array
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4
for version in 0.3.4 0.3.5.1 0.3.6 0.4.1; do
    "$folder/venv/bin/pip" install --quiet --no-deps --target "$folder/dill-$version" "dill==$version"
done
cat >"$folder/names.py" <<'PYTHON'
import pickle
import pickletools
import sys

import numpy as np

if sys.argv[1] == "pickle":
    dumps = pickle.dumps
else:
    import dill

    assert dill.__version__ == sys.argv[1]
    dumps = dill.dumps


NAMES = ("_reconstruct", "scalar", "_create_array", "_get_attr", "_import_module", "numpy.core._multiarray_umath")


def mentioned(value):
    """Which of these names the pickle of a list of one value has."""
    texts = {argument for _, argument, _ in pickletools.genops(dumps([value], protocol=4)) if isinstance(argument, str)}
    return ", ".join(name for name in NAMES if name in texts)


print(f"{sys.argv[1]}: scalar by {mentioned(np.float64(0.5))}; array by {mentioned(np.arange(2))}")
PYTHON
for writer in pickle 0.3.4 0.3.5.1 0.3.6 0.4.1; do
    PYTHONPATH="$folder/dill-$writer" "$folder/venv/bin/python" "$folder/names.py" "$writer"
done | tee "$folder/seen"
grep --quiet "^0.3.4: scalar by .*_get_attr, _import_module, numpy.core._multiarray_umath;" "$folder/seen"
grep --quiet "^0.3.5.1: scalar by scalar; array by _reconstruct$" "$folder/seen"
[ "$(grep --count "scalar by scalar; array by _reconstruct, _create_array$" "$folder/seen")" = 2 ]
