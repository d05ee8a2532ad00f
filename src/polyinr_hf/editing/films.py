"""Frames drawn one at a time, and written as GIF, MP4 or one PNG with the frames side by side."""

from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from diffusers.utils import export_to_video, make_image_grid
from PIL import Image
from torch import Tensor

from ..checks import whole_number
from ..files import replace_file
from ..pipeline_poly_inr import PolyINRPipeline
from .extents import Extent

FILM_SUFFIXES = (".gif", ".mp4", ".png")
MAX_FPS = 50  # a GIF counts in hundredths of a second, and players take less than two of them for ten


def draw_frames(
    pipe: PolyINRPipeline,
    affine_parameters: Tensor | Iterable[Tensor],
    extents: Sequence[Extent] | None = None,
    **drawing: Any,
) -> Iterator[Image.Image]:
    """Pictures of a film, one at a time: `draw_frames(pipe, walk(...))`, `draw_frames(pipe, A, extents)`.

    Args:
        affine_parameters: A (1, L, n, 3) of each frame, from `walk`; a tensor (F, L, n, 3), from `interpolate`; or,
            with `extents`, the one image (1, L, n, 3) they are seen in.
        extents: of each frame, from `interpolate_extents`.
        drawing: `height`, `width`, `extent`, `antialias` and `tolerance`, as the pipeline has them.

    Raises:
        ValueError: as the pipeline; and for `extents` with more than one image.
    """
    draw: Any = pipe  # which `drawing` may ask for anything
    if extents is not None:
        if not isinstance(affine_parameters, Tensor) or len(affine_parameters) != 1:
            raise ValueError("`affine_parameters` must be those of one image, (1, L, n, 3), where `extents` move.")
        return (draw(affine_parameters=affine_parameters, extent=extent, **drawing).images[0] for extent in extents)
    frames = affine_parameters.split(1) if isinstance(affine_parameters, Tensor) else affine_parameters
    return (draw(affine_parameters=A, **drawing).images[0] for A in frames)


def tile_films(films: Sequence[Iterable[Image.Image]], rows: int, columns: int) -> Iterator[Image.Image]:
    """Films side by side as one, frame by frame, row by row.

    Raises:
        ValueError: for another number of films than fill the grid, and, when drawn, films of several lengths.
    """
    if len(films) != rows * columns:
        raise ValueError(f"`films` must be as many as fill {rows} x {columns}, got {len(films)}.")
    return (make_image_grid(list(frames), rows, columns) for frames in zip(*films, strict=True))


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
            # In whole hundredths of a second, which is what a GIF has, so that they add up to the film's length.
            ends = [round(100 * (i + 1) / fps) for i in range(len(frames))]
            durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]  # milliseconds
            frames[0].save(partial, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=False)
        else:
            export_to_video(frames, str(partial), fps=fps, quality=8, macro_block_size=2)


def check_film(path: str | Path, fps: int = 20, suffixes: Sequence[str] = FILM_SUFFIXES) -> None:
    """Raises what `save_film` would for `path` and `fps`: call it before drawing for an hour."""
    suffix = Path(path).suffix.lower()
    if suffix not in suffixes:
        raise ValueError(f"`output` must end in {' or '.join(suffixes)}, got {str(path)!r}.")
    if not 1 <= (whole_number(fps) or 0) <= MAX_FPS:
        raise ValueError(f"`fps` must be a whole number in 1..{MAX_FPS}, got {fps!r}.")
    if suffix == ".mp4" and not (find_spec("imageio") and find_spec("imageio_ffmpeg")):
        raise ImportError('MP4 needs imageio and imageio-ffmpeg: pip install "polyinr-hf[film]". GIF needs neither.')
