"""Feature extractors: torch-fidelity's and those it lacks, and where the weights of all of them come from.

Every extractor takes uint8 images (B, 3, H, W), resizes them itself, and returns a feature (B, D), float32, for each
name in its `features_list`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
from torch_fidelity.sample_similarity_lpips import URL_VGG16_LPIPS
from torchvision.models import VGG16_Weights

from ..conversion import read_module_tensors
from ..feature_networks import load_feature_network
from ..images import to_float

logger = logging.getLogger(__name__)

Weights = Mapping[str, str | Path]  # by the names below
WEIGHT_URLS = {
    "inception": URL_INCEPTION_V3,
    "vgg16": VGG16_Weights.IMAGENET1K_V1.url,
    "lpips": URL_VGG16_LPIPS,
}
WEIGHT_NAMES = ("lite0", "inception", "inception_random", "vgg16", "lpips")
LITE0_SIZE = 224  # pixels a side, which the network was trained at
SPATIAL_CHANNELS = 7  # of 17 x 17 positions: 2,023 numbers, close to FID's 2,048 (Nash et al. 2021)


class Lite0Extractor(nn.Module):
    """EfficientNet-lite0's last block before the head, averaged over space: "pooled", 320 numbers an image.

    Images are resized to 224 x 224, bilinearly (half-pixel centers, no antialiasing).
    """

    features_list = ("pooled",)

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        network = load_feature_network("tf_efficientnet_lite0", weights)
        self.network = network.to(memory_format=torch.channels_last)  # 4x faster on a CPU

    def forward(self, images: Tensor) -> tuple[Tensor]:
        size = (LITE0_SIZE, LITE0_SIZE)
        images = F.interpolate(to_float(images), size=size, mode="bilinear", align_corners=False)  # (B, 3, 224, 224)
        features = self.network.forward_pooled(images.contiguous(memory_format=torch.channels_last))  # (B, 320)
        return (features.float(),)


class SpatialInception(FeatureExtractorInceptionV3):
    """torch-fidelity's InceptionV3 with one more feature, "spatial": sFID's, (B, 2023).

    It is the first 7 channels of the 17 x 17 map `mixed_6/conv` (torch's `Mixed_6d.branch1x1`, after its ReLU).
    """

    def __init__(self, name: str, features_list: list[str], **kwargs):
        super().__init__(name, features_list, **kwargs)
        self._spatial = None
        self.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS].flatten(1).float()  # (B, 7 * 17 * 17)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        wanted = self.features_list
        self.features_list = [name for name in wanted if name != "spatial"] or ["768"]
        try:
            features = dict(zip(self.features_list, super().forward(images), strict=True))
        finally:
            self.features_list = wanted
        features["spatial"], self._spatial = self._spatial, None
        return tuple(features[name].float() for name in wanted)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return (*FeatureExtractorInceptionV3.get_provided_features_list(), "spatial")


def load_extractor(
    name: str, layers: Iterable[str], weights: Weights | None = None
) -> FeatureExtractorBase | Lite0Extractor:
    """Builds an extractor with its weights: from a file, else torch's cache of downloads, else a download.

    Args:
        name: "lite0", "inception", "inception_random" or "vgg16".
        layers: The features wanted, such as ["2048", "spatial"].
        weights: {name: file}; `None` or a missing name for the other two sources. inception_random's is a state dict,
            or the pickle of the module as StyleGAN-XL's authors share it, which is read without being run.

    Raises:
        ValueError: An unknown name, or a file that does not hold these weights.
        FileNotFoundError: No such file, or none given and the download fails; the message names the file.
    """
    check_weight_names(weights)
    given = (weights or {}).get(name)
    if name == "lite0":
        return Lite0Extractor(given)
    file = _random_inception(given) if name == "inception_random" else find_weights(name, given)
    extractor = FeatureExtractorVGG16 if name == "vgg16" else SpatialInception
    try:
        return extractor(name, list(layers), feature_extractor_weights_path=file)
    except RuntimeError as error:
        raise ValueError(f"`weights` for {name} must hold them, got {given or file}: {error}") from error


def check_weight_names(weights: Weights | None) -> None:
    for name in weights or {}:
        if name not in WEIGHT_NAMES:
            raise ValueError(f"`weights` must be for some of {', '.join(WEIGHT_NAMES)}, got {name!r}.")


def find_weights(name: str, path: str | Path | None = None) -> Path:
    """The weights file of "inception", "vgg16" or "lpips": the one given, else torch's cache, else downloaded to it."""
    if path is not None:
        _read_state_dict(name, path, device="meta")  # torch-fidelity would run code pickled in it
        return Path(path).expanduser()
    url = WEIGHT_URLS[name]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if cached.is_file():
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    try:
        logger.info("downloading %s", url)
        torch.hub.download_url_to_file(url, str(cached), progress=False)
    except (URLError, OSError) as error:
        raise FileNotFoundError(
            f"`weights` for {name} must be given: {cached} does not exist and cannot be downloaded from {url} "
            f"({error}). Fetch it on a connected machine and give it as weights {name}={cached.name}."
        ) from error
    return cached


def _read_state_dict(name: str, path: str | Path, device: str = "cpu") -> dict[str, Tensor]:
    """A state dict that holds nothing but tensors."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"`weights` for {name} must be an existing file, got {path}.")
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # unpickling raises many kinds
        raise ValueError(f"`weights` for {name} must be a plain state dict, got {path}: {error}") from error


def _random_inception(path: str | Path | None) -> BinaryIO:
    """A state dict file as torch-fidelity wants it, without a classifier, which is not looked at."""
    if path is None:
        raise ValueError(
            "`weights` must have inception_random=FILE for rfid, the random Inception that StyleGAN-XL published: "
            "figures of any other compare with no published one."
        )
    is_pickle = Path(path).suffix == ".pkl"
    tensors = read_module_tensors(path) if is_pickle else _read_state_dict("inception_random", path)
    kept = {name: value for name, value in tensors.items() if not name.startswith(("fc.", "AuxLogits."))}
    file = io.BytesIO()
    torch.save(kept | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, file)
    file.seek(0)
    return file


@contextlib.contextmanager
def lpips_weights(weights: Weights | None = None) -> Iterator[None]:
    """Within this context torch-fidelity's LPIPS, which only knows torch's cache, finds its two files.

    Raises:
        ValueError, FileNotFoundError: As `load_extractor`.
    """
    check_weight_names(weights)
    files = {name: find_weights(name, (weights or {}).get(name)) for name in ("lpips", "vgg16")}
    previous = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        for name, file in files.items():
            (checkpoints / WEIGHT_URLS[name].rsplit("/", 1)[-1]).symlink_to(file.absolute())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(previous)
