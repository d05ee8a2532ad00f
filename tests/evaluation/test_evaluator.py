"""The whole way: a pipeline and a dataset in; figures, settings, tables and pictures out."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.data.dataset import ImageDataset
from polyinr_hf.evaluation import (
    Evaluator,
    PipelineSource,
    TensorSource,
    evaluate,
    image_features,
    truncation_sweep,
)
from polyinr_hf.evaluation.evaluator import perceptual_path_length
from polyinr_hf.evaluation.extractors import load_extractor, lpips_weights
from polyinr_hf.evaluation.metrics import METRICS
from polyinr_hf.evaluation.sources import label_frequencies

NEIGHBORS = ["precision_lite0", "recall_lite0"]
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def make_pipeline(num_classes=2):
    torch.manual_seed(0)
    model = PolyINRGenerator(z_dim=8, w_dim=8, channels=16, num_levels=3, num_classes=num_classes, sample_size=8)
    return PolyINRPipeline(model)


@pytest.fixture(scope="module")
def pipeline():
    return make_pipeline()


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    return datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 5}, features=features)


@pytest.fixture
def options(tmp_path):
    return {"cache_dir": tmp_path / "cache", "progress": False, "batch_size": 4}


def test_evaluate(pipeline, rows, options):
    result = evaluate(pipeline, ImageDataset(rows), NEIGHBORS, num_samples=7, seed=2, **options)
    assert list(result) == [*NEIGHBORS, "settings"]
    assert all(0 <= result[name] <= 1 for name in NEIGHBORS)
    settings = result["settings"]
    assert (settings["num_samples"], settings["num_real"], settings["resolution"], settings["seed"]) == (7, 10, 8, 2)
    assert {"reading", "sampling", "lite0", "metrics", "total"} == set(settings["seconds"])
    again = evaluate(pipeline, ImageDataset(rows), NEIGHBORS, num_samples=7, seed=2, **options | {"batch_size": 3})
    assert [again[name] for name in NEIGHBORS] == [result[name] for name in NEIGHBORS]
    assert "reading" not in again["settings"]["seconds"]  # the reference was cached
    json.dumps(result)


def test_images_against_themselves(options):
    images = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    evaluator = Evaluator(TensorSource(images), NEIGHBORS, **options)
    assert evaluator(TensorSource(images)) == {"precision_lite0": 1, "recall_lite0": 1}


def test_features_of_images_are_those_that_are_measured(options):
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = image_features(TensorSource(images), **options)
    torch.testing.assert_close(features, load_extractor("lite0", ["pooled"])(images)[0], rtol=1e-4, atol=1e-4)


def test_upsampling_protocol(pipeline, rows, options):
    """Real images at the high resolution; the pipeline's dense rendering, and its own images enlarged."""
    result = evaluate(pipeline, ImageDataset(rows), ["recall_lite0"], num_samples=5, upsample_to=16, **options)
    names = [f"recall_lite0_{way}" for way in ("dense", "nearest", "bilinear", "bicubic")]
    assert list(result) == [*names, "settings"]
    assert result["settings"]["resolution"] == 8 and result["settings"]["upsample_to"] == 16
    assert result["settings"]["reference"]["resolution"] == 16
    with pytest.raises(ValueError, match="`upsample_to` must be above `resolution`, 8, got 8"):
        evaluate(pipeline, ImageDataset(rows), ["recall_lite0"], num_samples=5, upsample_to=8, **options)


def test_truncation_sweep(pipeline, rows, options):
    result = truncation_sweep(pipeline, ImageDataset(rows), [0.5, 1.0], NEIGHBORS, num_samples=6, **options)
    assert [row["truncation_psi"] for row in result["results"]] == [0.5, 1.0]
    single = evaluate(pipeline, ImageDataset(rows), NEIGHBORS, num_samples=6, truncation_psi=0.5, **options)
    assert {name: single[name] for name in NEIGHBORS}.items() <= result["results"][0].items()
    with pytest.raises(ValueError, match="`truncation_psis` must be one or more numbers"):
        truncation_sweep(pipeline, ImageDataset(rows), [], NEIGHBORS, **options)


