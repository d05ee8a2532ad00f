import json
import shutil
import time
import typing

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import ImagePipelineOutput

from polyinr_hf import PolyINRGenerator, PolyINRPipeline

ID2LABEL = {0: "tench, Tinca tinca", 1: "goldfish, Carassius auratus", 2: "great white shark", 3: "tabby"}
Z_DIM, SIZE = 8, 16
NAN = float("nan")


def make_generator(num_classes: int | None = 4) -> PolyINRGenerator:
    torch.manual_seed(0)
    model = PolyINRGenerator(
        z_dim=Z_DIM,
        w_dim=16,
        channels=16,
        num_levels=3,
        num_classes=num_classes,
        class_embed_dim=8,
        sample_size=SIZE,
    )
    model.w_mean.normal_()
    return model.eval()


@pytest.fixture
def pipe() -> PolyINRPipeline:
    pipe = PolyINRPipeline(make_generator(), ID2LABEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def unconditional() -> PolyINRPipeline:
    pipe = PolyINRPipeline(make_generator(num_classes=None))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


def draw(pipe: PolyINRPipeline, *labels, seed: int = 0, **kwargs) -> torch.Tensor:
    """Images (B, 3, H, W) of these labels, every one with the same seed; one image if unconditional."""
    generator = seeds(*[seed] * max(len(labels), 1))
    return pipe(class_labels=list(labels) or None, generator=generator, output_type="pt", **kwargs).images


def assert_same(actual, expected, tolerance=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# -- labels -----------------------------------------------------------------------------------------------------------
def test_labels_are_every_synonym(pipe):
    assert pipe.labels == {
        "Carassius auratus": 1,
        "Tinca tinca": 0,
        "goldfish": 1,
        "great white shark": 2,
        "tabby": 3,
        "tench": 0,
    }
    assert list(pipe.labels) == sorted(pipe.labels)
    assert pipe.id2label == ID2LABEL


@pytest.mark.parametrize(
    "label, ids",
    [
        ("great-white_shark", [2]),
        ("  GREAT   WHITE-SHARK ", [2]),
        ("tinca_tinca", [0]),
        ("2", [2]),
        ("goldfish", [1]),
        ("Goldfish", [1]),
        ("tench, Tinca tinca", [0]),
        (["Carassius auratus", "tabby"], [1, 3]),
    ],
)
def test_get_label_ids(pipe, label, ids):
    assert pipe.get_label_ids(label) == ids


def test_names_of_a_mac_are_found():
    """File names there are decomposed: e and an accent, where what is typed is one letter."""
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for name in (composed, decomposed):
        pipe = PolyINRPipeline(make_generator(), {0: "tench", 1: name})
        assert pipe.get_label_ids([composed, decomposed, composed.upper()]) == [1, 1, 1]


def test_many_names_are_found_by_one_table():
    generator = make_generator(num_classes=400)
    pipe = PolyINRPipeline(generator, {key: f"name {key}, synonym {key}" for key in range(400)})
    names = [f"Name {key}" for key in range(0, 400, 4)]

    def seconds(find) -> float:
        start = time.perf_counter()
        assert find() == list(range(0, 400, 4))
        return time.perf_counter() - start

    one_by_one = seconds(lambda: [pipe.class_ids(name)[0] for name in names])
    assert seconds(lambda: pipe.class_ids(names)) < one_by_one / 10
    assert pipe.class_ids(["synonym 3", 5, "7"], 2) == [3, 3, 5, 5, 7, 7]


def test_unknown_name_suggests_the_nearest(pipe):
    with pytest.raises(ValueError, match="'goldfsh'.* Did you mean 'goldfish'"):
        pipe.get_label_ids("goldfsh")


@pytest.mark.parametrize("name", ["red apple", "Red_Apple", "red-apple", "RED APPLE"])
def test_words_of_a_name_may_be_parted_by_anything(name):
    names = {0: "red-apple", 1: "woman-s-boot", 2: "100", 3: "c++, ♥"}
    pipe = PolyINRPipeline(make_generator(), names)
    assert pipe.get_label_ids([name, "Woman's boot", "C++", "♥"]) == [0, 1, 3, 3]
    assert pipe.get_label_ids(["100", "1"]) == [2, 1]  # a name first, then an id
    with pytest.raises(ValueError, match=r"`class_labels`.*0\.\.3.*'4'"):
        pipe.get_label_ids("4")
    with pytest.raises(ValueError, match="unknown class name '--'"):
        pipe.get_label_ids("--")


@pytest.mark.parametrize("stored", ["caf\u00e9", "cafe\u0301"])
def test_letters_of_a_name_may_be_composed_or_not(stored):
    pipe = PolyINRPipeline(make_generator(), {0: "bar", 1: f"{stored}, inn", 2: "tench", 3: "tabby"})
    for name in ("caf\u00e9", "cafe\u0301", "CAFE\u0301", "CAF\u00c9", f"{stored}, inn"):
        assert pipe.get_label_ids(name) == [1]
    assert pipe.id2label[1] == "caf\u00e9, inn" and pipe.labels["caf\u00e9"] == 1


def test_names_that_differ_in_hyphens_only():
    pipe = PolyINRPipeline(make_generator(), {0: "e-mail", 1: "e mail", 2: "tench", 3: "tabby"})
    assert pipe.get_label_ids(["e-mail", "E MAIL"]) == [0, 1]
    with pytest.raises(ValueError, match=r"'e_mail', the name of classes \[0, 1\]"):
        pipe.get_label_ids("e_mail")


@pytest.mark.parametrize(
    "labels",
    [
        np.array([1, 3]),
        [np.int64(1), np.uint8(3)],
        [torch.tensor(1), np.array(3)],
        np.array(["goldfish", "tabby"]),
        ("1", "3"),
        torch.tensor([1, 3], dtype=torch.int32),
    ],
    ids=str,
)
def test_labels_of_any_library(pipe, labels):
    assert_same(pipe(labels, generator=seeds(0, 0), output_type="pt").images, draw(pipe, 1, 3))
    single = labels[1] if isinstance(labels, (list, tuple)) else labels[1:]
    assert_same(pipe(single, generator=seeds(0), output_type="pt").images, draw(pipe, 3))


def test_numbers_of_any_library(pipe):
    expected = pipe(1, 2, 0.5, 2, 5, 6, (0.0, 0.0, 0.5, 1.0), 2, generator=seeds(0, 1), output_type="pt").images
    numbers = (np.int64(2), np.float32(0.5), torch.tensor(2), np.array(5), torch.tensor([6]))
    extent = torch.tensor([0.0, 0.0, 0.5, 1.0])
    found = pipe(np.int16(1), *numbers, extent, np.uint8(2), generator=seeds(0, 1), output_type="pt").images
    assert torch.equal(found, expected)


def test_names_ids_and_tensors_are_the_same_labels(pipe):
    by_id = draw(pipe, 1, 3)
    assert_same(draw(pipe, "goldfish", "tabby"), by_id)
    assert_same(draw(pipe, "Carassius auratus", 3), by_id)
    tensor = pipe(class_labels=torch.tensor([1, 3]), generator=seeds(0, 0), output_type="pt").images
    assert_same(tensor, by_id)
    assert not torch.allclose(by_id[0], by_id[1])
    assert_same(pipe(class_labels="goldfish", generator=seeds(0), output_type="pt").images, by_id[:1])


def test_images_of_one_label_are_consecutive(pipe):
    images = pipe([1, 3], num_images_per_label=2, generator=seeds(5, 6, 5, 6), output_type="pt").images
    assert_same(
        images, torch.cat([draw(pipe, 1, seed=5), draw(pipe, 1, seed=6), draw(pipe, 3, seed=5), draw(pipe, 3, seed=6)])
    )


def test_unconditional(unconditional):
    images = unconditional(num_images_per_label=3, generator=seeds(0, 1, 2), output_type="pt").images
    assert images.shape == (3, 3, SIZE, SIZE)
    assert_same(images[1:2], draw(unconditional, seed=1))


# -- defaults of a pipeline -------------------------------------------------------------------------------------------
def test_a_pipeline_has_its_own_psi_and_size(tmp_path):
    plain = PolyINRPipeline(make_generator(), ID2LABEL)
    pipe = PolyINRPipeline(make_generator(), ID2LABEL, default_truncation_psi=np.float32(0.5), default_size=np.int64(9))
    pipe.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert (index["default_truncation_psi"], index["default_size"]) == (0.5, 9)
    expected = draw(plain, 1, truncation_psi=0.5, height=9, width=9)
    for opened in (pipe, PolyINRPipeline.from_pretrained(tmp_path)):
        assert_same(draw(opened, 1), expected)
        assert_same(opened.encode(1, generator=seeds(0)), plain.encode(1, 1, 0.5, generator=seeds(0)))
        assert draw(opened, 1, width=4).shape[2:] == (9, 4)
        assert_same(draw(opened, 1, truncation_psi=1.0, height=SIZE, width=SIZE), draw(plain, 1))


@pytest.mark.parametrize(
    "kwargs", [{"default_truncation_psi": NAN}, {"default_truncation_psi": "0.7"}, {"default_size": 0}], ids=str
)
def test_defaults_that_are_none(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        PolyINRPipeline(make_generator(), **kwargs)


def test_from_pipe(pipe):
    pipe = PolyINRPipeline(pipe.generator, ID2LABEL, default_truncation_psi=0.5)
    pipe.set_progress_bar_config(disable=True)
    other = PolyINRPipeline.from_pipe(pipe, default_size=5)
    assert other.generator is pipe.generator
    assert (other.id2label, other.config.default_truncation_psi) == (ID2LABEL, 0.5)
    assert_same(draw(other, "tench"), draw(pipe, "tench", height=5, width=5))
    generator = make_generator()
    assert PolyINRPipeline.from_pipe(pipe, generator=generator).generator is generator


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_another_pipeline_keeps_the_dtype(pipe, dtype, caplog):
    pipe.to(dtype)
    with caplog.at_level("WARNING"):
        other = PolyINRPipeline.from_pipe(pipe, default_size=5)
        other.to("cpu")
    assert (pipe.dtype, other.dtype) == (dtype, dtype)
    assert PolyINRPipeline.from_pipe(pipe, dtype=torch.float32).dtype == torch.float32
    assert "float32" not in caplog.text


def test_types_for_editors_and_type_checkers():
    """`.images` is no attribute of a tuple, and a pipeline's generator is ours; diffusers compares another type."""
    calls = typing.get_overloads(PolyINRPipeline.__call__.__wrapped__)
    assert [typing.get_type_hints(call)["return"] for call in calls] == [ImagePipelineOutput, tuple]
    assert typing.get_type_hints(PolyINRPipeline)["generator"] is PolyINRGenerator


# -- truncation, size, extent -----------------------------------------------------------------------------------------
def test_truncation_pulls_to_the_mean_of_the_class(pipe):
    assert_same(draw(pipe, 1, seed=0, truncation_psi=0.0), draw(pipe, 1, seed=1, truncation_psi=0.0))
    assert not torch.allclose(draw(pipe, 1, truncation_psi=0.0), draw(pipe, 2, truncation_psi=0.0))
    full = draw(pipe, 1)
    assert not torch.allclose(draw(pipe, 1, truncation_psi=0.7), full)
    assert_same(draw(pipe, 1, truncation_psi=0.0, truncation_cutoff=0), full)
    assert_same(draw(pipe, 1, truncation_psi=0.0, truncation_cutoff=3), draw(pipe, 1, truncation_psi=0.0))
    partly = draw(pipe, 1, truncation_psi=0.0, truncation_cutoff=2)
    assert not torch.allclose(partly, full)


@pytest.mark.parametrize("height, width", [(5, 9), (1, 1), (33, None)])
def test_sizes(pipe, height, width):
    images = pipe([0, 1], height=height, width=width).images
    assert [image.size for image in images] == [(width or SIZE, height)] * 2


def test_an_extent_is_a_region_of_the_image(pipe):
    whole = draw(pipe, 2, height=9, width=9)
    assert_same(draw(pipe, 2, height=5, width=5, extent=(0.5, 0, 1, 0.5)), whole[:, :, 4:, :5])
    beyond = draw(pipe, 2, height=17, width=17, extent=(-0.5, -0.5, 1.5, 1.5))
    assert_same(beyond[:, :, 4:13, 4:13], whole)


def test_antialias_averages_within_a_pixel(pipe):
    sharp, smooth = draw(pipe, 2), draw(pipe, 2, antialias=3)
    assert smooth.shape == sharp.shape
    assert not torch.equal(smooth, sharp)
    # 2 x 2 pixels over [0, 1]: a pixel's square reaches from -0.5 to 0.5, and 2 x 2 points lie at +-0.25 in it.
    points = draw_raw(pipe, height=4, width=4, extent=(-0.25, -0.25, 1.25, 1.25))
    expected = torch.nn.functional.avg_pool2d(points, 2)
    assert_same(draw_raw(pipe, height=2, width=2, antialias=2), expected)


def test_tolerance_is_that_of_render(pipe):
    size = {"height": 90, "width": 70}
    A = pipe.encode(2, generator=torch.Generator().manual_seed(0))
    expected = pipe.generator.render(A, **size, tolerance=0.2)
    found = pipe(affine_parameters=A, **size, tolerance=0.2, output_type="pt").images
    assert_same(found, (expected / 2 + 0.5).clamp(0, 1))
    exact = pipe(affine_parameters=A, **size, output_type="pt").images
    assert 0 < (found - exact).abs().mean() < 0.02


def draw_raw(pipe, **kwargs) -> torch.Tensor:
    """Not clipped to [0, 1]."""
    model = pipe.generator
    A = model.affine(model.map(torch.ones(1, Z_DIM), torch.tensor([2])))
    return model.render(A, **kwargs)


# -- seeds, latents, affine parameters --------------------------------------------------------------------------------
def test_one_seed_is_one_image_alone_and_in_a_batch(pipe):
    together = pipe([0, 1, 2], generator=seeds(4, 5, 6), output_type="pt").images
    for i in range(3):
        assert_same(draw(pipe, i, seed=4 + i), together[i : i + 1])
    reordered = pipe([2, 0, 1], generator=seeds(6, 4, 5), output_type="pt").images
    assert_same(reordered, together[[2, 0, 1]])


def test_one_generator_draws_image_by_image(pipe):
    one, two = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    together = pipe.prepare_latents(3, one)
    torch.testing.assert_close(together, torch.cat([pipe.prepare_latents(1, two) for _ in range(3)]), rtol=0, atol=0)
    assert together.shape == (3, Z_DIM)
    assert not torch.equal(together[0], together[1])


def test_latents_do_not_depend_on_dtype(pipe):
    exact = pipe.prepare_latents(2, seeds(0, 1))
    half = pipe.to(torch.bfloat16).prepare_latents(2, seeds(0, 1))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, rtol=0, atol=0)


def test_without_a_generator_images_differ(unconditional):
    images = unconditional(num_images_per_label=2, output_type="pt").images
    assert not torch.allclose(images[0], images[1])


def test_latents_replace_the_generator(pipe):
    latents = pipe.prepare_latents(2, seeds(8, 9))
    images = pipe([0, 3], latents=latents, output_type="pt").images
    assert_same(images, pipe([0, 3], generator=seeds(8, 9), output_type="pt").images)


def test_affine_parameters_are_the_image(pipe):
    model = pipe.generator
    z = pipe.prepare_latents(2, seeds(0, 0))
    A = model.affine(model.map(z, torch.tensor([1, 2]), truncation_psi=0.7))
    images = pipe(affine_parameters=A, height=12, width=7, output_type="pt").images
    assert_same(images, draw(pipe, 1, 2, truncation_psi=0.7, height=12, width=7))


def test_encode_gives_the_affine_parameters_of_a_call(pipe, unconditional):
    settings = {"num_images_per_label": 2, "truncation_psi": 0.6, "truncation_cutoff": 2}
    A = pipe.encode(["goldfish", 3], generator=seeds(5, 6, 7, 8), **settings)
    assert A.shape == (4, 3, 16, 3)
    assert not A.requires_grad
    expected = pipe(["goldfish", 3], generator=seeds(5, 6, 7, 8), output_type="pt", **settings).images
    assert torch.equal(pipe(affine_parameters=A, output_type="pt").images, expected)
    z = unconditional.prepare_latents(2, seeds(0, 1))
    A = unconditional.encode(num_images_per_label=2, latents=z)
    assert torch.equal(A, unconditional.encode(num_images_per_label=2, generator=seeds(0, 1)))


def test_an_unconditional_model_draws_an_image_of_each_latent(unconditional):
    z = unconditional.prepare_latents(3, seeds(0, 1, 2))
    images = unconditional(num_images_per_label=3, generator=seeds(0, 1, 2), output_type="pt").images
    assert torch.equal(unconditional(latents=z, output_type="pt").images, images)
    assert torch.equal(unconditional.encode(latents=z), unconditional.encode(num_images_per_label=3, latents=z))
    with pytest.raises(ValueError, match=r"`latents`.*\(2, 8\).*\(3, 8\)"):
        unconditional(num_images_per_label=2, latents=z)
    with pytest.raises(ValueError, match=r"`latents`.*\(1, 8\).*\(0, 8\)"):
        unconditional(latents=z[:0])


def test_a_psi_that_leaves_no_image_is_named(pipe):
    for call in (pipe, pipe.encode):
        with pytest.raises(ValueError, match=r"`truncation_psi` must .*, got 1e\+38"):
            call(1, truncation_psi=1e38)


# -- outputs ----------------------------------------------------------------------------------------------------------
def test_w_is_the_image(pipe, unconditional):
    w = pipe.encode([0, 3], generator=seeds(0, 1), truncation_psi=0.6, space="w")
    assert w.shape == (2, 3, pipe.generator.config.w_dim)
    A = pipe.encode([0, 3], generator=seeds(0, 1), truncation_psi=0.6)
    assert torch.equal(pipe.encode(w=w), A)
    assert torch.equal(pipe(w=w, output_type="pt").images, pipe(affine_parameters=A, output_type="pt").images)
    assert unconditional.encode(generator=seeds(0), space="w").shape[0] == 1


def test_output_types_agree(pipe):
    pt = draw(pipe, 0, 1, height=6, width=9)
    array = pipe([0, 1], generator=seeds(0, 0), output_type="np", height=6, width=9).images
    pil = pipe([0, 1], generator=seeds(0, 0), height=6, width=9).images
    assert pt.shape == (2, 3, 6, 9)
    assert array.shape == (2, 6, 9, 3)
    assert pt.min() >= 0
    assert pt.max() <= 1
    np.testing.assert_allclose(array, pt.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    for image, expected in zip(pil, array, strict=True):
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), (expected * 255).round().astype(np.uint8))


def test_images_are_the_networks_clipped_to_range(pipe):
    z = pipe.prepare_latents(1, seeds(3))
    with torch.no_grad():
        sample = pipe.generator(z, torch.tensor([1]), height=10, width=10).sample
    assert_same(draw(pipe, 1, seed=3, height=10, width=10), (sample / 2 + 0.5).clamp(0, 1))


def test_return_dict(pipe):
    assert isinstance(pipe(0), ImagePipelineOutput)
    output = pipe(0, return_dict=False)
    assert isinstance(output, tuple)
    assert output[0][0].size == (SIZE, SIZE)


def test_progress_bar_counts_images(pipe, capsys):
    pipe([0, 1, 2])
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False)
    pipe([0, 1, 2])
    assert "3/3" in capsys.readouterr().err
    draw(pipe, 0)
    assert capsys.readouterr().err == ""  # one image has no parts to count


