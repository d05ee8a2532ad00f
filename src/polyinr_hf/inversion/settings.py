"""How an inversion or a tuning is done: frozen settings, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ..checks import check_count, check_number

CHOICES = {"precision": ("float32", "bfloat16"), "optimizer": ("adam", "muon")}
COUNTS = {"num_steps": 0, "num_refine_steps": 0, "num_starts": 1, "num_pixels": 1, "patience": 1, "coarse_side": 1}
NONE_ALLOWED = ("num_pixels", "patience", "coarse_side")


def _checked(name: str, value: Any) -> Any:
    """A setting's value, numbers of numpy and torch as Python's; ValueError for one of a wrong kind or range."""
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise ValueError(f"`{name}` must be one of {CHOICES[name]}, got {value!r}.")
        return value
    if name in COUNTS:
        return None if value is None and name in NONE_ALLOWED else check_count(name, value, minimum=COUNTS[name])
    number = check_number(name, value, positive=name == "lr")
    if name == "coarse_share" and number > 1:
        raise ValueError(f"`coarse_share` must be in 0..1, got {value!r}.")
    return number


@dataclass(frozen=True, kw_only=True)
class FittingSettings:
    """What inversion and tuning have in common.

    Args:
        num_steps: Number of Adam's (or Muon's) steps.
        lr: Highest learning rate, relative to the root mean square of what is searched for.
        perceptual_weight: Weight of the distance of features; that of the mean squared error in [-1, 1]^2 is 1.
        num_pixels: Pixels chosen at random for each of these steps; `None` for all.
        coarse_side: Longest side, in pixels, of the smallest copy of the image, on which the first steps are taken;
            each further copy is twice as large. A smaller image, or any with `None`, has no copies.
        coarse_share: Share of the steps that is spent on copies, 0 to 1, equally for each copy.
        precision: Dtype of the matrix products in these steps, `"float32"` or `"bfloat16"`. bfloat16 is faster on
            processors with AVX512-BF16 or AMX and on GPUs, and many times slower on others.

    Raises:
        ValueError: For a value of a wrong kind or outside its range.
    """

    num_steps: int
    lr: float
    perceptual_weight: float = 0.05  # not tuned
    num_pixels: int | None = 4096
    coarse_side: int | None = None
    coarse_share: float = 0.0
    precision: str = "float32"

    def __post_init__(self):
        for setting in fields(self):
            object.__setattr__(self, setting.name, _checked(setting.name, getattr(self, setting.name)))


@dataclass(frozen=True, kw_only=True)
class InversionSettings(FittingSettings):
    """How [`~polyinr_hf.inversion.invert`] searches; docs/inversion.md measures the defaults.

    Adam takes `num_steps` steps on mean squared error and features, its rate rising linearly and falling as a cosine.
    L-BFGS takes `num_refine_steps` on the squared error alone, in float32 (rounding stops its line search early), the
    first of them on small copies of the image.

    Args:
        num_refine_steps: Number of L-BFGS iterations, of which `coarse_share` is the share on copies.
        num_starts: Number of samples, besides the class means, from which the start is chosen.
        patience: Stop a phase once this many steps have lowered the mean loss by less than 0.1 %; `None` for never.
        others: As in [`FittingSettings`].
    """

    # An emoji at 64 pixels: 23.95 dB in 29 seconds of one core with the copies, without them 21.41 in 33. Rate, starts
    # and patience were not tuned.
    num_steps: int = 40
    lr: float = 0.1
    num_refine_steps: int = 300
    coarse_side: int | None = 32
    coarse_share: float = 0.9
    num_starts: int = 64
    patience: int | None = 100


@dataclass(frozen=True, kw_only=True)
class TuningSettings(FittingSettings):
    """How [`~polyinr_hf.inversion.tune`] fits the weights; `STRENGTHS` holds two choices.

    Args:
        lr: As in [`FittingSettings`], of the synthesis weights, relative to each layer's own.
        optimizer: `"adam"`, or `"muon"` for the weight matrices and Adam for all else.
        affine_lr: Learning rate of the affine parameters, relative to each level's root mean square; 0 keeps them.
        locality_weight: Weight of the squared change of other images; that of this image's squared error is 1.
        others: As in [`FittingSettings`].
    """

    num_steps: int = 200
    lr: float = 0.003
    optimizer: str = "adam"
    affine_lr: float = 0.0
    locality_weight: float = 0.1


# "close" was tuned on the photograph of a cat, 128 pixels, from a sample: 200 steps of Muon reached 28.4 dB in 51
# seconds of one core, where Adam (0.02) reached 24.9; a threefold `affine_lr` made no difference. Five photographs have
# a mean of 29.5 dB after 400 steps and of 30.7 after 520. "near" was not tuned.
STRENGTHS = {
    "near": TuningSettings(),
    "close": TuningSettings(
        num_steps=520,
        optimizer="muon",
        lr=0.03,
        affine_lr=0.05,
        locality_weight=0.0,
        num_pixels=2048,
        coarse_side=32,
        coarse_share=0.5,
    ),
}
