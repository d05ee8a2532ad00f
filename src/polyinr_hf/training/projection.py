"""The frozen random convolutions between feature networks and heads (Sauer et al., Projected GANs, 2021, section 3.2).

Cross-channel mixing (CCM) and cross-scale mixing (CSM), and, for a ViT, the taps that make a pyramid of its maps. They
never learn, and travel in the state dict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenRandom(nn.Module):
    """Convolutions that stay as they were drawn: never trained, always saved. N(0, 1 / fan_in), so that the rms of
    features is kept; biases zero. Drawn on the CPU, so one generator gives the same weights on every device."""

    def freeze(self, generator: torch.Generator | None) -> None:
        for conv in self.modules():
            if not isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                continue
            # Of a transposed convolution with kernel = stride, one tap of each input channel reaches a pixel.
            fan_in = conv.in_channels if isinstance(conv, nn.ConvTranspose2d) else conv.weight[0].numel()
            weight = torch.randn(conv.weight.shape, generator=generator, device="cpu") / math.sqrt(fan_in)
            conv.weight.data.copy_(weight)
            nn.init.zeros_(conv.bias)
        super().requires_grad_(False)

    def requires_grad_(self, requires_grad: bool = True) -> FrozenRandom:
        return self


class RandomTaps(FrozenRandom):
    """Makes a pyramid of the four equally sized maps (B, D, s, s) of a ViT, by random convolutions.

    D/8, D/4, D/2, D channels at 4s, 2s, s, s/2: for DeiT-base at 224 pixels 96/192/384/768 at 56, 28, 14, 7.
    """

    def __init__(self, in_channels: Sequence[int], generator: torch.Generator | None = None):
        super().__init__()
        self.channels = tuple(width // divisor for width, divisor in zip(in_channels, (8, 4, 2, 1), strict=True))
        self.project = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(in_channels, self.channels, strict=True))
        finest, fine, _, coarse = self.channels
        self.resample = nn.ModuleList(
            [
                nn.ConvTranspose2d(finest, finest, kernel_size=4, stride=4),
                nn.ConvTranspose2d(fine, fine, kernel_size=2, stride=2),
                nn.Identity(),
                nn.Conv2d(coarse, coarse, kernel_size=3, stride=2, padding=1),
            ]
        )
        self.freeze(generator)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Four maps (B, D, s, s) to four maps (B, channels[i], s_i, s_i), finest first."""
        layers = zip(features, self.project, self.resample, strict=True)
        return [resample(project(feature)) for feature, project, resample in layers]


class RandomProjection(FrozenRandom):
    """Mixes a feature pyramid randomly across channels, then across scales from coarse to fine.

    Args:
        in_channels (`Sequence[int]`): channels of the four maps, finest first.
        width (`int`): channels of the finest map after channel mixing, doubled at each coarser one.
        generator (`torch.Generator`, *optional*): a CPU generator the weights are drawn from.

    Attributes:
        channels: of the outputs, (width, width, 2 width, 4 width), finest first.
    """

    def __init__(self, in_channels: Sequence[int], width: int = 64, generator: torch.Generator | None = None):
        super().__init__()
        mixed = [width * 2**scale for scale in range(4)]
        self.channels = (width, *mixed[:3])
        self.channel_mixing = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(in_channels, mixed, strict=True))
        self.scale_mixing = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in zip(mixed, self.channels, strict=True))
        self.freeze(generator)

    def forward(self, features: list[Tensor], num_scales: int = 4) -> list[Tensor]:
        """Four maps (B, in_channels[i], s_i, s_i) to the `num_scales` finest of (B, channels[i], 2 s_i, 2 s_i)."""
        outputs, coarser = [], None
        for scale in (3, 2, 1, 0):
            x = self.channel_mixing[scale](features[scale])  # (B, 2^i width, s_i, s_i)
            x = x if coarser is None else x + coarser
            # Convolved before it is upsampled: a 1x1 convolution and an interpolation commute, and this way round
            # there are four times fewer pixels to convolve.
            x = self.scale_mixing[scale](x)  # (B, channels[i], s_i, s_i)
            coarser = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            outputs.insert(0, coarser)  # (B, channels[i], 2 s_i, 2 s_i)
        return outputs[:num_scales]
