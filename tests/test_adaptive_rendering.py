"""Adaptive rendering, of functions whose images are known and of small networks."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from polyinr_hf import PolyINRGenerator
from polyinr_hf.adaptive_rendering import MIN_PITCH, draw, first_pitch, refine
from polyinr_hf.modeling_poly_inr import coordinate_axes

EXTENTS = [(0, 0, 1, 1), (-0.3, 0.2, 1.7, 0.9)]
SIZES = [(64, 64), (50, 77), (97, 33)]


def exact_image(colours, height, width, extent=(0, 0, 1, 1)):
    rgb = colours(torch.cartesian_prod(*coordinate_axes(height, width, extent)))
    return rgb.t().unflatten(1, (height, width))


def last_lattice(colours, height, width, extent=(0, 0, 1, 1), pitch=8, tolerance=0.1, chunk_size=1000):
    """Values (3, H, W), where the network was run (H, W), and at how many points."""
    axes = coordinate_axes(height, width, extent)
    *_, lattice = refine(lambda coordinates, images: colours(coordinates), *axes, pitch, tolerance, chunk_size)
    assert len(lattice.values) == len(lattice.ran) == 1
    return SimpleNamespace(values=lattice.values[0], ran=lattice.ran[0], num_points=lattice.num_points)


def polynomial(*coefficients):
    """Colours c0 + c1 u + c2 v + c3 u^2 + c4 u v + c5 v^2, and two multiples of it."""

    def colours(coordinates):
        u, v = coordinates.unbind(1)
        terms = torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v], dim=1)
        value = terms @ torch.tensor(coefficients)
        return torch.stack([value, -0.5 * value, 0.25 * value], dim=1)

    return colours


def line(angle, offset, thickness):
    """A white line on black, hard-edged, through points at `offset` from the image's centre."""
    normal = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)

    def colours(coordinates):
        distance = ((coordinates.double() - 0.5) @ normal - offset).abs()
        return (2 * (distance <= thickness / 2).float() - 1)[:, None].expand(-1, 3)

    return colours


def disc(coordinates):
    """An edge of finite width around a disc, a colour of its own in each channel."""
    distance = (coordinates - torch.tensor([0.4, 0.55])).norm(dim=1)
    return torch.tanh((0.3 - distance)[:, None] * torch.tensor([30.0, 60.0, -45.0]))


def make_generator(**options):
    torch.manual_seed(0)
    return PolyINRGenerator(channels=32, num_classes=None, sample_size=8, **options).eval().requires_grad_(False)


def draw_affine_parameters(generator, batch_size=2):
    z = torch.randn(batch_size, 64, generator=torch.Generator().manual_seed(1))
    return generator.affine(generator.map(z))


# --- functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coefficients", [(0.7, 0, 0, 0, 0, 0), (0.2, -1, 0.5, 0, 0, 0), (0.1, 1, -1, -2, 1.5, 1)])
@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("height, width", SIZES)
def test_polynomials_up_to_quadratic_need_the_first_lattice_only(coefficients, extent, height, width):
    colours = polynomial(*map(float, coefficients))
    lattice = last_lattice(colours, height, width, extent, tolerance=0.01)
    assert lattice.num_points == (math.ceil((height - 1) / 8) + 1) * (math.ceil((width - 1) / 8) + 1)
    torch.testing.assert_close(lattice.values, exact_image(colours, height, width, extent), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size, sample_size", [(256, 64), (256, 256), (512, 64)])
@pytest.mark.parametrize("thickness", ["trained", "drawn"])
def test_a_line_one_pixel_wide_is_not_lost(size, sample_size, thickness):
    pitch = first_pitch(size, size, (0, 0, 1, 1), sample_size)
    assert pitch in (4, 8)
    thickness = 1 / ((sample_size if thickness == "trained" else size) - 1)
    random = torch.Generator().manual_seed(0)
    for angle, offset in torch.rand(4, 2, generator=random).tolist():
        colours = line(math.pi * angle, 0.8 * (offset - 0.5), thickness)
        found = last_lattice(colours, size, size, pitch=pitch, tolerance=0.2)
        exact = exact_image(colours, size, size)
        assert (exact[0] > 0).sum() > 40
        assert ((found.values - exact).abs().amax(dim=0)[exact[0] > 0] < 0.4).all()
        assert found.num_points < 0.2 * size**2


@pytest.mark.parametrize("tolerance", [0.02, 0.1, 0.4])
def test_an_edge_is_within_the_tolerance_and_only_it_is_run(tolerance):
    lattice, exact = last_lattice(disc, 200, 160, tolerance=tolerance), exact_image(disc, 200, 160)
    assert (lattice.values - exact).abs().max() <= tolerance
    assert torch.equal(lattice.values[:, lattice.ran], exact[:, lattice.ran])
    assert lattice.ran.sum() <= lattice.num_points < 0.35 * 200 * 160
    centre = torch.cartesian_prod(*coordinate_axes(200, 160)) - torch.tensor([0.4, 0.55])
    edge = ((centre.norm(dim=1) - 0.3).abs() < 0.005).unflatten(0, (200, 160))
    assert lattice.ran[edge].float().mean() > 2 * lattice.ran.float().mean()


def test_a_lower_tolerance_runs_more_points_and_is_nearer():
    lattices = [last_lattice(disc, 120, 120, tolerance=tolerance) for tolerance in (0.4, 0.1, 0.02, 0)]
    errors = [(lattice.values - exact_image(disc, 120, 120)).square().mean() for lattice in lattices]
    points = [lattice.num_points for lattice in lattices]
    assert points == sorted(points)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0
    assert lattices[-1].ran.all()


@pytest.mark.parametrize("chunk_size", [1, 7, 100000])
def test_the_same_for_every_chunk_size(chunk_size):
    found, expected = last_lattice(disc, 60, 70, chunk_size=chunk_size), last_lattice(disc, 60, 70)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.ran, expected.ran)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 40), (3, 3), (40, 2)])
