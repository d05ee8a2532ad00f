"""Which dtypes devices multiply, by what is known of them, and that rendering multiplies by nothing slower."""

import pytest
import torch

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.devices import KNOWN, Device, choose_precision, cpu_products, describe, product_dtype

BOTH = {torch.bfloat16, torch.float16}
EMULATING = Device("cpu", "AVX2", frozenset())
ZEN_4 = {"avx2": True, "avx512_bf16": True, "amx_bf16": False, "avx512_fp16": False}
SAPPHIRE = {"avx2": True, "avx512_bf16": True, "amx_bf16": True, "avx512_fp16": True}


@pytest.mark.parametrize(
    ("capabilities", "limit", "products"),
    [
        ({}, None, set()),
        ({"avx2": True}, None, set()),
        ({"avx512_f": True, "avx512_bf16": False}, None, set()),
        (ZEN_4, None, {torch.bfloat16}),
        (ZEN_4, "AVX2", set()),
        (ZEN_4, "AVX512_CORE_VNNI", set()),
        (ZEN_4, "avx512_core_bf16", {torch.bfloat16}),
        (ZEN_4, "DEFAULT", {torch.bfloat16}),
        (SAPPHIRE, None, BOTH),
        (SAPPHIRE, "AVX512_CORE_BF16", {torch.bfloat16}),
        (SAPPHIRE, "AVX512_CORE_AMX", BOTH),
        ({"bf16": True, "sve": True}, None, {torch.bfloat16}),  # Arm's
    ],
)
def test_products_of_a_cpu_are_its_instructions_that_onednn_may_use(capabilities, limit, products):
    environment = {} if limit is None else {"ONEDNN_MAX_CPU_ISA": limit}
    assert cpu_products(capabilities, environment) == products


@pytest.mark.parametrize(
    ("device", "precision", "why"),
    [
        (Device.of_cuda((6, 0), "Tesla P100"), "fp16", "with a gradient scaler: this Tesla P100 multiplies float16"),
        (Device.of_cuda((7, 5), "Tesla T4"), "fp16", "with a gradient scaler: this Tesla T4 multiplies float16"),
        (Device.of_cuda((8, 0), "A100"), "bf16", "which this A100 multiplies"),
        (Device.of_cuda((5, 0), "Tesla M60"), "no", "float32"),
        (Device("cuda", "MI300X"), "bf16", "which this MI300X multiplies"),
        (Device("mps"), "no", "float32, as products of 16 bits are not confirmed on mps"),
        (Device("cpu", products=frozenset({torch.bfloat16})), "bf16", "which this CPU multiplies"),
        (EMULATING, "no", "float32, as this CPU only emulates products of 16 bits"),
    ],
)
def test_training_takes_the_best_products_of_a_device(device, precision, why):
    chosen, reason = choose_precision("auto", None, device)
    assert chosen == precision and reason.startswith(why)
    assert choose_precision("auto", "no", device)[0] == precision  # launched by accelerate, which was not told


def test_what_is_asked_for_comes_before_what_accelerate_was_told_and_that_before_the_device():
    t4 = Device.of_cuda((7, 5), "Tesla T4")
    assert choose_precision("no", "bf16", t4) == ("no", "as the recipe says")
    precision, why = choose_precision("auto", "bf16", t4)
    assert precision == "bf16" and "this Tesla T4 only emulates bfloat16: run.mixed_precision=auto" in why
    with pytest.raises(ValueError, match="`run.mixed_precision` must be .* on a CPU, got 'fp16'"):
        choose_precision("auto", "fp16", EMULATING)


def test_where_no_gradients_are_scaled_float16_is_taken_only_if_told():
    t4 = Device.of_cuda((7, 5), "Tesla T4")
    precision, why = choose_precision("auto", None, t4, scales=False)
    assert precision == "no" and why.startswith("float32") and why.endswith("without the gradient scaler of a Tesla T4")
    assert choose_precision("auto", "fp16", t4, scales=False)[0] == "fp16"
    assert choose_precision("auto", None, Device.of_cuda((8, 0), "A100"), scales=False)[0] == "bf16"


def test_only_emulated_products_move_to_float32(monkeypatch):
    monkeypatch.setitem(KNOWN, "cpu", EMULATING)
    cpu = torch.device("cpu")
    assert [product_dtype(dtype, cpu) for dtype in (*BOTH, torch.float32)] == [torch.float32] * 3
    assert product_dtype(torch.float64, cpu) == torch.float64
    monkeypatch.setitem(KNOWN, "cpu", Device("cpu", products=frozenset({torch.bfloat16})))
    assert product_dtype(torch.bfloat16, cpu) == torch.bfloat16
    assert product_dtype(torch.float16, cpu) == torch.float32


