import errno
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants, file_download, scan_cache_dir
from loopback_hub import LoopbackHub, connect

import polyinr_hf.hub.model_card
from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.data.dataset import load_image_dataset
from polyinr_hf.hub import read_showcase
from polyinr_hf.hub.model_card import count_parameters, create_card
from polyinr_hf.hub.push import push_folder, shared_files
from polyinr_hf.training.models import load_source
from polyinr_hf.training.recipe import load_recipe, save_recipe

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import push_to_hub  # noqa: E402

TOKEN = "hf_recognisableRecognisableRecognisable"
SIZES = {"channels": 16, "num_levels": 2, "w_dim": 16, "sample_size": 8}
WEIGHTS = "generator/diffusion_pytorch_model.safetensors"
FILES = {
    "README.md",
    "generator/config.json",
    WEIGHTS,
    "adaptive_rendering.py",
    "generator/modeling_poly_inr.py",
    "checks.py",
    "devices.py",
    "model_index.json",
    "modeling_poly_inr.py",
    "pipeline_poly_inr.py",
    "samples.png",
}
EVALUATION = {
    "fd_lite0": 123.456,
    "recall_lite0": 0.25,
    "settings": {"num_samples": 100, "resolution": 8, "dataset": "/home/me/emoji-64", "split": "train"},
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty Hub, where we are ann."""
    with LoopbackHub() as hub:
        hub.add_user("ann", TOKEN)
        connect(monkeypatch, hub, tmp_path / "home", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def pipe() -> PolyINRPipeline:
    torch.manual_seed(0)
    pipe = PolyINRPipeline(PolyINRGenerator(**SIZES, num_classes=3), {0: "tench", 1: "goldfish, carp", 2: "carp"})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def folder(pipe, tmp_path) -> Path:
    """An export of a training run."""
    folder = tmp_path / "kimg-000500"
    pipe.save_pretrained(folder)
    save_recipe(
        load_recipe(ROOT / "examples/emoji/kinds.yaml", ["data.dataset=/home/me/emoji-64"]),
        folder / "recipe.yaml",
    )
    description = {"kimg": 500.0, "resolution": 64, "num_images": 30, "licenses": {"MIT": 20, "Apache-2.0": 10}}
    (folder / "training.json").write_text(json.dumps(description))
    PIL.Image.new("RGB", (8, 8)).save(folder / "samples.png")
    return folder


def draw(pipe) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    return pipe("tench", num_images_per_label=2, generator=seed, truncation_psi=0.7, output_type="np").images


def run_python(code: str) -> subprocess.CompletedProcess:
    """Runs code in a process of its own, with this one's environment."""
    code = textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False)


def pull_error(repo_id: str, **kwargs) -> str:
    with pytest.raises(OSError) as caught:
        PolyINRPipeline.from_pretrained(repo_id, **kwargs)
    message = str(caught.value)
    assert "\n" not in message and TOKEN not in message
    return message


# -- push -------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_pushed_pipeline_comes_back_to_the_bit_in_a_fresh_process(hub, pipe, tmp_path):
    pipe.push_to_hub("ann/inr", tag="v1")
    pipe.push_to_hub("ann/inr", subfolder="older", revision="branch")
    pipe.push_to_hub("ann/inr", variant="fp16")
    assert set(hub["ann/inr"].files("v1")) == FILES
    pixels = tmp_path / "pixels.npy"
    np.save(pixels, draw(pipe))
    result = run_python(
        f"""
        import sys
        import numpy as np
        import torch
        from polyinr_hf import PolyINRGenerator, PolyINRPipeline

        expected = np.load({str(pixels)!r})
        for options in ({{}}, {{"revision": "v1"}}, {{"revision": "branch", "subfolder": "older"}}):
            pipe = PolyINRPipeline.from_pretrained("ann/inr", **options)
            seed = torch.Generator().manual_seed(0)
            images = pipe("tench", num_images_per_label=2, generator=seed, truncation_psi=0.7, output_type="np").images
            assert np.array_equal(images, expected), options
        half = PolyINRPipeline.from_pretrained("ann/inr", variant="fp16", dtype=torch.float16)
        assert half.generator.dtype == torch.float16
        assert PolyINRPipeline.load_config("ann/inr")["id2label"]["1"] == "goldfish, carp"
        assert PolyINRGenerator.load_config("ann/inr", subfolder="generator")["channels"] == 16
        assert not [name for name in sys.modules if name.startswith("diffusers_modules")]
        """
    )
    assert result.returncode == 0, result.stderr
    assert TOKEN not in result.stdout + result.stderr


