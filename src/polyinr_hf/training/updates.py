"""What a training step does besides the optimizers: running means of weights and of w, and a guard on gradients."""

import torch
from torch import Tensor, nn


def ema_decay(batch_size: int, images_seen: int, half_life_kimg: float | None, ramp_up: float | None) -> float:
    """Decay of one step of the weights' running mean, as StyleGAN2-ADA's training loop has it.

    `0.5 ** (batch_size / half_life)`, where the half-life is at most `ramp_up` of the images seen: a long memory of the
    first images would be one of noise.
    """
    half_life = 1000 * (batch_size * 10 / 32 if half_life_kimg is None else half_life_kimg)  # images
    if ramp_up is not None:
        half_life = min(half_life, images_seen * ramp_up)
    return 0.5 ** (batch_size / max(half_life, 1e-8))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model, parameter by parameter; buffers are copied (as in StyleGAN2-ADA)."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
    for target, source in zip(ema.buffers(), model.buffers(), strict=True):
        target.copy_(source)


@torch.no_grad()
def update_w_mean(w_mean: Tensor, w: Tensor, class_labels: Tensor | None, decay: float) -> None:
    """w_mean[c] <- decay * w_mean[c] + (1 - decay) * mean of the w (B, w_dim) of class c; (classes or 1, w_dim).

    The centre that truncation pulls towards (Karras et al., StyleGAN, 2019, appendix B), one for each class.

    A row that has never been moved is all zeros, and takes its first mean whole.
    """
    class_labels = torch.zeros(len(w), dtype=torch.long, device=w.device) if class_labels is None else class_labels
    counts = torch.zeros(len(w_mean), device=w.device).index_add_(0, class_labels, torch.ones_like(w[:, 0]))
    means = torch.zeros_like(w_mean).index_add_(0, class_labels, w.to(w_mean.dtype)) / counts.clamp(min=1).unsqueeze(1)
    is_new = ~w_mean.any(dim=1, keepdim=True)
    moved = torch.where(is_new, means, torch.lerp(means, w_mean, decay))
    w_mean.copy_(torch.where(counts.unsqueeze(1) > 0, moved, w_mean))


@torch.no_grad()
def guard_gradients(parameters: list[nn.Parameter]) -> Tensor:
    """Replaces NaN by 0 and infinity by +-1e5 in gradients, in place; returns 1 if any was not finite, else 0."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    finite = torch.isfinite(torch.stack(torch._foreach_norm(gradients, float("inf")))).all()
    for gradient in gradients:
        torch.nan_to_num(gradient, nan=0.0, posinf=1e5, neginf=-1e5, out=gradient)
    return (~finite).float()
