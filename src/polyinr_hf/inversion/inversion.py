"""An image -> its affine parameters, with the weights fixed (section 4.2 of the paper, "Inversion"), or tuned too.

    result = invert(pipe, load_photo("cat.jpg"))
    pipe(affine_parameters=result.affine_parameters, height=1024, width=1024).images[0]

    tuned, result = tune(pipe, load_photo("cat.jpg"))
    tuned(affine_parameters=result.affine_parameters).images[0]

Both start from the best of some samples, or from affine parameters, and descend by phases (`plan_phases`).
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ..checks import check_size
from ..files import replace_file, tensor_digest, weights_digest
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .objective import PIXEL_CHUNK, InversionLoss, Target, backbone_name, load_perceptual_network
from .optimization import WITHOUT_GRAPH, InversionStep, Phase, State, optimize, step_costs
from .search import SPACES, START_SIDE, Search, affine_start, find_start
from .settings import STRENGTHS, InversionSettings, TuningSettings

if TYPE_CHECKING:
    from ..feature_networks import FeatureNetwork


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


# --- how it is found --------------------------------------------------------------------------------------------------

TRIALS = 2  # of the estimate: the first one also warms up


def invert(
    pipe: PolyINRPipeline,
    image: Image.Image | Tensor,
    space: str = "affine",
    backbone: str | FeatureNetwork | None = "tf_efficientnet_lite0",
    weights: str | Path | None = None,
    class_label: int | str | None = None,
    mask: Image.Image | Tensor | np.ndarray | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[InversionStep], bool | None] | None = None,
    checkpoint: str | Path | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
    settings: InversionSettings | None = None,
) -> InversionResult:
    """Finds affine parameters (or w, or z) that draw an image, with the weights fixed.

    The search starts from the best of some samples and class means, and goes on as `settings` says. Memory does not
    grow with the image, beyond the image itself.

    Args:
        pipe: The pipeline, which is not changed.
        image: PIL image of any mode, or tensor (3, H, W) or (1, 3, H, W), floating-point in [-1, 1] or uint8; any size.
        space: `"affine"` as the paper; `"w"` (a w for each level) or `"z"` stay nearer to what the model generates.
        backbone: timm name of the network whose features are compared, `"vgg16"` as the paper, or a
            [`~polyinr_hf.feature_networks.FeatureNetwork`]; `None` for pixels alone, which needs no timm.
        weights: The backbone's weight file, see [`~polyinr_hf.feature_networks.load_backbone`].
        class_label: Name or id of the class to start from (in z, to stay in); by default any class may be the start.
        mask: As large as the image, white or 1 where it is known. Other pixels are not read; the result shows what
            the model draws there.
        generator: Seeds the start and the pixels; by default seed 0. The same seed gives the same result.
        callback: Called with an [`~polyinr_hf.inversion.InversionStep`] after every step (L-BFGS: every ten); its
            `preview()` draws the image as it is then. Where it returns `True`, the search ends there, and the result
            is what has been found so far.
        checkpoint: File that keeps the state. If it exists, the search is resumed from it, with the same result.
        classifier: Images (1, 3, H, W) in [-1, 1] -> logits (1, num_classes) of the model's own classes, such as
            [`~polyinr_hf.feature_networks.build_classifier`] gives for ImageNet; the start is then taken from the
            five likeliest classes.
        settings: Numbers of steps, rates and sizes; by default `InversionSettings()`.

    Raises:
        ValueError: For an argument of a wrong kind, shape or range, or a checkpoint that belongs to a different image,
            model or settings, before any work.
        FileNotFoundError: If the backbone's weights cannot be found.
        ImportError: With a backbone and without timm.

    Example:
        >>> from PIL import Image
        >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
        >>> from polyinr_hf.inversion import InversionSettings, invert
        >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
        >>> settings = InversionSettings(num_steps=3, num_refine_steps=3)  # a likeness takes the default's hundreds
        >>> result = invert(pipe, Image.new("RGB", (32, 32), "tomato"), settings=settings)
        >>> result.save("tomato.safetensors")
    """
    if space not in SPACES:
        raise ValueError(f"`space` must be one of {SPACES}, got {space!r}.")
    settings = InversionSettings() if settings is None else settings
    if not isinstance(settings, InversionSettings):
        raise ValueError(f"`settings` must be InversionSettings, got {settings!r}.")
    target = Target.prepare(image, mask)
    ids = None if class_label is None else pipe.class_ids(class_label)
    class_id = None if ids is None else ids[0]
    model = float32_generator(pipe)
    network = load_perceptual_network(backbone, weights, model.device)

    def start(seed: int) -> dict:
        return find_start(model, target, network, space, class_id, seed, settings, classifier)

    record = {"space": space, "class_label": class_id}
    return _fit(model, target, network, settings, record, start, generator, callback, checkpoint)[1]


def tune(
    pipe: PolyINRPipeline,
    image: Image.Image | Tensor,
    affine_parameters: Tensor | None = None,
    settings: str | TuningSettings = "close",
    backbone: str | FeatureNetwork | None = None,
    weights: str | Path | None = None,
    mask: Image.Image | Tensor | np.ndarray | None = None,
    generator: torch.Generator | None = None,
    callback: Callable[[InversionStep], bool | None] | None = None,
    checkpoint: str | Path | None = None,
) -> tuple[PolyINRPipeline, InversionResult]:
    """Fits the synthesis weights (W_l, b_l and the RGB layer) to an image: pivotal tuning (Roich et al., TOG 2022).

    `pipe` is not changed; the new pipeline saves like any other.

    Args:
        image, weights, mask, generator, callback, checkpoint: See [`~polyinr_hf.inversion.invert`].
        affine_parameters: A (1, L, n, 3) to start from, as inversion finds them. By default the search starts from
            the best of some samples and class means, as inversion does, unless `settings` keep them as they are.
        settings: `"close"` changes weights and affine parameters together until the image is there, whatever becomes
            of other images; `"near"` keeps the affine parameters, and, as locality, adds to the error on the image the
            change of another sample at each step, so that edits and samples stay what they were.
            Or numbers of steps, rates and sizes of your own; those of the two are `STRENGTHS[...]`.
        backbone: Network whose features are compared, see [`~polyinr_hf.inversion.invert`]; by default pixels alone.

    Returns:
        The tuned pipeline, in float32, and how it draws the image: `result.affine_parameters` are those of that
        pipeline.

    Raises:
        ValueError: For an argument of a wrong kind, shape or range, or a checkpoint that belongs to a different image,
            model or settings, before any work.
        FileNotFoundError: If the backbone's weights cannot be found.
        ImportError: With a backbone and without timm.
    """
    if not isinstance(settings, TuningSettings):
        if settings not in STRENGTHS:
            raise ValueError(f"`settings` must be one of {tuple(STRENGTHS)} or a TuningSettings, got {settings!r}.")
        settings = STRENGTHS[settings]
    target = Target.prepare(image, mask)
    model = float32_generator(pipe)
    if affine_parameters is not None:
        model.check_affine_parameters(affine_parameters)
        if len(affine_parameters) != 1 or not affine_parameters.isfinite().all():
            raise ValueError(f"`affine_parameters` must be of one image, finite, got {tuple(affine_parameters.shape)}.")
    elif settings.affine_lr == 0:
        raise ValueError(
            '`affine_parameters` must be given where `settings` keep them (`affine_lr` is 0, as in "near"), got '
            "None: invert first."
        )
    network = load_perceptual_network(backbone, weights, model.device)

    def start(seed: int) -> dict:
        if affine_parameters is not None:
            return affine_start(affine_parameters.detach())
        return find_start(model, target, None, "affine", None, seed, InversionSettings())

    record = {"tuned": True, "start": None if affine_parameters is None else tensor_digest(affine_parameters.float())}
    search, result = _fit(model, target, network, settings, record, start, generator, callback, checkpoint)
    pipe = copy.copy(pipe)  # `from_pipe` would cast, and diffusers warns of every cast
    pipe.register_modules(generator=search.finish())
    return pipe, result


def _fit(
    model: PolyINRGenerator,
    target: Target,
    network: FeatureNetwork | None,
    settings: InversionSettings | TuningSettings,
    record: dict,
    start: Callable[[int], dict],
    generator: torch.Generator | None,
    callback: Callable[[InversionStep], bool | None] | None,
    checkpoint: str | Path | None,
) -> tuple[Search, InversionResult]:
    """Starts or resumes a search, descends, and measures what was found: the body of `invert` and `tune`.

    Args:
        record: What is particular to one of the two, for the result's settings.
        start: A seed -> the arguments of [`Search`] to start from.
        others: As in `invert`.
    """
    target.coordinates = model.displace(target.coordinates, *target.size)  # what the pipeline draws is what is fitted
    seed = 0
    if generator is not None:
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    record = record | {"height": target.size[0], "width": target.size[1], "masked": not target.is_whole}
    record |= {"backbone": backbone_name(network), "seed": seed} | asdict(settings)
    work = json.dumps({**record, "image": target.digest(), "model": weights_digest(model)})
    state = State.load(checkpoint, work)
    if state is None:
        began = time.monotonic()
        state = State(work, start(seed), time.monotonic() - began)
    search = _make_search(model, state.start, settings, record.get("space", "affine"))
    optimize(
        search, plan_phases(search.model, target, settings, network), state, settings.lr, seed, callback, checkpoint
    )

    drawn, picture = search.draw(*target.size)
    with torch.no_grad():
        A = search.affine().cpu()  # (1, L, n, 3)
    latent = None if search.space == "affine" else search.parameters().detach().cpu()
    record = {name: value for name, value in record.items() if name != "start"}
    record["class_label"] = state.start["class_label"]
    figures = target.psnr(drawn), target.ssim(drawn)
    return search, InversionResult(A, picture, *figures, state.losses, state.seconds, record, latent)


def float32_generator(pipe: PolyINRPipeline) -> PolyINRGenerator:
    """The pipeline's generator, or a copy in float32 if it is in another dtype, which is too coarse for small steps."""
    model = pipe.generator
    return model if model.dtype == torch.float32 else copy.deepcopy(model).float()


