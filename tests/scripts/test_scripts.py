import argparse
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.editing import w_centroids

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SHARED = ("arguments.py", "fitting.py")  # imported by scripts, not run
RUNNABLE = sorted(path for path in SCRIPTS.glob("*.py") if path.name not in SHARED)
SIZE = 8


def load_script(name: str):
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """A conditional and an unconditional pipeline, saved."""
    paths = {}
    for name, num_classes in (("conditional", 3), ("unconditional", None)):
        torch.manual_seed(0)
        model = PolyINRGenerator(z_dim=8, w_dim=8, channels=8, num_levels=3, num_classes=num_classes, sample_size=SIZE)
        labels = {0: "tench", 1: "goldfish, Carassius auratus", 2: "Food & Drink"} if num_classes else None
        paths[name] = str(tmp_path_factory.mktemp("pipelines") / name)
        PolyINRPipeline(model, labels).save_pretrained(paths[name])
    return paths


def run(script: str, *arguments) -> None:
    load_script(script).main([str(argument) for argument in arguments])


def error_of(script: str, *arguments) -> str:
    """The message the script ends with."""
    with pytest.raises(SystemExit) as end:
        run(script, *arguments)
    assert isinstance(end.value.code, str)
    return end.value.code


@pytest.mark.parametrize("path", RUNNABLE, ids=lambda path: path.stem)
def test_help(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 0
    output = capsys.readouterr().out
    assert path.name in output
    assert f"scripts/{path.name}" in output.split("options:")[0]  # an example to copy


# -- generate.py ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text, seeds", [("7", [7]), ("0-3", [0, 1, 2, 3]), ("0-2,20", [0, 1, 2, 20]), ("5, 3-3", [5, 3])]
)
def test_seeds(text, seeds):
    assert load_script("generate").parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-1", "1.5"])
def test_bad_seeds(text):
    with pytest.raises(argparse.ArgumentTypeError, match="seeds such as"):
        load_script("generate").parse_seeds(text)


def test_generate(folders, tmp_path, capsys):
    arguments = [
        "--pipeline",
        folders["conditional"],
        "--class",
        "goldfish",
        "2",
        "--class",
        "tench",
        "--seeds",
        "0-1,9",
    ]
    arguments += ["--truncation_psi", "0.7", "--height", "12", "--width", "10", "--extent", "-0.5", "0", "1", "1.5"]
    run("generate", *arguments, "--grid", "--output", tmp_path / "out")
    names = [f"{name}-seed{seed:04d}.png" for seed in (0, 1, 9) for name in ("goldfish", "food-drink", "tench")]
    output = capsys.readouterr()
    assert output.out.split() == [str(tmp_path / "out" / name) for name in [*names, "grid.png"]]
    assert output.err == "class 2: Food & Drink\n"  # no bar for what is done in no time

    pipe = PolyINRPipeline.from_pretrained(folders["conditional"])
    expected = pipe(
        2, truncation_psi=0.7, height=12, width=10, extent=(-0.5, 0, 1, 1.5), generator=torch.Generator().manual_seed(9)
    ).images[0]
    image = Image.open(tmp_path / "out" / "food-drink-seed0009.png")
    assert image.size == (10, 12)
    difference = np.asarray(image).astype(int) - np.asarray(expected).astype(int)
    assert abs(difference).max() <= 1  # rounding of a batch of three
    grid = Image.open(tmp_path / "out" / "grid.png")
    assert grid.size == (3 * 10, 3 * (12 + 18))  # a row for each class, a name below each image
    np.testing.assert_array_equal(np.asarray(grid.crop((20, 30, 30, 42))), np.asarray(image))


def test_every_class_has_a_file_name_of_its_own(tmp_path, capsys):
    torch.manual_seed(0)
    names = [
        "猫",
        "犬",
        "crane",
        "Crane, a machine",
        "crane 3",
        "crane_3",
        "!?",
        "cafe\u0301",
        "caf\u00e9",
        *["猫犬" * 90] * 2,
    ]
    names += ["猫犬" * 90, "猫犬" * 90, "a" * 300, "a" * 299, "con", "A b", "a-b", "Ärger", "x-seed0001"]
    model = PolyINRGenerator(z_dim=8, w_dim=8, channels=8, num_levels=3, num_classes=len(names), sample_size=SIZE)
    PolyINRPipeline(model, dict(enumerate(names))).save_pretrained(tmp_path / "pipe")
    ids = [str(key) for key in range(len(names))]
    run("generate", "--pipeline", tmp_path / "pipe", "--class", *ids, "--seeds", "0,1,1", "--output", tmp_path / "out")
    printed = capsys.readouterr().out.splitlines()
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == len(printed) == 2 * len(names)
    assert len({unicodedata.normalize("NFD", path.name.casefold()) for path in files}) == len(files)
    found = {path.name for path in files}
    for expected in ("猫", "犬", "crane_2", "crane_3", "crane-3_4", "class_6", "café_7", "ärger", "x-seed0001"):
        assert f"{expected}-seed0001.png" in found
    run("generate", "--pipeline", tmp_path / "pipe", "--class", "猫", "0", "--output", tmp_path / "one")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["猫-seed0000.png"]  # one image, asked for twice


