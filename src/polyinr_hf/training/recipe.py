"""What a training recipe says: a dataclass for each section of its YAML file, legal values beside each key.

    recipe = load_recipe("configs/finetune.yaml", ["data.dataset=my/pictures", "stages.0.kimg=20"])

Unknown keys are errors, and settings that cannot train are refused before anything is built.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..hub.push import check_repo_id
from .augmentation import DiffAugment

logger = logging.getLogger(__name__)

CLASS_EMBEDDING_NETWORK = "tf_efficientnet_lite0"
CLASS_EMBED_DIM = 320  # channels of its last block, and so of a class in mapping network and discriminator


# --- keys and their legal values --------------------------------------------------------------------------------------


def _key(default: Any, legal: str, is_legal: Callable[[Any], bool]) -> Any:
    """A key whose value, where it is not null, is checked when a recipe is read."""
    return field(default=default, metadata={"legal": legal, "is_legal": is_legal})


def _above_0(default: Any = MISSING) -> Any:
    return _key(default, "above 0", lambda value: value > 0)


def _at_least(least: float, default: Any) -> Any:
    return _key(default, f"at least {least}", lambda value: value >= least)


def _one_of(*values: str) -> Any:
    """A key that takes one of `values`, the first by default."""
    return _key(values[0], f"one of {values}", lambda value: value in values)


def _list_of(*values: str) -> Any:
    return field(default_factory=lambda: list(values))


class Source(NamedTuple):
    """Where something is: a folder or a Hub id, and of the latter perhaps a configuration and a revision."""

    name: str
    config: str | None = None
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Splits `owner/name:config@revision`; what is there as a file or folder, or is no Hub id, is a path whole."""
        parts = re.fullmatch(r"((?:[\w.-]+/)?[\w.-]+)(?::([^:@/\\]+))?(?:@([\w./-]+))?", text)
        if parts is None or Path(text).expanduser().exists():
            return cls(text)
        return cls(*parts.groups())


# --- sections ---------------------------------------------------------------------------------------------------------


@dataclass
class DataConfig:
    """Where real images come from; see [`load_image_dataset`] and [`make_loader`]."""

    # A folder of images, of parquet, or of `save_to_disk`; or a Hub id, where need be with one of its configurations
    # and a branch, tag or commit: owner/name:config@revision.
    dataset: str = _key(MISSING, "a folder or a Hub id", lambda value: value.strip() != "")
    split: str = "train"
    image_column: str | None = None  # found if there is one
    label_column: str | None = None
    class_conditional: bool | None = True  # null: as `run.init_from` is
    streaming: bool = False  # rows as they come, for data sets larger than the disk
    cache_dir: str | None = None
    mirror: bool = True  # false where left and right differ, as in letters
    num_workers: int = _at_least(0, 2)
    skip_corrupt: bool = False


@dataclass
class ModelConfig:
    """The generator; see [`PolyINRGenerator`]. Number of classes and sample size come from data and stages."""

    z_dim: int = 64
    channels: int = 1024
    num_levels: int = 10
    num_mapping_layers: int = 2
    equation: str = _one_of("released", "paper")  # what the authors' weights expect, or equation (3) to the letter
    initialization: str = _one_of("signal_preserving", "released")

    def generator_arguments(self) -> dict:
        """Arguments of [`PolyINRGenerator`]."""
        arguments = {name: value for name, value in vars(self).items() if name != "equation"}
        return arguments | EQUATIONS[self.equation] | {"w_dim": 512, "class_embed_dim": CLASS_EMBED_DIM}

    @classmethod
    def of_generator(cls, config: dict, source: str) -> "ModelConfig":
        """The section that describes a generator's configuration, as `run.init_from` `source` has it.

        Raises:
            ValueError: if no recipe says what that generator is.
        """
        equation = next((name for name, flags in EQUATIONS.items() if flags.items() <= config.items()), None)
        own = {key.name: config[key.name] for key in fields(cls) if key.name != "equation"}
        model = cls(**own, equation=equation or "released")
        for name, value in model.generator_arguments().items():
            if config[name] != value and not (name == "class_embed_dim" and config["num_classes"] is None):
                raise ValueError(
                    f"`run.init_from` must be a generator with {name}={value!r}, {source} has {config[name]!r}."
                )
        return model


