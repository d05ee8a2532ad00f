"""Feature extractors for torch-fidelity: those it lacks, and where the weights of all of them come from.

Every extractor takes uint8 images (B, 3, H, W), resizes them itself, and returns a tuple of features (B, D), float32.
"""

import contextlib
import io
import logging
import math
import tempfile
from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.sample_similarity_lpips import URL_VGG16_LPIPS
from torchvision.models import VGG16_Weights

from ..conversion import read_module_tensors
from ..feature_networks import load_feature_network
from ..images import to_float

logger = logging.getLogger(__name__)

# Our short name -> torch-fidelity's registered name
EXTRACTORS = {
    "lite0": "efficientnet-lite0",
    "inception": "inception-v3-spatial",
    "inception_random": "inception-v3-random",
    "vgg16": "vgg16",
}
WEIGHT_URLS = {
    "inception": URL_INCEPTION_V3,
    "vgg16": VGG16_Weights.IMAGENET1K_V1.url,
    "lpips": URL_VGG16_LPIPS,
}
WEIGHT_NAMES = ("lite0", "inception", "inception_random", "vgg16", "lpips")
SPATIAL_CHANNELS = 7  # of 17 x 17 positions: 2,023 numbers, close to FID's 2,048 (Nash et al. 2021)
RANDOM_INCEPTION_SEED = 0  # of rfid_own's weights: any will do, as long as it stays the same


class FeatureExtractorLite0(FeatureExtractorBase):
    """EfficientNet-lite0's last block before the head, averaged over space: 320 numbers an image.

    Images are resized to 224 x 224, bilinearly (half-pixel centres, no antialiasing).
    """

    INPUT_IMAGE_SIZE = 224

    def __init__(self, name, features_list, feature_extractor_weights_path=None, **kwargs):
        super().__init__(name, features_list)
        network = load_feature_network("tf_efficientnet_lite0", feature_extractor_weights_path)
        self.network = network.to(memory_format=torch.channels_last)  # 4x faster on a CPU

    def forward(self, images: Tensor) -> tuple[Tensor]:
        size = (self.INPUT_IMAGE_SIZE, self.INPUT_IMAGE_SIZE)
        images = F.interpolate(to_float(images), size=size, mode="bilinear", align_corners=False)  # (B, 3, 224, 224)
        features = self.network.forward_pooled(images.contiguous(memory_format=torch.channels_last))  # (B, 320)
        return (features.float(),)

    @staticmethod
    def get_provided_features_list():
        return ("pooled",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "pooled"

    @staticmethod
    def can_be_compiled():
        return True

    @staticmethod
    def get_dummy_input_for_compile():
        return torch.zeros(1, 3, 4, 4, dtype=torch.uint8)


class FeatureExtractorSpatialInception(FeatureExtractorInceptionV3):
    """torch-fidelity's InceptionV3 with one more feature, "spatial": sFID's, (B, 2023).

    It is the first 7 channels of the 17 x 17 map `mixed_6/conv` (torch's `Mixed_6d.branch1x1`, after its ReLU).
    """

    def __init__(self, name, features_list, **kwargs):
        super().__init__(name, features_list, **kwargs)
        self._spatial = None
        self.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, module, inputs, output):
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
    def get_provided_features_list():
        return (*FeatureExtractorInceptionV3.get_provided_features_list(), "spatial")


