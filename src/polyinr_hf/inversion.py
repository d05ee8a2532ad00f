"""An image -> its affine parameters, the weights staying as they are (section 4.3 of the paper, "Inversion").

    result = invert(pipe, load_photo("cat.jpg"))
    pipe(affine_parameters=result.affine_parameters, height=1024, width=1024).images[0]

`tuning.tune` goes on from there by changing the weights too.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from numbers import Real
from pathlib import Path

import numpy as np
import safetensors
import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save_file
from torch import Tensor

from .data import to_rgb
from .files import replace_file
from .inversion_losses import PRECISIONS, InversionLoss, Target, load_perceptual_network
from .inversion_search import SPACES, SearchSpace, find_start, float32_generator
from .inversion_steps import load_state, model_digest, new_state, optimize
from .modeling_poly_inr import PolyINRGenerator
from .pipeline_poly_inr import PolyINRPipeline
from .training.feature_networks import FeatureNetwork

MAX_PHOTO_PIXELS = 2**26  # 8,192 x 8,192
# What Pillow decodes by itself: no vector formats, which it would hand to another program.
PHOTO_FORMATS = ("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "TGA")


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------
def load_photo(path: str | Path, max_pixels: int = MAX_PHOTO_PIXELS) -> Image.Image:
    """Opens an image file as upright 8-bit RGB: transparency over white, 16 bits, grey, palettes and CMYK converted.

    Of several frames, the first is taken.

    Args:
        max_pixels: larger images are refused before they are decoded.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no image, damaged, of a format or mode that is not read (SVG, PDF, floating-point), or too
            large.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"`path` is {str(path)!r}, which does not exist.")
    Image.init()
    formats = [name for name in PHOTO_FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is what counts
            with Image.open(path, formats=formats) as image:
                if image.width * image.height > max_pixels:
                    raise ValueError(f"it has {image.width} x {image.height} pixels, more than {max_pixels:,}")
                return to_rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"`path` {str(path)!r} is not an image of a known format ({', '.join(formats)}).") from error
    except Exception as error:  # decoders raise anything from OSError to SyntaxError
        raise ValueError(f"`path` {str(path)!r} cannot be read as an image: {error}.") from error


