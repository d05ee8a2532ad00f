import math
import re
from importlib.metadata import requires
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from huggingface_hub import RepoCard
from settings import MAX_COUNT, MAX_FRAMES, MAX_STEPS, SIZES, TABS, class_ids, link, restore, settings_of

from polyinr_hf import PolyINRGenerator, PolyINRPipeline

ROOT = Path(__file__).resolve().parents[2]
CHOSEN = {  # all away from their defaults
    "class_label": "dog",
    "seed": 4_000_000_000,
    "truncation_psi": 0.35,
    "count": 3,
    "size": 256,
    "photo": "0123456789abcdef0123",
    "row": 0.1234,
    "column": -0.75,
    "zoom": 7.25,
    "border": False,
    "second_class_label": "cat",
    "second_seed": 99,
    "levels": [0, 5],
    "position": 0.07,
    "num_frames": 11,
    "num_steps": 37,
}
NUMBERS = ("seed", "count", "zoom", "num_frames")


def tiny_pipeline(num_classes: int | None, id2label: dict | None = None) -> PolyINRPipeline:
    return PolyINRPipeline(
        PolyINRGenerator(z_dim=8, w_dim=8, channels=8, num_levels=2, num_classes=num_classes), id2label
    )


@pytest.mark.parametrize("tab", TABS)
def test_a_link_restores_its_tab_and_settings(tab, studio):
    assert not [name for name in TABS[tab] if CHOSEN[name] == studio.settings[name].default]
    restored, values, complaints = restore(dict(parse_qsl(link(tab, CHOSEN)[1:])), studio.settings)
    assert (restored, complaints) == (tab, [])
    assert values == {name: CHOSEN[name] for name in TABS[tab]}


@pytest.mark.parametrize("tab", TABS)
def test_a_link_of_defaults_restores_them(tab, studio):
    defaults = {name: setting.default for name, setting in studio.settings.items()}
    _, values, _ = restore(dict(parse_qsl(link(tab, defaults)[1:])), studio.settings)
    assert values == {name: defaults[name] for name in TABS[tab]}


def test_a_link_gives_the_other_settings_their_defaults_if_asked(studio):
    _, values, _ = restore({"tab": "generate", "seed": "3", "zoom": "5"}, studio.settings, ["seed", "zoom"])
    assert values == {"seed": 3, "zoom": 0.0}


def test_no_level_is_a_choice_that_a_link_holds(studio):
    _, values, _ = restore({"tab": "mix", "levels": ""}, studio.settings)
    assert values["levels"] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seed", "-1"),
        ("seed", "1.5"),
        ("seed", "1e400"),
        ("seed", "ten"),
        ("truncation_psi", "nan"),
        ("truncation_psi", "inf"),
        ("zoom", "99"),
        ("size", "257"),
        ("size", "100000"),
        ("class_label", "<script>"),
        ("levels", "0,77"),
        ("border", "maybe"),
    ],
)
def test_a_link_with_a_bad_value_says_so_and_keeps_the_default_and_the_rest(name, text, studio):
    tab = next(tab for tab in TABS if name in TABS[tab])
    other = next(n for n in TABS[tab] if n not in (name, "class_label"))
    query = dict(parse_qsl(link(tab, CHOSEN)[1:])) | {name: text}
    _, values, complaints = restore(query, studio.settings)
    assert values[name] == studio.settings[name].default
    assert values[other] == CHOSEN[other]
    assert len(complaints) == 1
    assert complaints[0].startswith(f"{studio.settings[name].label} must be")


def test_an_unknown_tab_is_said(studio):
    tab, values, complaints = restore({"tab": "../../etc", "seed": "5"}, studio.settings)
    assert (tab, values["seed"]) == ("zoom", 5)
    assert "../../etc" in complaints[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 0),
        ("count", MAX_COUNT + 1),
        ("count", 1.5),
        ("count", True),
        ("num_frames", MAX_FRAMES + 1),
        ("num_steps", MAX_STEPS + 1),
        ("size", max(SIZES) + 1),
        ("size", [64]),
        ("seed", None),
        ("zoom", math.nan),
        ("zoom", "1"),
        ("class_label", "wolf"),
        ("class_label", {}),
        ("levels", 1),
        ("levels", [6]),
        ("photo", 5),
        ("border", "yes"),
    ],
)
def test_check_refuses_with_the_label(name, value, studio):
    with pytest.raises(ValueError, match=studio.settings[name].label):
        studio.check({name: value})


def test_choices_are_legal_as_texts(studio):
    assert studio.check({"size": "256", "levels": ["0", 5]}) == {"size": 256, "levels": [0, 5]}


@pytest.mark.parametrize("name", NUMBERS)
def test_an_empty_number_gets_a_sentence_with_the_limits_in_full(name, studio):
    setting = studio.settings[name]
    with pytest.raises(ValueError, match=f"{setting.label} must be .*between .* and .*, it is empty") as error:
        setting.check(None)
    assert "e+" not in str(error.value)


@pytest.mark.parametrize("name", ["dog", "Dog", "TABBY"])
def test_a_class_is_found_by_any_of_its_names(name, studio):
    assert studio.check({"class_label": name})["class_label"] == {"dog": "dog", "tabby": "cat"}[name.lower()]


def test_whole_numbers_come_back_as_such(studio):
    checked = studio.check({"count": 3.0, "seed": 7.0, "zoom": 2})
    assert [(type(v), v) for v in checked.values()] == [(int, 3), (int, 7), (float, 2.0)]


def test_class_names_are_first_synonyms_and_told_apart():
    pipe = tiny_pipeline(4, {0: "crane, bird", 1: "crane", 2: "tench, Tinca tinca"})
    assert class_ids(pipe) == {"crane (0)": 0, "crane (1)": 1, "tench": 2, "class 3": 3}


def test_an_unconditional_model_has_no_class_to_choose():
    settings = settings_of(tiny_pipeline(None))
    assert class_ids(tiny_pipeline(None)) == {}
    assert settings["class_label"].check(None) is None
    assert restore({"tab": "generate", "class_label": "dog"}, settings)[1]["class_label"] is None


def test_psi_is_what_the_pipeline_recommends():
    pipe = tiny_pipeline(3)
    assert settings_of(pipe)["truncation_psi"].default == 1.0
    pipe.register_to_config(default_truncation_psi=0.6)
    assert settings_of(pipe)["truncation_psi"].default == 0.6


def test_the_front_matter_is_a_space_of_the_version_tested_here():
    data = RepoCard.load(ROOT / "space" / "README.md", ignore_metadata_errors=False).data
    assert (data.sdk, data.license) == ("gradio", "apache-2.0")
    assert (ROOT / "space" / data.app_file).is_file()
    assert len(data.short_description) <= 60
    constraints = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    assert f"gradio=={data.sdk_version}" in constraints


def test_requirements_are_those_of_the_package_and_of_what_the_page_uses_of_it():
    def name(line: str) -> str:
        return re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")

    package = {name(line) for line in requires("polyinr-hf") if not re.search("extra == .(?!eval|space)", line)}
    listed = (ROOT / "space" / "requirements.txt").read_text().splitlines()
    assert {name(line) for line in listed} == package
