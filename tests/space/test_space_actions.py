from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from actions import STRIP_COUNT, Studio, check_pixels, contact_sheet, describe_others
from PIL import Image
from settings import MAX_COUNT, MAX_ENCODED, MAX_FRAMES, MAX_THUMBNAILS, PREVIEW_SIZE, SIZES, TOLERANCE, Scene
from turns import SupersededError, time_limit, wanted_while

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.editing import designs
from polyinr_hf.editing.levels import mix_levels
from polyinr_hf.editing.seeds import encode_seeds

CAT_TO_TREE = Scene("cat", 3, 1.0, second_class_label="tree", second_seed=8)
ONE = Scene("dog", 5, 0.8)


def draw(studio, class_label, seed, psi, size, **kwargs) -> Image.Image:
    """What the pipeline draws, asked without the page."""
    generator = torch.Generator().manual_seed(seed)
    kwargs |= {"truncation_psi": psi, "height": size, "width": size, "tolerance": TOLERANCE}
    images = studio.pipe(class_label, generator=generator, **kwargs).images
    return images[0]


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and np.array_equal(a, b)


@pytest.fixture(scope="module")
def rebuilt(studio, photo):
    steps = []
    image, code, report = studio.rebuild(
        str(photo), 30, 48, lambda step, total, draw: steps.append((step, total, draw()))
    )
    return image, code, report, steps


def test_generate_draws_consecutive_seeds(studio):
    images = studio.generate(ONE, 3, 64)
    assert [caption for _, caption in images] == ["seed 5", "seed 6", "seed 7"]
    for seed, (image, _) in enumerate(images, start=5):
        assert same(image, draw(studio, "dog", seed, 0.8, 64))


def test_generate_goes_on_after_the_last_seed(studio):
    images = studio.generate(Scene("cat", 2**32 - 1, 1.0), 2, 64)
    assert same(images[1][0], draw(studio, "cat", 0, 1.0, 64))


def test_zoom_draws_the_part_around_the_center(studio):
    image = studio.zoom(replace(ONE, row=0.25, column=0.75, zoom=1.0), False, 64)
    assert same(image, draw(studio, "dog", 5, 0.8, 64, extent=(0.0, 0.5, 0.5, 1.0)))


def test_zoom_marks_the_border_beyond_it_only_if_asked(studio):
    plain, marked = (np.asarray(studio.zoom(replace(ONE, zoom=-1.0), border, 128)) for border in (False, True))
    differs = (plain != marked).any(axis=2)
    assert (marked[differs] == (255, 255, 0)).all()
    assert 4 * 55 < differs.sum() < 4 * 70  # a square of half the side, one pixel wide


@pytest.mark.parametrize("zoom", [-2.0, 8.0])
def test_zoom_draws_at_its_limits(studio, zoom):
    assert studio.zoom(replace(ONE, row=-1.0, column=2.0, zoom=zoom), True, 64).size == (64, 64)


def test_mix_takes_levels_of_the_second(studio):
    first, second, mixed = studio.mix(replace(CAT_TO_TREE, levels=(4, 1)), 64)
    assert same(first, draw(studio, "cat", 3, 1.0, 64))
    assert same(second, draw(studio, "tree", 8, 1.0, 64))
    w, other = (encode_seeds(studio.pipe, label, seed, space="w") for label, seed in (("cat", 3), ("tree", 8)))
    size = {"height": 64, "width": 64, "tolerance": TOLERANCE}
    assert same(mixed, studio.pipe(w=mix_levels(w, other, [1, 4]), **size).images[0])
    assert not same(mixed, first)
    assert not same(mixed, second)


def test_mix_of_no_level_is_the_first_and_of_all_the_second(studio):
    first, second, mixed = studio.mix(CAT_TO_TREE, 64)
    assert same(mixed, first)
    assert same(studio.mix(replace(CAT_TO_TREE, levels=tuple(range(6))), 64)[2], second)


def test_morph_from_a_rebuilt_image_moves_its_affine_parameters_and_weights(studio, rebuilt):
    image, code, _, _ = rebuilt
    two = replace(CAT_TO_TREE, photo=code)
    assert same(studio.morph(two, 48), image)
    assert same(studio.morph(replace(two, position=1.0), 48), draw(studio, "tree", 8, 1.0, 48))
    frames = studio.film(two, 3, 48)
    assert same(frames[0], image)
    assert same(frames[1], studio.morph(replace(two, position=0.5), 48))
    assert not same(frames[1], image)


def test_morph_goes_from_the_first_to_the_second(studio):
    images = [studio.morph(replace(CAT_TO_TREE, position=position), 64) for position in (0.0, 0.5, 1.0)]
    assert same(images[0], draw(studio, "cat", 3, 1.0, 64))
    assert same(images[2], draw(studio, "tree", 8, 1.0, 64))
    assert not same(images[1], images[0])
    assert not same(images[1], images[2])


