"""Class embeddings from the training set: their definition, and that a stopped pass goes on."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from polyinr_hf.data.dataset import image_batches, load_image_dataset
from polyinr_hf.feature_networks import load_feature_network
from polyinr_hf.images import to_float
from polyinr_hf.training import models
from polyinr_hf.training.models import compute_class_embeddings


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def dataset(labelled_images):
    return load_image_dataset(labelled_images)


@pytest.fixture(scope="module")
def embeddings(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("embeddings") / "sums.safetensors"
    return compute_class_embeddings(dataset, path, batch_size=4), path


@pytest.fixture
def counted_images(monkeypatch):
    """Numbers of images that are looked at, batch by batch; stops after `counted_images.limit` batches."""

    class Counter(list):
        limit = None

    counter = Counter()

    def batches(*args, **kwargs):
        for images, labels in image_batches(*args, **kwargs):
            if len(counter) == counter.limit:
                raise Stopped
            counter.append(len(images))
            yield images, labels

    monkeypatch.setattr(models, "image_batches", batches)
    return counter


@torch.inference_mode()
def test_they_are_the_mean_features_of_each_class(dataset, embeddings):
    network = load_feature_network("tf_efficientnet_lite0")
    images, labels = next(iter(image_batches(dataset, 224, len(dataset))))
    features = network(to_float(images))[-1].mean(dim=(2, 3))  # (16, 320)
    assert embeddings[0].shape == (3, 320)
    for label in range(3):
        torch.testing.assert_close(embeddings[0][label], features[labels == label].mean(dim=0), rtol=1e-4, atol=1e-5)
    assert (embeddings[0][0] - embeddings[0][1]).abs().max() > 0.1  # classes can be told apart


def test_a_finished_pass_is_read_back(dataset, embeddings, counted_images):
    values, path = embeddings
    assert torch.equal(compute_class_embeddings(dataset, path), values)
    assert counted_images == []


def test_a_stopped_pass_goes_on(dataset, embeddings, tmp_path, counted_images, monkeypatch):
    monkeypatch.setattr(models, "SAVE_EVERY_BATCHES", 1)
    path, counted_images.limit = tmp_path / "sums.safetensors", 2
    with pytest.raises(Stopped):
        compute_class_embeddings(dataset, path, batch_size=4)
    counted_images.limit = None
    resumed = compute_class_embeddings(dataset, path, batch_size=4)
    assert counted_images == [4, 4, 4, 4]  # two batches before, two after
    assert torch.equal(resumed, embeddings[0])
    assert [file.name for file in tmp_path.iterdir()] == ["sums.safetensors"]


def test_a_class_without_images_gets_the_mean_of_the_others(labelled_images, tmp_path, caplog):
    dataset = load_image_dataset(labelled_images)
    rows = [i for i, label in enumerate(dataset.dataset["label"]) if label != 1][:4]
    dataset.dataset = dataset.dataset.select(rows)
    values = compute_class_embeddings(dataset, tmp_path / "sums.safetensors")
    torch.testing.assert_close(values[1], (values[0] + values[2]) / 2)
    assert "1 of 3 classes have no images" in caplog.text


def test_sums_of_another_dataset_are_refused(dataset, embeddings, labelled_images):
    other = load_image_dataset(labelled_images)
    other.id2label = dict(enumerate("abcd"))
    with pytest.raises(ValueError, match=r"sums\.safetensors is of 3 classes, the dataset has 4"):
        compute_class_embeddings(other, embeddings[1])
    other = load_image_dataset(labelled_images)
    other.dataset = other.dataset.select(range(8))
    with pytest.raises(ValueError, match=r"sums\.safetensors is of 16 images, the dataset has 8"):
        compute_class_embeddings(other, embeddings[1])


def test_as_many_other_classes_or_images_are_told_apart(embeddings, labelled_images):
    other = load_image_dataset(labelled_images)
    other.id2label = {0: "tench", 1: "goldfish", 2: "stork"}
    with pytest.raises(ValueError, match=r"sums\.safetensors is of classes of other names"):
        compute_class_embeddings(other, embeddings[1])
    other = load_image_dataset(labelled_images)
    other.dataset = other.dataset.select([0, *range(2, 16), 1])
    with pytest.raises(ValueError, match=r"sums\.safetensors is of other images"):
        compute_class_embeddings(other, embeddings[1])


def test_the_same_images_elsewhere_are_the_same(embeddings, labelled_images, tmp_path):
    shutil.copytree(labelled_images, tmp_path / "moved")
    assert torch.equal(compute_class_embeddings(load_image_dataset(tmp_path / "moved"), embeddings[1]), embeddings[0])


def test_sums_of_an_earlier_version_are_read(dataset, embeddings, tmp_path):
    """Which says less of what they are of."""
    sums = load_file(embeddings[1])
    save_file(sums, tmp_path / "sums.safetensors", {"images_done": "16", "num_images": "16"})
    assert torch.equal(compute_class_embeddings(dataset, tmp_path / "sums.safetensors"), embeddings[0])


def test_no_classes_nothing_to_embed(unlabelled_images, tmp_path):
    with pytest.raises(ValueError, match="must have classes to embed"):
        compute_class_embeddings(load_image_dataset(unlabelled_images), tmp_path / "sums.safetensors")
