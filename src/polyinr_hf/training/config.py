"""A training recipe: dataclasses read from YAML, with dotted overrides. Unknown keys are errors."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .augmentation import DiffAugment

CLASS_EMBEDDING_NETWORK = "tf_efficientnet_lite0"


@dataclass
class DataConfig:
    """Where real images come from; see [`load_image_dataset`] and [`make_loader`]."""

    dataset: str = MISSING  # Hub id, or a folder of images, of parquet, or of `save_to_disk`
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    image_column: str | None = None  # found if there is one
    label_column: str | None = None
    class_conditional: bool | None = True  # null: as `run.init_from` is
    class_name: str | None = None  # of all images, where they have no labels; a folder's own name by default
    streaming: bool = False
    shuffle_buffer: int = 10_000  # rows, of a streaming dataset
    cache_dir: str | None = None
    cache_in_memory: bool | None = None  # decoded images up to 2 GiB by default
    mirror: bool = True
    num_workers: int = 2
    skip_corrupt: bool = False


@dataclass
class ModelConfig:
    """The generator; see [`PolyINRGenerator`]. Number of classes and sample size come from data and stages."""

    z_dim: int = 64
    w_dim: int = 512
    channels: int = 1024
    num_levels: int = 10
    class_embed_dim: int = 320
    num_mapping_layers: int = 2
    modulation_activation: str = "leaky_relu"
    compose_coordinates: bool = True
    initialization: str = "signal_preserving"


@dataclass
class DiscriminatorConfig:
    """The projected discriminator; see [`ProjectedDiscriminator`]."""

    feature_networks: list[str] = field(
        default_factory=lambda: ["deit_base_distilled_patch16_224", "tf_efficientnet_lite0"]
    )
    feature_weights: dict[str, str] = field(default_factory=dict)  # timm name: file; of any network of the recipe
    pretrained: bool = True  # False only to try a recipe out: random networks teach little
    feature_resolution: int = 224
    projection_width: int = 64
    num_heads: int = 4
    augmentation: list[str] = field(default_factory=lambda: ["color", "translation", "cutout"])
    batch_norm_group_size: int | None = None


@dataclass
class LossConfig:
    blur_initial_sigma: float = 2.0  # pixels
    blur_fade_kimg: float = 300.0  # until there is none
    blur_restarts: bool = False  # true: at each stage, as the release runs; false: once, at the start
    joint_batch_norm: bool = False  # real and generated images share their statistics; the release keeps them apart
    matching_weight: float = 0.0  # of the distance to a real image; see [`FeatureMatching`]
    matching_by: str = "likeness"  # or "latent", for classes of a few images
    adversarial_start_kimg: float = 0.0  # matching alone before; the blur's time counts from here
    guidance_weight: float = 0.0  # of the classifier's cross-entropy; both losses are batch means
    guidance_classifier: str = "deit_small_distilled_patch16_224"
    guidance_start_resolution: int = 64  # no guidance below: 32 x 32 images say little to a classifier


@dataclass
class StageConfig:
    """A stretch of training at one resolution. All parameters train at every stage."""

    resolution: int = MISSING  # pixels a side that networks see
    image_resolution: int | None = None  # of the images that windows of `resolution` pixels are cut from; None: none
    window_scales: tuple[float, float] = (0.125, 1.0)  # a window's side, log-uniform, as a share of the image's
    whole_share: float = 0.25  # of the windows, that are the whole image
    kimg: float = MISSING  # thousands of real images shown at this stage
    batch_size: int = 64  # images an optimizer step, over all processes and micro-batches
    lr_generator: float = 1e-4
    lr_discriminator: float = 2e-4
    gradient_accumulation_steps: int = 1
    pixel_chunk: int | None = None  # pixels of the batch whose graph is in memory at once; None: all

    @property
    def shapes(self) -> tuple:
        """All that decides the shapes of a step's tensors."""
        return tuple(
            value for name, value in vars(self).items() if name not in ("kimg", "lr_generator", "lr_discriminator")
        )

    @property
    def image_size(self) -> int:
        """Pixels a side of whole images: of what windows are cut from, if there are any."""
        return self.image_resolution or self.resolution


