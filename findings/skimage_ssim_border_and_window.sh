#!/usr/bin/env bash
# scikit-image 0.26.0, numpy 2.4.6, scipy 1.17.1.
#
# 1. structural_similarity(..., full=True) returns a number and a map, and the number is not the map's mean: it leaves
#    out a border of half a window, of which the documentation says nothing. Whoever averages the map over a mask of
#    everything gets another figure than without the mask, by more than most papers' last digit.
# 2. With gaussian_weights=True, sigma=1.5 (the settings that its documentation gives for Wang et al. 2004) the window
#    is 11 pixels wide. An image of 10 x 10 pixels is refused with the advice to take one of "at least 7x7".
#
# Output seen:
#   number 0.956535, mean of the map 0.949767, mean of the map without 5 pixels of border 0.956535
#   10 x 10 is refused: win_size exceeds image extent. Either ensure that your images are at least 7x7; ...
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
from skimage.metrics import structural_similarity

random = np.random.default_rng(0)
image = random.random((16, 16))
noisy = np.clip(image + 0.1 * random.standard_normal((16, 16)), 0, 1)
settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
number, full = structural_similarity(image, noisy, full=True, **settings)
inner = full[5:-5, 5:-5].mean()
print(f"number {number:.6f}, mean of the map {full.mean():.6f}, mean of the map without 5 pixels of border {inner:.6f}")
assert abs(number - inner) < 1e-12 and abs(number - full.mean()) > 1e-3

message = ""
try:
    structural_similarity(image[:10, :10], noisy[:10, :10], **settings)
except ValueError as error:
    message = str(error)
print(f"10 x 10 is refused: {message[:87]} ...")
assert "at least 7x7" in message
structural_similarity(image[:11, :11], noisy[:11, :11], **settings)
PYTHON