# -- dtypes and devices -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtypes(pipe, dtype):
    exact = draw(pipe, 1)
    image = draw(pipe.to(dtype), 1)
    assert pipe.dtype == dtype
    mse = (image.float() - exact).square().mean()
    assert 0 < mse < 1e-3  # 30 dB
    assert pipe(1).images[0].size == (SIZE, SIZE)
    assert_same(draw(pipe.to(torch.float32), 1), exact, tolerance=0.1)


def test_model_cpu_offload(pipe, monkeypatch):
    expected = draw(pipe, 1, 2)
    pipe.enable_model_cpu_offload(device="cpu")
    hook = pipe.generator._hf_hook
    moves = []
    pre_forward = hook.pre_forward
    monkeypatch.setattr(hook, "pre_forward", lambda *args, **kwargs: moves.append("in") or pre_forward(*args, **kwargs))
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: moves.append("out"))
    assert_same(draw(pipe, 1, 2), expected)
    assert moves == ["in", "out"]


def test_a_compiled_generator_says_what_a_pipeline_compiles(pipe):
    pipe.generator = torch.compile(pipe.generator, backend="eager")
    with pytest.warns(UserWarning, match=r"`pipe.generator.compile\(\)`"):
        assert draw(pipe, 1).shape == (1, 3, SIZE, SIZE)


