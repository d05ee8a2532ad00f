"""What a recipe costs on devices that need not be here, counted without computing it.

    python scripts/plan.py --recipe configs/imagenet.yaml --processes 8
    python scripts/plan.py --recipe configs/ffhq.yaml --set stages.3.batch_size=32 --device A100 --memory_gb 40

Of each stage: products of an image in a step of generator and discriminator, peak memory of a process, days, images a
second to load. It ends with an error that names the key to change if the memory is too small.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from arguments import one_line_errors
from polyinr_hf import training
from polyinr_hf.checks import check_count, check_number
from polyinr_hf.commands import find_file, make_parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--recipe", default="configs/imagenet.yaml", help="YAML file (default: %(default)s)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="values of the recipe to change, such as stages.0.batch_size=64",
    )
    parser.add_argument("--processes", type=int, default=1, help="number of processes, one device each (default: 1)")
    parser.add_argument("--num_classes", type=int, default=1000, help="classes in the data (default: 1,000)")
    parser.add_argument("--memory_gb", type=float, default=80.0, help="memory of a device in GiB (default: 80)")
    parser.add_argument(
        "--device", default="H100", help="name of the device (default: H100), or its peak in TFLOP/s of bfloat16"
    )
    parser.add_argument("--share", type=float, default=0.3, help="share of the peak that is reached (default: 0.3)")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    return parser.parse_args(argv)


def plan(args: argparse.Namespace) -> dict:
    check_count("--processes", args.processes)
    check_number("--memory_gb", args.memory_gb, positive=True)
    recipe = training.load_recipe(find_file(args.recipe), args.set)
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


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with one_line_errors():
        results = plan(args)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
