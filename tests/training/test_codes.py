"""Codes on points, cells of latents, and the mapping network that leads from one to the other."""

import threading

import pytest
import torch
import torch.nn.functional as F

from polyinr_hf import PolyINRGenerator
from polyinr_hf.feature_networks import load_feature_network
from polyinr_hf.training import codes
from polyinr_hf.training.codes import BETAS_CODES, PHASES, Codes, PicturesStep, Shard, first_codes, phases_of
from polyinr_hf.training.matching import FeatureMatching, LatentCells, class_members, images_of_latents
from polyinr_hf.training.points import colors_at

SIDE, NUMBER = 16, 12
SUM_LOCK = threading.Lock()


@pytest.fixture(scope="module")
def pictures():
    """Smooth random pictures (12, 3, 16, 16), uint8."""
    grid = torch.randint(0, 256, (NUMBER, 3, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    return F.interpolate(grid, size=(SIDE, SIDE), mode="bilinear", align_corners=True).to(torch.uint8)


def make_learner(pictures, labels=None, shard=None, features=None, **sizes) -> PicturesStep:
    torch.manual_seed(0)
    sizes = {"channels": 32, "num_levels": 4, "z_dim": 8, "w_dim": 64, "sample_size": SIDE} | sizes
    num_classes = None if labels is None else int(labels.max()) + 1
    generator = PolyINRGenerator(num_classes=num_classes, **sizes)
    learner = PicturesStep(
        generator, pictures, labels, 0.5 * torch.randn(len(pictures), 64), shard=shard, features=features
    )
    learner.points = 64
    return learner


def make_features() -> FeatureMatching:
    return FeatureMatching(load_feature_network("tf_efficientnet_lite0", feature_resolution=64), NUMBER)


@pytest.fixture(scope="module", params=[None, torch.arange(NUMBER) % 3, torch.arange(NUMBER)], ids=["flat", "3", "own"])
def taught(request, pictures):
    """A learner after all phases, of points alone, and the PSNR of codes before and after the first."""
    learner = make_learner(pictures, request.param)
    before = learner.psnr(through_mapping=False)
    for step in range(100):
        learner.take(step, 0.4 * step / 100)
    after = learner.psnr(through_mapping=False)
    learner.begin_mapping()
    for step in range(60):
        learner.take(step, 0.4 + 0.6 * step / 60)
    return learner, before, after


# --- what is learned --------------------------------------------------------------------------------------------------


def test_codes_draw_their_pictures(taught):
    _, before, after = taught
    assert after > before + 8


def test_random_latents_lead_to_every_picture_and_equally(taught, pictures):
    """Most samples are nearest to the picture whose cell their latent is in; no picture is left out."""
    learner, _, _ = taught
    generator, real = learner.generator, pictures.float() / 127.5 - 1
    z = torch.randn(600, 8, generator=torch.Generator().manual_seed(1))
    labels = None if learner.labels is None else learner.labels[torch.arange(600) % NUMBER]
    with torch.no_grad():
        drawn = generator.render(generator.affine(generator.map(z, labels)), SIDE, SIDE)
    nearest = torch.cdist(drawn.flatten(1), real.flatten(1)).argmin(dim=1)
    assert (nearest == learner.cells(z, labels)).float().mean() > 0.7
    counts = torch.bincount(nearest, minlength=NUMBER) / 600 * NUMBER  # 1 each if all were drawn equally often
    assert counts.min() > 0.4


def test_the_mean_w_of_a_class_is_its_codes(taught):
    learner, _, _ = taught
    labels = torch.zeros(NUMBER, dtype=torch.long) if learner.labels is None else learner.labels
    for label in labels.unique():
        expected = learner.codes.weight[labels == label].mean(dim=0)
        torch.testing.assert_close(learner.generator.w_mean[label], expected)


def test_codes_begin_with_what_the_source_draws_most_like_them():
    """Of pictures that the source itself has drawn the very w is found."""
    torch.manual_seed(0)
    source = PolyINRGenerator(channels=32, num_levels=4, z_dim=8, w_dim=64, num_classes=3, sample_size=SIDE)
    w = first_codes(source, torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), seed=5, candidates=1).expand(2, -1)
    with torch.no_grad():
        drawn = source.render(source.affine(w.unsqueeze(1).repeat(1, 4, 1)), SIDE, SIDE)
    pictures = ((drawn.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    others = first_codes(source, pictures, seed=6, candidates=50)
    with torch.no_grad():
        again = source.render(source.affine(others.unsqueeze(1).repeat(1, 4, 1)), SIDE, SIDE)
        random = source.render(source.affine(source.map(torch.randn(50, 8), torch.arange(50) % 3)), SIDE, SIDE)
    assert (again[0] - drawn[0]).square().mean() < (random - drawn[:1]).square().mean(dim=(1, 2, 3)).median()


@pytest.mark.parametrize("minutes", [None, 1, 15, 27])
def test_up_to_half_an_hour_the_phases_share_the_time_alike(minutes):
    assert phases_of(minutes) == pytest.approx(PHASES)


def test_of_a_longer_run_the_mapping_network_gets_ten_minutes():
    phases = phases_of(110)
    assert 110 * (phases["details"] - phases["mapping"]) == pytest.approx(10)
    assert phases["mapping"] / (1 - phases["details"]) == pytest.approx(0.4 / 0.24)


# --- how --------------------------------------------------------------------------------------------------------------


def test_codes_move_as_adam_moves_them_and_only_those_seen():
    start = torch.randn(4, 6)
    codes, reference = Codes(start), torch.nn.Parameter(start[:2].clone())
    adam = torch.optim.Adam([reference], lr=0.1, betas=BETAS_CODES)
    for _ in range(3):
        gradient = torch.randn(2, 6)
        codes.update(torch.tensor([0, 1]), gradient, 0.1)
        reference.grad = gradient
        adam.step()
    torch.testing.assert_close(codes.weight[:2], reference.detach())
    assert torch.equal(codes.weight[2:], start[2:])


def test_two_processes_give_what_one_gives(pictures):
    """Five steps of each phase of all pictures by one, and of an odd number shared by two, give the same weights."""
    pictures = pictures[:11]
    alone = make_learner(pictures, features=make_features())
    barrier, parts = threading.Barrier(2, timeout=60), [None, None]

    def reduce_by(index):
        def reduce(tensor):
            parts[index] = tensor
            barrier.wait()
            total = parts[0] + parts[1]
            barrier.wait()
            return total

        return reduce

    learners = [
        make_learner(pictures, shard=Shard(index, 2, reduce_by(index)), features=make_features()) for index in range(2)
    ]

    def run(learner):
        for step in range(5):
            learner.codes_step(step, 0.5)
        learner.begin_mapping()
        for step in range(5, 7):
            learner.mapping_step(step, 0.5)
        for step in range(7, 10):
            learner.details_step(step, 0.5)

    run(alone)
    threads = [threading.Thread(target=run, args=(learner,)) for learner in learners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = make_learner(pictures)
    before, one, *two = [x.generator.state_dict() | x.codes.state_dict() for x in (first, alone, *learners)]
    for name, values in one.items():
        assert torch.equal(two[0][name], two[1][name]), name
        moved = (values - before[name]).norm()
        assert (two[0][name] - values).norm() <= 0.02 * moved, (
            name
        )  # Adam makes much of gradients that round to nothing


def test_a_picture_whose_colors_explode_does_not_outweigh_the_others(pictures, monkeypatch):
    """The mean of the errors' logarithms, whose gradient by a picture's error is bounded."""
    learner = make_learner(pictures)
    rows, points = torch.arange(NUMBER), torch.rand(NUMBER, 64, 2, generator=torch.Generator().manual_seed(0))
    offset = torch.full((NUMBER,), 0.5)
    offset[3] = 1e4
    offset.requires_grad_()
    drawn = colors_at(pictures, rows, points)
    monkeypatch.setattr(learner, "_colors", lambda w, points: drawn + offset[:, None, None])
    loss = learner._points_loss(torch.zeros(NUMBER, 64), rows, points)
    expected = torch.tensor([0.75] * (NUMBER - 1) + [1e8 + 1e4]).log1p().mean()
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert offset.grad is not None and offset.grad[3] < offset.grad[0]


def test_rates_rise_as_the_last_phase_begins(pictures):
    """What the phase before ended with is nearly nothing; at once at their height the mapping network diverged."""
    learner, rates = make_learner(pictures), []
    for step, progress in enumerate((0.0, 0.01, 0.05, 0.5)):
        learner.details_step(step, progress)
        groups = [learner.optimizers[name].param_groups[0] for name in ("weights", "matrices", "mapping")]
        rates.append([group["lr"] / group.get("size", 1.0) for group in groups])
    first, second, top, later = torch.tensor(rates)
    assert (first < 0.02 * top).all() and (second < 0.3 * top).all() and (later < top).all()


def test_crops_are_compared_with_the_same_place_of_their_pictures(pictures, monkeypatch):
    """Were each latent to draw its picture, no distance would be left; of any other, transposed ones too, one is."""
    learner = make_learner(pictures, features=make_features())
    w, rows = torch.zeros(3, 64), torch.tensor([4, 0, 9])
    points = learner._sample_crops(3, torch.Generator().manual_seed(0))
    assert points.shape == (3, 64, 2)

    def distance(drawn, rows):
        monkeypatch.setattr(learner, "_colors", lambda w, points: colors_at(drawn, rows, points))
        return learner._crops_loss(learner.features, w, torch.tensor([4, 0, 9]), points).item()

    assert distance(pictures, rows) < 1e-6
    assert distance(pictures.transpose(2, 3), rows) > 0.01
    assert distance(pictures, rows.flip(0)) > 0.01


def test_crops_are_of_every_size_up_to_the_whole_picture_and_everywhere_in_it(pictures, monkeypatch):
    monkeypatch.setattr(codes, "MOST_CROP_POINTS", 5)  # of 16: every pixel, every second or every third
    learner = make_learner(pictures, features=make_features())
    pixels = learner._sample_crops(300, torch.Generator().manual_seed(0)) * (SIDE - 1)  # (300, 25, 2)
    assert torch.allclose(pixels, pixels.round(), atol=1e-4) and pixels.round().unique().tolist() == list(range(SIDE))
    extents = (pixels.amax(dim=1) - pixels.amin(dim=1)).round()  # (300, 2)
    assert extents.unique().tolist() == [4, 8, 12] and torch.equal(extents[:, 0], extents[:, 1])


def test_crops_teach_what_a_feature_network_sees(pictures):
    """With the same points and steps, drawings are nearer to their pictures in its features than from points alone."""
    found = []
    for features in (None, make_features()):
        learner = make_learner(pictures, features=features)
        for step in range(40):
            learner.take(step, 0.4 * step / 40)
        learner.begin_mapping()
        for step in range(40):
            learner.take(step, 0.4 + 0.6 * step / 40)
        learner.features = learner.features or make_features()
        points = learner._sample_crops(NUMBER, torch.Generator().manual_seed(0))
        with torch.no_grad():
            w = learner.w_of(torch.arange(NUMBER), True)[:, 0]
            learner.features.standardize([pictures.float() / 127.5 - 1])
            found.append(learner._crops_loss(learner.features, w, torch.arange(NUMBER), points).item())
    assert found[1] < found[0]


def test_more_pictures_than_a_step_takes_are_all_learned(pictures):
    learner = make_learner(pictures)
    learner.per_step = 5
    start = learner.codes.weight.clone()
    for step in range(10):
        learner.codes_step(step, 0.5)
    assert (learner.codes.weight != start).any(dim=1).all()
    assert learner.codes.count.sum() == 50 and learner.codes.count.max() <= 5  # none twice in an epoch of two steps


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [None, torch.tensor([0] * 30 + [1] * 9 + [2]), torch.arange(40) // 10])
def test_cells_of_a_class_are_equally_likely(labels):
    """For codes in clusters of unequal sizes, too."""
    random = torch.Generator().manual_seed(0)
    codes = torch.randn(40, 32, generator=random) + 5 * (torch.arange(40) < 25)[:, None]
    cells = LatentCells(40, 4, labels)
    cells.fit(codes)
    z = torch.randn(20_000, 4, generator=random)
    for label in [None] if labels is None else labels.unique():
        members = torch.arange(40) if label is None else torch.nonzero(labels == label).flatten()
        found = cells(z, None if label is None else label.expand(len(z)))
        assert set(found.tolist()) == set(members.tolist())
        counts = torch.bincount(found, minlength=40)[members] / len(z) * len(members)
        assert counts.min() > 0.7 and counts.max() < 1.4


def test_cells_in_order_are_those_of_matching_by_latent():
    """Most of each latent's cell is one picture's, too, however many pictures its class has."""
    labels = torch.tensor([0] * 3 + [1] + [2] * 30 + [0] * 2)
    cells = LatentCells(36, 256, labels)
    cells.order()
    z = torch.randn(20_000, 256, generator=torch.Generator().manual_seed(0))
    for label in (0, 1, 2):
        class_labels = torch.full((len(z),), label)
        expected = images_of_latents(z, class_labels, class_members(labels.tolist(), 36, 3))
        shares = cells.shares(z, class_labels)
        members = torch.nonzero(labels == label).flatten()
        places = (torch.searchsorted(members, those) for those in (shares.argmax(dim=1), expected))
        apart = torch.stack(list(places)).diff(dim=0).abs()  # in the class; scores are of z of one length
        assert apart.max() <= 2 and (apart == 0).float().mean() > 0.7
        assert (shares.amax(dim=1) > 0.9).float().mean() > 0.8


def test_neighbors_in_z_are_alike():
    """Where two codes share a latent, they are nearer to each other than codes are on average."""
    codes = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) @ torch.randn(4, 32)
    cells = LatentCells(60, 4)
    cells.fit(codes)
    shares = cells.shares(torch.randn(5000, 4))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5000))
    top = shares.topk(2, dim=1)
    first, second = top.indices[top.values[:, 1] > 0.2].T
    assert len(first) > 100
    distance = (codes[first] - codes[second]).norm(dim=1).mean()
    assert distance < 0.7 * torch.pdist(codes).mean()


def test_codes_that_are_all_one_still_have_cells():
    cells = LatentCells(3, 4)
    cells.fit(torch.ones(3, 8))
    assert torch.isfinite(cells.shares(torch.randn(5, 4))).all()
