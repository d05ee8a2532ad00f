import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import cdist, pdist

from polyinr_hf import evaluation
from polyinr_hf.evaluation import (
    TensorSource,
    class_diversity,
    nearest_neighbors,
    nearest_pictures,
    neighbors_figure,
)


def test_nearest_neighbors():
    generator = torch.Generator().manual_seed(0)
    train = torch.randn(40, 6, generator=generator)
    samples = torch.cat([train[[7, 3]], torch.randn(5, 6, generator=generator)])
    distances, indices = nearest_neighbors(samples, train, k=3)
    expected = cdist(samples, train)
    np.testing.assert_array_equal(indices, np.argsort(expected, axis=1)[:, :3])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :3], rtol=1e-5)
    assert indices[:2, 0].tolist() == [7, 3]  # copies are found
    for k in (0, 41):
        with pytest.raises(ValueError, match=r"`k` must be in 1\.\.40"):
            nearest_neighbors(samples, train, k)
    with pytest.raises(ValueError, match=r"got \(7, 6\) and \(40, 5\)"):
        nearest_neighbors(samples, train[:, :5])


def test_nearest_pictures():
    train = torch.eye(8)
    samples = torch.cat([train[[1, 1, 6]], 3 * train[[1]]])
    distances, indices, reached = nearest_pictures(samples, train)
    assert indices.tolist() == [1, 1, 6, 1] and distances.tolist() == [0, 0, 0, 2]
    assert reached == 2 / 8


def test_the_names_of_version_0_1_are_still_there():
    assert evaluation.nearest_neighbours is nearest_neighbors and evaluation.neighbours_figure is neighbors_figure


def test_figure(tmp_path):
    train = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 16, 16) * 50
    images = torch.full((2, 3, 16, 16), 7, dtype=torch.uint8)
    neighbors_figure(images, TensorSource(train), torch.tensor([[4, 1], [0, 2]]), tmp_path / "new" / "figure.png")
    picture = np.asarray(Image.open(tmp_path / "new" / "figure.png"))
    assert picture.shape == (32, 16 + 2 + 32, 3)
    assert picture[::16, [0, 17, 18, 34], 0].tolist() == [[7, 255, 200, 50], [7, 255, 0, 100]]
    with pytest.raises(ValueError, match="each of 2 images, got 1"):
        neighbors_figure(images, TensorSource(train), torch.tensor([[4, 1]]), tmp_path / "figure.png")


def test_class_diversity():
    generator = torch.Generator().manual_seed(0)
    real, generated = torch.randn(30, 4, generator=generator), torch.randn(21, 4, generator=generator)
    real_labels, labels = torch.arange(30) % 3, torch.arange(21) % 2
    generated[labels == 1] = generated[1].clone()  # collapsed
    rows = class_diversity(generated, labels, real, real_labels, {0: "cat", 1: "dog", 2: "cow"})
    assert [(row["class"], row["generated"], row["real"]) for row in rows] == [
        ("cat", 11, 10),
        ("dog", 10, 10),
        ("cow", 0, 10),
    ]
    assert rows[0]["real_diversity"] == pytest.approx(np.sqrt(np.mean(pdist(real[real_labels == 0]) ** 2)))
    assert rows[0]["ratio"] == pytest.approx(rows[0]["diversity"] / rows[0]["real_diversity"])
    assert rows[1]["diversity"] == pytest.approx(0, abs=1e-6)
    assert rows[2]["diversity"] is None and rows[2]["ratio"] is None
    with pytest.raises(ValueError, match="one for each image"):
        class_diversity(generated, labels[:3], real, real_labels, {0: "cat"})
