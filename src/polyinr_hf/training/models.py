"""What a recipe builds: the networks of a run, on the CPU, before Accelerate prepares them, and their first weights."""

import errno
import hashlib
import json
import logging
import math
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from huggingface_hub import hf_hub_download
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from ..checks import check_is_pipeline
from ..commands import command_line
from ..connection import cache_if_unreachable
from ..data.dataset import ImageDataset, image_batches, load_image_dataset
from ..feature_networks import (
    Classifier,
    FeatureNetwork,
    build_classifier,
    keep_strided_depthwise_in_float32,
    load_feature_network,
)
from ..files import replace_file
from ..images import to_float
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .discriminator import ProjectedDiscriminator
from .matching import FeatureMatching, load_cells
from .points import PointMatching
from .recipe import CLASS_EMBED_DIM, CLASS_EMBEDDING_NETWORK, DataConfig, ModelConfig, Recipe, Source

logger = logging.getLogger(__name__)


def open_dataset(recipe: Recipe, accelerator: Accelerator) -> ImageDataset:
    """The real images that a recipe names; the main process downloads and prepares them for all."""
    with accelerator.main_process_first():
        return load_images(recipe.data)


def load_images(data: DataConfig) -> ImageDataset:
    """The real images that a recipe's section `data` names, as [`load_image_dataset`]."""
    name, config, revision = Source.parse(data.dataset)
    with _naming_keys():
        return load_image_dataset(
            name,
            config,
            data.split,
            image_column=data.image_column,
            label_column=data.label_column,
            class_conditional=data.class_conditional,
            streaming=data.streaming,
            skip_corrupt=data.skip_corrupt,
            cache_dir=data.cache_dir,
            revision=revision,
        )


@contextmanager
def _naming_keys() -> Iterator[None]:
    """Names keys of the recipe: in errors of `load_image_dataset`, and where the home's cache cannot be written to."""
    try:
        yield
    except ValueError as error:
        if "`name_or_path`" not in str(error):
            raise
        raise ValueError(str(error).replace("`name_or_path`", "`data.dataset`")) from error
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        raise ValueError(
            f"`data.cache_dir` must be a folder that can be written to, got {error.filename} ({error.strerror}): name "
            "one by data.cache_dir=FOLDER, or set HF_HOME, which all libraries of Hugging Face heed."
        ) from error


def source_config(init_from: str) -> tuple[str, dict]:
    """The folder or Hub id that `run.init_from` names, and the configuration of its generator.

    Raises:
        OSError: if there is no such pipeline.
    """
    name, _, revision = Source.parse(init_from)
    if Path(name).is_dir():
        check_is_pipeline(name)
        return name, PolyINRGenerator.load_config(name, subfolder="generator")
    with cache_if_unreachable(name, revision):
        file = hf_hub_download(name, "generator/config.json", revision=revision)
    return name, PolyINRGenerator.load_config(Path(file).parent)