def _make_search(
    model: PolyINRGenerator, start: dict, settings: InversionSettings | TuningSettings, space: str = "affine"
) -> Search:
    return Search(model, **start, space=space, tuning=settings if isinstance(settings, TuningSettings) else None)


def plan_phases(
    model: PolyINRGenerator,
    target: Target,
    settings: InversionSettings | TuningSettings,
    network: FeatureNetwork | None = None,
) -> list[Phase]:
    """How to descend: the first steps of what `coarse_share` is a share of see small copies of the image.

    Tuning takes Adam's (or Muon's) steps on the copies and then on the image, where features are compared too.
    Inversion takes Adam's on the image, then those of L-BFGS on the squared error of all pixels of copies and image.
    """
    copies = target.small_copies(settings.coarse_side)
    random = {"num_pixels": settings.num_pixels, "precision": settings.precision}
    on_image = InversionLoss(model, target, network, settings.perceptual_weight, **random)
    if isinstance(settings, TuningSettings):
        steps = split_steps(settings.num_steps, settings.coarse_share, len(copies))
        objectives = [*(InversionLoss(model, small, **random) for small in copies), on_image]
        return [Phase("adam", *pair) for pair in zip(objectives, steps, strict=True)]
    steps = split_steps(settings.num_refine_steps, settings.coarse_share, len(copies))
    pairs = zip([InversionLoss(model, part) for part in (*copies, target)], steps, strict=True)
    phases = [Phase("adam", on_image, settings.num_steps, settings.patience)]
    return [*phases, *(Phase("lbfgs", *pair, settings.patience) for pair in pairs)]


