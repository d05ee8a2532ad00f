"""What rendering costs: the naive implementation, `render`, and the matrix products alone, side by side on one machine.

Everything is measured in a process of its own, with the same seeded weights, so that peak memory is that of one job.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_count
from ..modeling_poly_inr import FEATURE_LIMIT, NEGATIVE_SLOPE, PolyINRGenerator, pixel_coordinates
from ..reconstruction import psnr
from ..training.reporting import peak_memory_mb

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LIMIT_CHUNKS = (512, 1024, 2048, 4096)  # pixels at once that the limit is searched over
LIMIT_PIXELS = 256 * 256  # products grow linearly with pixels: measured up to here, scaled beyond


@dataclass
class RenderResult:
    """One row of the table; see `measure_rendering` for the quantities."""

    size: int
    dtype: str
    plain_seconds: float | None
    seconds: float
    limit_seconds: float
    psnr: float | None
    peak_mb: float


def synthesize_plainly(model: PolyINRGenerator, w: Tensor, height: int, width: int) -> Tensor:
    """Images (B, 3, H, W) of w (B, L, w_dim) the way the formulas are written down, with nothing folded or chunked.

    Every level runs on the whole pixel grid, composes its coordinates and its modulation pixel by pixel, and level 0
    multiplies n features by its n x n matrix like any other. Differentiable.
    """
    grid = pixel_coordinates(height, width, device=w.device)  # (H * W, 2)
    x = None
    for level, (affine, linear) in enumerate(zip(model.affine_levels, model.synthesis_levels, strict=True)):
        coefficient, bias, rotation, shift = affine(w[:, level])
        grid = grid @ rotation + shift  # (B, H * W, 2)
        modulation = grid @ coefficient + bias.unsqueeze(1)  # (B, H * W, n)
        x = modulation if x is None else x * F.leaky_relu(modulation, NEGATIVE_SLOPE)  # (B, H * W, n)
        x = F.leaky_relu(F.linear(x, linear.weight, linear.bias), NEGATIVE_SLOPE).clamp(
            -FEATURE_LIMIT, FEATURE_LIMIT
        )  # (B, H * W, n)
    return model.to_rgb(x).transpose(1, 2).unflatten(2, (height, width))  # (B, 3, H, W)


def matmul_limit(pixels: int, channels: int, dtype: torch.dtype, num_levels: int = 10) -> float:
    """Seconds this machine needs for the matrix products of an image alone, at the chunk of pixels that suits it best.

    The products are level 0's (pixels, 3) x (3, n), one (pixels, n) x (n, n) for each later level, and
    (pixels, n) x (n, 3), into memory allocated beforehand.
    """
    measured = min(pixels, LIMIT_PIXELS)
    X, coefficient = torch.randn(measured, 3, dtype=dtype), torch.randn(channels, 3, dtype=dtype)
    weight, to_rgb = torch.randn(channels, channels, dtype=dtype), torch.randn(3, channels, dtype=dtype)

    def multiply(chunk: int, count: int) -> None:
        x, y = torch.empty(2, chunk, channels, dtype=dtype)
        rgb = torch.empty(chunk, 3, dtype=dtype)
        for start in range(0, count, chunk):
            n = min(chunk, count - start)
            torch.mm(X[start : start + n], coefficient.t(), out=x[:n])
            for _ in range(num_levels - 1):
                torch.mm(x[:n], weight.t(), out=y[:n])
            torch.mm(y[:n], to_rgb.t(), out=rgb[:n])

    chunks = [chunk for chunk in LIMIT_CHUNKS if chunk <= measured] or [measured]
    trial = min(measured, 2 * max(chunks))
    best = min(chunks, key=lambda chunk: best_of(lambda: multiply(chunk, trial))[1])
    return best_of(lambda: multiply(best, measured))[1] * pixels / measured


def measure_rendering(
    sizes: list[int], channels: int = 1024, threads: int | None = None, plain_max_size: int = 256
) -> Iterator[RenderResult]:
    """Measures square images of an untrained model, batch 1, eager, on the CPU; yields a row per size and dtype.

    Args:
        sizes: Heights, equal to widths, in pixels.
        channels: Channels n of the model.
        threads: Threads of every measurement, torch's default if `None`.
        plain_max_size: Largest size drawn by `synthesize_plainly`, whose memory grows with the image.

    Yields:
        `plain_seconds`: `synthesize_plainly` in float32, `None` above `plain_max_size`. `seconds`: `render`.
        `limit_seconds`: `matmul_limit` in the row's dtype. `psnr`: dB against the float32 image for images in [-1, 1],
        `None` for float32 itself. `peak_mb`: highest resident memory of a process that renders this image, in MB.

    Raises:
        ValueError: for a size, `channels` or `threads` below 1.
        RuntimeError: if the naive implementation and `render` do not draw the same image.
    """
    for name, value in [("sizes", size) for size in sizes] + [("channels", channels), ("threads", threads or 1)]:
        check_count(name, value)
    for size in sizes:
        plain_seconds = None
        if size <= plain_max_size:
            plain, plain_seconds = in_fresh_process(_measure_plain, size, channels, threads)
        for dtype in DTYPES:
            limit_seconds = in_fresh_process(_measure_limit, size, channels, dtype, threads)
            image, seconds, peak_mb = in_fresh_process(_measure_render, size, channels, dtype, threads)
            if dtype == "float32":
                exact = image
                if plain_seconds is not None:
                    _check_same(image, plain)
            quality = None if dtype == "float32" else psnr(image, exact.clamp(-1, 1))[0]
            yield RenderResult(size, dtype, plain_seconds, seconds, limit_seconds, quality, peak_mb)


def format_table(results: list[RenderResult]) -> str:
    """Rows of `measure_rendering` as a text table, ratios included."""
    lines = [" size  dtype       plain s      ours s    limit s  x plain  of limit  PSNR dB  peak MB"]
    for row in results:
        plain, ratio, psnr = "-", "-", "-" if row.psnr is None else f"{row.psnr:.1f}"
        if row.plain_seconds is not None:
            plain, ratio = f"{row.plain_seconds:.3f}", f"{row.plain_seconds / row.seconds:.2f}"
        lines.append(
            f"{row.size:5d}  {row.dtype:9s} {plain:>9s} {row.seconds:11.3f} {row.limit_seconds:10.3f} {ratio:>8s}"
            f" {row.limit_seconds / row.seconds:9.2f} {psnr:>8s} {row.peak_mb:8.0f}"
        )
    return "\n".join(lines)


def as_json(results: list[RenderResult]) -> dict:
    """`{"results": [...]}`, a dictionary for each row."""
    return {"results": [asdict(row) for row in results]}


def in_fresh_process(function: Callable, *args):
    """Result of a module-level function called in a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *args).result()


