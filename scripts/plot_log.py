"""Draw a run's losses and logit signs as a picture.

    python scripts/plot_log.py --run runs/emoji --output losses.png

Needs matplotlib: pip install -e ".[eval]".
"""

import argparse
import sys
from pathlib import Path

from polyinr_hf.training.reporting import plot_log


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, type=Path, help="folder of a run, the --output of train.py")
    parser.add_argument("--output", required=True, type=Path, help="PNG to write")
    return parser.parse_args()


def main():
    args = parse_args()
    try:
        plot_log(args.run / "log.jsonl", args.output)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(args.output)


if __name__ == "__main__":
    main()
