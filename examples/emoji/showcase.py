"""Choose what pages show of the emoji model: the designs of each name, and the names that can be recognized.

    python examples/emoji/prepare.py --output data/emoji-64 --resolution 64 --labels kind
    python examples/emoji/showcase.py --pipeline pretrained/poly-inr-emoji --dataset data/emoji-64

Writes showcase.json into the pipeline's folder:

    opening      [[name, seed], ...]: pictures chosen by eye, which a page opens with
    designs      {name: [seed, ...]}: a seed of each design of a name, those nearest to a drawing of that name first
    recognized   [name, ...]: whose first design is nearer to a drawing of its own name than to all others, and near

Nearness is that of EfficientNet-lite0's features at 64 px. Prints how many designs names have, and how many are
recognized. Six minutes on two cores.
"""

import argparse
import json
import os
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from polyinr_hf import PolyINRPipeline, data, evaluation
from polyinr_hf.editing import designs, encode_seeds
from polyinr_hf.files import replace_file

RESOLUTION = 64
# The quantile of a latent (training/matching.py) says which of a name's drawings it stands for, for these seeds 0.19,
# 0.80 and 0.51, near the middles of thirds. Of 430 names and 24 seeds each, 394 have three designs, 27 fewer, 9 four.
SEEDS = (4, 1, 19)
# No further are the features of a recognized design from its drawing's; of those beyond that were looked at, most are
# blots. Half of all designs are within 18.
NEAR = 20.0
OPENING = (
    ("cowboy-hat-face", 4),
    ("butterfly", 19),
    ("avocado", 4),
    ("rainbow", 19),
    ("penguin", 4),
    ("hamburger", 4),
    ("frog", 1),
    ("smiling-face-with-sunglasses", 4),
    ("mushroom", 4),
    ("clown-face", 4),
    ("parrot", 4),
    ("pizza", 19),
)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="pretrained/poly-inr-emoji", help="folder (default: %(default)s)")
    parser.add_argument("--dataset", default="data/emoji-64", help="what prepare.py wrote (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="file to write (default: showcase.json in the pipeline's folder)")
    return parser.parse_args(argv)


def draw(pipe: PolyINRPipeline) -> torch.Tensor:
    """The seeds of every name, uint8 (C, 3, 3, 64, 64)."""
    images = []
    for name in tqdm(pipe.labels, unit="name"):
        A = encode_seeds(pipe, name, SEEDS)
        drawn = pipe(affine_parameters=A, height=RESOLUTION, width=RESOLUTION, output_type="pt").images
        images.append(drawn.float().mul(255).round().clamp(0, 255).to(torch.uint8))
    return torch.stack(images)


def nearest_drawings(
    images: torch.Tensor, names: list[str], dataset: "data.ImageDataset"
) -> tuple[list[float], list[bool]]:
    """How far each image of a name is from that name's nearest drawing, and whether that is the nearest of all."""
    features = [
        evaluation.image_features(source, what, dtype="bfloat16")
        for source, what in (
            (evaluation.TensorSource(images), "designs"),
            (evaluation.DatasetSource(dataset, RESOLUTION), "drawings"),
        )
    ]
    labels = torch.as_tensor(evaluation.class_ids(dataset))
    ids = {name: key for key, name in dataset.id2label.items()}
    distances = torch.cdist(*features)  # (N, M)
    own = torch.tensor([ids[name] for name in names])[:, None] == labels
    nearest = distances.masked_fill(~own, float("inf")).amin(dim=1)
    return nearest.tolist(), (nearest <= distances.amin(dim=1)).tolist()


def main(argv=None) -> None:
    args = parse_args(argv)
    pipe = PolyINRPipeline.from_pretrained(args.pipeline, dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    try:
        dataset = data.load_image_dataset(args.dataset, label_column="name")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    images = draw(pipe)
    names = [name for name in pipe.labels for _ in SEEDS]
    measured = iter(zip(SEEDS * len(images), *nearest_drawings(images.flatten(0, 1), names, dataset), strict=True))
    found, recognized = {}, []
    for name in pipe.labels:
        firsts = [group[0] for group in designs(pipe, name, SEEDS)]
        rows = [
            (not (is_own and distance <= NEAR), distance, seed)
            for seed, distance, is_own in islice(measured, len(SEEDS))
        ]
        found[name] = sorted(row for row in rows if row[2] in firsts)
        recognized += [] if found[name][0][0] else [name]
    showcase = {
        "opening": [list(pick) for pick in OPENING],
        "designs": {name: [seed for _, _, seed in rows] for name, rows in found.items()},
        "recognized": recognized,
    }
    path = args.output or Path(args.pipeline, "showcase.json")
    lines = ",\n".join(
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in showcase.items()
    )
    with replace_file(path) as partial:
        partial.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    counts = Counter(len(rows) for rows in found.values())
    print(f"designs a name: {', '.join(f'{count} of {n} names' for count, n in sorted(counts.items()))}")
    good = sum(not is_poor for rows in found.values() for is_poor, _, _ in rows)
    print(f"designs recognized: {good:,} of {sum(map(len, found.values())):,}")
    print(f"names recognized: {len(recognized):,} of {len(found):,}")
    print(os.fspath(path))


if __name__ == "__main__":
    main()
