"""The authors' checkpoints -> ours, without executing anything that is inside them.

The authors' files are pickles of whole modules, with the source text of their classes; loading one the ordinary way
runs it. `load_original_checkpoint` reads them as data: tensors and plain containers are rebuilt by the few functions
below, every other object becomes a record of its attributes, and a call of anything else is refused by name.
"""

import io
import json
import math
import pickle
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .modeling_poly_inr import PolyINRGenerator
from .pipeline_poly_inr import PolyINRPipeline


class UnsafePickleError(pickle.UnpicklingError, ValueError):
    """A pickle asks for something that rebuilding tensors and containers does not need; the message names it."""


# ---------------------------------------------------------------------------------------------------------------------
# Reading a pickle as data
# ---------------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle mentions: its name, nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class _Record:
    """An object of a class that is not imported: its attributes, and its items if it was a kind of dict."""

    kind: str
    state: object = field(default_factory=dict)

    def __setitem__(self, key, value) -> None:
        self.state[key] = value


def _load_storage(content: bytes) -> Tensor:
    """The stored values, as a tensor of one dimension."""
    try:
        storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unsafe = re.search(r"GLOBAL (\S+)", str(error))  # the rest of torch's message advises to trust the file
        what = f"calls {unsafe[1]}" if unsafe else "holds more than values"
        raise UnsafePickleError(f"refused: torch.storage._load_from_bytes {what}. Nothing was run.") from None
    if not isinstance(storage, torch.storage.TypedStorage):
        raise UnsafePickleError(f"torch.storage._load_from_bytes: content is no storage but {type(storage).__name__}")
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)