def test_nothing_that_is_pushed_is_a_pickle(hub, folder):
    torch.save({}, folder / "generator" / "diffusion_pytorch_model.bin")
    (folder / "secrets.txt").write_text("mine")
    push_folder(folder, "ann/inr")
    files = hub["ann/inr"].files()
    assert set(files) == FILES | {"recipe.yaml", "training.json"}
    assert not [name for name, content in files.items() if content[:1] == b"\x80" or content[:2] == b"PK"]


def test_pickles_are_refused(hub, pipe):
    with pytest.raises(ValueError, match="safetensors"):
        pipe.push_to_hub("ann/inr", safe_serialization=False)
    assert not hub.repositories


def test_what_a_model_is_best_shown_by_travels_with_it(hub, folder):
    showcase = {"opening": [["carp", 3]], "designs": {"carp": [3, 5]}, "recognized": ["carp"]}
    push_folder(folder, "ann/plain")
    (folder / "showcase.json").write_text(json.dumps(showcase))
    push_folder(folder, "ann/inr")
    assert read_showcase("ann/inr") == read_showcase(folder) == showcase
    (folder / "showcase.json").write_text('{"recognized": ["carp"]}')
    assert read_showcase(folder) == {"opening": [], "designs": {}, "recognized": ["carp"]}
    for text in ("[]", "{"):
        (folder / "showcase.json").write_text(text)
        with pytest.raises(OSError, match=r"showcase\.json"):
            read_showcase(folder)
    assert read_showcase("ann/plain") is None and read_showcase("ann/missing") is None


def test_commit_says_what_was_trained_and_is_one(hub, folder):
    commit = push_folder(folder, "ann/inr", private=True)
    assert hub["ann/inr"].message() == "kimg 500, 64 x 64"
    assert hub["ann/inr"].private
    assert hub.count("POST", "/commit/") == 1
    assert commit.commit_url.startswith(hub.url)


def test_branch_tag_and_pull_request(hub, folder):
    push_folder(folder, "ann/inr", revision="trial", tag="v2", commit_message="a trial")
    repository = hub["ann/inr"]
    assert repository.files() == {} and WEIGHTS in repository.files("trial")
    assert repository.message("v2") == "a trial"
    hub.add_repository("bob/inr", {})
    commit = push_folder(folder, "bob/inr", create_pr=True)
    assert commit.pr_url.endswith("/discussions/1")
    assert hub["bob/inr"].files() == {} and WEIGHTS in hub["bob/inr"].files("refs/pr/1")


def test_a_name_alone_is_ones_own(hub, pipe, folder):
    hub.fail("GET", "^/api/whoami", status=503)
    commit = push_folder(folder, "inr", retry_seconds=0)
    assert commit.commit_url.startswith(f"{hub.url}/ann/inr/commit/")
    assert "ann/inr" in hub["ann/inr"].files()["README.md"].decode()
    pipe.push_to_hub("other")
    assert set(hub["ann/other"].files()) == FILES


