"""What a recipe costs, counted without computing it, beside what can be counted by hand and what a run really does."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

import plan as plan_command
from polyinr_hf.training.matching import LatentCells, save_cells
from polyinr_hf.training.plan import StageCost, check_memory, format_plan, plan_recipe
from polyinr_hf.training.trainer import Trainer

STAGE = "stages=[{resolution: 16, kimg: 10, batch_size: 8}]"


@pytest.fixture
def plan(make_recipe):
    """Function of overrides -> the cost of a recipe's one stage."""

    def plan(*overrides: str) -> StageCost:
        (cost,) = plan_recipe(make_recipe(STAGE, "model.channels=64", *overrides))
        return cost

    return plan


def generator_flop(n: int, levels: int, pixels: int) -> int:
    """Multiplications and additions of synthesis alone: level 0 and the modulation at K = 3, W_l at n, RGB at n x 3."""
    level_0 = 2 * n * n * 3  # W_0 A_0, once an image
    return level_0 + pixels * (2 * n * 3 + (levels - 1) * (2 * n * 3 + 2 * n * n) + 2 * n * 3)


def test_products_of_the_generator_are_those_of_its_layers(plan):
    """One forward in the discriminator's step, a forward and twice that backward in its own: 4 in all."""
    costs = [plan(), plan("model.num_levels=4")]  # one more level: what it adds is known
    added = sum(
        (cost.generator_gflop + cost.discriminator_gflop) * sign for cost, sign in zip(costs, (-1, 1), strict=True)
    )
    synthesis = generator_flop(64, 4, 256) - generator_flop(64, 3, 256)
    affine = 2 * (32 * 64 + 64 * (2 * 64 + 64 + 4 + 2))  # and the small products that fold it
    assert added * 1e9 == pytest.approx(4 * (synthesis + affine), rel=0.05)


def test_a_second_forward_of_chunks_is_counted(make_recipe):
    stages = [f"{{resolution: 16, kimg: 1, batch_size: 8, pixel_chunk: {chunk}}}" for chunk in ("null", 2048, 256)]
    whole, one_chunk, chunked = plan_recipe(make_recipe(f"stages=[{', '.join(stages)}]", "model.channels=64"))
    assert one_chunk.generator_gflop == whole.generator_gflop
    extra = (chunked.generator_gflop - whole.generator_gflop) * 1e9
    # Each of 8 chunks folds level 0 by itself: in both forwards, and twice the products in the backward.
    folds = (2 * 8 - 2) + 2 * (8 - 1)
    assert extra == pytest.approx(generator_flop(64, 3, 256) + folds * 2 * 64 * 64 * 3, rel=0.01)


def test_points_cost_what_the_generator_does_there(plan):
    """A forward and twice that backward, but once where products are with points, which take no gradient."""
    without, with_points = plan(), plan("loss.points_weight=1", "loss.points_per_image=128")
    extra = (with_points.generator_gflop - without.generator_gflop) * 1e9
    assert extra == pytest.approx(3 * generator_flop(64, 3, 128) - 3 * 128 * 2 * 64 * 3, rel=1e-6)
    assert with_points.discriminator_gflop == without.discriminator_gflop


STAGES = {
    "plain": (),
    "accumulated, chunked": ("stages.0.gradient_accumulation_steps=2", "stages.0.pixel_chunk=300"),
    "matching by latent, points": (
        "loss.matching_weight=1",
        "loss.matching_by=latent",
        "loss.points_weight=1",
        "loss.points_per_image=16",
        "discriminator.batch_norm=joint",
    ),
    "windows": (
        "stages.0.image_resolution=64",
        "stages.0.window_scales=[0.3,1.0]",
        "loss.matching_weight=1",
        "loss.matching_by=latent",
    ),
}


@pytest.mark.parametrize("overrides", STAGES.values(), ids=STAGES)
def test_the_plan_counts_what_the_trainers_step_does(plan, make_recipe, tmp_path, overrides):
    """Of real tensors, by torch's own counter."""
    recipe = make_recipe(STAGE, "model.channels=64", *overrides)
    trainer = Trainer(recipe, tmp_path)
    stage, networks = recipe.stages[0], trainer.networks
    loader, parts = trainer.enter_stage(stage), stage.gradient_accumulation_steps
    loaded = [next(loader) for _ in range(parts)]
    counted = []
    with FlopCounterMode(display=False) as counter:
        batches = networks.sample(stage, 0, loaded)
        networks.generator_gradients(stage, batches, 2.0, trainer.log)
        counted.append(counter.get_total_flops())
        networks.discriminator_gradients(stage, batches, 2.0, trainer.log)
        counted.append(counter.get_total_flops() - counted[0])
    (cost,) = plan_recipe(recipe, 1, 3, 16)
    assert cost.micro_batch == 8 // parts
    # What windows show at several points of a pixel differs from draw to draw, by micro-batch.
    assert cost.generator_gflop * 8 == pytest.approx(counted[0] / 1e9, rel=1e-3)
    assert cost.discriminator_gflop * 8 == pytest.approx(counted[1] / 1e9, rel=1e-3)