def _rebuild_tensor(storage: Tensor, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    if math.prod(size) > storage.numel():  # a stride of 0 would make much of little
        raise ValueError(f"a tensor of size {tuple(size)} does not lie within its {storage.numel()} stored values")
    return storage.as_strided(size, stride, offset)  # raises if out of bounds


def _rebuild_parameter(data: Tensor, requires_grad=False, hooks=None) -> Tensor:
    return data


def _rebuild_persistent_object(meta: dict) -> _Record:
    """The authors' wrapper of classes with source text: the text, `meta["module_src"]`, is ignored."""
    return _Record(str(meta["class_name"]), meta["state"])


_REBUILDERS = {
    "torch.storage._load_from_bytes": _load_storage,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch_utils.persistence._reconstruct_persistent_obj": _rebuild_persistent_object,
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
}
# Values that are written as calls and that no weight depends on. They become records too: these are not called either.
_RECORDED_CALLS = (
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "torch.device",
    "torch.Size",
    "functools.partial",  # of feature networks, inside D, as is the next
    "timm.layers.format.Format",
)


class _DataUnpickler(pickle._Unpickler):
    """Unpickler that imports nothing and calls nothing but `_REBUILDERS`.

    The one in Python, because every operation that calls or changes an object can be replaced there, and because its
    memo is a dict: the one in C allocates an array as long as a file asks for.
    """

    def find_class(self, module: str, name: str):
        return _REBUILDERS.get(f"{module}.{name}") or _Name(module, name)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if isinstance(function, _Name) and str(function) in _RECORDED_CALLS:
            self.stack[-1] = _Record(str(function), {"arguments": arguments})
        elif any(function is rebuild for rebuild in _REBUILDERS.values()):
            self.stack[-1] = function(*arguments)
        else:
            self._refuse(f"calls {function}")

    def load_newobj(self) -> None:
        arguments, kind = self.stack.pop(), self.stack[-1]
        if not isinstance(kind, _Name) or arguments:
            self._refuse(f"constructs {kind} with arguments")
        self.stack[-1] = _Record(str(kind))

    def load_build(self) -> None:
        state, record = self.stack.pop(), self.stack[-1]
        if not isinstance(record, _Record):
            self._refuse(f"sets attributes of {record}")
        record.state = state

    def load_newobj_ex(self) -> None:
        self._refuse(f"constructs {self.stack[-3]} with arguments")

    def load_inst(self) -> None:  # of protocol 0
        module, name = (self.readline()[:-1].decode() for _ in range(2))
        self._refuse(f"calls {module}.{name}")

    def load_obj(self) -> None:  # of protocol 1
        self._refuse(f"calls {self.pop_mark()[0]}")

    def get_extension(self, code: int) -> None:
        self._refuse(f"uses the extension registry, code {code}")

    def persistent_load(self, key) -> None:
        self._refuse(f"refers to data outside, persistent id {key!r}")

    def _refuse(self, what: str) -> None:
        raise UnsafePickleError(f"refused: the pickle {what}, which reading weights does not need. Nothing was run.")

    dispatch = pickle._Unpickler.dispatch | {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.INST[0]: load_inst,
        pickle.OBJ[0]: load_obj,
    }


def _read_pickle(path: str | Path) -> object:
    try:
        return _DataUnpickler(io.BytesIO(Path(path).read_bytes())).load()
    except (OSError, UnsafePickleError):
        raise
    except Exception as error:  # unpickling damaged data raises anything from IndexError to MemoryError
        raise ValueError(f"`checkpoint` {path} is no pickle, or cut short or damaged: {error!r}") from error


# ---------------------------------------------------------------------------------------------------------------------
# The authors' layout -> ours
# ---------------------------------------------------------------------------------------------------------------------
_RENAMES = [
    (r"mapping\.embed\.weight", r"mapping.embedding.weight"),
    (r"mapping\.embed_proj\.(weight|bias)", r"mapping.class_projection.\1"),
    (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
    (r"mapping\.w_avg", r"w_mean"),
    (r"synthesis\.fc0_0\.(weight|bias)", r"synthesis_levels.0.\1"),
    (r"synthesis\.fb(\d+)\.fb0\.fc1\.(weight|bias)", r"synthesis_levels.\1.\2"),
    (r"synthesis\.to_rgb\.(weight|bias)", r"to_rgb.\1"),
]
for _index, _layer in enumerate(("coefficient", "bias", "rotation", "shift", "hidden"), start=1):
    _RENAMES += [
        (rf"synthesis\.fc0_{_index}\.(weight|bias)", rf"affine_levels.0.{_layer}.\1"),
        (rf"synthesis\.fb(\d+)\.fc0_{_index}\.(weight|bias)", rf"affine_levels.\1.{_layer}.\2"),
    ]
_GRIDS = ("gridt", "synthesis.grid")


def load_original_checkpoint(path: str | Path, weights: str = "G_ema") -> tuple[dict, dict[str, Tensor]]:
    """Reads a generator from one of the authors' `.pkl` checkpoints, of any stage, without running what is in it.

    Args:
        path: The pickle.
        weights: `"G_ema"`, the running average of the generator that images are made with, or `"G"`.

    Returns:
        Config of a [`PolyINRGenerator`] and its state dict, float32.

    Raises:
        UnsafePickleError: (a ValueError) if the pickle asks for a call that rebuilding tensors and containers does not
            need; the message names it.
        ValueError: for a file that is no such checkpoint, is damaged or cut short, or does not hold `weights`.
    """
    if weights not in ("G_ema", "G"):
        raise ValueError(f"`weights` must be 'G_ema' or 'G', got {weights!r}.")
    checkpoint = _read_pickle(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(weights), _Record):
        entries = checkpoint.items() if isinstance(checkpoint, dict) else ()
        found = [name for name, value in entries if isinstance(value, _Record)]
        raise ValueError(f"`checkpoint` {path} holds no network {weights!r}; its networks: {found or 'none'}.")
    try:
        tensors = dict(_named_tensors(checkpoint[weights]))
        config = _infer_config(tensors)
        state_dict = _convert_tensors(tensors, config)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"`checkpoint` {path}: {weights} is no Poly-INR generator, {error!r}.") from error
    _check_shapes(config, state_dict)
    return config, state_dict


def read_module_tensors(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a pickled torch module of any class, without running what is in it.

    Raises:
        UnsafePickleError: (a ValueError) as in [`load_original_checkpoint`].
        ValueError: for a file that holds no module, or is damaged.
    """
    module = _read_pickle(path)
    try:
        return dict(_named_tensors(module))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"`checkpoint` {path} holds no torch module: {error!r}") from error


def _named_tensors(module: _Record, prefix: str = ""):
    """What `state_dict` would give, read off the records."""
    for name, tensor in (module.state["_parameters"] | module.state["_buffers"]).items():
        if tensor is not None:
            yield prefix + name, tensor
    for name, child in module.state["_modules"].items():
        if child is not None:
            yield from _named_tensors(child, f"{prefix}{name}.")


def _infer_config(tensors: dict[str, Tensor]) -> dict:
    embedding = tensors.get("mapping.embed.weight")
    first_layer, projection = tensors["mapping.fc0.weight"], tensors.get("mapping.embed_proj.weight")
    # Unconditional networks carry an embedding too, without a use: it is no input of the first layer.
    config = {"z_dim": first_layer.shape[1], "num_classes": None, "class_embed_dim": 320}
    if projection is not None:
        config["z_dim"] = first_layer.shape[1] - projection.shape[0]
        config["num_classes"], config["class_embed_dim"] = embedding.shape
    grid = tensors.get("gridt", tensors.get("synthesis.grid"))
    return config | {
        "w_dim": first_layer.shape[0],
        "channels": tensors["synthesis.fc0_0.weight"].shape[0],
        "num_levels": 1 + sum(name.endswith(".fb0.fc1.weight") for name in tensors),
        "num_mapping_layers": sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in tensors),
        "sample_size": math.isqrt(grid.numel() // 2),
        "initialization": "released",
    }


def _convert_tensors(tensors: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    state_dict = {}
    for name, tensor in tensors.items():
        if name in _GRIDS or (config["num_classes"] is None and name == "mapping.embed.weight"):
            continue
        renamed = next((re.sub(old, new, name) for old, new in _RENAMES if re.fullmatch(old, name)), None)
        if renamed is None:
            raise KeyError(f"unknown tensor {name}")
        state_dict[renamed] = tensor.float().contiguous()
    state_dict["w_mean"] = state_dict["w_mean"].reshape(-1, config["w_dim"])  # one row if unconditional
    state_dict["to_rgb.weight"] = state_dict["to_rgb.weight"].flatten(1)  # (3, n, 1, 1) -> (3, n)
    return state_dict


def _check_shapes(config: dict, state_dict: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in PolyINRGenerator(**config).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    wrong = {name: (found.get(name), expected.get(name)) for name in expected.keys() | found.keys()}
    wrong = [f"{name} {got} (expected {want})" for name, (got, want) in sorted(wrong.items()) if got != want]
    if wrong:
        raise ValueError(f"`checkpoint`: not the tensors of a Poly-INR generator: {'; '.join(wrong[:5])}.")


def convert_original_checkpoint(
    path: str | Path, id2label: dict[int, str] | None = None, weights: str = "G_ema"
) -> PolyINRPipeline:
    """One of the authors' `.pkl` checkpoints -> a pipeline, ready to use or to `save_pretrained`.

    Args:
        path, weights: See `load_original_checkpoint`.
        id2label: Name of every class id, see [`PolyINRPipeline`]; `read_id2label` reads one.

    Raises:
        ValueError: as `load_original_checkpoint`, and for an `id2label` that does not name the network's classes.
    """
    config, state_dict = load_original_checkpoint(path, weights)
    num_classes = config["num_classes"] or 0
    if id2label is not None and set(id2label) != set(range(num_classes)):
        raise ValueError(f"`id2label` has {len(id2label)} names, the network has {num_classes} classes, ids from 0.")
    with torch.device("meta"):
        generator = PolyINRGenerator(**config)
    generator.load_state_dict(state_dict, assign=True)
    return PolyINRPipeline(generator.eval(), id2label)


def read_id2label(source: str | Path) -> dict[int, str]:
    """Class names from a JSON file, a list or an object of ids, or, for "imagenet", ImageNet's own as timm has them.

    Raises:
        ValueError: if the file is neither of these.
    """
    if str(source) == "imagenet":
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return {index: info.index_to_description(index, detailed=False) for index in range(info.num_classes())}
    try:
        names = json.loads(Path(source).read_text(encoding="utf-8"))
        names = dict(enumerate(names)) if isinstance(names, list) else {int(key): name for key, name in names.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"`id2label` {source} is no JSON list of names or object of ids and names: {error}") from error
    if not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"`id2label` {source} has names that are no text.")
    return names
