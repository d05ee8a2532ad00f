"""scripts/edit.py and the arguments it shares with others."""

import importlib.util
import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from safetensors.torch import save_file

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.editing.extents import extrapolate
from polyinr_hf.editing.levels import level_figure, mix_levels
from polyinr_hf.editing.seeds import encode_seeds
from polyinr_hf.inversion import load_affine_parameters

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "edit.py"
SIZE, CHANNELS, LEVELS = 12, 16, 4


@pytest.fixture(scope="module")
def edit():
    spec = importlib.util.spec_from_file_location("scripts_edit", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    model = PolyINRGenerator(
        z_dim=8, w_dim=16, channels=CHANNELS, num_levels=LEVELS, num_classes=2, class_embed_dim=8, sample_size=SIZE
    )
    path = tmp_path_factory.mktemp("pipelines") / "tiny"
    PolyINRPipeline(model, {0: "tench", 1: "goldfish"}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder) -> PolyINRPipeline:
    pipe = PolyINRPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def parameters(pipe, tmp_path) -> Path:
    """Affine parameters in a file, as inversion writes them."""
    path = tmp_path / "a.safetensors"
    save_file({"affine_parameters": encode_seeds(pipe, 1, 42)}, path)
    return path


@pytest.fixture
def run(edit, folder):
    def run(command, *arguments) -> None:
        if command in ("interpolate", "mix", "extrapolate", "zoom", "heatmap") and "--height" not in arguments:
            arguments = (*arguments, "--height", SIZE, "--width", SIZE)
        edit.main([command, *map(str, arguments), "--pipeline", str(folder)])

    return run


@pytest.fixture
def error_of(run):
    def error_of(*arguments) -> str:
        with pytest.raises(SystemExit) as end:
            run(*arguments)
        assert isinstance(end.value.code, str)
        assert "\n" not in end.value.code
        return end.value.code

    return error_of


def picture(pipe, A, **kwargs) -> Image.Image:
    return pipe(affine_parameters=A, **kwargs).images[0]


def assert_close(image: Image.Image, expected: Image.Image):
    """The same but for rounding."""
    assert image.size == expected.size
    assert abs(np.asarray(image.convert("RGB")).astype(int) - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize("command", ["interpolate", "mix", "extrapolate", "zoom", "heatmap", "invert", "tune"])
def test_every_command_has_help(edit, command, capsys):
    for arguments in ([command, "--help"], ["--help"]):
        with pytest.raises(SystemExit) as end:
            edit.main(arguments)
        assert end.value.code == 0
        assert command in capsys.readouterr().out


# -- commands that draw -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", ["z", "w", "affine"])
def test_interpolate(run, pipe, tmp_path, capsys, space):
    output = tmp_path / "new" / "walk.png"
    run("interpolate", "--class", "tench", "goldfish", "--seeds", "3,4", "--space", space, "--frames", 3,
        "--truncation_psi", "0.7", "--height", 5, "--width", 6, "--output", output)  # fmt: skip
    captured = capsys.readouterr()
    assert captured.out.split() == [str(output)]
    assert captured.err == ""  # no bar for what is done in no time
    strip = Image.open(output)
    assert strip.size == (18, 5)
    ends = encode_seeds(pipe, ["tench", "goldfish"], [3, 4], truncation_psi=0.7)
    assert_close(strip.crop((0, 0, 6, 5)), picture(pipe, ends[:1], height=5, width=6))
    assert_close(strip.crop((12, 0, 18, 5)), picture(pipe, ends[1:], height=5, width=6))


@pytest.mark.parametrize("space", ["z", "w", "affine"])
def test_several_films_in_a_grid(run, pipe, tmp_path, space):
    output = tmp_path / "walks.gif"
    run("interpolate", "--class", "goldfish", "--seeds", "0-5", "--grid", 1, 3, "--space", space, "--easing", "smooth",
        "--loop", "--seconds_per_image", 0.3, "--fps", 10, "--output", output)  # fmt: skip
    with Image.open(output) as film:
        assert (film.n_frames, film.size) == (6, (3 * SIZE, SIZE))
        assert sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)) == 600
        for index, seeds in ((0, (0, 2, 4)), (3, (1, 3, 5))):
            film.seek(index)
            for column, seed in enumerate(seeds):
                expected = np.asarray(picture(pipe, encode_seeds(pipe, 1, seed))).astype(int)
                tile = film.convert("RGB").crop((column * SIZE, 0, (column + 1) * SIZE, SIZE))
                assert abs(np.asarray(tile) - expected).mean() < 4  # 256 colors


