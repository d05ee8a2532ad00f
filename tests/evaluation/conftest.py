"""What tests of several metrics share."""

import os
from pathlib import Path

import pytest
import torch
import torchvision
from filelock import FileLock


@pytest.fixture(scope="session")
def vgg16_file(tmp_path_factory) -> Path:
    """VGG16's state dict with random weights that keep the signal, half a gigabyte, once for all of the session."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    path = base / "vgg16.pth"
    with FileLock(base / "vgg16.lock"):
        if not path.exists():
            with torch.device("meta"):
                shapes = torchvision.models.vgg16().state_dict()
            generator = torch.Generator().manual_seed(0)
            weights = {name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}
            for weight in weights.values():
                if weight.ndim > 1:
                    weight.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=generator)
            torch.save(weights, path)
    return path
