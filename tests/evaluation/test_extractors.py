"""Feature extractors: what they compute, and where their weights come from."""

import copy
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS, VGG16features

from polyinr_hf.evaluation.extractors import find_weights, load_extractor, lpips_weights
from polyinr_hf.feature_networks import load_backbone
from polyinr_hf.files import weights_digest


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class RandomInception(FeatureExtractorInceptionV3):
    """torch-fidelity's network with weights of He's initialization, by which features keep the signal."""

    def load_state_dict(self, state_dict, *args, **kwargs):
        generator = torch.Generator().manual_seed(0)
        for module in self.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.weight.data.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "nothing.pth"
    torch.save({}, file)
    return RandomInception("random", ["2048"], file)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and no file downloaded before."""

    def fail(url, *args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def test_lite0_is_the_pooled_last_block(images):
    (features,) = load_extractor("lite0", ["pooled"])(images)
    backbone = load_backbone("tf_efficientnet_lite0").eval()
    cfg = backbone.pretrained_cfg
    x = F.interpolate(images / 255, size=(224, 224), mode="bilinear")
    x = (x - torch.tensor(cfg["mean"])[:, None, None]) / torch.tensor(cfg["std"])[:, None, None]
    with torch.no_grad():
        expected = backbone.blocks(backbone.bn1(backbone.conv_stem(x))).mean(dim=(2, 3))
    assert features.shape == (2, 320) and features.dtype == torch.float32
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)


def test_spatial_inception(images, random_inception, tmp_path):
    """Given the same weights: the parent's features, and the first 7 channels of mixed_6/conv."""
    torch.save(random_inception.state_dict(), tmp_path / "inception.pth")
    weights = {"inception": tmp_path / "inception.pth"}
    extractor = load_extractor("inception", ["2048", "spatial", "logits_unbiased"], weights)
    maps = []
    handle = extractor.Mixed_6d.register_forward_hook(lambda module, inputs, output: maps.append(output))
    pooled, spatial, logits = extractor(images)
    handle.remove()
    assert spatial.shape == (2, 2023) and logits.shape == (2, 1008)
    assert torch.equal(pooled, random_inception(images)[0])
    only_spatial = load_extractor("inception", ["spatial"], weights)
    assert maps[0].shape == (2, 768, 17, 17)  # the block's output begins with that branch
    assert torch.equal(spatial, maps[0][:, :7].flatten(1))
    assert torch.equal(spatial, only_spatial(images)[0])


def test_a_pickled_random_inception_is_read_and_not_run(images, random_inception, tmp_path):
    """As StyleGAN-XL shares its own: a whole module, whose classifier may have another number of classes."""
    module, path = copy.deepcopy(random_inception), tmp_path / "InceptionV3.pkl"
    module.fc = torch.nn.Linear(2048, 1000)
    path.write_bytes(pickle.dumps(module))
    read = load_extractor("inception_random", ["2048"], {"inception_random": path})
    torch.testing.assert_close(read(images)[0], random_inception(images)[0])
    torch.save(random_inception.state_dict(), tmp_path / "inception.pth")  # with another classifier
    again = load_extractor("inception_random", ["2048"], {"inception_random": tmp_path / "inception.pth"})
    assert weights_digest(again) == weights_digest(read)  # the cache of features finds them again
    path.write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="holds no torch module"):
        load_extractor("inception_random", ["2048"], {"inception_random": path})


def test_digest_sees_one_changed_weight():
    module = torch.nn.Linear(3, 3)
    before = weights_digest(module)
    with torch.no_grad():
        module.bias[1] += 1e-6
    assert weights_digest(module) != before


def test_vgg16(images, vgg16_file):
    (features,) = load_extractor("vgg16", ["fc2_relu"], {"vgg16": vgg16_file})(images)
    assert features.shape == (2, 4096) and (features >= 0).all() and features.std() > 0


@pytest.mark.parametrize(
    "name, file",
    [
        ("inception", "weights-inception-2015-12-05-6726825d.pth"),
        ("vgg16", "vgg16-397923af.pth"),
        ("lpips", "weights-vgg16-lpips.pth"),
    ],
)
def test_missing_weights_name_the_file(offline, name, file):
    with pytest.raises(FileNotFoundError, match=file) as error:
        find_weights(name)
    assert f"{name}={file}" in str(error.value)


def test_downloaded_weights_are_used(offline, tmp_path):
    file = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    file.parent.mkdir(parents=True)
    torch.save({}, file)
    assert find_weights("vgg16") == file


def test_bad_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_extractor("inception", ["2048"], {"inception": tmp_path / "nowhere.pth"})
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="`weights` for inception must hold them, got .*other.pth"):
        load_extractor("inception", ["2048"], {"inception": tmp_path / "other.pth"})
    with pytest.raises(ValueError, match="got 'resnet'"):
        load_extractor("inception", ["2048"], {"resnet": tmp_path / "other.pth"})


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('pickled code was run')",))


def test_pickled_code_is_never_run(tmp_path):
    torch.save({"weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="`weights` for inception must be a plain state dict, got .*evil.pth"):
        load_extractor("inception", ["2048"], {"inception": tmp_path / "evil.pth"})


def test_lpips_finds_the_files_given(vgg16_file, tmp_path):
    torch.manual_seed(0)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    torch.save(heads, tmp_path / "my_lpips.pth")
    before = torch.hub.get_dir()
    with lpips_weights({"lpips": tmp_path / "my_lpips.pth", "vgg16": vgg16_file}):
        similarity = SampleSimilarityLPIPS("lpips-vgg16")
    assert torch.hub.get_dir() == before
    assert isinstance(similarity.net, VGG16features)
    np.testing.assert_array_equal(similarity.lin2.model[1].weight, heads["lin2.model.1.weight"])
