"""Pivotal tuning: the weights fitted around an image's affine parameters."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from polyinr_hf import PolyINRGenerator, PolyINRPipeline, inversion
from polyinr_hf.images import psnr
from polyinr_hf.inversion import STRENGTHS, InversionSettings, Target, TuningSettings, estimate_seconds, invert
from polyinr_hf.inversion.inversion import plan_phases
from polyinr_hf.inversion.objective import InversionLoss
from polyinr_hf.inversion.optimization import step_costs
from polyinr_hf.inversion.search import Search, affine_start
from polyinr_hf.optimizers import Muon

SETTINGS = {field.name for field in dataclasses.fields(TuningSettings)}


def tune(pipe, image, affine_parameters, num_steps=200, **options):
    """`polyinr_hf.inversion.tune`, near, the settings among its arguments."""
    changes = {name: value for name, value in options.items() if name in SETTINGS}
    if "settings" in options:
        return inversion.tune(pipe, image, affine_parameters, **options)
    settings = dataclasses.replace(STRENGTHS["near"], num_steps=num_steps, **changes)
    others = {name: value for name, value in options.items() if name not in SETTINGS}
    return inversion.tune(pipe, image, affine_parameters, settings=settings, **others)


@pytest.fixture(scope="module")
def pipe() -> PolyINRPipeline:
    torch.manual_seed(0)
    model = PolyINRGenerator(z_dim=8, w_dim=16, channels=32, num_levels=4, num_classes=3, sample_size=16)
    pipe = PolyINRPipeline(model, {0: "cat", 1: "dog", 2: "fish"})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return (
        torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(0)).repeat_interleave(4, 1).repeat_interleave(4, 2)
    )


@pytest.fixture(scope="module")
def pivot(pipe, image):
    settings = InversionSettings(num_steps=5, num_refine_steps=20, num_starts=4)
    return invert(pipe, image, backbone=None, settings=settings)


def other_images(pipe) -> torch.Tensor:
    return pipe([0, 1, 2], 4, generator=torch.Generator().manual_seed(9), output_type="pt").images


def test_tuning_improves_the_image_and_leaves_the_original(pipe, image, pivot, caplog):
    before = copy.deepcopy(pipe.generator.state_dict())
    others = other_images(pipe)
    with caplog.at_level("WARNING"):
        tuned, result = tune(pipe, image, pivot.affine_parameters, num_steps=100, lr=0.01)
    assert not caplog.records
    assert pipe.generator is not tuned.generator and pipe.config == tuned.config
    assert result.psnr > pivot.psnr + 2
    assert result.ssim > pivot.ssim
    torch.testing.assert_close(result.affine_parameters, pivot.affine_parameters, rtol=0, atol=1e-5)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.generator.state_dict().items())
    assert torch.equal(other_images(pipe), others)
    assert tuned.labels == pipe.labels
    assert all(p.requires_grad and p.grad is None for p in tuned.generator.parameters())
    assert all(p.requires_grad and p.grad is None for p in pipe.generator.parameters())


def test_only_the_synthesis_weights_change(pipe, image, pivot):
    tuned, _ = tune(pipe, image, pivot.affine_parameters, num_steps=3)
    before, after = pipe.generator.state_dict(), tuned.generator.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith(("synthesis_levels.", "to_rgb."))}


def test_locality_keeps_other_images(pipe, image, pivot):
    others = other_images(pipe)
    changes = []
    for locality_weight in (0.0, 5.0):
        tuned, _ = tune(pipe, image, pivot.affine_parameters, num_steps=40, lr=0.02, locality_weight=locality_weight)
        tuned.set_progress_bar_config(disable=True)
        changes.append((other_images(tuned) - others).square().mean().item())
    assert changes[1] < 0.5 * changes[0]


def test_a_tuned_pipeline_saves_like_any_other(pipe, image, pivot, tmp_path):
    tuned, result = tune(pipe, image, pivot.affine_parameters, num_steps=10)
    tuned.save_pretrained(tmp_path / "tuned")
    result.save(tmp_path / "image.safetensors")
    loaded = PolyINRPipeline.from_pretrained(tmp_path / "tuned")
    drawn = loaded.generator.render(result.affine_parameters, 16, 12)
    torch.testing.assert_close(drawn, tuned.generator.render(result.affine_parameters, 16, 12), rtol=0, atol=0)


def test_tuning_with_a_mask_does_not_read_unknown_pixels(pipe, image, pivot):
    mask = torch.ones(16, 12)
    mask[:5] = 0
    other = torch.where(mask.bool(), image, torch.nan)
    results = [tune(pipe, x, pivot.affine_parameters, num_steps=5, mask=mask) for x in (image, other)]
    first, second = (result[0].generator.state_dict() for result in results)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert results[0][1].psnr == results[1][1].psnr


CLOSE = dataclasses.replace(STRENGTHS["close"], num_steps=40, coarse_side=8, num_pixels=64)


def test_close_needs_no_inversion_and_comes_closer_than_near(pipe, image, pivot):
    before = copy.deepcopy(pipe.generator.state_dict())
    tuned, result = inversion.tune(pipe, image, settings=dataclasses.replace(CLOSE, num_steps=150))
    near = tune(pipe, image, pivot.affine_parameters, num_steps=40)[1]
    assert result.psnr > near.psnr + 3
    drawn = tuned.generator.render(result.affine_parameters, 16, 12).clamp(-1, 1)
    assert psnr(drawn, image[None])[0] == pytest.approx(result.psnr, abs=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.generator.state_dict().items())
    for keeps_them in ("near", TuningSettings(), dataclasses.replace(STRENGTHS["close"], affine_lr=0)):
        with pytest.raises(ValueError, match="`affine_parameters` must be given where `settings` keep them"):
            inversion.tune(pipe, image, settings=keeps_them)


def test_the_names_of_two_settings_are_enough(pipe, image, pivot):
    A = pivot.affine_parameters
    named, given = (inversion.tune(pipe, image, A, near, callback=lambda step: step.step == 2)[1]
                    for near in ("near", STRENGTHS["near"]))  # fmt: skip
    assert named.losses == given.losses and len(named.losses) == 2
    assert named.settings == given.settings


def test_close_goes_on_from_affine_parameters(pipe, image, pivot):
    settings = dataclasses.replace(CLOSE, num_steps=0)
    result = inversion.tune(pipe, image, pivot.affine_parameters, settings=settings)[1]
    assert result.psnr == pytest.approx(pivot.psnr, abs=1e-3)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_at", [3, 14, 30])
def test_going_on_gives_the_same_result(pipe, image, tmp_path, monkeypatch, stop_at):
    monkeypatch.setattr("polyinr_hf.inversion.optimization.CHECKPOINT_SECONDS", 0.0)
    path, steps = tmp_path / "state.pt", []
    settings = dataclasses.replace(CLOSE, locality_weight=0.1)
    expected, result = inversion.tune(pipe, image, settings=settings)

    def stop(step):
        if step.step >= stop_at:
            raise Stop

    with pytest.raises(Stop):
        inversion.tune(pipe, image, settings=settings, checkpoint=path, callback=stop)
    tuned, resumed = inversion.tune(pipe, image, settings=settings, checkpoint=path, callback=steps.append)
    assert [step.step for step in steps] == list(range(stop_at + 1, 41))
    assert resumed.losses == result.losses
    weights = zip(tuned.generator.parameters(), expected.generator.parameters(), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in weights)
    with pytest.raises(ValueError, match=r"`checkpoint`.*\(other: image\)"):
        inversion.tune(pipe, -image, settings=settings, checkpoint=path)


def test_previews_show_the_tuned_model(pipe, image):
    previews = []
    tuned, result = inversion.tune(
        pipe, image, settings=CLOSE, callback=lambda step: previews.append(step.preview(max_side=16))
    )
    assert np.array_equal(np.asarray(previews[-1]), np.asarray(result.image))
    assert not np.array_equal(np.asarray(previews[0]), np.asarray(previews[-1]))


def test_coarse_to_fine(pipe, image, monkeypatch):
    counts = []
    evaluate = InversionLoss.__call__

    def spy(self, A, pixels, *args, **kwargs):
        counts.append((self.size, len(pixels)))
        return evaluate(self, A, pixels, *args, **kwargs)

    monkeypatch.setattr(InversionLoss, "__call__", spy)
    inversion.tune(pipe, image, settings=dataclasses.replace(CLOSE, coarse_side=4, coarse_share=0.5))
    assert counts == [((4, 3), 12)] * 10 + [((8, 6), 48)] * 10 + [((16, 12), 64)] * 20


def test_the_estimate_knows_how_one_tunes(pipe):
    settings = dataclasses.replace(STRENGTHS["near"], num_pixels=None)
    few, many = (estimate_seconds(pipe, 32, 32, dataclasses.replace(settings, num_steps=n)) for n in (10, 100))
    assert 0 < few < 0.5 * many


@pytest.mark.parametrize("slower", [1, 3])
def test_the_estimate_is_renewed_by_every_step(pipe, image, monkeypatch, slower):
    """A step on a small copy tells what one on the image takes, on a machine that has become `slower` since."""
    evaluate, orthogonalize, clock = InversionLoss.__call__, Muon.orthogonalize, SimpleNamespace(now=0.0, pace=1)

    def spy(self, A, pixels, *args, **kwargs):
        clock.now += clock.pace * len(pixels)
        return evaluate(self, A, pixels, *args, **kwargs)

    def spy_on_muon(matrix):
        clock.now += clock.pace * 5 * 32 / 4  # pixels of four levels of n = 32
        return orthogonalize(matrix)

    monkeypatch.setattr(InversionLoss, "__call__", spy)
    monkeypatch.setattr(Muon, "orthogonalize", staticmethod(spy_on_muon))
    for module in ("inversion", "optimization"):
        monkeypatch.setattr(f"polyinr_hf.inversion.{module}.time", SimpleNamespace(monotonic=lambda: clock.now))
    settings = dataclasses.replace(CLOSE, coarse_side=4, coarse_share=0.5)
    estimate = estimate_seconds(pipe, 16, 12, settings)
    assert estimate == pytest.approx(10 * 12 + 10 * 48 + 20 * 64 + 40 * 5 * 32)
    clock.pace, steps = slower, []
    inversion.tune(pipe, image, settings=settings, callback=steps.append)
    ends = [step.seconds + step.remaining_seconds for step in steps]
    assert ends == pytest.approx([slower * estimate] * 40)
    assert steps[-1].remaining_seconds == 0


def test_features_are_part_of_the_estimate_of_steps_on_the_image(pipe):
    search = Search(pipe.generator, **affine_start(pipe.encode(0)), tuning=STRENGTHS["near"])
    settings = dataclasses.replace(STRENGTHS["near"], num_steps=2, coarse_side=8, coarse_share=0.5, num_pixels=None)
    phases = plan_phases(pipe.generator, Target.prepare(torch.zeros(3, 16, 12)), settings)
    assert step_costs(search, phases, features=False) == [48, 192]
    assert step_costs(search, phases, features=True) == pytest.approx([48, 192 + 192 * 4 / 3])


def test_muon_orthogonalizes():
    matrix = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    assert S.max() > 4 * S.min()
    for given in (matrix, matrix.T, 1e-6 * matrix):
        values = torch.linalg.svdvals(Muon.orthogonalize(given))
        assert values.min() > 0.6 and values.max() < 1.3
    middle = U.T @ Muon.orthogonalize(matrix) @ Vh.T  # diagonal: the singular vectors stay
    assert (middle - middle.diagonal().diag()).abs().max() < 1e-4
    assert torch.equal(Muon.orthogonalize(torch.zeros(3, 3)), torch.zeros(3, 3))


def test_muon_steps_have_the_size_of_the_learning_rate():
    weight = torch.nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([weight], lr=0.1)
    weight.grad = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) * 1e-3
    optimizer.step()
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.1, rel=0.25)
    assert (weight.detach() * weight.grad).sum() < 0


def test_seeds_and_steps(pipe, image, pivot):
    def losses(seed):
        options = {"num_pixels": 50, "generator": torch.Generator().manual_seed(seed)}
        steps = []
        result = tune(pipe, image, pivot.affine_parameters, 4, callback=steps.append, **options)[1]
        assert [(step.step, step.num_steps) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
        return result.losses

    assert losses(0) == losses(0) != losses(1)


def test_bfloat16(pipe, image, pivot, monkeypatch):
    seen = set()
    synthesize = PolyINRGenerator.synthesize

    def spy(self, *args):
        if torch.is_grad_enabled():
            seen.add(torch.is_autocast_enabled("cpu"))
        return synthesize(self, *args)

    monkeypatch.setattr(PolyINRGenerator, "synthesize", spy)
    tuned, result = tune(pipe, image, pivot.affine_parameters, num_steps=60, lr=0.01, precision="bfloat16")
    assert seen == {True}
    assert result.psnr > pivot.psnr + 1
    assert result.settings["precision"] == "bfloat16"
    assert {p.dtype for p in tuned.generator.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"affine_parameters": torch.zeros(1, 4, 16, 3)}, r"\(B, 4, 32, 3\).*\(1, 4, 16, 3\)"),
        ({"affine_parameters": torch.zeros(2, 4, 32, 3)}, "`affine_parameters`.*one image"),
        ({"affine_parameters": torch.full((1, 4, 32, 3), float("nan"))}, "`affine_parameters`.*finite"),
        ({"num_steps": -1}, "`num_steps`"),
        ({"lr": -1.0}, "`lr`"),
        ({"precision": "half"}, "`precision`"),
        ({"locality_weight": -0.1}, "`locality_weight`"),
        ({"num_pixels": 0}, "`num_pixels`"),
        ({"optimizer": "sgd"}, "`optimizer`.*muon"),
        ({"coarse_share": 2}, "`coarse_share`"),
        ({"affine_lr": -1}, "`affine_lr`"),
        ({"settings": "far"}, "`settings` must be one of .*'near'.* got 'far'"),
        ({"settings": InversionSettings()}, "`settings` must be one of .* got InversionSettings"),
        ({"mask": torch.ones(3, 3)}, "`mask`"),
        ({"image": torch.full((3, 4, 4), 7.0)}, "`image`"),
    ],
)
def test_bad_arguments(pipe, image, pivot, change, message):
    with pytest.raises(ValueError, match=message):
        tune(pipe, **{"image": image, "affine_parameters": pivot.affine_parameters, "num_steps": 1, **change})
