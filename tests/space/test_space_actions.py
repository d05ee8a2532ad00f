import numpy as np
import pytest
import torch
from actions import Studio, check_pixels, move, time_limit
from PIL import Image
from settings import MAX_COUNT, MAX_DRAWN, MAX_ENCODED, MAX_FRAMES, SIZES

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.editing.interpolation import encode_seeds
from polyinr_hf.editing.style_mixing import mix_levels

CAT_TO_TREE = {"class_label": "cat", "seed": 3, "truncation_psi": 1.0, "second_class_label": "tree", "second_seed": 8}
ONE = {"class_label": "dog", "seed": 5, "truncation_psi": 0.8}


def draw(studio, class_label, seed, psi, size, **kwargs) -> Image.Image:
    """What the pipeline draws, asked without the page."""
    generator = torch.Generator().manual_seed(seed)
    images = studio.pipe(class_label, truncation_psi=psi, height=size, width=size, generator=generator, **kwargs).images
    return images[0]


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and np.array_equal(a, b)


@pytest.fixture(scope="module")
def rebuilt(studio, photo):
    steps = []
    image, code, report = studio.rebuild(str(photo), 30, 48, lambda *step: steps.append(step))
    return image, code, report, steps


def test_generate_draws_consecutive_seeds(studio):
    images = studio.generate(**ONE, count=3, size=64)
    assert [caption for _, caption in images] == ["seed 5", "seed 6", "seed 7"]
    for seed, (image, _) in enumerate(images, start=5):
        assert same(image, draw(studio, "dog", seed, 0.8, 64))


def test_generate_goes_on_after_the_last_seed(studio):
    images = studio.generate("cat", 2**32 - 1, 1.0, 2, 64)
    assert same(images[1][0], draw(studio, "cat", 0, 1.0, 64))


def test_zoom_draws_the_part_around_the_centre(studio):
    image = studio.zoom(**ONE, photo="", row=0.25, column=0.75, zoom=1.0, border=False, size=64)
    assert same(image, draw(studio, "dog", 5, 0.8, 64, extent=(0.0, 0.5, 0.5, 1.0)))


def test_zoom_marks_the_border_beyond_it_only_if_asked(studio):
    out = {**ONE, "photo": "", "row": 0.5, "column": 0.5, "zoom": -1.0, "size": 128}
    plain, marked = (np.asarray(studio.zoom(**out, border=border)) for border in (False, True))
    differs = (plain != marked).any(axis=2)
    assert (marked[differs] == (255, 255, 0)).all()
    assert 4 * 55 < differs.sum() < 4 * 70  # a square of half the side, one pixel wide


@pytest.mark.parametrize("zoom", [-2.0, 8.0])
def test_zoom_draws_at_its_limits(studio, zoom):
    assert studio.zoom(**ONE, photo="", row=-1.0, column=2.0, zoom=zoom, border=True, size=64).size == (64, 64)


def test_mix_takes_levels_of_the_second(studio):
    first, second, mixed = studio.mix(**CAT_TO_TREE, photo="", levels=[4, 1], size=64)
    assert same(first, draw(studio, "cat", 3, 1.0, 64))
    assert same(second, draw(studio, "tree", 8, 1.0, 64))
    A, B = (encode_seeds(studio.pipe, label, seed) for label, seed in (("cat", 3), ("tree", 8)))
    assert same(mixed, studio.pipe(affine_parameters=mix_levels(A, B, [1, 4]), height=64, width=64).images[0])
    assert not same(mixed, first)
    assert not same(mixed, second)


def test_mix_of_no_level_is_the_first_and_of_all_the_second(studio):
    first, second, _ = studio.mix(**CAT_TO_TREE, photo="", levels=[], size=64)
    assert same(studio.mix(**CAT_TO_TREE, photo="", levels=[], size=64)[2], first)
    assert same(studio.mix(**CAT_TO_TREE, photo="", levels=list(range(6)), size=64)[2], second)


def test_morph_goes_from_the_first_to_the_second(studio):
    images = [studio.morph(**CAT_TO_TREE, position=position, size=64) for position in (0.0, 0.5, 1.0)]
    assert same(images[0], draw(studio, "cat", 3, 1.0, 64))
    assert same(images[2], draw(studio, "tree", 8, 1.0, 64))
    assert not same(images[1], images[0])
    assert not same(images[1], images[2])


