import copy
import functools
import math

import numpy as np
import pytest
import torch
from accelerate import disk_offload
from torch.utils._python_dispatch import TorchDispatchMode

from polyinr_hf import NAMED_SIZES, PolyINRGenerator
from polyinr_hf.conversion import convert_original_checkpoint
from polyinr_hf.modeling_poly_inr import homogeneous, normalize_rms, pixel_coordinates

EQUATION_3 = {"modulation_activation": "none", "compose_coordinates": False}
TOLERANCE = 1e-5  # of the largest value, float32


def relative_difference(found, expected):
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def relative_error(found, expected):
    return ((found.float() - expected).square().mean().sqrt() / expected.std()).item()


def make_generator(**kwargs):
    torch.manual_seed(0)
    kwargs = {"channels": 32, "num_classes": 5, "sample_size": 16} | kwargs
    return PolyINRGenerator(**kwargs).eval()


def draw_inputs(generator, batch_size=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn(batch_size, generator.config.z_dim, generator=rng)
    if generator.config.num_classes is None:
        return z, None
    return z, torch.randint(generator.config.num_classes, (batch_size,), generator=rng)


def draw_affine_parameters(generator, batch_size=2):
    with torch.no_grad():
        return generator.affine(generator.map(*draw_inputs(generator, batch_size)))


# --- agreement with the authors' network --------------------------------------------------------------------------


@functools.cache
def authors_generator(folder, name):
    return convert_original_checkpoint(folder / f"{name}.pkl").generator


@pytest.fixture(
    params=["official_conditional_n64", "official_unconditional_superres_n32", "authors_dill_cond7_n48"],
)
def authors(request, reference_values):
    """The generator of one of the authors' checkpoints, and what their code computes with it."""
    with np.load(reference_values / f"{request.param}.npz") as arrays:
        expected = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return authors_generator(reference_values, request.param), expected


@torch.no_grad()
def reproduce(generator, expected):
    """Every array of the authors' but the inputs, by name."""
    z, labels = expected["z"], expected["labels"].long() if len(expected["labels"]) else None
    w = generator.map(z, labels)
    mixed = torch.cat([w[:, :3], w.flip(0)[:, 3:7], w[:, 7:]], dim=1)
    found = {
        "w": w,
        "w_psi07": generator.map(z, labels, truncation_psi=0.7),
        "w_psi04_cut5": generator.map(z, labels, truncation_psi=0.4, truncation_cutoff=5),
        "image_native": generator(z, labels).sample,
        "image_psi07": generator(z, labels, truncation_psi=0.7).sample,
        "image_psi04_cut5": generator(z, labels, truncation_psi=0.4, truncation_cutoff=5).sample,
        "image_mix7": generator.render(generator.affine(torch.cat([w[:, :7], w.flip(0)[:, 7:]], dim=1))),
        "image_mix37": generator.render(generator.affine(mixed)),
        "image_uniform_32": generator.render(generator.affine(w), 32, 32, pixel_grid="uniform"),
        "image_45": generator.render(generator.affine(w), 45, 45),
        "image_extrapolated_33": generator.render(generator.affine(w), 33, 33, extent=(-0.25, -0.25, 1.25, 1.25)),
    }
    assert found.keys() >= expected.keys() - {"z", "labels"}
    return {name: array for name, array in found.items() if name in expected}


def test_agrees_with_the_authors_network(authors):
    generator, expected = authors
    for name, array in reproduce(generator, expected).items():
        assert relative_difference(array, expected[name]) <= TOLERANCE, name


def test_agrees_after_saving_and_loading(authors, tmp_path):
    generator, expected = authors
    generator.save_pretrained(tmp_path)
    loaded = PolyINRGenerator.from_pretrained(tmp_path)
    for name, array in reproduce(loaded, expected).items():
        assert relative_difference(array, expected[name]) <= TOLERANCE, name


# --- a pixel grid that was trained ----------------------------------------------------------------------------------


def make_trained_grid(size=16, **kwargs):
    generator = make_generator(sample_size=size, grid_size=size, **kwargs)
    generator.grid_displacement.normal_(generator=torch.Generator().manual_seed(5))
    return generator


@torch.no_grad()
@pytest.mark.parametrize(
    "height, width, extent", [(16, 15, (0, 0, 1, 1)), (16, 16, (0, 0, 1, 0.9)), (32, 32, (0, 0, 1, 1))]
)
def test_a_trained_grid_is_drawn_on_at_its_own_size_and_extent_only(height, width, extent):
    generator = make_trained_grid()
    A = draw_affine_parameters(generator)
    moved = pixel_coordinates(16, 16) + generator.grid_displacement.flatten(1).T / 15
    native = generator.synthesize(A, moved).transpose(1, 2).unflatten(2, (16, 16))
    assert relative_difference(generator.render(A), native) <= TOLERANCE
    assert relative_difference(generator.render(A, 16, 16, (0, 0, 1, 1), tolerance=1e-9), native) <= TOLERANCE
    *_, last = generator.render_progressive(A)
    assert relative_difference(last, native) <= TOLERANCE
    uniform = generator.synthesize(A, pixel_coordinates(height, width, extent)).transpose(1, 2)
    found = generator.render(A, height, width, extent)
    assert relative_difference(found.flatten(2), uniform) <= TOLERANCE
    generator.drop_trained_grid()
    assert torch.equal(generator.render(A, height, width, extent), found)
    assert relative_difference(generator.render(A), native) > 0.01


@torch.no_grad()
def test_an_interpolated_grid_is_the_trained_one_at_every_size():
    generator = make_trained_grid()
    A = draw_affine_parameters(generator)
    native, double = generator.render(A), generator.render(A, 31, 31, pixel_grid="interpolated")
    assert relative_difference(double[:, :, ::2, ::2], native) <= TOLERANCE
    quarter = generator.render(A, 8, 8, (0, 0, 7 / 15, 7 / 15), pixel_grid="interpolated")
    assert relative_difference(quarter, native[:, :, :8, :8]) <= TOLERANCE
    between = (generator.grid_displacement[:, 0, 0] + generator.grid_displacement[:, 0, 1]) / 2 / 15
    torch.testing.assert_close(
        generator.displace(torch.tensor([[0.0, 0.5 / 15]]), 31, 31, pixel_grid="interpolated")[0],
        torch.tensor([0.0, 0.5 / 15]) + between,
    )
    beyond = generator.displace(torch.tensor([[1.5, 2.0]]), 31, 31, (0, 0, 2, 2), "interpolated")[0]
    torch.testing.assert_close(beyond, torch.tensor([1.5, 2.0]) + generator.grid_displacement[:, -1, -1] / 15)


def test_what_a_trained_grid_is_used_for_is_named():
    generator = make_trained_grid()
    with pytest.raises(ValueError, match="`pixel_grid` must be one of .*'native'.*, got 'trained'"):
        generator.render(draw_affine_parameters(generator), pixel_grid="trained")
    with pytest.raises(ValueError, match="`grid_size` must be a whole number"):
        make_generator(grid_size=0)


@torch.no_grad()
def test_a_trained_grid_is_saved_in_any_precision(tmp_path):
    generator = make_trained_grid()
    A = draw_affine_parameters(generator)
    generator.save_pretrained(tmp_path)
    copy.deepcopy(generator).half().save_pretrained(tmp_path, variant="fp16")
    assert torch.equal(PolyINRGenerator.from_pretrained(tmp_path).render(A), generator.render(A))
    half = PolyINRGenerator.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    where = [one.displace(pixel_coordinates(16, 16), 16, 16) for one in (half, generator)]
    assert (where[0] - where[1]).abs().max() * 15 < 2e-3  # pixels


# --- agreement with the equations, written out per pixel in float64 ---------------------------------------------


def compute_unfolded(generator, w, coordinates, released):
    """Colours (N, 3) of one image: w (w_dim,), coordinates (N, 2); every level on every pixel, nothing folded."""
    weights = {name: tensor.detach().double().numpy() for name, tensor in generator.state_dict().items()}
    w, grid, x = w.double().numpy(), coordinates.double().numpy(), 1.0

    def lrelu(x):
        return np.where(x < 0, 0.2 * x, x)

    def linear(x, name, gain=1.0):
        return x @ (gain * weights[f"{name}.weight"]).T + weights[f"{name}.bias"]

    for level in range(generator.config.num_levels):
        affine = f"affine_levels.{level}"
        h = w if level == 0 else math.sqrt(2) * lrelu(linear(w, f"{affine}.hidden", 1 / math.sqrt(len(w))))
        if released:
            grid = grid @ linear(h, f"{affine}.rotation").reshape(2, 2) + linear(h, f"{affine}.shift")
        modulation = grid @ linear(h, f"{affine}.coefficient").reshape(2, -1) + linear(h, f"{affine}.bias")
        x = x * (lrelu(modulation) if released and level > 0 else modulation)
        x = lrelu(linear(x, f"synthesis_levels.{level}"))
        if released:
            x = np.clip(x, -256, 256)
    return torch.from_numpy(linear(x, "to_rgb")).float()


def randomize(generator):
    """Gives every parameter a part in the result: some start at zero."""
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in generator.parameters():
            scale = parameter.std().item() if parameter.dim() == 2 and parameter.std() > 0 else 0.1
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.1 * scale)
    return generator


