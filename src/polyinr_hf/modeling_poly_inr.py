"""The Poly-INR generator: an image as a polynomial of its pixel coordinates (Singh, Shukla, Turaga, CVPR 2023).

    z, class --mapping--> w (B, L, w_dim) --affine--> A (B, L, n, 3) --synthesis(A, coordinates)--> RGB (B, N, 3)

`A`, the affine parameters, is everything that depends on the image. B batch, L levels, n channels, N pixels.
This file, adaptive_rendering.py, checks.py and devices.py need torch, safetensors and diffusers only, so that a Hub
repository can carry them.
"""

import itertools
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from .adaptive_rendering import draw, first_pitch, refine
from .checks import (
    check_config,
    check_count,
    check_extent,
    check_json_object,
    check_number,
    check_shard_indices,
    check_size,
    check_weights,
    finite_number,
    nonfinite_tensors,
    whole_number,
)
from .devices import HALVES, product_dtype

NEGATIVE_SLOPE = 0.2  # of every leaky ReLU in the model, as in the release and in StyleGAN2, whose layers it took over
FEATURE_LIMIT = 256.0  # features are clamped to +- this after every level, the release's limit
PIXEL_GRIDS = ("native", "interpolated", "uniform")  # what a trained grid is used for
# The signal-preserving start. Spread of the modulation over features, per unit of coordinate: at level 0, and at later
# ones, where it is small, as their product would let the image's border outgrow its middle; the same everywhere in the
# image; and the spread of the images. None was tuned by training.
COEFFICIENT_STD_0, COEFFICIENT_STD, STYLE_STD, RGB_STD = 2.0, 0.5, 0.5, 0.5

# Adaptive rendering takes as many images at once as have so many points, of which it keeps some 40 bytes each; none of
# these was tuned. The products with the affine parameters grow with the images, by 5 % of the time at 8 and n = 256.
LATTICE_POINTS, MAX_IMAGES = {"cpu": 2**20, "gpu": 2**24}, 8


# --- layers -----------------------------------------------------------------------------------------------------------


class EqualizedLinear(nn.Module):
    """Linear layer with an equalized learning rate: weight ~ N(0, 1) / lr_multiplier, scaled where it is used.

    With `activation`, a leaky ReLU of slope 0.2 times sqrt(2) follows. (B, in_features) -> (B, out_features).
    """

    def __init__(self, in_features: int, out_features: int, activation: bool = True, lr_multiplier: float = 1.0):
        super().__init__()
        self.activation = activation
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)  # (B, out_features)
        return F.leaky_relu(x, NEGATIVE_SLOPE) * math.sqrt(2) if self.activation else x


class MappingNetwork(nn.Module):
    """z (B, z_dim) and class labels (B,) -> w (B, w_dim), one w for all levels."""

    def __init__(self, z_dim: int, w_dim: int, num_classes: int | None, class_embed_dim: int, num_layers: int):
        super().__init__()
        self.embedding = nn.Embedding(num_classes, class_embed_dim) if num_classes else None
        self.class_projection = EqualizedLinear(class_embed_dim, z_dim) if num_classes else None
        widths = [2 * z_dim if num_classes else z_dim] + [w_dim] * num_layers
        # The release's multiplier; StyleGAN2's is 0.01.
        self.layers = nn.ModuleList(EqualizedLinear(fan_in, w_dim, lr_multiplier=0.1) for fan_in in widths[:-1])

    def forward(self, z: Tensor, class_labels: Tensor | None = None) -> Tensor:
        x = normalize_rms(z)  # (B, z_dim)
        if self.embedding is not None and self.class_projection is not None:
            y = self.class_projection(self.embedding(class_labels))  # (B, z_dim)
            x = torch.cat([x, normalize_rms(y)], dim=1)  # (B, 2 * z_dim)
        for layer in self.layers:
            x = layer(x)
        return x  # (B, w_dim)


class AffineLevel(nn.Module):
    """w of one level (B, w_dim) -> how that level modulates its features, before folding.

    Level 0 takes w directly, later levels through one equalized layer. Without `rotation` and `shift` the level sees
    the pixel grid itself, as in equation (3).
    """

    def __init__(self, w_dim: int, channels: int, is_first: bool, compose_coordinates: bool):
        super().__init__()
        self.hidden = None if is_first else EqualizedLinear(w_dim, channels)
        fan_in = w_dim if is_first else channels
        self.coefficient = nn.Linear(fan_in, 2 * channels)
        self.bias = nn.Linear(fan_in, channels)
        self.rotation = nn.Linear(fan_in, 2 * 2) if compose_coordinates else None
        self.shift = nn.Linear(fan_in, 2) if compose_coordinates else None

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        h = w if self.hidden is None else self.hidden(w)  # (B, fan_in)
        coefficient = self.coefficient(h).float().unflatten(1, (2, -1))  # (B, 2, n)
        bias = self.bias(h).float()  # (B, n)
        if self.rotation is None or self.shift is None:
            return coefficient, bias, None, None
        rotation = self.rotation(h).float().unflatten(1, (2, 2))  # (B, 2, 2)
        return coefficient, bias, rotation, self.shift(h).float().unsqueeze(1)  # shift (B, 1, 2)