def _seeded_model(channels: int, threads: int | None) -> tuple[PolyINRGenerator, Tensor]:
    """An unconditional model and one w (1, L, w_dim), the same in every process."""
    set_threads(threads)
    torch.manual_seed(0)
    model = PolyINRGenerator(channels=channels, num_classes=None).eval().requires_grad_(False)
    return model, model.map(torch.randn(1, model.config.z_dim))


@torch.no_grad()
def _measure_plain(size: int, channels: int, threads: int | None) -> tuple[Tensor, float]:
    model, w = _seeded_model(channels, threads)
    synthesize_plainly(model, w, 8, 8)
    return best_of(lambda: synthesize_plainly(model, w, size, size), repeats=1)


def _measure_render(size: int, channels: int, dtype: str, threads: int | None) -> tuple[Tensor, float, float]:
    model, w = _seeded_model(channels, threads)
    A = model.affine(w)  # the same for both dtypes: what differs is the synthesis
    if dtype == "bfloat16":
        model.bfloat16()
    model.render(A, 8, 8)
    image, seconds = best_of(lambda: model.render(A, size, size), repeats=2 if size * size <= LIMIT_PIXELS else 1)
    return image, seconds, peak_memory_mb(image.device)


def _measure_limit(size: int, channels: int, dtype: str, threads: int | None) -> float:
    set_threads(threads)
    return matmul_limit(size * size, channels, DTYPES[dtype])


def set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def best_of(run: Callable[[], Tensor | None], repeats: int = 2) -> tuple[Tensor | None, float]:
    """What `run` returns, and the seconds of its fastest call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)


def _check_same(image: Tensor, reference: Tensor) -> None:
    difference = ((image - reference).abs().max() / reference.abs().max()).item()
    if not difference <= 1e-5:
        raise RuntimeError(f"The naive implementation and `render` draw different images, {difference:.1e} apart.")