@pytest.mark.parametrize("options, released", [({}, True), (EQUATION_3, False)], ids=["released", "equation 3"])
@pytest.mark.parametrize("extent", [(0, 0, 1, 1), (-0.25, 0.25, 1.25, 0.75)])
def test_synthesis_is_the_equation(options, released, extent):
    generator = randomize(make_generator(**options))
    w = generator.map(*draw_inputs(generator)).detach()
    coordinates = pixel_coordinates(7, 5, extent)
    rgb = generator.synthesize(generator.affine(w), coordinates).detach()  # (2, 35, 3)
    for image, one in zip(rgb, w, strict=True):
        assert relative_difference(image, compute_unfolded(generator, one[0], coordinates, released)) <= TOLERANCE


def test_levels_take_their_own_w():
    generator = randomize(make_generator(num_levels=3))
    w = generator.map(*draw_inputs(generator)).detach()
    mixed = torch.cat([w[:1, :2], w[1:, 2:]], dim=1)
    A, A_mixed = generator.affine(w), generator.affine(mixed)
    torch.testing.assert_close(A[0, :2], A_mixed[0, :2])
    torch.testing.assert_close(generator.affine(w[:, :1].expand(-1, 3, -1)), A)
    assert not torch.allclose(A[0, 2], A_mixed[0, 2])


