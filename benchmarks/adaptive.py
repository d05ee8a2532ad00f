"""What adaptive rendering saves and what it costs in quality, exact and adaptive image by image in one run.

    python benchmarks/adaptive.py --pipeline pretrained/poly-inr-emoji --tolerance 0.1 0.2 --sizes 256 512

Random images of a trained pipeline, classes evenly among them, on the CPU. Columns: median seconds of an image drawn
exactly and with the tolerance; how many times faster; points that the network was run at, as a share of the pixels;
mean and lowest PSNR against the exact image, and the largest error of any pixel; peak memory of a process that draws
one image. --plot draws seconds against size, --picture where the network runs. `--parameters` takes images from files
of affine parameters (edit.py writes them), such as inverted photographs, instead.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import torch
from diffusers.utils import make_image_grid
from PIL import Image
from torch import Tensor

from measuring import DTYPES, best_of, in_fresh_process, make_parser, run_command, set_threads
from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf._lazy import naming_extra
from polyinr_hf.adaptive_rendering import Lattice, first_pitch, refine
from polyinr_hf.checks import check_count, check_number
from polyinr_hf.files import replace_file
from polyinr_hf.images import caption, psnr
from polyinr_hf.modeling_poly_inr import coordinate_axes
from polyinr_hf.training.reporting import peak_memory_mb

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass
class AdaptiveResult:
    """One row of the table; see `measure_adaptive_rendering` for the quantities."""

    size: int
    dtype: str
    tolerance: float
    num_images: int
    exact_seconds: float
    seconds: float
    share_run: float
    psnr: float
    psnr_worst: float
    largest_error: float
    exact_peak_mb: float
    peak_mb: float


def measure_adaptive_rendering(
    pipeline: str | Path,
    A: Tensor,
    sizes: Sequence[int],
    tolerances: Sequence[float],
    num_images: Sequence[int],
    dtype: str = "float32",
    threads: int | None = None,
) -> Iterator[AdaptiveResult]:
    """Draws square images with `render`, exactly and with each tolerance, one at a time; yields a row for each.

    Args:
        pipeline: Folder or Hub id.
        A: Affine parameters (B, L, n, 3) of the images.
        num_images: How many of them, spread evenly over A, are drawn at each size.
        dtype: "float32", "bfloat16" or "float16", of exact and adaptive images alike.

    Yields:
        `exact_seconds`, `seconds`: median of the images, drawn once each way, in turn.
        `share_run`: points that the network was run at, of all pixels. `psnr`, `psnr_worst`: mean and lowest PSNR of an
        image against the exact one, in dB, clipped to [-1, 1]. `largest_error`: of any pixel of any image, of 255.
        `exact_peak_mb`, `peak_mb`: highest resident memory of a process that draws one image.

    Raises:
        ValueError: for a size, tolerance, number of images or dtype out of range, or numbers that are not one per size.
    """
    for size in sizes:
        check_count("sizes", size)
    for tolerance in tolerances:
        check_number("tolerances", tolerance, positive=True)
    if len(num_images) != len(sizes) or not all(1 <= count <= len(A) for count in num_images):
        raise ValueError(f"`num_images` must be one number in 1..{len(A)} for each size, got {list(num_images)}.")
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {tuple(DTYPES)}, got {dtype!r}.")
    for size, count in zip(sizes, num_images, strict=True):
        chosen = A[[i * len(A) // count for i in range(count)]]
        peaks = [in_fresh_process(_measure_peak, pipeline, chosen[:1], size, t, dtype, threads) for t in tolerances]
        images, exact_peak_mb = in_fresh_process(_measure_images, pipeline, chosen, size, tolerances, dtype, threads)
        for i, tolerance in enumerate(tolerances):
            exact_seconds, seconds, share_run, decibels, error = zip(*(image[i] for image in images), strict=True)
            times = median(exact_seconds), median(seconds)  # a pause of the machine is no matter
            quality = fmean(share_run), fmean(decibels), min(decibels), max(error)
            yield AdaptiveResult(size, dtype, tolerance, count, *times, *quality, exact_peak_mb, peaks[i])


def format_adaptive_table(results: list[AdaptiveResult]) -> str:
    """Rows of `measure_adaptive_rendering` as a Markdown table, ratios included."""
    lines = [
        "| size | images | tolerance | exact, s | adaptive, s | times faster | share run | PSNR, dB: mean | worst |"
        " largest error, of 255 | memory, MB: exact | adaptive |",
        "|---" * 12 + "|",
    ]
    for row in results:
        lines.append(
            f"| {row.size} | {row.num_images} | {row.tolerance:g} | {row.exact_seconds:.3f} | {row.seconds:.3f}"
            f" | {row.exact_seconds / row.seconds:.1f} | {row.share_run:.4f} | {row.psnr:.1f} | {row.psnr_worst:.1f}"
            f" | {row.largest_error:.0f} | {row.exact_peak_mb:.0f} | {row.peak_mb:.0f} |"
        )
    return "\n".join(lines)


def plot_costs(results: list[AdaptiveResult], path: str | Path) -> None:
    """Draws seconds of an image against its size on log axes, exact and for each tolerance, as PNG.

    Dashed lines grow with the area and with the length of the edges from the smallest image on.
    """
    with naming_extra("plot_costs", "eval"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    sizes = sorted({row.size for row in results})
    exact = [next(row.exact_seconds for row in results if row.size == size) for size in sizes]
    axes.loglog(sizes, exact, "-o", color="C0", label="exact")
    axes.loglog(sizes, [exact[0] * (size / sizes[0]) ** 2 for size in sizes], "--", color="0.6", label="as the area")
    for i, tolerance in enumerate(sorted({row.tolerance for row in results}), start=1):
        rows = sorted((row for row in results if row.tolerance == tolerance), key=lambda row: row.size)
        axes.loglog([r.size for r in rows], [r.seconds for r in rows], "-o", color=f"C{i}", label=f"{tolerance:g}")
    edges = [rows[0].seconds * size / rows[0].size for size in sizes]
    axes.loglog(sizes, edges, ":", color="0.6", label="as the length of edges")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="height and width in pixels", ylabel="seconds for an image")
    axes.legend(title="tolerance", fontsize="small")
    with replace_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120)


@torch.no_grad()
def draw_where_run(generator: PolyINRGenerator, A: Tensor, size: int, tolerance: float) -> Image.Image:
    """A row for each image A (B, L, n, 3): adaptive, its error times 8, and in orange the pixels that were run.

    Raises:
        ValueError: for a tolerance that is none.
    """
    check_number("tolerance", tolerance)
    columns = {f"tolerance {tolerance:g}": [], "error x 8": [], "where the network was run": []}
    for a in A.split(1):
        lattice = _last_lattice(generator, a, size, tolerance)
        exact = generator.render(a, size, size)[0].float().clamp(-1, 1)  # (3, H, W)
        image = lattice.values[0].clamp(-1, 1)
        error = ((image - exact).abs() * 8 - 1).clamp(-1, 1)
        gray = exact.mean(dim=0, keepdim=True).mul(0.3).sub(0.1).expand(3, -1, -1)  # dimmed
        orange = torch.tensor([1.0, 0.3, -1.0], device=gray.device)[:, None, None]
        where = torch.where(lattice.ran[0], orange, gray)
        for column, part in zip(columns.values(), (image, error, where), strict=True):
            column.append(part.cpu())
    pictures = []
    for words, parts in columns.items():
        pixels = torch.cat(parts, dim=1).add(1).mul(127.5).round().byte()  # (3, B * H, W)
        pictures.append(caption(Image.fromarray(pixels.permute(1, 2, 0).numpy()), words))
    return make_image_grid(pictures, rows=1, cols=3)


def _last_lattice(generator: PolyINRGenerator, A: Tensor, size: int, tolerance: float) -> Lattice:
    axes, pitch = coordinate_axes(size, size), first_pitch(size, size, WHOLE, generator.config.sample_size)
    chunk_size = generator.default_chunk_size(A.device)
    *_, lattice = refine(generator.as_function(A), *axes, pitch, tolerance, chunk_size)
    return lattice


def _open(pipeline: str | Path, dtype: str, threads: int | None) -> PolyINRGenerator:
    set_threads(threads)
    generator = PolyINRPipeline.from_pretrained(pipeline, dtype=DTYPES[dtype]).generator
    generator.render(torch.zeros(1, generator.config.num_levels, generator.config.channels, 3), 64, 64)
    return generator


def _measure_peak(pipeline, A: Tensor, size: int, tolerance: float, dtype: str, threads: int | None) -> float:
    _open(pipeline, dtype, threads).render(A, size, size, tolerance=tolerance)
    return peak_memory_mb(A.device)


def _measure_images(pipeline, A: Tensor, size: int, tolerances, dtype: str, threads: int | None):
    """For each image and tolerance, exact and adaptive seconds, share run, PSNR, error; peak memory of an exact one."""
    generator = _open(pipeline, dtype, threads)
    points = 0

    def count(module, features: tuple[Tensor], colors: Tensor) -> None:
        nonlocal points
        points += colors.shape[1]  # of (1, N, 3)

    generator.to_rgb.register_forward_hook(count)
    results, peak_mb = [], None
    for a in A.split(1):
        image, exact_seconds = best_of(lambda a=a: generator.render(a, size, size), repeats=1)
        exact = image.float().clamp(-1, 1)
        peak_mb = peak_memory_mb(A.device) if peak_mb is None else peak_mb
        row = []
        for tolerance in tolerances:
            points = 0
            image, seconds = best_of(lambda a=a, t=tolerance: generator.render(a, size, size, tolerance=t), repeats=1)
            image = image.float().clamp(-1, 1)
            error = (image - exact).abs().max().item() * 127.5
            row.append((exact_seconds, seconds, points / size**2, psnr(image, exact)[0], error))
        results.append(row)
    return results, peak_mb


def encode_evenly(pipe: PolyINRPipeline, count: int) -> Tensor:
    """Affine parameters of `count` images, seeds 0, 1, ..., classes spread evenly over the model's."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    num_classes = pipe.generator.config.num_classes
    if num_classes is None:
        return pipe.encode(num_images_per_label=count, generator=generators)
    return pipe.encode([i * num_classes // count for i in range(count)], generator=generators)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048], help="heights in pixels")
    parser.add_argument("--tolerance", type=float, nargs="+", default=[0.1, 0.2], help="tolerances (default: 0.1 0.2)")
    parser.add_argument(
        "--num_images", type=int, nargs="+", default=[32], help="images for each size, or for all (default: 32)"
    )
    parser.add_argument(
        "--parameters", nargs="+", metavar="FILE", help="files of affine parameters to draw instead of samples"
    )
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="(default: float32)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--picture", type=Path, help="PNG to write: where the network runs at the first size")
    parser.add_argument("--plot", type=Path, help="PNG to write: seconds against size")
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict:
    pipe = PolyINRPipeline.from_pretrained(args.pipeline)
    if args.parameters:
        from polyinr_hf.inversion import load_affine_parameters

        A = torch.cat([load_affine_parameters(path) for path in args.parameters])
    else:
        A = encode_evenly(pipe, max(args.num_images))
    counts = args.num_images * len(args.sizes) if len(args.num_images) == 1 else args.num_images
    counts = [min(count, len(A)) for count in counts]
    results = []
    options = {"dtype": args.dtype, "threads": args.threads}
    for row in measure_adaptive_rendering(args.pipeline, A, args.sizes, args.tolerance, counts, **options):
        print(f"measured {row.size} x {row.size}, {row.tolerance:g}: {row.seconds:.2f} s", file=sys.stderr)
        results.append(row)
    print(format_adaptive_table(results))
    if args.picture:
        picture = draw_where_run(pipe.generator, A[:: max(1, len(A) // 3)][:3], args.sizes[0], args.tolerance[0])
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        picture.save(args.picture)
    if args.plot:
        plot_costs(results, args.plot)
    return {"results": [asdict(row) for row in results]}


def main(argv: list[str] | None = None) -> None:
    run_command(measure, parse_args(argv))


if __name__ == "__main__":
    main()
