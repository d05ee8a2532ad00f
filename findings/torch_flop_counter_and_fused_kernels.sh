#!/usr/bin/env bash
# torch 2.14.1; Python 3.11, CPU.
#
# torch.utils.flop_counter.FlopCounterMode counts nothing for what a CPU runs as one fused operation: attention by
# scaled_dot_product_attention (its MATH backend and meta tensors are counted), an LSTM, a TransformerEncoderLayer in
# evaluation without gradients (with gradients it is counted, but for its attention), torch.cdist by products. No
# warning. The same model costs nothing or something, depending on device, backend and gradients.
#
# Output seen:
#   attention: products 4194304, math backend 4194304, meta 4194304, CPU 0, CPU with gradients 0
#   encoder layer in evaluation: without gradients 0, with gradients 2097152
#   LSTM: without gradients 0, with gradients 0
#   distances: products 160000000, cdist 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.14.1" "numpy>=2"
cat >"$folder/check.py" <<'PYTHON'
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


torch.manual_seed(0)
q, x, y = torch.randn(2, 4, 64, 32), torch.randn(500, 320), torch.randn(2, 64, 32)
with torch.no_grad():
    products = count(lambda: (q @ q.transpose(-1, -2)).softmax(-1) @ q)
    with sdpa_kernel(SDPBackend.MATH):
        math = count(lambda: F.scaled_dot_product_attention(q, q, q))
    meta = count(lambda: F.scaled_dot_product_attention(*[q.to("meta")] * 3))
    fused = count(lambda: F.scaled_dot_product_attention(q, q, q))
trained = q.clone().requires_grad_()
backward = count(lambda: F.scaled_dot_product_attention(trained, trained, trained).sum().backward())
print(f"attention: products {products}, math backend {math}, meta {meta}, CPU {fused}, CPU with gradients {backward}")
layer, lstm = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval(), nn.LSTM(32, 32, batch_first=True)
with torch.no_grad():
    without = count(lambda: layer(y)), count(lambda: lstm(y))
print(f"encoder layer in evaluation: without gradients {without[0]}, with gradients {count(lambda: layer(y))}")
print(f"LSTM: without gradients {without[1]}, with gradients {count(lambda: lstm(y))}")
print(f"distances: products {count(lambda: x @ x.T)}, cdist {count(lambda: torch.cdist(x, x))}")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/check.py" 2>"$folder/errors")
echo "$seen"
test "$seen" = "attention: products 4194304, math backend 4194304, meta 4194304, CPU 0, CPU with gradients 0
encoder layer in evaluation: without gradients 0, with gradients 2097152
LSTM: without gradients 0, with gradients 0
distances: products 160000000, cdist 0"
