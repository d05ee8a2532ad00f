"""What a recipe builds: the networks of a run, on the CPU, before Accelerate prepares them."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.dataset import ImageDataset, load_image_dataset
from ..feature_networks import (
    Classifier,
    FeatureNetwork,
    build_classifier,
    keep_strided_depthwise_in_float32,
    load_feature_network,
)
from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from .cells import load_cells
from .class_embeddings import compute_class_embeddings
from .discriminator import ProjectedDiscriminator
from .fine_tuning import copy_weights, load_source
from .matching import FeatureMatching
from .points import PointMatching
from .recipe import CLASS_EMBED_DIM, CLASS_EMBEDDING_NETWORK, ModelConfig, Recipe, Source


def open_dataset(recipe: Recipe, accelerator: Accelerator) -> ImageDataset:
    """The real images that a recipe names; the main process downloads and prepares them for all."""
    data = recipe.data
    name, config, revision = Source.parse(data.dataset)
    with _naming_the_cache(), accelerator.main_process_first():
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
def _naming_the_cache() -> Iterator[None]:
    """Says in ValueError which settings name another cache, where the home folder's cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS):
            raise
        raise ValueError(
            f"`data.cache_dir` must be a folder that can be written to, got {error.filename} ({error.strerror}): name "
            "one by data.cache_dir=FOLDER, or set HF_HOME, which all libraries of Hugging Face heed."
        ) from error


def resolve_source(recipe: Recipe) -> Recipe:
    """The recipe with what it leaves to `run.init_from` filled in: `model`, and whether there are classes.

    Raises:
        OSError: if there is no such pipeline.
        ValueError: if it is a checkpoint of the authors' code.
    """
    if str(recipe.run.init_from).endswith(".pkl"):
        raise ValueError(
            "`run.init_from` must be a pipeline's folder or Hub id, got the checkpoint "
            f"{recipe.run.init_from}. Convert it first: python scripts/convert_original.py --checkpoint FILE --output "
            "FOLDER. Its averaged generator comes along. Its discriminator cannot: a new one learns from the start."
        )
    if recipe.model is not None and recipe.data.class_conditional is not None:
        return recipe
    assert recipe.run.init_from is not None  # which the recipe leaves them to
    source, _, revision = Source.parse(recipe.run.init_from)
    config = PolyINRGenerator.load_config(source, subfolder="generator", revision=revision)
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
