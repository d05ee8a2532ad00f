"""Interpolation between images, in z, w or affine parameters (section 4.2 of the paper, figures 5, 7 and 8)."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ..checks import check_count
from ..pipeline_poly_inr import PolyINRPipeline
from .seeds import draw_latents

SPACES = ("z", "w", "affine")
EASINGS: dict[str, Callable[[float], float]] = {  # share of the time -> share of the way between two key frames
    "linear": lambda t: t,
    "smooth": lambda t: (1 - math.cos(math.pi * t)) / 2,  # from rest to rest
}


def interpolate(
    points: Tensor, num_frames: int, spherical: bool = False, loop: bool = False, easing: str = "linear"
) -> Tensor:
    """Points (K, ...) -> frames (F, ...) along the chain of them, in whatever space they are.

    The ends, and inner points that fall on a frame, are equal to their sources to the bit.

    Args:
        points: K >= 2 of them, floating point.
        num_frames: F >= 2.
        spherical: along great circles, last dimension by last dimension, as z wants it; otherwise along straight lines.
        loop: back to the first point, which is not repeated as last frame.
        easing: "linear" goes evenly, "smooth" slows down at every point.

    Raises:
        ValueError: for an unknown easing, too few points or frames, values that are no finite floats, or, on a sphere,
            zero or opposite vectors, between which there is no one way.
    """
    if points.ndim < 1 or len(points) < 2 or not points.is_floating_point() or not torch.isfinite(points).all():
        raise ValueError(
            f"`points` must be two or more, finite, floating point; got {tuple(points.shape)} of {points.dtype}."
        )
    steps = list(_steps(len(points), num_frames, loop, easing))
    start, end = (torch.tensor([step[i] for step in steps], device=points.device) for i in (0, 1))
    precise = points.to(torch.promote_types(points.dtype, torch.float32))
    weight = torch.tensor([step[2] for step in steps], dtype=precise.dtype, device=points.device)
    weight = weight.view(-1, *[1] * (points.ndim - 1))  # (F, 1, ...)
    between = _slerp if spherical else torch.lerp
    frames = between(precise[start], precise[end], weight).to(points.dtype)
    return torch.where(weight == 0, points[start], frames)  # (F, ...)


def _steps(num_points: int, num_frames: int, loop: bool, easing: str) -> Iterator[tuple[int, int, float]]:
    """For each frame the points it is between, and where: weight 0 is the first one, exactly."""
    num_frames = check_count("num_frames", num_frames, minimum=2)
    if easing not in EASINGS:
        raise ValueError(f"`easing` must be one of {tuple(EASINGS)}, got {easing!r}.")
    segments, intervals = (num_points, num_frames) if loop else (num_points - 1, num_frames - 1)
    for frame in range(num_frames):
        start, rest = divmod(frame * segments, intervals)
        yield start, (start + 1) % num_points if rest else start, EASINGS[easing](rest / intervals)


def _slerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    lengths = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    if any((length == 0).any() for length in lengths):
        raise ValueError("`points` must not be zero on a sphere.")
    cosine = (start / lengths[0] * (end / lengths[1])).sum(dim=-1, keepdim=True)
    if (cosine < -1 + 1e-6).any():
        raise ValueError("`points` must not be opposite to their neighbors on a sphere.")
    angle = cosine.clamp(-1, 1).acos()
    on_sphere = torch.sin((1 - weight) * angle) * start + torch.sin(weight * angle) * end
    # Where two vectors are all but parallel the chord is the arc, and the sine in the quotient rounds to nothing.
    return torch.where(cosine > 1 - 1e-6, torch.lerp(start, end, weight), on_sphere / angle.sin())


def walk(
    pipe: PolyINRPipeline,
    class_labels: int | str | list[int | str] | None = None,
    seeds: int | Sequence[int] = (0, 1),
    num_frames: int = 60,
    space: str = "w",
    spherical: bool | None = None,
    loop: bool = False,
    truncation_psi: float | None = None,
    truncation_cutoff: int | None = None,
    easing: str = "linear",
    seed_source: str = "torch",
) -> Iterator[Tensor]:
    """A walk from sample to sample (figure 5): the affine parameters A (1, L, n, 3) of each frame, one at a time.

    The k-th image is that of the k-th class and the k-th seed. The ends are
    `encode_seeds(pipe, class_labels[0], seeds[0])` and so on, to the bit, in every space.

    Args:
        class_labels, seeds, seed_source: as in `draw_latents`.
        num_frames: frames in all, at least 2.
        space: what moves evenly: "z", "w", or "affine" for A itself. Between two classes there is no z: in z space w is
            then blended from the w of both classes at the same z.
        spherical: along the great circle (the default in z space, possible in no other) or the straight line.
        loop: back to the first image, which is not repeated as last frame.
        truncation_psi, truncation_cutoff: as in the pipeline.
        easing: as in `interpolate`.

    Raises:
        ValueError: for anything that cannot be drawn, before the first frame.

    Example:
        >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
        >>> from polyinr_hf.editing import draw_frames, save_film, walk
        >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
        >>> frames = walk(pipe, ["grinning face", "red heart"], seeds=[0, 1], num_frames=8)
        >>> save_film(draw_frames(pipe, frames, height=64, width=64), "walk.gif")
    """
    if space not in SPACES:
        raise ValueError(f"`space` must be one of {SPACES}, got {space!r}.")
    if spherical and space != "z":
        raise ValueError(
            f"`spherical` must be False but in space 'z', got True in {space!r}: w and A do not lie on a sphere."
        )
    ids, latents = draw_latents(pipe, class_labels, seeds, seed_source)  # (K, z_dim)
    if (count := len(latents)) < 2:
        raise ValueError("A walk needs at least two images: give several `seeds` or several `class_labels`.")
    steps = list(_steps(count, num_frames, loop, easing))
    truncation_psi, truncation_cutoff = pipe.truncation_or_default(truncation_psi, truncation_cutoff)
    if space == "z":
        latents = interpolate(latents, num_frames, spherical is not False, loop, easing)  # (F, z_dim)
    return _walk(pipe.generator, ids, latents, steps, space, truncation_psi, truncation_cutoff)


@torch.no_grad()
def _walk(model, ids, latents, steps, space, psi, cutoff) -> Iterator[Tensor]:
    latents = latents.to(model.device)

    def w_of(point: int, z: int) -> Tensor:
        label = None if ids is None else torch.tensor([ids[point]], device=model.device)
        return model.map(latents[z : z + 1], label, psi, cutoff)  # (1, L, w_dim)

    for frame, (start, end, weight) in enumerate(steps):
        z = (frame, frame) if space == "z" else (start, end)
        if weight == 0 or (space == "z" and (ids is None or ids[start] == ids[end])):
            yield model.affine(w_of(start, z[0]))
            continue
        pair = w_of(start, z[0]), w_of(end, z[1])
        if space == "affine":
            pair = model.affine(pair[0]), model.affine(pair[1])
        between = torch.lerp(pair[0].float(), pair[1].float(), weight)
        yield between if space == "affine" else model.affine(between)
