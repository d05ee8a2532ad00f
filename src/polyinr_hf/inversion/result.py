"""The result of an inversion, and its file."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ..files import replace_file
from ..modeling_poly_inr import PolyINRGenerator


@dataclass
class InversionResult:
    """What [`~polyinr_hf.inversion.invert`] and [`~polyinr_hf.inversion.tune`] find.

    Attributes:
        affine_parameters: A (1, L, n, 3), float32, on the CPU.
        image: what they draw, as large as the original.
        psnr: peak signal-to-noise ratio in dB against the original, over its known pixels.
        ssim: structural similarity, a mean over the known pixels; NaN for an image under 11 pixels high or wide.
        losses: the loss at every step.
        seconds: time spent, including that before an interruption.
        settings: all settings it was made with.
        latent: the latent found in `space` "w", (1, L, w_dim), or "z", (1, z_dim).
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
    """A (1, L, n, 3), float32, of a file that [`InversionResult.save`] wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no safetensors file, or holds no affine parameters.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"`path` is {str(path)!r}, which does not exist.")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            A = file.get_tensor("affine_parameters")
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"`path` {str(path)!r} holds no affine parameters: {error}.") from error
    if A.ndim != 4 or A.shape[3] != 3:
        raise ValueError(f"`path` {str(path)!r}: affine parameters have shape (B, L, n, 3), these {tuple(A.shape)}.")
    return A.float()


def load_w(path: str | Path) -> Tensor | None:
    """w (B, L, w_dim), float32, of a safetensors file that has it as `w`, or is of an inversion in w; otherwise None.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no safetensors file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"`path` is {str(path)!r}, which does not exist.")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            found = [file.get_tensor(name).float() for name in ("w", "latent") if name in file.keys()]  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"`path` {str(path)!r} is no safetensors file: {error}.") from error
    return next((w for w in found if w.ndim == 3), None)  # a latent z has two dimensions


def draw(model: PolyINRGenerator, A: Tensor, height: int, width: int) -> tuple[Tensor, Image.Image]:
    """The image of A (1, L, n, 3), as (1, 3, H, W) in [-1, 1] on the CPU, and as 8-bit RGB."""
    rendered = model.render(A, height, width).clamp(-1, 1).cpu()
    return rendered, VaeImageProcessor().postprocess(rendered, "pil")[0]
