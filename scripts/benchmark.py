"""Measure rendering and training on this machine: the naive implementation, this package and the limit, in one run.

    python scripts/benchmark.py render --sizes 256 512 --json render.json
    python scripts/benchmark.py render --pipeline pretrained/poly-inr-emoji --tolerance 0.1 0.2 --sizes 256 512
    python scripts/benchmark.py train --set data.dataset=data/emoji-64 --json train.json

`render`: an untrained model of the ImageNet size draws square images, batch 1, on the CPU. Columns: seconds of the
naive implementation (every level on the whole pixel grid, nothing folded) in float32, of this package, and of the
matrix products alone in the same dtype, which is the limit; the speed-up over the naive implementation; the fraction of
the limit that is reached; PSNR of bfloat16 against float32; peak memory of a process that renders the image. A
256 x 256 image takes seconds; four times that per doubling.

`render --pipeline`: images of a trained model, exact and adaptive (`render(tolerance=...)`) in turn. Columns: seconds
of both, how many times faster, the share of pixels that the network was run at, PSNR against the exact image, mean and
worst, the largest error of a pixel, and peak memory. Classes are spread evenly over the model's; `--parameters` are
files of affine parameters, as `edit.py invert` writes them, instead.

`plan`: what each stage of a recipe costs, counted without computing it or having the device: products of an image in a
step of generator and discriminator, peak memory of a process, days, images a second to load. It ends with an error that
names the key to change if the memory is too small.

    python scripts/benchmark.py plan --recipe configs/imagenet.yaml --processes 8

`train`: the first stage of a recipe on its data. Seconds of the whole step and of the generator's forward and backward,
naively (float32, eager, nothing folded) and as the recipe says, and the peak memory of the generator's backward with
and without chunks of pixels.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from arguments import one_line_errors
from polyinr_hf import PolyINRPipeline, benchmarks, training
from polyinr_hf.checks import check_count, check_number


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render", help="seconds, share of the limit, PSNR and memory of rendering")
    render.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024, 2048], help="heights in pixels")
    render.add_argument("--channels", type=int, default=1024, help="channels of the model (default: 1024)")
    render.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    render.add_argument(
        "--plain_max_size",
        type=int,
        default=256,
        help="largest size drawn by the naive implementation too, whose memory grows with the image (default: 256)",
    )
    adaptive = render.add_argument_group("adaptive rendering of a trained model")
    adaptive.add_argument("--pipeline", help="pipeline folder or Hub id: measure adaptive rendering")
    adaptive.add_argument(
        "--tolerance", type=float, nargs="+", default=[0.1, 0.2], help="tolerances (default: 0.1 0.2)"
    )
    adaptive.add_argument(
        "--num_images",
        type=int,
        nargs="+",
        default=[32],
        help="number of images for each size, or for all (default: 32)",
    )
    adaptive.add_argument(
        "--parameters", nargs="+", metavar="FILE", help="files of affine parameters to draw instead of samples"
    )
    adaptive.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="(default: float32)")
    adaptive.add_argument("--picture", type=Path, help="PNG to write: where the network runs at the first size")
    adaptive.add_argument("--plot", type=Path, help="PNG to write: seconds against size")
    render.add_argument("--json", type=Path, help="file to write the results to")
    render.set_defaults(run=run_render)

    plan = commands.add_parser("plan", help="what a recipe costs on devices that need not be here")
    plan.add_argument("--recipe", default="configs/imagenet.yaml", help="YAML file (default: configs/imagenet.yaml)")
    plan.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="values of the recipe to change, such as stages.0.batch_size=64",
    )
    plan.add_argument("--processes", type=int, default=1, help="number of processes, one device each (default: 1)")
    plan.add_argument("--num_classes", type=int, default=1000, help="classes in the data (default: 1,000)")
    plan.add_argument("--memory_gb", type=float, default=80.0, help="memory of a device in GiB (default: 80)")
    plan.add_argument(
        "--device", default="H100", help="name of the device (default: H100), or its peak in TFLOP/s of bfloat16"
    )
    plan.add_argument("--share", type=float, default=0.3, help="share of the peak that is reached (default: 0.3)")
    plan.add_argument("--json", type=Path, help="file to write the results to")
    plan.set_defaults(run=run_plan)

    train = commands.add_parser("train", help="seconds of a training step, memory of chunks of pixels")
    train.add_argument("--recipe", default="examples/emoji/kinds.yaml", help="YAML file (default: %(default)s)")
    train.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="values of the recipe to change, such as data.dataset=my/folder",
    )
    train.add_argument(
        "--memory_sizes",
        type=int,
        nargs="+",
        default=[64, 128, 256],
        help="sides in pixels of the images of the memory test",
    )
    train.add_argument(
        "--memory_batch_size", type=int, default=2, help="number of images in the memory test (default: 2)"
    )
    train.add_argument(
        "--pixel_chunk", type=int, default=4096, help="pixels of a chunk in the memory test (default: 4096)"
    )
    train.add_argument("--json", type=Path, help="file to write the results to")
    train.set_defaults(run=run_train)
    return parser.parse_args(argv)


def run_render(args) -> dict:
    if args.pipeline:
        return run_adaptive(args)
    results = []
    for row in benchmarks.measure_rendering(args.sizes, args.channels, args.threads, args.plain_max_size):
        print(f"measured {row.size} x {row.size} {row.dtype}: {row.seconds:.2f} s", file=sys.stderr)
        results.append(row)
    print(benchmarks.format_table(results))
    return benchmarks.as_json(results)


def run_plan(args) -> dict:
    check_count("--processes", args.processes)
    check_number("--memory_gb", args.memory_gb, positive=True)
    recipe = training.load_recipe(args.recipe, args.set)
    try:
        peak = training.PEAK_TFLOPS.get(args.device) or float(args.device)
    except ValueError:
        known = ", ".join(training.PEAK_TFLOPS)
        raise ValueError(f"`--device` must be one of {known}, or a number, got {args.device!r}.") from None
    num_classes = args.num_classes if recipe.data.class_conditional else None
    costs = training.plan_recipe(recipe, args.processes, num_classes)
    print(training.format_plan(costs, args.processes, peak, args.share))
    training.check_memory(costs, recipe.discriminator.batch_norm_group_size, args.memory_gb)
    return {"processes": args.processes, "stages": [asdict(cost) for cost in costs]}


def run_adaptive(args) -> dict:
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
    for row in benchmarks.measure_adaptive_rendering(args.pipeline, A, args.sizes, args.tolerance, counts, **options):
        print(f"measured {row.size} x {row.size}, {row.tolerance:g}: {row.seconds:.2f} s", file=sys.stderr)
        results.append(row)
    print(benchmarks.format_adaptive_table(results))
    if args.picture:
        picture = benchmarks.draw_where_run(
            pipe.generator, A[:: max(1, len(A) // 3)][:3], args.sizes[0], args.tolerance[0]
        )
        args.picture.parent.mkdir(parents=True, exist_ok=True)
        picture.save(args.picture)
    if args.plot:
        benchmarks.plot_costs(results, args.plot)
    return benchmarks.adaptive_as_json(results)


def encode_evenly(pipe: PolyINRPipeline, count: int) -> torch.Tensor:
    """Affine parameters of `count` images, seeds 0, 1, ..., classes spread evenly over the model's."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    num_classes = pipe.generator.config.num_classes
    if num_classes is None:
        return pipe.encode(num_images_per_label=count, generator=generators)
    return pipe.encode([i * num_classes // count for i in range(count)], generator=generators)


def run_train(args) -> dict:
    recipe = training.load_recipe(args.recipe, args.set)
    results = benchmarks.measure_training(recipe, args.memory_sizes, args.memory_batch_size, args.pixel_chunk)
    print(benchmarks.format_training(results))
    return results


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        results = args.run(args)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