def test_a_name_alone_without_a_login(hub, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(OSError, match="hf auth login"):
        push_folder(folder, "inr")


def test_variant_is_beside_what_was_there(hub, folder):
    push_folder(folder, "ann/inr")
    push_folder(folder, "ann/inr", variant="bf16")
    weights = {name for name in hub["ann/inr"].files() if name.endswith(".safetensors")}
    assert weights == {WEIGHTS, WEIGHTS.replace(".safetensors", ".bf16.safetensors")}
    half = PolyINRPipeline.from_pretrained("ann/inr", variant="bf16", dtype=torch.bfloat16)
    assert half.generator.dtype == torch.bfloat16
    assert hub["ann/inr"].message() == "kimg 500, 64 x 64, bf16"


def test_diffusers_own_way_to_push_carries_code_and_card(hub, pipe, tmp_path):
    pipe.save_pretrained(str(tmp_path / "saved"), push_to_hub=True, repo_id="ann/inr")
    assert set(hub["ann/inr"].files()) == FILES
    assert b"Limits and biases" in hub["ann/inr"].files()["README.md"]


def test_no_path_of_this_machine_is_pushed(hub, folder, tmp_path):
    PolyINRPipeline.from_pretrained(folder).push_to_hub("ann/inr")
    push_folder(folder, "ann/inr", evaluation=EVALUATION)
    for name, content in hub["ann/inr"].files().items():
        assert str(tmp_path).encode() not in content and b"/home/me" not in content, name
    assert yaml.safe_load(hub["ann/inr"].files()["recipe.yaml"])["data"]["dataset"] == "emoji-64"


def test_folder_of_an_earlier_version_is_pushed_in_todays_form(hub, folder):
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "PolyINRPipeline", "generator": ["polyinr_hf.modeling_poly_inr", "PolyINRGenerator"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    for path in folder.rglob("*.py"):
        path.unlink()
    push_folder(folder, "ann/inr")
    assert set(hub["ann/inr"].files()) >= FILES
    index = json.loads(hub["ann/inr"].files()["model_index.json"])
    assert index["_class_name"] == ["pipeline_poly_inr", "PolyINRPipeline"]
    hub.add_repository("ann/old", {path.relative_to(folder).as_posix(): path.read_bytes() for path in
                                   folder.rglob("*") if path.is_file()})  # fmt: skip
    assert PolyINRPipeline.from_pretrained("ann/old").labels  # as a folder uploaded by hand opens


def test_unknown_variant(hub, folder):
    with pytest.raises(ValueError, match=r"`variant` must be one of \('fp16', 'bf16'\), .* got 'int3'"):
        push_folder(folder, "ann/inr", variant="int3")
    assert not hub.requests


@pytest.mark.parametrize("repo_id", ["a/b/c", "ann/in r", "", "ann/--inr", "in r"])
def test_malformed_repository_names(hub, folder, repo_id):
    with pytest.raises(ValueError, match="`repo_id` must be org/name"):
        push_folder(folder, repo_id)
    assert not hub.requests


def test_folders_that_are_no_pipeline(hub, folder):
    with pytest.raises(ValueError, match="no model_index.json"):
        push_folder(folder / "generator", "ann/inr")
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged weight file"):
        push_folder(folder, "ann/inr")
    weights.unlink()
    with pytest.raises(ValueError, match="safetensors"):
        push_folder(folder, "ann/inr")
    assert not hub.requests


# -- faults of a push -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "repos/create"), ("POST", "preupload"), ("POST", "objects/batch"), ("PUT", "lfs/"), ("POST", "commit/")],
)
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429, "headers": {"Retry-After": "1"}}, {"cut_after": 9}])
def test_push_survives_a_fault_of_any_request(hub, folder, method, path, fault):
    hub.fail(method, path, **fault)
    push_folder(folder, "ann/inr", retry_seconds=0)
    assert hub.faults[0].times == 0
    assert hub["ann/inr"].files()[WEIGHTS] == (folder / WEIGHTS).read_bytes()


def test_push_that_fails_leaves_the_repository_as_it_was(hub, folder):
    push_folder(folder, "ann/inr")
    before = dict(hub["ann/inr"].refs)
    (folder / "training.json").write_text(json.dumps({"kimg": 600}))
    hub.fail("POST", "commit/", times=100, status=503)
    with pytest.raises(OSError, match=r"^The Hub answered 503 for ann/inr: try again later\.$"):
        push_folder(folder, "ann/inr", retry_seconds=0)
    assert hub["ann/inr"].refs == before
    assert hub.count("POST", "commit/") > 3


def test_refusals_are_one_sentence_and_not_repeated(hub, folder, monkeypatch):
    hub.add_repository("bob/inr", {})
    with pytest.raises(OSError, match=r"^The Hub answered 403 for bob/inr: the token does not allow this\.$"):
        push_folder(folder, "bob/inr")
    assert hub.count("POST", "preupload") == 1
    with pytest.raises(OSError, match=r"^The Hub answered 401 for ann/inr: .*hf auth login"):
        push_folder(folder, "ann/inr", token="hf_notAToken")


def test_hub_that_is_not_there(hub, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"^The connection to the Hub failed for ann/inr"):
        push_folder(folder, "ann/inr", attempts=2, retry_seconds=0)


