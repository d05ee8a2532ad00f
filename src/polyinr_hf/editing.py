"""Interpolation, latent walks, style mixing, extrapolation and zoom (figures 4 to 8 of the paper).

Everything acts on the affine parameters A (B, L, n, 3), so that it works on an inverted image as on a sample:
`pipe.encode(...)` gives A of a sample, `pipe(affine_parameters=A)` draws it, `save_film(draw_frames(...), path)` films
it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from polyinr_hf.films import Extent, check_frames, detail, draw_frames, interpolate_extents, save_film
from polyinr_hf.modeling_poly_inr import check_extent
from polyinr_hf.pipeline_poly_inr import PolyINRPipeline

SPACES = ("z", "w", "affine")
CAPTION_HEIGHT = 18  # pixels, of a block of figure 6
__all__ = [
    "LEVEL_GROUPS",
    "SPACES",
    "detail",
    "draw_frames",
    "encode_seeds",
    "extrapolate",
    "interpolate",
    "interpolate_extents",
    "level_groups",
    "mix_levels",
    "save_film",
    "style_mixing_grid",
    "walk",
]


# --- interpolation ----------------------------------------------------------------------------------------------------


def interpolate(points: Tensor, num_frames: int, spherical: bool = False, loop: bool = False) -> Tensor:
    """Points (K, ...) -> frames (F, ...) evenly along the chain of them, in whatever space they are.

    The ends, and inner points that fall on a frame, are equal to their sources to the bit.

    Args:
        points: K >= 2 of them, floating point.
        num_frames: F >= 2.
        spherical: along great circles, last dimension by last dimension, as z wants it; otherwise along straight lines.
        loop: back to the first point, which is not repeated as last frame.

    Raises:
        ValueError: for too few points or frames, values that are no finite floats, or, on a sphere, zero or opposite
            vectors, between which there is no one way.
    """
    if points.ndim < 1 or len(points) < 2 or not points.is_floating_point() or not torch.isfinite(points).all():
        raise ValueError(
            f"`points` must be two or more, finite, floating point; got {tuple(points.shape)} of {points.dtype}."
        )
    steps = list(_steps(len(points), num_frames, loop))
    start, end = (torch.tensor([step[i] for step in steps], device=points.device) for i in (0, 1))
    precise = points.to(torch.promote_types(points.dtype, torch.float32))
    weight = torch.tensor([step[2] for step in steps], dtype=precise.dtype, device=points.device)
    weight = weight.view(-1, *[1] * (points.ndim - 1))  # (F, 1, ...)
    between = _slerp if spherical else torch.lerp
    frames = between(precise[start], precise[end], weight).to(points.dtype)
    return torch.where(weight == 0, points[start], frames)  # (F, ...)


def _steps(num_points: int, num_frames: int, loop: bool) -> Iterator[tuple[int, int, float]]:
    """For each frame the points it is between, and where: weight 0 is the first one, exactly."""
    check_frames(num_frames)
    segments, intervals = (num_points, num_frames) if loop else (num_points - 1, num_frames - 1)
    for frame in range(num_frames):
        start, rest = divmod(frame * segments, intervals)
        yield start, (start + 1) % num_points if rest else start, rest / intervals


def _slerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    lengths = start.norm(dim=-1, keepdim=True), end.norm(dim=-1, keepdim=True)
    if any((length == 0).any() for length in lengths):
        raise ValueError("`points` must not be zero on a sphere.")
    cosine = (start / lengths[0] * (end / lengths[1])).sum(dim=-1, keepdim=True)
    if (cosine < -1 + 1e-6).any():
        raise ValueError("`points` must not be opposite to their neighbours on a sphere.")
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
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
) -> Iterator[Tensor]:
    """A walk from sample to sample (figure 5): the affine parameters A (1, L, n, 3) of each frame, one at a time.

    The k-th image is the sample of the k-th class and the k-th seed; where there is one of either, it serves all. The
    ends are `pipe.encode(class_labels[0], generator=torch.Generator().manual_seed(seeds[0]))` and so on, to the bit, in
    every space.

    Args:
        class_labels: one name or id, or one for each image; None for an unconditional model.
        seeds: one, or one for each image.
        num_frames: frames in all, at least 2.
        space: what moves evenly: "z", "w", or "affine" for A itself. Between two classes there is no z: in z space w is
            then blended from the w of both classes at the same z.
        spherical: along the great circle (the default in z space, possible in no other) or the straight line.
        loop: back to the first image, which is not repeated as last frame.
        truncation_psi, truncation_cutoff: as in the pipeline.

    Raises:
        ValueError: for anything that cannot be drawn, before the first frame.
    """
    if space not in SPACES:
        raise ValueError(f"`space` must be one of {SPACES}, got {space!r}.")
    if spherical and space != "z":
        raise ValueError(f"`spherical` is for space 'z', got {space!r}: w and A do not lie on a sphere.")
    images = _pair(class_labels, seeds)
    count = len(images["generator"])
    if count < 2:
        raise ValueError("A walk needs at least two images: give several `seeds` or several `class_labels`.")
    steps = list(_steps(count, num_frames, loop))
    pipe._check_sampling(1, truncation_psi, truncation_cutoff)
    ids, latents = pipe._ids_and_latents(**images, latents=None)
    if space == "z":
        latents = interpolate(latents, num_frames, spherical is not False, loop)  # (F, z_dim)
    return _walk(pipe.generator, ids, latents, steps, space, truncation_psi, truncation_cutoff)


def encode_seeds(
    pipe: PolyINRPipeline,
    class_labels: int | str | list[int | str] | None = None,
    seeds: int | Sequence[int] = 0,
    truncation_psi: float = 1.0,
    truncation_cutoff: int | None = None,
) -> Tensor:
    """Affine parameters A (K, L, n, 3) of the images with these classes and seeds, paired as in `walk`.

    Raises:
        ValueError: as `walk`.
    """
    return pipe.encode(**_pair(class_labels, seeds), truncation_psi=truncation_psi, truncation_cutoff=truncation_cutoff)


def _pair(class_labels, seeds) -> dict:
    """Arguments of the pipeline for one image of each class and seed, one of either serving all."""
    seeds = [seeds] if isinstance(seeds, int) else list(seeds)
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise ValueError(f"`seeds` must be whole numbers from 0 on, at least one, got {seeds!r}.")
    labels = None
    if class_labels is not None:
        labels = list(class_labels) if isinstance(class_labels, (list, tuple)) else [class_labels]
        count = max(len(labels), len(seeds))
        if len(labels) not in (1, count) or len(seeds) not in (1, count):
            raise ValueError(
                "`class_labels` and `seeds` must be as many, or one of either for all; "
                f"got {len(labels)} labels and {len(seeds)} seeds."
            )
        labels, seeds = labels * (count // len(labels)), seeds * (count // len(seeds))
    return {
        "class_labels": labels,
        "num_images_per_label": 1 if labels else len(seeds),
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
    }


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


# --- style mixing -----------------------------------------------------------------------------------------------------


def level_groups(num_levels: int) -> dict[str, range]:
    """Levels that decide on shape, coarse style and fine style (figure 6), in proportion for models of other depths.

    Raises:
        ValueError: for fewer than three levels.
    """
    if num_levels < 3:
        raise ValueError(f"`num_levels` must be at least 3 to have coarse, middle and fine ones, got {num_levels}.")
    middle = num_levels // 2
    fine = max(middle + 1, round(0.8 * num_levels))
    return {"coarse": range(middle), "middle": range(middle, fine), "fine": range(fine, num_levels)}


LEVEL_GROUPS = level_groups(10)  # coarse 0-4, middle 5-7, fine 8-9, as section 4.2 has them


def mix_levels(target: Tensor, source: Tensor, levels: int | str | Iterable[int]) -> Tensor:
    """`target` with the affine parameters of `source` at some levels, a new A (B, L, n, 3); section 4.2, style mixing.

    Args:
        target: A (B, L, n, 3), source B of figure 6.
        source: A (B or 1, L, n, 3), of the same model size; source A of figure 6.
        levels: one or several of 0..L-1, or a name in `level_groups(L)`.

    Raises:
        ValueError: for levels that there are not, none or one twice, or shapes that differ.
    """
    if target.ndim != 4 or target.shape[3] != 3 or target.shape[1:] != source.shape[1:]:
        raise ValueError(
            "`target` and `source` must be affine parameters (B, L, n, 3) of models of one size, "
            f"got {tuple(target.shape)} and {tuple(source.shape)}."
        )
    if len(source) not in (1, len(target)):
        raise ValueError(f"`source` must be one image, or one for each of {len(target)}, got {len(source)}.")
    levels = _check_levels(levels, target.shape[1])
    mixed = target.clone()
    mixed[:, levels] = source[:, levels].to(mixed)
    return mixed


def _check_levels(levels: int | str | Iterable[int], num_levels: int) -> list[int]:
    if isinstance(levels, str):
        groups = level_groups(num_levels)
        if levels not in groups:
            raise ValueError(f"`levels` must be numbers or one of {', '.join(groups)}, got {levels!r}.")
        return list(groups[levels])
    levels = [levels] if isinstance(levels, int) else list(levels)
    whole = all(isinstance(level, int) and not isinstance(level, bool) for level in levels)
    if not whole or not levels or not all(0 <= level < num_levels for level in levels):
        raise ValueError(f"`levels` must be whole numbers in 0..{num_levels - 1}, at least one, got {levels!r}.")
    if len(set(levels)) < len(levels):
        raise ValueError(f"`levels` must be different ones, got {levels!r}.")
    return levels


def style_mixing_grid(
    pipe: PolyINRPipeline,
    sources: Tensor,
    targets: Tensor,
    groups: dict[str, Iterable[int]] | None = None,
    callback: Callable[[int, int], None] | None = None,
    **drawing,
) -> Image.Image:
    """Figure 6 as one picture: `sources` along the upper edge, `targets` along the left one, a block for each group.

    The picture at a source's column and a target's row of a block is the target with the source's affine parameters at
    the block's levels.

    Args:
        sources: A (S, L, n, 3), whose style is copied (source A of the figure).
        targets: A (T, L, n, 3), which receive it (source B).
        groups: {name: levels}, one block of rows for each; default `level_groups(L)`.
        callback: called with (pictures done, pictures in all) after every row.
        drawing: `height`, `width`, `extent` and `antialias` of each picture, as the pipeline has them.

    Raises:
        ValueError: as `mix_levels`, before any picture is drawn.
    """
    for name, A in (("sources", sources), ("targets", targets)):
        if A.ndim != 4 or len(A) == 0:
            raise ValueError(f"`{name}` must be affine parameters (B, L, n, 3), B at least 1, got {tuple(A.shape)}.")
    num_levels = sources.shape[1]
    groups = {name: _check_levels(v, num_levels) for name, v in (groups or level_groups(num_levels)).items()}
    # Rows of pictures (S, L, n, 3), made first, so that levels and shapes are checked before drawing, which takes long.
    rows = [A.unsqueeze(0).repeat(len(sources), 1, 1, 1) for A in targets]
    mixed = [[mix_levels(row, sources, levels) for row in rows] for levels in groups.values()]
    total, done = len(sources) + len(targets) * (1 + len(groups) * len(sources)), 0

    def draw(A: Tensor) -> list[Image.Image]:
        nonlocal done
        images = pipe(affine_parameters=A, **drawing).images
        done += len(images)
        if callback is not None:
            callback(done, total)
        return images

    top_edge, left_edge = draw(sources), draw(targets)
    width, height = top_edge[0].size
    block = CAPTION_HEIGHT + len(targets) * height
    grid = Image.new("RGB", ((1 + len(sources)) * width, height + len(groups) * block), "white")
    brush, font = ImageDraw.Draw(grid), ImageFont.load_default(size=12)

    def paste(images: list[Image.Image], y: int, first_column: int = 0) -> None:
        for column, image in enumerate(images, start=first_column):
            grid.paste(image, (column * width, y))

    paste(top_edge, 0, first_column=1)
    for index, (name, levels) in enumerate(groups.items()):
        y = height + index * block
        brush.text((4, y + 2), f"{name}: {', '.join(map(str, levels))}", fill="black", font=font)
        for row, left in enumerate(left_edge):
            paste([left, *draw(mixed[index][row])], y + CAPTION_HEIGHT + row * height)
    return grid


# --- beyond the border ------------------------------------------------------------------------------------------------


def extrapolate(
    pipe: PolyINRPipeline,
    affine_parameters: Tensor,
    extent: Extent = (-0.25, -0.25, 1.25, 1.25),
    height: int | None = None,
    width: int | None = None,
    border: str | None = "yellow",
    antialias: int = 1,
) -> list[Image.Image]:
    """Images over a larger extent, with the square that is the image itself drawn in (figure 4).

    Args:
        affine_parameters: A (B, L, n, 3).
        extent: (top, left, bottom, right), the figure's by default.
        height, width: by default pixels as close as in an image of the model's own size.
        border: colour of the square, any that Pillow knows; None for no square.
        antialias: as in the pipeline.

    Raises:
        ValueError: as the pipeline, and for an unknown colour.
    """
    check_extent(extent)
    if border is not None:
        Image.new("RGB", (1, 1), border)  # its error names the colour
    top, left, bottom, right = extent
    size = pipe.generator.config.sample_size
    height = 1 + round((size - 1) * (bottom - top)) if height is None else height
    width = 1 + round((size - 1) * (right - left)) if width is None else width
    images = pipe(
        affine_parameters=affine_parameters, height=height, width=width, extent=extent, antialias=antialias
    ).images
    if border is not None:
        rows = [round((height - 1) * (value - top) / (bottom - top)) for value in (0, 1)]
        columns = [round((width - 1) * (value - left) / (right - left)) for value in (0, 1)]
        for image in images:
            box = (columns[0], rows[0], columns[1], rows[1])
            ImageDraw.Draw(image).rectangle(box, outline=border, width=max(1, round(min(image.size) / 200)))
    return images
