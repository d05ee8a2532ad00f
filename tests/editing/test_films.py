import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.editing.extents import detail, interpolate_extents
from polyinr_hf.editing.films import check_film, draw_frames, save_film, tile_films

WHOLE = (0.0, 0.0, 1.0, 1.0)
NAN = float("nan")


@pytest.fixture(scope="module")
def pipe() -> PolyINRPipeline:
    torch.manual_seed(0)
    pipe = PolyINRPipeline(PolyINRGenerator(8, 16, 16, num_levels=3, num_classes=None, sample_size=9).eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def colors(count: int, size: tuple[int, int] = (16, 12)) -> list[Image.Image]:
    return [Image.new("RGB", size, (40 * i, 255 - 40 * i, 99)) for i in range(count)]


# -- extents ----------------------------------------------------------------------------------------------------------
def test_detail_is_the_extent_around_a_center():
    assert detail() == (0.4375, 0.4375, 0.5625, 0.5625)
    assert detail((0.25, 0.5), 2) == (0.0, 0.25, 0.5, 0.75)


def test_a_zoom_shrinks_by_one_factor_per_frame_around_one_point():
    end = detail((0.3, 0.9), 16)
    extents = interpolate_extents(WHOLE, end, 5)
    assert extents[0] == WHOLE
    assert extents[-1] == end
    sides = [bottom - top for top, left, bottom, right in extents]
    np.testing.assert_allclose(sides, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16])
    # The point that start and end have at the same place of the picture: (p - top) / side is the same.
    place = end[0] / (1 - 1 / 16)
    np.testing.assert_allclose([(place - e[0]) / s for e, s in zip(extents, sides, strict=True)], place)