@dataclass
class RunConfig:
    seed: int = 0
    mixed_precision: str | None = None  # no, bf16, fp16; null: what `accelerate launch` or its config says
    compile: bool = False
    adam_betas: tuple[float, float] = (0.0, 0.99)
    adam_eps: float = 1e-8
    mapping_lr_multiplier: float = 1.0  # of lr_generator, for the mapping network and the class embeddings
    ema_half_life_kimg: float | None = None  # batch_size * 10 / 32 by default
    ema_ramp_up: float | None = 0.05  # the half-life is at most this share of the images seen; null: no ramp-up
    w_mean_decay: float = 0.998
    # What a stage after the first starts from. "carry": all of it, as if there were one long run. "fresh": as the
    # release runs, the averaged generator of the stage before, its best export if there are metrics; discriminator,
    # both optimizers and the average's ramp-up begin again (docs/training.md says what each costs).
    stage_start: str = "carry"
    class_embeddings: str = "computed"  # from the training set by EfficientNet-lite0, or "random"
    init_from: str | None = None  # pipeline folder or Hub id to fine-tune
    init_from_revision: str | None = None  # branch, tag or commit of it on the Hub
    new_classes: bool = False  # with init_from: the class list may differ; names in both keep their embedding
    log_with: list[str] = field(default_factory=lambda: ["tensorboard"])
    log_every_steps: int = 10
    sample_every_kimg: float = 50.0
    export_every_kimg: float = 200.0
    checkpoint_every_kimg: float = 50.0
    keep_checkpoints: int = 2
    evaluate_every_kimg: float | None = None  # measures the averaged generator and keeps the best of each resolution
    metrics: list[str] = field(
        default_factory=lambda: ["fid"]
    )  # the first decides; fd_lite0 needs no Inception weights
    evaluation_samples: int = 50_000
    num_sample_columns: int = 8
    push_to_hub: bool = False  # in the background; what has not arrived is tried again, by --resume too
    hub_model_id: str | None = None  # org/name, or a name of one's own; created if there is none
    hub_private: bool | None = None  # if it is created
    push_exports: str = "final"  # or "every", each with a tag of its name
    push_wait_seconds: float = 600.0  # at the end, for what has not arrived


@dataclass
class Recipe:
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig | None = field(default_factory=ModelConfig)  # null: as `run.init_from` has it
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    stages: list[StageConfig] = field(default_factory=list)
    run: RunConfig = field(default_factory=RunConfig)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe from YAML and applies overrides such as `data.dataset=my/images` or `stages.0.kimg=100`.

    Raises:
        ValueError: for an unknown key, a value of the wrong type, or settings that cannot train; the message names the
            key.
        FileNotFoundError: if there is no such file.
    """
    try:
        return make_recipe(OmegaConf.load(path), overrides)
    except OmegaConfBaseException as error:
        raise ValueError(f"recipe {path}: {str(error).splitlines()[0]} (at {error.full_key})") from error
    except (yaml.YAMLError, TypeError) as error:  # TypeError: a list where a recipe should be
        raise ValueError(f"recipe {path} is not a YAML mapping: {error}") from error


def make_recipe(settings: dict | DictConfig, overrides: list[str] | None = None) -> Recipe:
    """A recipe of nested `settings`, overrides on top; errors as in [`load_recipe`], OmegaConf's for bad settings."""
    config = OmegaConf.merge(OmegaConf.structured(Recipe), settings)
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r} must be key=value, such as data.dataset=my/images")
        try:
            OmegaConf.update(config, key, OmegaConf.from_dotlist([f"value={value}"]).value)  # parsed as YAML is
        except (OmegaConfBaseException, IndexError, TypeError, yaml.YAMLError) as error:
            raise ValueError(f"override {override!r}: {str(error).splitlines()[0]}") from error
    recipe = OmegaConf.to_object(config)
    if recipe.run.mixed_precision == "False":  # what YAML makes of a bare `no`
        recipe.run.mixed_precision = "no"
    check_recipe(recipe)
    return recipe