def split_steps(num_steps: int, coarse_share: float, num_copies: int) -> list[int]:
    """Steps on each small copy of the image, as equal as can be, then those on the image itself."""
    coarse = round(coarse_share * num_steps) if num_copies else 0
    ends = [coarse * number // max(num_copies, 1) for number in range(num_copies + 1)]
    return [*(end - start for start, end in pairwise(ends)), num_steps - coarse]


def estimate_seconds(
    pipe: PolyINRPipeline,
    height: int,
    width: int,
    settings: InversionSettings | TuningSettings | None = None,
    features: bool = False,
) -> float:
    """Seconds that [`invert`] or [`tune`] takes for an image, from the time of one step on a few pixels.

    It is a forecast, often within a third: phases may end early, and the machine may be busy with other work. Callbacks
    are given another after every step, [`~polyinr_hf.inversion.InversionStep`]'s `remaining_seconds`.

    Args:
        pipe: The pipeline.
        height, width: Size of the image in pixels.
        settings: Those of `invert` (the default) or of `tune`.
        features: Whether a backbone's features are compared.

    Raises:
        ValueError: For a size below 1.
    """
    check_size(height, width)
    settings = InversionSettings() if settings is None else settings
    model = float32_generator(pipe)
    target = Target.prepare(torch.zeros(3, height, width))
    A = torch.zeros(1, model.config.num_levels, model.config.channels, 3)
    search = _make_search(model, affine_start(A), settings)
    phases = plan_phases(search.model, target, settings)
    work = 0.0
    if isinstance(settings, InversionSettings):
        work = 2 * settings.num_starts * math.prod(target.downscaled(START_SIDE).size) * WITHOUT_GRAPH
    work += sum(step_costs(search, phases, features))

    objective, fastest = phases[-1].objective, math.inf
    pixels = torch.arange(PIXEL_CHUNK) % (height * width)
    for _ in range(TRIALS):
        began = time.monotonic()
        search.evaluate(objective, pixels, perceptual=False, random=torch.Generator())
        fastest = min(fastest, time.monotonic() - began)
    return work * fastest / PIXEL_CHUNK
