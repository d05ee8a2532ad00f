"""The projected discriminator: each piece against its definition, the whole against reference values."""

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from polyinr_hf.feature_networks import load_feature_network
from polyinr_hf.training.augmentation import DiffAugment, gaussian_blur
from polyinr_hf.training.discriminator import (
    FEATURE_NETWORKS,
    GroupedBatchNorm2d,
    Head,
    ProjectedDiscriminator,
    RandomProjection,
    RandomTaps,
)
from polyinr_hf.training.step import generator_loss, hinge_loss_fake, hinge_loss_real

LITE0 = "tf_efficientnet_lite0"
DEIT = "deit_tiny_distilled_patch16_224"


def make_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_images(batch=2, size=32):
    return torch.rand(batch, 3, size, size, generator=make_generator()) * 2 - 1


def make_features(channels, sizes):
    return [
        torch.randn(2, width, size, size, generator=make_generator(size))
        for width, size in zip(channels, sizes, strict=True)
    ]


def make_discriminator(**settings):
    defaults = {"num_classes": 5, "feature_networks": (LITE0,), "feature_resolution": 64, "projection_width": 8}
    return ProjectedDiscriminator(**(defaults | settings))


def total(logits):
    return sum(network_logits.square().mean() for network_logits in logits.values())


def assert_same_states(left, right):
    left, right = left.state_dict(), right.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(value, right[key]) for key, value in left.items())


# --- The whole, against reference values -----------------------------------------------------------------------------


def make_reference_tensor(entry):
    """The value of an entry of discriminator.json: standard normal numbers of its seed, scaled by its kind."""
    value = np.random.RandomState(entry["seed"]).standard_normal(entry["shape"])
    scales = {
        "matrix": lambda: value / math.sqrt(value.size / value.shape[0]),
        "transposed": lambda: value / math.sqrt(value.shape[0]),
        "bias": lambda: 0.1 * value,
        "gain": lambda: 1 + 0.1 * value,
        "token": lambda: 0.5 * value,
        "raw": lambda: value,
    }
    return torch.from_numpy(scales[entry["kind"]]().astype(np.float32))


def rename(name):
    """A descriptive name of discriminator.json to our state dict's."""
    network, rest = name.split(".", 1)
    part, rest = rest.split(".", 1)
    if part.startswith("tap"):
        number, layer = part.removeprefix("tap"), rest.split(".", 1)
        part, rest = "taps", f"{layer[0]}.{number}.{layer[1]}"
    part = {
        "backbone": "feature_network.backbone",
        "channel_mixing": "projection.channel_mixing",
        "scale_mixing": "projection.scale_mixing",
        "head": "heads",
    }.get(part, part)
    return f"branches.{FEATURE_NETWORKS.index(network)}.{part}.{rest}"


def normalize_exactly(name, weight):
    """State of a spectrally normalised convolution whose singular vectors are exact: (name, value) pairs."""
    matrix = weight.flatten(1).double()
    left = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
    right = F.normalize(matrix.T @ left, dim=0)
    prefix = name.removesuffix("weight") + "parametrizations.weight"
    return {f"{prefix}.original": weight, f"{prefix}.0._u": left.float(), f"{prefix}.0._v": right.float()}


@pytest.fixture(scope="module")
def reference_discriminator(reference_values):
    discriminator = ProjectedDiscriminator(num_classes=1000, pretrained=False, augmentation=()).eval()
    state_dict = discriminator.state_dict()
    lite0 = load_feature_network(LITE0).backbone.state_dict()
    prefix = f"branches.{FEATURE_NETWORKS.index(LITE0)}.feature_network.backbone"
    state_dict |= {f"{prefix}.{key}": value for key, value in lite0.items()}
    for entry in json.loads((reference_values / "discriminator.json").read_text()):
        name, value = rename(entry["name"]), make_reference_tensor(entry)
        is_spectral = f"{name.removesuffix('weight')}parametrizations.weight.original" in state_dict
        state_dict |= normalize_exactly(name, value) if is_spectral else {name: value}
    discriminator.load_state_dict(state_dict, strict=True)
    return discriminator


