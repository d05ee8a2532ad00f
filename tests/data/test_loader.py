"""Training batches: order, flips, shards, resuming, caching, streaming."""

import io
import json
from itertools import islice

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from polyinr_hf.data import loader as loader_module
from polyinr_hf.data.dataset import CorruptImageError, ImageDataset
from polyinr_hf.data.loader import TrainingOrder, make_loader

NUM_IMAGES = 24


def encode(i):
    """Image i: brightness i throughout, except 255 in the left column, so that flips show."""
    pixels = np.full((8, 8, 3), i, np.uint8)
    pixels[:, 0] = 255
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{i}.png"}


def make_dataset(broken=()):
    images = [{"bytes": b"no image", "path": f"{i}.png"} if i in broken else encode(i) for i in range(NUM_IMAGES)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b", "c"]))
    return datasets.Dataset.from_dict({"image": images, "label": [i % 3 for i in range(NUM_IMAGES)]}, features=features)


@pytest.fixture(scope="module")
def dataset():
    return ImageDataset(make_dataset())


@pytest.fixture(scope="module")
def stream():
    return ImageDataset(make_dataset().to_iterable_dataset(num_shards=4))


def draw(loader, num_batches):
    """(image number, mirrored, label) of every image drawn."""
    drawn = []
    for batch in islice(loader, num_batches):
        pixels = ((batch["images"] + 1) * 127.5).round().int()
        numbers, mirrored = pixels[:, 0, 0, 4].tolist(), (pixels[:, 0, 0, -1] == 255).tolist()
        drawn += zip(numbers, mirrored, batch["class_labels"].tolist(), strict=True)
    return drawn


def numbers(drawn):
    return [number for number, _, _ in drawn]


# --- order ------------------------------------------------------------------------------------------------------------


def test_each_epoch_draws_each_image_once_in_a_new_order():
    order = TrainingOrder(NUM_IMAGES, seed=1)
    epochs = [[order[epoch * NUM_IMAGES + i][0] for i in range(NUM_IMAGES)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(NUM_IMAGES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [TrainingOrder(NUM_IMAGES, seed=2)[i][0] for i in range(NUM_IMAGES)] != epochs[0]


def test_half_of_the_images_are_mirrored_and_not_the_same_half_each_epoch():
    order = TrainingOrder(1000, seed=1)
    flips = [dict(order[epoch * 1000 + i] for i in range(1000)) for epoch in range(2)]
    assert 0.45 < np.mean(list(flips[0].values())) < 0.55
    assert 0.4 < np.mean([flips[0][i] != flips[1][i] for i in range(1000)]) < 0.6
    assert not any(TrainingOrder(1000, seed=1, mirror=False)[i][1] for i in range(1000))


# --- batches ----------------------------------------------------------------------------------------------------------


def test_batches_have_the_documented_form(dataset):
    loader = make_loader(dataset, 4, 6)
    batch = next(loader)
    assert batch["images"].shape == (6, 3, 4, 4)
    assert batch["images"].dtype == torch.float32
    assert batch["images"].min() >= -1
    assert batch["class_labels"].dtype == torch.int64
    assert loader.images_seen == 6
    unlabelled = ImageDataset(make_dataset().remove_columns("label"))
    assert next(make_loader(unlabelled, 4, 6))["class_labels"] is None


def test_labels_and_flips_belong_to_their_images(dataset):
    drawn = draw(make_loader(dataset, 8, 8, seed=3), 6)
    order = TrainingOrder(NUM_IMAGES, seed=3)
    assert drawn == [(*order[i], order[i][0] % 3) for i in range(48)]


@pytest.mark.parametrize("arguments", [{"cache_in_memory": False}, {"cache_in_memory": False, "num_workers": 2}])
def test_cache_and_workers_change_nothing(dataset, arguments):
    cached, other = (make_loader(dataset, 4, 10, seed=3, **a) for a in ({"cache_in_memory": True}, arguments))
    for a, b in islice(zip(cached, other, strict=True), 6):
        assert torch.equal(a["images"], b["images"])
        assert torch.equal(a["class_labels"], b["class_labels"])


@pytest.mark.parametrize("arguments", [{"cache_in_memory": True}, {"cache_in_memory": False, "num_workers": 2}])
def test_resuming_goes_on_bit_for_bit(dataset, arguments):
    """From the middle of an epoch, over its end, and at another resolution than before."""
    whole = draw(make_loader(dataset, 8, 10, seed=3, **arguments), 7)
    first = make_loader(dataset, 4, 10, seed=3, **arguments)
    list(islice(first, 3))
    resumed = make_loader(dataset, 8, 10, seed=3, **arguments, **first.state_dict())
    assert draw(resumed, 4) == whole[30:]
    assert resumed.images_seen == 70


@pytest.mark.parametrize("num_processes", [2, 5])
def test_processes_share_the_same_global_batches(dataset, num_processes):
    whole = make_loader(dataset, 8, 10, seed=3)
    parts = [
        make_loader(dataset, 8, 10, seed=3, process_index=r, num_processes=num_processes) for r in range(num_processes)
    ]
    for batch in islice(whole, 6):
        shares = [next(part) for part in parts]
        assert torch.equal(torch.cat([share["images"] for share in shares]), batch["images"])
    assert {part.images_seen for part in parts} == {60}


@pytest.mark.parametrize("cache_in_memory", [True, False])
def test_the_global_random_state_is_left_alone(dataset, cache_in_memory):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    next(make_loader(dataset, 4, 10, cache_in_memory=cache_in_memory))
    assert torch.equal(torch.get_rng_state(), state)


def test_sets_that_fit_are_cached(dataset, monkeypatch):
    def decodes(resolution):
        loader = make_loader(dataset, resolution, NUM_IMAGES)
        next(loader)
        monkeypatch.setattr(ImageDataset, "decode", None)  # anything decoded from here on fails
        try:
            next(loader)
        except TypeError:
            return True
        finally:
            monkeypatch.undo()
        return False

    assert not decodes(4)
    monkeypatch.setattr(loader_module, "CACHE_BYTES", NUM_IMAGES * 3 * 4 * 4 - 1)
    assert decodes(4)


# --- broken images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_in_memory", [True, False])
def test_broken_images_are_named_or_skipped_and_counted(cache_in_memory, caplog):
    rows = make_dataset(broken=(5, 6))
    loader = make_loader(ImageDataset(rows), 8, NUM_IMAGES, cache_in_memory=cache_in_memory)
    with pytest.raises(CorruptImageError, match=r"image [56] \([56]\.png\)"):
        next(loader)
    broken = ImageDataset(rows, skip_corrupt=True)
    loader = make_loader(broken, 8, NUM_IMAGES, cache_in_memory=cache_in_memory)
    drawn = draw(loader, 1)
    assert sorted(numbers(drawn)) == sorted([i for i in range(NUM_IMAGES) if i not in (5, 6)] + [7, 7])
    assert all(number % 3 == label for number, _, label in drawn)
    assert loader.num_skipped == len(caplog.records) == 3  # 5, then 6 in its place, and 6


# --- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stream_draws_each_image_once_an_epoch(stream, num_workers):
    drawn = draw(make_loader(stream, 8, 8, seed=1, shuffle_buffer=6, num_workers=num_workers), 6)
    first, second = numbers(drawn[:NUM_IMAGES]), numbers(drawn[NUM_IMAGES:])
    assert sorted(first) == sorted(second) == list(range(NUM_IMAGES))
    assert first != second
    assert {mirrored for _, mirrored, _ in drawn} == {True, False}
    assert all(number % 3 == label for number, _, label in drawn)
    assert drawn == draw(make_loader(stream, 8, 8, seed=1, shuffle_buffer=6), 6)


def test_stream_processes_share_without_repeats(stream):
    parts = [make_loader(stream, 8, 8, shuffle_buffer=6, process_index=r, num_processes=2) for r in range(2)]
    assert sorted(numbers(draw(parts[0], 3) + draw(parts[1], 3))) == list(range(NUM_IMAGES))


def test_stream_resumes_where_it_stopped(stream):
    """Without a shuffle buffer exactly; with one, no image comes twice."""
    for buffer in (1, 4):
        whole = make_loader(stream, 8, 4, seed=1, shuffle_buffer=buffer)
        before = draw(whole, 3)
        state = json.loads(json.dumps(whole.state_dict()))
        loader = make_loader(stream, 8, 4, seed=1, shuffle_buffer=buffer, **state)
        assert loader.state_dict() == state
        resumed = draw(loader, 1)
        assert not set(numbers(before)) & set(numbers(resumed))
        if buffer == 1:
            assert resumed == draw(whole, 1)


def test_stream_skips_broken_images_if_asked():
    rows = make_dataset(broken=(5, 6)).to_iterable_dataset()
    with pytest.raises(CorruptImageError, match=r"5\.png"):
        draw(make_loader(ImageDataset(rows), 8, 11, shuffle_buffer=1), 2)
    broken = ImageDataset(rows, skip_corrupt=True)
    loader = make_loader(broken, 8, 11, shuffle_buffer=1)
    assert sorted(numbers(draw(loader, 2))) == [i for i in range(NUM_IMAGES) if i not in (5, 6)]
    assert loader.num_skipped == 2


def test_a_batch_may_be_larger_than_the_dataset(dataset):
    """It then repeats images: each of two epochs is whole."""
    drawn = numbers(draw(make_loader(dataset, 8, 2 * NUM_IMAGES, seed=3), 1))
    assert sorted(drawn) == sorted([*range(NUM_IMAGES)] * 2)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 9, "num_processes": 2}, "`batch_size` must be a multiple of `num_processes`, 2, got 9"),
        ({"process_index": 2, "num_processes": 2}, "`process_index` must be in 0..1, got 2"),
        ({"batch_size": 0}, "`batch_size` must be a whole number from 1, got 0"),
        ({"images_seen": -1}, "`images_seen` must be a whole number from 0, got -1"),
        ({"resolution": 0}, "`resolution` must be a whole number from 1, got 0"),
    ],
)
def test_bad_arguments_are_refused_at_once(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_loader(dataset, **{"resolution": 8, "batch_size": 4} | arguments)


def test_streams_cannot_be_cached(stream):
    with pytest.raises(ValueError, match="`cache_in_memory`"):
        make_loader(stream, 8, 4, cache_in_memory=True)