def test_few_real_images_are_a_warning_said_once(pipeline, rows, options, caplog, monkeypatch):
    monkeypatch.setitem(METRICS, "fd_lite0", dataclasses.replace(METRICS["fd_lite0"], min_images=11))
    with caplog.at_level("WARNING"):
        result = truncation_sweep(pipeline, ImageDataset(rows), [0.5, 1], ["fd_lite0"], num_samples=11, **options)
    assert all(row["fd_lite0"] > 0 for row in result["results"])
    assert [record.getMessage() for record in caplog.records] == [
        "fd_lite0: only 10 real images, 11 are needed (the covariance of 10 features is singular with fewer)"
    ]


def test_mirror_counts_mirror_images_as_real(pipeline, rows, options):
    dataset = ImageDataset(rows)
    result = evaluate(pipeline, dataset, NEIGHBORS, num_samples=6, mirror=True, **options)
    assert result["settings"]["num_real"] == 20 and result["settings"]["reference"]["mirror"]
    again = evaluate(pipeline, dataset, NEIGHBORS, num_samples=6, **options)["settings"]
    assert again["num_real"] == 10 and "reading" in again["seconds"]  # of other images, not cached ones


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"metrics": ["fd_lite0"], "num_samples": 320}, "`num_samples` must be at least 321 for fd_lite0 .* got 320"),
        ({"metrics": ["rfid"], "num_samples": 2049}, "`weights` must have inception_random=FILE for rfid"),
        ({"labels": "sorted"}, "`labels` must be one of .* got 'sorted'"),
        ({"metrics": ["fds"]}, "`metrics` must be some of .* got 'fds'"),
        ({"metrics": []}, "`metrics` must be some of .* got none"),
        ({"num_samples": 0}, "`num_samples` must be .* got 0"),
        ({"dtype": "int8"}, "`dtype` must be one of .* got 'int8'"),
        ({"batch_size": 0}, "`batch_size` must be .* got 0"),
        ({"tolerance": float("nan")}, "`tolerance` must be a finite number from 0, got nan"),
        ({"weights": {"resnet": "x"}}, "`weights` must be .* got 'resnet'"),
    ],
)
def test_bad_arguments(pipeline, rows, options, arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(pipeline, ImageDataset(rows), **{"metrics": NEIGHBORS, "num_samples": 6} | options | arguments)


def test_classes_must_fit(rows, options):
    with pytest.raises(ValueError, match="`class_frequencies` must be of the pipeline's 3 classes, got 2"):
        evaluate(make_pipeline(3), ImageDataset(rows), NEIGHBORS, num_samples=6, **options)
    unlabelled = ImageDataset(rows, class_conditional=False)
    with pytest.raises(ValueError, match="`class_frequencies` must be those .* classes, got None.*`label_column`"):
        evaluate(make_pipeline(), unlabelled, NEIGHBORS, num_samples=6, **options)
    evaluate(make_pipeline(None), unlabelled, NEIGHBORS, num_samples=6, **options)
    evaluate(make_pipeline(None), ImageDataset(rows), NEIGHBORS, num_samples=6, **options)


def test_nan_images_give_no_figure(rows, options):
    broken = make_pipeline()
    with torch.no_grad():
        broken.generator.to_rgb.bias[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate(broken, ImageDataset(rows), NEIGHBORS, num_samples=6, **options)


@pytest.mark.slow
def test_perceptual_path_length(pipeline, vgg16_file, tmp_path):
    """E LPIPS(G(z), G(slerp(z, z', e))) / e^2 without the outer percentiles; latents as torch-fidelity draws them."""
    torch.manual_seed(0)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    torch.save(heads, tmp_path / "lpips.pth")
    weights = {"lpips": tmp_path / "lpips.pth", "vgg16": vgg16_file}
    source = PipelineSource(pipeline, 5, np.ones(2), seed=7)
    values = perceptual_path_length(source, weights, batch_size=5)

    rng = np.random.RandomState(7)
    start, end = (torch.from_numpy(rng.randn(5, 8)).float() for _ in range(2))
    a, b = (x / x.norm(dim=1, keepdim=True) for x in (start, end))
    angle = torch.acos((a * b).sum(dim=1, keepdim=True))
    near = (torch.sin((1 - 1e-4) * angle) * start + torch.sin(1e-4 * angle) * end) / torch.sin(angle)
    labels = torch.from_numpy(rng.randint(0, 2, (5,)))
    with lpips_weights(weights), torch.no_grad():
        similarity = SampleSimilarityLPIPS("lpips-vgg16", sample_similarity_resize=64)
        images = [127.5 * (1 + pipeline.generator(z, labels).sample.clamp(-1, 1)) for z in (start, near)]
        distances = similarity(*images).flatten().numpy() / 1e-8
    assert distances.min() > 0 and distances.std() > 0
    assert values["ppl"] == pytest.approx(distances.mean(), rel=0.02)  # of five, the outer percentiles take none


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script(pipeline, rows, tmp_path, capsys):
    script = load_script("evaluate")
    pipeline.save_pretrained(tmp_path / "pipeline")
    rows.add_column("name", list("xyzxyzxyzx")).save_to_disk(tmp_path / "rows")
    common = ["--pipeline", tmp_path / "pipeline", "--dataset", tmp_path / "rows", "--metrics", "recall_lite0"]
    common = [str(item) for item in [*common, "--cache_dir", tmp_path / "cache", "--num_samples", 6]]
    capsys.readouterr()
    script.main([*common, "--tolerance", "0.1", "--mirror", "--json", str(tmp_path / "result.json")])
    captured = capsys.readouterr()
    assert captured.out.startswith("| metric | value |\n|---|---|\n| recall_lite0 ↑ | ")
    assert "6/6" in captured.err  # the progress bar
    result = json.loads((tmp_path / "result.json").read_text())
    assert 0 <= result["recall_lite0"] <= 1 and result["settings"]["dataset"] == str(tmp_path / "rows")
    assert result["settings"]["tolerance"] == 0.1 and result["settings"]["num_real"] == 20

    sweep = ["--truncation_sweep", "0.5,1", "--output", str(tmp_path / "sweep.png")]
    script.main([*common, *sweep, "--json", str(tmp_path / "sweep.json")])
    assert Image.open(tmp_path / "sweep.png").size[0] > 500
    assert len(json.loads((tmp_path / "sweep.json").read_text())["results"]) == 2

    for wrong, message in (
        (["--metrics", "x"], "`metrics` must be some of .* got 'x'"),
        (["--num_samples", "3"], "`num_samples` must be at least 4"),
        ([*sweep, "--upsample_to", "16"], "`--upsample_to` must not be given beside `--truncation_sweep`, got 16"),
        ([*sweep, "--truncation_psi", "1"], "`--truncation_psi` must not be given beside `--truncation_sweep`"),
        (["--output", "sweep.png"], "`--output` must be given beside `--truncation_sweep` only"),
        (["--label_column", "name"], "the pipeline's 2 classes, got 3"),
        (["--weights", "vgg16=a.pth", "lite0=missing.pth"], "missing.pth"),
        (["--weights", "lite0"], "2"),  # argparse's status
    ):
        with pytest.raises(SystemExit, match=message):
            script.main([*common, *wrong])


def test_script_names_a_corrupt_picture_and_the_option_that_leaves_it_out(pipeline, tmp_path, capsys):
    script, folder = load_script("evaluate"), tmp_path / "pictures"
    pipeline.save_pretrained(tmp_path / "pipeline")
    for index in range(10):
        path = folder / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index * 25, 0, 0)).save(path)
    path.write_bytes(path.read_bytes()[:50])
    common = ["--pipeline", tmp_path / "pipeline", "--dataset", folder, "--metrics", "recall_lite0"]
    common = [str(item) for item in [*common, "--cache_dir", tmp_path / "cache", "--num_samples", 6]]
    with pytest.raises(SystemExit, match=r"9\.png"):  # before networks are loaded, which may be a download away
        script.main([*common, "--weights", "lite0=missing.pth"])
    for _ in range(2):  # the second time beside cached features of those that could be read
        with pytest.raises(SystemExit, match=r"9\.png.*--skip_corrupt"):
            script.main(common)
        script.main([*common, "--skip_corrupt"])
        assert "recall_lite0" in capsys.readouterr().out