def test_small_images_are_run_at_every_pixel(height, width):
    lattice = last_lattice(disc, height, width)
    assert torch.equal(lattice.values, exact_image(disc, height, width))
    assert lattice.num_points == height * width


@pytest.mark.parametrize(
    "height, width, extent, sample_size, pitch",
    [
        (256, 256, (0, 0, 1, 1), 64, 4),
        (2048, 2048, (0, 0, 1, 1), 64, 32),
        (2048, 1024, (0, 0, 1, 1), 64, 16),
        (2048, 2048, (0.5, 0.5, 0.75, 0.75), 64, 128),
        (2048, 2048, (-1, 0, 1, 1), 64, 16),
        (64, 64, (0, 0, 1, 1), 64, MIN_PITCH),
        (1, 1, (0, 0, 1, 1), 1, MIN_PITCH),
    ],
)
def test_the_first_lattice_is_as_fine_as_the_training_images(height, width, extent, sample_size, pitch):
    assert first_pitch(height, width, extent, sample_size) == pitch


def test_bands_of_an_antialiased_image_fit_together():
    rows, columns = coordinate_axes(1600, 1200)
    rows, columns = rows.unflatten(0, (-1, 4)), columns.unflatten(0, (-1, 4))
    done = []
    (image,) = draw(lambda coordinates, images: disc(coordinates), rows, columns, 8, 0.02, 4096, report=done.append)
    exact = torch.nn.functional.avg_pool2d(exact_image(disc, 1600, 1200), 4)
    assert image.shape == (3, 400, 300)
    torch.testing.assert_close(image, exact, rtol=0, atol=0.02)
    assert done == sorted(done)
    assert done[-1] == 400 * 300


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extent", EXTENTS)
def test_points_that_were_run_are_the_exact_pixels(dtype, extent):
    generator = make_generator().to(dtype)
    A = draw_affine_parameters(generator, 1)
    exact = generator.render(A, 70, 90, extent, chunk_size=1050)
    colours = generator.as_function(A)
    pitch = first_pitch(70, 90, extent, generator.config.sample_size)
    lattice = last_lattice(colours, 70, 90, extent, pitch, tolerance=0.05, chunk_size=4096)
    assert 0.05 < lattice.ran.float().mean() < 0.95
    assert torch.equal(lattice.values.to(dtype)[:, lattice.ran], exact[0][:, lattice.ran])
    adaptive = generator.render(A, 70, 90, extent, tolerance=0.05)
    assert adaptive.dtype == dtype
    assert torch.equal(adaptive[0], lattice.values.to(dtype))


def test_each_image_of_a_batch_is_its_own():
    generator = make_generator()
    A = draw_affine_parameters(generator, 3)
    together = generator.render(A, 60, 44, tolerance=0.1)
    assert together.shape == (3, 3, 60, 44)
    for i in range(3):
        assert torch.equal(generator.render(A[i : i + 1], 60, 44, tolerance=0.1, chunk_size=500)[0], together[i])


class Counter(TorchDispatchMode):
    """Counts what a GPU would be sent, and how often the host would wait for it to know what to send next."""

    def __init__(self):
        super().__init__()
        self.launches = self.waits = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        allocates = "empty" in name or name in ("detach", "alias", "_unsafe_view", "_local_scalar_dense")
        self.launches += not (function.is_view or allocates)
        indices = (args[1] or []) if name.startswith(("index", "_index_put")) else []
        masked = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        self.waits += masked or name in ("nonzero", "_local_scalar_dense", "masked_select", "equal", "_unique2")
        return function(*args, **(kwargs or {}))


def count(run) -> tuple[int, int]:
    with Counter() as counter:
        run()
    return counter.launches, counter.waits


