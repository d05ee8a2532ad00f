"""A pixel grid that was trained with the network, as in the authors' checkpoints: measured, kept, and where it ends."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.conversion import convert_original_checkpoint, measure_grid
from polyinr_hf.training.models import copy_weights, load_source

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "convert_original.py"
NAME = "authors_dill_cond7_n48"


@pytest.fixture(scope="module")
def converted(reference_values) -> PolyINRPipeline:
    pipe = convert_original_checkpoint(reference_values / f"{NAME}.pkl")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def expected(reference_values) -> dict[str, torch.Tensor]:
    with np.load(reference_values / f"{NAME}.npz") as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def draw(pipe, expected, **kwargs) -> torch.Tensor:
    """Images in [-1, 1]."""
    call = {"class_labels": expected["labels"].long(), "latents": expected["z"], "output_type": "pt"}
    return pipe(**call, **kwargs).images * 2 - 1


def test_conversion_measures_how_far_the_grid_is_from_uniform(converted):
    measured = measure_grid(converted.generator)
    assert measured["max"] == pytest.approx(2.68, abs=0.01)
    assert measured["mean"] == pytest.approx(0.234, abs=0.001)
    generator = converted.generator
    rng = torch.Generator().manual_seed(0)
    z, labels = torch.randn(4, 64, generator=rng), torch.randint(7, (4,), generator=rng)
    A = generator.affine(generator.map(z, labels))
    native, uniform = (generator.render(A, pixel_grid=grid).clamp(-1, 1) for grid in ("native", "uniform"))
    psnr = 10 * torch.log10(4 / (native - uniform).square().mean(dim=(1, 2, 3))).mean()
    assert measured["psnr"] == pytest.approx(psnr.item(), abs=0.01)


@pytest.mark.parametrize("name", ["official_conditional_n64", "official_unconditional_superres_n32"])
def test_a_grid_that_was_not_trained_is_not_kept(name, reference_values):
    generator = convert_original_checkpoint(reference_values / f"{name}.pkl").generator
    assert generator.config.grid_size is None
    assert "grid_displacement" not in generator.state_dict()
    assert measure_grid(generator) == {"max": 0.0, "mean": 0.0, "psnr": float("inf")}


@pytest.mark.parametrize("options, image", [([], "image_native"), (["--uniform_grid"], "image_uniform_32")])
def test_the_script_says_what_it_found_and_did(tmp_path, reference_values, expected, capsys, options, image):
    main, folder = runpy.run_path(str(SCRIPT))["main"], tmp_path / "out"
    main(["--checkpoint", str(reference_values / f"{NAME}.pkl"), "--output", str(folder), *options])
    said = capsys.readouterr().err
    assert "pixel grid trained: at most 2.7 pixels from uniform, 0.23 on average" in said
    assert ("dropped" in said) == bool(options)
    pipe = PolyINRPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert json.loads((folder / "generator/config.json").read_text())["grid_size"] == (None if options else 32)
    assert (draw(pipe, expected) - expected[image]).abs().max() <= 2e-6  # 1e-5 of the largest value, 0.12


def test_a_pipeline_draws_on_it_as_asked(converted, expected):
    error = 2e-6  # 1e-5 of the largest value, 0.12
    assert (draw(converted, expected) - expected["image_native"]).abs().max() <= error
    assert (draw(converted, expected, pixel_grid="uniform") - expected["image_uniform_32"]).abs().max() <= error
    assert (draw(converted, expected, height=45, width=45) - expected["image_45"]).abs().max() <= error
    interpolated = draw(converted, expected, height=63, width=63, pixel_grid="interpolated")
    assert (interpolated[:, :, ::2, ::2] - expected["image_native"]).abs().max() <= error
    with pytest.raises(ValueError, match="`pixel_grid` must be one of .*, got 'bent'"):
        draw(converted, expected, pixel_grid="bent")


def test_fine_tuning_starts_from_a_uniform_grid_and_says_so(converted, tmp_path):
    converted.save_pretrained(tmp_path)
    config = {**converted.generator.config, "grid_size": None}
    mine = PolyINRGenerator(**{name: value for name, value in config.items() if not name.startswith("_")})
    with pytest.warns(UserWarning, match="pixel grid.*uniform"):
        source = load_source(mine, str(tmp_path), None, new_classes=False)
    copy_weights(mine, source, None)
    A = mine.affine(mine.map(torch.ones(1, 64), torch.tensor([2])))
    torch.testing.assert_close(mine.render(A), converted.generator.render(A, pixel_grid="uniform"))