def test_the_film_goes_there_and_back(studio):
    frames = studio.film(CAT_TO_TREE, 5, 64)
    assert len(frames) == 8
    for index, position in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        expected = np.asarray(studio.morph(replace(CAT_TO_TREE, position=position), 64)).astype(int)
        assert abs(np.asarray(frames[index]) - expected).max() <= 1
    assert all(same(frames[i], frames[-i]) for i in (1, 2, 3))


def test_rebuild_comes_closer_and_closer(photo, rebuilt):
    image, _, report, steps = rebuilt

    def error(image: Image.Image) -> float:
        original = Image.open(photo).crop((16, 0, 80, 64)).resize(image.size)
        return np.square(np.asarray(image) - np.asarray(original).astype(float)).mean()

    original = np.asarray(Image.open(photo).crop((16, 0, 80, 64))).astype(float)
    assert error(image) < 0.1 * original.var()
    assert error(image) < 0.5 * error(steps[0][2])
    assert all(total == 30 and 0 < step <= 30 for step, total, _ in steps)
    assert [step for step, *_ in steps] == sorted({step for step, *_ in steps})
    assert "dB PSNR after 30 steps" in report


def test_a_rebuilt_image_shares_all_but_its_synthesis_network(studio, rebuilt):
    pipe, _ = studio.photos.find(rebuilt[1])
    assert pipe.generator.mapping is studio.pipe.generator.mapping
    ours, theirs = (p.generator.synthesis_levels[1].weight for p in (studio.pipe, pipe))
    assert not torch.equal(ours, theirs)


def test_a_rebuilt_image_can_be_zoomed_and_mixed(studio, rebuilt):
    _, code, _, _ = rebuilt
    whole = studio.zoom(replace(ONE, photo=f" {code} "), False, 48)
    first, second, mixed = studio.mix(replace(CAT_TO_TREE, photo=code, levels=(5,)), 48)
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
        studio.generate(ONE, MAX_COUNT, SIZES[-1])
    check_pixels(MAX_COUNT, SIZES[-2])
    with pytest.raises(ValueError, match="too many at once"):
        studio.film(CAT_TO_TREE, MAX_FRAMES, 512)
    check_pixels(MAX_FRAMES, 256)
    check_pixels(3, SIZES[-1])  # what mix draws


def test_time_runs_out_for_everything_the_model_does(studio, photo):
    for action, settings in (
        (studio.generate, {"scene": replace(ONE, seed=777), "count": 1, "size": 64}),
        (studio.film, {"scene": CAT_TO_TREE, "num_frames": 2, "size": 64}),
        (studio.rebuild, {"path": str(photo), "num_steps": 20, "size": 64}),
    ):
        with pytest.raises(TimeoutError, match="more than 0 seconds"), time_limit(0):
            action(**settings)
    studio.generate(replace(ONE, seed=777), 1, 64)  # and not afterwards


def test_what_nobody_wants_any_more_ends(studio):
    wanted = iter([True, True, False])
    with pytest.raises(SupersededError), wanted_while(lambda: next(wanted)):
        studio.generate(replace(ONE, seed=778), 5, 64)


def test_what_is_kept_is_bounded(studio):
    for seed in range(300):
        studio.generate(Scene("cat", seed, 1.0), 1, 8)
    assert studio._encode.cache_info().currsize == MAX_ENCODED
    assert studio._thumbnail.cache_info().maxsize == MAX_THUMBNAILS


def test_preview_is_a_small_zoom(studio):
    place = replace(ONE, row=0.3, column=0.6, zoom=2.0)
    assert same(studio.preview(place), studio.zoom(place, False, PREVIEW_SIZE))


@pytest.mark.parametrize("tab", ["zoom", "mix", "morph"])
def test_the_page_shows_what_the_endpoints_draw(tab, studio):
    scene = replace(CAT_TO_TREE, levels=(1, 4), position=0.3)
    expected = {
        "zoom": lambda: studio.zoom(scene, False, 64),
        "mix": lambda: studio.mix(scene, 64)[2],
        "morph": lambda: studio.morph(scene, 64),
    }[tab]()
    assert same(studio.draw(tab, scene, 64), expected)
    place = replace(scene, row=0.25, column=0.75, zoom=1.0)
    part = studio.draw(tab, place, 128)
    assert not same(part, studio.draw(tab, scene, 128))
    *coarse, sharp = studio.sharper(tab, place, 128)
    assert len(coarse) >= 1
    assert same(sharp, part)


def settings_of_cat_to_tree(studio, **changes) -> dict:
    return {name: setting.default for name, setting in studio.settings.items()} | asdict(CAT_TO_TREE) | changes


def test_picks_are_what_their_thumbnails_show(studio):
    settings = settings_of_cat_to_tree(studio, row=0.2, zoom=3.0)
    for picks in studio.picks(settings):
        sheet = studio.strip(settings, picks)
        assert sheet.size == (len(picks) * PREVIEW_SIZE, PREVIEW_SIZE)
        whole = settings | {"row": 0.5, "column": 0.5, "zoom": 0.0}
        for i, pick in enumerate(picks):
            tile = sheet.crop((i * PREVIEW_SIZE, 0, (i + 1) * PREVIEW_SIZE, PREVIEW_SIZE)).convert("RGB")
            assert same(tile, studio.draw(pick["tab"], Scene.of(whole | pick), PREVIEW_SIZE))


