"""Levels of the synthesis network: mixed between two images (figure 6), and what each does to one (figure 3)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from diffusers.utils import make_image_grid
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..checks import check_count, whole_numbers
from ..images import CAPTION_HEIGHT, caption, stack, wrap_caption
from ..modeling_poly_inr import PolyINRGenerator, pixel_coordinates
from ..pipeline_poly_inr import PolyINRPipeline
from .extents import Extent


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
    """`target` with some levels of `source`, a new tensor; section 4.2, style mixing.

    Both are w (B, L, w_dim), mixed before `affine` as in the release and the paper's figures, or both are affine
    parameters A (B, L, n, 3), the only way for an image that has no w, such as one found by inversion in A. A level of
    A holds the coordinates that all levels below it have composed and takes them along: on the bundled model the two
    ways are 42 to 45 dB apart in the median of 32 pairs of classes for each group of levels, 29 at worst; on networks
    of random weights they are other pictures.

    Args:
        target: of B images, source B of figure 6.
        source: of B images or one, of the same model size; source A of figure 6.
        levels: one or several of 0..L-1, or a name in `level_groups(L)`.

    Raises:
        ValueError: for levels that there are not, none or one twice, or shapes that differ.

    Example:
        >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
        >>> from polyinr_hf.editing import encode_seeds, mix_levels
        >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
        >>> face, heart = encode_seeds(pipe, ["grinning face", "red heart"], [0, 1], space="w").split(1)
        >>> pipe(w=mix_levels(face, heart, "fine")).images[0].save("mixed.png")
    """
    is_known = target.ndim == 3 or (target.ndim == 4 and target.shape[3] == 3)
    if not is_known or target.shape[1:] != source.shape[1:]:
        raise ValueError(
            "`target` and `source` must be both w (B, L, w_dim) or both affine parameters (B, L, n, 3), of models of "
            f"one size, got {tuple(target.shape)} and {tuple(source.shape)}."
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
    given = whole_numbers(levels)
    numbers = [level for level in given if level is not None and 0 <= level < num_levels]
    if not numbers or len(numbers) < len(given):
        raise ValueError(f"`levels` must be whole numbers in 0..{num_levels - 1}, at least one, got {levels!r}.")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"`levels` must be different ones, got {levels!r}.")
    return numbers


def _with_names(images: list[Image.Image], names: Sequence[str] | None) -> list[Image.Image]:
    """Images of one size with captions of one height: two lines where a name asks for them."""
    if not names:
        return images
    num_lines = max(len(wrap_caption(name, images[0].width, 2)) for name in names)
    return [caption(image, name, num_lines=num_lines) for image, name in zip(images, names, strict=True)]


def style_mixing_grid(
    pipe: PolyINRPipeline,
    sources: Tensor,
    targets: Tensor,
    groups: dict[str, Iterable[int]] | None = None,
    callback: Callable[[int, int], None] | None = None,
    source_names: Sequence[str] | None = None,
    target_names: Sequence[str] | None = None,
    **drawing: Any,
) -> Image.Image:
    """Figure 6 as one picture: `sources` along the upper edge, `targets` along the left one, a block for each group.

    The picture at a source's column and a target's row of a block is the target with the source's w, or affine
    parameters, at the block's levels.

    Args:
        sources: w (S, L, w_dim) or A (S, L, n, 3), whose style is copied (source A of the figure).
        targets: of the same kind, T of them, which receive it (source B).
        groups: {name: levels}, one block of rows for each; default `level_groups(L)`.
        callback: called with (pictures done, pictures in all) after every row.
        source_names, target_names: what is written below the images along the edges, in one line or two; nothing by
            default.
        drawing: `height`, `width`, `extent`, `antialias` and `tolerance` of each picture, as the pipeline has them.

    Raises:
        ValueError: as `mix_levels`, before any picture is drawn.
    """
    for name, images in (("sources", sources), ("targets", targets)):
        if images.ndim not in (3, 4) or len(images) == 0:
            shapes = "w (B, L, w_dim) or affine parameters (B, L, n, 3)"
            raise ValueError(f"`{name}` must be {shapes}, B at least 1, got {tuple(images.shape)}.")
    num_levels = sources.shape[1]
    groups = {name: _check_levels(v, num_levels) for name, v in (groups or level_groups(num_levels)).items()}
    # Rows of S pictures, made first, so that levels and shapes are checked before drawing, which takes long.
    rows = [target.repeat_interleave(len(sources), dim=0) for target in targets.split(1)]
    mixed = [[mix_levels(row, sources, levels) for row in rows] for levels in groups.values()]
    kind = "w" if sources.ndim == 3 else "affine_parameters"
    total, done = len(sources) + len(targets) * (1 + len(groups) * len(sources)), 0

    def draw(parameters: Tensor) -> list[Image.Image]:
        nonlocal done
        drawn: Any = pipe(**{kind: parameters}, **drawing)
        images = drawn.images
        done += len(images)
        if callback is not None:
            callback(done, total)
        return images

    top_edge, left_edge = draw(sources), draw(targets)
    width = top_edge[0].width
    top_edge, left_edge = _with_names(top_edge, source_names), _with_names(left_edge, target_names)
    first_row, row_height = top_edge[0].height, left_edge[0].height
    block = CAPTION_HEIGHT + len(targets) * row_height
    grid = Image.new("RGB", ((1 + len(sources)) * width, first_row + len(groups) * block), "white")
    brush, font = ImageDraw.Draw(grid), ImageFont.load_default(size=12)

    def paste(images: list[Image.Image], y: int, first_column: int = 0) -> None:
        for column, image in enumerate(images, start=first_column):
            grid.paste(image, (column * width, y))

    paste(top_edge, 0, first_column=1)
    for index, (name, levels) in enumerate(groups.items()):
        y = first_row + index * block
        title = f"{name} levels from above: {', '.join(map(str, levels))}"
        brush.text((4, y + 2), title, fill="black", font=font)
        for row, left in enumerate(left_edge):
            paste([left, *draw(mixed[index][row])], y + CAPTION_HEIGHT + row * row_height)
    return grid


# --- what they respond to ---------------------------------------------------------------------------------------------

IMAGE: Extent = (0.0, 0.0, 1.0, 1.0)
HEAT_TITLE = "What each level responds to, from blue (least) to red (most)"
PREFIX_TITLE = "The image if the network ended after this level"


@torch.no_grad()
def heat_maps(
    generator: PolyINRGenerator,
    affine_parameters: Tensor,
    height: int | None = None,
    width: int | None = None,
    extent: Extent = IMAGE,
    chunk_size: int = 4096,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Heat map of each level (B, L, H, W), float32 in [0, 1]; figure 3.

    Section 4.2: the mean of a channel over the pixels is its weight in the sum over the channels. Each map is scaled to
    [0, 1] on its own; a flat one is 0. The pixels are walked twice, in chunks: memory grows with the result only.

    Args:
        affine_parameters: A (B, L, n, 3).
        height, width, extent: as in `PolyINRGenerator.render`.
        chunk_size: pixels of the whole batch at once.
        callback: called with (pixels done, pixels in all) after every chunk; in all are twice those of the picture.

    Raises:
        ValueError: for affine parameters of another model's size, or a size, extent or `chunk_size` out of range.
    """
    height, width, A, walk = _prepare(generator, affine_parameters, height, width, extent, chunk_size, callback, 2)
    batch, levels, channels, _ = A.shape
    weights = torch.zeros(levels, batch, channels, device=A.device)
    for _, level, features in walk():
        weights[level] += features.float().sum(dim=1) / (height * width)  # (B, n)
    maps = torch.empty(batch, levels, height * width, device=A.device)
    for pixels, level, features in walk():
        maps[:, level, pixels] = (features.float() @ weights[level].unsqueeze(2)).squeeze(2)  # (B, N)
    low, high = maps.amin(dim=2, keepdim=True), maps.amax(dim=2, keepdim=True)
    maps = torch.where(high > low, (maps - low) / (high - low), 0.0)
    return maps.unflatten(2, (height, width))  # (B, L, H, W)