def test_the_counter_sees_launches_and_waits():
    x = torch.arange(4.0)
    assert count(lambda: x.view(2, 2).t()[0]) == (0, 0)
    assert count(lambda: torch.nn.functional.linear(x, torch.eye(4)).mul_(2))[1] == 0
    assert count(lambda: x.add(1).mul(2)) == (2, 0)
    assert count(lambda: bool((x > 1).any()))[1] == count(lambda: x[x > 1])[1] == count(lambda: x[0].item())[1] == 1


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_images_of_a_batch_share_what_a_gpu_is_sent(batch_size):
    """At most as many waits as lattices and rounds of the image that takes most, and no launches that grow with B."""
    generator = make_generator()
    A = draw_affine_parameters(generator, batch_size)
    launches, waits = count(lambda: generator.render(A, 96, 96, tolerance=0.1))
    alone = [count(lambda a=a: generator.render(a, 96, 96, tolerance=0.1)) for a in A.split(1)]
    assert waits <= sum(waits for _, waits in alone) / (1 if batch_size == 1 else 2)
    assert launches <= sum(launches for launches, _ in alone) / (1 if batch_size == 1 else 2)
    rounds = []
    network = generator._colors
    generator._colors = lambda *args: rounds.append(0) or network(*args)
    generator.render(A, 96, 96, tolerance=0.1)
    lattices = 5  # of pitch 8 to 1, and the check that the image is finite
    assert waits <= len(rounds) + lattices
    assert launches <= 90 * len(rounds) + 60 * lattices


def test_a_batch_too_large_to_be_kept_as_lattices_is_drawn_in_parts(monkeypatch):
    generator = make_generator()
    A = draw_affine_parameters(generator, 5)
    together = generator.render(A, 40, 40, tolerance=0.1, antialias=2)
    sizes, counts = [], []
    as_function = generator.as_function
    monkeypatch.setattr(generator, "as_function", lambda a, *rest: sizes.append(len(a)) or as_function(a, *rest))
    monkeypatch.setattr("polyinr_hf.modeling_poly_inr.LATTICE_POINTS", {"cpu": 2 * 80 * 80})
    parts = generator.render(A, 40, 40, tolerance=0.1, antialias=2, callback=lambda *numbers: counts.append(numbers))
    assert sizes == [2, 2, 1]
    assert torch.equal(parts, together)
    assert counts == sorted(counts) and counts[-1] == (5 * 40 * 40, 5 * 40 * 40)


@pytest.mark.parametrize("antialias", [1, 3])
def test_near_the_exact_image(antialias):
    generator = make_generator()
    A = draw_affine_parameters(generator)
    exact = generator.render(A, 80, 64, antialias=antialias)
    counts = []
    found = generator.render(A, 80, 64, antialias=antialias, tolerance=0.1, callback=lambda *n: counts.append(n))
    assert 0 < (found - exact).square().mean().sqrt() < 0.01
    done = [count for count, _ in counts]
    assert {total for _, total in counts} == {2 * 80 * 64}
    assert done == sorted(done)
    assert done[-1] == 2 * 80 * 64
    assert done[0] < 0.1 * done[-1]


def test_previews_grow_sharper_until_they_are_the_image():
    generator = make_generator()
    A = draw_affine_parameters(generator)
    for tolerance in (0.0, 0.1):
        image = generator.render(A, 130, 100, tolerance=tolerance)
        *previews, last = generator.render_progressive(A, 130, 100, tolerance=tolerance)
        assert torch.equal(last, image)
        assert len(previews) == 3  # of every 8th, 4th and 2nd pixel
        assert {preview.shape for preview in previews} == {image.shape}
        errors = [(preview - image).square().mean() for preview in previews]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] < 0.1 * image.var()


def test_the_first_preview_takes_a_part_of_the_points(monkeypatch):
    generator = make_generator()
    points = []
    network = generator._colors
    monkeypatch.setattr(generator, "_colors", lambda level, A, X: points.append(len(X)) or network(level, A, X))
    next(generator.render_progressive(draw_affine_parameters(generator, 1), 128, 128))
    assert 0 < sum(points) <= 9 * 9 + 64


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf, "0.1", True])
def test_bad_tolerances_are_named(tolerance):
    generator = make_generator()
    A = draw_affine_parameters(generator)
    with pytest.raises(ValueError, match="`tolerance` must be a finite number from 0"):
        generator.render(A, 8, 8, tolerance=tolerance)
    with pytest.raises(ValueError, match="`tolerance` must be a finite number from 0"):
        generator.render_progressive(A, 8, 8, tolerance=tolerance)


@pytest.mark.parametrize("arguments, name", [({"height": 0}, "height"), ({"extent": (0, 0, 0, 1)}, "extent")])
def test_previews_refuse_bad_arguments_at_once(arguments, name):
    generator = make_generator()
    with pytest.raises(ValueError, match=f"`{name}`"):
        generator.render_progressive(draw_affine_parameters(generator), **arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    generator = make_generator()
    A = draw_affine_parameters(generator)
    expected = generator.render(A, 80, 64, tolerance=0.1)
    found = generator.to("cuda").render(A.cuda(), 80, 64, tolerance=0.1)
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0.1)
