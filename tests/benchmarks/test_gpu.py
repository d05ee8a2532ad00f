"""The benchmark of a GPU, on the CPU with small numbers."""

import json
import time

import pytest

import gpu
from polyinr_hf.devices import describe
from polyinr_hf.training.launch import compiling_problem

RECIPE = """
data: {dataset: "", num_workers: 0}
model: {channels: 16, num_levels: 3}
discriminator: {feature_networks: [tf_efficientnet_lite0], feature_resolution: 64, projection_width: 8}
stages: [{resolution: 16, kimg: 1, batch_size: 32}, {resolution: 24, kimg: 1, batch_size: 32}]
run: {mixed_precision: "no"}
"""


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    sizes = ["--sizes", "16", "24", "--channels", "16", "--recipe", str(tmp_path / "recipe.yaml")]
    return ["--device", "cpu", "--output", str(tmp_path / "out"), *sizes]


def results_of(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]


def test_images_and_their_times(arguments, tmp_path, capsys):
    gpu.main([*arguments, "--parts", "pixels", "rendering"])
    parts = results_of(tmp_path)
    pixels = {(row["size"], row["dtype"]): row for row in parts["pixels"]["rows"]}
    assert len(pixels) == 2 * 3
    assert pixels[16, "float32"]["largest_error_of_255"] == 0
    assert 30 < pixels[24, "bfloat16"]["psnr"] < 100 and pixels[24, "float16"]["psnr"] > 30
    for row in parts["rendering"]["rows"]:
        assert min(row["exact_seconds"], row["adaptive_seconds"], row["share_of_limit"]) > 0
        assert row["adaptive_seconds_of_a_batch"] > 0
    assert {row["size"] for row in parts["rendering"]["rows"]} == {16, 24}
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "## pixels" in page and page.strip() == capsys.readouterr().out.strip()


@pytest.mark.slow
def test_training_and_what_is_around_it(arguments, tmp_path):
    gpu.main([*arguments, "--parts", "training", "resume", "loader"])
    parts = results_of(tmp_path)
    assert not any("error" in part for part in parts.values()), parts
    assert [(row["resolution"], row["images"]) for row in parts["training"]["rows"]] == [(16, 4), (24, 4)]
    assert all(row["step_seconds"] > 0 and row["plan_peak_gib"] > 0 for row in parts["training"]["rows"])
    assert parts["resume"]["rows"] == [{"steps": 4, "resumed_at": 2, "largest_difference_of_a_weight": 0.0}]
    assert all(row["images_per_second"] > 0 for row in parts["loader"]["rows"])


def test_chunks_grow_to_the_image(arguments, tmp_path):
    gpu.main([*arguments, "--sizes", "16", "200", "--parts", "chunks"])
    (part,) = results_of(tmp_path).values()
    assert [row["chunk_size"] for row in part["rows"]] == [2**14, 2**16] and "error" not in part
    assert all(row["seconds"] > 0 and row["peak_gib"] > 0 for row in part["rows"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile, while tracing
def test_compiling_is_measured_where_something_compiles(arguments, tmp_path):
    gpu.main([*arguments, "--parts", "compiling"])
    part = results_of(tmp_path)["compiling"]
    assert [row["compiled"] for row in part["rows"]] == [False, compiling_problem(describe("cpu")) is None], part
    assert all(row["step_seconds"] < row["first_seconds"] for row in part["rows"])


@pytest.mark.slow
def test_the_recipe_small_runs_to_its_end(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "SMALL_MINUTES", 0.05)
    gpu.main([*arguments, "--parts", "small"])
    part = results_of(tmp_path)["small"]
    (row,) = part["rows"]
    assert row["minutes_asked"] == 0.05 and "small: 64 pictures at 64 px" in row["result"], part


def test_a_part_is_stopped_when_the_time_is_up_and_its_rows_are_kept(arguments, tmp_path, monkeypatch):
    def slow(args):
        yield {"size": 1}
        assert results_of(tmp_path)["pixels"]["rows"] == [{"size": 1}]  # a run that is killed here leaves it
        for _ in range(10_000):
            time.sleep(0.01)
        yield {"size": 2}

    monkeypatch.setitem(gpu.PARTS, "pixels", slow)
    start = time.monotonic()
    gpu.main([*arguments, "--minutes", "0.02", "--parts", "pixels", "resume"])
    assert time.monotonic() - start < 30
    parts = results_of(tmp_path)
    assert parts["pixels"] == {"rows": [{"size": 1}], "error": "TimeoutError: the time was up"}
    assert parts["resume"] == {"rows": [], "error": "TimeoutError: no time was left"}
    assert "the time was up" in (tmp_path / "out" / "gpu.md").read_text()


def test_a_part_that_fails_leaves_the_others(arguments, tmp_path, monkeypatch):
    def broken(args):
        yield {"size": 1}
        raise RuntimeError("out of memory")

    monkeypatch.setitem(gpu.PARTS, "pixels", broken)
    gpu.main([*arguments, "--parts", "pixels", "rendering"])
    parts = results_of(tmp_path)
    assert parts["pixels"] == {"rows": [{"size": 1}], "error": "RuntimeError: out of memory"}
    assert parts["rendering"]["rows"]


def test_no_part_starts_when_the_time_is_up(arguments, tmp_path):
    gpu.main([*arguments, "--minutes", "1e-6", "--parts", "pixels", "small"])
    parts = results_of(tmp_path)
    assert all("time" in part["error"] and len(part["rows"]) <= 1 for part in parts.values())


def test_bad_minutes_are_named(arguments):
    with pytest.raises(SystemExit, match="`--minutes` must be a finite number above 0, got -1.0"):
        gpu.main([*arguments, "--minutes", "-1"])