def test_features_are_clamped():
    generator = make_generator(num_levels=2)
    A = draw_affine_parameters(generator) * 1e4
    for features in generator.features(A, pixel_coordinates(4, 4)):
        assert features.abs().max() == 256


def test_mapping_normalises_and_truncates():
    generator = make_generator()
    z, labels = draw_inputs(generator)
    torch.testing.assert_close(normalize_rms(z).square().mean(dim=1), torch.ones(2))
    generator.w_mean.normal_(generator=torch.Generator().manual_seed(3))
    w, w_mean = generator.map(z, labels), generator.w_mean[labels][:, None].expand(-1, 10, -1)
    torch.testing.assert_close(generator.map(z * 3, labels), w)
    torch.testing.assert_close(generator.map(z, labels, truncation_psi=0.0), w_mean)
    cut = generator.map(z, labels, truncation_psi=0.25, truncation_cutoff=4)
    torch.testing.assert_close(cut[:, :4], 0.75 * w_mean[:, :4] + 0.25 * w[:, :4])
    assert torch.equal(cut[:, 4:], w[:, 4:])


# --- sizes and initialisation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, count", [("imagenet", 45_869_695), ("ffhq", 13_198_399)])
def test_named_sizes_have_the_published_parameters(name, count):
    with torch.device("meta"):
        generator = PolyINRGenerator(**NAMED_SIZES[name])
    assert generator.num_parameters() == count
    assert all(parameter.is_meta and parameter.requires_grad for parameter in generator.parameters())