def differences(before: Recipe, after: Recipe) -> list[str]:
    """What a recipe has otherwise than another, as "run.seed: 0 -> 1"."""
    before, after = OmegaConf.structured(before), OmegaConf.structured(after)
    found = []
    for section in after:
        old, new = before[section], after[section]
        if OmegaConf.is_dict(old) and OmegaConf.is_dict(new):
            found += [f"{section}.{key}: {old[key]} -> {new[key]}" for key in new if old[key] != new[key]]
        elif old != new:
            found.append(f"{section}: other than before")
    return found


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Writes the whole recipe, defaults included, so that `load_recipe` reads it back."""
    OmegaConf.save(OmegaConf.structured(recipe), path)


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError for settings that cannot train, naming the key, its value and what is legal."""
    if not recipe.stages:
        raise ValueError("stages: at least one stage is needed, such as {resolution: 32, kimg: 1000}")
    for index in range(len(recipe.stages)):
        _check_stage(recipe, index)
    run = recipe.run
    for key, value, legal in (
        ("run.mixed_precision", run.mixed_precision, (None, "no", "bf16", "fp16")),
        ("run.class_embeddings", run.class_embeddings, ("computed", "random")),
        ("run.stage_start", run.stage_start, ("carry", "fresh")),
        ("run.push_exports", run.push_exports, ("final", "every")),
        ("loss.matching_by", recipe.loss.matching_by, ("likeness", "latent")),
        *_model_choices(recipe.model),
    ):
        if value not in legal:
            raise ValueError(f"{key}: {value!r} must be one of {legal}")
    for key, value, least in (
        ("data.num_workers", recipe.data.num_workers, 0),
        ("run.seed", run.seed, 0),
        ("run.log_every_steps", run.log_every_steps, 1),
        ("run.keep_checkpoints", run.keep_checkpoints, 1),
        ("run.num_sample_columns", run.num_sample_columns, 1),
        ("run.evaluation_samples", run.evaluation_samples, 1),
        ("run.push_wait_seconds", run.push_wait_seconds, 0),
        ("loss.matching_weight", recipe.loss.matching_weight, 0),
        ("loss.adversarial_start_kimg", recipe.loss.adversarial_start_kimg, 0),
    ):
        if value < least:
            raise ValueError(f"{key}: {value} must be at least {least}")
    for name in ("sample_every_kimg", "export_every_kimg", "checkpoint_every_kimg", "evaluate_every_kimg"):
        value = getattr(run, name)
        if value is not None and not value > 0:
            raise ValueError(f"run.{name}: {value} must be above 0")
    if not run.mapping_lr_multiplier > 0:
        raise ValueError(f"run.mapping_lr_multiplier: {run.mapping_lr_multiplier} must be above 0")
    if run.push_to_hub:
        _check_repo_id(run.hub_model_id)
    _check_data_and_networks(recipe)


def _model_choices(model: ModelConfig | None) -> tuple:
    if model is None:
        return ()
    return (
        ("model.initialization", model.initialization, ("signal_preserving", "released")),
        ("model.modulation_activation", model.modulation_activation, ("leaky_relu", "none")),
    )


def _check_repo_id(repo_id: str | None) -> None:
    try:
        validate_repo_id(repo_id or "?")
    except HFValidationError:
        raise ValueError(
            f"run.hub_model_id: {repo_id!r} must be org/name or a name, as run.push_to_hub is on"
        ) from None


def _check_stage(recipe: Recipe, index: int) -> None:
    stage, where = recipe.stages[index], f"stages.{index}"
    if index and stage.resolution < recipe.stages[index - 1].resolution:
        raise ValueError(
            f"{where}.resolution: {stage.resolution} is below the stage before, "
            f"{recipe.stages[index - 1].resolution}; resolutions must not shrink"
        )
    rates = ("lr_generator", "lr_discriminator")
    for name in ("resolution", "kimg", "batch_size", "gradient_accumulation_steps", *rates):
        if not getattr(stage, name) > 0:
            raise ValueError(f"{where}.{name}: {getattr(stage, name)} must be above 0")
    if stage.pixel_chunk is not None and stage.pixel_chunk < 1:
        raise ValueError(f"{where}.pixel_chunk: {stage.pixel_chunk} must be null or at least 1")
    if stage.image_resolution is not None:
        _check_windows(recipe, stage, where)
    check_division(recipe, index, num_processes=1)


