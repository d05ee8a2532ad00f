"""What rendering costs on this machine: the naive implementation, `render`, and the matrix products alone, in one run.

    python benchmarks/rendering.py --sizes 256 512 --json render.json

An untrained model of the ImageNet size draws square images, batch 1, on the CPU. Columns: seconds of the naive
implementation (every level on the whole pixel grid, nothing folded) in float32, of this package, and of the matrix
products alone in the same dtype, which is the limit; the speed-up over the naive implementation; the fraction of the
limit that is reached; PSNR of bfloat16 against float32; peak memory of a process that renders the image. A 256 x 256
image takes seconds; four times that per doubling. Everything is measured in a process of its own, with the same seeded
weights. What adaptive rendering saves of it: benchmarks/adaptive.py.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from measuring import DTYPES, best_of, in_fresh_process, make_parser, run_command, set_threads
from polyinr_hf import PolyINRGenerator
from polyinr_hf.checks import check_count
from polyinr_hf.images import psnr
from polyinr_hf.modeling_poly_inr import FEATURE_LIMIT, NEGATIVE_SLOPE, pixel_coordinates
from polyinr_hf.training.reporting import peak_memory_mb

MEASURED = ("float32", "bfloat16")  # dtypes
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
        for dtype in MEASURED:
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


def _check_same(image: Tensor, reference: Tensor) -> None:
    difference = ((image - reference).abs().max() / reference.abs().max()).item()
    if not difference <= 1e-5:
        raise RuntimeError(f"The naive implementation and `render` draw different images, {difference:.1e} apart.")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048], help="heights in pixels")
    parser.add_argument("--channels", type=int, default=1024, help="channels of the model (default: 1024)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--plain_max_size",
        type=int,
        default=256,
        help="largest size drawn by the naive implementation too, whose memory grows with the image (default: 256)",
    )
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict:
    results = []
    for row in measure_rendering(args.sizes, args.channels, args.threads, args.plain_max_size):
        print(f"measured {row.size} x {row.size} {row.dtype}: {row.seconds:.2f} s", file=sys.stderr)
        results.append(row)
    print(format_table(results))
    return {"results": [asdict(row) for row in results]}


def main(argv: list[str] | None = None) -> None:
    run_command(measure, parse_args(argv))


if __name__ == "__main__":
    main()