@dataclass
class InversionResult:
    """What [`invert`] and [`~polyinr_hf.tuning.tune`] find.

    Attributes:
        affine_parameters: A (1, L, n, 3), float32, on the CPU.
        image: what they draw, as large as the original.
        psnr: in dB, against the original, over its known pixels.
        ssim: mean over the known pixels; NaN for an image less than 11 pixels high or wide.
        losses: at every step.
        seconds: of work, those before an interruption included.
        settings: what it was made with.
        latent: what was searched for in `space` "w", (1, L, w_dim), or "z", (1, z_dim).
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


# ---------------------------------------------------------------------------------------------------------------------
# Inversion
# ---------------------------------------------------------------------------------------------------------------------
def invert(
    pipe: PolyINRPipeline,
    image: Image.Image | Tensor,
    space: str = "affine",
    backbone: str | FeatureNetwork | None = "tf_efficientnet_lite0",
    weights: str | Path | None = None,
    class_label: int | str | None = None,
    num_steps: int = 50,
    lr: float = 0.1,
    num_refine_steps: int = 400,
    perceptual_weight: float = 0.05,
    num_pixels: int | None = 4096,
    mask: Image.Image | Tensor | np.ndarray | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, float], None] | None = None,
    checkpoint: str | Path | None = None,
    num_starts: int = 64,
    classifier: Callable[[Tensor], Tensor] | None = None,
    patience: int | None = 100,
    coarse_side: int | None = 32,
    coarse_share: float = 0.75,
    precision: str = "float32",
) -> InversionResult:
    """Finds affine parameters (or w, or z) that draw an image, the weights staying as they are.

    From the best of some samples and class means, Adam takes `num_steps` steps on mean squared error and features,
    its rate rising in a line and falling as a cosine, then L-BFGS `num_refine_steps` on the squared error alone,
    the first of them on small copies of the image, each twice as large as the one before.
    Memory does not grow with the image, beyond the image itself.

    Args:
        image: PIL image of any mode, or tensor (3, H, W) or (1, 3, H, W), floating-point in [-1, 1] or uint8; any size.
        space: `"affine"` as the paper; `"w"` (a w for each level) or `"z"` stay nearer to what the model generates.
        backbone: timm name of the network whose features are compared, `"vgg16"` as the paper, or a
            [`~polyinr_hf.training.feature_networks.FeatureNetwork`]; `None` for pixels alone.
        weights: the backbone's weight file, see `load_backbone`.
        class_label: name or id of the class to start from (in z, to stay in); by default any may.
        lr: Adam's rate, in units of the parameters' own size.
        perceptual_weight: of the distance of features, beside the mean squared error in [-1, 1]^2 units.
        num_pixels: pixels of each Adam step, drawn at random; `None` for all.
        mask: as large as the image, white or 1 where it is known. Other pixels are not read: the result says what
            the model draws there.
        generator: seeds the start and the pixels; by default seed 0. The same seed gives the same result.
        callback: called with (step, steps in all, loss) after every step.
        checkpoint: file that keeps the state; if it is there, the work goes on from it, with the same result.
        num_starts: samples to choose the start from.
        classifier: images (1, 3, H, W) in [-1, 1] -> logits (1, num_classes) of the model's own classes, such as
            `build_classifier` gives for ImageNet; the start is then taken from the five likeliest.
        patience: stop early once this many steps have lowered the mean loss by less than 0.1 %; `None` for never.
        coarse_side: longest side, in pixels, of the smallest copy; a smaller image, or any with `None`, has none.
        coarse_share: of L-BFGS's steps, how many are taken on copies, 0 to 1; each gets as many.
        precision: of Adam's steps; `"bfloat16"` multiplies by the weights with fewer digits, in half the time on a
            processor that can. L-BFGS needs float32: its line search gets stuck in the rounding.

    Raises:
        ValueError: for an argument of a wrong kind, shape or range, or a checkpoint of other work, before any work.
        FileNotFoundError: if the backbone's weights cannot be had.
    """
    from .evaluation import reconstruction  # noqa: F401  scikit-image must be there before the work, not after it

    if space not in SPACES:
        raise ValueError(f"`space` must be one of {SPACES}, got {space!r}.")
    for name, value in (("num_steps", num_steps), ("num_refine_steps", num_refine_steps)):
        check_count(name, value, minimum=0)
    for name, value in (("num_pixels", num_pixels), ("patience", patience), ("coarse_side", coarse_side)):
        if value is not None:
            check_count(name, value)
    check_count("num_starts", num_starts)
    check_number("lr", lr, positive=True)
    check_number("perceptual_weight", perceptual_weight)
    check_number("coarse_share", coarse_share)
    if coarse_share > 1:
        raise ValueError(f"`coarse_share` must be in 0..1, got {coarse_share!r}.")
    check_precision(precision)
    target = Target.prepare(image, mask)
    class_id = None if class_label is None else pipe._class_ids(class_label, 1)[0]
    model = float32_generator(pipe)
    network = load_perceptual_network(backbone, weights, model.device)
    early = InversionLoss(model, target, network, perceptual_weight, num_pixels, precision=precision)
    copies = [] if coarse_side is None else small_copies(model, target, coarse_side)
    objectives = [early, *copies, InversionLoss(model, target)]
    coarse_steps = round(coarse_share * num_refine_steps) if copies else 0
    ends = [coarse_steps * number // max(len(copies), 1) for number in range(len(copies) + 1)]
    steps = [num_steps, *(end - start for start, end in pairwise(ends)), num_refine_steps - coarse_steps]

    seed = draw_seed(generator)
    settings = {"space": space, "height": target.size[0], "width": target.size[1], "masked": not target.is_whole}
    settings |= {"backbone": backbone_name(network), "class_label": class_id, "num_steps": num_steps, "lr": lr}
    settings |= {"num_refine_steps": num_refine_steps, "perceptual_weight": perceptual_weight, "patience": patience}
    settings |= {"num_pixels": num_pixels, "num_starts": num_starts, "seed": seed}
    settings |= {"coarse_side": coarse_side, "coarse_share": coarse_share, "precision": precision}
    work = json.dumps({**settings, "image": target.digest(), "model": model_digest(model)})

    state = load_state(checkpoint, work)
    if state is None:
        began = time.monotonic()
        start = find_start(model, target, network, perceptual_weight, space, class_id, num_starts, seed, classifier)
        state = new_state(work, start)
        state["seconds"] = time.monotonic() - began
    search = SearchSpace(model, space, **state["start"])
    optimize(search, objectives, state, lr, steps, patience, seed, callback, checkpoint)
    with torch.no_grad():
        latent = search.value + state["delta"].to(model.device) * search.scale
        A = search.to_affine(latent)  # (1, L, n, 3)
    settings["class_label"] = state["start"]["class_label"]
    return describe(
        model, target, A, state["losses"], state["seconds"], settings, None if space == "affine" else latent.cpu()
    )


def small_copies(model: PolyINRGenerator, target: Target, side: int) -> list[InversionLoss]:
    """The squared error on copies whose longest side is `side`, 2 `side`, 4 `side` ... pixels, below the image's."""
    copies = []
    while side < max(target.size):
        small, coordinates = target.downscaled(side)
        copies.append(InversionLoss(model, small, coordinates=coordinates))
        side *= 2
    return copies