def _check_windows(recipe: Recipe, stage: StageConfig, where: str) -> None:
    if not 2 <= stage.resolution <= stage.image_resolution:
        raise ValueError(
            f"{where}.image_resolution: {stage.image_resolution} must be at least resolution, {stage.resolution}, "
            "which must be at least 2"
        )
    smallest, largest = stage.window_scales
    if not 0 < smallest <= largest <= 1:
        raise ValueError(f"{where}.window_scales: {list(stage.window_scales)} must be 0 < smallest <= largest <= 1")
    if not 0 <= stage.whole_share <= 1:
        raise ValueError(f"{where}.whole_share: {stage.whole_share} must be in [0, 1]")
    if recipe.loss.matching_weight and recipe.loss.matching_by != "latent":
        raise ValueError(
            f"loss.matching_by: {recipe.loss.matching_by!r} must be 'latent' with {where}.image_resolution: windows of "
            "all real images cannot be compared in each step"
        )


def _check_data_and_networks(recipe: Recipe) -> None:
    data, model, discriminator = recipe.data, recipe.model, recipe.discriminator
    for key, value in (("model", model), ("data.class_conditional", data.class_conditional)):
        if value is None and not recipe.run.init_from:
            raise ValueError(f"{key}: null takes it from run.init_from, which is null as well; give one of the two")
    if data.streaming and data.class_conditional and recipe.run.class_embeddings == "computed":
        raise ValueError("run.class_embeddings: 'computed' needs the whole dataset; with data.streaming use 'random'")
    if data.streaming and data.cache_in_memory:
        raise ValueError("data.cache_in_memory: true does not go with data.streaming, which holds no images")
    if data.streaming and recipe.loss.matching_weight:
        raise ValueError(
            f"loss.matching_weight: {recipe.loss.matching_weight} must be 0 with data.streaming: it needs every image"
        )
    if recipe.loss.adversarial_start_kimg and not recipe.loss.matching_weight:
        raise ValueError(
            f"loss.adversarial_start_kimg: {recipe.loss.adversarial_start_kimg} must be 0 without "
            "loss.matching_weight: nothing is left to learn from before"
        )
    if recipe.loss.joint_batch_norm and discriminator.batch_norm_group_size is not None:
        raise ValueError(
            "loss.joint_batch_norm: true does not go with discriminator.batch_norm_group_size "
            f"{discriminator.batch_norm_group_size}, whose groups are all real or all generated"
        )
    if data.streaming and recipe.run.evaluate_every_kimg is not None:
        raise ValueError("run.evaluate_every_kimg: it must be null with data.streaming: metrics need every image")
    if data.class_conditional and model is not None and model.class_embed_dim != 320:
        raise ValueError(f"model.class_embed_dim: {model.class_embed_dim} must be 320, as in the discriminator")
    networks = {*discriminator.feature_networks, recipe.loss.guidance_classifier, CLASS_EMBEDDING_NETWORK}
    if strangers := set(discriminator.feature_weights) - networks:
        raise ValueError(f"discriminator.feature_weights: {sorted(strangers)} are not in use; {sorted(networks)} are")
    try:
        DiffAugment(discriminator.augmentation)
    except ValueError as error:
        raise ValueError(f"discriminator.augmentation: {error}") from error


def check_division(recipe: Recipe, index: int, num_processes: int) -> None:
    """Raises ValueError if the batch of stage `index` cannot be cut into equal micro-batches and batch norm groups."""
    stage, group_size = recipe.stages[index], recipe.discriminator.batch_norm_group_size
    cuts = stage.gradient_accumulation_steps * num_processes
    if stage.batch_size % cuts:
        raise ValueError(
            f"stages.{index}.batch_size: {stage.batch_size} cannot be divided by gradient_accumulation_steps "
            f"{stage.gradient_accumulation_steps} x {num_processes} processes"
        )
    if group_size is not None and (group_size < 1 or stage.batch_size // cuts % group_size):
        raise ValueError(
            f"discriminator.batch_norm_group_size: {group_size} must divide the {stage.batch_size // cuts} images of a "
            f"process's micro-batch in stages.{index}"
        )
