"""Does a model copy, and are its classes varied? Samples beside their nearest training images, and a table.

    python scripts/inspect_samples.py --pipeline pretrained/poly-inr-emoji --dataset data/emoji-64 --output near.png

Images are compared by the features of EfficientNet-lite0. The figure shows a sample of each class, or of some if they
are too many, with its nearest training images to the right; the table, in Markdown, how varied each class is beside the
real images; below it, how far samples are from their nearest training image, and the share of those that are some
sample's nearest. Of few samples, all may be alike by chance: measure the least varied classes again, with dozens each.

    python scripts/inspect_samples.py --pipeline pretrained/poly-inr-emoji --dataset data/emoji-64 \\
        --label_column name --class ribbon skull --num_samples 120
"""

import numpy as np
import torch

from arguments import one_line_errors
from polyinr_hf import PolyINRPipeline, data, evaluation
from polyinr_hf.checks import check_count
from polyinr_hf.commands import make_parser


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", required=True, help="folder or Hub id of a class-conditional pipeline")
    parser.add_argument("--dataset", required=True, help="folder or Hub id of what it was trained on")
    parser.add_argument("--split", default="train", help="split of the dataset (default: train)")
    parser.add_argument("--label_column", help="column of class labels (default: the first of type ClassLabel)")
    parser.add_argument(
        "--class", dest="class_labels", nargs="+", metavar="NAME", help="names of the classes to measure (default: all)"
    )
    parser.add_argument(
        "--num_samples", type=int, default=2000, help="number of samples that variety is measured with (default: 2,000)"
    )
    parser.add_argument("--resolution", type=int, help="side in pixels (default: the pipeline's)")
    parser.add_argument("--num_rows", type=int, default=12, help="samples in the figure (default: 12)")
    parser.add_argument(
        "--num_classes",
        type=int,
        default=40,
        help="number of classes in the table, the least varied ones (default: 40)",
    )
    parser.add_argument(
        *("--num_neighbors", "--num_neighbours"),
        type=int,
        default=6,
        help="training images beside each sample (default: 6)",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed for labels and latents (default: 0)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="dtype of the matrix products, by autocast"
    )
    parser.add_argument("--output", default="neighbors.png", help="PNG to write (default: %(default)s)")
    return parser.parse_args(argv)


def one_of_each_class(labels: np.ndarray, count: int) -> torch.Tensor:
    """Indices of the first sample of each class, evenly chosen if there are more classes than `count`."""
    first = np.unique(labels, return_index=True)[1]
    return torch.from_numpy(first[np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)])


def format_diversity(rows: list[dict], count: int) -> str:
    """A Markdown table, of the `count` classes with the lowest ratios if there are more, and the ratios' spread."""
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    if len(rows) > count:
        rows = sorted((row for row in rows if row["ratio"] is not None), key=lambda row: row["ratio"])[:count]
    lines = ["| class | real images | variety | of the real images | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row[key]:.1f}" if row[key] is not None else "" for key in ("diversity", "real_diversity")]
        ratio = f"{row['ratio']:.2f}" if row["ratio"] is not None else ""
        lines.append(f"| {row['class']} | {row['real']} | {' | '.join(cells)} | {ratio} |")
    if ratios:
        least, first, median, third, most = np.quantile(ratios, [0, 0.25, 0.5, 0.75, 1])
        lines.append(f"\nratios of {len(ratios)} classes: {least:.2f} to {most:.2f}, median {median:.2f}, ")
        lines[-1] += f"half of them {first:.2f} to {third:.2f}"
    return "\n".join(lines)


def run(args) -> None:
    check_count("--num_rows", args.num_rows)
    pipeline = PolyINRPipeline.from_pretrained(args.pipeline)
    if pipeline.generator.config.num_classes is None:
        raise ValueError(f"`--pipeline` must have classes, {args.pipeline} has none.")
    dataset = data.load_image_dataset(args.dataset, split=args.split, label_column=args.label_column)
    if dataset.id2label is None:
        raise ValueError(
            f"`--dataset` must have classes, {args.dataset} has none: name their column by `--label_column`."
        )
    resolution = args.resolution or pipeline.generator.config.sample_size
    real = evaluation.DatasetSource(dataset, resolution)
    frequencies, id2label = evaluation.class_frequencies(dataset), dataset.id2label
    if args.class_labels:
        if unknown := sorted(set(args.class_labels) - set(id2label.values())):
            raise ValueError(f"`--class` must be names of the dataset's classes, got {unknown}.")
        id2label = {key: name for key, name in id2label.items() if name in args.class_labels}
        frequencies[[key for key in range(len(frequencies)) if key not in id2label]] = 0
    sampling = {"resolution": resolution, "seed": args.seed, "dtype": args.dtype}
    samples = evaluation.PipelineSource(pipeline, args.num_samples, frequencies, **sampling)
    real_features = evaluation.image_features(real, "real images", dtype=args.dtype)
    features = evaluation.image_features(samples, "samples", dtype=args.dtype)
    shown = one_of_each_class(samples.labels, args.num_rows)
    indices = evaluation.nearest_neighbors(features[shown], real_features, args.num_neighbors)[1]
    images = torch.cat([samples.load(i, i + 1) for i in shown.tolist()])
    evaluation.neighbors_figure(images, real, indices, args.output)
    diversity = evaluation.class_diversity(
        features, samples.labels, real_features, evaluation.class_ids(dataset), id2label
    )
    print(format_diversity(diversity, args.num_classes))
    of_these_classes = np.isin(evaluation.class_ids(dataset), list(id2label))
    distances, _, reached = evaluation.nearest_pictures(features, real_features[of_these_classes])
    print(f"median distance of a sample to its nearest training image: {distances.median():.1f}")
    print(f"training images of these classes that are some sample's nearest: {reached:.0%}")
    print(args.output)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        run(args)


if __name__ == "__main__":
    main()