EQUATIONS = {  # what [`PolyINRGenerator`] calls the two
    "released": {"modulation_activation": "leaky_relu", "compose_coordinates": True},
    "paper": {"modulation_activation": "none", "compose_coordinates": False},
}


@dataclass
class DiscriminatorConfig:
    """The projected discriminator; see [`ProjectedDiscriminator`]."""

    feature_networks: list[str] = _list_of("deit_base_distilled_patch16_224", "tf_efficientnet_lite0")
    # A file of weights for any network of the recipe, by timm's name; "random" only to try a recipe out: random
    # networks teach little.
    feature_weights: dict[str, str] = field(default_factory=dict)
    feature_resolution: int = 224
    projection_width: int = 64
    augmentation: list[str] = _list_of("color", "translation", "cutout")
    # What the heads normalize together: "separate", a micro-batch's real images and its generated ones each by
    # themselves, as the release does; "joint", both at once, which shows what all generated ones have in common, such
    # as a wrong mean color; or so many images of a kind, as the release's --batch-gpu does on any number of GPUs.
    batch_norm: str = _key(
        "separate",
        "separate, joint or a number of images",
        lambda value: value in ("separate", "joint") or (value.isdecimal() and int(value) >= 1),
    )

    @property
    def batch_norm_group_size(self) -> int | None:
        return int(self.batch_norm) if self.batch_norm.isdecimal() else None

    @property
    def joint_batch_norm(self) -> bool:
        return self.batch_norm == "joint"


@dataclass
class LossConfig:
    """What is minimized, and what is blurred."""

    blur_fade_kimg: float = 300.0  # until images are seen sharp; 0: at once
    # Of the distance to a real image, see [`FeatureMatching`]; with `run.codes` of crops, in the last quarter.
    matching_weight: float = _at_least(0, 0.0)
    # "latent" for classes of a few images; with `run.codes`, for a source that was trained so, whose mapping is kept.
    matching_by: str = _one_of("likeness", "latent")
    points_weight: float = _at_least(0, 0.0)  # of the error of colors at single points; see [`PointMatching`]
    points_per_image: int = _at_least(1, 128)
    adversarial_start_kimg: float = _at_least(0, 0.0)  # matching and points alone before; the blur counts from here
    guidance_weight: float = 0.0  # of the classifier's cross-entropy; both losses are batch means
    guidance_classifier: str = "deit_small_distilled_patch16_224"


