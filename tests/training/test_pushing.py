import json
import logging
import threading

import datasets
import pytest
import torch
from loopback_hub import LoopbackHub, connect

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.data.dataset import load_image_dataset
from polyinr_hf.training import exports
from polyinr_hf.training.exports import BackgroundPusher, count_licenses, save_description
from polyinr_hf.training.recipe import load_recipe
from polyinr_hf.training.trainer import Trainer

TOKEN = "hf_recognisableRecognisableRecognisable"
WEIGHTS = "generator/diffusion_pytorch_model.safetensors"
LONG = 300  # seconds that no test waits for


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub.add_user("ann", TOKEN)
        connect(monkeypatch, hub, tmp_path / "home", TOKEN)
        monkeypatch.setattr(exports, "FIRST_WAIT", 0.01)
        yield hub


@pytest.fixture
def run(tmp_path):
    """The folder of a run with three exports, unlike one another."""
    for kimg in (1, 2, 3):
        folder = tmp_path / "run" / "exports" / f"kimg-{kimg:06d}"
        torch.manual_seed(kimg)
        generator = PolyINRGenerator(channels=16, num_levels=2, w_dim=16, num_classes=None, sample_size=8)
        PolyINRPipeline(generator).save_pretrained(folder)
        (folder / "training.json").write_text(json.dumps({"kimg": kimg, "resolution": 8}))
    return tmp_path / "run"


def weights_of(run, name: str) -> bytes:
    return (run / "exports" / name / WEIGHTS).read_bytes()


def test_every_export_arrives_in_order(hub, run):
    pusher = BackgroundPusher(run, "ann/inr")
    names = ["kimg-000001", "kimg-000002", "kimg-000003"]
    for name in names:
        pusher.submit(name)
    assert pusher.finish(LONG) == []
    repository = hub["ann/inr"]
    for name in names:
        assert repository.files(name)[WEIGHTS] == weights_of(run, name)
    assert list(repository.messages.values())[1:] == [f"kimg {kimg}, 8 x 8" for kimg in (1, 2, 3)]
    assert repository.files()[WEIGHTS] == weights_of(run, "kimg-000003")


def test_submit_returns_while_the_hub_is_slow(hub, run):
    entered, leave = threading.Event(), threading.Event()
    whoami = hub.take_fault

    def held(method, path):
        entered.set()
        leave.wait(LONG)
        return whoami(method, path)

    hub.take_fault = held
    pusher = BackgroundPusher(run, "ann/inr")
    pusher.submit("kimg-000001")
    assert entered.wait(LONG)
    pusher.submit("kimg-000002")  # returns: the request above is still held
    assert pusher.pending() == ["kimg-000001", "kimg-000002"]
    leave.set()
    assert pusher.finish(LONG) == []


def test_push_is_tried_until_the_hub_is_back(hub, run, caplog):
    hub.fail("POST", "repos/create", times=5, status=500, message=f"down, {TOKEN}")
    pusher = BackgroundPusher(run, "ann/inr")
    with caplog.at_level(logging.INFO):
        pusher.submit("kimg-000001")
        assert pusher.finish(LONG) == []
    assert hub["ann/inr"].files("kimg-000001")[WEIGHTS] == weights_of(run, "kimg-000001")
    waiting = [record.getMessage() for record in caplog.records if "will be tried again" in record.getMessage()]
    assert (
        waiting
        == [
            "kimg-000001 has not reached the Hub and will be tried again: "
            "The Hub answered 500 for ann/inr: try again later."
        ]
        * 5
    )
    assert TOKEN not in caplog.text


def test_what_has_not_arrived_is_named_and_pushed_by_the_next_run(hub, run, caplog, monkeypatch):
    hub.fail("POST", "repos/create", times=10**6, status=503)
    monkeypatch.setattr(exports, "FIRST_WAIT", LONG)
    pusher = BackgroundPusher(run, "ann/inr")
    pusher.submit("kimg-000001")
    pusher.submit("kimg-000002")
    assert pusher.finish(0) == ["kimg-000001", "kimg-000002"]
    folder = run / "exports" / "kimg-000002"
    assert f"python scripts/push_to_hub.py --pipeline {folder} --repo ann/inr --tag kimg-000002" in caplog.text
    pusher._thread.join(LONG)
    hub.faults.clear()
    assert not hub.repositories
    assert BackgroundPusher(run, "ann/inr").finish(LONG) == []
    for name in ("kimg-000001", "kimg-000002"):
        assert hub["ann/inr"].files(name)[WEIGHTS] == weights_of(run, name)
    assert not list((run / "push_queue").iterdir())


def test_pushing_builds_no_model(hub, run, monkeypatch):
    """What builds one in a thread lets others' parameters end up on the meta device."""
    monkeypatch.setattr(PolyINRGenerator, "__init__", lambda self, *args, **kwargs: pytest.fail("a model was built"))
    pusher = BackgroundPusher(run, "ann/inr")
    pusher.submit("kimg-000001")
    assert pusher.finish(LONG) == []
    files = hub["ann/inr"].files()
    assert b"samples.png" not in files["README.md"] and b"parameters" in files["README.md"]


def test_export_that_was_deleted_does_not_hold_up_the_others(hub, run):
    pusher = BackgroundPusher(run, "ann/inr")
    (run / "push_queue" / "kimg-000000").touch()
    pusher.submit("kimg-000001")
    assert pusher.finish(LONG) == []
    assert set(hub["ann/inr"].refs) == {"main", "kimg-000001"}


