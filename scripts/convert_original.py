"""Convert one of the authors' checkpoints (.pkl) to a pipeline folder, without running anything inside it.

    python scripts/convert_original.py --checkpoint best_model.pkl --output poly-inr-imagenet --id2label imagenet

Prints the folder; `PolyINRPipeline.from_pretrained` opens it.
"""

import sys
from pathlib import Path

from arguments import one_line_errors
from polyinr_hf.checks import check_new_folder
from polyinr_hf.commands import make_parser
from polyinr_hf.conversion import convert_original_checkpoint, measure_grid, read_id2label
from polyinr_hf.files import replace_folder


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--checkpoint", required=True, help="the authors' pickle, of any stage, or a state dict")
    parser.add_argument("--output", required=True, help="folder to write; must be new or empty")
    parser.add_argument(
        "--id2label",
        help="class names: a file of one a line or of JSON (a list, {id: name} or {name: id}), or the word imagenet "
        "(needs timm)",
    )
    parser.add_argument(
        "--weights", default="G_ema", choices=("G_ema", "G"), help="running average of the generator, or the last one"
    )
    parser.add_argument("--uniform_grid", action="store_true", help="drop a pixel grid that was trained")
    parser.add_argument("--variant", choices=("fp16",), help="write half-precision weights too, under this name")
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        check_new_folder(args.output)
        print(f"reading {args.checkpoint}, {Path(args.checkpoint).stat().st_size / 1e6:,.0f} MB", file=sys.stderr)
        id2label = read_id2label(args.id2label) if args.id2label else None
        pipe = convert_original_checkpoint(args.checkpoint, id2label, args.weights)
    config = pipe.generator.config
    print(
        f"{config.channels} channels, {config.num_levels} levels, {config.num_classes or 'no'} classes, "
        f"{config.sample_size}x{config.sample_size} pixels",
        file=sys.stderr,
    )
    if config.grid_size:
        grid = measure_grid(pipe.generator)
        print(
            f"pixel grid trained: at most {grid['max']:.2g} pixels from uniform, {grid['mean']:.2g} on average; "
            f"images on both are {grid['psnr']:.1f} dB apart; "
            + ("dropped" if args.uniform_grid else f"kept, and drawn on at {config.grid_size}x{config.grid_size}"),
            file=sys.stderr,
        )
        if args.uniform_grid:
            pipe.generator.drop_trained_grid()
    with replace_folder(args.output) as folder:
        pipe.save_pretrained(folder)
        if args.variant:
            pipe.generator.half()
            pipe.save_pretrained(folder, variant=args.variant)
    print(args.output)


if __name__ == "__main__":
    main()
