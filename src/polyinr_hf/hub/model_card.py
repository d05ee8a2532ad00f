"""The model card of a pipeline folder, from what training and evaluation left in it."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

CARD_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
PAPER_URL = (
    "https://openaccess.thecvf.com/content/CVPR2023/html/"
    "Singh_Polynomial_Implicit_Neural_Representations_for_Large_Diverse_Datasets_CVPR_2023_paper.html"
)
CODE_URL = "https://github.com/Rajhans0/Poly_INR"  # of the authors
DETAILS = (
    "title",
    "description",
    "license",
    "license_name",
    "license_link",
    "license_text",
    "datasets",
    "dataset_name",
    "intended_use",
    "links",
    "limits",
    "published",
    "example",
)
LOCAL_FOLDERS = (".", "..", "data", "runs", "pretrained")  # what the documentation calls folders of one's own
PATH_IN_COMMENT = re.compile(r"(?<![^\s('\"=])~?/(?:[\w.@+-]+/)*([\w.@+-]+)")
INTENDED_USE = "Research and play: generation, editing of images as functions of their coordinates, and teaching."


def without_paths(value: Any) -> Any:
    """`value`, of JSON or YAML, in which absolute paths of this machine are cut to their last name."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    is_path = isinstance(value, str) and value.startswith(("/", "~"))
    return Path(value).name if is_path else value


@dataclass(frozen=True)
class Export:
    """A pipeline folder, of which each text file is read once.

    Attributes:
        texts: Name and text of each, that of the recipe without absolute paths of this machine.
        index, config: Of the pipeline and its generator.
        recipe: What it was trained by, {} if that is not there.
        training: What the export says of itself: kimg, resolution, image_resolution, licenses, samples_kimg.
        evaluation: The result of `evaluate` in it.
    """

    folder: Path
    texts: dict[str, str]
    index: dict
    config: dict
    recipe: dict
    training: dict
    evaluation: dict | None

    @classmethod
    def read(cls, folder: "str | Path | Export") -> "Export":
        """A folder's, or one that was read before."""
        if isinstance(folder, Export):
            return folder
        folder, tables = Path(folder), ("model_index.json", "generator/config.json", "training.json", "evaluation.json")
        files = {name: folder / name for name in (*tables, "recipe.yaml", "README.md")}
        texts = {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.is_file()}
        index, config, training, evaluation = (json.loads(texts.get(name, "null")) for name in tables)
        recipe = yaml.safe_load(texts.get("recipe.yaml", "")) or {}
        if recipe:
            texts["recipe.yaml"] = _cut_paths(texts["recipe.yaml"], recipe)
        return cls(folder, texts, index, config, without_paths(recipe), training or {}, without_paths(evaluation))


def _cut_paths(text: str, content: dict) -> str:
    """A YAML text, comments and all, without the absolute paths that `content`, its content, holds."""
    short = without_paths(content)
    for before, after in sorted(_changes(content, short), key=lambda pair: -len(pair[0])):
        text = text.replace(before, after)
    text = re.sub(r"(?m)(^|\s)#.*$", lambda comment: PATH_IN_COMMENT.sub(r"\1", comment[0]), text)
    # Where a path is written in a way of its own, folded or escaped, the comments are lost rather than the path kept.
    return text if (yaml.safe_load(text) or {}) == short else yaml.safe_dump(short, sort_keys=False, allow_unicode=True)


def _changes(before: Any, after: Any) -> Iterator[tuple[str, str]]:
    """The texts that differ between two values of the same shape."""
    if isinstance(before, dict):
        before, after = list(before.values()), list(after.values())
    if isinstance(before, list):
        for pair in zip(before, after, strict=True):
            yield from _changes(*pair)
    elif before != after:
        yield before, after