@pytest.mark.parametrize(
    "words, names",
    [
        ([], ["Carassius auratus", "Food & Drink", "goldfish", "tench"]),
        (["FISH"], ["goldfish"]),
        (["food", "drink"], ["Food & Drink"]),
        (["us_au"], ["Carassius auratus"]),
        (["a"], ["Carassius auratus"]),
    ],
)
def test_generate_lists_class_names(folders, tmp_path, monkeypatch, capsys, words, names):
    monkeypatch.chdir(tmp_path)
    run("generate", "--pipeline", folders["conditional"], "--list_classes", *words)
    assert capsys.readouterr() == ("\n".join(names) + "\n", "")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_generate_lists_as_many_class_names_as_are_read():
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS.parent / "src")}
    command = [sys.executable, SCRIPTS / "generate.py", "--list_classes"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()  # as head does
        assert b"roken" not in process.stderr.read()
    assert process.returncode == 0


def test_generate_lists_no_class_names_where_there_are_none(folders, tmp_path):
    assert "class names, this one has no classes." in error_of(
        "generate", "--pipeline", folders["unconditional"], "--list_classes"
    )
    model = PolyINRGenerator(z_dim=8, w_dim=8, channels=8, num_levels=3, num_classes=5, sample_size=SIZE)
    PolyINRPipeline(model).save_pretrained(tmp_path)
    assert "5 classes without names, 0 to 4" in error_of("generate", "--pipeline", tmp_path, "--list_classes")
    text = error_of("generate", "--pipeline", folders["conditional"], "--list_classes", "big", "cat")
    assert text == "error: `--list_classes` must be a part of one of 4 class names, got 'big cat'."


def test_generate_saves_w_and_affine_parameters(folders, tmp_path, capsys):
    arguments = ["--pipeline", folders["conditional"], "--class", "goldfish", "--seed", 3, "--truncation_psi", 0.6]
    run("generate", *arguments, "--save", "--output", tmp_path)
    files = [tmp_path / f"goldfish-seed0003.{suffix}" for suffix in ("png", "safetensors")]
    assert capsys.readouterr().out.split() == [str(path) for path in files]
    tensors = load_file(files[1])
    pipe = PolyINRPipeline.from_pretrained(folders["conditional"])
    options = {"generator": torch.Generator().manual_seed(3), "truncation_psi": 0.6}
    assert torch.equal(tensors["affine_parameters"], pipe.encode(1, **options))
    assert torch.equal(pipe.encode(w=tensors["w"]), tensors["affine_parameters"])


@pytest.mark.parametrize("name", ["conditional", "unconditional"])
def test_generate_the_authors_images(folders, tmp_path, name):
    """Their gen_images.py draws z, and the class if none is given, from numpy's RandomState(seed)."""
    run("generate", "--pipeline", folders[name], "--seeds", "0-3", "--seed_source", "numpy", "--output", tmp_path)
    pipe = PolyINRPipeline.from_pretrained(folders[name])
    for seed in range(4):
        z = torch.from_numpy(np.random.RandomState(seed).randn(1, 8)).float()
        label = int(np.random.RandomState(seed).randint(3)) if name == "conditional" else None
        stem = ["tench-", "goldfish-", "food-drink-"][label] if label is not None else ""
        found = Image.open(tmp_path / f"{stem}seed{seed:04d}.png")
        assert found.tobytes() == pipe(label, latents=z).images[0].tobytes()


def test_generate_towards_centroids(folders, tmp_path):
    pytest.importorskip("scipy")
    arguments = ["--pipeline", folders["unconditional"], "--seeds", "0-3", "--truncation_psi", 0]
    run("generate", *arguments, "--centroids", 2, "--output", tmp_path)
    images = {Image.open(path).tobytes() for path in tmp_path.iterdir()}
    assert 1 <= len(images) <= 2  # psi 0: the centroids themselves
    pipe = PolyINRPipeline.from_pretrained(folders["unconditional"])
    centroids = w_centroids(pipe, 2).unsqueeze(1).expand(2, 3, 8)
    assert images <= {image.tobytes() for image in pipe(w=centroids).images}


@pytest.mark.parametrize("words", ["generate", "edit zoom", "edit invert cat.jpg", "edit tune cat.jpg"])
def test_without_a_pipeline_the_bundled_model_draws(words):
    script, *arguments = words.split()
    pipeline = load_script(script).parse_args(arguments).pipeline
    assert pipeline == str(SCRIPTS.parent / "pretrained" / "poly-inr-emoji")


def test_generate_unconditional(folders, tmp_path, capsys):
    run("generate", "--pipeline", folders["unconditional"], "--seeds", "0-4", "--grid", "--output", tmp_path)
    names = [f"seed{seed:04d}.png" for seed in range(5)] + ["grid.png"]
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size == (3 * SIZE, 2 * (SIZE + 18))
    np.testing.assert_array_equal(np.asarray(grid)[SIZE + 18 :, 2 * SIZE :], 255)  # the sixth place is empty


def test_generate_one_image_of_each_design(folders, tmp_path, capsys):
    """Images of one class mean are one design; the row of a class with fewer is filled up."""
    arguments = ["--pipeline", folders["conditional"], "--class", "goldfish", "tench", "--seeds", "3,1,8,1", "--grid"]
    run("generate", *arguments, "--distinct", "--truncation_psi", 0, "--output", tmp_path / "one")
    output = capsys.readouterr()
    assert output.err == "goldfish: 1 design among 3 seeds\ntench: 1 design among 3 seeds\n"
    assert len(output.out.split()) == 3
    grid = load_script("generate").contact_sheet([[Image.new("RGB", (4, 4))] * 3, [Image.new("RGB", (4, 4))]])
    assert grid.size == (12, 8)
    assert np.asarray(grid)[4:, 4:].min() == 255 and np.asarray(grid)[:4].max() == 0


def test_generate_with_a_tolerance(folders, tmp_path):
    arguments = ["--pipeline", folders["unconditional"], "--seeds", 3, "--height", 100, "--width", 90]
    run("generate", *arguments, "--tolerance", 0.2, "--output", tmp_path)
    pipe = PolyINRPipeline.from_pretrained(folders["unconditional"])
    generator = torch.Generator().manual_seed(3)
    expected = pipe(height=100, width=90, tolerance=0.2, generator=generator).images[0]
    assert list(Image.open(tmp_path / "seed0003.png").getdata()) == list(expected.getdata())


@pytest.fixture
def no_dtype_warnings(monkeypatch):
    """Fails where diffusers warns of the way that a dtype is asked for."""

    def fail(message, *args):
        pytest.fail(message)

    monkeypatch.setattr("diffusers.models.modeling_utils.logger.warning", fail)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="`torch_dtype` is deprecated")
        yield


