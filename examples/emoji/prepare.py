"""Draw vector emoji sets as a labeled image dataset that `load_dataset` opens.

    python examples/emoji/prepare.py --output data/emoji-64 --resolution 64

The defaults are the standard set: 3,093 images of six groups from three sets. The folder has the splits `train`
(everything), `heldin` and `heldout` (a tenth of the emoji names, across all sets).
"""

import argparse
import sys

from emoji_dataset import build_emoji_splits, write_emoji_dataset
from emoji_sets import EMOJI_SETS, LABELS, STANDARD_GROUPS, STANDARD_SETS, read_emoji


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder to write; an emoji dataset in it is replaced")
    parser.add_argument("--resolution", type=int, default=64, help="side of the images in pixels (default: 64)")
    parser.add_argument(
        "--sets",
        nargs="+",
        choices=EMOJI_SETS,
        default=STANDARD_SETS,
        help="emoji sets (default: the three npm packages; `openmoji` needs pip only)",
    )
    parser.add_argument("--groups", nargs="+", default=STANDARD_GROUPS, help='emoji groups, e.g. "Food & Drink"')
    parser.add_argument(
        "--labels",
        choices=LABELS,
        default="group",
        help="classes: 6 groups, such as Food & Drink, or 21 finer kinds, such as mammal (default: group)",
    )
    parser.add_argument("--cache_dir", help="folder for npm packages (default: ~/.cache/polyinr_hf/emoji)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        drawings = read_emoji(args.sets, args.groups, args.cache_dir)
        print(f"drawing {len(drawings):,} emoji at {args.resolution} px", file=sys.stderr)
        splits = build_emoji_splits(drawings, args.resolution, args.labels)
        write_emoji_dataset(splits, args.output, args.resolution, args.labels)
    except ModuleNotFoundError as error:
        sys.exit(f'error: the package {error.name} is not installed: pip install -e ".[emoji]"')
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    heldin, heldout = splits["heldin"], splits["heldout"]
    print(f"{args.output}: train {len(drawings)}, heldin {len(heldin)}, heldout {len(heldout)} images")


if __name__ == "__main__":
    main()
