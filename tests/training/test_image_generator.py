"""The generator in training: chunks of pixels change memory, not gradients; nothing strays to another device."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from polyinr_hf import PolyINRGenerator
from polyinr_hf.training import image_generator
from polyinr_hf.training.discriminator import ProjectedDiscriminator
from polyinr_hf.training.image_generator import ImageGenerator
from polyinr_hf.training.step import generator_loss, hinge_loss_fake, hinge_loss_real

CLASSES = 3


class PeakBytes(TorchDispatchMode):
    """High-water mark of the memory that tensors made in this context hold."""

    def __init__(self):
        super().__init__()
        self.live, self.peak, self._known = 0, 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return out

    def _watch(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self._known.discard(key)
        self.live -= size


@pytest.fixture(scope="module")
def generator() -> ImageGenerator:
    torch.manual_seed(0)
    return ImageGenerator(PolyINRGenerator(channels=32, num_levels=4, num_classes=CLASSES, sample_size=16))


@pytest.fixture(scope="module")
def batch():
    source = torch.Generator().manual_seed(0)
    return torch.randn(4, 64, generator=source), torch.tensor([0, 1, 2, 1])


def gradients(generator, batch, resolution, pixel_chunk):
    """Images and the gradients that the same dLoss / dImage gives."""
    generator.zero_grad()
    images = generator(*batch, resolution, pixel_chunk)
    images.backward(torch.randn(images.shape, generator=torch.Generator().manual_seed(1)))
    return images.detach(), {name: parameter.grad.clone() for name, parameter in generator.named_parameters()}


def test_images_are_the_generators(generator, batch):
    expected = generator.generator(*batch, height=16, width=16).sample
    torch.testing.assert_close(generator(*batch, 16), expected)
    with torch.no_grad():
        torch.testing.assert_close(generator(*batch, 16, pixel_chunk=100), expected)


@pytest.mark.parametrize("pixel_chunk", [1, 100, 256, 10**6])
def test_pixel_chunks_leave_gradients_as_they_are(generator, batch, pixel_chunk):
    """Also chunks that divide nothing, and chunks larger than the batch."""
    resolution = 4 if pixel_chunk == 1 else 16
    images, plain = gradients(generator, batch, resolution, None)
    chunked_images, chunked = gradients(generator, batch, resolution, pixel_chunk)
    torch.testing.assert_close(chunked_images, images)
    for name, gradient in plain.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        torch.testing.assert_close(chunked[name], gradient, rtol=0, atol=1e-5 * scale.item(), msg=name)


@pytest.mark.parametrize("images", [1, 3])
def test_a_few_images_at_a_time_leave_gradients_as_they_are(generator, batch, images, monkeypatch):
    expected, plain = gradients(generator, batch, 16, None)
    monkeypatch.setattr(image_generator, "CPU_FEATURES", images * 16 * 16 * 32)
    calls = []
    synthesize = generator._synthesize
    monkeypatch.setattr(generator, "_synthesize", lambda A, X: calls.append(len(A)) or synthesize(A, X))
    ours, parts = gradients(generator, batch, 16, None)
    assert calls == {1: [1, 1, 1, 1], 3: [3, 1]}[images]
    torch.testing.assert_close(ours, expected)
    for name, gradient in plain.items():
        torch.testing.assert_close(parts[name], gradient, rtol=0, atol=1e-5 * gradient.abs().max().item(), msg=name)


def test_pixel_chunks_keep_memory_flat(generator, batch):
    def peak(resolution, pixel_chunk):
        with PeakBytes() as memory:
            images = generator(*batch, resolution, pixel_chunk)
            images.backward(torch.ones_like(images))
        generator.zero_grad()
        return memory.peak

    small, large = peak(16, 256), peak(64, 256)
    image_bytes = 4 * 3 * 64 * 64 * 4  # of the batch; a few of them are there whatever is done
    assert large < small + 8 * image_bytes
    assert large < 2 * small
    assert peak(64, None) > 8 * peak(16, None) > 8 * small


def test_a_step_on_the_meta_device_mixes_no_devices():
    """There, a tensor that is left on the CPU raises."""
    generator = ImageGenerator(PolyINRGenerator(channels=16, num_levels=3, num_classes=CLASSES)).to("meta")
    networks = ["deit_tiny_distilled_patch16_224", "tf_efficientnet_lite0"]
    discriminator = ProjectedDiscriminator(CLASSES, networks, pretrained=False, feature_resolution=64).to("meta")
    z, labels = torch.empty(4, 64, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")
    draws = discriminator.sample_augmentations(4).to("meta")
    for pixel_chunk in (None, 256):
        images = generator(z, labels, 32, pixel_chunk)
        fake = discriminator(images, labels, 1.5, draws)
        real = discriminator(torch.empty_like(images), labels, 1.5, draws)
        (generator_loss(fake) + hinge_loss_fake(fake) + hinge_loss_real(real)).backward()
        discriminator.update_spectral_norm()
        learning = [*generator.parameters(), *discriminator.trainable_parameters()]
        assert {parameter.grad.device.type for parameter in learning} == {"meta"}
    with pytest.raises(RuntimeError, match="device"):
        discriminator(images, labels, 1.5, draws.new_empty(draws.shape, device="cpu"))