# -- tokens -----------------------------------------------------------------------------------------------------------
def test_tokens_appear_nowhere(hub, folder, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        push_folder(folder, "ann/inr")
        PolyINRPipeline.from_pretrained("ann/inr")
        hub.fail("POST", "preupload", times=100, status=400, message=f"Bad token {TOKEN}")
        with pytest.raises(OSError) as caught:
            push_folder(folder, "ann/inr")
        hub.fail("POST", "repos/create", times=100, status=500, message=f"Bad token {TOKEN}")
        with pytest.raises(OSError) as second:
            push_folder(folder, "ann/inr", retry_seconds=0)
    output = capfd.readouterr()
    for error in (caught.value, second.value):
        assert TOKEN not in str(error) and error.__suppress_context__
    assert "Next attempt" in caplog.text
    for text in (caplog.text, output.out, output.err):
        assert TOKEN not in text
    for name, content in hub["ann/inr"].files().items():
        assert TOKEN.encode() not in content, name


@pytest.mark.parametrize("name", ["recipe.yaml", "README.md", "training.json"])
def test_file_with_a_token_is_not_pushed_nor_shown(hub, folder, name, capsys):
    (folder / name).write_text(json.dumps({"kimg": 1, "note": TOKEN}))
    with pytest.raises(ValueError, match="holds what looks like a Hub token") as caught:
        push_folder(folder, "ann/inr")
    with pytest.raises(SystemExit, match=f"error: {name} holds what looks like a Hub token") as ended:
        push_to_hub.main(["--pipeline", str(folder), "--repo", "ann/inr", "--dry_run"])
    assert TOKEN not in f"{caught.value} {ended.value} {capsys.readouterr()}"
    assert not hub.requests


def test_a_recipe_keeps_its_comments_and_loses_paths(folder):
    comment = "# from /home/me/runs/a: lr halved at 5 kimg, and/or ~/b (https://hf.co/c/d)\n"
    recipe = {
        "data": {"dataset": "/home/me/runs/a", "split": "train"},
        "feature_weights": {"lite0": "/home/me/lite0.pth"},
    }
    (folder / "recipe.yaml").write_text(comment + yaml.safe_dump(recipe))
    text = shared_files(folder, "ann/inr")["recipe.yaml"].decode()
    assert text.startswith("# from a: lr halved at 5 kimg, and/or b (https://hf.co/c/d)\n") and "/home/me" not in text
    expected = {"data": {"dataset": "a", "split": "train"}, "feature_weights": {"lite0": "lite0.pth"}}
    assert yaml.safe_load(text) == expected
    (folder / "recipe.yaml").write_text(comment + 'data: {dataset: "/home/m\\x65/runs/a"}')  # in no plain letters
    assert shared_files(folder, "ann/inr")["recipe.yaml"] == b"data:\n  dataset: a\n"


def test_a_folders_own_card_names_the_repository(hub, folder):
    """Calls and commands of folders on this machine; other repositories stay."""
    local = ["runs/mine/exports/kimg-000500", "/home/me/kimg-000500", "./model", "pretrained/poly-inr-emoji"]
    lines = [f'PolyINRPipeline.from_pretrained("{path}", variant="fp16")' for path in (*local, "bob/inr", "ann/old")]
    lines += [f"python scripts/generate.py --pipeline {path} --seeds 0-3" for path in (*local, "bob/inr")]
    (folder / "README.md").write_text("\n".join(lines))
    push_folder(folder, "ann/inr")
    text = hub["ann/inr"].files()["README.md"].decode()
    for path in local:
        assert path not in text
    assert text.count('from_pretrained("ann/inr", variant="fp16")') == text.count("--pipeline ann/inr --seeds") == 4
    assert 'from_pretrained("bob/inr"' in text and "--pipeline bob/inr" in text and 'from_pretrained("ann/old"' in text


@pytest.mark.slow
def test_each_text_file_of_a_folder_is_read_once(folder):
    (folder / "README.md").write_text("mine")
    (folder / "evaluation.json").write_text(json.dumps(EVALUATION))
    ran = run_python(f"""
        import sys
        from collections import Counter
        from pathlib import Path
        from polyinr_hf.hub import shared_files
        opened = Counter()
        def watch(event, arguments):
            if event == "open" and str(arguments[0]).startswith({str(folder)!r}):
                opened[Path(str(arguments[0])).name] += 1
        sys.addaudithook(watch)
        shared_files({str(folder)!r}, "ann/inr", draw_samples=False)
        print(sorted(opened.items()))
    """)
    names = ["README.md", "config.json", "evaluation.json", "model_index.json", "recipe.yaml", "training.json"]
    assert ran.stdout.strip() == str([(name, 1) for name in names]), ran.stderr


# -- pull -------------------------------------------------------------------------------------------------------------
def test_offline_from_the_cache(hub, folder, pipe, monkeypatch):
    push_folder(folder, "ann/inr", tag="v1")
    PolyINRPipeline.from_pretrained("ann/inr", revision="v1")
    asked = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert np.array_equal(draw(PolyINRPipeline.from_pretrained("ann/inr", revision="v1")), draw(pipe))
    assert "not in the cache" in pull_error("ann/other")
    assert len(hub.requests) == asked


def test_fine_tuning_and_training_data_come_from_the_hub(hub, folder, pipe, tmp_path, monkeypatch):
    push_folder(folder, "ann/inr", tag="v1")
    start = PolyINRGenerator(**SIZES, num_classes=3), "ann/inr", pipe.id2label, False
    assert torch.equal(load_source(*start, revision="v1").generator.w_mean, pipe.generator.w_mean)
    with pytest.raises(OSError, match="no revision 'v2'"):
        load_source(*start, revision="v2")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    image = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(image, "PNG")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    rows = {"image": [{"bytes": image.getvalue(), "path": None}] * 4, "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    files = {"data/train-00000-of-00001.parquet": (tmp_path / "train.parquet").read_bytes()}
    hub.add_repository("ann/images", files, repo_type="dataset")
    dataset = load_image_dataset("ann/images", revision="main")
    assert len(dataset) == 4 and dataset.id2label == {0: "a", 1: "b"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"status": 429}, {"cut_after": 60_000}, {"cut_after": 0}])