def test_a_pan_moves_evenly():
    extents = interpolate_extents((0, 0, 0.5, 0.5), (0.5, 0, 1, 0.5), 6)
    np.testing.assert_allclose([e[0] for e in extents], [0, 0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose([e[2] for e in extents], [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert all(e[1] == 0 and e[3] == 0.5 for e in extents)


def test_a_pan_that_all_but_zooms_is_stable():
    extents = interpolate_extents(WHOLE, (0.5, 0.0, 1.5 + 1e-12, 1.0), 3)
    np.testing.assert_allclose(extents[1], (0.25, 0, 1.25, 1), atol=1e-9)


def test_out_is_in_backwards():
    into, out = interpolate_extents(WHOLE, detail(), 7), interpolate_extents(detail(), WHOLE, 7)
    np.testing.assert_allclose(into, out[::-1])


@pytest.mark.parametrize(
    "function, arguments, message",
    [
        (detail, ((0.5,),), "`center`"),
        (detail, ((0.5, NAN),), "`center`"),
        (detail, ((0.5, 0.5), 0), "`factor`.*0"),
        (detail, ((0.5, 0.5), float("inf")), "`factor`"),
        (interpolate_extents, (WHOLE, (0, 0, 0, 1), 5), "`extent`"),
        (interpolate_extents, (WHOLE, WHOLE, 1), "`num_frames`"),
    ],
)
def test_bad_extents(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)


# -- frames -----------------------------------------------------------------------------------------------------------
def test_frames_are_drawn_one_at_a_time(pipe, monkeypatch):
    A = pipe.encode(num_images_per_label=3, generator=torch.Generator().manual_seed(0))
    expected = pipe(affine_parameters=A, height=6, width=8).images
    calls = []
    render = pipe.generator.render
    monkeypatch.setattr(pipe.generator, "render", lambda A, *a, **kw: calls.append(len(A)) or render(A, *a, **kw))
    frames = draw_frames(pipe, A, height=6, width=8)
    assert calls == []
    assert next(frames) == expected[0]
    assert calls == [1]
    assert list(frames) == expected[1:]
    assert list(draw_frames(pipe, iter(A.split(1)), height=6, width=8)) == expected


def test_frames_of_one_image_seen_in_moving_extents(pipe):
    A = pipe.encode(generator=torch.Generator().manual_seed(0))
    frames = list(draw_frames(pipe, A, interpolate_extents(WHOLE, detail(factor=2), 3)))
    assert len(frames) == 3
    assert frames[0] == pipe(affine_parameters=A).images[0]
    assert frames[2] == pipe(affine_parameters=A, extent=(0.25, 0.25, 0.75, 0.75)).images[0]
    with pytest.raises(ValueError, match="one image"):
        draw_frames(pipe, A.repeat(2, 1, 1, 1), [WHOLE])


# -- films ------------------------------------------------------------------------------------------------------------
def test_gif(tmp_path):
    save_film(iter(colors(5)), tmp_path / "new" / "a.gif", fps=10)
    with Image.open(tmp_path / "new" / "a.gif") as film:
        assert film.n_frames == 5
        assert film.info["duration"] == 100
        assert film.info["loop"] == 0  # for ever
        for frame, expected in zip(ImageSequence.Iterator(film), colors(5), strict=True):
            assert frame.convert("RGB").tobytes() == expected.tobytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gif"]


@pytest.mark.parametrize("fps", [1, 7, 12, 24, 26, 30, 33, 34, 49, 50])
def test_a_gif_lasts_as_long_as_its_film(tmp_path, fps):
    save_film([Image.new("L", (2, 2), i % 256) for i in range(3 * fps)], tmp_path / "a.gif", fps)
    with Image.open(tmp_path / "a.gif") as film:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(film)]
    assert len(durations) == 3 * fps
    assert sum(durations) == 3000
    assert all(abs(duration - 1000 / fps) < 10 for duration in durations)  # as near as hundredths go
    assert min(durations) >= 20


def test_frames_that_do_not_move_take_their_time(tmp_path):
    still = Image.new("L", (2, 2))
    save_film([still, still, Image.new("L", (2, 2), 9), still], tmp_path / "a.gif", fps=30)
    with Image.open(tmp_path / "a.gif") as film:
        assert [frame.info["duration"] for frame in ImageSequence.Iterator(film)] == [70, 30, 30]


def test_films_in_a_grid():
    films = [iter(colors(3)[i:] + colors(3)[:i]) for i in range(3)] + [colors(3)]
    tiled = list(tile_films(films, rows=2, columns=2))
    assert [frame.size for frame in tiled] == [(32, 24)] * 3
    assert tiled[1].crop((16, 0, 32, 12)).tobytes() == colors(3)[2].tobytes()
    assert tiled[1].crop((0, 12, 16, 24)).tobytes() == colors(3)[0].tobytes()
    with pytest.raises(ValueError, match="`films`.*2 x 3.*4"):
        tile_films([colors(1)] * 4, rows=2, columns=3)


def test_png_is_a_strip(tmp_path):
    save_film(colors(3), tmp_path / "a.PNG")
    strip = Image.open(tmp_path / "a.PNG")
    assert strip.size == (48, 12)
    assert strip.crop((32, 0, 48, 12)).tobytes() == colors(3)[2].tobytes()


def test_mp4(tmp_path):
    imageio = pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    save_film(colors(6, (33, 24)), tmp_path / "a.mp4", fps=12)
    with imageio.get_reader(tmp_path / "a.mp4", "ffmpeg") as reader:
        assert reader.get_meta_data()["fps"] == 12
        frames = list(reader.iter_data())
    assert len(frames) == 6
    assert frames[0].shape == (24, 34, 3)
    assert abs(frames[3].mean(axis=(0, 1)) - (120, 135, 99)).max() < 6
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("missing", ["imageio", "imageio_ffmpeg"])
def test_mp4_without_its_packages_says_what_to_install(tmp_path, monkeypatch, missing):
    monkeypatch.setattr("polyinr_hf.editing.films.find_spec", lambda name: None if name == missing else sys)
    frames = (pytest.fail("work started") for _ in range(2))
    with pytest.raises(ImportError, match=r"pip install \"polyinr-hf\[film\]\""):
        save_film(frames, tmp_path / "a.mp4")


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_a_film_that_fails_leaves_the_one_that_was_there(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"a{suffix}"
    save_film(colors(2), path)
    before = path.read_bytes()

    def broken():
        yield colors(1)[0]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        save_film(broken(), path)
    save = Image.Image.save

    def full_disk(image, target, *args, **kwargs):
        save(image, target, *args, **kwargs)
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_film(colors(3), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "path, fps, message",
    [
        ("a.avi", 20, "`output`.*.gif or .mp4 or .png.*a.avi"),
        ("a", 20, "`output`"),
        ("a.gif", 0, "`fps`.*0"),
        ("a.gif", 51, r"`fps`.*1\.\.50"),
        ("a.gif", 12.5, "`fps`"),
    ],
)
def test_what_is_no_film(tmp_path, path, fps, message):
    with pytest.raises(ValueError, match=message):
        save_film((pytest.fail("work started") for _ in range(2)), tmp_path / path, fps)
    with pytest.raises(ValueError, match=message):
        check_film(path, fps)


def test_a_film_has_pictures_of_one_size(tmp_path):
    with pytest.raises(ValueError, match="`frames`"):
        save_film([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"`frames`.*one size.*\(16, 12\).*\(8, 8\)"):
        save_film([*colors(1), *colors(1, (8, 8))], tmp_path / "a.gif")
    assert list(tmp_path.iterdir()) == []