@pytest.mark.parametrize("size", [32, 96])
def test_agrees_with_reference_values(reference_discriminator, reference_values, size):
    reference = np.load(reference_values / "discriminator.npz")

    def check(value, name):
        expected = torch.from_numpy(reference[name])
        torch.testing.assert_close(value.detach(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)

    images = torch.from_numpy(reference[f"image_{size}"]).requires_grad_()
    logits = reference_discriminator(images, torch.from_numpy(reference["labels"]))
    generator_loss(logits).backward()
    # A gradient is no continuous function of the weights: on another processor or with more threads, sums are
    # rounded in another order, and a few units change sides of their leaky ReLU or ReLU6. Between float32 and float64
    # that moves the gradient by up to 0.016 of its norm.
    expected = torch.from_numpy(reference[f"gradient_{size}"])
    assert (images.grad - expected).norm() <= 0.05 * expected.norm()
    for name, branch in zip(FEATURE_NETWORKS, reference_discriminator.branches, strict=True):
        check(logits[name], f"logits_{size}_{name}")
        with torch.no_grad():
            features = branch.features(images)
        for scale, feature in enumerate(features):
            check(feature.mean(dim=(2, 3)), f"features_{size}_{name}_{scale}")


# --- Random taps and projections -------------------------------------------------------------------------------------


def test_random_taps_make_a_pyramid():
    taps = RandomTaps((64,) * 4, make_generator())
    features = make_features((64,) * 4, (14,) * 4)
    finest, fine, same, coarse = taps(features)
    assert taps.channels == (8, 16, 32, 64)
    assert [tuple(x.shape) for x in (finest, fine, same, coarse)] == [
        (2, 8, 56, 56),
        (2, 16, 28, 28),
        (2, 32, 14, 14),
        (2, 64, 7, 7),
    ]
    projected = torch.einsum("oi,bihw->bohw", taps.project[0].weight[:, :, 0, 0], features[0])
    spread = torch.einsum("bihw,iokl->bohkwl", projected, taps.resample[0].weight)  # each pixel becomes 4 x 4
    torch.testing.assert_close(finest, spread.reshape(2, 8, 56, 56), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(same, F.conv2d(features[2], taps.project[2].weight), atol=1e-5, rtol=1e-4)
    strided = F.conv2d(F.conv2d(features[3], taps.project[3].weight), taps.resample[3].weight, stride=2, padding=1)
    torch.testing.assert_close(coarse, strided, atol=1e-5, rtol=1e-4)


def test_random_projection_mixes_channels_then_scales():
    """By its definition: add the skip, upsample, and only then convolve."""
    projection = RandomProjection((6, 10, 12, 20), width=4, generator=make_generator())
    for conv in (*projection.channel_mixing, *projection.scale_mixing):
        conv.bias.data.normal_(generator=make_generator())
    features = make_features((6, 10, 12, 20), (16, 8, 4, 2))
    outputs = projection(features)
    coarser = 0
    for scale in (3, 2, 1, 0):
        channels, mixing = projection.channel_mixing[scale], projection.scale_mixing[scale]
        x = F.conv2d(features[scale], channels.weight, channels.bias) + coarser
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        coarser = F.conv2d(x, mixing.weight, mixing.bias)
        torch.testing.assert_close(outputs[scale], coarser, atol=1e-5, rtol=1e-4)
    assert projection.channels == (4, 4, 8, 16) == tuple(output.shape[1] for output in outputs)
    assert [output.shape[-1] for output in outputs] == [32, 16, 8, 4]


def test_random_projection_keeps_the_rms_of_features():
    projection = RandomProjection((24, 40, 112, 320), generator=make_generator())
    for mixing, width in zip(projection.channel_mixing, (24, 40, 112, 320), strict=True):
        mixed = mixing(torch.randn(4, width, 8, 8, generator=make_generator(1)))
        assert mixed.square().mean().sqrt().item() == pytest.approx(1, abs=0.15)


def test_a_seed_determines_the_discriminator():
    one, same, other = make_discriminator(seed=3), make_discriminator(seed=3), make_discriminator(seed=4)
    assert_same_states(one, same)
    for key, value in one.state_dict().items():
        if "mixing" in key and "weight" in key:
            assert not torch.equal(value, other.state_dict()[key])


def test_each_network_has_its_own_projection():
    discriminator = make_discriminator(feature_networks=("resnet18", "resnet34"), pretrained=False)
    first, second = (branch.projection.channel_mixing[0].weight for branch in discriminator.branches)
    assert first.shape == second.shape and not torch.equal(first, second)


# --- Heads -----------------------------------------------------------------------------------------------------------


def head_by_hand(head, x, class_labels=None):
    """Convolutions divided by their largest singular value, batch norm by batch statistics, leaky ReLU of 0.2."""

    def normalized(conv):
        weight = conv.parametrizations.weight.original
        return weight / torch.linalg.matrix_norm(weight.flatten(1), ord=2)

    for block in head.down:
        x = F.conv2d(x, normalized(block.conv), block.conv.bias, stride=2, padding=1)
        mean, variance = x.mean(dim=(0, 2, 3), keepdim=True), x.var(dim=(0, 2, 3), unbiased=False, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-5)
        x = x * block.norm.weight[:, None, None] + block.norm.bias[:, None, None]
        x = torch.where(x > 0, x, 0.2 * x)
    x = F.conv2d(x, normalized(head.logit_conv))
    if class_labels is None:
        return x.flatten(1)
    layer = head.class_projection
    classes = head.class_embedding.weight[class_labels] @ layer.weight.T / math.sqrt(320) + layer.bias
    classes = torch.where(classes > 0, classes, 0.2 * classes) * math.sqrt(2)
    return torch.einsum("bchw,bc->bhw", x, classes).flatten(1) / 8


@pytest.mark.parametrize("num_classes", [None, 5])
def test_heads_follow_their_definition(num_classes):
    discriminator = make_discriminator(num_classes=num_classes)
    exact = {}
    for key, value in discriminator.state_dict().items():
        if key.endswith("parametrizations.weight.original"):
            exact |= normalize_exactly(key.replace("parametrizations.weight.original", "weight"), value)
    discriminator.load_state_dict(discriminator.state_dict() | exact)
    labels = torch.tensor([4, 1]) if num_classes else None
    shapes = [(8, 112, 4), (8, 56, 3), (16, 28, 2), (32, 14, 1)]
    for head, (channels, size, depth) in zip(discriminator.branches[0].heads, shapes, strict=True):
        widths = [block.conv.out_channels for block in head.down]
        assert widths == [64, 128, 256, 512][-depth:]
        x = torch.randn(2, channels, size, size, generator=make_generator(size))
        logits = head(x, labels)
        assert logits.shape == (2, 16)
        torch.testing.assert_close(logits, head_by_hand(head, x, labels), atol=1e-4, rtol=1e-4)


def test_labels_choose_the_class_projection():
    discriminator = make_discriminator(augmentation=())
    images = make_images(1).expand(2, -1, -1, -1)
    logits = discriminator(images, torch.tensor([0, 1]))[LITE0]
    assert not torch.allclose(logits[0], logits[1])
    same = discriminator(images, torch.tensor([1, 1]))[LITE0]
    torch.testing.assert_close(same[0], logits[1])


def test_class_embeddings_are_given_to_every_head_as_its_own_copy():
    embeddings = torch.randn(5, 320, generator=make_generator())
    heads = make_discriminator(class_embeddings=embeddings).branches[0].heads
    heads[0].class_embedding.weight.data.zero_()
    assert all(torch.equal(head.class_embedding.weight, embeddings) for head in heads[1:])
    assert embeddings.abs().sum() > 0


@pytest.mark.parametrize(("resolution", "num_logits"), [(64, 1), (96, 4), (128, 1), (224, 16)])
def test_heads_fit_every_feature_resolution(resolution, num_logits):
    head = Head(4, scale=3)
    size = resolution // 16
    assert head(torch.randn(2, 4, size, size, generator=make_generator())).shape == (2, num_logits)


def test_spectral_norm_changes_only_when_told_and_then_towards_the_largest_singular_value():
    discriminator = make_discriminator(num_heads=1)
    convs = [block.conv for block in discriminator.branches[0].heads[0].down[:2]]
    for conv in convs:  # weights that have just changed
        conv.parametrizations.weight.original.data.normal_(generator=make_generator())

    def excess():
        """How far the largest singular value of each weight is above 1."""
        with torch.no_grad():
            return torch.stack([torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2) for conv in convs]) - 1

    before = excess()
    discriminator.train()(make_images(), torch.tensor([0, 1]))
    assert torch.equal(excess(), before)
    for _ in range(20):
        discriminator.update_spectral_norm()
    assert (excess() < 0.05).all() and (excess() < before / 10).all()
    assert not any(module.training for conv in convs for module in conv.parametrizations.modules())


def test_batch_norm_by_groups_is_batch_norm_of_each_group():
    x = torch.randn(6, 4, 3, 3, generator=make_generator())
    norm, plain = GroupedBatchNorm2d(4, group_size=2), torch.nn.BatchNorm2d(4)
    torch.testing.assert_close(norm(x), torch.cat([plain(part) for part in x.split(2)]))
    torch.testing.assert_close(norm.running_var, plain.running_var)
    with pytest.raises(ValueError, match="`batch_norm_group_size` must be .*batch of 5, got 2"):
        norm(x[:5])
    assert norm.eval()(x[:5]).shape == (5, 4, 3, 3)


def test_batches_in_one_call_are_judged_as_in_calls_of_their_own():
    """Also what batch norm remembers; one call without saying so normalises them together."""
    fake, real = make_images(4), make_images(8)[4:] * 0.5
    labels, draws = torch.tensor([0, 1, 2, 3]), make_discriminator().sample_augmentations(8, make_generator(3))
    for group_size in (None, 2):
        apart, together = (make_discriminator(batch_norm_group_size=group_size) for _ in range(2))
        expected = torch.cat([apart(fake, labels, 1.0, draws[:4])[LITE0], apart(real, labels, 1.0, draws[4:])[LITE0]])
        both = torch.cat([fake, real]), torch.cat([labels, labels]), 1.0, draws
        torch.testing.assert_close(together(*both, num_batches=2)[LITE0], expected, atol=1e-5, rtol=1e-4)
        running = {name: value for name, value in together.named_buffers() if "running" in name}
        for name, value in apart.named_buffers():
            if "running" in name:
                torch.testing.assert_close(running[name], value, atol=1e-5, rtol=1e-4, msg=name)
    assert not torch.allclose(make_discriminator()(*both)[LITE0], expected, atol=1e-2)


# --- The discriminator as a whole ------------------------------------------------------------------------------------


def test_blur_comes_before_an_augmentation_drawn_per_network():
    discriminator = make_discriminator(feature_networks=("resnet18", "resnet34"), pretrained=False)
    images, labels = make_images(4), torch.tensor([0, 1, 2, 3])
    draws = discriminator.sample_augmentations(4, make_generator(7))
    logits = discriminator(images, labels, blur_sigma=1.5, draws=draws)
    augment = DiffAugment()
    assert draws.shape == (4, 2, augment.num_draws)
    for number, branch in enumerate(discriminator.branches):
        augmented = augment(gaussian_blur(images, 1.5), draws[:, number])
        torch.testing.assert_close(logits[f"resnet{(18, 34)[number]}"], branch(augmented, labels))
    again = discriminator(images, labels, 1.5, discriminator.sample_augmentations(4, make_generator(7)))
    other = discriminator(images, labels, 1.5, discriminator.sample_augmentations(4, make_generator(8)))
    assert all(torch.equal(again[name], logits[name]) and not torch.equal(other[name], logits[name]) for name in logits)


def test_training_without_draws_augments_by_the_global_generator():
    discriminator = make_discriminator()
    images, labels = make_images(), torch.tensor([0, 1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        logits = discriminator(images, labels)[LITE0]
    draws = discriminator.sample_augmentations(2, make_generator(0))
    assert torch.equal(logits, discriminator(images, labels, draws=draws)[LITE0])


def test_eval_mode_does_not_augment():
    discriminator = make_discriminator().eval()
    images, labels = make_images(), torch.tensor([0, 1])
    assert torch.equal(discriminator(images, labels)[LITE0], discriminator.branches[0](images, labels))


def test_micro_batches_add_up_to_the_batch_for_images_and_heads():
    discriminator = make_discriminator(batch_norm_group_size=2, num_heads=2)
    labels = torch.tensor([0, 1, 2, 3])

    def gradients(num_parts):
        discriminator.zero_grad()
        images, draws = make_images(4).requires_grad_(), discriminator.sample_augmentations(4, make_generator(5))
        for part in zip(images.chunk(num_parts), labels.chunk(num_parts), draws.chunk(num_parts), strict=True):
            (hinge_loss_fake(discriminator(part[0], part[1], 1.0, part[2])) / num_parts).backward()
        return [images.grad, *(parameter.grad.clone() for parameter in discriminator.trainable_parameters())]

    wholes, parts = gradients(1), gradients(2)
    largest = max(whole.abs().max().item() for whole in wholes)
    for whole, part in zip(wholes, parts, strict=True):
        # A bias before a batch norm has no gradient but rounding, hence the floor under the scale.
        torch.testing.assert_close(part, whole, atol=1e-4 * max(whole.abs().max().item(), 1e-3 * largest), rtol=0)


def test_only_heads_learn():
    discriminator = make_discriminator(feature_networks=(LITE0,)).requires_grad_(True)
    before = copy.deepcopy(discriminator.state_dict())
    trainable = list(discriminator.trainable_parameters())
    assert {id(p) for p in trainable} == {id(p) for p in discriminator.parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(trainable, lr=1e-2)
    images, labels = make_images(4), torch.tensor([0, 1, 2, 3])
    (hinge_loss_real(discriminator(images, labels)) + hinge_loss_fake(discriminator(-images, labels))).backward()
    optimizer.step()
    after = discriminator.state_dict()
    for key, value in before.items():
        moves = "heads" in key and not key.endswith(("._u", "._v"))
        assert moves != torch.equal(value, after[key]), key


def test_gradients_of_heads_can_be_switched_off_while_the_image_keeps_its_own():
    discriminator = make_discriminator().requires_grad_(False)
    images = make_images().requires_grad_()
    total(discriminator(images, torch.tensor([0, 1]))).backward()
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())


def test_state_dict_carries_all_but_the_feature_networks_bit_for_bit(tmp_path):
    settings = {"feature_networks": (LITE0, DEIT), "pretrained": False}
    source = make_discriminator(seed=1, **settings)
    state_dict = source.state_dict()
    assert not any("backbone" in key for key in state_dict)
    assert {"branches.1.taps.resample.0.weight", "branches.0.projection.scale_mixing.3.weight"} < state_dict.keys()
    torch.save(state_dict, tmp_path / "discriminator.pt")

    target = make_discriminator(seed=2, **settings)
    for ours, theirs in zip(target.branches, source.branches, strict=True):
        ours.feature_network.backbone.load_state_dict(theirs.feature_network.backbone.state_dict())
    target.load_state_dict(torch.load(tmp_path / "discriminator.pt", weights_only=True), strict=True)
    assert_same_states(source, target)
    images, labels = make_images(), torch.tensor([3, 0])
    draws = source.sample_augmentations(2, make_generator())
    expected, result = source(images, labels, draws=draws), target(images, labels, draws=draws)
    assert all(torch.equal(result[name], expected[name]) for name in expected)

    del state_dict["branches.0.projection.scale_mixing.3.weight"]
    with pytest.raises(RuntimeError, match="Missing key.*scale_mixing"):
        target.load_state_dict(state_dict)


def test_runs_on_the_meta_device():
    discriminator = make_discriminator(feature_networks=(LITE0, DEIT), pretrained=False).to("meta")
    logits = discriminator(torch.empty(2, 3, 32, 32, device="meta"), torch.zeros(2, dtype=int, device="meta"), 2.0)
    assert [tuple(value.shape) for value in logits.values()] == [(2, 4), (2, 64)]
    assert all(value.device.type == "meta" for value in logits.values())


def test_can_be_built_on_the_meta_device():
    with torch.device("meta"):
        discriminator = make_discriminator(pretrained=False)
    assert all(parameter.device.type == "meta" for parameter in discriminator.parameters())


@pytest.mark.parametrize("name", [LITE0, DEIT])
def test_branches_compile_without_graph_breaks(name):
    discriminator = make_discriminator(feature_networks=(name,), pretrained=False, num_heads=1)
    images, labels, draws = make_images(), torch.tensor([0, 1]), torch.rand(2, 7, generator=make_generator())
    compiled = torch.compile(discriminator.branches[0], backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images, labels, draws), discriminator.branches[0](images, labels, draws))


def test_autocast_gives_float32_logits_near_the_exact_ones():
    discriminator = make_discriminator().eval()
    images, labels = make_images(), torch.tensor([0, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = discriminator(images, labels)[LITE0]
    exact = discriminator(images, labels)[LITE0]
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be positive.* got 0"),
        ({"feature_networks": LITE0}, "`feature_networks`.*list"),
        ({"feature_networks": ()}, "`feature_networks`"),
        ({"feature_networks": (LITE0, LITE0)}, "different timm names"),
        ({"projection_width": 0}, "`projection_width` must be positive, got 0"),
        ({"num_heads": 5}, "`num_heads` must be 1 to 4, got 5"),
        (
            {"class_embeddings": torch.zeros(4, 320)},
            r"`class_embeddings` must have the shape \(5, 320\), got \(4, 320\)",
        ),
        ({"augmentation": "mirror"}, "`policy` must be of .* got 'mirror'"),
    ],
)
def test_bad_settings_are_errors_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        make_discriminator(**settings)


def test_labels_are_needed_exactly_if_there_are_classes():
    with pytest.raises(ValueError, match="`class_labels` must be .B,. integers below 5"):
        make_discriminator()(make_images())
    with pytest.raises(ValueError, match="`class_labels` must be None"):
        make_discriminator(num_classes=None)(make_images(), torch.tensor([0, 1]))