def test_this_machine_is_described():
    device = describe("cpu")
    assert device.type == "cpu" and device.products <= BOTH and device is describe("cpu")


# --- rendering --------------------------------------------------------------------------------------------------------
@pytest.fixture
def emulating(monkeypatch):
    monkeypatch.setitem(KNOWN, "cpu", EMULATING)


def make_generator(dtype: torch.dtype) -> PolyINRGenerator:
    torch.manual_seed(0)
    return PolyINRGenerator(channels=32, num_levels=4, num_classes=None, sample_size=16).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_where_products_are_emulated_an_image_is_float32s(emulating, dtype, tolerance):
    """Weights and result stay as they were asked for; between them all is as if the same weights were float32."""
    half = make_generator(dtype)
    whole = make_generator(dtype).float()
    A = whole.affine(whole.map(torch.randn(2, 64)))
    image = half.render(A, 24, 20, tolerance=tolerance, chunk_size=64)
    assert image.dtype == half.dtype == dtype
    torch.testing.assert_close(image, whole.render(A, 24, 20, tolerance=tolerance).to(dtype), rtol=0, atol=0)
    assert all(layer.upcast is None for layer in (*half.synthesis_levels[1:], half.to_rgb))


@pytest.mark.parametrize("dtype", BOTH)
def test_where_products_are_emulated_gradients_are_float32s(emulating, dtype):
    half, coordinates = make_generator(dtype).requires_grad_(True), torch.rand(50, 2)
    whole = make_generator(dtype).float()
    A = whole.affine(whole.map(torch.randn(1, 64)))
    ours, theirs = A.clone().requires_grad_(True), A.clone().requires_grad_(True)
    colors = half.synthesize(ours, coordinates)
    assert colors.dtype == dtype
    colors.float().square().sum().backward()
    whole.synthesize(theirs, coordinates).to(dtype).float().square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    assert half.synthesis_levels[1].weight.grad.dtype == dtype


def test_no_level_multiplies_in_an_emulated_dtype(emulating, monkeypatch):
    """Pixels meet weights in float32 only, whose copies are made once for all chunks."""
    half, seen, linear = make_generator(torch.bfloat16), [], torch.nn.functional.linear

    def watch(x, weight, bias=None):
        seen.append((x.dtype, weight.dtype, weight.data_ptr()))
        return linear(x, weight, bias)

    A = half.affine(half.map(torch.randn(1, 64)))
    monkeypatch.setattr(torch.nn.functional, "linear", watch)
    half.render(A, 16, 16, chunk_size=32)
    assert len(seen) == 4 * 8  # three levels and the colors, in eight chunks
    assert {kinds[:2] for kinds in seen} == {(torch.float32, torch.float32)}
    assert len({pointer for *_, pointer in seen}) == 4


def test_where_products_are_native_they_are_taken(monkeypatch):
    monkeypatch.setitem(KNOWN, "cpu", Device("cpu", products=frozenset(BOTH)))
    half = make_generator(torch.bfloat16)
    A = half.affine(half.map(torch.randn(1, 64)))
    assert {x.dtype for x in half.features(A, torch.rand(5, 2))} == {torch.bfloat16}


def test_previews_end_in_the_image(emulating):
    half = make_generator(torch.bfloat16)
    A = half.affine(half.map(torch.randn(2, 64)))
    previews = list(half.render_progressive(A, 32, 32, tolerance=0.05))
    assert len(previews) > 1 and previews[-1].dtype == torch.bfloat16
    assert torch.equal(previews[-1], half.render(A, 32, 32, tolerance=0.05))


def test_a_pipeline_of_sixteen_bits_draws_what_float32_draws(emulating):
    images = {}
    for dtype in (torch.float32, torch.bfloat16):
        pipe = PolyINRPipeline(make_generator(torch.bfloat16).to(dtype))
        pipe.set_progress_bar_config(disable=True)
        A = PolyINRPipeline(make_generator(torch.float32)).encode(generator=torch.Generator().manual_seed(0))
        images[dtype] = pipe(affine_parameters=A, height=16, width=16, output_type="pt").images.float()
    torch.testing.assert_close(images[torch.bfloat16], images[torch.float32], rtol=0, atol=2**-8)