class FoldingLinear(nn.Module):
    """Level 0's linear layer: A_0 (B, n, 3) -> [W_0 A_0 | + b_0] (B, n, 3), float32.

    Level 0 is linear before its activation, so it folds into the affine parameters, and costs K = 3 a pixel, not K = n.
    It is no `nn.Linear`, as its forward is not one's: what quantizes or adapts those passes it over.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        reset: Any = nn.Linear.reset_parameters  # torch's own start, as that of the other levels
        reset(self)

    def forward(self, A: Tensor) -> Tensor:
        with full_precision(A.device):
            folded = self.weight.float() @ A.float()  # (B, n, 3)
        return folded + F.pad(self.bias.float().unsqueeze(1), (2, 0))  # b_0 multiplies the 1 of [u, v, 1]


class PixelLinear(nn.Linear):
    """A linear layer of the pixels, in their dtype: float32 where products of the weights' dtype would be emulated."""

    upcast: tuple[Tensor, Tensor] | None = None  # weight and bias for one call, see `_upcast_weights`

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or self.weight.dtype not in HALVES:  # or autocast's concern
            return super().forward(x)
        weight, bias = self.upcast or (self.weight.float(), self.bias.float())
        return F.linear(x, weight, bias)


class PixelLevel(nn.Module):
    """Levels 1..L-1 at every pixel: lrelu(W_l (x * lrelu(A_l X)) + b_l); equation (3) has no inner activation.

    W_l and b_l are handed in, one of `synthesis_levels`, so that checkpoints know nothing of this module. It is one so
    that it can be compiled. They come as a function: accelerate's hooks would move a module, weights and all.
    """

    def __init__(self, modulation_activation: str):
        super().__init__()
        self.modulation_activation = modulation_activation

    def forward(self, linear: Callable[[Tensor], Tensor], x: Tensor, A: Tensor, X: Tensor) -> Tensor:
        with full_precision(X.device):
            modulation = X @ A.float().transpose(1, 2)  # (B, N, n), float32: bf16 has too few digits for coordinates
        if self.modulation_activation == "leaky_relu":
            modulation = _leaky_relu(modulation)
        x = _modulate(x, modulation)  # (B, N, n)
        return _activate(linear(x))  # (B, N, n)


def normalize_rms(x: Tensor) -> Tensor:
    """Divides every vector (last dimension) by its root mean square, in float32 whatever the dtype of `x`."""
    return (x.float() * torch.rsqrt(x.float().square().mean(dim=-1, keepdim=True) + 1e-8)).to(x.dtype)


def _leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, NEGATIVE_SLOPE, inplace=not torch.is_grad_enabled())


def _activate(x: Tensor) -> Tensor:
    """End of every level: leaky ReLU, then the clamp. In place where no graph is kept."""
    x = _leaky_relu(x)
    return (
        x.clamp(-FEATURE_LIMIT, FEATURE_LIMIT) if torch.is_grad_enabled() else x.clamp_(-FEATURE_LIMIT, FEATURE_LIMIT)
    )


def _modulate(x: Tensor, modulation: Tensor) -> Tensor:
    """x * modulation in the dtype of x, modulation float32. In place where no graph is kept."""
    if x.dtype == torch.float16:  # far beyond the border the product passes 65,504, and infinity makes NaN
        limit = torch.finfo(torch.float16).max
        return (x.float() * modulation).clamp(-limit, limit).to(x.dtype)
    return x * modulation.to(x.dtype) if torch.is_grad_enabled() else modulation.to(x.dtype).mul_(x)