def test_download_is_taken_up_again(hub, folder, pipe, fault):
    push_folder(folder, "ann/inr")
    hub.fail("GET", "/cdn/", **fault)
    assert np.array_equal(draw(PolyINRPipeline.from_pretrained("ann/inr")), draw(pipe))
    assert hub.count("GET", "/cdn/") == 2


@pytest.mark.slow
def test_download_that_breaks_for_good_leaves_nothing_half_written(hub, folder, pipe, tmp_path):
    push_folder(folder, "ann/inr")
    hub.fail("GET", "/cdn/", times=100, cut_after=10)
    assert "try again" in pull_error("ann/inr")
    assert not list((tmp_path / "home" / "hub").rglob("*.safetensors"))
    hub.faults.clear()
    assert np.array_equal(draw(PolyINRPipeline.from_pretrained("ann/inr")), draw(pipe))


def test_slow_answer_is_waited_for(hub, folder, pipe):
    push_folder(folder, "ann/inr")
    hub.fail("GET", "/cdn/", delay=0.3)
    assert np.array_equal(draw(PolyINRPipeline.from_pretrained("ann/inr")), draw(pipe))


def test_error_500_of_a_download_is_one_sentence_and_the_next_call_succeeds(hub, folder, pipe):
    push_folder(folder, "ann/inr")
    hub.fail("GET", "/cdn/", status=500)
    assert pull_error("ann/inr") == "The Hub answered 500 for ann/inr: try again later."
    assert np.array_equal(draw(PolyINRPipeline.from_pretrained("ann/inr")), draw(pipe))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_hub_that_stays_busy(hub, folder, status):
    push_folder(folder, "ann/inr")
    hub.fail("GET", "/api/models/", times=1000, status=status)
    hub.fail("HEAD", "/", times=1000, status=status)
    assert pull_error("ann/inr") == f"The Hub answered {status} for ann/inr: try again later."


class FullDisk(io.FileIO):
    """A file on a disk with room for 50 kB."""

    def write(self, data):
        if self.tell() + len(data) > 50_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_full_disk(hub, folder, pipe, monkeypatch, tmp_path):
    push_folder(folder, "ann/inr")
    path_open = Path.open

    def open_on_full_disk(path, mode="r", *args, **kwargs):
        if path.name.endswith(".incomplete"):
            return FullDisk(path, mode)
        return path_open(path, mode, *args, **kwargs)

    monkeypatch.setattr(file_download.Path, "open", open_on_full_disk)
    assert "The disk is full, ann/inr did not fit" in pull_error("ann/inr")
    assert not list((tmp_path / "home" / "hub").rglob("*.safetensors"))
    monkeypatch.undo()
    connect(monkeypatch, hub, tmp_path / "home", TOKEN)
    assert np.array_equal(draw(PolyINRPipeline.from_pretrained("ann/inr")), draw(pipe))


def test_corrupt_file_in_the_cache(hub, folder, pipe, tmp_path):
    push_folder(folder, "ann/inr")
    PolyINRPipeline.from_pretrained("ann/inr")
    (repository,) = scan_cache_dir(tmp_path / "home" / "hub").repos
    (revision,) = repository.revisions
    (weights,) = (file for file in revision.files if file.file_name.endswith(".safetensors"))
    weights.blob_path.write_bytes(weights.blob_path.read_bytes()[:1000])
    message = pull_error("ann/inr")
    assert message == "A file of ann/inr is damaged: delete the folder models--ann--inr in the cache and call again."
    shutil.rmtree(tmp_path / "home" / "hub" / "models--ann--inr")
    assert np.array_equal(draw(PolyINRPipeline.from_pretrained("ann/inr")), draw(pipe))


