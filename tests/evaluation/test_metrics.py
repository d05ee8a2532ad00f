"""Each metric against its definition, written here with numpy and scipy, on the same features; known answers."""

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch
from scipy.spatial.distance import cdist

from polyinr_hf.evaluation import metrics
from polyinr_hf.evaluation.metrics import (
    METRICS,
    FeatureSet,
    check_image_counts,
    check_metric_names,
    compute_metrics,
    frechet_distance,
    inception_score,
    kernel_distance,
    layers_of,
    precision_recall,
)


def draw(seed, count, dimension, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dimension, dimension)) / np.sqrt(dimension)
    return (scale * rng.standard_normal((count, dimension)) @ mixing + shift).astype(np.float32)


def as_set(array):
    return FeatureSet.from_features(torch.from_numpy(array))


@pytest.fixture(scope="module")
def pair():
    return draw(0, 1200, 12), draw(1, 1100, 12, shift=0.3, scale=1.2)


def test_frechet_distance(pair):
    x, y = (array.astype(np.float64) for array in pair)
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert frechet_distance(*map(as_set, pair)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_two_gaussians():
    """N(m1, diag a^2), N(m2, diag b^2): |m1 - m2|^2 + |a - b|^2."""
    rng = np.random.default_rng(0)
    m1, m2, a, b = rng.uniform(0.5, 2, (4, 30))
    sets = [FeatureSet(100, m, np.diag(s**2), torch.zeros(1, 30)) for m, s in ((m1, a), (m2, b))]
    assert frechet_distance(*sets) == pytest.approx(np.sum((m1 - m2) ** 2) + np.sum((a - b) ** 2), rel=1e-9)


def test_frechet_distance_of_identical_sets_is_zero(pair):
    assert 0 <= frechet_distance(as_set(pair[0]), as_set(pair[0])) < 1e-8


def test_precision_and_recall(pair):
    x, y = (array[:300].astype(np.float64) for array in pair)

    def share_within(points, centers):
        radius = np.sort(cdist(centers, centers), axis=1)[:, 3]  # 0 is the point itself
        return np.mean(np.any(cdist(points, centers) <= radius, axis=1))

    expected = share_within(x, y), share_within(y, x)
    assert min(expected) > 0.05 and max(expected) < 1
    assert precision_recall(*(as_set(array[:300]) for array in pair)) == pytest.approx(expected, abs=1e-6)


def test_precision_and_recall_of_known_sets(pair):
    x = pair[0][:200]
    assert precision_recall(as_set(x), as_set(x)) == (1, 1)
    assert precision_recall(as_set(x), as_set(x + 1000)) == (0, 0)
    narrow = x[:1] + 1e-3 * draw(3, 200, 12)  # one mode only: precise, without recall
    precision, recall = precision_recall(as_set(narrow), as_set(x))
    assert precision == 1 and recall <= 0.01


def test_kernel_distance(pair, monkeypatch):
    monkeypatch.setattr(metrics, "KID_SUBSET_SIZE", 200)  # every subset is the whole set
    x, y = (array[:200].astype(np.float64) for array in pair)

    def kernel(a, b):
        return (a @ b.T / 12 + 1) ** 3

    def off_diagonal_mean(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    expected = off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()
    mean, std = kernel_distance(*(as_set(array[:200]) for array in pair))
    assert mean == pytest.approx(expected, rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9)
    whole = as_set(pair[0])
    mean, std = kernel_distance(whole, whole)
    assert abs(mean) < expected / 5 and 0 < std < expected


def test_inception_score():
    logits = 3 * draw(0, 500, 20)
    p = scipy.special.softmax(logits[np.random.RandomState(2020).permutation(500)].astype(np.float64), axis=1)
    scores = []
    for part in np.split(p, 10):
        scores.append(np.exp(np.mean(scipy.special.rel_entr(part, part.mean(axis=0)).sum(axis=1))))
    assert inception_score(as_set(logits)) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-6)


def test_inception_score_of_known_predictions():
    assert inception_score(as_set(np.zeros((200, 8), np.float32))) == pytest.approx((1, 0))
    certain = as_set(np.tile(100 * np.eye(8, dtype=np.float32), (1000, 1)))
    assert inception_score(certain)[0] == pytest.approx(8, rel=0.01)


def test_compute_metrics_by_name(monkeypatch):
    monkeypatch.setattr(metrics, "KID_SUBSET_SIZE", 100)
    features = {("lite0", "pooled"): as_set(draw(0, 400, 320))}
    real = {("lite0", "pooled"): as_set(draw(1, 350, 320))}
    values = compute_metrics(["fd_lite0", "recall_lite0", "kid_lite0"], features, real)
    assert list(values) == ["fd_lite0", "recall_lite0", "kid_lite0", "kid_lite0_std"]
    pair = features["lite0", "pooled"], real["lite0", "pooled"]
    assert values["fd_lite0"] == frechet_distance(*pair)
    assert values["recall_lite0"] == precision_recall(*pair)[1]


def test_layers_are_those_of_the_paper():
    assert layers_of(METRICS) == {
        "inception": ["2048", "spatial", "logits_unbiased"],
        "inception_random": ["2048"],
        "lite0": ["pooled"],
        "vgg16": ["fc2_relu"],
    }
    assert layers_of(["is", "fid"], reference_only=True) == {"inception": ["2048"]}


@pytest.mark.parametrize(
    "name, generated, real, message",
    [
        ("fd_lite0", 320, 1000, r"`num_samples` must be at least 321 for fd_lite0 \(.* 320 features .*\), got 320"),
        ("fid", 2048, 5000, "`num_samples` must be at least 2049"),
        ("kid", 999, 5000, "`num_samples` must be at least 1000"),
        ("kid", 5000, 999, "`dataset` must have at least 1000 images for kid, got 999"),
        ("recall", 3, 10, "`num_samples` must be at least 4"),
        ("is", 99, 0, "`num_samples` must be at least 100"),
    ],
)
def test_too_few_images(name, generated, real, message):
    with pytest.raises(ValueError, match=message):
        check_image_counts([name], generated, real)
    check_image_counts([name], 10_000, 10_000)


@pytest.mark.parametrize(("name", "real"), [("fd_lite0", 320), ("sfid", 2023)])
def test_a_frechet_distance_to_few_real_images_is_a_warning(name, real, caplog):
    check_image_counts([name], 5000, real + 1)
    assert not caplog.text
    check_image_counts([name], 5000, real)
    assert f"{name}: only {real} real images, {real + 1} are needed" in caplog.text
    few, many = as_set(draw(0, 40, 320)), as_set(draw(1, 400, 320))
    assert compute_metrics(["fd_lite0"], {("lite0", "pooled"): many}, {("lite0", "pooled"): few})["fd_lite0"] > 0


@pytest.mark.parametrize("names", [[], ["fidd"], ["fid", ""]])
def test_unknown_names(names):
    with pytest.raises(ValueError, match="`metrics` must be some of"):
        check_metric_names(names)


def test_a_value_that_is_not_finite_is_no_figure():
    good, broken = as_set(draw(0, 400, 320)), as_set(draw(0, 400, 320))
    broken.mean[3] = np.nan
    pooled = ("lite0", "pooled")
    with pytest.raises(ValueError, match="`metrics` must be finite, got fd_lite0 nan"):
        compute_metrics(["fd_lite0"], {pooled: good}, {pooled: broken})