@torch.no_grad()
@pytest.mark.parametrize("channels, options", [(64, {}), (256, {}), (1024, {}), (64, EQUATION_3), (256, EQUATION_3)])
def test_signal_preserving_initialization_keeps_features_alive(channels, options):
    generator = make_generator(channels=channels, **options)
    A = draw_affine_parameters(generator, batch_size=4)
    rms = [x.square().mean().sqrt().item() for x in generator.features(A, pixel_coordinates(16, 16))]
    assert len(rms) == 10
    assert all(0.5 <= value <= 2 for value in rms), rms
    assert generator.render(A).std(dim=(2, 3)).mean() > 0.15


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, EQUATION_3])
def test_released_initialization_starts_flat(options):
    generator = make_generator(initialization="released", **options)
    assert generator.render(draw_affine_parameters(generator, 8)).std(dim=(2, 3)).max() < 0.01


@pytest.mark.parametrize(
    "argument",
    [{name: 0} for name in ("z_dim", "w_dim", "channels", "num_levels", "num_classes", "class_embed_dim")]
    + [{"num_mapping_layers": 0}, {"sample_size": -1}, {"modulation_activation": "relu"}, {"initialization": "zeros"}],
    ids=lambda argument: next(iter(argument)),
)
def test_constructor_refuses(argument):
    name, value = next(iter(argument.items()))
    with pytest.raises(ValueError, match=f"`{name}`.*{value}"):
        PolyINRGenerator(**argument)


# --- rendering ----------------------------------------------------------------------------------------------------


def test_coordinates_are_row_and_column():
    expected = [[0, 0], [0, 0.5], [0, 1], [1, 0], [1, 0.5], [1, 1]]
    assert pixel_coordinates(2, 3).tolist() == expected
    assert pixel_coordinates(1, 2, (0.5, -1, 1, 3)).tolist() == [[0.75, -1], [0.75, 3]]
    assert pixel_coordinates(1, 1).tolist() == [[0.5, 0.5]]
    assert homogeneous(pixel_coordinates(1, 1)).tolist() == [[0.5, 0.5, 1]]


@torch.no_grad()
@pytest.mark.parametrize("chunk_size", [1, 7, 1000, 10**6, None])
@pytest.mark.parametrize("options", [{}, EQUATION_3])
def test_render_is_forward_for_every_chunk_size(chunk_size, options):
    generator = make_generator(**options)
    z, labels = draw_inputs(generator)
    extent = (-0.5, 0.1, 1.5, 0.7)
    image = generator(z, labels, 9, 14, extent).sample
    assert image.shape == (2, 3, 9, 14)
    rendered = generator.render(generator.affine(generator.map(z, labels)), 9, 14, extent, chunk_size=chunk_size)
    assert relative_difference(rendered, image) <= TOLERANCE


@torch.no_grad()
def test_each_image_of_a_batch_is_its_own():
    generator = make_generator()
    A = draw_affine_parameters(generator, 3)
    images = generator.render(A, 6, 8)
    for i in range(3):
        assert relative_difference(generator.render(A[i : i + 1], 6, 8), images[i : i + 1]) <= TOLERANCE


