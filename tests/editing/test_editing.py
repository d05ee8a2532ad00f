import numpy as np
import pytest
import torch
from PIL import Image

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.conversion import convert_original_checkpoint
from polyinr_hf.editing.extents import extrapolate
from polyinr_hf.editing.interpolation import interpolate, walk
from polyinr_hf.editing.levels import LEVEL_GROUPS, level_groups, mix_levels, style_mixing_grid
from polyinr_hf.editing.seeds import encode_seeds, numpy_class_ids, numpy_latents, truncate, w_centroids

Z_DIM, SIZE, CHANNELS, LEVELS = 8, 9, 16, 4
NAN = float("nan")


def make_pipe(num_classes: int | None = 3, **config) -> PolyINRPipeline:
    torch.manual_seed(0)
    config = {"channels": CHANNELS, "num_levels": LEVELS, **config}
    model = PolyINRGenerator(z_dim=Z_DIM, w_dim=16, num_classes=num_classes, sample_size=SIZE, **config)
    model.w_mean.normal_()
    pipe = PolyINRPipeline(model.eval(), {0: "tench", 1: "goldfish", 2: "shark"} if num_classes else None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pipe() -> PolyINRPipeline:
    return make_pipe()


@pytest.fixture(scope="module")
def unconditional() -> PolyINRPipeline:
    return make_pipe(num_classes=None)


def draw(pipe, A, **kwargs) -> torch.Tensor:
    return pipe(affine_parameters=A, output_type="pt", **kwargs).images


def assert_same(actual, expected, tolerance=0.0):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# -- interpolation ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spherical", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(4, 7), (4, 3, 5), (4, 2, 5, 3)])
def test_the_ends_and_the_points_on_the_way_are_the_sources(spherical, dtype, shape):
    points = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    points[-1].view(-1)[0] = -0.0
    frames = interpolate(points, 10, spherical=spherical)
    assert frames.dtype == dtype
    assert frames.shape == (10, *shape[1:])
    for k in range(4):
        assert torch.equal(frames[3 * k].view(torch.uint8), points[k].view(torch.uint8))  # signs of zeros too
    loop = interpolate(points, 12, spherical=spherical, loop=True)
    assert torch.equal(loop[::3], points)
    assert not torch.equal(loop[-1], points[0])


def test_straight_lines_are_walked_evenly():
    points = torch.tensor([[0.0, 1.0], [4.0, 1.0], [4.0, -3.0]])
    expected = torch.tensor([[0, 1], [2, 1], [4, 1], [4, -1], [4, -3]]).float()
    assert_same(interpolate(points, 5), expected)
    assert_same(interpolate(points, 4)[1], torch.tensor([8 / 3, 1.0]), 1e-6)  # the middle point falls on no frame
    assert_same(interpolate(points, 6, loop=True)[-1], torch.tensor([2.0, -1.0]))


def test_great_circles_are_walked_at_one_speed():
    points = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    frames = interpolate(points, 4, spherical=True)
    angles = torch.deg2rad(torch.tensor([0.0, 30.0, 60.0, 90.0]))
    assert_same(frames, 2 * torch.stack([angles.cos(), angles.sin()], dim=1), 1e-6)
    z = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    assert interpolate(z, 9)[4].norm() < 0.8 * z.norm(dim=1).min()  # the chord leaves the sphere,
    assert interpolate(z, 9, spherical=True)[4].norm() > 0.98 * z.norm(dim=1).min()  # the arc does not


def test_easing_slows_down_at_every_point():
    points = torch.tensor([[0.0], [8.0], [0.0]])
    found = interpolate(points, 9, easing="smooth").squeeze(1)
    quarter = 8 * (1 - np.cos(np.pi / 4)) / 2
    assert_same(found, torch.tensor([0, quarter, 4, 8 - quarter, 8, 8 - quarter, 4, quarter, 0]).float(), 1e-5)
    with pytest.raises(ValueError, match="`easing`.*'linear', 'smooth'.*'bouncy'"):
        interpolate(points, 9, easing="bouncy")


def test_equal_and_nearly_equal_points_on_a_sphere():
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1e-5]])
    frames = interpolate(points, 5, spherical=True)
    assert_same(frames[1], points[0])
    assert_same(frames[3], torch.tensor([1.0, 5e-6]), 1e-9)


