import json

import pytest
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image

from polyinr_hf.evaluation import eval_results, format_table, plot_truncation_sweep, write_json

SETTINGS = {"num_samples": 50_000, "resolution": 256, "truncation_psi": 1.0, "seconds": {"total": 3.0}}
RESULT = {"fid": 2.8312345, "is": 241.43, "is_std": 1.5, "precision": 0.7012, "settings": SETTINGS}


def test_table():
    assert format_table(RESULT).splitlines() == [
        "| metric | value |",
        "|---|---|",
        "| fid ↓ | 2.83 |",
        "| is ↑ | 241.43 |",
        "| is_std | 1.50 |",
        "| precision ↑ | 0.7012 |",
    ]
    assert "fd_lite0_dense ↓ |" in format_table({"fd_lite0_dense": 1.0})
    assert "precision_lite0_nearest ↑ |" in format_table({"precision_lite0_nearest": 1.0})


def test_eval_results_survive_a_model_card():
    results = eval_results(RESULT | {"fid_dense": 5.0}, "ImageNet 256 x 256", "imagenet-1k", split="train")
    data = ModelCardData(model_name="poly-inr", eval_results=results)
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n# Poly-INR\n")
    found = {result.metric_type: result for result in card.data.eval_results}
    assert set(found) == {"fid", "is", "precision", "fid_dense"}
    assert found["fid"].metric_value == pytest.approx(2.8312) and found["fid"].dataset_type == "imagenet-1k"
    assert found["fid_dense"].metric_name == "FID (dense)"
    assert found["is"].metric_args == {"num_samples": 50_000, "resolution": 256, "truncation_psi": 1.0}


def test_json(tmp_path):
    path = tmp_path / "new" / "result.json"
    write_json(RESULT, path)
    assert json.loads(path.read_text()) == RESULT
    with pytest.raises(ValueError, match="`result` must be finite, got fid nan"):
        write_json({"fid": float("nan")}, path)
    assert json.loads(path.read_text()) == RESULT
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]


def test_picture(tmp_path):
    results = [{"truncation_psi": psi, "fd_lite0": 10 / psi, "recall_lite0": psi} for psi in (1.0, 0.2, 0.6)]
    plot_truncation_sweep({"results": results}, tmp_path / "new" / "sweep.png")
    picture = Image.open(tmp_path / "new" / "sweep.png").convert("RGB")
    assert picture.format is None and len(picture.getcolors(maxcolors=100_000)) > 10