def test_gated_private_and_missing(hub, folder):
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.add_repository("bob/gated", files, gated=True)
    hub.add_repository("bob/private", files, private=True)
    hub.add_repository("bob/empty", {"README.md": b"nothing"})
    assert "bob/gated is gated: accept its terms" in pull_error("bob/gated", token=False)
    assert "bob/gated is gated: accept its terms" in pull_error("bob/gated")
    assert "no folder or repository bob/private, or it is private" in pull_error("bob/private", token=False)
    assert "no folder or repository bob/none, or it is private" in pull_error("bob/none")
    assert "bob/empty is not a complete pipeline: model_index.json is missing" in pull_error("bob/empty")
    assert pull_error("bob/gated", revision="v9") == "bob/gated has no revision 'v9'."
    assert pull_error("bob/gated", revision="v9", subfolder="a") == "bob/gated has no revision 'v9'."


# -- code that travels ------------------------------------------------------------------------------------------------
BLOCKED = """
import sys

class Blocked:  # as if polyinr_hf were not installed
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "polyinr_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_without_the_package_the_repository_brings_its_code(hub, pipe, tmp_path):
    pipe.push_to_hub("ann/inr")
    marker, pixels = tmp_path / "executed", tmp_path / "pixels.npy"
    np.save(pixels, draw(pipe))
    poison = f"open({str(marker)!r}, 'w').close()\n".encode()
    files = dict(hub["ann/inr"].files())
    hub.add_repository("eve/inr", {name: poison + c if name.endswith(".py") else c for name, c in files.items()})
    check = f"""
import os
import numpy as np
import torch
from diffusers import DiffusionPipeline

try:
    import polyinr_hf
except ImportError:
    pass
else:
    raise SystemExit("polyinr_hf is here")
for options in ({{}}, {{"custom_pipeline": "eve/inr"}}, {{"trust_remote_code": False}}):
    try:
        DiffusionPipeline.from_pretrained("eve/inr", **options)
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    else:
        raise SystemExit("loaded without the flag")
    assert not os.path.exists({str(marker)!r}), "code was run without the flag"

pipe = DiffusionPipeline.from_pretrained("ann/inr", trust_remote_code=True)
seed = torch.Generator().manual_seed(0)
images = pipe("tench", num_images_per_label=2, generator=seed, truncation_psi=0.7, output_type="np").images
assert np.array_equal(images, np.load({str(pixels)!r}))
pipe.save_pretrained({str(tmp_path / "again")!r})
pipe.push_to_hub("ann/again")
DiffusionPipeline.from_pretrained("eve/inr", trust_remote_code=True)
assert os.path.exists({str(marker)!r}), "the poison does nothing: this test tests nothing"
"""
    result = run_python(BLOCKED + check)
    assert result.returncode == 0, result.stderr
    assert "Expected types" not in result.stderr
    assert FILES - {"samples.png"} <= set(hub["ann/again"].files())
    assert np.array_equal(draw(PolyINRPipeline.from_pretrained(tmp_path / "again")), draw(pipe))


def test_with_the_package_no_code_of_a_repository_is_run(hub, folder, pipe, tmp_path):
    push_folder(folder, "ann/inr")
    marker = tmp_path / "executed"
    poison = f"open({str(marker)!r}, 'w').close()\n".encode()
    files = {name: poison if name.endswith(".py") else c for name, c in hub["ann/inr"].files().items()}
    hub.add_repository("eve/inr", files)
    for options in ({}, {"trust_remote_code": True}):
        loaded = PolyINRPipeline.from_pretrained("eve/inr", **options)
        assert type(loaded) is PolyINRPipeline and type(loaded.generator) is PolyINRGenerator
        assert np.array_equal(draw(loaded), draw(pipe))
    assert not marker.exists()


# -- cards ------------------------------------------------------------------------------------------------------------
def metadata(card: ModelCard):
    """The card's metadata, read back by the library, which raises for what it cannot accept."""
    return ModelCard(str(card), ignore_metadata_errors=False).data


def test_card_tells_of_training_results_and_licenses(folder):
    card = create_card(folder, "ann/inr", EVALUATION)
    data, text = metadata(card), str(card)
    assert data.library_name == "diffusers" and data.pipeline_tag == "unconditional-image-generation"
    assert {"poly-inr", "inr", "gan", "class-conditional"} <= set(data.tags)
    assert data.license == "other"
    results = {result.metric_type: result for result in data.eval_results}
    assert results["fd_lite0"].metric_value == 123.456 and results["fd_lite0"].dataset_name == "emoji-64"
    assert "| fd_lite0 ↓ | 123.46 |" in text and "split train, num_samples 100" in text
    assert "| 32 | 60 | 32 |" in text and "| 64 | 200 | 32 |" in text  # of examples/emoji/kinds.yaml
    assert "| kimg of these weights | 500 |" in text and "30 images" in text
    assert "| MIT | 20 |" in text and "| Apache-2.0 | 10 |" in text
    assert "![Samples](samples.png)" in text and "singh2023polynomial" in text and "## Limits and biases" in text
    assert "not measured" not in text


