"""Measure what this machine needs for an image or a training step, all ways in one run.

    python scripts/benchmark.py render --sizes 256 512 --json render.json
    python scripts/benchmark.py train --recipe configs/emoji.yaml --set data.dataset=data/emoji-64 --json train.json

`render`: an untrained model of the ImageNet size draws square images, batch 1, on the CPU. Columns: seconds of the
plain way (every level on the whole pixel grid, nothing folded) in float32, of ours, and of the matrix products alone in
the same dtype; how many times faster than the plain way; our share of the limit; PSNR of bfloat16 against float32; peak
memory of a process that renders the image. A 256 x 256 image takes seconds; four times that per doubling.

`train`: the first stage of a recipe on its data. Seconds of the whole step and of the generator's forward and backward,
the plain way (float32, eager, nothing folded) and as the recipe says, and the peak memory of the generator's backward
with and without chunks of pixels.
"""

import argparse
import json
import sys
from pathlib import Path

from arguments import one_line_errors
from polyinr_hf import benchmarks, training


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
        help="largest size drawn the plain way too; its memory grows with the image (default: 256)",
    )
    render.add_argument("--json", type=Path, help="file to write the results to")
    render.set_defaults(run=run_render)

    train = commands.add_parser("train", help="seconds of a training step, memory of chunks of pixels")
    train.add_argument("--recipe", default="configs/emoji.yaml", help="YAML file (default: configs/emoji.yaml)")
    train.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="values of the recipe to change, such as data.dataset=my/folder",
    )
    train.add_argument("--memory_sizes", type=int, nargs="+", default=[64, 128, 256], help="pixels a side")
    train.add_argument("--memory_batch_size", type=int, default=2, help="images of the memory test (default: 2)")
    train.add_argument("--pixel_chunk", type=int, default=4096, help="pixels at once in it (default: 4096)")
    train.add_argument("--json", type=Path, help="file to write the results to")
    train.set_defaults(run=run_train)
    return parser.parse_args(argv)


def run_render(args) -> dict:
    results = []
    for row in benchmarks.measure_rendering(args.sizes, args.channels, args.threads, args.plain_max_size):
        print(f"measured {row.size} x {row.size} {row.dtype}: {row.seconds:.2f} s", file=sys.stderr)
        results.append(row)
    print(benchmarks.format_table(results))
    return benchmarks.as_json(results)


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