def test_the_film_goes_there_and_back(studio):
    frames = studio.film(**CAT_TO_TREE, num_frames=5, size=64)
    assert len(frames) == 8
    for index, position in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        expected = np.asarray(studio.morph(**CAT_TO_TREE, position=position, size=64)).astype(int)
        assert abs(np.asarray(frames[index]) - expected).max() <= 1
    assert all(same(frames[i], frames[-i]) for i in (1, 2, 3))


def test_rebuild_comes_close_and_tells_its_progress(studio, photo, rebuilt):
    image, code, report, steps = rebuilt
    original = np.asarray(Image.open(photo).crop((16, 0, 80, 64)).resize((48, 48))).astype(float)
    error = np.square(np.asarray(image) - original).mean()
    assert error < 0.1 * original.var()
    losses = [loss for _, _, loss in steps]
    assert losses[-1] < 0.2 * losses[0]
    assert all(total == 30 and 0 < step <= 30 for step, total, _ in steps)
    assert "dB PSNR" in report
    assert same(studio.photo(code, 48), image)


def test_a_rebuilt_image_can_be_zoomed_and_mixed(studio, rebuilt):
    _, code, _, _ = rebuilt
    whole = studio.zoom(**ONE, photo=f" {code} ", row=0.5, column=0.5, zoom=0.0, border=False, size=48)
    first, second, mixed = studio.mix(**CAT_TO_TREE, photo=code, levels=[5], size=48)
    assert same(whole, rebuilt[0])
    assert same(first, rebuilt[0])
    assert not same(mixed, first)
    assert same(second, draw(studio, "tree", 8, 1.0, 48))


def test_the_same_image_has_the_same_code(studio, photo, rebuilt):
    assert studio.rebuild(str(photo), 30, 64)[1] == rebuilt[1]


def test_an_unknown_code_is_refused(studio):
    with pytest.raises(ValueError, match="rebuild it once more"):
        studio.photo("nothing", 64)


def test_too_many_pixels_are_refused_and_the_hint_holds(studio):
    with pytest.raises(ValueError, match=f"choose {SIZES[-2]} pixels"):
        studio.generate(**ONE, count=MAX_COUNT, size=SIZES[-1])
    check_pixels(MAX_COUNT, SIZES[-2])
    with pytest.raises(ValueError, match="too many at once"):
        studio.film(**CAT_TO_TREE, num_frames=MAX_FRAMES, size=512)
    check_pixels(MAX_FRAMES, 256)
    check_pixels(3, SIZES[-1])  # what mix draws


def test_time_runs_out_for_everything_the_model_does(studio, photo):
    for action, settings in (
        (studio.generate, {**ONE, "seed": 777, "count": 1, "size": 64}),
        (studio.film, {**CAT_TO_TREE, "num_frames": 2, "size": 64}),
        (studio.rebuild, {"path": str(photo), "num_steps": 20, "size": 64}),
    ):
        with pytest.raises(TimeoutError, match="more than 0 seconds"), time_limit(0):
            action(**settings)
    studio.generate(**{**ONE, "seed": 777}, count=1, size=64)  # and not afterwards


def test_what_is_kept_is_bounded(studio):
    for seed in range(300):
        studio.generate("cat", seed, 1.0, 1, 8)
    assert studio._encode.cache_info().currsize == MAX_ENCODED
    assert studio._draw_sample.cache_info().currsize == MAX_DRAWN


def test_moves_undo_each_other_and_stay_inside(studio):
    place = (0.5, 0.5, 2.0)
    assert move("right", *place, studio.settings) == (0.5, 0.5625, 2.0)
    assert move("up", *place, studio.settings) == (0.4375, 0.5, 2.0)
    for way, back in (("left", "right"), ("down", "up"), ("in", "out")):
        assert move(back, *move(way, *place, studio.settings), studio.settings) == place
    for way in ("left", "up", "out"):
        for _ in range(50):
            place = move(way, *place, studio.settings)
    assert place == (-1, -1, -2)


def test_an_unconditional_model_does_it_all(photo):
    torch.manual_seed(0)
    studio = Studio(PolyINRPipeline(PolyINRGenerator(8, 16, 16, 4, num_classes=None, sample_size=16).eval()))
    sample = {"class_label": None, "seed": 1, "truncation_psi": 0.7}
    two = {**sample, "second_class_label": None, "second_seed": 2}
    assert studio.check({**two}) == two
    assert len(studio.generate(**sample, count=2, size=64)) == 2
    first, second, _ = studio.mix(**two, photo="", levels=[3], size=64)
    assert not same(first, second)
    assert same(studio.morph(**two, position=1.0, size=64), second)
    assert studio.rebuild(str(photo), 10, 64)[0].size == (64, 64)
