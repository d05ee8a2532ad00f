"""Pictures in a row: the extents of a zoom, frames drawn one at a time, written as GIF, MP4 or one PNG."""

import math
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from numbers import Real
from pathlib import Path

from diffusers.utils import export_to_gif, export_to_video, make_image_grid
from PIL import Image
from torch import Tensor

from polyinr_hf.files import replace_file
from polyinr_hf.modeling_poly_inr import check_extent
from polyinr_hf.pipeline_poly_inr import PolyINRPipeline

Extent = tuple[float, float, float, float]  # (top, left, bottom, right)
FILM_SUFFIXES = (".gif", ".mp4", ".png")
MAX_FPS = 50  # a GIF counts in hundredths of a second, and players take less than two of them for ten


def detail(centre: tuple[float, float] = (0.5, 0.5), factor: float = 8.0) -> Extent:
    """The extent `factor` times smaller than the image around `centre` (row, column).

    Coordinates are float32, 24 bits: beyond a factor of about 10,000 neighbouring pixels begin to share one.

    Raises:
        ValueError: for a centre or a factor that is not finite, or a factor not above 0.
    """
    if len(centre) != 2 or not all(isinstance(value, Real) and math.isfinite(value) for value in centre):
        raise ValueError(f"`centre` must be two finite numbers (row, column), got {centre!r}.")
    if not isinstance(factor, Real) or not 0 < factor < math.inf:
        raise ValueError(f"`factor` must be a finite number above 0, got {factor!r}.")
    (row, column), half = centre, 0.5 / factor
    return row - half, column - half, row + half, column + half


def interpolate_extents(start: Extent, end: Extent, num_frames: int) -> list[Extent]:
    """Extents from `start` to `end`, both included: a zoom, a pan, or both at once.

    Sides grow geometrically, so that a zoom looks even, and what both ends have at the same place of the picture stays
    there; sides that keep their length move evenly.

    Raises:
        ValueError: for an extent that is none, or fewer than two frames.
    """
    check_extent(start)
    check_extent(end)
    check_frames(num_frames)
    extents = []
    for frame in range(1, num_frames - 1):
        t = frame / (num_frames - 1)
        axes = [_interpolate_sides(start[i], start[i + 2], end[i], end[i + 2], t) for i in (0, 1)]
        extents.append((axes[0][0], axes[1][0], axes[0][1], axes[1][1]))
    return [tuple(start), *extents, tuple(end)]


def _interpolate_sides(low_0: float, high_0: float, low_1: float, high_1: float, t: float) -> tuple[float, float]:
    side_0, side_1 = high_0 - low_0, high_1 - low_1
    ratio = side_1 / side_0
    # (ratio^t - 1) / (ratio - 1): how far the corner is on its way when the side is ratio^t long; t where both agree.
    way = t if math.isclose(ratio, 1) else math.expm1(t * math.log(ratio)) / (ratio - 1)
    low = low_0 + way * (low_1 - low_0)
    return low, low + side_0 * ratio**t


def draw_frames(
    pipe: PolyINRPipeline,
    affine_parameters: Tensor | Iterable[Tensor],
    extents: Sequence[Extent] | None = None,
    **drawing,
) -> Iterator[Image.Image]:
    """Pictures of a film, one at a time: `draw_frames(pipe, walk(...))`, `draw_frames(pipe, A, extents)`.

    Args:
        affine_parameters: A (1, L, n, 3) of each frame, from `walk`; a tensor (F, L, n, 3), from `interpolate`; or,
            with `extents`, the one image (1, L, n, 3) they are seen in.
        extents: of each frame, from `interpolate_extents`.
        drawing: `height`, `width`, `extent` and `antialias`, as the pipeline has them.

    Raises:
        ValueError: as the pipeline; and for `extents` with more than one image.
    """
    if extents is not None:
        if not isinstance(affine_parameters, Tensor) or len(affine_parameters) != 1:
            raise ValueError("`affine_parameters` must be those of one image, (1, L, n, 3), where `extents` move.")
        return (pipe(affine_parameters=affine_parameters, extent=extent, **drawing).images[0] for extent in extents)
    frames = affine_parameters.split(1) if isinstance(affine_parameters, Tensor) else affine_parameters
    return (pipe(affine_parameters=A, **drawing).images[0] for A in frames)


def save_film(frames: Iterable[Image.Image], path: str | Path, fps: int = 20) -> None:
    """Writes frames as .gif or .mp4, or side by side in one .png; beside `path`, and renamed when whole.

    MP4 needs imageio and imageio-ffmpeg, and has sides rounded up to even numbers.

    Args:
        frames: of one size; an iterator is drawn to its end, all its pictures are held in memory.
        fps: frames per second, 1 to 50.

    Raises:
        ValueError: another suffix, a rate out of range, no frames, or frames of several sizes.
        ImportError: MP4 without those packages.
    """
    path = Path(path)
    check_film(path, fps)
    frames = list(frames)
    if not frames:
        raise ValueError("`frames` must have at least one picture.")
    if len(sizes := sorted({frame.size for frame in frames}, reverse=True)) > 1:
        raise ValueError(f"`frames` must be of one size, (width, height), got {', '.join(map(str, sizes))}.")
    with replace_file(path) as partial:
        suffix = partial.suffix.lower()
        if suffix == ".png":
            make_image_grid(frames, rows=1, cols=len(frames)).save(partial)
        elif suffix == ".gif":
            export_to_gif(frames, str(partial), fps=fps)
        else:
            export_to_video(frames, str(partial), fps=fps, quality=8, macro_block_size=2)


def check_film(path: str | Path, fps: int = 20, suffixes: Sequence[str] = FILM_SUFFIXES) -> None:
    """Raises what `save_film` would for `path` and `fps`: call it before drawing for an hour."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"`output` must end in {' or '.join(suffixes)}, got {str(path)!r}.")
    if isinstance(fps, bool) or not isinstance(fps, int) or not 1 <= fps <= MAX_FPS:
        raise ValueError(f"`fps` must be a whole number in 1..{MAX_FPS}, got {fps!r}.")
    if suffix == ".mp4" and not (find_spec("imageio") and find_spec("imageio_ffmpeg")):
        raise ImportError("MP4 needs two more packages: pip install imageio imageio-ffmpeg. GIF needs none.")


def check_frames(num_frames: int) -> None:
    """Raises ValueError unless a film can have so many frames."""
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 2:
        raise ValueError(f"`num_frames` must be a whole number from 2 on, got {num_frames!r}.")
