"""The benchmark of one's own pictures: folders, a short run and its figures, the grids that are shown."""

import numpy as np
import pytest
from PIL import Image

import own_pictures
from own_pictures import Icon

GROUPS = ("Activities", "Food", "Nature", "Objects", "Travel")


def fake_icons(name, version):
    """Squares of a set's own color, 60 of each group, and a drawing with a fish in its name."""
    color = f"#{abs(hash(name)) % 2**24:06x}"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4"><rect width="2" height="4" fill="{color}"/></svg>'
    names = [(f"{group}-{index}", group) for group in GROUPS for index in range(60)]
    names += [(f"fish-{index}", "Nature") for index in range(15)] + [("fisheye", "Objects")]
    return [Icon(f"{icon}-{name}", group, svg) for icon, group in names]


def run(*arguments) -> dict:
    args = own_pictures.parse_args([str(argument) for argument in arguments])
    return args.run(args)


def test_five_folders_are_drawn_and_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(own_pictures, "read_icons", fake_icons)
    assert run("prepare", "--output", tmp_path) == {
        "classes": 60,
        "icons": 200,
        "photographs": 200,
        "sea_animals": 100,
        "twenty": 20,
    }
    assert [folder.name for folder in sorted((tmp_path / "classes").iterdir())] == ["Food", "Nature", "Travel"]
    icons, twenty = ({path.name for path in (tmp_path / name).iterdir()} for name in ("icons", "twenty"))
    assert not icons & twenty and all("emojione" in name for name in icons | twenty)
    sea = {path.name for path in (tmp_path / "sea_animals").iterdir()}
    assert all("fish" in name for name in sea) and not any("eye" in name for name in sea)
    crop = np.asarray(Image.open(tmp_path / "photographs" / "000.png"))
    assert crop.shape == (128, 128, 3) and crop.std() > 10


@pytest.mark.slow
def test_a_run_is_timed_by_the_processor_and_measured(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for index in range(6):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(tmp_path / "pictures" / f"{index}.png")
    common = ("--dataset", tmp_path / "pictures")
    settings = ("run.mixed_precision=no", "model.channels=16", "model.num_levels=3")
    options = ("--output", tmp_path / "run", "--minutes", "0.1", "--init_from", "scratch")
    seconds = run("train", *common, *options, *settings)
    assert 12 * 0.9 < seconds["cpu_seconds"] < 120
    (export,) = (tmp_path / "run" / "exports").iterdir()
    figures = run("measure", *common, "--pipeline", export)
    assert np.isfinite(list(figures.values())).all()
    assert 1 / 6 <= figures["reached by pixels"] <= 1 and 0 <= figures["precision_lite0"] <= 1


def test_grids_are_shown_below_their_pictures(tmp_path):
    """Rows 1 and 3 of the first grid, then rows 2 and 4 of the ones nearest to the minutes."""
    (tmp_path / "run" / "samples").mkdir(parents=True)
    for minute, gray in ((0.9, 40), (2.1, 80), (5.0, 120)):
        rows = np.repeat(np.array([10, gray, 20, gray + 1], dtype=np.uint8), 4)[:, None, None]
        Image.fromarray(np.broadcast_to(rows, (16, 32, 3)).copy()).save(
            tmp_path / "run" / "samples" / f"minute-{minute:05.1f}.png"
        )
    output = tmp_path / "shown.png"
    assert run("show", "--runs", tmp_path / "run", "--minutes", 1, 6, "--output", output) == {
        "run, minute 1": 0.9,
        "run, minute 6": 5.0,
    }
    image = np.asarray(Image.open(output))
    assert image.shape == (12, 48, 3)
    assert image[::4, 0, 0].tolist() == [10, 40, 120] and image[::4, -1, 0].tolist() == [20, 41, 121]
    with pytest.raises(ValueError, match="`--runs` must be folders of runs on few pictures"):
        run("show", "--runs", tmp_path, "--output", output)