def test_offloaded_encode(pipe, monkeypatch):
    expected = pipe.encode([1, 2], generator=seeds(0, 1))
    pipe.enable_model_cpu_offload(device="cpu")
    moves = []
    monkeypatch.setattr(pipe.generator._hf_hook, "pre_forward", lambda *args, **kwargs: moves.append("in"))
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: moves.append("out"))
    assert torch.equal(pipe.encode([1, 2], generator=seeds(0, 1)), expected)
    assert moves == ["in", "out"]


def test_offloaded_call_can_be_repeated(pipe):
    pipe.enable_model_cpu_offload(device="cpu")
    assert_same(draw(pipe, 1), draw(pipe, 1))


# -- saving and loading -----------------------------------------------------------------------------------------------
def files_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_save_and_load(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    code = "modeling_poly_inr.py"  # for a diffusers without this package
    assert files_in(tmp_path / "generator") == ["config.json", "diffusion_pytorch_model.safetensors", code]
    loaded = PolyINRPipeline.from_pretrained(tmp_path)
    assert loaded.id2label == ID2LABEL
    assert not loaded.generator.training
    torch.testing.assert_close(loaded.generator.state_dict(), pipe.generator.state_dict(), rtol=0, atol=0)
    assert_same(draw(loaded, "goldfish", truncation_psi=0.5), draw(pipe, "goldfish", truncation_psi=0.5))


def test_loading_says_nothing_of_types(pipe, tmp_path, caplog):
    pipe.save_pretrained(tmp_path)
    with caplog.at_level("WARNING"):
        PolyINRPipeline.from_pretrained(str(tmp_path))
    assert "Expected types" not in caplog.text


def test_save_and_load_unconditional(unconditional, tmp_path):
    unconditional.save_pretrained(tmp_path)
    loaded = PolyINRPipeline.from_pretrained(tmp_path)
    assert loaded.id2label == {}
    assert_same(draw(loaded), draw(unconditional))


def test_variant(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert "diffusion_pytorch_model.fp16.safetensors" in files_in(tmp_path / "generator")
    loaded = PolyINRPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    assert loaded.generator.dtype == torch.float16
    torch.testing.assert_close(loaded.generator.state_dict(), pipe.generator.state_dict(), rtol=0, atol=0)
    assert PolyINRPipeline.from_pretrained(tmp_path).generator.dtype == torch.float32


def test_sharded_weights(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, max_shard_size="5KB")
    assert sum(name.endswith(".safetensors") for name in files_in(tmp_path / "generator")) > 1
    loaded = PolyINRPipeline.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.generator.state_dict(), pipe.generator.state_dict(), rtol=0, atol=0)


def test_generator_loads_from_its_subfolder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    model = PolyINRGenerator.from_pretrained(tmp_path, subfolder="generator")
    assert model.config.num_levels == 3
    assert_same(draw(PolyINRPipeline(model.eval(), ID2LABEL), 1), draw(pipe, 1))


def test_a_component_may_be_replaced_while_loading(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    other = make_generator()
    other.to_rgb.bias.data.add_(0.2)
    loaded = PolyINRPipeline.from_pretrained(tmp_path, generator=other)
    assert loaded.generator is other


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_folder_that_is_no_pipeline(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises((OSError, ValueError), match=name):
        PolyINRPipeline.from_pretrained(tmp_path / name)


def test_a_path_that_looks_like_a_repository(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="^pretrained/poly-inr-emojii is no folder here and not in the cache"):
        PolyINRPipeline.from_pretrained("pretrained/poly-inr-emojii")


def test_an_index_without_entries(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(OSError, match="is no pipeline"):
        PolyINRPipeline.from_pretrained(tmp_path)


def test_damaged_index(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(OSError, match="model_index.json"):
        PolyINRPipeline.from_pretrained(tmp_path)


def test_another_pipelines_folder(tmp_path):
    index = {"_class_name": "DDPMPipeline", "_diffusers_version": "0.38.0"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="expected .'generator'."):
        PolyINRPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(pipe, tmp_path, kept):
    pipe.save_pretrained(tmp_path)
    weights = tmp_path / "generator" / "diffusion_pytorch_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(OSError, match="diffusion_pytorch_model.safetensors"):
        PolyINRPipeline.from_pretrained(tmp_path)


def test_a_pickle_is_not_opened_unasked(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    assert "diffusion_pytorch_model.bin" in files_in(tmp_path / "generator")
    with pytest.raises(OSError, match="no safetensors weights.*`use_safetensors=False`.*may run code"):
        PolyINRPipeline.from_pretrained(tmp_path)
    assert_same(draw(PolyINRPipeline.from_pretrained(tmp_path, use_safetensors=False), 1), draw(pipe, 1))


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "5KB"}], ids=["whole", "sharded"])
def test_weights_of_a_variant_alone_name_it(pipe, tmp_path, shards):
    pipe.to(torch.float16).save_pretrained(tmp_path, variant="fp16", **shards)
    with pytest.raises(OSError, match="has weights of a variant only: pass `variant='fp16'`"):
        PolyINRPipeline.from_pretrained(tmp_path)
    assert PolyINRPipeline.from_pretrained(tmp_path, variant="fp16", dtype=torch.float16).dtype == torch.float16


def test_a_subfolder_that_is_not_there_is_named(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "there")
    assert PolyINRPipeline.from_pretrained(tmp_path, subfolder="there").id2label == ID2LABEL
    with pytest.raises(OSError, match=f"{tmp_path} has no `subfolder` 'elsewhere'"):
        PolyINRPipeline.from_pretrained(tmp_path, subfolder="elsewhere")


@pytest.mark.parametrize("token", ["", " hf_abc", "hf_abc\n", "hf_ab c", "hf_\u00e4bc"])
def test_a_token_that_can_be_none_is_not_repeated(token):
    with pytest.raises(ValueError, match="`token` must be") as error:
        PolyINRPipeline.from_pretrained("ann/model", token=token)
    assert not token or token not in str(error.value)


def test_missing_component(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "generator")
    with pytest.raises(OSError, match="config.json"):
        PolyINRPipeline.from_pretrained(tmp_path)


# -- bad input --------------------------------------------------------------------------------------------------------
A = torch.zeros(1, 3, 16, 3)
W = torch.zeros(1, 3, 16)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"class_labels": "goldfsh"}, "Did you mean 'goldfish'"),
        ({"class_labels": 4}, r"`class_labels`.*0\.\.3.*4"),
        ({"class_labels": -1}, r"`class_labels`.*0\.\.3.*-1"),
        ({"class_labels": [0, 4]}, r"`class_labels`.*0\.\.3.*4"),
        ({"class_labels": torch.tensor([7])}, r"`class_labels`.*0\.\.3.*7"),
        ({"class_labels": torch.tensor(7)}, r"`class_labels`.*0\.\.3.*7"),
        ({"class_labels": 1.5}, r"`class_labels`.*1\.5"),
        ({"class_labels": [1.5]}, r"`class_labels`.*1\.5"),
        ({"class_labels": True}, "`class_labels`.*True"),
        ({"class_labels": []}, "`class_labels` is empty"),
        ({"class_labels": np.True_}, "`class_labels`.*True"),
        ({"class_labels": torch.tensor([True])}, "`class_labels`.*True"),
        ({"class_labels": np.array([1.0])}, r"`class_labels`.*1\.0"),
        ({"class_labels": np.array([4])}, r"`class_labels`.*0\.\.3.*4"),
        ({"class_labels": [[1]]}, r"`class_labels`.*\[1\]"),
        ({"class_labels": "-1"}, "unknown class name '-1'"),
        ({"class_labels": None}, "`class_labels` is required"),
        ({"num_images_per_label": 0}, "`num_images_per_label`.*0"),
        ({"num_images_per_label": 1.5}, r"`num_images_per_label`.*1\.5"),
        ({"height": 0}, "`height`.*0"),
        ({"width": -3}, "`width`.*-3"),
        ({"height": 1.5}, r"`height`.*1\.5"),
        ({"width": True}, "`width`.*True"),
        ({"extent": (0, 0, 0, 1)}, "`extent`.*top < bottom"),
        ({"extent": (0, 1, 1, 0)}, "`extent`.*left < right"),
        ({"extent": (0, 0, 1)}, "`extent`.*four"),
        ({"extent": (0, 0, 1, NAN)}, "`extent`.*finite"),
        ({"extent": (0, 0, 1, float("inf"))}, "`extent`.*finite"),
        ({"extent": 1.0}, "`extent`.*four"),
        ({"extent": (0, 0, 1, "1")}, "`extent`.*four"),
        ({"antialias": 0}, "`antialias`.*0"),
        ({"tolerance": -0.1}, r"`tolerance`.*-0\.1"),
        ({"tolerance": NAN}, "`tolerance`.*nan"),
        ({"truncation_psi": NAN}, "`truncation_psi`.*nan"),
        ({"truncation_psi": "0.7a"}, "`truncation_psi`.*0.7a"),
        ({"truncation_cutoff": 4}, r"`truncation_cutoff`.*0\.\.3.*4"),
        ({"truncation_cutoff": -1}, r"`truncation_cutoff`.*0\.\.3.*-1"),
        ({"truncation_cutoff": 1.5}, r"`truncation_cutoff`.*0\.\.3.*1\.5"),
        ({"output_type": "latent"}, "`output_type`.*'pil'.*'latent'"),
        ({"latents": torch.zeros(1, Z_DIM + 1)}, r"`latents`.*\(1, 8\).*\(1, 9\)"),
        ({"latents": torch.zeros(2, Z_DIM)}, r"`latents`.*\(1, 8\).*\(2, 8\)"),
        ({"latents": torch.full((1, Z_DIM), NAN)}, "`latents`.*NaN"),
        ({"latents": np.zeros((1, Z_DIM))}, "`latents` must be a tensor, got ndarray"),
        ({"generator": seeds(0, 1)}, "`generator`.*1.*2"),
        ({"generator": 0}, "`generator` must be a torch.Generator.*got 0"),
        ({"generator": tuple(seeds(0))}, "`generator` must be a torch.Generator or a list"),
        ({"generator": [0]}, "`generator` must be a torch.Generator or a list"),
        ({"affine_parameters": A.numpy(), "class_labels": None}, "`affine_parameters` must be a tensor"),
        ({"height": np.float64(8)}, r"`height`.*8\.0"),
        ({"truncation_psi": np.float32("nan")}, "`truncation_psi`.*nan"),
        ({"num_images_per_label": np.array([1, 2])}, "`num_images_per_label`"),
        ({"affine_parameters": A}, "`class_labels`"),
        ({"affine_parameters": A, "class_labels": None, "latents": torch.zeros(1, Z_DIM)}, "`latents`"),
        ({"affine_parameters": A, "class_labels": None, "w": W}, "`w`"),
        ({"w": W}, "`w`.*`class_labels`"),
        ({"w": W[0], "class_labels": None}, r"`w` must have shape \(B, 3, 16\).*\(3, 16\)"),
        ({"w": W + NAN, "class_labels": None}, "`w`.*NaN"),
        ({"affine_parameters": A[0], "class_labels": None}, r"affine.*\(B, 3, 16, 3\).*\(3, 16, 3\)"),
        ({"affine_parameters": A + NAN, "class_labels": None}, "`affine_parameters`.*NaN"),
    ],
)
def test_bad_input_is_refused_before_any_work(pipe, monkeypatch, kwargs, message):
    for stage in ("map", "affine", "render"):
        monkeypatch.setattr(pipe.generator, stage, lambda *args, **kwargs: pytest.fail("work started"))
    with pytest.raises(ValueError, match=message):
        pipe(**{"class_labels": 0, **kwargs})


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"class_labels": 4}, r"`class_labels`.*0\.\.3.*4"),
        ({"num_images_per_label": 0}, "`num_images_per_label`.*0"),
        ({"truncation_psi": NAN}, "`truncation_psi`.*nan"),
        ({"truncation_cutoff": 4}, r"`truncation_cutoff`.*0\.\.3.*4"),
        ({"latents": torch.zeros(2, Z_DIM)}, r"`latents`.*\(1, 8\).*\(2, 8\)"),
        ({"generator": seeds(0, 1)}, "`generator`.*1.*2"),
    ],
)
def test_what_cannot_be_encoded(pipe, monkeypatch, kwargs, message):
    monkeypatch.setattr(pipe.generator, "map", lambda *args, **kwargs: pytest.fail("work started"))
    with pytest.raises(ValueError, match=message):
        pipe.encode(**{"class_labels": 0, **kwargs})


def test_labels_for_an_unconditional_model(unconditional):
    with pytest.raises(ValueError, match="`class_labels`.*unconditional.*3"):
        unconditional(class_labels=3)


def test_names_where_there_are_none():
    with pytest.raises(ValueError, match="'goldfish'.*no class names"):
        PolyINRPipeline(make_generator())("goldfish")