@torch.no_grad()
def test_one_pixel_and_a_crop_are_those_of_the_image():
    generator = make_generator()
    A = draw_affine_parameters(generator)
    height, width = 13, 9
    image = generator.render(A, height, width)
    pixel = generator.synthesize(A, pixel_coordinates(height, width)[[5 * width + 2]])  # (B, 1, 3)
    assert relative_difference(pixel[:, 0], image[:, :, 5, 2]) <= TOLERANCE
    top, left, bottom, right = 3, 1, 10, 6
    extent = (top / (height - 1), left / (width - 1), bottom / (height - 1), right / (width - 1))
    crop = generator.render(A, bottom - top + 1, right - left + 1, extent)
    assert relative_difference(crop, image[:, :, top : bottom + 1, left : right + 1]) <= TOLERANCE


@torch.no_grad()
def test_lone_rows_and_columns_lie_in_the_middle():
    generator = make_generator()
    A = draw_affine_parameters(generator)
    image = generator.render(A, 5, 7)
    assert relative_difference(generator.render(A, 1, 7), image[:, :, 2:3]) <= TOLERANCE
    assert relative_difference(generator.render(A, 5, 1), image[:, :, :, 3:4]) <= TOLERANCE
    assert relative_difference(generator.render(A, 1, 1), image[:, :, 2:3, 3:4]) <= TOLERANCE


@torch.no_grad()
def test_antialias_is_the_mean_of_shifted_renders():
    generator = make_generator()
    A = draw_affine_parameters(generator)
    height, width, extent = 6, 11, (0.0, -0.5, 0.5, 1.0)
    total = 0
    for row in (-0.25, 0.25):
        for column in (-0.25, 0.25):
            down, across = row * 0.5 / (height - 1), column * 1.5 / (width - 1)
            shifted = (extent[0] + down, extent[1] + across, extent[2] + down, extent[3] + across)
            total = total + generator.render(A, height, width, shifted)
    found = generator.render(A, height, width, extent, antialias=2, chunk_size=10)
    assert relative_difference(found, total / 4) <= TOLERANCE
    assert relative_difference(found, generator.render(A, height, width, extent)) > TOLERANCE


def test_render_reports_progress_and_keeps_no_graph():
    generator = make_generator()
    done = []
    image = generator.render(draw_affine_parameters(generator), 4, 5, chunk_size=16, callback=lambda *n: done.append(n))
    assert done == [(8, 20), (16, 20), (20, 20)]
    assert not image.requires_grad