@dataclass
class StageConfig:
    """A stretch of training at one resolution. All parameters train at every stage."""

    resolution: int = _above_0()  # pixels a side that networks see
    image_resolution: int | None = None  # of the images that windows of `resolution` pixels are cut from; None: none
    window_scales: tuple[float, float] = (0.125, 1.0)  # a window's side, log-uniform, as a share of the image's
    whole_share: float = 0.25  # of the windows, that are the whole image
    kimg: float = _above_0()  # thousands of real images shown at this stage
    batch_size: int = _above_0(64)  # images an optimizer step, over all processes and micro-batches
    lr_generator: float = _above_0(1e-4)
    lr_discriminator: float = _above_0(2e-4)
    gradient_accumulation_steps: int = _above_0(1)
    pixel_chunk: int | None = _at_least(1, None)  # pixels of the batch whose graph is in memory at once; None: all

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
    """Everything around the steps."""

    seed: int = _at_least(0, 0)
    # auto: what `accelerate launch` was told, or else bf16 where the device multiplies it, fp16 with a gradient scaler
    # on older CUDA devices, no (float32) elsewhere.
    mixed_precision: str = _one_of("auto", "no", "bf16", "fp16")
    compile: bool = False  # where there is a compiler
    adam_betas: tuple[float, float] = (0.0, 0.99)
    mapping_lr_multiplier: float = _above_0(1.0)  # of lr_generator, for the mapping network and the class embeddings
    ema_half_life_kimg: float | None = None  # batch_size * 10 / 32 by default
    ema_ramp_up: float | None = 0.05  # the half-life is at most this share of the images seen; null: no ramp-up
    # What a stage after the first starts from. "carry": all of it, as if there were one long run. "fresh": as the
    # release runs, the averaged generator of the stage before, its best export if there are metrics; discriminator,
    # both optimizers, the average's ramp-up and the blur begin again (docs/training.md says what each costs).
    stage_start: str = _one_of("carry", "fresh")
    class_embeddings: str = _one_of("computed", "random")  # from the training set, by EfficientNet-lite0
    # Few pictures instead of adversarial training, by [`PicturesTrainer`], for a time such as "15 minutes"; or for a
    # number such as "400 steps", which makes a resumed run the whole one bit for bit. Of the stages, the first's
    # resolution counts.
    codes: str | None = _key(None, "a time or a number such as '15 minutes' or '400 steps'", lambda v: _is_budget(v))
    init_from: str | None = None  # pipeline to fine-tune: a folder, or a Hub id such as owner/name@revision
    new_classes: bool = False  # with init_from: the class list may differ; names in both keep their embedding
    log_with: list[str] = _list_of("tensorboard")
    log_every_steps: int = _at_least(1, 10)
    sample_every_kimg: float = _above_0(50.0)
    export_every_kimg: float = _above_0(200.0)
    checkpoint_every_kimg: float = _above_0(50.0)
    evaluate_every_kimg: float | None = _above_0(None)  # measures the average, keeps the best of each resolution
    metrics: list[str] = _list_of("fid")  # the first decides; fd_lite0 needs no Inception weights
    evaluation_samples: int = _at_least(1, 50_000)
    # Repository, org/name or a name of one's own, that exports go to in the background, each with a tag of its name;
    # failed uploads are tried again, also after --resume. Created if there is none.
    push_to_hub: str | None = _key(None, "org/name", lambda value: value.lower() not in ("", "true", "false"))


_BUDGET = re.compile(r"(\d+(?:\.\d+)?) (minutes|steps)")


def _is_budget(text: str) -> bool:
    found = _BUDGET.fullmatch(text)
    return found is not None and float(found[1]) > 0 and (found[2] == "minutes" or float(found[1]).is_integer())


def read_budget(text: str) -> tuple[float | None, int | None]:
    """Minutes or steps of `run.codes`, such as (15.0, None) or (None, 400)."""
    found = _BUDGET.fullmatch(text)
    assert found is not None  # as `check_recipe` makes sure
    number, unit = found.groups()
    return (float(number), None) if unit == "minutes" else (None, int(float(number)))


