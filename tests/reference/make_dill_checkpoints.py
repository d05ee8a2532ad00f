"""Writes small checkpoints as the authors' training loop does: whole networks, the discriminator with them, by dill.

    python -m venv venv && venv/bin/pip install torch==1.9.1 "numpy<1.24" dill==0.3.4   # of Python 3.8
    venv/bin/python tests/reference/make_dill_checkpoints.py

writes `dill_VERSION.pkl` of the dill that is installed. The networks are our own, under the names that the authors'
have. What their feature networks hold and a plain pickle cannot is here too: hooks that are closures, bound methods.
"""

import sys
import types
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

CHANNELS, LEVELS, CLASSES, SIZE, Z_DIM, W_DIM, EMBED_DIM = 8, 2, 3, 8, 8, 16, 12


def draw_tensors(shift: float = 0.0) -> dict:
    """The generator's tensors by the authors' names, the same ones everywhere."""
    shapes = {"gridt": (1, SIZE**2, 2), "mapping.embed.weight": (CLASSES, EMBED_DIM), "mapping.w_avg": (CLASSES, W_DIM)}
    layers = {
        "mapping.embed_proj": (Z_DIM, EMBED_DIM),
        "mapping.fc0": (W_DIM, 2 * Z_DIM),
        "mapping.fc1": (W_DIM, W_DIM),
    }
    for level in range(LEVELS):
        name, fan_in = ("synthesis.", W_DIM) if level == 0 else (f"synthesis.fb{level}.", CHANNELS)
        for index, fan_out in enumerate((2 * CHANNELS, CHANNELS, 4, 2), start=1):
            layers[f"{name}fc0_{index}"] = (fan_out, fan_in)
        layers[f"{name}fc0_0" if level == 0 else f"{name}fb0.fc1"] = (CHANNELS, CHANNELS)
        if level > 0:
            layers[f"{name}fc0_5"] = (CHANNELS, W_DIM)
    layers["synthesis.to_rgb"] = (3, CHANNELS, 1, 1)
    for name, shape in layers.items():
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})
    tensors = {}
    for name, shape in shapes.items():
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        tensors[name] = torch.from_numpy((0.5 * values + shift).astype(np.float32))
    return tensors


# -- the authors' modules, as far as their names go --------------------------------------------------------------------


def make_module(name: str, source: str = "") -> types.ModuleType:
    """A module that can be imported by this name, with all its parents."""
    if name not in sys.modules:
        module = sys.modules[name] = types.ModuleType(name)
        exec(source, module.__dict__)  # so that these functions belong to it and not to this script
        parent, _, leaf = name.rpartition(".")
        if parent:
            setattr(make_module(parent), leaf, module)
    return sys.modules[name]


def make_class(module: str, name: str, persistent: bool = False) -> type:
    """An empty `nn.Module` of this name, that pickles find where the authors' is."""
    if hasattr(make_module(module), name):
        return getattr(sys.modules[module], name)
    members = {"__module__": module}
    if persistent:  # as `torch_utils.persistence` writes its classes, here without their source text

        def reduce(self):
            meta = {"type": "class", "version": 6, "module_src": "", "class_name": name, "state": self.__dict__}
            return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)

        members["__reduce__"] = reduce
    kind = type(name, (nn.Module,), members)
    setattr(sys.modules[module], name, kind)
    return kind


def make_generator(tensors: dict) -> nn.Module:
    root = make_class("training.networks_gmgan", "Generator")()
    networks = {"mapping": make_class("torch_utils.persistence", "MappingNetwork", persistent=True)}
    networks["synthesis"] = make_class("training.networks_gmgan", "SynthesisNetwork")
    layer = make_class("torch_utils.persistence", "FullyConnectedLayer", persistent=True)
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, networks.get(part, layer)())
                module._modules[part].weight_gain = 1 / np.sqrt(W_DIM)  # of type numpy.float64, as theirs
                module._modules[part].resample_filter = np.float32([1, 3, 3, 1])
            module = module._modules[part]
        module.register_buffer(leaf, tensor) if leaf == "w_avg" else setattr(module, leaf, nn.Parameter(tensor))
    return root.eval()


class Shaped(np.ndarray):
    """A kind of array that numpy does not know: dill has a call of its own for these."""


HOOKS = """
activations = {}

def watch(name, scales=(1, 2)):
    def hook(model, inputs, output):
        activations[name] = output, scales
    return hook

def resize(scale):
    return lambda model, inputs: watch(scale)

def name_of(model, suffix="-"):
    return type(model).__name__ + suffix

ignore = lambda model, inputs, output: None
"""
# As torch's module of this name: a function hides it, and dill 0.3.6 then writes the class with its content.
NORM = """
from typing import Optional

class SpectralNorm:
    def __call__(self, model, inputs, steps: Optional[int] = None):
        return inputs

def spectral_norm(model):
    model.register_forward_pre_hook(SpectralNorm())
    return model
"""


def make_discriminator() -> nn.Module:
    hooks = make_module("feature_networks.vit", HOOKS)
    Shaped.__module__ = "feature_networks.vit"
    hooks.Shaped = Shaped
    norm = make_module("feature_networks.spectral_norm", NORM)
    sys.modules["feature_networks"].spectral_norm = norm.spectral_norm

    root = make_class("pg_modules.discriminator", "ProjectedDiscriminator")()
    vit = nn.Sequential(norm.spectral_norm(nn.Conv2d(3, 4, 1)), nn.GELU(), nn.BatchNorm2d(4))
    vit[0].register_forward_hook(hooks.watch("1"))
    vit[1].register_forward_hook(hooks.ignore)
    vit[2].register_forward_pre_hook(hooks.resize(2))
    vit.forward_flex = types.MethodType(hooks.name_of, vit)  # as the authors change a method of timm's models
    vit[0].forward_flex = types.MethodType(hooks.resize("1"), vit[0])
    vit.code, vit.function = hooks.watch.__code__, hooks.watch
    vit.statistics = np.float64(0.5), np.int64(3), np.arange(6).reshape(2, 3), np.arange(3).view(Shaped)
    vit.size, vit.types = np.dtype("float32"), (types.MethodType, types.FunctionType, type(None), slice)
    root.feature_networks = nn.ModuleDict({"deit_base_distilled_patch16_224": vit})
    return root


def main():
    import dill

    make_module("torch_utils.persistence", "def _reconstruct_persistent_obj(meta):\n    raise NotImplementedError")
    checkpoint = {
        "G": make_generator(draw_tensors(shift=1)),
        "D": make_discriminator(),
        "G_ema": make_generator(draw_tensors()),
        "training_set_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "resolution": SIZE},
        "progress": {"cur_nimg": torch.LongTensor([4800]), "best_fid": np.float64(99.5)},
    }
    path = Path(__file__).with_name(f"dill_{dill.__version__}.pkl")
    with path.open("wb") as file:
        dill.dump(checkpoint, file)
    print(f"{path.name}: {path.stat().st_size:,} bytes, torch {torch.__version__}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
