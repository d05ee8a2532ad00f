"""The projected discriminator (Sauer et al., Projected GANs Converge Faster, 2021) that Poly-INR was trained with.

    images --blur, augmentation--> feature network --taps--> random projection --4 maps--> one head each --> logits

once per feature network. Only the heads learn. Random taps and projections never do, and travel in the state dict;
feature networks are loaded from their source and do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import is_parametrized

from ..feature_networks import FeatureNetwork, load_feature_network
from ..modeling_poly_inr import EqualizedLinear
from .augmentation import DiffAugment, gaussian_blur

FEATURE_NETWORKS = ("deit_base_distilled_patch16_224", "tf_efficientnet_lite0")
EMBEDDING_DIM = 320  # of a class: EfficientNet-lite0's last block, pooled
HEAD_DIM = 64  # of the space a conditional head compares features and classes in; the release's
HEAD_WIDTHS = {64: 64, 32: 128, 16: 256, 8: 512}  # nominal map size -> channels; the release's
LOGIT_KERNEL = 4  # pixels a side of the last convolution, the release's


# --- frozen random convolutions between feature networks and heads (Sauer et al., 2021, section 3.2) ------------------


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
            assert conv.bias is not None  # of none of them
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


# --- heads ------------------------------------------------------------------------------------------------------------


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalization whose training statistics are over groups of `group_size` consecutive samples.

    With a fixed group size a batch gives the same gradients however it is cut into micro-batches or dealt to
    processes, as long as the cuts fall between groups; plain batch norm does not. `None`: the whole batch.
    `num_batches` batches may come in one tensor, one after the other; a group never spans two of them.
    """

    def __init__(self, num_features: int, group_size: int | None = None):
        super().__init__(num_features)
        self.group_size = group_size

    def forward(self, x: Tensor, num_batches: int = 1) -> Tensor:
        batch_size = len(x) // num_batches
        group_size = min(batch_size, self.group_size or batch_size)
        if not self.training or group_size == len(x):
            return super().forward(x)
        if batch_size % group_size:
            raise ValueError(
                f"`batch_norm_group_size` must be a divisor of the batch of {batch_size}, got {group_size}."
            )
        return torch.cat([nn.BatchNorm2d.forward(self, group) for group in x.split(group_size)])


class DownBlock(nn.Module):
    """Halves a map: spectrally normalized 4x4 convolution of stride 2, batch norm, leaky ReLU of slope 0.2."""

    def __init__(self, in_channels: int, out_channels: int, batch_norm_group_size: int | None):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1))
        self.norm = GroupedBatchNorm2d(out_channels, batch_norm_group_size)

    def forward(self, x: Tensor, num_batches: int = 1) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x), num_batches), 0.2)  # (B, out_channels, s / 2, s / 2)


class Head(nn.Module):
    """Logits of one projected map; conditional ones by projection on the class embedding (Miyato & Koyama, 2018).

    Args:
        in_channels (`int`): channels of the map.
        scale (`int`): 0 finest to 3; nominal map size 128, 64, 32, 16, halved down to nominal 8.
        num_classes (`int`, *optional*): makes the head conditional, with its own trainable class embedding.
        batch_norm_group_size (`int`, *optional*): see [`GroupedBatchNorm2d`].
    """

    def __init__(
        self, in_channels: int, scale: int, num_classes: int | None = None, batch_norm_group_size: int | None = None
    ):
        super().__init__()
        widths = [in_channels, *list(HEAD_WIDTHS.values())[scale:]]
        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.down = nn.ModuleList(DownBlock(*pair, batch_norm_group_size) for pair in pairs)
        logit_channels = HEAD_DIM if num_classes else 1
        self.logit_conv = spectral_norm(nn.Conv2d(widths[-1], logit_channels, LOGIT_KERNEL, bias=False))
        self.class_embedding = nn.Embedding(num_classes, EMBEDDING_DIM) if num_classes else None
        self.class_projection = EqualizedLinear(EMBEDDING_DIM, HEAD_DIM, activation=True) if num_classes else None

    def forward(self, x: Tensor, class_labels: Tensor | None = None, num_batches: int = 1) -> Tensor:
        """A map (B, in_channels, s, s) and labels (B,) to logits (B, K)."""
        for block in self.down:
            x = block(x, num_batches)  # (B, 512, t, t) at last: t = 7 for features at 224 pixels
        if min(x.shape[2:]) < LOGIT_KERNEL:  # features below 128 pixels
            x = F.pad(x, (1, 1, 1, 1))
        x = self.logit_conv(x).float()  # (B, 64 or 1, t - 3, t - 3)
        if self.class_embedding is not None and self.class_projection is not None:
            classes = self.class_projection(self.class_embedding(class_labels)).float()  # (B, 64)
            x = (x * classes[:, :, None, None]).sum(dim=1) / math.sqrt(HEAD_DIM)  # (B, t - 3, t - 3)
        return x.flatten(1)  # (B, K)


