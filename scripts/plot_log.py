"""Draw a run's losses and logit signs as a picture.

    python scripts/plot_log.py --run runs/emoji --output losses.png

Needs matplotlib: pip install -e ".[eval]".
"""

from pathlib import Path

from arguments import one_line_errors
from polyinr_hf import training
from polyinr_hf.commands import make_parser


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run, the --output of train.py")
    parser.add_argument("--output", required=True, type=Path, help="PNG to write")
    return parser.parse_args()


def main():
    args = parse_args()
    with one_line_errors():
        training.plot_log(args.run / "log.jsonl", args.output)
    print(args.output)


if __name__ == "__main__":
    main()
