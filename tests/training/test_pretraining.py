"""Pretraining: each image's code gives the image, and the mapping network leads to the codes."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from polyinr_hf import PolyINRPipeline
from polyinr_hf.training.matching import images_of_latents
from polyinr_hf.training.pretraining import ImageOrder, Pretrainer, class_quantiles, fit_mapping
from polyinr_hf.training.trainer import Trainer

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "pretrain.py"
MATCHING = ("loss.matching_by=latent", "loss.matching_weight=1", "run.adam_betas=[0.9,0.99]")
STAGE = "stages=[{resolution: 16, kimg: 0.32, batch_size: 8, lr_generator: 2.0e-3}]"


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pretrained(recipe_file, tmp_path_factory):
    from polyinr_hf.training.recipe import load_recipe

    folder = tmp_path_factory.mktemp("pretrained")
    pretrainer = Pretrainer(load_recipe(recipe_file, [*MATCHING, STAGE]), folder, mapping_steps=1000)
    assert pretrainer.train()
    return pretrainer, folder


def test_images_come_out_of_their_codes(pretrained):
    """In 20 epochs the distance falls by a quarter or more, and an image is nearer to its own than to others."""
    pretrainer, folder = pretrained
    losses = [line["matching_loss"] for line in read_log(folder)]
    assert sum(losses[-4:]) < 0.75 * sum(losses[:4])
    w = pretrainer.codes.weight.detach().unsqueeze(1).repeat(1, 3, 1)
    with torch.no_grad():
        images = pretrainer.G.from_w(w, 16)
        features = pretrainer.matching._flatten(pretrainer.matching._maps(images))
    squared = torch.cdist(features, pretrainer.matching.reals.float()).square()
    assert squared.diagonal().mean() < 0.95 * squared.mean()


def test_the_mapping_network_leads_to_the_codes(pretrained):
    """For an image's class and latents that stand for it, nearer to its code than to any other of them."""
    pretrainer, folder = pretrained
    (export,) = (folder / "exports").iterdir()
    generator = PolyINRPipeline.from_pretrained(export).generator
    codes, labels = pretrainer.codes.weight.detach(), pretrainer.labels
    z = pretrainer._draw_latents(torch.Generator().manual_seed(5))
    with torch.no_grad():
        w = generator.map(z, labels)[:, 0]
    assert (w - codes).square().mean() < 0.2 * codes.var(dim=0).mean()
    assert torch.cdist(w, codes).argmin(dim=1).eq(torch.arange(len(codes))).float().mean() > 0.8
    means = torch.stack([codes[labels == label].mean(dim=0) for label in range(3)])
    torch.testing.assert_close(generator.w_mean, means)


def test_latents_that_stand_for_an_image_are_matched_with_it(pretrained):
    pretrainer, _ = pretrained
    for seed in range(20):
        for z_dim in (64, 16):  # of the model, and of one with smaller latents to start from
            z = pretrainer._draw_latents(torch.Generator().manual_seed(seed), z_dim=z_dim)
            assert z.shape[1] == z_dim
            chosen = images_of_latents(z, pretrainer.labels, pretrainer.matching.members)
            assert torch.equal(chosen, torch.arange(len(z)))


def test_quantiles_share_a_class_equally():
    quantiles = class_quantiles(torch.tensor([0, 1, 0, 0, 0]))
    assert quantiles.tolist() == [[0, 0.25], [0, 1], [0.25, 0.5], [0.5, 0.75], [0.75, 1]]


def test_grids_show_images_beside_what_their_codes_give(pretrained):
    _, folder = pretrained
    assert {path.name for path in (folder / "samples").iterdir()} == {"reals-16.png", "kimg-00000.320.png"}


def test_adversarial_training_goes_on_from_an_export(pretrained, make_recipe, tmp_path):
    _, folder = pretrained
    (export,) = (folder / "exports").iterdir()
    trainer = Trainer(make_recipe(*MATCHING, f"run.init_from={export}"), tmp_path)
    ours = trainer.generator.state_dict()
    for name, values in PolyINRPipeline.from_pretrained(export).generator.state_dict().items():
        assert torch.equal(ours[name], values), name