def test_only_neighbors_may_not_be_opposite():
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert torch.isfinite(interpolate(points, 7, spherical=True)).all()
    with pytest.raises(ValueError, match="opposite"):
        interpolate(points, 7, spherical=True, loop=True)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((torch.zeros(1, 3), 5), r"`points`.*two.*\(1, 3\)"),
        ((torch.tensor(1.0), 5), "`points`"),
        ((torch.zeros(2, 3, dtype=torch.int64), 5), "`points`.*floating.*int64"),
        ((torch.tensor([0.0, NAN]), 5), "`points`.*finite"),
        ((torch.ones(2, 3), 1), "`num_frames`.*2.*1"),
        ((torch.ones(2, 3), 2.5), r"`num_frames`.*2\.5"),
        ((torch.zeros(2, 3), 5, True), "`points`.*zero"),
    ],
)
def test_what_cannot_be_interpolated(arguments, message):
    with pytest.raises(ValueError, match=message):
        interpolate(*arguments)


# -- walks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("space", ["z", "w", "affine"])
@pytest.mark.parametrize("labels", [None, 1, [0, 2, 1]])
def test_a_walk_passes_through_its_images_in_every_space(pipe, unconditional, space, labels):
    used = unconditional if labels is None else pipe
    frames = list(walk(used, labels, seeds=[4, 5, 6], num_frames=7, space=space, truncation_psi=0.7))
    assert len(frames) == 7
    for k, seed in enumerate((4, 5, 6)):
        label = labels[k] if isinstance(labels, list) else labels
        generator = torch.Generator().manual_seed(seed)
        assert torch.equal(frames[3 * k], used.encode(label, generator=generator, truncation_psi=0.7))
    changes = [(a - b).abs().max() for a, b in zip(frames, frames[1:], strict=False)]
    assert min(changes) > 0


def test_spaces_agree_at_the_ends_and_differ_between_them(pipe):
    walks = {space: list(walk(pipe, 1, seeds=[0, 1], num_frames=5, space=space)) for space in ("z", "w", "affine")}
    for end in (0, -1):
        assert torch.equal(walks["z"][end], walks["w"][end])
        assert torch.equal(walks["w"][end], walks["affine"][end])
    assert not torch.allclose(walks["w"][2], walks["affine"][2])
    assert not torch.allclose(walks["w"][2], walks["z"][2])


def test_what_moves_evenly(pipe):
    model = pipe.generator
    z = pipe.prepare_latents(2, [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    label = torch.tensor([2])
    w = [model.map(z[i : i + 1], label) for i in (0, 1)]
    middle = {
        "affine": (model.affine(w[0]) + model.affine(w[1])) / 2,
        "w": model.affine((w[0] + w[1]) / 2),
        "z": model.affine(model.map(interpolate(z, 3, spherical=True)[1:2], label)),
    }
    for space, expected in middle.items():
        assert_same(list(walk(pipe, 2, [0, 1], 3, space))[1], expected, 1e-5)
    straight = model.affine(model.map(interpolate(z, 3)[1:2], label))
    assert_same(list(walk(pipe, 2, [0, 1], 3, "z", spherical=False))[1], straight, 1e-5)


def test_from_class_to_class_in_z_space(pipe):
    frames = list(walk(pipe, ["tench", "shark"], seeds=3, num_frames=5, space="z"))
    model = pipe.generator
    z = pipe.prepare_latents(1, torch.Generator().manual_seed(3))
    w = [model.map(z, torch.tensor([label])) for label in (0, 2)]
    assert_same(frames[1], model.affine(torch.lerp(w[0], w[1], 0.25)), 1e-5)


def test_a_walk_is_lazy_and_loops(pipe, monkeypatch):
    frames = walk(pipe, 0, seeds=[1, 2], num_frames=4, loop=True)
    calls = []
    affine = pipe.generator.affine
    monkeypatch.setattr(pipe.generator, "affine", lambda w: calls.append(1) or affine(w))
    first = next(frames)
    assert len(calls) == 1
    assert not first.requires_grad
    rest = list(frames)
    assert len(rest) == 3
    assert_same(rest[2], rest[0], 1e-5)  # there and back
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("space", ["z", "w", "affine"])
def test_a_walk_eases_in_every_space(pipe, space):
    even = list(walk(pipe, 1, [0, 1], 83, space))
    eased = list(walk(pipe, 1, [0, 1], 5, space, easing="smooth"))
    nearest = [round(82 * (1 - np.cos(np.pi * t)) / 2) for t in (0, 0.25, 0.5, 0.75, 1)]
    for frame, index in zip(eased, nearest, strict=True):
        assert_same(frame, even[index], 2e-3)
    assert not torch.allclose(eased[1], even[20], atol=2e-2)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"space": "x"}, "`space`.*'z', 'w', 'affine'.*'x'"),
        ({"spherical": True}, "`spherical`.*'z'.*'w'"),
        ({"seeds": [0]}, "at least two"),
        ({"seeds": []}, "`seeds`"),
        ({"seeds": [0, -1]}, "`seeds`.*-1"),
        ({"seeds": [0, 1, 2], "class_labels": [0, 1]}, "2 labels and 3 seeds"),
        ({"num_frames": 1}, "`num_frames`"),
        ({"class_labels": "goldfsh"}, "Did you mean 'goldfish'"),
        ({"class_labels": None}, "`class_labels` is required"),
        ({"truncation_psi": NAN}, "`truncation_psi`"),
        ({"truncation_cutoff": 5}, r"`truncation_cutoff`.*0\.\.4"),
    ],
)
def test_a_bad_walk_is_refused_before_its_first_frame(pipe, kwargs, message):
    with pytest.raises(ValueError, match=message):
        walk(pipe, **{"class_labels": 0, **kwargs})


