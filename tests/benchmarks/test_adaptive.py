"""The benchmark of adaptive rendering, in this process and on a small pipeline."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import adaptive
from polyinr_hf import PolyINRGenerator, PolyINRPipeline

SIZE = 72


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("pipelines") / "tiny"
    PolyINRPipeline(PolyINRGenerator(channels=16, num_classes=None, num_levels=4, sample_size=8)).save_pretrained(path)
    return path


@pytest.fixture
def pipe(folder):
    return PolyINRPipeline.from_pretrained(folder)


@pytest.fixture
def A(pipe):
    return pipe.encode(num_images_per_label=3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    monkeypatch.setattr(adaptive, "in_fresh_process", lambda function, *args: function(*args))


def test_figures_are_those_of_the_images(folder, pipe, A):
    rows = list(adaptive.measure_adaptive_rendering(folder, A, [SIZE, 24], [0.02, 0.3], [3, 1]))
    assert [(row.size, row.tolerance, row.num_images) for row in rows] == [
        (SIZE, 0.02, 3),
        (SIZE, 0.3, 3),
        (24, 0.02, 1),
        (24, 0.3, 1),
    ]
    fine, coarse = rows[:2]
    exact = pipe.generator.render(A, SIZE, SIZE).clamp(-1, 1)
    error = pipe.generator.render(A, SIZE, SIZE, tolerance=0.3).clamp(-1, 1) - exact
    psnr = [10 * math.log10(4 / part.square().mean().item()) for part in error]
    assert coarse.psnr == pytest.approx(sum(psnr) / 3, abs=0.01)
    assert coarse.psnr_worst == pytest.approx(min(psnr), abs=0.01)
    assert coarse.largest_error == pytest.approx(error.abs().max().item() * 127.5, abs=0.01)
    points = adaptive._last_lattice(pipe.generator, A[:1], SIZE, 0.3).num_points
    assert 0.5 < coarse.share_run * SIZE**2 / points < 2
    assert fine.psnr > coarse.psnr
    assert fine.share_run > coarse.share_run
    assert min(fine.seconds, fine.exact_seconds, fine.peak_mb, fine.exact_peak_mb) > 0


def test_table_and_json(folder, A):
    rows = list(adaptive.measure_adaptive_rendering(folder, A, [24], [0.1], [1], dtype="bfloat16"))
    lines = adaptive.format_adaptive_table(rows).splitlines()
    assert len(lines) == 3
    assert {line.count("|") for line in lines} == {13}


def test_the_command_writes_rows_pictures_and_plots(folder, tmp_path, capsys):
    arguments = ["--pipeline", str(folder), "--sizes", "40", "48", "--tolerance", "0.2", "--num_images", "2"]
    files = {"--json": tmp_path / "a.json", "--picture": tmp_path / "a.png", "--plot": tmp_path / "b.png"}
    adaptive.main([*arguments, *(str(word) for pair in files.items() for word in pair)])
    rows = json.loads((tmp_path / "a.json").read_text())["results"]
    assert [(row["size"], row["num_images"], row["tolerance"]) for row in rows] == [(40, 2, 0.2), (48, 2, 0.2)]
    assert capsys.readouterr().out.count("\n") == 4
    assert Image.open(tmp_path / "a.png").size == (3 * 40, 2 * 40 + 18)
    assert (tmp_path / "b.png").is_file()


def test_pictures(folder, pipe, A, tmp_path):
    picture = adaptive.draw_where_run(pipe.generator, A[:2], SIZE, 0.1)
    assert picture.size == (3 * SIZE, 2 * SIZE + 18)
    pixels = np.asarray(picture)[:SIZE, 2 * SIZE :]
    orange = (pixels[..., 0] > 200) & (pixels[..., 2] == 0)
    ran = adaptive._last_lattice(pipe.generator, A[:1], SIZE, 0.1).ran[0]
    assert np.array_equal(orange, ran.numpy())
    rows = list(adaptive.measure_adaptive_rendering(folder, A, [16, 32], [0.1, 0.3], [1, 1]))
    adaptive.plot_costs(rows, tmp_path / "costs.png")
    assert Image.open(tmp_path / "costs.png").size[0] > 300


@pytest.mark.parametrize(
    "change, name",
    [
        ({"sizes": [0]}, "sizes"),
        ({"tolerances": [0.0]}, "tolerances"),
        ({"num_images": [4]}, "num_images"),
        ({"num_images": [1, 1]}, "num_images"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_bad_input(folder, A, change, name):
    arguments = {"sizes": [16], "tolerances": [0.1], "num_images": [1]} | change
    with pytest.raises(ValueError, match=f"`{name}`"):
        next(adaptive.measure_adaptive_rendering(folder, A, **arguments))