@torch.no_grad()
def describe(
    model: PolyINRGenerator,
    target: Target,
    A: Tensor,
    losses: list[float],
    seconds: float,
    settings: dict,
    latent: Tensor | None = None,
) -> InversionResult:
    """How well affine parameters A (1, L, n, 3) draw an image."""
    rendered = model.render(A, *target.size).clamp(-1, 1).cpu()  # (1, 3, H, W)
    pixels = ((rendered[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()  # (H, W, 3)
    psnr, ssim = known_psnr(rendered, target), known_ssim(rendered, target)
    return InversionResult(A.cpu(), Image.fromarray(pixels), psnr, ssim, losses, seconds, settings, latent)


def known_psnr(rendered: Tensor, target: Target) -> float:
    """PSNR in dB of an image (1, 3, H, W) in [-1, 1] over the target's known pixels."""
    from .evaluation.reconstruction import psnr

    known = target.known[0, 0].bool()  # (H, W)
    return psnr(rendered[:, :, known].unsqueeze(2), target.image[:, :, known].unsqueeze(2))[0]


def known_ssim(rendered: Tensor, target: Target) -> float:
    """SSIM of an image (1, 3, H, W) in [-1, 1], a mean over the known pixels; unknown ones are grey in both."""
    from skimage.metrics import structural_similarity

    from .evaluation.reconstruction import ssim

    if min(target.size) < 11:
        return math.nan
    if target.is_whole:
        return ssim(rendered, target.image)[0]
    pair = [(image * target.known)[0].double().numpy() for image in (rendered, target.image)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, values = structural_similarity(*pair, channel_axis=0, data_range=2, full=True, **options)  # (3, H, W)
    return float(values[:, target.known[0, 0].bool().numpy()].mean())


# ---------------------------------------------------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------------------------------------------------
def check_number(name: str, value: float, positive: bool = False) -> None:
    """Raises ValueError unless `value` is finite and not negative, or not zero either."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (positive and value == 0):
        raise ValueError(f"`{name}` must be a finite number {'above 0' if positive else 'from 0'}, got {value!r}.")


def check_count(name: str, value: int, minimum: int = 1) -> None:
    """Raises ValueError unless `value` is a whole number of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"`{name}` must be a whole number from {minimum}, got {value!r}.")


def check_precision(precision: str) -> None:
    """Raises ValueError unless it is one that inversion knows."""
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {PRECISIONS}, got {precision!r}.")


def draw_seed(generator: torch.Generator | None) -> int:
    """A seed drawn from `generator`; 0 without one."""
    if generator is None:
        return 0
    return int(torch.randint(2**62, (1,), generator=generator, device=generator.device))


def backbone_name(network: FeatureNetwork | None) -> str | None:
    """timm's name of the network whose features are compared."""
    return network and network.backbone.pretrained_cfg.get("architecture", type(network.backbone).__name__)
