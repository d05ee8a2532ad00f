"""The emoji drawings as a labeled image dataset, with splits by emoji name, written as `load_dataset` opens it."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import DatasetCardData

from emoji_sets import EMOJI_SETS, KINDS, LABELS, STANDARD_GROUPS, Emoji, rasterize
from polyinr_hf.checks import check_count
from polyinr_hf.files import replace_folder

if TYPE_CHECKING:
    from datasets import Dataset

HELDOUT_FRACTION = 0.1  # about a hundred names: enough to measure on, and little to train without


def is_heldout(name: str) -> bool:
    """Whether an emoji name is held out: a fixed tenth of all names, whatever sets and groups are chosen."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELDOUT_FRACTION * 2**64


def build_emoji_splits(emoji: list[Emoji], resolution: int, labels: str = "group") -> "dict[str, Dataset]":
    """Draws emoji as two datasets that share no emoji name.

    Args:
        emoji: What to draw.
        resolution: Side in pixels, at least 8.
        labels: "group" (the six groups in the standard set) or "kind" (21 finer classes of similar shape).

    Returns:
        {"heldin", "heldout"}, with the columns image, label, set, name, group, kind, license, codepoint.
    """
    if labels not in LABELS:
        raise ValueError(f"`labels` must be one of {LABELS}, got {labels!r}.")
    check_count("resolution", resolution, minimum=8)
    order = STANDARD_GROUPS if labels == "group" else tuple(KINDS)
    present = {getattr(e, labels) for e in emoji}
    classes = [name for name in order if name in present] + sorted(present - set(order))
    from datasets import ClassLabel, Dataset, Features, Image, Value

    text = {column: Value("string") for column in ("set", "name", "group", "kind", "license", "codepoint")}
    features = Features({"image": Image(), "label": ClassLabel(names=classes), **text})
    rows = {"heldin": [], "heldout": []}
    for e in emoji:
        row = {"image": {"bytes": rasterize(e.svg, resolution), "path": None}, "label": getattr(e, labels)}
        row |= {"set": e.set, "name": e.name, "group": e.group, "kind": e.kind}
        row |= {"license": EMOJI_SETS[e.set].license, "codepoint": e.codepoint}
        rows["heldout" if is_heldout(e.name) else "heldin"].append(row)
    return {
        split: Dataset.from_dict({column: [row[column] for row in part] for column in features}, features=features)
        for split, part in rows.items()
    }


def emoji_card(splits: "dict[str, Dataset]", resolution: int, labels: str) -> str:
    """The dataset's card: what Hub and `load_dataset` need to find the splits, whom to credit, what was done."""
    sets = Counter(name for split in splits.values() for name in split["set"])
    licenses = sorted({EMOJI_SETS[name].license.lower() for name in sets})
    files = [{"split": "train", "path": [f"data/{split}-*.parquet" for split in splits]}]
    files += [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    data = DatasetCardData(
        pretty_name=f"Emoji, {resolution} px",
        license=licenses,
        task_categories=["unconditional-image-generation"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    names = {split: len(set(dataset["name"])) for split, dataset in splits.items()}
    classes = Counter(name for split in splits.values() for name in split[labels])
    total = sum(sets.values())
    lines = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# Emoji, {resolution} px\n",
        f"{total:,} emoji drawn from vector sets at {resolution} x {resolution} pixels: square, on white, centered.\n",
        "| split | images | emoji names |\n|---|---|---|",
        f"| `train` (both below) | {total:,} | {sum(names.values()):,} |",
        *(f"| `{split}` | {len(dataset):,} | {names[split]:,} |" for split, dataset in splits.items()),
        f"\n`heldout` has about {HELDOUT_FRACTION:.0%} of the names (by hash), in every set: no twin is in `heldin`.\n",
        f"`label` is the {labels}: " + ", ".join(f"{name} ({count:,})" for name, count in classes.items()) + ".\n",
        "## Credits and licenses\n",
        "The license of each image is in its `license` column.\n",
        "| set | images | by | license |\n|---|---|---|---|",
    ]
    for name, count in sets.items():
        source = EMOJI_SETS[name]
        lines.append(f"| [{source.title}]({source.url}) | {count:,} | {source.author} | {source.license} |")
    return "\n".join(lines) + "\n"


def write_emoji_dataset(
    splits: "dict[str, Dataset]", output: str | Path, resolution: int, labels: str = "group"
) -> None:
    """Writes the splits as parquet files and a card to a folder that `load_dataset` opens and the Hub takes as it is.

    An earlier dataset in `output` stays until the new one is complete.

    Raises:
        ValueError: if `output` holds anything but such a dataset.
    """
    output = Path(output).absolute()
    if output.exists() and any(output.iterdir()) and not (output / "data" / "heldin-00000-of-00001.parquet").exists():
        raise ValueError(f"`output` must be a new or empty folder, {output} exists and is not an emoji dataset.")
    with replace_folder(output) as folder:
        (folder / "data").mkdir()
        for split, dataset in splits.items():
            dataset.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
        (folder / "README.md").write_text(emoji_card(splits, resolution, labels), encoding="utf-8")