class StorageSizes(TorchDispatchMode):
    """Bytes of every tensor that an operation returns, by where it is stored."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.sizes.append((result.untyped_storage().nbytes(), result.data_ptr()))
        return result


@torch.no_grad()
@pytest.mark.parametrize("antialias", [1, 2])
def test_render_allocates_nothing_of_the_size_of_the_image_but_the_image(antialias):
    generator = make_generator()
    A, chunk_size, size = draw_affine_parameters(generator, 1), 4096, 256
    with StorageSizes() as storages:
        image = generator.render(A, size, size, chunk_size=chunk_size, antialias=antialias)
    image_bytes = image.numel() * 4
    limit = chunk_size * generator.config.channels * 4
    assert limit < image_bytes
    assert {nbytes for nbytes, _ in storages.sizes if nbytes > limit} == {image_bytes}
    inside = range(image.data_ptr(), image.data_ptr() + image_bytes)
    assert all(pointer in inside for nbytes, pointer in storages.sizes if nbytes > limit)


# --- precision, gradients, compilation ------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.12), (torch.float16, 0.02)])
def test_low_precision_weights(dtype, tolerance):
    generator = make_generator()
    z, labels = draw_inputs(generator)
    expected = generator(z, labels).sample
    generator.to(dtype)
    A = generator.affine(generator.map(z, labels))
    image, rendered = generator(z, labels).sample, generator.render(A)
    assert A.dtype == torch.float32
    assert image.dtype == rendered.dtype == dtype
    assert relative_error(image, expected) < tolerance
    assert relative_error(rendered, expected) < tolerance


def test_autocast():
    generator = make_generator()
    z, labels = draw_inputs(generator)
    expected = generator(z, labels).sample
    with torch.autocast("cpu", torch.bfloat16):
        image = generator(z, labels).sample
    assert image.dtype == torch.bfloat16
    assert relative_error(image.detach(), expected.detach()) < 0.12
    image.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())


@torch.no_grad()
@pytest.mark.parametrize("low_precision", ["weights", "autocast"])
def test_low_precision_keeps_neighbouring_pixels_apart(low_precision):
    """bfloat16 has 8 bits: coordinates rounded to it would make steps of 256 pixels out of 4,096."""
    generator = make_generator()
    A = draw_affine_parameters(generator, 1)
    coordinates = pixel_coordinates(1, 4096)
    if low_precision == "weights":
        generator.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=low_precision == "autocast"):
        first = next(generator.features(A, coordinates))[0]  # (4096, n)
    assert (first.diff(dim=0) != 0).any(dim=1).float().mean() > 0.5


@pytest.mark.parametrize("wanted", ["A", "coordinates"])
def test_synthesize_has_the_right_gradient(wanted):
    generator = make_generator(channels=8, num_levels=3).double()
    inputs = {
        "A": draw_affine_parameters(generator.float(), 1).requires_grad_(wanted == "A"),
        "coordinates": pixel_coordinates(3, 2, (0.1, 0.2, 0.8, 0.9)).requires_grad_(wanted == "coordinates"),
    }
    direction = torch.randn(inputs[wanted].shape, generator=torch.Generator().manual_seed(4))
    output = generator.synthesize(**inputs).sum()
    slope = (torch.autograd.grad(output, inputs[wanted])[0] * direction).sum()
    step = 1e-2
    with torch.no_grad():
        ahead, behind = (
            generator.synthesize(**inputs | {wanted: inputs[wanted] + sign * step * direction}).sum()
            for sign in (1, -1)
        )
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=2e-2, atol=1e-2)


def test_gradient_checkpointing_changes_no_gradient():
    generator = make_generator(sample_size=6)
    z, labels = draw_inputs(generator)
    gradients = []
    for enable in (generator.disable_gradient_checkpointing, generator.enable_gradient_checkpointing):
        enable()
        generator.zero_grad()
        generator.train()
        generator(z, labels).sample.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in generator.named_parameters()})
    assert generator.is_gradient_checkpointing
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_compiles_without_graph_breaks():
    torch.compiler.reset()
    generator = make_generator(num_levels=3)
    z, labels = draw_inputs(generator)
    compiled = torch.compile(generator, fullgraph=True, backend="aot_eager")
    expected = generator(z, labels, 5, 8, truncation_psi=0.7).sample
    image = compiled(z, labels, 5, 8, truncation_psi=0.7).sample
    assert relative_difference(image.detach(), expected.detach()) <= TOLERANCE
    found = torch.autograd.grad(image.sum(), list(generator.parameters()))
    wanted = torch.autograd.grad(expected.sum(), list(generator.parameters()))
    for gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_compiles_once_for_any_size():
    torch.compiler.reset()
    generator = make_generator(num_levels=2)
    z, labels = draw_inputs(generator)
    compiled = torch.compile(generator, fullgraph=True, dynamic=True, backend="eager")
    compiled(z, labels, 5, 8, truncation_psi=0.7)
    with torch._dynamo.config.patch(error_on_recompile=True):
        image = compiled(z, labels, 9, 7, truncation_psi=0.6).sample
    assert relative_difference(image, generator(z, labels, 9, 7, truncation_psi=0.6).sample) <= TOLERANCE


@pytest.mark.parametrize("how", ["compile", "compile_repeated_blocks"])
def test_render_is_compiled_with_the_model(how):
    torch.compiler.reset()
    calls = []

    def backend(graph, inputs):
        return lambda *args: calls.append(1) or graph(*args)

    generator = make_generator(num_levels=3)
    A = draw_affine_parameters(generator)
    expected = generator.render(A, 6, 7)
    getattr(generator, how)(fullgraph=True, backend=backend)
    assert torch.equal(generator.render(A, 6, 7), expected)
    assert len(calls) == 2  # levels 1 and 2
    other = copy.deepcopy(generator)
    other.synthesis_levels[1].bias.data += 1
    assert not torch.equal(other.render(A, 6, 7), expected)


# --- where weights are and what they are stored in ------------------------------------------------------------------


@torch.no_grad()
def test_weights_may_be_elsewhere_until_they_are_needed(tmp_path):
    """As in sequential offload, whose hooks load a module's weights for its forward and drop them afterwards."""
    generator = make_generator()
    z, labels = draw_inputs(generator)
    expected = generator.render(generator.affine(generator.map(z, labels, truncation_psi=0.5)), 6, 7)
    disk_offload(generator, tmp_path, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in generator.parameters())
    found = generator.render(generator.affine(generator.map(z, labels, truncation_psi=0.5)), 6, 7)
    assert torch.equal(found, expected)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The following device_map keys do not match:UserWarning")  # accelerate, of a buffer
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_a_device_map_with_offload(tmp_path, share):
    """Wherever the map cuts the model: into levels that are here, and levels that are on disk until they are run."""
    generator = make_trained_grid(channels=16)
    generator.w_mean.normal_()
    generator.save_pretrained(tmp_path / "model")
    z, labels = draw_inputs(generator)
    A = generator.affine(generator.map(z, labels, truncation_psi=0.5))
    available = {"cpu": int(share * sum(tensor.nbytes for tensor in generator.parameters()))}
    opened = PolyINRGenerator.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory=available, offload_folder=str(tmp_path / "offload")
    )
    assert "disk" in opened.hf_device_map.values()
    assert torch.equal(opened.affine(opened.map(z, labels, truncation_psi=0.5)), A)
    assert torch.equal(opened.render(A), generator.render(A))
    assert torch.equal(opened(z, labels).sample, generator(z, labels).sample)


