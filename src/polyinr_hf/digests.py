"""Fingerprints of weights and tensors: what is kept between runs is found, or refused, by them."""

import hashlib
import itertools

import torch
from torch import Tensor, nn


def weights_digest(module: nn.Module) -> str:
    """A short fingerprint of all parameters and buffers, the same on every device."""
    digest = hashlib.sha256()
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        digest.update(name.encode())
        digest.update(_bytes_of(value))
    return digest.hexdigest()[:16]


def tensor_digest(tensor: Tensor) -> str:
    """A short fingerprint of a tensor's shape and values, the same on every device."""
    return hashlib.sha256(repr(tuple(tensor.shape)).encode() + _bytes_of(tensor).tobytes()).hexdigest()[:16]


def _bytes_of(tensor: Tensor):
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