def test_generate_in_bfloat16(folders, tmp_path, no_dtype_warnings):
    arguments = ["--pipeline", folders["unconditional"], "--seed", "3"]
    run("generate", *arguments, "--output", tmp_path / "exact")
    run("generate", *arguments, "--output", tmp_path / "half", "--dtype", "bfloat16")
    exact, half = (np.asarray(Image.open(tmp_path / name / "seed0003.png")).astype(int) for name in ("exact", "half"))
    assert 0 < abs(exact - half).max() < 16


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--class", "goldfsh"], "Did you mean 'goldfish'"),
        (["--class", "goldfish", "7"], "0..2"),
        ([], "`class_labels` is required"),
        (["--class", "0", "--seed", str(2**64)], "18446744073709551616"),
        (["--class", "0", "--centroids", "no.npy"], "no.npy"),
        (["--class", "0", "--height", "0"], "`height`"),
        (["--class", "0", "--extent", "0", "0", "0", "1"], "`extent`"),
        (["--class", "0", "--truncation_psi", "nan"], "`truncation_psi`"),
        (["--class", "0", "--distinct", "--centroids", "2"], "`--distinct`"),
        (["--class", "0", "--distinct", "--seed_source", "numpy"], "`--distinct`"),
    ],
)
def test_generate_refuses_bad_input(folders, tmp_path, arguments, message):
    text = error_of("generate", "--pipeline", folders["conditional"], *arguments, "--output", tmp_path / "out")
    assert message in text
    assert "\n" not in text
    assert not (tmp_path / "out").exists()