def test_a_progress_bar_is_for_what_takes_time(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("arguments.BAR_SECONDS", 1e-9)
    run("mix", "--class", 0, "--target_class", 1, "--output", tmp_path / "grid.png")
    captured = capsys.readouterr()
    assert f"{7 + 3 * 12}/{7 + 3 * 12}" in captured.err
    assert captured.out.split() == [str(tmp_path / "grid.png")]


def test_images_of_files_in_w(run, pipe, tmp_path):
    w = encode_seeds(pipe, [0, 1], [3, 4], space="w")
    for name, image in zip("ab", w.split(1), strict=True):
        save_file({"w": image}, tmp_path / f"{name}.safetensors")
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    run("interpolate", "--parameters", a, b, "--space", "w", "--frames", 3, "--output", tmp_path / "walk.png")
    strip = Image.open(tmp_path / "walk.png")
    assert_close(strip.crop((SIZE, 0, 2 * SIZE, SIZE)), pipe(w=w.mean(dim=0, keepdim=True)).images[0])
    run("mix", "--parameters", a, "--target_parameters", b, "--levels", 2, 3, "--output", tmp_path / "grid.png")
    top = SIZE + 2 * 18
    tile = Image.open(tmp_path / "grid.png").crop((SIZE, top, 2 * SIZE, top + SIZE))
    assert_close(tile, pipe(w=mix_levels(w[1:], w[:1], [2, 3])).images[0])
    run("extrapolate", "--parameters", a, "--extent", 0, 0, 1, 1, "--border", "none", "--output", tmp_path / "c.png")
    assert_close(Image.open(tmp_path / "c.png"), pipe(w=w[:1]).images[0])


def test_images_by_numpys_seeds_towards_centroids(run, pipe, tmp_path):
    centroids = encode_seeds(pipe, 0, range(3), space="w")[:, 0]
    np.save(tmp_path / "centroids.npy", centroids.numpy())
    run("extrapolate", "--seeds", "0-1", "--seed_source", "numpy", "--truncation_psi", 0.5, "--border", "none",
        "--centroids", tmp_path / "centroids.npy", "--extent", 0, 0, 1, 1, "--output", tmp_path / "a.png")  # fmt: skip
    A = encode_seeds(pipe, None, [0, 1], 0.5, seed_source="numpy", centroids=centroids)
    assert_close(Image.open(tmp_path / "a.png").crop((SIZE, 0, 2 * SIZE, SIZE)), picture(pipe, A[1:]))


def test_interpolate_from_an_inverted_image(run, pipe, parameters, tmp_path):
    output = tmp_path / "walk.gif"
    run("interpolate", "--parameters", parameters, "--class", 0, "--seeds", "1-2", "--frames", 6, "--loop",
        "--output", output)  # fmt: skip
    with Image.open(output) as film:
        assert film.n_frames == 6
        film.seek(2)
        expected = picture(pipe, encode_seeds(pipe, 0, 1))
        assert abs(np.asarray(film.convert("RGB")).astype(int) - np.asarray(expected)).mean() < 4  # 256 colors


def test_mix(run, pipe, parameters, tmp_path):
    output = tmp_path / "grid.png"
    run("mix", "--class", 0, "--seeds", "0-1", "--target_parameters", parameters, "--levels", 2, 3, "--output", output)
    grid = Image.open(output)
    assert grid.size == (3 * SIZE, 2 * SIZE + 4 * 18)  # names, "tench 0" in two lines and "a", and the block's title
    mixed = mix_levels(encode_seeds(pipe, 1, 42), encode_seeds(pipe, 0, 1), [2, 3])
    top = SIZE + 3 * 18
    assert_close(grid.crop((2 * SIZE, top, 3 * SIZE, top + SIZE)), picture(pipe, mixed))


def test_mix_by_default_has_a_block_for_each_group(run, pipe, tmp_path, capsys):
    run("mix", "--class", 0, "--target_class", 1, "--output", tmp_path / "grid.png")
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size == (5 * SIZE, SIZE + 36 + 3 * (18 + 3 * (SIZE + 36)))
    assert capsys.readouterr().err == ""
    # Levels of w: the last block, "fine", is level 3.
    mixed = mix_levels(encode_seeds(pipe, 1, 4, space="w"), encode_seeds(pipe, 0, 0, space="w"), "fine")
    top = grid.height - 3 * (SIZE + 36)
    assert_close(grid.crop((SIZE, top, 2 * SIZE, top + SIZE)), pipe(w=mixed).images[0])


def test_extrapolate(run, pipe, tmp_path):
    output = tmp_path / "beyond.png"
    options = ["--extent", "-0.5", "-0.5", "1.5", "1.5", "--border", "none", "--antialias", 2]
    run("extrapolate", "--class", 1, "--seeds", "5-6", *options, "--output", output)
    strip = Image.open(output)
    assert strip.size == (2 * SIZE, SIZE)
    drawing = {"height": SIZE, "width": SIZE, "border": None, "antialias": 2}
    expected = extrapolate(pipe, encode_seeds(pipe, 1, 6), (-0.5, -0.5, 1.5, 1.5), **drawing)[0]
    assert_close(strip.crop((SIZE, 0, 2 * SIZE, SIZE)), expected)
    run("extrapolate", "--class", 1, "--height", 40, "--width", 30, "--output", output)
    colors = Image.open(output).crop((0, 0, 30, 40)).getcolors(2000)
    assert (255, 255, 0) in {color for _, color in colors}


def test_zoom(run, pipe, tmp_path):
    output = tmp_path / "zoom.png"
    run("zoom", "--class", 1, "--seed", 3, "--center", "0.25", "0.5", "--factor", 4, "--frames", 3, "--output", output)
    strip = Image.open(output)
    assert strip.size == (3 * SIZE, SIZE)
    A = encode_seeds(pipe, 1, 3)
    assert_close(strip.crop((0, 0, SIZE, SIZE)), picture(pipe, A))
    expected = picture(pipe, A, extent=(0.125, 0.375, 0.375, 0.625))
    assert_close(strip.crop((2 * SIZE, 0, 3 * SIZE, SIZE)), expected)


@pytest.mark.parametrize(
    "command, arguments",
    [
        ("interpolate", ["--class", 0, 1, "--frames", 2]),
        ("zoom", ["--class", 1, "--frames", 2]),
        ("mix", ["--class", 0, "--seeds", 0, "--target_class", 1, "--target_seeds", 1]),
        ("extrapolate", ["--class", 1, "--seeds", 0]),
    ],
)
def test_tolerance_reaches_every_picture(run, tmp_path, monkeypatch, command, arguments):
    tolerances = []
    render = PolyINRGenerator.render

    def spy(self, *args, tolerance=0.0, **kwargs):
        tolerances.append(tolerance)
        return render(self, *args, tolerance=tolerance, **kwargs)

    monkeypatch.setattr(PolyINRGenerator, "render", spy)
    run(command, *arguments, "--tolerance", "0.3", "--output", tmp_path / "out.png")
    assert set(tolerances) == {0.3}


def test_pan(run, pipe, tmp_path):
    output = tmp_path / "pan.png"
    run("zoom", "--class", 1, "--start", 0, 0, "0.5", "0.5", "--end", "0.5", 0, 1, "0.5", "--frames", 3,
        "--output", output)  # fmt: skip
    expected = picture(pipe, encode_seeds(pipe, 1, 0), extent=(0.25, 0, 0.75, 0.5))
    assert_close(Image.open(output).crop((SIZE, 0, 2 * SIZE, SIZE)), expected)


def test_heatmap(run, pipe, tmp_path, capsys):
    output = tmp_path / "levels.png"
    run("heatmap", "--class", 0, "--seeds", "1-2", "--height", 6, "--width", 8, "--output", output)
    figure = Image.open(output)
    assert_close(figure, level_figure(pipe, encode_seeds(pipe, 0, [1, 2]), 6, 8))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["interpolate"], "`class_labels` is required"),
        (["interpolate", "--class", "goldfsh"], "Did you mean 'goldfish'"),
        (["interpolate", "--class", 0, "--seeds", 3], "at least two"),
        (["interpolate", "--class", 0, "--frames", 1], "`num_frames`"),
        (["interpolate", "--class", 0, "--fps", 0], "`fps`"),
        (["interpolate", "--class", 0, "--output", "a.avi"], "`output`.*gif.*a.avi"),
        (["interpolate", "--class", 0, "--parameters", "a", "--space", "z"], "`--space` must be w or affine.*got z"),
        (["interpolate", "--class", 0, "--straight"], "`--straight`.*`--space z`.*w"),
        (["interpolate", "--class", 0, "--space", "z", "--centroids", 2], "`--centroids`.*z"),
        (["interpolate", "--class", 0, "--seeds", "0-4", "--grid", 1, 2], "`--seeds`.*1 x 2 films.*5 images"),
        (["interpolate", "--class", 0, "--seeds", "0-1", "--grid", 1, 2], "at least two.*2 images"),
        (["interpolate", "--class", 0, "--grid", 0, 2], "`grid`"),
        (["interpolate", "--class", 0, "--frames", 9, "--seconds_per_image", 1], "`--frames`.*`--seconds_per_image`"),
        (["interpolate", "--class", 0, "--seconds_per_image", -1], "`seconds_per_image`"),
        (["interpolate", "--class", 0, "--fps", 9, "--output", "a.png"], "`--fps`.*side by side.*9"),
        (["zoom", "--class", 0, "--center", 30, 50], r"`--center`.*0\.\.1, got 30 50.*`--end`"),
        (["zoom", "--class", 0, "--center", 0, 0, "--end", 0, 0, 1, 1], "`--center`.*`--end`"),
        (["zoom", "--class", 0, "--factor", 2, "--end", 0, 0, 1, 1], "`--factor`.*`--end`"),
        (["mix", "--class", 0, "--target_class", 0, "--levels", 4], r"`levels`.*0\.\.3.*4"),
        (["mix", "--class", 0, "--target_class", 0, "--output", "a.gif"], "`output`.*png.*a.gif"),
        (["extrapolate", "--class", 0, "--border", "yelow"], "yelow"),
        (["extrapolate", "--class", 0, "--extent", 0, 0, 0, 1], "`extent`"),
        (["zoom", "--class", 0, "--factor", 0], "`factor`"),
        (["zoom", "--class", 0, "--seeds", "0-1"], "one image"),
        (["heatmap", "--class", 0, "--height", 0], "`height`"),
    ],
)
def test_bad_input_is_named_and_nothing_written(error_of, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    text = error_of(*arguments)
    assert text.startswith("error: ")
    assert re.search(message, text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options, message",
    [
        (["--class", 0], "`--class` must come with `--seeds`"),
        (["--truncation_psi", 0.5], "`--truncation_psi` must come with `--seeds`"),
    ],
)
def test_what_has_no_effect_on_images_of_files_is_refused(error_of, parameters, tmp_path, options, message):
    assert message in error_of("extrapolate", "--parameters", parameters, *options, "--output", tmp_path / "a.png")


def test_a_space_that_a_file_does_not_have(error_of, parameters, tmp_path):
    text = error_of("interpolate", "--parameters", parameters, "--space", "w", "--output", tmp_path / "a.gif")
    assert "`--space` must be affine" in text and "a.safetensors holds no w" in text


@pytest.mark.parametrize("command", ["interpolate", "mix", "extrapolate", "zoom", "heatmap"])
def test_affine_parameters_of_another_models_size(error_of, tmp_path, command):
    path = tmp_path / "other.safetensors"
    save_file({"affine_parameters": torch.zeros(1, 7, CHANNELS, 3)}, path)
    text = error_of(command, "--parameters", path, "--output", tmp_path / "a.png")
    assert "other.safetensors" in text
    assert "(B, 4, 16, 3)" in text
    assert "(1, 7, 16, 3)" in text


# -- commands that fit ------------------------------------------------------------------------------------------------
FAST = ["--backbone", "none", "--num_steps", 3]


@pytest.fixture
def photos(pipe, tmp_path) -> list[Path]:
    paths = [tmp_path / "one.png", tmp_path / "two.jpg"]
    for seed, path in enumerate(paths):
        picture(pipe, encode_seeds(pipe, 1, seed), height=14, width=16).save(path)
    return paths


def test_invert(run, pipe, photos, tmp_path, capsys):
    output = tmp_path / "inverted"
    options = [*FAST, "--num_refine_steps", 5, "--num_pixels", 50, "--class", "goldfish"]
    run("invert", *photos, *options, "--output", output, "--json", tmp_path / "result.json")
    captured = capsys.readouterr()
    suffixes = (".safetensors", ".png", "_comparison.png")
    files = [output / f"{name}{suffix}" for name in ("one", "two") for suffix in suffixes]
    assert captured.out.split() == [str(file) for file in files]
    assert sorted(output.iterdir()) == sorted(files)  # no checkpoint is left
    assert "two.jpg" in captured.err
    report = json.loads((tmp_path / "result.json").read_text())
    assert [Path(row["image"]).name for row in report["results"]] == ["one.png", "two.jpg"]
    for name in ("psnr", "ssim", "seconds"):
        values = [row[name] for row in report["results"]]
        assert report["mean"][name] == pytest.approx(sum(values) / 2)
    # What was found can be drawn, and is the picture that was written.
    run("zoom", "--parameters", files[0], "--height", 14, "--width", 16, "--frames", 2, "--output", tmp_path / "z.png")
    assert_close(Image.open(tmp_path / "z.png").crop((0, 0, 16, 14)), Image.open(files[1]))


def test_invert_goes_on_after_an_interruption(run, edit, photos, tmp_path, monkeypatch):
    output = tmp_path / "inverted"
    arguments = ["invert", *photos, *FAST, "--num_refine_steps", 2, "--output", output]
    save_film = edit.fitting.save_film

    def interrupted(images, path):
        if path.stem == "two":
            raise OSError("No space left on device")
        save_film(images, path)

    monkeypatch.setattr(edit.fitting, "save_film", interrupted)
    with pytest.raises(SystemExit):
        run(*arguments)
    assert (output / ".one.checkpoint").exists()
    first = (output / "one.png").read_bytes()
    monkeypatch.setattr(edit.fitting, "save_film", save_film)
    run(*arguments)
    assert (output / "one.png").read_bytes() == first
    assert (output / "two.png").exists()
    assert not list(output.glob(".*"))


def test_the_bar_of_a_search_shows_the_time_that_its_steps_to_come_take(edit, capsys, monkeypatch):
    monkeypatch.setattr("arguments.BAR_SECONDS", 1e-9)
    with edit.CallbackProgress("step", "cat.jpg") as progress:
        for step, seconds in ((1, 75), (2, 5)):
            progress.update_step(SimpleNamespace(step=step, num_steps=9, loss=0.5, remaining_seconds=seconds))
            progress.bar.refresh()
    said = capsys.readouterr().err
    assert "| 1/9 [00:00<01:15, loss=0.50000]" in said and "| 2/9 [00:00<00:05, loss=0.50000]" in said


@pytest.fixture
def press_at(edit, monkeypatch):
    """Presses Ctrl-C while a picture is fitted, after so many steps."""

    def press_at(step: int | None) -> None:
        def update(self, now) -> None:
            if now.step == step:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(edit.fitting.StoppableProgress, "update_step", update)

    return press_at


def test_an_inversion_that_is_stopped_leaves_what_was_found(run, photos, press_at, tmp_path, capsys):
    output, figures = tmp_path / "inverted", tmp_path / "figures.json"
    arguments = ["invert", *photos, *FAST, "--num_refine_steps", 0, "--json", figures]
    press_at(2)
    run(*arguments, "--output", output)
    assert "one.png: stopped after 2 steps; the same command goes on" in capsys.readouterr().err
    names = ["one.png", "one.safetensors", "one_comparison.png"]
    assert sorted(path.name for path in output.iterdir()) == [".one.checkpoint", *names]
    assert len(json.loads(figures.read_text())["results"]) == 1
    press_at(None)
    run(*arguments, "--output", output)
    run(*arguments, "--output", tmp_path / "whole")
    assert {path.name for path in output.iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    assert (output / "one.png").read_bytes() == (tmp_path / "whole" / "one.png").read_bytes()


def test_tuning_that_is_stopped_leaves_a_pipeline(run, error_of, photos, press_at, tmp_path):
    output = tmp_path / "tuned"
    arguments = ["tune", photos[0], *FAST, "--output", output]
    press_at(2)
    run(*arguments)
    PolyINRPipeline.from_pretrained(output)
    stopped = (output / "image.png").read_bytes()
    press_at(None)
    run(*arguments)
    assert (output / "image.png").read_bytes() != stopped
    assert not list(tmp_path.glob(".*.checkpoint"))
    assert "`output` must be a new or empty folder" in error_of(*arguments)


def test_invert_with_a_mask(run, photos, tmp_path):
    mask = Image.new("L", (16, 14), 255)
    mask.paste(0, (4, 4, 12, 10))
    mask.save(tmp_path / "mask.png")
    arguments = [*FAST, "--num_refine_steps", 2, "--mask", tmp_path / "mask.png"]
    run("invert", photos[0], *arguments, "--output", tmp_path / "a")
    spoiled = Image.open(photos[0])
    spoiled.paste((255, 0, 255), (4, 4, 12, 10))
    (tmp_path / "other").mkdir()
    spoiled.save(tmp_path / "other" / "one.png")
    run("invert", tmp_path / "other" / "one.png", *arguments, "--output", tmp_path / "b")
    assert (tmp_path / "a" / "one.png").read_bytes() == (tmp_path / "b" / "one.png").read_bytes()


def test_what_cannot_be_inverted(error_of, photos, tmp_path):
    output = tmp_path / "inverted"
    (tmp_path / "text.png").write_text("no image")
    assert "text.png" in error_of("invert", photos[0], tmp_path / "text.png", *FAST, "--output", output)
    assert "missing.png" in error_of("invert", tmp_path / "missing.png", *FAST, "--output", output)
    assert "different names" in error_of("invert", photos[0], tmp_path / "sub" / "one.jpg", "--output", output)
    assert not output.exists()


def test_tune(run, pipe, photos, tmp_path):
    run("invert", photos[0], *FAST, "--num_refine_steps", 5, "--output", tmp_path)
    A, output = tmp_path / "one.safetensors", tmp_path / "tuned"
    run("tune", photos[0], "--parameters", A, *FAST, "--output", output, "--json", tmp_path / "tuned.json")
    (row,) = json.loads((tmp_path / "tuned.json").read_text())["results"]
    assert row["psnr"] > 0
    tuned = PolyINRPipeline.from_pretrained(output)
    assert tuned.id2label == pipe.id2label
    weights = zip(tuned.generator.parameters(), pipe.generator.parameters(), strict=True)
    assert any(not torch.equal(after, before) for after, before in weights)
    found = picture(tuned, load_affine_parameters(output / "affine_parameters.safetensors"), height=14, width=16)
    assert_close(Image.open(output / "image.png"), found)


def test_tune_without_an_inversion(run, error_of, photos, tmp_path, capsys):
    output = tmp_path / "tuned"
    run("tune", photos[0], *FAST, "--size", 8, "--output", output)
    assert "seconds" in capsys.readouterr().err
    assert Image.open(output / "image.png").size == (8, 7)
    assert Image.open(output / "comparison.png").size == (16, 7)
    text = error_of("tune", photos[0], "--strength", "near", *FAST, "--output", tmp_path / "near")
    assert "`--parameters`" in text and not (tmp_path / "near").exists()


def test_tune_goes_on_after_an_interruption(run, edit, photos, tmp_path, monkeypatch):
    arguments = ["tune", photos[0], *FAST, "--output", tmp_path / "tuned"]
    replace_folder = edit.fitting.replace_folder

    def interrupted(path):
        raise OSError("No space left on device")

    monkeypatch.setattr(edit.fitting, "replace_folder", interrupted)
    with pytest.raises(SystemExit, match="No space left"):
        run(*arguments)
    assert (tmp_path / ".tuned.checkpoint").exists()
    monkeypatch.setattr(edit.fitting, "replace_folder", replace_folder)
    monkeypatch.setattr(edit.CallbackProgress, "update_step", lambda *step: pytest.fail("a step is done twice"))
    run(*arguments)
    assert (tmp_path / "tuned" / "image.png").exists()
    assert not list(tmp_path.glob(".*"))


def test_tune_does_not_overwrite(error_of, photos, parameters, tmp_path):
    text = error_of("tune", photos[0], "--parameters", parameters, *FAST, "--output", tmp_path)
    assert "`output`" in text
    assert photos[0].exists()