def test_what_looks_for_linear_layers_finds_those_that_act_as_such():
    """Quantization and LoRA replace every `nn.Linear`; level 0 multiplies affine parameters, and is none."""
    generator = make_generator()
    linear = {name for name, module in generator.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name for name in linear if name.startswith("synthesis")} == {
        f"synthesis_levels.{level}" for level in range(1, 10)
    }
    assert {"synthesis_levels.0.weight", "synthesis_levels.0.bias"} < generator.state_dict().keys()


def test_group_offloading_is_refused():
    with pytest.raises(ValueError, match="PolyINRGenerator"):
        make_generator().enable_group_offload(torch.device("cpu"))


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_layerwise_casting(compute_dtype):
    generator = make_generator().to(compute_dtype)
    z, labels = draw_inputs(generator)
    expected = generator(z, labels, 6, 7).sample.float()
    generator.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype)
    assert generator.synthesis_levels[1].weight.dtype == generator.to_rgb.weight.dtype == torch.float8_e4m3fn
    A = generator.affine(generator.map(z, labels))
    for image in (generator(z, labels, 6, 7).sample, generator.render(A, 6, 7)):
        assert image.dtype == compute_dtype
        assert 0 < relative_error(image, expected) < 0.2  # three bits of mantissa


# --- numbers ------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("number", [np.array, torch.tensor, np.float32], ids=["numpy", "torch", "float32"])
def test_numbers_of_any_library(number):
    generator = make_generator()
    z, labels = draw_inputs(generator)
    whole = np.int64 if number is np.float32 else number
    extent, sizes = (0.0, -0.5, 1.0, 1.5), (whole(6), whole(7))
    A = generator.affine(generator.map(z, labels, 0.5, 2))
    assert torch.equal(generator.affine(generator.map(z, labels, number(0.5), whole(2))), A)
    expected = generator.render(A, 6, 7, extent, antialias=2, chunk_size=5)
    found = generator.render(A, *sizes, number(extent), antialias=whole(2), chunk_size=whole(5))
    assert torch.equal(found, expected)
    expected = generator(z, labels, 6, 7, extent).sample
    assert torch.equal(generator(z, labels, *sizes, [number(side) for side in extent]).sample, expected)