def test_matching_by_likeness_is_counted_with_its_images(make_recipe):
    """Features of the generated images, forward and back, and their distances to the real ones of a class."""
    overrides = (STAGE, "loss.matching_weight=1")
    plain, few, many = (
        plan_recipe(make_recipe(*those), 1, 1, number)[0]
        for those, number in (((STAGE,), 16), (overrides, 100), (overrides, 300))
    )
    assert few.generator_gflop > 1.02 * plain.generator_gflop
    numbers = 3 * 16**2 + 24 * 16**2 + 40 * 8**2 + 112 * 4**2 + 320 * 2**2  # of an image and its maps at 64 px
    assert (many.generator_gflop - few.generator_gflop) * 1e9 == pytest.approx(2 * 200 * numbers, rel=0.01)
    assert (many.peak_gib - few.peak_gib) * 2**30 > 200 * numbers * 2


def test_a_run_from_a_model_with_cells_costs_what_it_does_without(make_recipe, tmp_path):
    """As after `train.py small`."""
    save_cells(LatentCells(20, 8), tmp_path)
    overrides = (STAGE, "loss.matching_weight=1", "loss.matching_by=latent")
    recipes = (make_recipe(*overrides), make_recipe(*overrides, f"run.init_from={tmp_path}"))
    without, cost = (plan_recipe(recipe, 1, 1, 20)[0] for recipe in recipes)
    assert cost == without


def test_chunks_lower_the_planned_peak(make_recipe):
    """Of large images: of small ones the discriminator is the peak, which chunks leave as it is."""
    stages = [f"{{resolution: 128, kimg: 1, batch_size: 8, pixel_chunk: {chunk}}}" for chunk in ("null", 128**2)]
    overrides = (f"stages=[{', '.join(stages)}]", "model.channels=64", "run.mixed_precision=bf16")
    whole, chunked = plan_recipe(make_recipe(*overrides))
    saved = (whole.peak_gib - chunked.peak_gib) * 2**30
    # Two levels keep the modulation in float32 and, in bfloat16, the modulation activated, its product with the
    # features, and the features after the linear layer, the activation and the clamp. Level 0 keeps the last three, the
    # first two of them in float32. What is left of a chunk is less than the discriminator's.
    a_feature = (4 + 4 + 2) + 2 * (4 + 5 * 2)  # bytes
    assert saved == pytest.approx(8 * 128**2 * 64 * a_feature, rel=0.02)


def test_stages_of_the_same_shapes_are_counted_once(make_recipe):
    stages = (
        "[{resolution: 16, kimg: 1, batch_size: 8}, {resolution: 16, kimg: 3, batch_size: 8, lr_generator: 1.0e-5}]"
    )
    first, second = plan_recipe(make_recipe(f"stages={stages}"))
    assert second.stage.kimg == 3
    assert second.generator_gflop == first.generator_gflop
    assert second.pflop == pytest.approx(3 * first.pflop)


def cost(make_recipe, peak_gib: float, micro_batch: int = 64, **stage) -> StageCost:
    settings = {"resolution": 64, "kimg": 1000, "batch_size": 64} | stage
    recipe = make_recipe(f"stages=[{settings}]")
    return StageCost(recipe.stages[0], micro_batch, 100.0, 50.0, 1.0, peak_gib, 0.5)


def test_what_does_not_fit_is_refused_with_the_key_to_change(make_recipe):
    check_memory([cost(make_recipe, 70)], 8, 80)
    with pytest.raises(ValueError, match=r"`stages\.0\.gradient_accumulation_steps=4` should fit"):
        check_memory([cost(make_recipe, 171)], 8, 80)
    with pytest.raises(ValueError, match=r"lower `stages\.0\.pixel_chunk` \(4096\)"):
        check_memory([cost(make_recipe, 171, 8, pixel_chunk=4096)], 8, 80)


def test_days_are_products_over_the_devices_speed(make_recipe):
    planned = cost(make_recipe, 10)
    assert planned.pflop == pytest.approx(150e9 * 1e6 / 1e15)
    assert planned.days(8, 100, 0.5) == pytest.approx(150e15 / (8 * 50e12) / 86_400)
    assert planned.images_per_second(8, 100, 0.5) == pytest.approx(8 * 50e12 / 150e9)
    text = format_plan([planned], 8, 100, 0.5)
    assert "about 6 minutes on 8 x 100 TFLOP/s, at 50%" in text
    assert "images/s" not in format_plan([planned], 8)


def test_the_plan_command_refuses_what_does_not_fit(recipe_file, capsys):
    """On a device that is not here, whose memory is said."""
    stages = "stages=[{resolution: 128, kimg: 10, batch_size: 8}]"
    command = ["--recipe", str(recipe_file), "--device", "A100", "--num_classes", "3", "--set", stages]
    command += ["model.channels=64"]
    plan_command.main(command)
    assert "on 1 x 312 TFLOP/s" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"`stages\.0\.gradient_accumulation_steps=\d` should fit"):
        plan_command.main([*command, "--memory_gb", "0.5"])
    with pytest.raises(SystemExit, match="`--device` must be one of H200, H100, .*, got 'abacus'"):
        plan_command.main([*command, "--device", "abacus"])
