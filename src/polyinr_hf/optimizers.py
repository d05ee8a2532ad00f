"""How weights descend where training and inversion do it alike: an optimizer, and a schedule of its learning rate."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def half_cosine(progress: float) -> float:
    """Falls as half a cosine from 1, at progress 0, to 0, at progress 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


class Muon(torch.optim.Optimizer):
    """Gradient descent whose steps are orthogonal matrices (Jordan et al., "Muon", 2024), with Nesterov momentum.

    All directions of a weight matrix learn at the same speed, where gradient descent and Adam learn the strongest ones
    first. `torch.optim.Muon`, of torch 2.9 and later, computes in bfloat16, which most CPUs emulate; this one computes
    in the weights' dtype.

    Args:
        params: Matrices (m, n), or groups of them.
        lr: Root mean square of a step's entries, if the matrix is square.
        momentum: Of the gradient, 0 to 1; the default is Jordan et al.'s.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: of the quintic that pulls singular values to about 1
    NEWTON_SCHULZ_STEPS = 5  # Jordan et al.'s number: more make the matrix more orthogonal, and cost as much each

    def __init__(self, params: Iterable, lr: float = 1e-3, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"].lerp_(parameter.grad, 1 - group["momentum"])
                step = self.orthogonalize(parameter.grad.lerp(average, group["momentum"]))
                parameter.sub_(step, alpha=group["lr"] * math.sqrt(max(parameter.shape)))

    @classmethod
    def orthogonalize(cls, matrix: Tensor) -> Tensor:
        """The orthogonal factor U V^T of a matrix U S V^T (m, n), its singular values within about 0.3 of 1."""
        a, b, c = cls.COEFFICIENTS
        X = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        X = X / X.norm().clamp(min=torch.finfo(X.dtype).tiny)
        for _ in range(cls.NEWTON_SCHULZ_STEPS):
            gram = X @ X.T
            X = torch.addmm(X, torch.addmm(gram, gram, gram, beta=b, alpha=c), X, beta=a)
        return X if matrix.shape[0] <= matrix.shape[1] else X.T