def test_generate_from_no_pipeline(tmp_path):
    assert "model_index.json" in error_of("generate", "--pipeline", tmp_path)


@pytest.mark.parametrize("arguments", [["--seeds", "3-1"], ["--dtype", "int8"], ["--extent", "0", "1"]])
def test_generate_teaches_its_arguments(folders, arguments, capsys):
    with pytest.raises(SystemExit) as end:
        run("generate", "--pipeline", folders["unconditional"], *arguments)
    assert end.value.code == 2
    assert arguments[0] in capsys.readouterr().err


# -- demo.py ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("name", ["conditional", "unconditional"])
def test_demo(folders, tmp_path, capsys, name, monkeypatch):
    demo = load_script("demo")
    monkeypatch.setattr(demo, "SIZES", (16, 32, 64))
    monkeypatch.setattr(demo, "PANEL", 32)
    demo.main(["--pipeline", folders[name], "--output", str(tmp_path / "out")])
    rows = {"conditional": 3, "unconditional": 8}[name]
    files = {"beyond_the_border.png": (512, 512), "style_mixing.png": (5 * 96, 96 + 3 * (18 + 3 * 96))}
    files |= {"sizes.png": (4 * 32, 2 * (32 + 18)), "samples.png": (8 * 64, rows * 64), "walk.gif": (128, 128)}
    printed = [str(tmp_path / "out" / file) for file in (*files, "index.html")]
    assert capsys.readouterr().out.split() == printed
    page = (tmp_path / "out" / "index.html").read_text()
    assert sorted(re.findall('src="(.*?)"', page)) == sorted(files)
    for file, size in files.items():
        image = Image.open(tmp_path / "out" / file)
        assert image.size == size
        assert np.asarray(image.convert("RGB")).std() > 0
    assert image.n_frames == 48


def test_demo_opens_a_pipeline_in_bfloat16(folders, monkeypatch, no_dtype_warnings):
    demo = load_script("demo")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    pipe = demo.load_pipeline(folders["conditional"])
    assert {weight.dtype for weight in pipe.generator.parameters()} == {torch.bfloat16}


def test_demo_of_chosen_classes(folders, tmp_path, monkeypatch):
    demo = load_script("demo")
    monkeypatch.setattr(demo, "SIZES", (16,))
    monkeypatch.setattr(demo, "draw_samples", lambda pipe, seed: Image.new("RGB", (8, 8)))
    arguments = ["--pipeline", folders["conditional"], "--output", str(tmp_path)]
    sizes = []
    for label in (["0"], ["1"], ["1", "2"]):
        demo.main([*arguments, "--class", *label])
        sizes.append((tmp_path / "sizes.png").read_bytes())
    assert sizes[0] != sizes[1] == sizes[2]
    with pytest.raises(SystemExit, match="0..2.*7"):
        demo.main([*arguments, "--class", "7"])


@pytest.mark.slow
def test_demo_without_a_checkpoint(tmp_path, monkeypatch, capsys):
    demo = load_script("demo")
    monkeypatch.setattr(demo, "PRETRAINED", tmp_path / "pretrained" / "poly-inr-emoji")
    monkeypatch.setattr(demo, "SIZES", (16,))
    demo.main(["--output", str(tmp_path)])
    assert "UNTRAINED" in capsys.readouterr().out
    assert Image.open(tmp_path / "walk.gif").n_frames == 48


def test_the_demo_knows_its_classes():
    """Those it draws of the bundled checkpoint are classes of it."""
    demo = load_script("demo")
    chosen = demo.WALKED | demo.MIXED | demo.MIXED_INTO | demo.BEYOND
    assert set(chosen) <= set(demo.load_pipeline(None).labels)


def test_demo_draws_many_classes_once_each(monkeypatch):
    demo = load_script("demo")
    drawn, encode = [], demo.encode_seeds
    monkeypatch.setattr(
        demo, "encode_seeds", lambda pipe, labels, seeds: (drawn.append(labels), encode(pipe, labels, seeds))[1]
    )
    pipe = PolyINRPipeline(PolyINRGenerator(channels=8, num_levels=2, num_classes=30, sample_size=8))
    assert demo.draw_samples(pipe, 0).size == (5 * 64, 5 * 64)
    assert len(set(drawn[0])) == 25 and drawn[0][-1] == 28