@torch.no_grad()
def prefix_images(
    generator: PolyINRGenerator,
    affine_parameters: Tensor,
    height: int | None = None,
    width: int | None = None,
    extent: Extent = IMAGE,
    chunk_size: int = 4096,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The image after each level (B, L, 3, H, W) if later levels passed features through, in [-1, 1], not clipped.

    The last is the image itself. Arguments and errors as `heat_maps`; the pixels are walked once.
    """
    height, width, A, walk = _prepare(generator, affine_parameters, height, width, extent, chunk_size, callback, 1)
    images = torch.empty(*A.shape[:2], 3, height * width, device=A.device)
    for pixels, level, features in walk():
        images[:, level, :, pixels] = generator.to_rgb(features).transpose(1, 2).float()  # (B, 3, N)
    return images.unflatten(3, (height, width))  # (B, L, 3, H, W)


def _prepare(
    generator: PolyINRGenerator, affine_parameters: Tensor, height, width, extent, chunk_size, callback, passes: int
) -> tuple[int, int, Tensor, Callable[[], Iterator[tuple[slice, int, Tensor]]]]:
    """Size, A where the model is, and a function that goes once through all (pixels, level, features (B, N, n))."""
    generator.check_affine_parameters(affine_parameters)
    height, width = generator.size_or_default(height, width)
    A = affine_parameters.to(generator.device)
    coordinates = pixel_coordinates(height, width, extent, device=A.device)  # (H * W, 2)
    step, done = max(1, check_count("chunk_size", chunk_size) // len(A)), 0

    def walk() -> Iterator[tuple[slice, int, Tensor]]:
        nonlocal done
        for start in range(0, len(coordinates), step):
            pixels = slice(start, start + step)
            chunk = coordinates[pixels]
            for level, features in enumerate(generator.features(A, chunk)):
                yield pixels, level, features
            done += len(chunk)
            if callback is not None:
                callback(done, passes * len(coordinates))

    return height, width, A, walk


def colorize(maps: Tensor) -> list[Image.Image]:
    """Maps (M, H, W) in [0, 1] -> pictures from dark blue (0) over green (0.5) to dark red (1).

    Raises:
        ValueError: for another shape or values outside [0, 1].
    """
    if maps.ndim != 3 or not ((maps >= 0) & (maps <= 1)).all():
        raise ValueError(f"`maps` must be (M, H, W) with values in [0, 1], got {tuple(maps.shape)}.")
    # "Jet": each channel is a trapezoid, a quarter apart from the next.
    centers = torch.tensor([3.0, 2.0, 1.0], device=maps.device)  # red, green, blue
    rgb = (1.5 - (4 * maps.unsqueeze(-1) - centers).abs()).clamp(0, 1)  # (M, H, W, 3)
    return [Image.fromarray(array) for array in (rgb * 255).round().byte().cpu().numpy()]


def level_figure(
    pipe: PolyINRPipeline,
    affine_parameters: Tensor,
    height: int | None = None,
    width: int | None = None,
    extent: Extent = IMAGE,
    callback: Callable[[int, int], None] | None = None,
) -> Image.Image:
    """Two rows for each image, with captions: the heat map of each level (figure 3), and the image after each level.

    Arguments and errors as `heat_maps`; `callback` counts both walks as one.
    """
    generator = pipe.generator
    size = generator.size_or_default(height, width)
    pixels = size[0] * size[1]

    def report(offset: int) -> Callable[[int, int], None]:
        return lambda done, _: callback(offset + done, 3 * pixels) if callback is not None else None

    maps = heat_maps(generator, affine_parameters, *size, extent, callback=report(0))  # (B, L, H, W)
    images = prefix_images(generator, affine_parameters, *size, extent, callback=report(2 * pixels))
    rows = []
    for heat, image in zip(maps, images, strict=True):
        levels = [caption(picture, f"level {level}") for level, picture in enumerate(colorize(heat))]
        after: Any = pipe.image_processor.postprocess(image, "pil")
        rows += [
            caption(make_image_grid(levels, 1, len(levels)), HEAT_TITLE, above=True),
            caption(make_image_grid(after, 1, len(after)), PREFIX_TITLE, above=True),
        ]
    return stack(rows)