# -- in a training run ------------------------------------------------------------------------------------------------
def test_run_pushes_its_exports(hub, make_recipe, tmp_path):
    recipe = make_recipe(
        "run.push_to_hub=ann/inr",
        "run.export_every_kimg=0.016",
        "run.sample_every_kimg=0.016",
    )
    assert Trainer(recipe, tmp_path / "run").train()
    assert not list((tmp_path / "run" / "push_queue").iterdir())
    files = hub["ann/inr"].files()
    exports = sorted((tmp_path / "run" / "exports").iterdir())
    assert len(exports) == 2
    assert files[WEIGHTS] == (exports[-1] / WEIGHTS).read_bytes()
    assert files["samples.png"] == (tmp_path / "run" / "samples" / "kimg-00000.024.png").read_bytes()
    assert json.loads(files["training.json"])["samples_kimg"] == 0.024
    assert b"| 16 | 0.016 | 4 |" in files["README.md"] and b"16 images" in files["README.md"]
    assert str(tmp_path).encode() not in files["recipe.yaml"]
    assert {"main", *(export.name for export in exports)} == set(hub["ann/inr"].refs)


def test_run_goes_on_while_the_hub_is_down(hub, make_recipe, tmp_path, caplog, monkeypatch):
    hub.fail("POST", "/", times=10**6, status=500)
    recipe = make_recipe("run.push_to_hub=ann/inr")
    with monkeypatch.context() as impatient:
        impatient.setattr(exports, "LAST_WAIT", 0.0)
        assert Trainer(recipe, tmp_path / "run").train()
    assert (tmp_path / "run" / "push_queue" / "kimg-000000").exists()
    assert "scripts/push_to_hub.py" in caplog.text
    hub.faults.clear()
    trainer = Trainer(recipe, tmp_path / "run", resume=True)
    assert trainer.train()
    assert WEIGHTS in hub["ann/inr"].files("kimg-000000")


def test_push_without_a_login_is_refused_before_any_work(hub, make_recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="`run.push_to_hub` needs a Hub token"):
        Trainer(make_recipe("run.push_to_hub=ann/inr"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.push_to_hub=true"], "`run.push_to_hub` must be null or org/name, got 'true'"),
        (["run.push_to_hub=a/b/c"], "`run.push_to_hub` must be org/name .* got 'a/b/c'"),
        (["run.push_to_hub=a b/c"], "`run.push_to_hub` must be org/name .* got 'a b/c'"),
    ],
)
def test_push_settings_are_checked(recipe_file, overrides, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file, overrides)


# -- what an export says of itself ------------------------------------------------------------------------------------
def test_an_export_says_what_its_windows_were_of(make_recipe, labelled_images, tmp_path):
    recipe = make_recipe("stages.1.image_resolution=48")
    dataset = load_image_dataset(labelled_images)
    for stage, expected in zip(
        recipe.stages, ({"resolution": 16}, {"resolution": 24, "image_resolution": 48}), strict=True
    ):
        save_description(tmp_path, recipe, stage, dataset, 0.01, tmp_path / "samples")
        said = json.loads((tmp_path / "training.json").read_text())
        assert {key: value for key, value in said.items() if "resolution" in key} == expected


def test_a_stages_last_export_has_its_resolution_though_kimg_is_no_whole_number_of_batches(make_recipe, tmp_path):
    """Of 0.0149 kimg four batches of four are trained, which is more: the next stage has not begun."""
    exports = ("stages.0.kimg=0.0149", "stages.1.kimg=0.0031", "run.export_every_kimg=0.004")
    assert Trainer(make_recipe(*exports), tmp_path).train()
    said = [json.loads(path.read_text()) for path in (tmp_path / "exports").glob("*/training.json")]
    assert {line["kimg"]: line["resolution"] for line in said} == {
        0.004: 16,
        0.008: 16,
        0.012: 16,
        0.016: 16,
        0.02: 24,
    }


def test_export_does_without_licences_that_cannot_be_read(make_recipe, labelled_images, tmp_path, monkeypatch, caplog):
    def unreachable(*args, **kwargs):
        raise ConnectionError(f"no route, {TOKEN}")

    dataset = load_image_dataset(labelled_images)
    count_licenses.cache_clear()
    monkeypatch.setattr(exports, "load_image_dataset", unreachable)
    recipe = make_recipe()
    save_description(tmp_path, recipe, recipe.stages[1], dataset, 0.02, tmp_path / "samples")
    assert json.loads((tmp_path / "training.json").read_text()) == {"kimg": 0.02, "resolution": 24, "num_images": 16}
    assert "no route" in caplog.text and TOKEN not in caplog.text


def test_licences_are_counted_from_the_datasets_column(save_images, labelled_images, tmp_path):
    licences = ["MIT"] * 5 + ["CC-BY-4.0"] * 11
    strings = save_images(tmp_path / "strings", {"licence": datasets.Value("string")}, {"licence": licences})
    assert count_licenses(strings) == {"CC-BY-4.0": 11, "MIT": 5}
    classes = {"license": datasets.ClassLabel(names=["MIT", "CC-BY-4.0"])}
    ids = save_images(tmp_path / "ids", classes, {"license": [0] * 5 + [1] * 11})
    assert count_licenses(ids) == {"CC-BY-4.0": 11, "MIT": 5}
    assert count_licenses(labelled_images) == {}
