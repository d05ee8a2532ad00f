"""Muon: gradient descent whose steps are orthogonal matrices (Jordan et al., "Muon", 2024)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: of the quintic that pulls singular values to about 1
NEWTON_SCHULZ_STEPS = 5  # Jordan et al.'s number: more make the matrix more orthogonal, and cost as much each


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, each matrix of which is replaced by the nearest orthogonal one.

    All directions of a weight matrix learn at the same speed, where gradient descent and Adam learn the strongest ones
    first. `torch.optim.Muon`, of torch 2.9 and later, computes in bfloat16, which most CPUs emulate; this one computes
    in the weights' dtype.

    Args:
        params: matrices (m, n), or groups of them.
        lr: root mean square of a step's entries, if the matrix is square.
        momentum: of the gradient, 0 to 1.
    """

    def __init__(self, params: Iterable, lr: float = 1e-3, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"].lerp_(parameter.grad, 1 - group["momentum"])
                step = orthogonalize(parameter.grad.lerp(average, group["momentum"]))
                parameter.sub_(step, alpha=group["lr"] * math.sqrt(max(parameter.shape)))


def orthogonalize(matrix: Tensor) -> Tensor:
    """The orthogonal factor U V^T of a matrix U S V^T (m, n), its singular values within about 0.3 of 1."""
    a, b, c = COEFFICIENTS
    X = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    X = X / X.norm().clamp(min=torch.finfo(X.dtype).tiny)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = X @ X.T
        X = torch.addmm(X, torch.addmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
    return X if matrix.shape[0] <= matrix.shape[1] else X.T