def resolve_source(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves to `run.init_from` filled in: `model`, and whether there are classes.

    Raises:
        OSError: if there is no such pipeline.
        ValueError: if it is a checkpoint of the authors' code.
    """
    if str(recipe.run.init_from).endswith(".pkl"):
        raise ValueError(
            "`run.init_from` must be a pipeline's folder or Hub id, got the checkpoint "
            f"{recipe.run.init_from}. Convert it first: {command_line('convert')} --checkpoint FILE --output "
            "FOLDER. Its averaged generator comes along. Its discriminator cannot: a new one learns from the start."
        )
    if recipe.model is not None and recipe.data.class_conditional is not None:
        return recipe
    assert recipe.run.init_from is not None  # which the recipe leaves them to
    source, config = source_config(recipe.run.init_from)
    model, data = recipe.model, recipe.data
    if model is None:
        model = ModelConfig.of_generator(config, source)
    if data.class_conditional is None:
        data = replace(data, class_conditional=config["num_classes"] is not None)
    return replace(recipe, model=model, data=data)


def build_generator(recipe: Recipe, num_classes: int | None) -> PolyINRGenerator:
    """The generator with weights drawn from the recipe's seed, and the last stage's resolution as its own."""
    torch.manual_seed(recipe.run.seed)
    return PolyINRGenerator(
        **recipe.known_model.generator_arguments(), num_classes=num_classes, sample_size=recipe.stages[-1].image_size
    )


def open_source(recipe: Recipe, generator: PolyINRGenerator, id2label: dict[int, str] | None) -> PolyINRPipeline | None:
    """The pipeline whose weights `generator` is to start from, checked; None if the recipe names none."""
    run = recipe.run
    if not run.init_from:
        return None
    source, _, revision = Source.parse(run.init_from)
    return load_source(generator, source, id2label, run.new_classes, revision)


def start_weights(
    generator: PolyINRGenerator,
    class_embeddings: Tensor | None,
    source: PolyINRPipeline | None,
    id2label: dict[int, str] | None,
) -> None:
    """Gives `generator` its initial class embeddings (classes, class_embed_dim), then the weights of `source`."""
    if class_embeddings is not None and generator.mapping.embedding is not None:
        generator.mapping.embedding.weight.data.copy_(class_embeddings)
    if source is not None:
        copy_weights(generator, source, id2label)


def generator_groups(generator: PolyINRGenerator, mapping_lr_multiplier: float = 1.0) -> list[dict]:
    """The generator's parameters by learning rate: of the mapping network, and of the rest."""
    if mapping_lr_multiplier == 1:
        return [{"params": list(generator.parameters())}]
    mapping = list(generator.mapping.parameters())
    rest = [p for name, p in generator.named_parameters() if not name.startswith("mapping.")]
    return [{"params": mapping, "lr_multiplier": mapping_lr_multiplier}, {"params": rest}]


def adam_options(recipe: Recipe, device: torch.device) -> dict:
    """Arguments of Adam that all of a run's optimizers share."""
    run = recipe.run
    return {"betas": tuple(run.adam_betas), "eps": 1e-8, "fused": device.type in ("cpu", "cuda")}


def build_discriminator(recipe: Recipe, num_classes: int | None, device: torch.device) -> ProjectedDiscriminator:
    """The projected discriminator for a device, still on the CPU; see [`initial_class_embeddings`] for the classes'."""
    settings = recipe.discriminator
    discriminator = ProjectedDiscriminator(
        num_classes,
        settings.feature_networks,
        settings.feature_weights,
        feature_resolution=settings.feature_resolution,
        projection_width=settings.projection_width,
        augmentation=settings.augmentation,
        batch_norm_group_size=settings.batch_norm_group_size,
        seed=recipe.run.seed,
    )
    for branch in discriminator.branches:
        _arrange_for_speed(branch.feature_network, device)
        if recipe.run.compile and device.type == "cuda":  # on a CPU compiled branches are slower
            branch.compile()
    return discriminator


def build_feature_network(recipe: Recipe, device: torch.device) -> FeatureNetwork:
    """The first of the discriminator's feature networks by itself, to measure distances with on a device."""
    settings = recipe.discriminator
    name = settings.feature_networks[0]
    weights = settings.feature_weights.get(name)
    network = load_feature_network(name, weights, feature_resolution=settings.feature_resolution)
    _arrange_for_speed(network, device)
    return network


def _arrange_for_speed(network: FeatureNetwork, device: torch.device) -> None:
    network.backbone.to(memory_format=torch.channels_last)  # about a fifth faster
    if device.type == "cpu":
        keep_strided_depthwise_in_float32(network.backbone)


def build_matching(
    recipe: Recipe, num_images: int, num_classes: int | None, network: FeatureNetwork
) -> FeatureMatching | None:
    """What matches generated images to real ones, in the features of `network`; None if the recipe has none."""
    if recipe.loss.matching_weight <= 0:
        return None
    cells = load_cells(recipe.run.init_from, num_images) if recipe.loss.matching_by == "latent" else None
    return FeatureMatching(network, num_images, num_classes, recipe.loss.matching_by, cells=cells)


def build_points(recipe: Recipe, dataset: ImageDataset) -> PointMatching | None:
    """What compares colors at single points of generated and real images; None if the recipe has none."""
    if recipe.loss.points_weight <= 0:
        return None
    cells = load_cells(recipe.run.init_from, len(dataset))
    return PointMatching(recipe.loss.points_per_image, dataset.num_classes, cells)


def build_guidance(recipe: Recipe, num_classes: int | None) -> Classifier | None:
    """The classifier that guides the generator, None if the recipe has none.

    Raises:
        ValueError: if it knows other classes than the dataset has.
    """
    if recipe.loss.guidance_weight <= 0:
        return None
    name, settings = recipe.loss.guidance_classifier, recipe.discriminator
    classifier = build_classifier(name, settings.feature_weights.get(name))
    if classifier.num_classes != num_classes:
        raise ValueError(
            f"`loss.guidance_classifier` must know the {num_classes} classes of the dataset, got {name}, which knows "
            f"{classifier.num_classes}."
        )
    return classifier


def initial_class_embeddings(
    recipe: Recipe, dataset: ImageDataset, accelerator: Accelerator, folder: Path
) -> Tensor | None:
    """(classes, class_embed_dim) that generator and discriminator start from; None for an unconditional model.

    Computed ones are the mean EfficientNet-lite0 feature of each class; a pass over the dataset, kept in `folder`.
    """
    if dataset.num_classes is None:
        return None
    if recipe.run.class_embeddings == "random":
        return torch.randn(dataset.num_classes, CLASS_EMBED_DIM)
    data, weights = recipe.data, recipe.discriminator.feature_weights.get(CLASS_EMBEDDING_NETWORK)
    with accelerator.main_process_first():
        return compute_class_embeddings(
            dataset,
            folder / "class_embeddings.safetensors",
            weights,
            num_workers=data.num_workers,
            device=accelerator.device,
            quiet=not accelerator.is_main_process,
        )


# --- weights to start from --------------------------------------------------------------------------------------------


def load_source(
    generator: PolyINRGenerator,
    source: str,
    id2label: dict[int, str] | None,
    new_classes: bool,
    revision: str | None = None,
) -> PolyINRPipeline:
    """Opens the pipeline that `generator` is to start from: a folder, or a Hub id and revision, of any resolution.

    With `new_classes` the class lists may differ. `z_dim` may be smaller than `generator`'s.

    Raises:
        ValueError: if the networks have other sizes, or other classes and `new_classes` is off.
        OSError: if there is no such pipeline.
    """
    pipeline = PolyINRPipeline.from_pretrained(source, revision=revision)
    if pipeline.generator.drop_trained_grid():  # training draws at any size, and in windows
        warnings.warn(
            f"`run.init_from` {source} has a pixel grid that was trained with it; training goes on from a uniform one.",
            stacklevel=2,
        )
    theirs, ours = pipeline.generator.config, generator.config
    for key in ours:
        if key in ("num_classes", "sample_size", "initialization") or key.startswith("_"):
            continue
        if theirs[key] != ours[key] and not (key == "z_dim" and theirs.z_dim < ours.z_dim):
            raise ValueError(
                f"`model.{key}` must be {theirs[key]!r}, as in `run.init_from` {source}, got {ours[key]!r}."
            )
    if (theirs.num_classes is None) != (ours.num_classes is None):
        raise ValueError(
            f"`data.class_conditional` must be as in `run.init_from`: {source} has {theirs.num_classes or 'no'} "
            f"classes, the dataset {ours.num_classes or 'none in use'}."
        )
    if not new_classes and not _has_same_classes(generator, pipeline, id2label):
        raise ValueError(
            f"`run.init_from` {source} has {theirs.num_classes} classes, the dataset {ours.num_classes}, or their "
            "names differ: set run.new_classes=true to fine-tune on another class list."
        )
    return pipeline


def copy_weights(generator: PolyINRGenerator, pipeline: PolyINRPipeline, id2label: dict[int, str] | None) -> None:
    """Copies the weights of a pipeline from `load_source` into `generator`.

    If the class lists differ, a class takes the embedding and mean w of the class of that name (see [`match_classes`]),
    and keeps its own if there is none.
    """
    state = pipeline.generator.state_dict()
    if not _has_same_classes(generator, pipeline, id2label):
        mine = generator.state_dict()
        for row, match in match_classes(id2label or {}, pipeline.id2label).items():
            for key in ("mapping.embedding.weight", "w_mean"):
                mine[key][row] = state[key][match]
        for key in ("mapping.embedding.weight", "w_mean"):
            state[key] = mine[key]
    if pipeline.generator.config.z_dim < generator.config.z_dim:
        _widen_latents(state, generator)
    generator.load_state_dict(state)


def match_classes(ours: dict[int, str], theirs: dict[int, str]) -> dict[int, int]:
    """Classes of `ours` that are in `theirs`, by id: those of the same whole name, then those that share a synonym.

    A name that either list gives to several classes says nothing: ImageNet's "crane" is a bird and a machine. Case and
    the way in which accents are written do not matter.
    """
    found = {}
    for split in (lambda names: [names], lambda names: names.split(",")):
        rows_of_ours, rows_of_theirs = _rows_by_name(ours, split), _rows_by_name(theirs, split)
        for name, rows in rows_of_ours.items():
            others = rows_of_theirs.get(name, set())
            if len(rows) == len(others) == 1:
                found.setdefault(*rows, *others)
    return found


def _rows_by_name(id2label: dict[int, str], split: Callable[[str], list[str]]) -> dict[str, set[int]]:
    rows: dict[str, set[int]] = {}
    for row, names in id2label.items():
        for name in split(names):
            rows.setdefault(unicodedata.normalize("NFC", name).strip().casefold(), set()).add(row)
    return rows


def _widen_latents(state: dict[str, Tensor], generator: PolyINRGenerator) -> None:
    """Gives a state dict of few latent numbers, and as many of a class, `generator`'s: the new ones count for nothing.

    Only what they do to the root mean squares of both changes w.
    """
    mine = generator.state_dict()
    layer = "mapping.layers.0.weight"
    z_dim = state[layer].shape[1]
    blocks = [state[layer]]
    if "mapping.class_projection.weight" in state:
        z_dim //= 2
        blocks = state[layer].chunk(2, dim=1)  # of z, of the class
        for name in ("mapping.class_projection.weight", "mapping.class_projection.bias"):
            mine[name][:z_dim] = state[name]
            state[name] = mine[name]
    widened = torch.zeros_like(mine[layer])
    # An equalized layer divides by the root of its inputs' number.
    gain = math.sqrt(generator.config.z_dim / z_dim)
    for block, target in zip(blocks, widened.chunk(len(blocks), dim=1), strict=True):
        target[:, :z_dim] = block * gain
    state[layer] = widened


def _has_same_classes(generator: PolyINRGenerator, pipeline: PolyINRPipeline, id2label: dict[int, str] | None) -> bool:
    same_number = pipeline.generator.config.num_classes == generator.config.num_classes
    return same_number and pipeline.id2label in ({}, id2label)


# --- class embeddings -------------------------------------------------------------------------------------------------

RESOLUTION = 224  # pixels, what the network was trained at
SAVE_EVERY_BATCHES = 200  # what a stopped pass can lose (not tuned)
IMAGES_COMPARED = 16  # spread over the dataset: what a file of sums is recognized by


@torch.inference_mode()
def compute_class_embeddings(
    dataset: ImageDataset,
    path: str | Path,
    weights: str | Path | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> Tensor:
    """Mean over each class's images of lite0's spatially pooled last block, (num_classes, 320).

    Sums are kept in `path` (safetensors) as the pass goes on, so that a stopped one resumes, and a finished one is
    read back. A class without images gets the mean of the others.

    Raises:
        ValueError: if the dataset has no classes, or `path` holds sums of other classes or images.
        FileNotFoundError: if the weights of EfficientNet-lite0 cannot be had.
    """
    if not dataset.num_classes:
        raise ValueError("`dataset` must have classes to embed, got none.")
    path = Path(path)
    subject = _describe(dataset)
    sums, counts, images_done = _load_sums(path, dataset.num_classes, subject)
    if images_done < len(dataset):
        network = load_feature_network(CLASS_EMBEDDING_NETWORK, weights).to(device)
        batches = image_batches(dataset, RESOLUTION, batch_size, num_workers=num_workers, start=images_done)
        progress = tqdm(total=len(dataset), initial=images_done, desc="class embeddings", unit="image", disable=quiet)
        for number, (images, labels) in enumerate(batches, start=1):
            assert labels is not None  # as there are classes
            features = network.forward_pooled(to_float(images.to(device))).double().cpu()  # (B, 320)
            sums.index_add_(0, labels, features)
            counts.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
            images_done += len(images)
            progress.update(len(images))
            if number % SAVE_EVERY_BATCHES == 0:
                _save_sums(path, sums, counts, images_done, subject)
        _save_sums(path, sums, counts, images_done, subject)
    empty = counts == 0
    if empty.any():
        logger.warning("%d of %d classes have no images", int(empty.sum()), len(counts))
    means = sums / counts.clamp(min=1).unsqueeze(1)  # (num_classes, 320)
    means[empty] = means[~empty].mean(dim=0)
    return means.float()


def _describe(dataset: ImageDataset) -> dict[str, str]:
    """What the sums are of, wherever the dataset lies: its size, its classes, and a few of its images with theirs."""
    number, digest = len(dataset), hashlib.sha256()
    for index in range(0, number, max(1, number // IMAGES_COMPARED)):
        image, label, _ = dataset.decode_row(index, 32)
        digest.update(image.numpy().tobytes() + str(label).encode())
    names = [name for _, name in sorted((dataset.id2label or {}).items())]
    return {"num_images": str(number), "classes": json.dumps(names, ensure_ascii=False), "images": digest.hexdigest()}


def _load_sums(path: Path, num_classes: int, subject: dict[str, str]) -> tuple[Tensor, Tensor, int]:
    """Sums (num_classes, 320) and counts (num_classes,), float64, and the number of images summed so far."""
    if not path.exists():
        zeros = torch.zeros(num_classes, 320, dtype=torch.float64)
        return zeros, torch.zeros(num_classes, dtype=torch.float64), 0
    with safe_open(path, "pt") as file:
        sums, counts, metadata = file.get_tensor("sums"), file.get_tensor("counts"), file.metadata()
    if len(sums) != num_classes:
        raise ValueError(f"{path} is of {len(sums)} classes, the dataset has {num_classes}: remove it.")
    theirs = subject | metadata  # earlier versions wrote less
    if theirs["num_images"] != subject["num_images"]:
        raise ValueError(
            f"{path} is of {theirs['num_images']} images, the dataset has {subject['num_images']}: remove it."
        )
    if theirs["classes"] != subject["classes"]:
        raise ValueError(f"{path} is of classes of other names than the dataset's: remove it.")
    if theirs["images"] != subject["images"]:
        raise ValueError(f"{path} is of other images than the dataset's: remove it.")
    return sums, counts, int(metadata["images_done"])


def _save_sums(path: Path, sums: Tensor, counts: Tensor, images_done: int, subject: dict[str, str]) -> None:
    with replace_file(path) as partial:
        save_file({"sums": sums, "counts": counts}, partial, subject | {"images_done": str(images_done)})
