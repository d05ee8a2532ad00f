"""What a recipe costs, counted without computing it, beside what can be counted by hand."""

import importlib.util
from pathlib import Path

import pytest
import torch

from polyinr_hf.training.image_generator import ImageGenerator
from polyinr_hf.training.models import build_generator
from polyinr_hf.training.plan import check_memory, format_plan, plan_recipe
from polyinr_hf.training.stage_costs import StageCost, StageNetworks, measure_stage


@pytest.fixture
def recipe(make_recipe):
    return make_recipe("stages=[{resolution: 16, kimg: 10, batch_size: 8}]", "model.channels=64")


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def generator_flop(n: int, levels: int, pixels: int) -> int:
    """Multiplications and additions of synthesis alone: level 0 and the modulation at K = 3, W_l at n, RGB at n x 3."""
    level_0 = 2 * n * n * 3  # W_0 A_0, once an image
    return level_0 + pixels * (2 * n * 3 + (levels - 1) * (2 * n * 3 + 2 * n * n) + 2 * n * 3)


@pytest.mark.slow
def test_products_of_the_generator_are_those_of_its_layers(recipe):
    """One forward in the discriminator's step, a forward and twice that backward in its own: 4 in all."""
    costs = [measure_stage(recipe, 0)]
    recipe.model.num_levels = 4  # one more level: what it adds is known
    costs.append(measure_stage(recipe, 0))
    added = sum(
        (cost.generator_gflop + cost.discriminator_gflop) * sign for cost, sign in zip(costs, (-1, 1), strict=True)
    )
    synthesis = generator_flop(64, 4, 256) - generator_flop(64, 3, 256)
    affine = 2 * (32 * 64 + 64 * (2 * 64 + 64 + 4 + 2))  # and the small products that fold it
    assert added * 1e9 == pytest.approx(4 * (synthesis + affine), rel=0.05)


@pytest.mark.slow
def test_a_second_forward_of_chunks_is_counted(recipe):
    whole = measure_stage(recipe, 0)
    recipe.stages[0].pixel_chunk = 8 * 256  # as large as the batch: nothing is done twice
    assert measure_stage(recipe, 0).generator_gflop == whole.generator_gflop
    recipe.stages[0].pixel_chunk = 256
    chunked = measure_stage(recipe, 0)
    extra = (chunked.generator_gflop - whole.generator_gflop) * 1e9
    # Each of 8 chunks folds level 0 by itself: in both forwards, and twice the products in the backward.
    folds = (2 * 8 - 2) + 2 * (8 - 1)
    assert extra == pytest.approx(generator_flop(64, 3, 256) + folds * 2 * 64 * 64 * 3, rel=0.01)


@pytest.mark.slow
def test_chunks_lower_the_planned_peak(make_recipe):
    """Of large images: of small ones the discriminator is the peak, which chunks leave as it is."""
    recipe = make_recipe("stages=[{resolution: 128, kimg: 10, batch_size: 8}]", "model.channels=64")
    recipe.run.mixed_precision = "bf16"
    whole = measure_stage(recipe, 0)
    recipe.stages[0].pixel_chunk = 128**2  # an eighth of the batch
    saved = (whole.peak_gib - measure_stage(recipe, 0).peak_gib) * 2**30
    # Two levels keep the modulation in float32 and, in bfloat16, the modulation activated, its product with the
    # features, and the features after the linear layer, the activation and the clamp. Level 0 keeps the last three, the
    # first two of them in float32. What is left of a chunk is less than the discriminator's.
    a_feature = (4 + 4 + 2) + 2 * (4 + 5 * 2)  # bytes
    assert saved == pytest.approx(8 * 128**2 * 64 * a_feature, rel=0.02)


@pytest.mark.slow
def test_a_large_micro_batch_is_counted_by_a_small_one(recipe):
    recipe.stages[0].pixel_chunk = 512
    planned, counted = measure_stage(recipe, 0), StageNetworks(recipe, None).count_step(recipe.stages[0], 8, 64)
    assert planned.micro_batch == 8
    assert planned.generator_gflop == pytest.approx(counted.generator_gflop, rel=1e-3)
    assert planned.discriminator_gflop == pytest.approx(counted.discriminator_gflop, rel=1e-3)
    assert planned.peak_gib == pytest.approx(counted.peak_gib, rel=0.02)


def test_a_chunk_as_large_as_the_image_runs_synthesis_once(recipe, monkeypatch):
    images, calls = ImageGenerator(build_generator(recipe, None)), []
    synthesize = images._synthesize
    monkeypatch.setattr(images, "_synthesize", lambda *args: calls.append(1) or synthesize(*args))
    z = torch.randn(2, recipe.model.z_dim)
    for chunk, expected in ((2 * 64, 1), (2 * 32, 4)):
        calls.clear()
        images(z, None, 8, chunk).sum().backward()
        assert len(calls) == expected  # in chunks, each again in the backward


@pytest.mark.slow
def test_stages_of_the_same_shapes_are_counted_once(make_recipe, monkeypatch):
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


@pytest.mark.slow
def test_the_plan_command_refuses_what_does_not_fit(recipe_file, capsys):
    """On a device that is not here, whose memory is said."""
    spec = importlib.util.spec_from_file_location("scripts_benchmark", SCRIPTS / "benchmark.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    stages = "stages=[{resolution: 128, kimg: 10, batch_size: 8}]"
    command = ["plan", "--recipe", str(recipe_file), "--device", "A100", "--num_classes", "3", "--set", stages]
    command += ["model.channels=64"]
    benchmark.main(command)
    assert "on 1 x 312 TFLOP/s" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"`stages\.0\.gradient_accumulation_steps=\d` should fit"):
        benchmark.main([*command, "--memory_gb", "0.5"])
    with pytest.raises(SystemExit, match="`--device` must be one of H200, H100, .*, got 'abacus'"):
        benchmark.main([*command, "--device", "abacus"])