def full_precision(device: torch.device) -> AbstractContextManager:
    """Context in which autocast leaves products in their own dtype: coordinates and pixels need float32."""
    if device.type == "meta":  # which has no autocast; asking torch what has one is more than torch 2.11 compiles
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _layer_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype that linear layers of a model of `dtype` give, here and now."""
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return dtype


@dataclass
class PolyINRGeneratorOutput(BaseOutput):
    """`sample`: images (B, 3, H, W), nominally in [-1, 1], not clipped."""

    sample: Tensor


# --- model ------------------------------------------------------------------------------------------------------------


class PolyINRGenerator(ModelMixin, ConfigMixin):
    """Poly-INR generator.

    Args:
        z_dim (`int`, defaults to 64): Width of the latent z.
        w_dim (`int`, defaults to 512): Width of the intermediate latent w.
        channels (`int`, defaults to 1024): Feature channels n of the synthesis network, the same at every level.
        num_levels (`int`, defaults to 10): Levels L; each raises the order of the polynomial by one.
        num_classes (`int` or `None`, defaults to 1000): Classes; `None` for an unconditional model.
        class_embed_dim (`int`, defaults to 320): Width of a class embedding row.
        num_mapping_layers (`int`, defaults to 2): Layers of the mapping network.
        sample_size (`int`, defaults to 256): Height and width in pixels when none are asked for.
        modulation_activation (`"leaky_relu"` or `"none"`): `"leaky_relu"` as the authors' released weights expect,
            `"none"` for equation (3), but for the clamp of features to +-256, which both keep.
        compose_coordinates (`bool`, defaults to `True`): Level l transforms the coordinates of level l - 1 (the
            released weights), or, `False`, the pixel grid itself (equation 3).
        initialization (`"signal_preserving"` or `"released"`): How new weights are drawn, see `initialize_weights`.
        grid_size (`int` or `None`, defaults to `None`): Height and width of the pixel grid that was trained with the
            network, in the authors' checkpoints; `None` for a uniform one. `grid_displacement` (2, grid_size,
            grid_size) then has how far each pixel is from its place, in pixels, see `displace`.

    Raises:
        ValueError: for a size that is no whole number from 1, or is absurdly large, or an option outside the values
            above.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["MappingNetwork", "AffineLevel"]
    _repeated_blocks = ["PixelLevel"]
    # Group offloading loads what belongs to no group in `forward` only, and `map`, `affine` and `render` are not it.
    _supports_group_offloading = False
    _auto_class = "AutoModel"  # diffusers writes it into config.json, for `AutoModel.from_pretrained`

    config: Any  # diffusers' FrozenDict, whose entries are attributes as well
    w_mean: Tensor
    grid_displacement: Any  # a Tensor, or None without `config.grid_size`
    _gradient_checkpointing_func: Any  # a function once checkpointing is on

    @register_to_config
    def __init__(
        self,
        z_dim: int = 64,
        w_dim: int = 512,
        channels: int = 1024,
        num_levels: int = 10,
        num_classes: int | None = 1000,
        class_embed_dim: int = 320,
        num_mapping_layers: int = 2,
        sample_size: int = 256,
        modulation_activation: str = "leaky_relu",
        compose_coordinates: bool = True,
        initialization: str = "signal_preserving",
        grid_size: int | None = None,
    ):
        super().__init__()
        check_config(self.config)
        self.mapping = MappingNetwork(z_dim, w_dim, num_classes, class_embed_dim, num_mapping_layers)
        self.affine_levels = nn.ModuleList(
            AffineLevel(w_dim, channels, is_first=level == 0, compose_coordinates=compose_coordinates)
            for level in range(num_levels)
        )
        self.synthesis_levels = nn.ModuleList(
            FoldingLinear(channels) if level == 0 else PixelLinear(channels, channels) for level in range(num_levels)
        )
        self.pixel_level = PixelLevel(modulation_activation)
        self.to_rgb = PixelLinear(channels, 3)
        # Running mean of w, a row per class, that truncation pulls towards. Updated in training only.
        self.register_buffer("w_mean", torch.zeros(num_classes or 1, w_dim))
        # In pixels, as half precision has too few digits for the coordinates themselves.
        self.register_buffer("grid_displacement", torch.zeros(2, grid_size, grid_size) if grid_size else None)
        self.gradient_checkpointing = False
        self.initialize_weights()

    # -- The three stages ---------------------------------------------------------------------------------------------
    def map(
        self,
        z: Tensor,
        class_labels: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """Latent z (B, z_dim) and class labels (B,) int64 -> w (B, L, w_dim), every level equal.

        Truncation pulls w towards the running mean of its class: `w_mean + truncation_psi * (w - w_mean)`, on levels
        below `truncation_cutoff` only where one is given.

        Raises:
            ValueError: for a wrong shape of `z`, labels missing from a conditional model or given to an unconditional
                one, a psi that is no finite number, a cutoff outside 0..L.
        """
        truncation_psi, truncation_cutoff = self._check_map_inputs(z, class_labels, truncation_psi, truncation_cutoff)
        w = self.mapping(z.to(self.dtype), class_labels)  # (B, w_dim)
        w = w.unsqueeze(1).repeat(1, self.config.num_levels, 1)  # (B, L, w_dim)
        if truncation_psi == 1.0:
            return w
        w_mean = self.w_mean  # on another device than w where hooks move weights about: it is no layer's
        w_mean = w_mean if class_labels is None else w_mean[class_labels.to(w_mean.device)]  # (1 or B, w_dim)
        truncated = torch.lerp(w_mean.unsqueeze(1).to(w), w, truncation_psi)  # (B, L, w_dim)
        if truncation_cutoff is None:
            return truncated
        return torch.cat([truncated[:, :truncation_cutoff], w[:, truncation_cutoff:]], dim=1)

    def affine(self, w: Tensor) -> Tensor:
        """w (B, L, w_dim) -> affine parameters A (B, L, n, 3), float32: modulation_l = A_l [u, v, 1]^T.

        The composed coordinates of the released model, grid_l = grid_(l-1) @ rotation_l + shift_l, are affine in the
        pixel coordinates, so they fold into A exactly, once per image.

        Raises:
            ValueError: for a wrong shape of `w`.
        """
        self.check_w(w)
        w = w.to(self.dtype)
        with full_precision(w.device):
            to_grid = torch.eye(3, 2, device=w.device).expand(w.shape[0], 3, 2)  # grid_l = [u, v, 1] @ to_grid
            folded = []
            for level, affine in enumerate(self.affine_levels):
                coefficient, bias, rotation, shift = affine(w[:, level])
                if rotation is not None:
                    to_grid = to_grid @ rotation  # (B, 3, 2)
                    to_grid = torch.cat([to_grid[:, :2], to_grid[:, 2:] + shift], dim=1)  # (B, 3, 2)
                A = to_grid @ coefficient  # (B, 3, n)
                A = torch.cat([A[:, :2], A[:, 2:] + bias.unsqueeze(1)], dim=1)  # (B, 3, n)
                folded.append(A.transpose(1, 2))  # (B, n, 3)
        return torch.stack(folded, dim=1)  # (B, L, n, 3)

    def synthesize(self, A: Tensor, coordinates: Tensor) -> Tensor:
        """Colors (B, N, 3) of affine parameters A (B, L, n, 3) at coordinates (N, 2) or (B, N, 2), equation (3).

        Differentiable in both. Colors are nominally in [-1, 1], not clipped. Coordinates are (row, column), [0, 1]
        inside the image, and may lie anywhere.

        Raises:
            ValueError: for a wrong shape of `A` or `coordinates`.
        """
        self.check_affine_parameters(A)
        if coordinates.ndim not in (2, 3) or coordinates.shape[-1] != 2:
            raise ValueError(f"`coordinates` must be (N, 2) or (B, N, 2), got {tuple(coordinates.shape)}.")
        colors = self._colors(self._fold_level_0(A), A, homogeneous(coordinates))  # (B, N, 3)
        return colors.to(_layer_dtype(self.dtype, A.device))

    def features(self, A: Tensor, coordinates: Tensor) -> Iterator[Tensor]:
        """Yields the features x (B, N, n) after each level, 0 to L - 1, of `synthesize` with the same arguments."""
        yield from self._features(self._fold_level_0(A), A, homogeneous(coordinates))

    def _colors(self, level_0: Tensor, A: Tensor, X: Tensor) -> Tensor:
        """`synthesize` with level 0 folded by `_fold_level_0`, at homogeneous coordinates X (N or B, N, 3)."""
        x = X
        for x in self._features(level_0, A, X):  # noqa: B007
            pass  # (B, N, n); only the last is kept, a level is freed when the next is there
        return self.to_rgb(x)  # (B, N, 3)

    def _features(self, level_0: Tensor, A: Tensor, X: Tensor) -> Iterator[Tensor]:
        """`features` with level 0 folded by `_fold_level_0`, at homogeneous coordinates X (N or B, N, 3)."""
        dtype = product_dtype(_layer_dtype(self.dtype, X.device), X.device)
        with full_precision(X.device):
            x = X @ level_0.transpose(1, 2)  # (B, N, n)
        x = _activate(x).to(dtype)
        yield x
        for level in range(1, self.config.num_levels):
            linear = self.synthesis_levels[level].__call__
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(self.pixel_level, linear, x, A[:, level], X)
            else:
                x = self.pixel_level(linear, x, A[:, level], X)  # (B, N, n)
            yield x

    def _fold_level_0(self, A: Tensor) -> Tensor:
        """Level 0 of affine parameters A (B, L, n, 3), see `FoldingLinear`: (B, n, 3)."""
        return self.synthesis_levels[0](A[:, 0])

    def forward(
        self,
        z: Tensor,
        class_labels: Tensor | None = None,
        height: int | None = None,
        width: int | None = None,
        extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        return_dict: bool = True,
        pixel_grid: str = "native",
    ) -> PolyINRGeneratorOutput | tuple[Tensor]:
        """Latent z (B, z_dim) and class labels (B,) -> images (B, 3, H, W), differentiable, all pixels at once.

        Arguments as in `map` and `render`. For images without gradients, `render` needs far less memory.
        """
        height, width = self.size_or_default(height, width)
        coordinates = pixel_coordinates(height, width, extent, device=z.device)  # (H * W, 2)
        coordinates = self.displace(coordinates, height, width, extent, pixel_grid)
        A = self.affine(self.map(z, class_labels, truncation_psi, truncation_cutoff))  # (B, L, n, 3)
        rgb = self.synthesize(A, coordinates)  # (B, H * W, 3)
        sample = rgb.transpose(1, 2).unflatten(2, (height, width))  # (B, 3, H, W)
        return PolyINRGeneratorOutput(sample=sample) if return_dict else (sample,)

    def compile(self, *args, **kwargs) -> None:
        """As [`torch.nn.Module.compile`], and what `synthesize` and `render` do at every pixel."""
        super().compile(*args, **kwargs)
        self.compile_repeated_blocks(*args, **kwargs)

    # -- Initialization -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Draws the weights of the affine and synthesis levels as `config.initialization` says.

        "released" is torch's default for every linear layer: the multiplications then shrink features and coordinates
        level by level until images are flat. "signal_preserving" lets every level see coordinates centered in [-1, 1],
        starts the modulation near 1, and scales W_l so that the features' mean square over the image is 1 after every
        level.
        """
        if self.config.initialization == "released":
            return
        rows, columns = coordinate_axes(32, 32, (-1, -1, 1, 1))
        squared_radius = rows[:, None] ** 2 + columns**2  # (32, 32)
        power = torch.ones_like(squared_radius)  # mean square of the features at each pixel
        for level, (affine, linear) in enumerate(zip(self.affine_levels, self.synthesis_levels, strict=True)):
            assert isinstance(affine, AffineLevel) and isinstance(linear, (FoldingLinear, PixelLinear))
            coefficient_std = COEFFICIENT_STD_0 if level == 0 else COEFFICIENT_STD
            self._initialize_affine(affine, level, coefficient_std)
            rectified = level > 0 and self.config.modulation_activation == "leaky_relu"
            variance = STYLE_STD**2 + coefficient_std**2 * squared_radius  # of the modulation, about 1
            power = power * _second_moment(variance, NEGATIVE_SLOPE if rectified else 1.0)  # (32, 32)
            # He: E[lrelu(y)^2] = (1 + slope^2) / 2 Var(y).
            weight_variance = 2 / (1 + NEGATIVE_SLOPE**2) / (linear.weight.shape[1] * power.mean())
            linear.weight.normal_(0, weight_variance.sqrt().item())
            linear.bias.zero_()
            power = power / power.mean()
        self.to_rgb.weight.normal_(0, RGB_STD / math.sqrt(self.to_rgb.in_features))
        self.to_rgb.bias.zero_()

    def _initialize_affine(self, affine: AffineLevel, level: int, coefficient_std: float) -> None:
        """One level's modulation at the start: 1 + N(0, STYLE_STD) + N(0, coefficient_std) per unit of coordinate."""
        fan_in = affine.coefficient.in_features
        affine.coefficient.weight.normal_(0, coefficient_std / math.sqrt(fan_in))
        affine.coefficient.bias.zero_()
        affine.bias.weight.normal_(0, STYLE_STD / math.sqrt(fan_in))
        affine.bias.bias.fill_(1.0)
        if affine.rotation is None or affine.shift is None:  # the pixel grid itself: c (2u - 1) = 2c u - c
            affine.bias.weight.sub_(affine.coefficient.weight.unflatten(0, (2, -1)).sum(dim=0))
            affine.coefficient.weight.mul_(2)
            return
        affine.rotation.weight.zero_()
        affine.rotation.bias.copy_(torch.eye(2).flatten() * (2 if level == 0 else 1))
        affine.shift.weight.zero_()
        affine.shift.bias.fill_(-1.0 if level == 0 else 0.0)

    # -- Images -------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def render(
        self,
        A: Tensor,
        height: int | None = None,
        width: int | None = None,
        extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        antialias: int = 1,
        chunk_size: int | None = None,
        callback: Callable[[int, int], None] | None = None,
        tolerance: float = 0.0,
        pixel_grid: str = "native",
    ) -> Tensor:
        """Images (B, 3, H, W) of affine parameters A (B, L, n, 3), without a graph, in bounded memory.

        Pixels are walked in chunks, so beyond the output memory does not depend on the size of the image. With a
        `tolerance` the network runs only where the image has detail, and the rest is interpolated: several times
        faster, the more the larger the image (docs/rendering.md). Memory is then a few times the output's.

        Args:
            height, width: Size in pixels, `config.sample_size` by default. A lone row or column is sampled in the
                middle of the extent.
            extent: (top, left, bottom, right) of the first and last pixel centers; (0, 0, 1, 1) is the image itself.
            antialias: k averages k x k colors spread evenly over each pixel's square.
            chunk_size: Pixels (of the whole batch) evaluated at once. By default as many as keep features in a CPU's
                cache, or fill a GPU.
            callback: Called with (pixels done, pixels in all) after every chunk; with a `tolerance`, after every
                lattice of every image, with the pixels that are run or interpolated for good.
            tolerance: How far an interpolated color may be off, of a range of 2, where its neighbors give a hint of
                it: 0.2 comes to about 47 dB PSNR and one pixel in ten at 256 x 256, 0.1 to 51 dB. 0 runs every pixel.
                The network is first run on a lattice of pixels as far apart as those of `config.sample_size`, or every
                4th pixel where that is more: a detail that lies wholly between them, such as a dot smaller than a
                pixel of `sample_size`, may be missed.
            pixel_grid: What a grid that was trained with the network is used for, see `displace`.

        Raises:
            ValueError: for a wrong shape of `A` or a size, extent, `antialias`, `chunk_size`, `tolerance` or
                `pixel_grid` out of range, and if `A` or the weights hold NaN or infinity, or the weights were never
                loaded.
        """
        self.check_affine_parameters(A)
        height, width = self.size_or_default(height, width)
        extent = check_extent(extent)
        antialias, chunk_size, tolerance = self._check_rendering(antialias, chunk_size, tolerance)
        displace = self._displacement(height, width, extent, pixel_grid)
        arguments = (A, height, width, extent, antialias, chunk_size, callback, displace)
        with self._upcast_weights(A.device):
            image = (
                self._render_adaptively(*arguments, tolerance) if tolerance > 0 else self._render_exactly(*arguments)
            )
        self._check_finite(image, A)
        return image

    def _render_exactly(
        self, A: Tensor, height: int, width: int, extent, antialias, chunk_size, callback, displace
    ) -> Tensor:
        """`render` of every pixel, chunk by chunk."""
        chunk_size = max(1, (chunk_size or self.default_chunk_size(A.device)) // A.shape[0])  # of each image
        rows, columns = (axis.to(A.device) for axis in coordinate_axes(height, width, extent))
        offsets = _subpixel_offsets(antialias, height, width, extent).to(A.device)  # (k * k, 2)

        level_0 = self._fold_level_0(A)
        image = self._empty_image(A, height, width).flatten(2)  # (B, 3, H * W)
        for start in range(0, height * width, chunk_size):
            index = torch.arange(start, min(start + chunk_size, height * width), device=A.device)
            centers = torch.stack([rows[index // width], columns[index % width]], dim=1)  # (N, 2)
            total: Any = 0
            for offset in offsets:
                total = total + self._drawn(level_0, A, homogeneous(displace(centers + offset)))  # (B, N, 3)
            image[:, :, start : start + len(index)] = (total / len(offsets)).transpose(1, 2)
            if callback is not None:
                callback(start + len(index), height * width)
        return image.unflatten(2, (height, width))  # (B, 3, H, W)

    def _render_adaptively(
        self, A: Tensor, height: int, width: int, extent, antialias, chunk_size, callback, displace, tolerance
    ) -> Tensor:
        """`render` with a tolerance above 0, some images at a time."""
        rows, columns = (axis.to(A.device) for axis in coordinate_axes(height, width, extent))
        offsets = _subpixel_offsets(antialias, height, width, extent).to(A.device).unflatten(0, (antialias, -1))
        rows, columns = rows[:, None] + offsets[:, 0, 0], columns[:, None] + offsets[0, :, 1]  # (H, k), (W, k)
        pitch = first_pitch(height * antialias, width * antialias, extent, self.config.sample_size)
        chunk_size = chunk_size or self.default_chunk_size(A.device)
        image, done = self._empty_image(A, height, width), 0
        for part in A.split(self._images_at_once(height * width * antialias**2, A.device)):

            def report(pixels: int, before: int = done * height * width, images: int = len(part)) -> None:
                if callback is not None:
                    callback(before + images * pixels, len(A) * height * width)

            colors = self.as_function(part, displace)
            drawn = draw(colors, rows, columns, pitch, tolerance, chunk_size, len(part), report)
            image[done : done + len(part)] = drawn
            done += len(part)
        return image

    def render_progressive(
        self,
        A: Tensor,
        height: int | None = None,
        width: int | None = None,
        extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        tolerance: float = 0.0,
        chunk_size: int | None = None,
        pixel_grid: str = "native",
    ) -> Iterator[Tensor]:
        """Yields images (B, 3, H, W) that grow sharper: a coarse lattice, enlarged, then one of half the pitch, and so
        on.

        The first takes a small part of the time; the last is what `render` returns for the same arguments. They are
        checked before the iterator is returned.

        Example:
            >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
            >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
            >>> A = pipe.encode("red apple", generator=torch.Generator().manual_seed(0))
            >>> previews = list(pipe.generator.render_progressive(A, 64, 64, tolerance=0.1))
            >>> previews[0].shape == previews[-1].shape == (1, 3, 64, 64)
            True
        """
        self.check_affine_parameters(A)
        height, width = self.size_or_default(height, width)
        extent = check_extent(extent)
        _, chunk_size, tolerance = self._check_rendering(1, chunk_size, tolerance)
        displace = self._displacement(height, width, extent, pixel_grid)
        return self._previews(A, height, width, extent, tolerance, chunk_size, displace)

    @torch.no_grad()
    def _previews(self, A: Tensor, height: int, width: int, extent, tolerance, chunk_size, displace):
        rows, columns = (axis.to(A.device) for axis in coordinate_axes(height, width, extent))
        pitch = first_pitch(height, width, extent, self.config.sample_size)
        chunk_size = chunk_size or self.default_chunk_size(A.device)
        parts = [
            refine(self.as_function(part, displace), rows, columns, pitch, tolerance, chunk_size, len(part))
            for part in A.split(self._images_at_once(height * width, A.device))
        ]
        while True:
            with self._upcast_weights(A.device):  # not while the caller has its preview
                lattices = [lattice for part in parts for lattice in itertools.islice(part, 1)]
            if not lattices:
                return
            yield torch.cat([lattice.enlarge(height, width) for lattice in lattices]).to(self.dtype)

    def as_function(
        self, A: Tensor, displace: Callable[[Tensor], Tensor] = lambda coordinates: coordinates
    ) -> Callable[..., Tensor]:
        """Images A (B, L, n, 3) as a function: coordinates (N, 2) and the image (N,) of each, by default the first,
        -> colors (N, 3), displaced first.

        All points share every product: the images' A stand side by side, (L, n, 3 B), and X is zero in all columns but
        those of its own image.
        """
        numbers = torch.arange(len(A), device=A.device)
        level_0 = torch.cat([self._fold_level_0(a) for a in A.split(1)], dim=2)  # (1, n, 3 B), each to its own bits
        A = A.permute(1, 2, 0, 3).flatten(2)[None]  # (1, L, n, 3 B)

        def colors(coordinates: Tensor, images: Tensor | None = None) -> Tensor:
            X = homogeneous(displace(coordinates))  # (N, 3)
            if len(numbers) > 1:
                own = (numbers == 0 if images is None else images[:, None] == numbers).expand(len(X), -1)  # (N, B)
                X = (own[..., None] * X[:, None]).flatten(1)  # (N, 3 B)
            return self._drawn(level_0, A, X)[0]

        return colors

    def _drawn(self, level_0: Tensor, A: Tensor, X: Tensor) -> Tensor:
        """`_colors` that are there: of weights without values there are none, and copying them copies nothing."""
        colors = self._colors(level_0, A, X)
        if colors.is_meta and not A.is_meta:
            raise ValueError("The weights are on the meta device: they were never loaded.")
        return colors

    @contextmanager
    def _upcast_weights(self, device: torch.device) -> Iterator[None]:
        """Has every level's weights in float32, if products need them so: once, not for each chunk of pixels."""
        dtype = _layer_dtype(self.dtype, device)
        layers = [layer for layer in [*self.synthesis_levels, self.to_rgb] if isinstance(layer, PixelLinear)]
        if product_dtype(dtype, device) == dtype:
            layers = []
        for layer in layers:
            if not layer.weight.is_meta:  # where hooks bring weights when they are needed
                layer.upcast = layer.weight.float(), layer.bias.float()
        try:
            yield
        finally:
            for layer in layers:
                layer.upcast = None

    def _check_finite(self, image: Tensor, A: Tensor) -> None:
        # The sum is finite only where every pixel is, and takes no memory of the image's size.
        if image.is_meta or torch.isfinite(image.sum(dtype=torch.float32)):
            return
        if not torch.isfinite(A).all():
            raise ValueError("`affine_parameters` must be finite, got NaN or infinity.")
        broken = nonfinite_tensors(self)
        raise ValueError(f"The image holds NaN or infinity; weights that do: {', '.join(broken[:8]) or 'none'}.")

    def default_chunk_size(self, device: torch.device) -> int:
        """Points whose features of one level stay in a CPU's cache, or fill a GPU.

        That is 4 MB of float32 (1,024 points at n = 1024), and 128 MB, which was not tuned: one pass over it takes a
        GPU of 3 TB/s some 80 microseconds, ten times what a launch costs, and a few such fit in 4 GB.
        """
        return max(1, (2**20 if device.type == "cpu" else 2**25) // self.config.channels)

    def _images_at_once(self, points: int, device: torch.device) -> int:
        """Images of so many points that are drawn adaptively together, as their lattices are all in memory."""
        limit = LATTICE_POINTS["cpu" if device.type == "cpu" else "gpu"]
        return min(MAX_IMAGES, max(1, limit // points))

    def _empty_image(self, A: Tensor, height: int, width: int) -> Tensor:
        """Memory for images (B, 3, H, W) of `A`; ValueError where there is not enough."""
        try:
            return torch.empty(A.shape[0], 3, height, width, dtype=self.dtype, device=A.device)
        except RuntimeError as error:  # and CUDA's own kind of it
            size = f"{3 * height * width * A.shape[0] * self.dtype.itemsize / 1e9:,.0f} GB"
            raise ValueError(
                f"`height` x `width` of {height} x {width} needs {size} for {A.shape[0]} images, which {A.device} "
                "does not have: draw parts with `extent`."
            ) from error

    # -- A pixel grid that was trained --------------------------------------------------------------------------------
    def displace(
        self,
        coordinates: Tensor,
        height: int,
        width: int,
        extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        pixel_grid: str = "native",
    ) -> Tensor:
        """Coordinates (N, 2) in an image of that size and extent -> where a trained grid moves them, (N, 2).

        The authors' loop trains the grid of pixels as it trains weights, and draws on it at the size that it was
        trained at; at any other size, or of another extent, their grid is uniform, as it is for a model without
        `config.grid_size`. `synthesize` takes coordinates as they are.

        Args:
            pixel_grid: `"native"` as the authors have it; `"interpolated"` moves pixels of any size and extent, beyond
                the border as at the border; `"uniform"` moves none.

        Raises:
            ValueError: for another `pixel_grid`.
        """
        return self._displacement(height, width, check_extent(extent), pixel_grid)(coordinates)

    def _displacement(self, height: int, width: int, extent, pixel_grid: str) -> Callable[[Tensor], Tensor]:
        """`displace` for one size and extent."""
        if pixel_grid not in PIXEL_GRIDS:
            raise ValueError(f"`pixel_grid` must be one of {PIXEL_GRIDS}, got {pixel_grid!r}.")
        size = self.config.grid_size
        is_native = (height, width, *extent) == (size, size, 0, 0, 1, 1)
        if size is None or pixel_grid == "uniform" or (pixel_grid == "native" and not is_native):
            return lambda coordinates: coordinates

        def displace(coordinates: Tensor) -> Tensor:
            displacement = self.grid_displacement.to(coordinates.device, torch.float32)  # (2, H, W), pixels
            points = 2 * coordinates.float().flip(-1) - 1  # (N, 2), as grid_sample has them: (x, y) in [-1, 1]
            moved = F.grid_sample(displacement[None], points[None, None], padding_mode="border", align_corners=True)
            return coordinates + moved[0, :, 0].T / max(size - 1, 1)  # (N, 2)

        return displace

    def drop_trained_grid(self) -> bool:
        """Makes the pixel grid uniform for good, at every size; returns whether it was another.

        For what has no use for a trained one, such as training on.
        """
        had_one = self.config.grid_size is not None
        self.grid_displacement = None
        self.register_to_config(grid_size=None)
        return had_one

    # -- Loading ------------------------------------------------------------------------------------------------------
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "PolyINRGenerator":
        """Opens a model's folder or Hub repository, with the arguments of [`~diffusers.ModelMixin`]'s.

        Raises:
            OSError: as there, and for a malformed configuration or index of weight files, weights that leave out a
                tensor, NaN or infinite ones; the message names them.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        check_shard_indices(folder)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, output_loading_info=True, **kwargs)
        model, info = loaded
        if "disk" in getattr(model, "hf_device_map", {}).values():
            cls._load_buffers_from_disk(model)
        check_weights(model, info["missing_keys"], folder)
        return loaded if wants_info else model

    @staticmethod
    @torch.no_grad()
    def _load_buffers_from_disk(model: nn.Module) -> None:
        """Buffers that a device_map leaves on disk: diffusers keeps them as the model was made with, which is zero."""
        hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
        maps = (getattr(hook, "weights_map", None) for hook in hooks)
        weights = next((prefixed.dataset for prefixed in maps if prefixed is not None), None)  # one for all modules
        if weights is None:
            raise ValueError("`device_map` must leave nothing on disk: the weights there cannot be found.")
        for name in {name for name, _ in model.named_buffers()} & set(weights):
            model.get_buffer(name).copy_(weights[name])

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> Any:
        """The configuration of a model, config.json, of a folder or Hub repository."""
        loaded = super().load_config(pretrained_model_name_or_path, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config.pop("auto_map", None)  # which diffusers writes, and warns of
        try:
            check_config(config)
        except ValueError as error:
            path = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "", cls.config_name)
            raise OSError(f"{path}: {error}") from error
        return loaded

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike, *args, **kwargs) -> dict:
        try:
            return check_json_object(super()._dict_from_json_file(json_file, *args, **kwargs), json_file)
        except RecursionError as error:
            raise OSError(f"{json_file} is nested too deep to be read.") from error

    def to(self, *args, **kwargs) -> "PolyINRGenerator":  # pyright: ignore[reportIncompatibleVariableOverride]
        """As [`torch.nn.Module.to`]."""

        def says_something(record: logging.LogRecord) -> bool:
            return "[]" not in record.getMessage()

        logger = logging.getLogger(ModelMixin.__module__)  # warns of "modules that should be kept in float32: []"
        logger.addFilter(says_something)
        try:
            return super().to(*args, **kwargs)
        finally:
            logger.removeFilter(says_something)

    # -- Checks -------------------------------------------------------------------------------------------------------
    def size_or_default(self, height: int | None, width: int | None) -> tuple[int, int]:
        """Height and width as ints, `config.sample_size` for what is None; ValueError unless both are positive."""
        default = self.config.sample_size
        return check_size(default if height is None else height, default if width is None else width)

    @staticmethod
    def _check_rendering(antialias: int, chunk_size: int | None, tolerance: float) -> tuple[int, int | None, float]:
        """All three as Python's numbers."""
        chunk_size = None if chunk_size is None else check_count("chunk_size", chunk_size)
        return check_count("antialias", antialias), chunk_size, check_number("tolerance", tolerance)

    def _check_map_inputs(
        self, z: Tensor, class_labels: Tensor | None, truncation_psi: float, truncation_cutoff: int | None
    ) -> tuple[float, int | None]:
        if z.ndim != 2 or z.shape[1] != self.config.z_dim:
            raise ValueError(f"`z` must have shape (B, {self.config.z_dim}), got {tuple(z.shape)}.")
        if self.config.num_classes is None and class_labels is not None:
            raise ValueError("`class_labels` must be None: this model is unconditional.")
        if self.config.num_classes is not None:
            if class_labels is None:
                raise ValueError(f"`class_labels` is required: this model has {self.config.num_classes} classes.")
            if class_labels.shape != z.shape[:1]:
                raise ValueError(f"`class_labels` must have shape ({len(z)},), got {tuple(class_labels.shape)}.")
        return self.check_truncation(truncation_psi, truncation_cutoff)

    def check_truncation(self, truncation_psi: float, truncation_cutoff: int | None) -> tuple[float, int | None]:
        """Both as Python's numbers; ValueError for a psi that is no finite number or a cutoff outside 0..L."""
        psi, cutoff = finite_number(truncation_psi), whole_number(truncation_cutoff)
        if psi is None:
            raise ValueError(f"`truncation_psi` must be a finite number, got {truncation_psi!r}.")
        if truncation_cutoff is not None and cutoff not in range(self.config.num_levels + 1):
            raise ValueError(f"`truncation_cutoff` must be in 0..{self.config.num_levels}, got {truncation_cutoff!r}.")
        return psi, cutoff

    def check_w(self, w: Tensor) -> None:
        """Raises ValueError unless `w` has the shape (B, L, w_dim) of this model."""
        expected = (self.config.num_levels, self.config.w_dim)
        if w.ndim != 3 or tuple(w.shape[1:]) != expected:
            raise ValueError(f"`w` must have shape (B, {expected[0]}, {expected[1]}), got {tuple(w.shape)}.")

    def check_affine_parameters(self, A: Tensor) -> None:
        """Raises ValueError unless `A` has the shape (B, L, n, 3) of this model."""
        expected = (self.config.num_levels, self.config.channels, 3)
        if A.ndim != 4 or tuple(A.shape[1:]) != expected:
            raise ValueError(
                f"`affine_parameters` must have shape (B, {', '.join(map(str, expected))}), got {tuple(A.shape)}."
            )


# --- named sizes (Tables 1 and 2) -------------------------------------------------------------------------------------


NAMED_SIZES = {
    # name        learnable parameters; published, counting a coordinate grid and, for FFHQ, an unused embedding
    "imagenet": {"channels": 1024, "num_classes": 1000},  # 45,869,695; 46.0M
    "ffhq": {"channels": 512, "num_classes": None},  # 13,198,399; 13.6M
}


# --- coordinates ------------------------------------------------------------------------------------------------------


def homogeneous(coordinates: Tensor) -> Tensor:
    """X = [u, v, 1]: coordinates (..., N, 2) -> (..., N, 3), float32."""
    return F.pad(coordinates.float(), (0, 1), value=1.0)


def coordinate_axes(height: int, width: int, extent=(0.0, 0.0, 1.0, 1.0)) -> tuple[Tensor, Tensor]:
    """Row coordinates (H,) and column coordinates (W,) of an image's pixels, float32, ends included (equation 2).

    A lone row (or column) has no i / (H - 1); it lies in the middle of the extent.
    """
    height, width = check_size(height, width)
    top, left, bottom, right = check_extent(extent)

    def axis(start: float, end: float, count: int) -> Tensor:
        if count == 1:
            return torch.tensor([(start + end) / 2], dtype=torch.float32, device="cpu")
        steps = torch.arange(count, dtype=torch.float64, device="cpu")  # torch.compile makes a graph a size of linspace
        return (start + steps * ((end - start) / (count - 1))).float()

    return axis(top, bottom, height), axis(left, right, width)


def pixel_coordinates(height: int, width: int, extent=(0.0, 0.0, 1.0, 1.0), device=None) -> Tensor:
    """Coordinates (H * W, 2) as (row, column), row by row, float32. See `coordinate_axes`."""
    rows, columns = coordinate_axes(height, width, extent)
    return torch.cartesian_prod(rows, columns).to(device)  # (H * W, 2)


def _subpixel_offsets(antialias: int, height: int, width: int, extent) -> Tensor:
    """Offsets (k * k, 2) from a pixel's center to k x k points spread evenly over its square."""
    steps = (torch.arange(antialias, dtype=torch.float32) + 0.5) / antialias - 0.5  # (k,)
    top, left, bottom, right = extent
    return torch.cartesian_prod(
        steps * (bottom - top) / max(height - 1, 1), steps * (right - left) / max(width - 1, 1)
    )  # (k * k, 2)


# --- the mean square of a rectified modulation ------------------------------------------------------------------------


def _second_moment(variance: Tensor, slope: float) -> Tensor:
    """E[lrelu(m)^2] for m ~ N(1, variance); `slope` 1 is the identity."""
    std = variance.sqrt()
    below = torch.special.ndtr(-1 / std)  # P(m < 0)
    density = torch.exp(-0.5 / variance) / (math.sqrt(2 * math.pi) * std)  # of m at 0
    return (1 + variance) - (1 - slope**2) * ((1 + variance) * below - variance * density)