def test_titles_and_file_names_say_what_is_seen(studio):
    scene = replace(CAT_TO_TREE, levels=(4, 5), position=0.25)
    assert studio.title("zoom", scene) == "cat 3"
    assert studio.title("mix", scene) == "cat 3 with levels 4, 5 of tree 8"
    assert studio.title("morph", scene) == "cat 3 → tree 8, 25%"
    assert studio.file_name("morph", scene) == "cat-3-morph-tree-8"
    assert studio.file_name("zoom", replace(scene, photo="abc")) == "your-picture"


@pytest.mark.parametrize(
    "given, expected",
    [(1, "dog"), ("1", "dog"), ("DOG", "dog"), ("tabby", "cat"), ("tree", "tree")],
)
def test_a_class_by_name_or_number(studio, given, expected):
    assert studio.check({"class_label": given}) == {"class_label": expected}


@pytest.mark.parametrize("given", [3, -1, 0.5, True, None, [1], "wolf"])
def test_a_class_that_there_is_not(studio, given):
    with pytest.raises(ValueError, match="^Class") as error:
        studio.check({"class_label": given})
    assert "class_labels" not in str(error.value)


def test_what_was_typed_is_shortened(studio):
    for name, value in (("class_label", "wolf" * 5000), ("levels", "fine" * 5000), ("seed", "9" * 5000)):
        with pytest.raises(ValueError) as error:
            studio.check({name: value})
        assert len(str(error.value)) < 250


def test_the_wall_has_a_picture_of_each_class_once(studio):
    picks, sheet = studio.wall()
    assert [pick["class_label"] for pick in picks] == ["cat", "dog", "tree"]
    for i, pick in enumerate(picks):
        tile = sheet.crop((i * PREVIEW_SIZE, 0, (i + 1) * PREVIEW_SIZE, PREVIEW_SIZE)).convert("RGB")
        assert same(tile, draw(studio, **pick, psi=1.0, size=PREVIEW_SIZE))


def test_a_showcase_says_what_the_page_opens_with(tiny_model):
    """Its pictures come first; then classes that can be recognized, with their first designs."""
    showcase = {
        "opening": [["tree", 5], ["wolf", 1]],
        "designs": {"cat": [7, 2], "dog": [4], "tree": [9]},
        "recognized": ["cat", "tree"],
    }
    studio = Studio(PolyINRPipeline.from_pretrained(tiny_model), "", showcase)
    picks, _ = studio.wall()
    assert picks == [{"class_label": "tree", "seed": 5}, {"class_label": "cat", "seed": 7}]
    names = ("class_label", "seed", "second_class_label", "second_seed")
    assert [studio.settings[name].default for name in names] == ["tree", 5, "cat", 0]


def test_other_designs_are_none_of_this_one(studio):
    settings = settings_of_cat_to_tree(studio)
    others = studio.others(settings)
    seeds = [settings["seed"], *others]
    found = designs(studio.pipe, "cat", seeds)
    assert others and {settings["seed"]} in [{*group} for group in found]
    assert studio.others(settings | {"truncation_psi": 0.0}) == []


@pytest.mark.parametrize(
    "count, words", [(0, "All its seeds"), (1, "one other design"), (3, "3 other designs"), (STRIP_COUNT, "Each seed")]
)
def test_how_many_other_designs_there_are_is_said(count, words):
    assert words in describe_others(count)


def test_a_slow_model_gets_a_smaller_wall(monkeypatch):
    studio = unconditional()
    monkeypatch.setattr("actions.WALL_SECONDS", 0.0)
    picks, sheet = studio.wall()
    assert len(picks) == STRIP_COUNT
    assert sheet.size == (10 * PREVIEW_SIZE, PREVIEW_SIZE)


def test_a_contact_sheet_goes_on_in_the_next_row():
    images = [Image.new("RGB", (2, 2), (i, 0, 0)) for i in range(5)]
    sheet = contact_sheet(images, columns=3)
    assert sheet.size == (6, 4)
    assert [sheet.getpixel((2 * (i % 3), 2 * (i // 3)))[0] for i in range(5)] == [0, 1, 2, 3, 4]
    assert sheet.getpixel((5, 3))[3] == 0


def unconditional() -> Studio:
    torch.manual_seed(0)
    return Studio(PolyINRPipeline(PolyINRGenerator(8, 16, 16, 4, num_classes=None, sample_size=16).eval()))


def test_an_unconditional_model_does_it_all(photo):
    studio = unconditional()
    two = Scene(None, 1, 0.7, second_class_label=None, second_seed=2, levels=(3,), position=1.0)
    checked = {"class_label": None, "second_class_label": None, "seed": 1}
    assert studio.check(checked) == checked
    assert len(studio.generate(two, 2, 64)) == 2
    first, second, _ = studio.mix(two, 64)
    assert not same(first, second)
    assert same(studio.morph(two, 64), second)
    assert studio.rebuild(str(photo), 20, 64)[0].size == (64, 64)
