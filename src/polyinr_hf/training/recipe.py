"""What a training recipe says: a dataclass for each section of its YAML file."""

from dataclasses import dataclass, field

from omegaconf import MISSING

CLASS_EMBEDDING_NETWORK = "tf_efficientnet_lite0"
CLASS_EMBED_DIM = 320  # channels of its last block, and so of a class in mapping network and discriminator


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
    points_weight: float = 0.0  # of the error of colours at single points; see [`PointMatching`]
    points_per_image: int = 128
    adversarial_start_kimg: float = 0.0  # matching and points alone before; the blur's time counts from here
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
    push_to_hub: bool = False  # in the background; failed uploads are retried, also after --resume
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