def test_demo_says_that_weights_are_untrained(tmp_path, monkeypatch, capsys):
    demo = load_script("demo")
    monkeypatch.setattr(demo, "PRETRAINED", tmp_path / "pretrained" / "poly-inr-emoji")
    assert demo.load_pipeline(None).generator.config.num_classes is None
    assert "UNTRAINED" in capsys.readouterr().out


def test_readme_counts_the_parameters_of_the_checkpoint_in_the_box():
    demo = load_script("demo")
    count = sum(weight.numel() for weight in demo.load_pipeline(None).generator.parameters())
    readme = (SCRIPTS.parent / "README.md").read_text(encoding="utf-8")
    assert f"bundled checkpoint ({count / 1e6:.1f} M parameters" in readme


def test_demo_uses_the_checkpoint_in_the_box(folders, monkeypatch, capsys):
    demo = load_script("demo")
    monkeypatch.setattr(demo, "PRETRAINED", Path(folders["conditional"]))
    assert demo.load_pipeline(None).generator.config.num_classes == 3
    assert capsys.readouterr().out == ""


# -- benchmark.py -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("render --sizes 8", "benchmarks/rendering.py --sizes 8"),
        (
            "render --sizes 8 --pipeline x --dtype bfloat16",
            "benchmarks/adaptive.py --sizes 8 --pipeline x --dtype bfloat16",
        ),
        ("render --pipeline=x", "benchmarks/adaptive.py --pipeline=x"),
        ("train --set data.dataset=x", "benchmarks/training.py --set data.dataset=x"),
        ("plan --processes 8", "scripts/plan.py --processes 8"),
    ],
)
def test_the_benchmarks_under_one_name(words, expected):
    path, *options = load_script("benchmark").command_of(words.split())
    assert f"{Path(path).relative_to(SCRIPTS.parent).as_posix()} {' '.join(options)}" == expected
    assert Path(path).is_file()


# -- measure_inversion.py ---------------------------------------------------------------------------------------------
@pytest.fixture
def inversion_arguments(folders, tmp_path):
    random = np.random.default_rng(0)
    pictures = [Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8)) for _ in range(4)]
    features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "emoji" / "data").mkdir(parents=True)
    rows = datasets.Dataset.from_dict({"image": pictures}, features=features)
    rows.to_parquet(tmp_path / "emoji" / "data" / "heldout-00000-of-00001.parquet")
    arguments = ["--pipeline", folders["conditional"], "--dataset", tmp_path / "emoji", "--sizes", 12, "--num_emoji", 2]
    steps = ["--num_steps", 2, "--num_refine_steps", 2, "--num_tuning_steps", 2]
    return [*arguments, *steps, "--output", tmp_path / "out"]


@pytest.mark.slow
def test_measure_inversion(inversion_arguments, tmp_path, monkeypatch, capsys):
    script = load_script("measure_inversion")
    arguments = [str(argument) for argument in inversion_arguments]
    script.main(arguments)
    first = capsys.readouterr().out
    rows = [line.split(" | ")[1:3] for line in first.splitlines()[2:8]]
    methods = ["inverted", "near", "close"]
    assert rows == [[group, method] for group in ("2 emoji", "5 photographs") for method in methods]
    result = json.loads((tmp_path / "out" / "inversion.json").read_text())
    assert [row["image"] for row in result["results"]][:3] == ["emoji-0000", "emoji-0002", "astronaut"]
    for row in result["results"]:
        assert all(row[method]["psnr"] > 3 and row[method]["seconds"] > 0 for method in methods)
    assert Image.open(tmp_path / "out" / "inversion_12.png").size == (7 * 12, 4 * 12)
    assert Image.open(tmp_path / "out" / "edits_12.png").size == (5 * 256, 2 * 5 * 256)

    monkeypatch.setattr(script, "inversion", None)  # nothing is measured twice
    monkeypatch.setattr(script, "COLUMNS", 4)
    script.main(arguments)
    assert capsys.readouterr().out == first
    sheet = Image.open(tmp_path / "out" / "inversion_12.png")
    assert sheet.size == (4 * 12, 8 * 12)
    original = Image.open(tmp_path / "out" / "results" / "12" / "rocket" / "original.png")
    assert sheet.crop((24, 48, 36, 60)).tobytes() == original.tobytes()  # the seventh: third of the second block
    assert sheet.getpixel((40, 52)) == (255, 255, 255)
    with pytest.raises(SystemExit, match="measured with other settings"):
        script.main([*arguments, "--seed", "1"])
    with pytest.raises(SystemExit, match="--sizes"):
        script.main([*arguments, "--sizes", "8"])