@dataclass
class Recipe:
    """A training run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig | None = field(default_factory=ModelConfig)  # null: as `run.init_from` has it
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    stages: list[StageConfig] = field(default_factory=list)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def known_model(self) -> ModelConfig:
        """`model`, which a run fills in where the recipe leaves it to `run.init_from`."""
        assert self.model is not None
        return self.model


# Keys of earlier versions: what they were where nobody set them, and what is done now. _ANY: no weight hung on it.
_ANY = object()
_GONE = {
    "data.config": (None, "write data.dataset=owner/name:config"),
    "data.revision": (None, "write data.dataset=owner/name@revision"),
    "data.class_name": (None, "images without labels are one class of their folder's or repository's name"),
    "data.shuffle_buffer": (_ANY, "10,000 rows of a stream"),
    "data.cache_in_memory": (_ANY, "decoded images up to 2 GiB are held"),
    "model.w_dim": (512, "it is 512, as in the paper"),
    "model.class_embed_dim": (320, "it is 320, that of EfficientNet-lite0"),
    "model.modulation_activation": ("leaky_relu", "write model.equation=paper"),
    "model.compose_coordinates": (True, "write model.equation=paper"),
    "discriminator.pretrained": (True, "write `random` for the network in discriminator.feature_weights"),
    "discriminator.num_heads": (4, "there are 4, as in the release"),
    "discriminator.batch_norm_group_size": (None, "write discriminator.batch_norm with that number"),
    "loss.joint_batch_norm": (False, "write discriminator.batch_norm=joint"),
    "loss.blur_initial_sigma": (2.0, "it is 2 pixels, as in the release; loss.blur_fade_kimg=0 blurs nothing"),
    "loss.blur_restarts": (False, "the blur restarts at each stage with run.stage_start=fresh"),
    "loss.guidance_start_resolution": (64, "guidance starts at 64 pixels"),
    "run.adam_eps": (1e-8, "it is 1e-8, as in the release"),
    "run.w_mean_decay": (0.998, "it is 0.998, as in the release"),
    "run.init_from_revision": (None, "write run.init_from=owner/name@revision"),
    "run.keep_checkpoints": (_ANY, "two are kept"),
    "run.num_sample_columns": (_ANY, "grids have up to 8 columns"),
    "run.hub_model_id": (None, "write run.push_to_hub=org/name"),
    "run.hub_private": (None, "create the repository first"),
    "run.push_exports": ("final", "all exports are pushed"),
    "run.push_wait_seconds": (_ANY, "ten minutes"),
}


# --- in and out -------------------------------------------------------------------------------------------------------


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Reads a recipe from YAML and applies overrides such as `data.dataset=my/images` or `stages.0.kimg=100`.

    Keys that are text take the text as it stands, without YAML's quotes: 007, no and 12:30 too. `null` is none.

    Raises:
        ValueError: for an unknown key, a value of the wrong type, or settings that cannot train; the message names the
            key.
        FileNotFoundError: if there is no such file.
    """
    try:
        settings = OmegaConf.to_container(OmegaConf.load(path))
        if not isinstance(settings, dict):
            raise ValueError(f"`recipe` must be a YAML mapping, got {path}, which is a {type(settings).__name__}.")
        if left_out := _drop_gone(settings):
            logger.warning("%s has keys of an earlier version, which do nothing now: %s", path, ", ".join(left_out))
        written = yaml.load(Path(path).read_text(encoding="utf-8"), yaml.BaseLoader)
        return make_recipe(_as_written(settings, written, Recipe), overrides)
    except OmegaConfBaseException as error:
        raise ValueError(f"`recipe` {path}: {str(error).splitlines()[0]} (at {error.full_key})") from error
    except yaml.YAMLError as error:
        raise ValueError(f"`recipe` must be a YAML mapping, {path} is not: {error}") from error


def make_recipe(settings: dict | DictConfig, overrides: list[str] | None = None) -> Recipe:
    """A recipe of nested `settings`, overrides on top; errors as in [`load_recipe`], OmegaConf's for bad settings."""
    config: Any = OmegaConf.merge(OmegaConf.structured(Recipe), settings)
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"`overrides` must be key=value, such as data.dataset=my/images, got {override!r}.")
        if key in _GONE:
            raise ValueError(f"`overrides` has {override!r}, a key of an earlier version: {_GONE[key][1]}.")
        try:
            _override(config, key, value)
        except (OmegaConfBaseException, IndexError, TypeError, yaml.YAMLError) as error:
            reason = f"{str(error).splitlines()[0]}; all keys are in polyinr_hf/training/recipe.py"
            raise ValueError(f"`overrides` has {override!r}: {reason}.") from error
    recipe: Any = OmegaConf.to_object(config)
    check_recipe(recipe)
    return recipe


def _override(config: DictConfig, key: str, value: Any) -> None:
    """Sets a dotted key: text as it is, anything else as YAML."""
    declared: Any = Recipe
    names = key.split(".")
    for place, name in enumerate(names):
        declared = _not_none(declared)
        if get_origin(declared) is dict:  # its keys, timm's names, may have dots
            OmegaConf.select(config, ".".join(names[:place]))[".".join(names[place:])] = value
            return
        if get_origin(declared) is list:
            declared = get_args(declared)[0]
        else:
            declared = {key.name: key.type for key in fields(declared)}.get(name) if is_dataclass(declared) else None
    if _not_none(declared) is str:
        value = None if value == "null" and declared is not str else value
    else:
        parsed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
        value = _as_written(parsed["value"], yaml.load(value, yaml.BaseLoader), declared)
    OmegaConf.update(config, key, value)