@pytest.mark.slow
def test_samples_are_shown_beside_their_nearest_training_images(pipeline, rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    script = load_script("inspect_samples")
    pipeline.save_pretrained(tmp_path / "pipeline")
    rows.save_to_disk(tmp_path / "rows")
    common = ["--pipeline", str(tmp_path / "pipeline"), "--dataset", str(tmp_path / "rows"), "--num_samples", "8"]
    script.main([*common, "--num_neighbors", "3", "--output", str(tmp_path / "near.png")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:4]] == [["| a", "5"], ["| b", "5"]]
    assert all(float(line.split(" | ")[4].rstrip(" |")) > 0 for line in lines[2:4])
    assert re.fullmatch(r"ratios of 2 classes: [\d.]+ to [\d.]+, median [\d.]+, half of them .*", lines[5])
    assert lines[6].startswith("median distance of a sample to its nearest training image: ")
    assert re.fullmatch("training images of these classes that are some sample's nearest: [1-8]0%", lines[7])
    picture = Image.open(tmp_path / "near.png")
    assert picture.size == (8 + 1 + 3 * 8, 2 * 8)  # a sample of each class, a gap, its neighbors
    real = {
        Image.fromarray(np.asarray(row["image"])).resize((8, 8), Image.Resampling.LANCZOS).tobytes() for row in rows
    }
    assert picture.crop((9, 0, 17, 8)).tobytes() in real

    ratios = {line.split(" | ")[0]: float(line.split(" | ")[4].rstrip(" |")) for line in lines[2:4]}
    script.main([*common, "--num_classes", "1", "--output", str(tmp_path / "near.png")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split(" | ")[0] == min(ratios, key=ratios.get) and not lines[3]

    script.main([*common, "--class", "b", "--num_rows", "2", "--output", str(tmp_path / "near.png")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| b | 5 |") and float(lines[2].split(" | ")[4].rstrip(" |")) > 0
    assert not lines[3] and lines[4].startswith("ratios of 1 classes")
    assert Image.open(tmp_path / "near.png").height == 8  # a row, of the one class

    make_pipeline(None).save_pretrained(tmp_path / "unconditional")
    for wrong, message in (
        (["--pipeline", str(tmp_path / "unconditional")], "`--pipeline` must have classes"),
        (["--class", "a", "c"], "`--class` must be names .* got \\['c'\\]"),
        (["--num_neighbors", "11"], "`k` must be in 1..10, got 11"),
        (["--num_rows", "0"], "`--num_rows` must be .* got 0"),
    ):
        with pytest.raises(SystemExit, match=message):
            script.main([*common, *wrong])


def test_labels_are_drawn_as_often_as_asked(rows):
    """A model of one class needs no labels."""
    dataset = ImageDataset(rows.select(range(9)))
    assert label_frequencies(2, dataset).tolist() == [5, 4]
    assert label_frequencies(2, dataset, "uniform").tolist() == [1, 1]
    assert label_frequencies(None, dataset) is None
    assert label_frequencies(1, ImageDataset(rows, class_conditional=False)).tolist() == [1]