def test_encode_seeds_pairs_classes_and_seeds(pipe, unconditional):
    A = encode_seeds(pipe, ["tench", 2], seeds=[7, 8], truncation_psi=0.5)
    generator = torch.Generator().manual_seed(8)
    assert_same(A[1:], pipe.encode(2, generator=generator, truncation_psi=0.5), 1e-5)
    assert encode_seeds(pipe, 1, seeds=range(3)).shape == (3, LEVELS, CHANNELS, 3)
    assert encode_seeds(unconditional, seeds=[1, 2]).shape[0] == 2


def test_images_in_w(pipe):
    w = encode_seeds(pipe, [0, 2], seeds=[3, 4], truncation_psi=0.7, space="w")
    assert w.shape == (2, LEVELS, 16)
    assert torch.equal(pipe.generator.affine(w), encode_seeds(pipe, [0, 2], seeds=[3, 4], truncation_psi=0.7))


# -- the authors' seeds, and truncation towards centroids -------------------------------------------------------------
def test_numpys_seeds_are_the_authors(pipe, unconditional):
    z = numpy_latents([3, 2**32 - 1], Z_DIM)
    for row, seed in zip(z, (3, 2**32 - 1), strict=True):
        assert torch.equal(row, torch.from_numpy(np.random.RandomState(seed).randn(1, Z_DIM)[0]).float())
    A = encode_seeds(pipe, "shark", seeds=[3, 5], seed_source="numpy", truncation_psi=0.6)
    assert_same(A[1:], pipe.encode(2, latents=numpy_latents(5, Z_DIM), truncation_psi=0.6), 1e-5)
    assert torch.equal(encode_seeds(unconditional, seeds=3, seed_source="numpy"), unconditional.encode(latents=z[:1]))
    first = next(walk(pipe, "shark", seeds=[3, 5], seed_source="numpy", truncation_psi=0.6))
    assert_same(first, A[:1], 1e-5)


def test_where_no_class_is_given_numpys_seeds_draw_one(pipe):
    drawn = [int(np.random.RandomState(seed).randint(low=0, high=3, size=1)[0]) for seed in range(6)]
    assert numpy_class_ids(range(6), 3) == drawn
    assert len(set(drawn)) > 1
    A = encode_seeds(pipe, seeds=range(6), seed_source="numpy")
    assert_same(A, pipe.encode(drawn, latents=numpy_latents(range(6), Z_DIM)), 1e-5)