def _as_written(parsed: Any, written: Any, declared: Any) -> Any:
    """YAML's values where numbers, bools and null are declared, and where text is, what stands there (BaseLoader's)."""
    declared = _not_none(declared)
    if declared is str:
        return parsed if parsed is None or not isinstance(written, str) or isinstance(parsed, str) else written
    if isinstance(parsed, dict) and isinstance(written, dict):
        types = {key.name: key.type for key in fields(declared)} if is_dataclass(declared) else {}
        if get_origin(declared) is dict:
            types = dict.fromkeys(parsed, get_args(declared)[1])
        return {key: _as_written(value, written.get(key), types.get(key)) for key, value in parsed.items()}
    if isinstance(parsed, list) and isinstance(written, list) and get_origin(declared) is list:
        return [_as_written(*pair, get_args(declared)[0]) for pair in zip(parsed, written, strict=True)]
    return parsed


def _not_none(declared: Any) -> Any:
    """The other type of one that may be None."""
    others = [part for part in get_args(declared) if part is not NoneType]
    return others[0] if NoneType in get_args(declared) else declared


def _drop_gone(settings: dict) -> list[str]:
    """Removes keys of earlier versions whose values ask for nothing else than what is done now; returns them.

    Raises:
        ValueError: for a value that would be lost, with what to write instead.
    """
    run, left_out = settings.get("run"), []
    if isinstance(run, dict) and isinstance(run.get("push_to_hub"), bool):  # and the repository in another key
        repository = run.pop("hub_model_id", None)
        run["push_to_hub"] = repository if run["push_to_hub"] else None
    if isinstance(run, dict) and run.get("mixed_precision", "") is None:
        run["mixed_precision"] = "auto"  # whose name was null
    for name, (default, instead) in _GONE.items():
        section, _, key = name.partition(".")
        if not isinstance(settings.get(section), dict) or key not in settings[section]:
            continue
        value = settings[section].pop(key)
        if default is not _ANY and value != default:
            raise ValueError(f"`{name}` must be left out, got {value!r} of an earlier version: {instead}.")
        left_out.append(name)
    return left_out


def differences(before: Recipe, after: Recipe) -> list[str]:
    """What a recipe has otherwise than another, as "run.seed: 0 -> 1"."""
    given, taken = OmegaConf.structured(before), OmegaConf.structured(after)
    found = []
    for section in taken:
        old, new = given[section], taken[section]
        if OmegaConf.is_dict(old) and OmegaConf.is_dict(new):
            found += [f"{section}.{key}: {old[key]} -> {new[key]}" for key in new if old[key] != new[key]]
        elif old != new:
            found.append(f"{section}: other than before")
    return found


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Writes the whole recipe, defaults included, so that `load_recipe` reads it back."""
    OmegaConf.save(OmegaConf.structured(recipe), path)


# --- settings that do not go together ---------------------------------------------------------------------------------


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError for settings that cannot train, naming the key, its value and what is legal."""
    _require(len(recipe.stages) > 0, "stages", recipe.stages, "at least one, such as {resolution: 32, kimg: 1000}")
    for name, section in (*vars(recipe).items(), *((f"stages.{i}", stage) for i, stage in enumerate(recipe.stages))):
        for key in fields(section) if is_dataclass(section) else ():
            value, is_legal = getattr(section, key.name), key.metadata.get("is_legal")
            if is_legal is not None and value is not None:
                legal = key.metadata["legal"]
                legal = f"null or {legal}" if NoneType in get_args(key.type) else legal
                _require(is_legal(value), f"{name}.{key.name}", value, legal)
    for index in range(len(recipe.stages)):
        _check_stage(recipe, index)
    if recipe.run.push_to_hub is not None:
        check_repo_id(recipe.run.push_to_hub, "run.push_to_hub")
    _check_data(recipe)
    _check_networks(recipe)


def _require(met: bool, key: str, value: object, legal: str) -> None:
    if not met:
        raise ValueError(f"`{key}` must be {legal}, got {value!r}.")


