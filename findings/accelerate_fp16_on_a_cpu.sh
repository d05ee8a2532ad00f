#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.14.1; Python 3.11, no GPU.
#
# On a CPU, Accelerator(mixed_precision="fp16") raises nothing, warns of nothing, says that it has fp16, and computes in
# float32 without a gradient scaler; "bf16" computes in bfloat16 there. And `accelerate launch` without
# --mixed_precision exports ACCELERATE_MIXED_PRECISION=no, so that a script cannot tell a precision that was asked for
# from the launcher's default.
#
# Output seen:
#   exported: no
#   fp16: Accelerator has fp16, scaler None, a product under autocast is torch.float32, warnings 0
#   bf16: Accelerator has bf16, scaler None, a product under autocast is torch.bfloat16, warnings 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "accelerate==1.15.0" "torch==2.14.1" "numpy>=2"
cat >"$folder/check.py" <<'PYTHON'
import os
import sys
import warnings

import torch
from accelerate import Accelerator

precision = sys.argv[1]
if precision == "exported":
    print("exported:", os.environ.get("ACCELERATE_MIXED_PRECISION"))
    sys.exit()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    accelerator = Accelerator(mixed_precision=precision, cpu=True)
    with accelerator.autocast():
        product = torch.ones(2, 4) @ torch.ones(4, 4)
print(
    f"{precision}: Accelerator has {accelerator.mixed_precision}, scaler {accelerator.scaler}, a product under autocast "
    f"is {product.dtype}, warnings {len(caught)}"
)
PYTHON
cd "$folder"
unset ACCELERATE_MIXED_PRECISION
export HF_HOME="$folder/home"
seen=$(
    "$folder/venv/bin/accelerate" launch --cpu check.py exported 2>"$folder/errors"
    "$folder/venv/bin/python" check.py fp16
    "$folder/venv/bin/python" check.py bf16
)
echo "$seen"
test "$seen" = "exported: no
fp16: Accelerator has fp16, scaler None, a product under autocast is torch.float32, warnings 0
bf16: Accelerator has bf16, scaler None, a product under autocast is torch.bfloat16, warnings 0"
