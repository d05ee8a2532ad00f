import dataclasses
import json

import numpy as np
import pytest
import torch

from polyinr_hf.inversion import InversionSettings, TuningSettings


@pytest.mark.parametrize("kind", [InversionSettings, TuningSettings])
def test_numbers_of_any_library_become_pythons(kind):
    settings = kind(num_steps=np.int64(3), lr=np.float32(0.5), num_pixels=torch.tensor(7), coarse_share=np.array(0.25))
    assert settings == kind(num_steps=3, lr=0.5, num_pixels=7, coarse_share=0.25)
    assert json.loads(json.dumps(dataclasses.asdict(settings)))["num_pixels"] == 7
    assert kind(num_pixels=None).num_pixels is None
    with pytest.raises(ValueError, match="`num_steps`.*None"):
        kind(num_steps=None)
    with pytest.raises(ValueError, match="`lr`.*True"):
        kind(lr=np.True_)
