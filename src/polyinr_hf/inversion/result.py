"""What an inversion finds, and its file."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ..files import replace_file


@dataclass
class InversionResult:
    """What [`~polyinr_hf.inversion.invert`] and [`~polyinr_hf.inversion.tune`] find.

    Args:
        affine_parameters: A (1, L, n, 3), float32, on the CPU.
        image: What they draw, as large as the original.
        psnr: Peak signal-to-noise ratio in dB against the original, over its known pixels.
        ssim: Structural similarity, a mean over the known pixels; NaN for an image under 11 pixels high or wide.
        losses: The loss at every step.
        seconds: Time spent, including that before an interruption.
        settings: All settings it was made with.
        latent: The latent found in `space` "w", (1, L, w_dim), or "z", (1, z_dim).
    """

    affine_parameters: Tensor
    image: Image.Image
    psnr: float
    ssim: float
    losses: list[float]
    seconds: float
    settings: dict = field(default_factory=dict)
    latent: Tensor | None = None

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, read back by [`load_affine_parameters`]; settings and figures are its metadata."""
        tensors = {"affine_parameters": self.affine_parameters.contiguous(), "losses": torch.tensor(self.losses)}
        if self.latent is not None:
            tensors["latent"] = self.latent.contiguous()
        figures = {"psnr": self.psnr, "ssim": self.ssim, "seconds": self.seconds}
        metadata = {"settings": json.dumps(self.settings), **{name: repr(value) for name, value in figures.items()}}
        with replace_file(path) as partial:
            save_file(tensors, partial, metadata)


def load_affine_parameters(path: str | Path) -> Tensor:
    """Reads A (1, L, n, 3), float32, from a file that [`InversionResult.save`] wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no safetensors file, or holds no affine parameters.
    """
    A = next(iter(_read_tensors(path, "affine_parameters")), None)
    if A is None or A.ndim != 4 or A.shape[3] != 3:
        found = "none" if A is None else f"{tuple(A.shape)}"
        raise ValueError(f"`path` must hold affine parameters of shape (B, L, n, 3), got {found} in {str(path)!r}.")
    return A


def load_w(path: str | Path) -> Tensor | None:
    """Reads w (B, L, w_dim), float32, of a file that has it as `w`, or is of an inversion in w; otherwise None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no safetensors file.
    """
    return next((w for w in _read_tensors(path, "w", "latent") if w.ndim == 3), None)  # a latent z has two dimensions


def _read_tensors(path: str | Path, *names: str) -> list[Tensor]:
    """Those of the tensors that a safetensors file has, in float32."""
    if not Path(path).exists():
        raise FileNotFoundError(f"`path` must be an existing file, got {str(path)!r}.")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            held = set(file.keys())
            return [file.get_tensor(name).float() for name in names if name in held]
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"`path` must be a safetensors file, got {str(path)!r}: {error}.") from error
