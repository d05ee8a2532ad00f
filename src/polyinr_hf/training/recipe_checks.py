"""What a recipe may say: settings that cannot train are refused before anything is built."""

from ..hub.push import check_repo_id
from .augmentation import DiffAugment
from .recipe import CLASS_EMBED_DIM, CLASS_EMBEDDING_NETWORK, ModelConfig, Recipe, StageConfig


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError for settings that cannot train, naming the key, its value and what is legal."""
    run, loss = recipe.run, recipe.loss
    _require(len(recipe.stages) > 0, "stages", recipe.stages, "at least one, such as {resolution: 32, kimg: 1000}")
    for index in range(len(recipe.stages)):
        _check_stage(recipe, index)
    for key, value, legal in (
        ("run.mixed_precision", run.mixed_precision, (None, "no", "bf16", "fp16")),
        ("run.class_embeddings", run.class_embeddings, ("computed", "random")),
        ("run.stage_start", run.stage_start, ("carry", "fresh")),
        ("run.push_exports", run.push_exports, ("final", "every")),
        ("loss.matching_by", loss.matching_by, ("likeness", "latent")),
        *_model_choices(recipe.model),
    ):
        _require(value in legal, key, value, f"one of {legal}")
    for key, value, least in (
        ("data.num_workers", recipe.data.num_workers, 0),
        ("run.seed", run.seed, 0),
        ("run.log_every_steps", run.log_every_steps, 1),
        ("run.keep_checkpoints", run.keep_checkpoints, 1),
        ("run.num_sample_columns", run.num_sample_columns, 1),
        ("run.evaluation_samples", run.evaluation_samples, 1),
        ("run.push_wait_seconds", run.push_wait_seconds, 0),
        ("loss.matching_weight", loss.matching_weight, 0),
        ("loss.points_weight", loss.points_weight, 0),
        ("loss.points_per_image", loss.points_per_image, 1),
        ("loss.adversarial_start_kimg", loss.adversarial_start_kimg, 0),
    ):
        _require(value >= least, key, value, f"at least {least}")
    for name in ("sample_every_kimg", "export_every_kimg", "checkpoint_every_kimg", "mapping_lr_multiplier"):
        _require(getattr(run, name) > 0, f"run.{name}", getattr(run, name), "above 0")
    if run.evaluate_every_kimg is not None:
        _require(run.evaluate_every_kimg > 0, "run.evaluate_every_kimg", run.evaluate_every_kimg, "null or above 0")
    if run.push_to_hub:
        check_repo_id(run.hub_model_id, "run.hub_model_id")
    _check_data(recipe)
    _check_networks(recipe)


def _require(met: bool, key: str, value: object, legal: str) -> None:
    if not met:
        raise ValueError(f"`{key}` must be {legal}, got {value!r}.")


def _model_choices(model: ModelConfig | None) -> tuple:
    if model is None:
        return ()
    return (
        ("model.initialization", model.initialization, ("signal_preserving", "released")),
        ("model.modulation_activation", model.modulation_activation, ("leaky_relu", "none")),
    )


def _check_stage(recipe: Recipe, index: int) -> None:
    stage, where = recipe.stages[index], f"stages.{index}"
    if index:
        before = recipe.stages[index - 1].resolution
        legal = f"at least the stage's before, {before}: resolutions do not shrink"
        _require(stage.resolution >= before, f"{where}.resolution", stage.resolution, legal)
    rates = ("lr_generator", "lr_discriminator")
    for name in ("resolution", "kimg", "batch_size", "gradient_accumulation_steps", *rates):
        _require(getattr(stage, name) > 0, f"{where}.{name}", getattr(stage, name), "above 0")
    chunk = stage.pixel_chunk
    _require(chunk is None or chunk >= 1, f"{where}.pixel_chunk", chunk, "null or at least 1")
    if stage.image_resolution is not None:
        _check_windows(recipe, stage, where)
    check_division(recipe, index, num_processes=1)


def _check_windows(recipe: Recipe, stage: StageConfig, where: str) -> None:
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
                not data.cache_in_memory,
                "data.cache_in_memory",
                True,
                f"false or null {streamed}, which holds no images",
            ),
            (
                not loss.matching_weight,
                "loss.matching_weight",
                loss.matching_weight,
                f"0 {streamed}: it needs every image",
            ),
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
    model, discriminator, loss = recipe.model, recipe.discriminator, recipe.loss
    _require(
        not loss.joint_batch_norm or discriminator.batch_norm_group_size is None,
        "loss.joint_batch_norm",
        loss.joint_batch_norm,
        f"false with `discriminator.batch_norm_group_size` {discriminator.batch_norm_group_size}, whose groups are all "
        "real or all generated",
    )
    if recipe.data.class_conditional and model is not None:
        legal = f"{CLASS_EMBED_DIM}, as in the discriminator"
        _require(model.class_embed_dim == CLASS_EMBED_DIM, "model.class_embed_dim", model.class_embed_dim, legal)
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
        group_size is None or (group_size >= 1 and images % group_size == 0),
        "discriminator.batch_norm_group_size",
        group_size,
        f"a divisor of the {images} images of a process's micro-batch in `stages.{index}`",
    )