# --- the discriminator ------------------------------------------------------------------------------------------------


class ProjectedBranch(nn.Module):
    """One feature network with its random projection and its heads: images (B, 3, H, W) to logits (B, K).

    A pure function of its arguments (in training it also updates batch norm's running statistics), so that it can
    be compiled. Arguments as in [`ProjectedDiscriminator`].
    """

    def __init__(
        self,
        feature_network: FeatureNetwork,
        augment: DiffAugment,
        num_classes: int | None,
        projection_width: int,
        num_heads: int,
        batch_norm_group_size: int | None,
        generator: torch.Generator,
    ):
        super().__init__()
        self.augment = augment
        self.feature_network = feature_network
        is_vit, channels = feature_network.is_vit, feature_network.channels
        taps = RandomTaps(channels, generator) if is_vit else None
        self.taps, channels = (nn.Identity(), channels) if taps is None else (taps, taps.channels)
        self.projection = RandomProjection(channels, projection_width, generator)
        self.heads = nn.ModuleList(
            Head(self.projection.channels[scale], scale, num_classes, batch_norm_group_size)
            for scale in range(num_heads)
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """Projected features of images (B, 3, H, W): a map (B, channels[i], s_i, s_i) per head, finest first."""
        return self.projection(self.taps(self.feature_network(images)), len(self.heads))

    def forward(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        draws: Tensor | None = None,
        num_batches: int = 1,
    ) -> Tensor:
        """Images (B, 3, H, W), labels (B,) and, to augment, uniform draws (B, num_draws) to logits (B, K)."""
        images = images if draws is None else self.augment(images, draws)
        features = self.features(images)
        logits = [head(feature, class_labels, num_batches) for head, feature in zip(self.heads, features, strict=True)]
        return torch.cat(logits, dim=1)  # (B, K)


class ProjectedDiscriminator(nn.Module):
    """Judges images by the features frozen, pretrained networks see in them.

    In training, batch norm uses the statistics of the batch at hand, as in the release: real and generated images,
    even when they come in one call, are normalized separately, and each process of a distributed run by its own share.
    Running statistics serve eval mode only. Spectral norm's power iteration is not part of a forward, so that all
    micro-batches of a step see the same weights: call [`~ProjectedDiscriminator.update_spectral_norm`] once before
    each optimizer step. A DistributedDataParallel wrapper must not sync buffers in its forward: they stay equal or
    local by themselves, and rewriting them between the real and the generated batch breaks the backward.

    Args:
        num_classes (`int`, *optional*): makes the heads conditional.
        feature_networks (`Sequence[str]`): timm names; see [`FeatureNetwork`] for what can serve.
        feature_weights (`Mapping[str, str | Path]`, *optional*): files with their weights, by name; see
            [`load_backbone`] for where weights come from without. May name other networks too, which have no use here.
        pretrained (`bool`, defaults to `True`): `False` asks for feature networks with random weights.
        feature_resolution (`int`, defaults to 224): CNNs see smaller images enlarged to this; a multiple of 32,
            at least 64. Smaller is faster. ViTs have their own.
        projection_width (`int`, defaults to 64): channels of the finest projected map.
        num_heads (`int`, defaults to 4): heads per network, 1 to 4, on the finest scales.
        augmentation (`str` or `Sequence[str]`): policy of [`DiffAugment`], drawn afresh per network.
        class_embeddings (`Tensor`, *optional*): (num_classes, 320), what each head's class embedding starts from;
            N(0, 1) without.
        batch_norm_group_size (`int`, *optional*): see [`GroupedBatchNorm2d`]; the whole batch by default.
        seed (`int`, defaults to 0): determines all random weights of taps, projections and heads.

    Raises:
        ValueError: if an argument is out of range, or a feature network unknown or unsuitable.
        FileNotFoundError: if the weights of a feature network cannot be had.
    """

    branches: Any  # a ModuleList of [`ProjectedBranch`]

    def __init__(
        self,
        num_classes: int | None = None,
        feature_networks: Sequence[str] = FEATURE_NETWORKS,
        feature_weights: Mapping[str, str | Path] | None = None,
        pretrained: bool = True,
        feature_resolution: int = 224,
        projection_width: int = 64,
        num_heads: int = 4,
        augmentation: str | Sequence[str] = ("color", "translation", "cutout"),
        class_embeddings: Tensor | None = None,
        batch_norm_group_size: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        feature_weights = dict(feature_weights or {})
        _check_arguments(num_classes, feature_networks, projection_width, num_heads, class_embeddings)
        self.num_classes = num_classes
        self.feature_network_names = tuple(feature_networks)
        self.augment = DiffAugment(augmentation)
        networks = [
            load_feature_network(name, feature_weights.get(name), pretrained, feature_resolution)
            for name in feature_networks
        ]
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):  # layers of torch draw their weights from its global generator
            torch.random.default_generator.manual_seed(seed)
            self.branches = nn.ModuleList(
                ProjectedBranch(
                    network, self.augment, num_classes, projection_width, num_heads, batch_norm_group_size, generator
                )
                for network in networks
            )
        if class_embeddings is not None:
            self.set_class_embeddings(class_embeddings)
        self.train()

    def forward(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        blur_sigma: float = 0.0,
        draws: Tensor | None = None,
        num_batches: int = 1,
    ) -> dict[str, Tensor]:
        """Logits of images, as real (positive) or generated (negative).

        Args:
            images (`Tensor`): (B, 3, H, W) in [-1, 1].
            class_labels (`Tensor`, *optional*): (B,) integers; needed if and only if there are classes.
            blur_sigma (`float`, defaults to 0): of the Gaussian blur before anything else, in pixels.
            draws (`Tensor`, *optional*): augmentations, (B, networks, num_draws) uniform numbers such as
                [`~ProjectedDiscriminator.sample_augmentations`] gives; drawn here without. Unused in eval mode.
            num_batches (`int`, defaults to 1): batches of equal size that `images` holds, one after the other, and
                that batch norm keeps apart.

        Returns:
            `dict[str, Tensor]`: feature network name -> (B, K), heads finest first; K = 64 at 224 pixels.
        """
        if (class_labels is None) != (self.num_classes is None):
            need = "None" if self.num_classes is None else f"(B,) integers below {self.num_classes}"
            raise ValueError(f"`class_labels` must be {need} for num_classes={self.num_classes}, got {class_labels}.")
        images = gaussian_blur(images, blur_sigma)
        if draws is None and self.training:
            draws = self.sample_augmentations(len(images), device=images.device)
        per_network = draws.unbind(1) if draws is not None and self.training else [None] * len(self.branches)
        logits = [
            branch(images, class_labels, draw, num_batches)
            for branch, draw in zip(self.branches, per_network, strict=True)
        ]
        return dict(zip(self.feature_network_names, logits, strict=True))

    def set_class_embeddings(self, class_embeddings: Tensor) -> None:
        """Gives every head its own copy of class embeddings (num_classes, 320); ValueError for another shape."""
        _check_class_embeddings(class_embeddings, self.num_classes)
        for branch in self.branches:
            for head in branch.heads:
                head.class_embedding.weight.data.copy_(class_embeddings)

    def sample_augmentations(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draws of augmentations, (batch_size, networks, num_draws); rows of a batch serve its micro-batches."""
        draws = self.augment.sample(batch_size * len(self.branches), generator, device)
        return draws.view(batch_size, len(self.branches), self.augment.num_draws)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that learn: those of the heads."""
        for branch in self.branches:
            yield from branch.heads.parameters()

    def requires_grad_(self, requires_grad: bool = True) -> ProjectedDiscriminator:
        """Switches gradients of what can learn; everything frozen stays frozen."""
        for parameter in self.trainable_parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def train(self, mode: bool = True) -> ProjectedDiscriminator:
        """Sets the mode of the heads; feature networks stay in eval mode, and so does spectral norm."""
        super().train(mode)
        for conv in self._spectral_convs():
            conv.parametrizations.eval()
        return self

    @torch.no_grad()
    def update_spectral_norm(self) -> None:
        """One power iteration of every spectrally normalized convolution."""
        for conv in self._spectral_convs():
            conv.parametrizations.train()
            _ = conv.weight  # computed, which is when the iteration happens
            conv.parametrizations.eval()

    def _spectral_convs(self) -> Iterator[Any]:
        return (module for module in self.modules() if is_parametrized(module, "weight"))


def _check_arguments(
    num_classes: int | None,
    feature_networks: Sequence[str],
    projection_width: int,
    num_heads: int,
    class_embeddings: Tensor | None,
) -> None:
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"`num_classes` must be positive, or None for no classes, got {num_classes}.")
    if isinstance(feature_networks, str) or not feature_networks or len(set(feature_networks)) < len(feature_networks):
        raise ValueError(f"`feature_networks` must be a list of different timm names, got {feature_networks!r}.")
    if projection_width < 1:
        raise ValueError(f"`projection_width` must be positive, got {projection_width}.")
    if not 1 <= num_heads <= 4:
        raise ValueError(f"`num_heads` must be 1 to 4, got {num_heads}.")
    if class_embeddings is not None:
        _check_class_embeddings(class_embeddings, num_classes)


def _check_class_embeddings(class_embeddings: Tensor, num_classes: int | None) -> None:
    expected = (num_classes, EMBEDDING_DIM)
    if tuple(class_embeddings.shape) != expected:
        raise ValueError(f"`class_embeddings` must have the shape {expected}, got {tuple(class_embeddings.shape)}.")