def test_card_says_what_windows_were_of(folder):
    plain = str(create_card(folder, "ann/inr"))
    assert "trained at up to 64 x 64 pixels" in plain and "not detail beyond 64 x 64 pixels" in plain
    training = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(training | {"image_resolution": 256}))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["stages"][-1]["image_resolution"] = 256
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = str(create_card(folder, "ann/inr"))
    assert "trained on windows of 64 x 64 pixels of images of 256 x 256." in text
    assert "not detail beyond 256 x 256 pixels" in text
    assert "| 32 | 60 | 32 |" in text and "| 64, windows of images of 256 | 200 | 32 |" in text


def test_card_names_no_folder_of_its_makers(folder):
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["run"]["init_from"] = "runs/before/exports/kimg-000041"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    evaluation = {"fd_lite0": 1.0, "settings": {"dataset": "data/emoji-64"}}
    text = str(create_card(folder, "ann/inr", evaluation))
    assert "data/emoji-64" not in text and "runs/before" not in text and "| started from | other weights |" in text
    evaluation["settings"]["dataset"] = "ILSVRC/imagenet-1k"  # a Hub id stays whole
    assert "Measured on ILSVRC/imagenet-1k" in str(create_card(folder, "ann/inr", evaluation))


def test_card_shows_every_evaluation_and_what_the_pipeline_recommends(folder):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"default_truncation_psi": 0.85}))
    second = {"fd_lite0": 99.5, "settings": {"num_samples": 10}}
    card = create_card(folder, "ann/inr", {"results": [EVALUATION, second]}, {"links": {"Demo": "https://example.org"}})
    text, data = str(card), metadata(card)
    assert "| fd_lite0 ↓ | 123.46 |" in text and "| fd_lite0 ↓ | 99.50 |" in text and "(num_samples 10)" in text
    assert {result.metric_value for result in data.eval_results if result.metric_type == "fd_lite0"} == {123.456}
    assert "truncation_psi=0.85" in text and "- [Demo](https://example.org)" in text and "## Intended use" in text
    assert data.thumbnail == "samples.png" and data.widget[0]["output"]["url"] == "samples.png"
    assert "thumbnail" not in create_card(folder, "ann/inr", samples=False).data.to_dict()


def test_card_without_recipe_or_results(tmp_path):
    PolyINRPipeline(PolyINRGenerator(**SIZES, num_classes=None)).save_pretrained(tmp_path)
    card = create_card(tmp_path, "ann/inr")
    assert "## Training" not in str(card) and "## Results" not in str(card) and "class_labels" not in str(card)
    assert "unconditional" in metadata(card).tags
    assert metadata(card).eval_results is None