def _check_stage(recipe: Recipe, index: int) -> None:
    stage, where = recipe.stages[index], f"stages.{index}"
    if index:
        before = recipe.stages[index - 1].resolution
        legal = f"at least the stage's before, {before}: resolutions do not shrink"
        _require(stage.resolution >= before, f"{where}.resolution", stage.resolution, legal)
    if stage.image_resolution is not None:
        _check_windows(recipe, stage, where)
    check_division(recipe, index, num_processes=1)


def _check_windows(recipe: Recipe, stage: StageConfig, where: str) -> None:
    assert stage.image_resolution is not None
    _require(
        2 <= stage.resolution <= stage.image_resolution,
        f"{where}.image_resolution",
        stage.image_resolution,
        f"at least `resolution`, {stage.resolution}, which must be at least 2",
    )
    smallest, largest = stage.window_scales
    legal = "(smallest, largest) with 0 < smallest <= largest <= 1"
    _require(0 < smallest <= largest <= 1, f"{where}.window_scales", stage.window_scales, legal)
    _require(0 <= stage.whole_share <= 1, f"{where}.whole_share", stage.whole_share, "in [0, 1]")
    _require(
        not recipe.loss.matching_weight or recipe.loss.matching_by == "latent",
        "loss.matching_by",
        recipe.loss.matching_by,
        f"'latent' with `{where}.image_resolution`: windows of all real images cannot be compared in each step",
    )


def _check_data(recipe: Recipe) -> None:
    data, loss, run = recipe.data, recipe.loss, recipe.run
    for key, value in (("model", recipe.model), ("data.class_conditional", data.class_conditional)):
        _require(
            value is not None or bool(run.init_from), key, value, "given, or taken from `run.init_from`, which is null"
        )
    _require(
        not loss.adversarial_start_kimg or loss.matching_weight > 0 or loss.points_weight > 0,
        "loss.adversarial_start_kimg",
        loss.adversarial_start_kimg,
        "0 without `loss.matching_weight` and `loss.points_weight`: nothing is left to learn from before",
    )
    if data.streaming:
        computed, streamed = data.class_conditional and run.class_embeddings == "computed", "with `data.streaming`"
        for met, key, value, legal in (
            (not computed, "run.class_embeddings", "computed", f"'random' {streamed}: 'computed' needs every image"),
            (
                not loss.matching_weight,
                "loss.matching_weight",
                loss.matching_weight,
                f"0 {streamed}: it needs every image",
            ),
            (not run.codes, "run.codes", run.codes, f"null {streamed}: it needs every image"),
            (not loss.points_weight, "loss.points_weight", loss.points_weight, f"0 {streamed}: it needs every image"),
            (
                not run.evaluate_every_kimg,
                "run.evaluate_every_kimg",
                run.evaluate_every_kimg,
                f"null {streamed}: metrics need every image",
            ),
        ):
            _require(met, key, value, legal)


def _check_networks(recipe: Recipe) -> None:
    discriminator, loss = recipe.discriminator, recipe.loss
    networks = {*discriminator.feature_networks, loss.guidance_classifier, CLASS_EMBEDDING_NETWORK}
    strangers = sorted(set(discriminator.feature_weights) - networks)
    _require(not strangers, "discriminator.feature_weights", strangers, f"of networks in use, {sorted(networks)}")
    try:
        DiffAugment(discriminator.augmentation)
    except ValueError as error:
        raise ValueError(f"`discriminator.augmentation` cannot be used: {error}") from error


def check_division(recipe: Recipe, index: int, num_processes: int) -> None:
    """Raises ValueError if the batch of stage `index` cannot be cut into equal micro-batches and batch norm groups."""
    stage, group_size = recipe.stages[index], recipe.discriminator.batch_norm_group_size
    steps = stage.gradient_accumulation_steps
    cuts = steps * num_processes
    legal = f"a multiple of `gradient_accumulation_steps`, {steps}, times {num_processes} processes"
    _require(stage.batch_size % cuts == 0, f"stages.{index}.batch_size", stage.batch_size, legal)
    images = stage.batch_size // cuts
    _require(
        group_size is None or images % group_size == 0,
        "discriminator.batch_norm",
        group_size,
        f"a divisor of the {images} images of a process's micro-batch in `stages.{index}`",
    )