def count_parameters(folder: Path, variant: str | None = None) -> int:
    """Learnable parameters, by the headers of the weight files: building a model would disturb other threads."""
    files = sorted(folder.glob("generator/*.safetensors"))
    files = [f for f in files if (f".{variant}" in f.name if variant else f.name.count(".") == 1)] or files
    sizes = {}
    for path in files:
        with safe_open(path, "pt") as weights:
            sizes |= {name: math.prod(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    return sum(size for name, size in sizes.items() if name != "w_mean")


def create_card(
    folder: str | Path | Export,
    repo_id: str,
    evaluation: dict | None = None,
    details: dict | None = None,
    *,
    revision: str | None = None,
    variant: str | None = None,
    subfolder: str | None = None,
    samples: bool = True,
) -> ModelCard:
    """The model card of a pipeline folder.

    Args:
        folder: Pipeline folder, or what was read of it; its recipe.yaml, training.json and evaluation.json are used
            where they are.
        repo_id: org/name, for the usage snippet.
        evaluation: A result of `evaluate`, or {"results": [...]} of several, the first of which goes into the metadata;
            evaluation.json of the folder by default.
        details: What no file knows, as in model_cards/*.yaml: title, description, license, license_name, license_link,
            license_text, datasets (Hub ids), dataset_name, intended_use, links {name: URL}, limits (list), published
            {source, dataset_name, dataset_type, split, metrics}, example {class_label, seed} of the usage snippet.
        revision, variant, subfolder: For the usage snippet.
        samples: Whether there is a samples.png beside the card.

    Raises:
        ValueError: for an unknown key in `details`.
    """
    export, details = Export.read(folder), dict(details or {})
    if strangers := set(details) - set(DETAILS):
        raise ValueError(f"`details` must have no keys but {DETAILS}, got the unknown keys {sorted(strangers)}.")
    evaluation = without_paths(evaluation) or export.evaluation
    recipe, training, config, index = export.recipe, export.training, export.config, export.index
    evaluations = (evaluation or {}).get("results", [evaluation] if evaluation else [])
    dataset_name = details.get("dataset_name") or _dataset_name(evaluations, recipe)
    licenses = training.get("licenses") or training.get("licences") or {}  # before 0.2: with c
    names = Counter(name.strip() for joined in (index.get("id2label") or {}).values() for name in joined.split(","))
    example = {"class_label": next((name for name, count in names.items() if count == 1), 0), "seed": 0}
    example |= details.get("example", {})
    arguments = {"revision": revision, "variant": variant, "subfolder": subfolder}
    return ModelCard.from_template(
        _card_data(repo_id, details, licenses, evaluations, dataset_name, config["num_classes"], samples),
        template_path=str(CARD_TEMPLATE),
        repo_id=repo_id,
        title=details.get("title", repo_id.split("/")[-1]),
        description=details.get("description", f"Poly-INR trained on {dataset_name}." if recipe else "Poly-INR."),
        num_parameters=count_parameters(export.folder, variant),
        num_levels=config["num_levels"],
        channels=config["channels"],
        num_classes=config["num_classes"],
        resolution=config["sample_size"],
        subfolder=subfolder,
        samples=samples,
        samples_kimg=training.get("samples_kimg"),
        trained=training.get("resolution", config["sample_size"]),
        trained_windows_of=training.get("image_resolution"),
        has_names=bool(names),
        class_label=json.dumps(example["class_label"], ensure_ascii=False),
        seed=example["seed"],
        pull_arguments="".join(f', {name}="{value}"' for name, value in arguments.items() if value),
        training=_training_table(recipe, training, dataset_name),
        stages=recipe.get("stages"),
        published=details.get("published"),
        truncation_psi=index.get("default_truncation_psi", 1.0),
        evaluations=[(_evaluation_table(result), _evaluation_settings(result)) for result in evaluations],
        evaluation_dataset=dataset_name,
        intended_use=details.get("intended_use", INTENDED_USE),
        links={"Paper": PAPER_URL, "Code of the authors": CODE_URL} | details.get("links", {}),
        limits=details.get("limits", []),
        license_text=details.get("license_text", _license_text(licenses)),
        licenses=licenses,
    )


def _card_data(repo_id, details, licenses, evaluations, dataset_name, num_classes, samples) -> ModelCardData:
    """The metadata that the Hub searches by."""
    license = details.get("license")
    extra = {name: details[name] for name in ("license_name", "license_link") if name in details}
    if license is None and licenses:
        license = next(iter(licenses)).lower() if len(licenses) == 1 else "other"
        extra |= {"license_name": "training-images"} if len(licenses) > 1 else {}
    results = []
    if evaluations:
        from ..evaluation.report import eval_results

        split = evaluations[0].get("settings", {}).get("split", "train")
        results += eval_results(evaluations[0], dataset_name, split=split)
    if samples:  # what the Hub's page and links to it show
        extra |= {"thumbnail": "samples.png", "widget": [{"text": "Samples", "output": {"url": "samples.png"}}]}
    if published := details.get("published"):
        results += published_results(published)
    return ModelCardData(
        model_name=details.get("title", repo_id.split("/")[-1]),
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        tags=[
            "poly-inr",
            "implicit-neural-representation",
            "inr",
            "gan",
            "image-generation",
            "class-conditional" if num_classes else "unconditional",
            "diffusers:PolyINRPipeline",
        ],
        datasets=details.get("datasets"),
        eval_results=results or None,
        license=license,
        **extra,
    )


def published_results(published: dict) -> list[EvalResult]:
    """Figures of the authors, as `model-index` entries that name their source."""
    return [
        EvalResult(
            task_type="unconditional-image-generation",
            dataset_type=published["dataset_type"],
            dataset_name=published["dataset_name"],
            dataset_split=published["split"],
            metric_type=name.lower().replace(" ", "_"),
            metric_name=f"{name} (published by the authors)",
            metric_value=value,
            source_name=f"Published by the authors, {published['source']}; not measured here",
            source_url=PAPER_URL,
        )
        for name, value in published["metrics"].items()
    ]


def correct_card(text: str, repo_id: str) -> str:
    """A folder's own model card as `repo_id`'s: calls that open a folder of this machine open the repository."""

    def correct(match: re.Match) -> str:
        return match[0] if _hub_id(match[2]) else f"{match[1]}{repo_id}"

    return re.sub(r"""(from_pretrained\(\s*["']|--pipeline[ =]["']?)([^"'\s]+)""", correct, text)


def _dataset_name(evaluations: list[dict], recipe: dict) -> str:
    """The Hub id or the folder's name of the real images."""
    measured = evaluations[0].get("settings", {}).get("dataset") if evaluations else None
    name = measured or recipe.get("data", {}).get("dataset")
    return (_hub_id(name) or Path(name).name) if name else "its training set"


def _hub_id(name: str | None) -> str | None:
    """`name` where it can be a repository's and is no folder here; a folder elsewhere may look like one."""
    is_local = name is None or Path(name).exists() or name.split("/")[0] in LOCAL_FOLDERS or name.count("/") > 1
    return None if is_local else name


def _evaluation_table(evaluation: dict) -> str:
    from ..evaluation.report import format_table

    return format_table(evaluation)


def _evaluation_settings(evaluation: dict) -> str:
    settings = evaluation.get("settings", {})
    known = ("split", "num_samples", "resolution", "truncation_psi", "seed")
    return ", ".join(f"{name} {settings[name]}" for name in known if name in settings)


def _training_table(recipe: dict, training: dict, dataset_name: str) -> list[tuple[str, str]]:
    """Rows (name, value) of what the recipe says and the export knows."""
    if not recipe:
        return []
    discriminator, loss, run = (recipe.get(part, {}) for part in ("discriminator", "loss", "run"))
    data = recipe.get("data", {})
    images = f", {training['num_images']:,} images" if training.get("num_images") else ""
    rows = {
        "data": f"{dataset_name}, split {data.get('split')}{images}",
        "kimg of these weights": f"{training['kimg']:g}" if "kimg" in training else None,
        "mirror flips": data.get("mirror"),
        "feature networks of the discriminator": ", ".join(discriminator.get("feature_networks", [])),
        "augmentation": ", ".join(discriminator.get("augmentation", [])),
        "classifier guidance": loss.get("guidance_weight") or "none",
        "blur of D's images": f"sigma 2.0 to 0, {loss.get('blur_fade_kimg', 0):g} kimg",
        "precision": {"no": "float32"}.get(run.get("mixed_precision"), run.get("mixed_precision")),
        "seed": run.get("seed"),
        "started from": (_hub_id(run["init_from"]) or "other weights") if run.get("init_from") else "scratch",
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _license_text(licenses: dict[str, int]) -> str:
    if licenses:
        return "The training images are under the licenses below, the code in this repository under Apache-2.0."
    return "The code in this repository is under Apache-2.0. The weights' license is that of their training data."