class FeatureExtractorRandomInception(FeatureExtractorInceptionV3):
    """InceptionV3 with random weights, for rFID: He's normal initialisation from a fixed seed, unless a file is given.

    The figure depends on the draw: it compares only between models measured with the same weights. Those published for
    StyleGAN-XL and Poly-INR use one particular network; with its file the metric is called rfid, without rfid_own. The
    file is a state dict, or the pickle of the module as its authors share it, which is read without being run.
    """

    def __init__(self, name, features_list, feature_extractor_weights_path=None, **kwargs):
        self._draw_weights = feature_extractor_weights_path is None
        if self._draw_weights:  # the parent class cannot do without a file
            feature_extractor_weights_path = io.BytesIO()
            torch.save({}, feature_extractor_weights_path)
            feature_extractor_weights_path.seek(0)
        super().__init__(name, features_list, feature_extractor_weights_path=feature_extractor_weights_path, **kwargs)

    def load_state_dict(self, state_dict, *args, **kwargs):
        if not self._draw_weights:
            own = self.state_dict()  # whose classifier, of 1,008 classes, is not looked at
            kept = {name: own[name] for name in own if name.startswith("fc.")}
            given = {name: value for name, value in state_dict.items() if not name.startswith(("fc.", "AuxLogits."))}
            return super().load_state_dict(kept | given, *args, **kwargs)
        generator = torch.Generator().manual_seed(RANDOM_INCEPTION_SEED)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                fan_in = module.weight[0].numel()
                module.weight.data.normal_(0, math.sqrt(2 / fan_in), generator=generator)
                if module.bias is not None:
                    module.bias.data.zero_()
        return None


for _name, _class in {
    EXTRACTORS["lite0"]: FeatureExtractorLite0,
    EXTRACTORS["inception"]: FeatureExtractorSpatialInception,
    EXTRACTORS["inception_random"]: FeatureExtractorRandomInception,
}.items():
    if _name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_name, _class)


def load_extractor(name: str, layers, weights=None) -> FeatureExtractorBase:
    """Builds an extractor with its weights: from a file, else torch's cache of downloads, else a download.

    Args:
        name: "lite0", "inception", "inception_random" or "vgg16".
        layers: the features wanted, such as ["2048", "spatial"].
        weights: {name: file}; `None` or a missing name for the other two sources.

    Raises:
        ValueError: an unknown name, or a file that does not hold these weights.
        FileNotFoundError: no such file, or none given and the download fails; the message names the file.
    """
    check_weight_names(weights)
    given = (weights or {}).get(name)
    if name in ("inception", "vgg16"):
        path = find_weights(name, given)
    elif given is not None and name == "inception_random" and Path(given).suffix == ".pkl":
        path = _read_module(given)
    else:  # lite0 has sources of its own; random weights need none
        path = given if given is None or name == "lite0" else _check_file(name, given)
    extractor_class = FEATURE_EXTRACTORS_REGISTRY[EXTRACTORS[name]]
    try:
        return extractor_class(EXTRACTORS[name], list(layers), feature_extractor_weights_path=path)
    except RuntimeError as error:
        raise ValueError(f"`weights` for {name}: {path} does not hold them: {error}") from error


def check_weight_names(weights) -> None:
    for name in weights or {}:
        if name not in WEIGHT_NAMES:
            raise ValueError(f"`weights` must be for some of {', '.join(WEIGHT_NAMES)}, got {name!r}.")


def find_weights(name: str, path=None) -> Path:
    """The weights file of "inception", "vgg16" or "lpips": the one given, else torch's cache, else downloaded to it."""
    if path is not None:
        return _check_file(name, path)
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
            f"`weights` for {name}: {cached} does not exist and cannot be downloaded from {url} "
            f"({error}). Fetch it on a connected machine and give it as weights {name}={cached.name}."
        ) from error
    return cached


def _check_file(name: str, path) -> Path:
    """A state dict that holds nothing but tensors: torch-fidelity would run code pickled in it."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"`weights` for {name}: {path} does not exist.")
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # unpickling raises many kinds
        raise ValueError(f"`weights` for {name}: {path} is not a plain state dict: {error}") from error
    return path


def _read_module(path) -> io.BytesIO:
    """The tensors of a pickled module as a state dict file, read with [`~polyinr_hf.conversion`]'s inert unpickler."""
    file = io.BytesIO()
    torch.save(read_module_tensors(path), file)
    file.seek(0)
    return file


@contextlib.contextmanager
def lpips_weights(weights=None):
    """Within this context torch-fidelity's LPIPS, which only knows torch's cache, finds its two files.

    Raises:
        ValueError, FileNotFoundError: as `load_extractor`.
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
