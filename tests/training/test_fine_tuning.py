"""Starting from trained weights: of the same classes, of others, and what does not fit."""

import pytest
import torch

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.training.models import copy_weights, load_source, match_classes

NAMES = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 2: "stork"}
ROWS = ("mapping.embedding.weight", "w_mean")


def make_generator(seed=1, num_classes=3, sample_size=16, channels=8, **config) -> PolyINRGenerator:
    torch.manual_seed(seed)
    generator = PolyINRGenerator(
        w_dim=16, channels=channels, num_levels=2, num_classes=num_classes, sample_size=sample_size, **config
    )
    generator.w_mean.normal_()
    return generator


@pytest.fixture(scope="module")
def trained():
    return make_generator(seed=0)


@pytest.fixture(scope="module")
def source(trained, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("pipelines") / "trained"
    PolyINRPipeline(trained, NAMES).save_pretrained(folder)
    return str(folder)


def start(generator, source, id2label, new_classes=False):
    copy_weights(generator, load_source(generator, source, id2label, new_classes), id2label)
    return generator.state_dict()


def test_the_same_classes_take_all_weights(trained, source):
    """At another resolution, and whatever the new generator was initialised by."""
    state = start(make_generator(sample_size=64, initialization="released"), source, NAMES)
    for name, value in trained.state_dict().items():
        assert torch.equal(state[name], value), name


def test_new_classes_take_the_rows_of_their_names(trained, source):
    names = {0: "owl", 1: "stork", 2: "Carassius auratus", 3: "tench"}
    own = make_generator(num_classes=4).state_dict()
    state, theirs = start(make_generator(num_classes=4), source, names, new_classes=True), trained.state_dict()
    for name in ROWS:
        assert torch.equal(state[name], torch.stack([own[name][0], theirs[name][2], theirs[name][1], theirs[name][0]]))
    for name in state.keys() - set(ROWS):
        assert torch.equal(state[name], theirs[name]), name


APPLES = {0: "apple, red", 1: "apple, green", 2: "crane", 3: "lathe, crane", 4: "caf\u00e9"}


@pytest.mark.parametrize(
    ("ours", "matches"),
    [
        ({0: "apple, red", 1: "apple, green"}, {0: 0, 1: 1}),
        ({0: "apple, green", 1: "apple, red"}, {0: 1, 1: 0}),
        ({0: "apple", 1: "green"}, {1: 1}),  # apple: two of theirs
        ({0: "red, fire", 1: "red, wine", 2: "Green"}, {2: 1}),  # red: two of ours
        ({0: "crane"}, {0: 2}),  # a whole name before a synonym
        ({0: "crane", 1: "crane"}, {}),
        ({0: "crane, bird", 1: "lathe"}, {1: 3}),
        ({0: "cafe\u0301"}, {0: 4}),
        ({}, {}),
    ],
)
def test_classes_are_matched_by_whole_names_first_and_by_no_name_of_several(ours, matches):
    assert match_classes(ours, APPLES) == matches


def test_the_crane_of_imagenet_does_not_begin_as_the_machine(tmp_path):
    trained = make_generator(seed=0, num_classes=2)
    PolyINRPipeline(trained, {0: "crane", 1: "crane"}).save_pretrained(tmp_path)
    own = make_generator(num_classes=1).state_dict()
    state = start(make_generator(num_classes=1), str(tmp_path), {0: "crane"}, new_classes=True)
    for name in ROWS:
        assert torch.equal(state[name], own[name]), name


def test_classes_in_another_order_are_other_classes(trained, source):
    names = {0: NAMES[2], 1: NAMES[1], 2: NAMES[0]}
    with pytest.raises(ValueError, match="`run.init_from` .* names differ: set run.new_classes=true"):
        load_source(make_generator(), source, names, new_classes=False)
    state = start(make_generator(), source, names, new_classes=True)
    for name in ROWS:
        assert torch.equal(state[name], trained.state_dict()[name].flip(0))


def test_another_number_of_classes_is_refused(source):
    with pytest.raises(ValueError, match="`run.init_from` .* has 3 classes, the dataset 2"):
        load_source(make_generator(num_classes=2), source, {0: "tench", 1: "stork"}, new_classes=False)


def test_classes_and_none_do_not_mix(source, tmp_path):
    with pytest.raises(ValueError, match="`data.class_conditional` .* has 3 classes, the dataset none"):
        load_source(make_generator(num_classes=None), source, None, new_classes=True)
    PolyINRPipeline(make_generator(num_classes=None)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`data.class_conditional` .* has no classes, the dataset 3"):
        load_source(make_generator(), str(tmp_path), NAMES, new_classes=True)


def test_unconditional_weights_are_copied(tmp_path):
    trained = make_generator(seed=0, num_classes=None)
    PolyINRPipeline(trained).save_pretrained(tmp_path)
    state = start(make_generator(num_classes=None), str(tmp_path), None)
    for name, value in trained.state_dict().items():
        assert torch.equal(state[name], value), name


def test_other_sizes_are_refused_by_name(source):
    with pytest.raises(ValueError, match="`model.channels` must be 8, as in `run.init_from` .*, got 16"):
        load_source(make_generator(channels=16), source, NAMES, new_classes=True)


def test_no_pipeline_there(tmp_path):
    with pytest.raises(OSError, match=r"model_index\.json"):
        load_source(make_generator(), str(tmp_path), NAMES, new_classes=False)


def test_more_latent_numbers_leave_w(tmp_path):
    """The new ones count for nothing, and may learn."""
    trained = make_generator(seed=0, num_classes=None, z_dim=8)
    PolyINRPipeline(trained).save_pretrained(tmp_path)
    wider = make_generator(num_classes=None, z_dim=16)
    start(wider, str(tmp_path), None)
    z = torch.randn(5, 8)
    w = wider.mapping(torch.cat([z, z.flip(1)], dim=1))
    torch.testing.assert_close(w, trained.mapping(z))
    w.sum().backward()
    assert wider.mapping.layers[0].weight.grad[:, 8:].abs().min() > 0


def test_more_numbers_of_a_class_change_no_more_than_their_mean_square(tmp_path):
    trained = make_generator(seed=0, z_dim=64)
    PolyINRPipeline(trained, NAMES).save_pretrained(tmp_path)
    wider = make_generator(z_dim=128)
    start(wider, str(tmp_path), NAMES)
    z, labels = torch.randn(6, 64), torch.arange(6) % 3
    w, before = wider.mapping(torch.cat([z, z.flip(1)], dim=1), labels), trained.mapping(z, labels)
    assert (w - before).square().mean() < 0.05 * before.square().mean()


def test_fewer_latent_numbers_are_refused(source):
    with pytest.raises(ValueError, match="`model.z_dim` must be 64, as in `run.init_from` .*, got 32"):
        load_source(make_generator(z_dim=32), source, NAMES, new_classes=False)