def test_parameters_are_those_of_the_model(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    count = pipe.generator.num_parameters()
    assert count_parameters(tmp_path) == count and f"{count:,} parameters" in str(create_card(tmp_path, "ann/inr"))
    pipe.generator.save_pretrained(tmp_path / "generator", variant="fp16", max_shard_size="50KB")
    assert count_parameters(tmp_path) == count_parameters(tmp_path, "fp16") == count


def test_one_license_is_the_models(folder):
    (folder / "training.json").write_text(json.dumps({"kimg": 1, "resolution": 8, "licenses": {"CC-BY-4.0": 9}}))
    assert metadata(create_card(folder, "ann/inr")).license == "cc-by-4.0"


def test_details_of_a_card_are_checked(folder):
    with pytest.raises(ValueError, match=r"unknown keys \['licens'\]"):
        create_card(folder, "ann/inr", details={"licens": "mit"})


@pytest.mark.parametrize("options", [{}, {"variant": "fp16", "revision": "trial"}, {"subfolder": "kimg/500"}])
def test_usage_snippet_of_a_card_runs(hub, pipe, tmp_path, monkeypatch, options):
    pipe.push_to_hub("ann/inr", **options)
    files = hub["ann/inr"].files(options.get("revision", "main"))
    text = files[f"{options.get('subfolder', '.')}/README.md".removeprefix("./")].decode()
    monkeypatch.chdir(tmp_path)
    snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    exec(compile(snippet, "README.md", "exec"), {})
    with PIL.Image.open(tmp_path / "sample.png") as image:
        assert image.size == (8, 8)


PUBLISHED = {  # Table 1: FID, sFID, rFID, IS, precision, recall
    128: [2.08, 3.93, 2.76, 179.64, 0.70, 0.45],
    256: [2.86, 4.37, 7.79, 241.43, 0.71, 0.39],
    512: [3.81, 5.06, 54.31, 267.44, 0.70, 0.34],
}


@pytest.mark.parametrize("resolution", PUBLISHED)
def test_ready_cards_of_imagenet_mark_figures_as_published(pipe, tmp_path, resolution):
    pipe.save_pretrained(tmp_path)
    details = yaml.safe_load((ROOT / "model_cards" / f"imagenet-{resolution}.yaml").read_text())
    card = create_card(tmp_path, f"ann/poly-inr-imagenet-{resolution}", details=details)
    results = metadata(card).eval_results
    assert [result.metric_value for result in results] == PUBLISHED[resolution]
    assert all("not measured here" in result.source_name and result.verified is None for result in results)
    assert "not measured on this repository" in str(card)
    assert metadata(card).datasets == ["ILSVRC/imagenet-1k"]


def test_ready_card_of_the_emoji_model(folder):
    details = yaml.safe_load((ROOT / "examples" / "emoji" / "model_card.yaml").read_text())
    card = create_card(folder, "ann/poly-inr-emoji", EVALUATION, details)
    assert "Twemoji" in str(card) and "| MIT | 20 |" in str(card)
    assert 'class_labels="avocado"' in str(card) and "manual_seed(4)" in str(card)
    assert metadata(card).license == "other"
    assert len(metadata(card).eval_results) == 2


# -- the script -------------------------------------------------------------------------------------------------------
def test_dry_run_prints_files_and_card_and_asks_nobody(hub, folder, capsys):
    push_to_hub.main(["--pipeline", str(folder), "--repo", "ann/inr", "--dry_run"])
    output = capsys.readouterr().out
    assert {line.split()[1] for line in output.split("\n\n")[0].splitlines()} == set(shared_files(folder, "ann/inr"))
    assert "## Limits and biases" in output
    assert not hub.requests


def test_script_pushes_with_card_and_evaluation(hub, folder, tmp_path, capsys):
    (tmp_path / "result.json").write_text(json.dumps(EVALUATION))
    arguments = ["--pipeline", str(folder), "--repo", "ann/inr", "--private", "--tag", "v1", "--variant", "fp16"]
    card = str(ROOT / "examples" / "emoji" / "model_card.yaml")
    push_to_hub.main([*arguments, "--evaluation", str(tmp_path / "result.json"), "--card", card])
    assert capsys.readouterr().out.startswith(f"{hub.url}/ann/inr/commit/")
    files = hub["ann/inr"].files("v1")
    assert hub["ann/inr"].private and "evaluation.json" in files
    assert b"# Poly-INR, emoji" in files["README.md"] and b'variant="fp16"' in files["README.md"]


def test_script_needs_no_evaluation_packages_for_a_card(folder, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(EVALUATION))
    arguments = ["--pipeline", str(folder), "--repo", "ann/inr", "--evaluation", str(tmp_path / "result.json")]
    arguments += ["--card", str(ROOT / "examples" / "emoji" / "model_card.yaml"), "--dry_run"]
    ran = run_python(f"""
        import sys
        for name in ("torch_fidelity", "torchvision", "timm", "datasets", "skimage", "matplotlib", "omegaconf"):
            sys.modules[name] = None
        sys.path.insert(0, {str(ROOT / "scripts")!r})
        import push_to_hub
        push_to_hub.main({arguments})
    """)
    assert ran.returncode == 0, ran.stderr
    assert "| fd_lite0" in ran.stdout


def test_script_fails_in_one_line(hub, folder, tmp_path, capsys):
    hub.add_repository("bob/inr", {})
    no_card = ["--repo", "ann/inr", "--card", str(tmp_path / "no")]
    for arguments in (["--repo", "bob/inr"], ["--repo", "ann/b/c"], no_card):
        with pytest.raises(SystemExit, match=r"^error: [^\n]+$"):
            push_to_hub.main(["--pipeline", str(folder), *arguments])


def test_template_comes_with_the_package():
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    assert polyinr_hf.hub.model_card.CARD_TEMPLATE.is_file()
    assert any(polyinr_hf.hub.model_card.CARD_TEMPLATE.match(pattern) for pattern in packaged)


def test_diffusers_is_one_that_runs_no_code_without_the_flag():
    required = re.search(r'"diffusers>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    assert tuple(map(int, required.split("."))) >= (0, 38)