# --- bad input ----------------------------------------------------------------------------------------------------

CALLS = {
    "z": lambda g, z, y, A: g.map(z[:, :-1], y),
    "class_labels": lambda g, z, y, A: g.map(z),
    "class_labels ": lambda g, z, y, A: g.map(z, y[:1]),
    "truncation_cutoff": lambda g, z, y, A: g.map(z, y, 0.5, 11),
    "w": lambda g, z, y, A: g.affine(z),
    "affine_parameters": lambda g, z, y, A: g.synthesize(A[:, 1:], pixel_coordinates(2, 2)),
    "affine_parameters ": lambda g, z, y, A: g.render(A[0]),
    "coordinates": lambda g, z, y, A: g.synthesize(A, torch.zeros(4, 3)),
    "truncation_psi": lambda g, z, y, A: g.map(z, y, math.nan),
    "truncation_psi ": lambda g, z, y, A: g.map(z, y, np.array([0.5, 0.5])),
    "truncation_psi  ": lambda g, z, y, A: g.map(z, y, torch.ones(2)),
    "truncation_psi   ": lambda g, z, y, A: g.map(z, y, np.True_),
    "truncation_cutoff ": lambda g, z, y, A: g.map(z, y, 0.5, 1.0),
    "truncation_cutoff  ": lambda g, z, y, A: g.map(z, y, 0.5, torch.tensor(True)),
    "height": lambda g, z, y, A: g.render(A, 0, 4),
    "height ": lambda g, z, y, A: g.render(A, np.float32(4), 4),
    "height  ": lambda g, z, y, A: g.render(A, "4", 4),
    "`height` x `width` of 1000000 x 2000000 needs 48,000 GB": lambda g, z, y, A: g.render(A, 1_000_000, 2_000_000),
    "width": lambda g, z, y, A: g.render(A, 4, -1),
    "width ": lambda g, z, y, A: g(z, y, 4, 2.5),
    "extent": lambda g, z, y, A: g.render(A, extent=(0, 0, 0, 1)),
    "extent ": lambda g, z, y, A: g(z, y, extent=(0, math.nan, 1, 1)),
    "extent  ": lambda g, z, y, A: g(z, y, extent=(0, 0, 1)),
    "extent   ": lambda g, z, y, A: g(z, y, extent="0011"),
    "extent    ": lambda g, z, y, A: g(z, y, extent=torch.tensor(1.0)),
    "extent     ": lambda g, z, y, A: g(z, y, extent=np.array([0, 0, 1, math.inf])),
    "antialias": lambda g, z, y, A: g.render(A, antialias=0),
    "tolerance": lambda g, z, y, A: g.render(A, tolerance=-0.1),
    "chunk_size": lambda g, z, y, A: g.render(A, chunk_size=-5),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_arguments_are_named(name):
    generator = make_generator()
    with pytest.raises(ValueError, match=name.strip()):
        CALLS[name](generator, *draw_inputs(generator), draw_affine_parameters(generator))


def test_an_unconditional_model_refuses_labels():
    generator = make_generator(num_classes=None)
    z, _ = draw_inputs(generator)
    with pytest.raises(ValueError, match="class_labels.*unconditional"):
        generator.map(z, torch.zeros(2, dtype=torch.int64))
    assert generator.w_mean.shape == (1, 512)