def test_known_values_of_numpys_seeds():
    """RandomState's numbers are promised never to change: these are of seed 0."""
    expected = torch.tensor([1.7640523, 0.4001572, 0.978738, 2.2408932])
    assert_same(numpy_latents(0)[0, :4], expected, 3e-7)
    assert numpy_class_ids([0, 1], 1000) == [684, 37]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"seeds": 2**32, "seed_source": "numpy"}, r"`seeds`.*0\.\.4294967295.*4294967296"),
        ({"seeds": 2**64}, r"`seeds`.*0\.\.18446744073709551615.*18446744073709551616"),
        ({"seed_source": "jax"}, "`seed_source`.*'torch', 'numpy'.*'jax'"),
        ({"space": "z"}, "`space`.*'z'"),
        ({"centroids": torch.zeros(3, 8)}, r"`centroids`.*\(C, 16\).*\(3, 8\)"),
    ],
)
def test_images_that_there_are_not(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        encode_seeds(pipe, 0, **arguments)


def test_truncation_pulls_towards_the_nearest_centroid(pipe):
    w = encode_seeds(pipe, 0, seeds=[0, 1, 2], space="w", truncation_psi=1)
    centroids = torch.cat([w[1:, 0] + 0.01, w[:1, 0] + 5.0])
    expected = torch.stack([min(centroids, key=lambda c: (c - x).norm()) for x in w[:, 0]])  # (3, w_dim)
    found = truncate(w, centroids, 0.25)
    assert_same(found, (0.75 * expected.unsqueeze(1) + 0.25 * w).expand_as(w), 1e-5)
    assert_same(truncate(w, centroids, 1.0), w, 1e-6)
    cut = truncate(w, centroids, 0.25, truncation_cutoff=2)
    assert torch.equal(cut[:, 2:], w[:, 2:]) and torch.equal(cut[:, :2], found[:, :2])
    A = encode_seeds(pipe, 0, seeds=[0, 1, 2], truncation_psi=0.25, centroids=centroids)
    assert_same(A, pipe.generator.affine(found), 1e-5)


@pytest.mark.parametrize("classes", ["pipe", "unconditional"])
def test_centroids_are_the_means_of_those_nearest_to_them(request, classes):
    pytest.importorskip("scipy")
    used = request.getfixturevalue(classes)
    centroids = w_centroids(used, num_centroids=4, num_samples=500)
    assert centroids.shape == (4, 16)
    assert torch.equal(centroids, w_centroids(used, num_centroids=4, num_samples=500))
    labels = list(range(3)) * 400 if classes == "pipe" else None
    images = {"class_labels": labels, "num_images_per_label": 1 if labels else 1200, "truncation_psi": 1.0}
    w = used.encode(**images, generator=torch.Generator().manual_seed(9), space="w")[:, 0]
    distance = torch.cdist(w, centroids)
    assert distance.min(dim=1).values.square().mean() < 0.9 * (w - w.mean(dim=0)).square().sum(dim=1).mean()
    for k, center in enumerate(centroids):  # of other samples: near the means of those that they are nearest to
        members = w[distance.argmin(dim=1) == k]
        assert len(members) > 30
        assert (members.mean(dim=0) - center).norm() < 0.3 * (members - center).norm(dim=1).mean()
    with pytest.raises(ValueError, match="`num_samples`"):
        w_centroids(used, num_centroids=4, num_samples=3)


# -- style mixing -----------------------------------------------------------------------------------------------------
def test_mixed_with_itself_an_image_is_unchanged_to_the_bit(pipe):
    A = encode_seeds(pipe, 1, seeds=[0, 1])
    for levels in (range(LEVELS), [2], "fine"):
        mixed = mix_levels(A, A, levels)
        assert torch.equal(mixed, A)
        assert torch.equal(draw(pipe, mixed), draw(pipe, A))
        assert mixed.data_ptr() != A.data_ptr()


def test_the_levels_asked_for_are_the_sources(pipe):
    target, source = encode_seeds(pipe, 0, seeds=[0, 1]), encode_seeds(pipe, 2, seeds=5)
    before = target.clone()
    mixed = mix_levels(target, source, [1, 3])
    assert torch.equal(mixed[:, [1, 3]], source.expand_as(target)[:, [1, 3]])
    assert torch.equal(mixed[:, [0, 2]], target[:, [0, 2]])
    assert torch.equal(target, before)
    assert torch.equal(mix_levels(target, source, 2), mix_levels(target, source, [2]))
    assert torch.equal(mix_levels(target[:1], source, range(LEVELS)), source)
    assert not torch.allclose(draw(pipe, mixed), draw(pipe, target), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["official_conditional_n64", "official_unconditional_superres_n32", "authors_dill_cond7_n48"]
)
def test_levels_of_w_are_mixed_as_the_authors_mix_them(reference_values, name):
    pipe = convert_original_checkpoint(reference_values / f"{name}.pkl")
    with np.load(reference_values / f"{name}.npz") as arrays:
        expected = {key: torch.from_numpy(array) for key, array in arrays.items()}
    labels = expected["labels"].tolist() or None
    w = pipe.encode(labels, 1 if labels else 4, latents=expected["z"], space="w")
    draw_raw = pipe.generator.render
    for key, levels in {"image_mix7": range(7, 10), "image_mix37": range(3, 7)}.items():
        if key not in expected:
            continue
        mixed = mix_levels(w, w.flip(0), levels)
        largest = expected[key].abs().max()
        assert (draw_raw(pipe.encode(w=mixed)) - expected[key]).abs().max() <= 1e-5 * largest
        in_A = mix_levels(pipe.encode(w=w), pipe.encode(w=w).flip(0), levels)
        assert (draw_raw(in_A) - expected[key]).abs().max() > 0.05 * largest  # another picture, as documented


def test_level_groups_are_the_papers():
    assert list(LEVEL_GROUPS.items()) == [("coarse", range(5)), ("middle", range(5, 8)), ("fine", range(8, 10))]
    for num_levels in range(3, 15):
        groups = level_groups(num_levels).values()
        assert all(len(levels) > 0 for levels in groups)
        assert [level for levels in groups for level in levels] == list(range(num_levels))
    with pytest.raises(ValueError, match="`num_levels`.*3.*2"):
        level_groups(2)


@pytest.mark.parametrize("levels", [4, [0, 4], -1, [], [1, 1], [1.5], [True], "finest", ["fine"]])
def test_levels_that_there_are_not(levels):
    A = torch.zeros(1, LEVELS, CHANNELS, 3)
    with pytest.raises(ValueError, match="`levels`"):
        mix_levels(A, A, levels)


@pytest.mark.parametrize("shape", [(1, 5, 16, 3), (1, 4, 32, 3), (4, 16, 3), (1, 4, 16, 2)])
def test_affine_parameters_of_another_models_size(pipe, shape):
    A, other = torch.zeros(1, LEVELS, CHANNELS, 3), torch.zeros(shape)
    for target, source in ((A, other), (other, A)):
        with pytest.raises(ValueError, match=r"\(1, 4, 16, 3\)") as error:
            mix_levels(target, source, [0])
        assert str(shape) in str(error.value)
    with pytest.raises(ValueError, match=r"\(B, 4, 16, 3\)"):
        extrapolate(pipe, other)


def test_w_and_affine_parameters_do_not_mix(pipe):
    A, w = (encode_seeds(pipe, 0, space=space) for space in ("affine", "w"))
    for target, source in ((A, w), (w, A)):
        with pytest.raises(ValueError, match="both w .* or both affine parameters"):
            mix_levels(target, source, [0])


def test_as_many_sources_as_targets():
    A = torch.zeros(3, LEVELS, CHANNELS, 3)
    with pytest.raises(ValueError, match="`source`.*3.*2"):
        mix_levels(A, A[:2], [0])


@pytest.mark.parametrize("space", ["w", "affine"])
def test_style_mixing_grid(pipe, space):
    sources = encode_seeds(pipe, 0, seeds=[0, 1], space=space)
    targets = encode_seeds(pipe, 2, seeds=[2, 3, 4], space=space)
    done = []
    grid = style_mixing_grid(pipe, sources, targets, callback=lambda *counts: done.append(counts), height=20, width=30)
    rows = 20 + 3 * (18 + 3 * 20)
    assert grid.size == (3 * 30, rows)
    assert done[-1] == (5 + 18, 5 + 18)

    def tile(column: int, y: int) -> Image.Image:
        return grid.crop((30 * column, y, 30 * column + 30, y + 20))

    def expected(image) -> Image.Image:
        return pipe(**{"w" if space == "w" else "affine_parameters": image}, height=20, width=30).images[0]

    assert tile(2, 0) == expected(sources[1:])
    for block, name in enumerate(("coarse", "middle", "fine")):
        y = 20 + block * (18 + 60) + 18 + 20  # the second target's row
        assert tile(0, y) == expected(targets[1:2])
        assert tile(1, y) == expected(mix_levels(targets[1:2], sources[:1], name))
        assert grid.crop((0, y - 38, 60, y - 20)).getextrema() == ((0, 255),) * 3  # its name, black on white


def test_names_of_a_style_mixing_grid_have_the_lines_that_they_need(pipe):
    A = encode_seeds(pipe, 1, [0, 1])
    options = {"groups": {"last": [3]}, "height": 96, "width": 96}
    short, long = ["avocado 0", "avocado 1"], ["avocado 0", "smiling-face-with-horns 1"]
    heights = [
        style_mixing_grid(pipe, A, A, source_names=sources, target_names=targets, **options).height
        for sources, targets in ((short, short), (long, short), (short, long))
    ]
    assert heights == [3 * 96 + 4 * 18, 3 * 96 + 5 * 18, 3 * 96 + 6 * 18]


def test_style_mixing_grid_of_chosen_levels(pipe):
    A = encode_seeds(pipe, 0, seeds=[0, 1])
    grid = style_mixing_grid(pipe, A, A, groups={"last": [3]})
    assert grid.size == (3 * SIZE, SIZE + 18 + 2 * SIZE)
    box = (SIZE, SIZE + 18, 2 * SIZE, 2 * SIZE + 18)
    assert grid.crop(box) == pipe(affine_parameters=A).images[0]  # mixed with itself


@pytest.mark.parametrize("name", ["sources", "targets"])
def test_a_bad_grid_is_refused_before_drawing(pipe, monkeypatch, name):
    monkeypatch.setattr(pipe.generator, "render", lambda *args, **kwargs: pytest.fail("work started"))
    A = torch.zeros(1, LEVELS, CHANNELS, 3)
    with pytest.raises(ValueError, match=f"`{name}`"):
        style_mixing_grid(**{"pipe": pipe, "sources": A, "targets": A, name: A[0, 0]})
    with pytest.raises(ValueError, match="`levels`.*7"):
        style_mixing_grid(pipe, A, A, groups={"a": [0], "b": [7]})


# -- beyond the border ------------------------------------------------------------------------------------------------
def test_extrapolation_holds_the_image_and_its_border(pipe):
    A = encode_seeds(pipe, 1, seeds=[0, 1])
    plain = extrapolate(pipe, A, border=None)
    assert [image.size for image in plain] == [(13, 13)] * 2  # 9 pixels are 8 intervals, half as many again are 12
    inside = pipe(affine_parameters=A).images[1]
    difference = torch.tensor([list(p) for p in plain[1].crop((2, 2, 11, 11)).getdata()]) - torch.tensor(
        [list(p) for p in inside.getdata()]
    )
    assert difference.abs().max() <= 1
    framed = extrapolate(pipe, A)[1]
    yellow = {(x, y) for x in range(13) for y in range(13) if framed.getpixel((x, y)) == (255, 255, 0)}
    assert yellow == {(x, y) for x in range(2, 11) for y in range(2, 11) if x in (2, 10) or y in (2, 10)}
    outside = [(x, y) for x in range(13) for y in range(13) if (x, y) not in yellow]
    assert all(framed.getpixel(point) == plain[1].getpixel(point) for point in outside)


def test_extrapolation_to_one_side_at_any_size(pipe):
    A = encode_seeds(pipe, 1)
    image = extrapolate(pipe, A, extent=(0, 0, 1, 2), height=7, width=21, border="#00f")[0]
    assert image.size == (21, 7)
    assert [x for x in range(21) if image.getpixel((x, 3)) == (0, 0, 255)] == [0, 10]


@pytest.mark.parametrize(
    "kwargs, message",
    [({"border": "yelow"}, "yelow"), ({"extent": (0, 0, 0, 1)}, "`extent`"), ({"height": 0}, "`height`")],
)
def test_bad_extrapolation(pipe, monkeypatch, kwargs, message):
    monkeypatch.setattr(pipe.generator, "render", lambda *args, **kwargs: pytest.fail("work started"))
    with pytest.raises(ValueError, match=message):
        extrapolate(pipe, torch.zeros(1, LEVELS, CHANNELS, 3), **kwargs)