def test_a_deeper_mapping_network_starts_from_what_the_source_gives(pretrained, make_recipe, tmp_path):
    """Codes are the source's w, the rest of the model its weights; the layers to be fitted are new."""
    _, folder = pretrained
    (export,) = (folder / "exports").iterdir()
    source = PolyINRPipeline.from_pretrained(export).generator
    pretrainer = Pretrainer(make_recipe(*MATCHING, f"run.init_from={export}", "model.num_mapping_layers=5"), tmp_path)
    z = pretrainer._draw_latents(torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(pretrainer.codes.weight, source.map(z, pretrainer.labels)[:, 0])
    ours = pretrainer.generator.state_dict()
    for name, values in source.state_dict().items():
        assert name.startswith(("mapping.layers", "mapping.class_projection")) or torch.equal(ours[name], values), name
    assert len(pretrainer.generator.mapping.layers) == 5


def test_only_pretraining_may_change_the_depth_of_the_mapping_network(pretrained, make_recipe, tmp_path):
    _, folder = pretrained
    (export,) = (folder / "exports").iterdir()
    overrides = (*MATCHING, f"run.init_from={export}", "model.num_mapping_layers=5")
    with pytest.raises(ValueError, match="`model.num_mapping_layers` must be 2, as in `run.init_from` .*, got 5"):
        Trainer(make_recipe(*overrides), tmp_path / "adversarial")
    with pytest.raises(ValueError, match="`model.num_mapping_layers` must be 2"):  # nor with other classes, too
        Pretrainer(make_recipe(*overrides, "run.new_classes=true"), tmp_path / "pretrained")


@pytest.mark.parametrize("dataset", ["labelled_images", "unlabelled_images"])
def test_a_stopped_run_resumes_where_it_was(make_recipe, tmp_path, request, dataset):
    """Weights, codes and order of images are as if it had not been stopped; without classes as well."""
    data = f"data.dataset={request.getfixturevalue(dataset)}"
    recipe = make_recipe(*MATCHING, data, f"data.class_conditional={dataset == 'labelled_images'}")
    whole = Pretrainer(recipe, tmp_path / "whole", mapping_steps=3)
    assert whole.train()
    stopped = Pretrainer(recipe, tmp_path / "stopped", mapping_steps=3)
    step = stopped.train_step

    def stop_after_three(*args):
        step(*args)
        if stopped.step == 3:
            stopped.request_stop()

    stopped.train_step = stop_after_three
    assert not stopped.train()
    resumed = Pretrainer(recipe, tmp_path / "stopped", resume=True, mapping_steps=3)
    assert resumed.step == 3
    assert resumed.train()
    assert torch.equal(resumed.codes.weight, whole.codes.weight)
    for name, values in whole.generator.state_dict().items():
        assert torch.equal(resumed.generator.state_dict()[name], values), name


def test_an_epoch_shows_every_image_once():
    order = ImageOrder(10, 4, seed=1)
    batches = torch.stack([next(order) for _ in range(5)])
    epochs = batches.flatten().reshape(2, 10)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(10).repeat(2, 1))
    assert not torch.equal(epochs[0], epochs[1])
    later = ImageOrder(10, 4, seed=1, **{"images_seen": 12})
    assert torch.equal(next(later), batches[3])


def test_a_mapping_network_that_is_fitted_already_stays(pretrained):
    pretrainer, _ = pretrained
    mapping, z = pretrainer.generator.mapping, torch.randn(64, 64)
    labels = torch.arange(64) % 3
    with torch.no_grad():
        w = mapping(z, labels)
    assert fit_mapping(mapping, iter([(z, labels, w)] * 5), 5) < 0.05 * w.var()


@pytest.mark.parametrize("override", ["loss.matching_by=likeness", "loss.matching_weight=0"])
def test_a_recipe_without_matching_by_latent_is_refused(make_recipe, tmp_path, override):
    with pytest.raises(ValueError, match="`loss.matching_by` must be 'latent'"):
        Pretrainer(make_recipe(*MATCHING, override), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def run_script(*arguments) -> None:
    spec = importlib.util.spec_from_file_location("scripts_pretrain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(argument) for argument in arguments])


def test_the_script_pretrains_by_a_recipe(recipe_file, tmp_path):
    run_script(recipe_file, "--output", tmp_path / "run", *MATCHING, "--mapping_steps", 2)
    assert [path.name for path in (tmp_path / "run" / "exports").iterdir()] == ["kimg-000000"]


def test_the_script_says_what_is_wrong_in_a_line(recipe_file, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(recipe_file, "--output", tmp_path / "run")
    assert end.value.code.startswith("error: `loss.matching_by`")
    with pytest.raises(SystemExit):
        run_script(recipe_file, "--output", tmp_path / "run", *MATCHING, "--mapping_steps", 0)
    assert "--mapping_steps" in capsys.readouterr().err


def test_several_processes_are_refused_before_anything_is_built(make_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    monkeypatch.setattr("polyinr_hf.training.pretraining.build_generator", lambda *_: pytest.fail("built"))
    with pytest.raises(ValueError, match="`num_processes` must be 1 .* got 2"):
        Pretrainer(make_recipe(*MATCHING), tmp_path)


def test_a_second_export_goes_on_from_the_first_ones_mapping_network(pretrained):
    """Fitted again it is about as near, without classes in the way of the number that says which image."""
    pretrainer, _ = pretrained
    weight = pretrainer.generator.mapping.layers[0].weight
    norm = weight[:, 0].norm().item()
    assert pretrainer.fit_mapping() < 0.25
    assert weight[:, 0].norm().item() < 2 * norm
