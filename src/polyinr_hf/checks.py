"""What arguments and pipeline folders must hold, checked before any work.

Numbers may be Python's, numpy's or torch's; Python's come back. A file that says nonsense ends in one sentence that
names the file and the key. This file travels with the pipeline and needs torch and safetensors only.
"""

import json
import math
import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

# Far beyond anything anyone has trained, and small enough that a model is refused before it fills the machine.
LIMITS = {
    "z_dim": 2**16,
    "w_dim": 2**16,
    "channels": 2**16,
    "num_levels": 2**8,
    "num_classes": 2**24,
    "class_embed_dim": 2**16,
    "num_mapping_layers": 2**8,
    "sample_size": 2**20,
    "grid_size": 2**14,
}
OPTIONAL_SIZES = ("num_classes", "grid_size")  # which may be None
MAX_PARAMETERS = 2**36  # 275 GB in float32
CHOICES = {
    "modulation_activation": ("leaky_relu", "none"),
    "initialization": ("signal_preserving", "released"),
    "compose_coordinates": (True, False),
}
MAX_TEXT = 100  # characters of a value in a message
INDEX = "model_index.json"  # of a pipeline
SHARD_INDEX = "*.safetensors.index*.json"


# --- arguments --------------------------------------------------------------------------------------------------------


def whole_number(value: Any) -> int | None:
    """`value` as an int where it is an integer of Python, numpy or torch (an array or tensor of one), otherwise None.

    A bool is no number.
    """
    if isinstance(value, int) and not isinstance(value, bool):  # torch.compile's symbols answer this and little else
        return value
    if value is None or isinstance(value, bool) or str(getattr(value, "dtype", None)).endswith("bool"):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_numbers(values: int | Iterable[int]) -> list[int | None]:
    """One or several numbers as a list of ints, None for what is no whole number."""
    number = whole_number(values)
    return [whole_number(value) for value in values] if number is None and isinstance(values, Iterable) else [number]


def finite_number(value: Any) -> float | None:
    """`value` as a float or int where it is a finite number of Python, numpy or torch, otherwise None."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        if isinstance(value, (bool, str, bytes)) or str(getattr(value, "dtype", None)).endswith("bool"):
            return None
        try:
            value = float(value)
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
            return None
    return value if -math.inf < value < math.inf else None


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int; raises ValueError unless it is a whole number of at least `minimum`."""
    number = whole_number(value)
    if number is None or number < minimum:
        raise ValueError(f"`{name}` must be a whole number from {minimum}, got {value!r}.")
    return number


def check_number(name: str, value: Any, positive: bool = False) -> float:
    """`value` as a float or int; raises ValueError unless it is finite and not negative, or not zero either."""
    number = finite_number(value)
    if number is None or number < 0 or (positive and number == 0):
        raise ValueError(f"`{name}` must be a finite number {'above 0' if positive else 'from 0'}, got {value!r}.")
    return number


def check_size(height: int, width: int) -> tuple[int, int]:
    """Both as ints; raises ValueError unless both are positive whole numbers of pixels."""
    return check_count("height", height), check_count("width", width)


def check_extent(extent: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Its four numbers; raises ValueError unless they are (top, left, bottom, right), top < bottom and left < right."""
    try:
        sides = tuple(finite_number(side) for side in extent)
    except TypeError:  # a lone number, a 0-d tensor
        sides = ()
    numbers = [side for side in sides if side is not None]
    if len(sides) != 4 or len(numbers) != 4:
        raise ValueError(f"`extent` must be four finite numbers (top, left, bottom, right), got {extent!r}.")
    top, left, bottom, right = numbers
    if not (top < bottom and left < right):
        raise ValueError(f"`extent` must have top < bottom and left < right, got {extent!r}.")
    return top, left, bottom, right


def check_new_folder(path: str | os.PathLike) -> None:
    """Raises ValueError if there is something at `path` already, other than an empty folder."""
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"`output` must be a new or empty folder, {path} exists.")


def check_token(token: object) -> None:
    """Raises ValueError for a text that can be no token of the Hub, which it does not repeat."""
    if isinstance(token, str) and not (token.isascii() and token.isprintable() and token.split() == [token]):
        reason = "is empty" if not token else "has white space or other characters than ASCII's"
        raise ValueError(f"`token` must be a token of the Hub, such as hf_..., this one {reason}.")


# --- folders and weights ----------------------------------------------------------------------------------------------


def check_config(config: Mapping[str, Any]) -> None:
    """Checks those entries of a [`PolyINRGenerator`]'s configuration that are there.

    Raises:
        ValueError: for a size that is no whole number or out of range, an unknown option, or a model of more than
            `MAX_PARAMETERS` parameters.
    """
    sizes: dict[str, Any] = {name: config[name] for name in LIMITS if name in config}
    sizes = {name: size for name, size in sizes.items() if size is not None or name not in OPTIONAL_SIZES}
    for name, value in sizes.items():
        try:
            size = 0 if isinstance(value, bool) else operator.index(value)
        except TypeError:
            size = 0
        if not 1 <= size <= LIMITS[name]:
            raise ValueError(f"`{name}` must be a whole number in 1..{LIMITS[name]}, got {_short(value)}.")
    for name, legal in CHOICES.items():
        if name in config and not any(type(config[name]) is type(one) and config[name] == one for one in legal):
            raise ValueError(f"`{name}` must be {' or '.join(map(repr, legal))}, got {_short(config[name])}.")
    count = _count_parameters(**{name: int(size) for name, size in sizes.items()})
    if count > MAX_PARAMETERS:
        raise ValueError(f"{sizes} make a model of {count:,} parameters, more than {MAX_PARAMETERS:,}.")


def _count_parameters(
    w_dim=0, channels=0, num_levels=1, num_classes=0, class_embed_dim=0, num_mapping_layers=1, **others
) -> int:
    """About as many parameters as the model has, without those that no limit is needed for."""
    level = 4 * channels**2 + w_dim * channels
    return num_levels * level + num_classes * (class_embed_dim + w_dim) + num_mapping_layers * w_dim**2


def check_json_object(content: object, path: str | os.PathLike) -> dict:
    """`content` of a JSON file; raises OSError unless it is an object."""
    if not isinstance(content, dict):
        raise OSError(f"{path} must hold a JSON object, it holds {_short(content)}.")
    return content


def check_is_pipeline(path: str | os.PathLike) -> None:
    """Raises OSError if there is something at `path` that is no pipeline's folder, naming those below or around it."""
    path = Path(path)
    if not path.exists() or (path / INDEX).is_file():
        return
    near = [path.parent] if (path.parent / INDEX).is_file() else []
    near += sorted({index.parent for depth in ("*", "*/*") for index in path.glob(f"{depth}/{INDEX}")}, reverse=True)
    hint = f"; {' or '.join(map(str, near[:2]))} is one" if near else ""
    raise OSError(f"{path} is no pipeline's folder, it has no {INDEX}{hint}.")


def check_index(index: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Raises OSError if the entries of a pipeline's model_index.json, where there, are no model and no class names."""
    entry = index.get("generator", ["", ""])
    if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not all(isinstance(part, str) for part in entry):
        raise OSError(f"{path}: `generator` must be the names of a module and a class, it is {_short(entry)}.")
    try:
        check_id2label(index.get("id2label"))
    except ValueError as error:
        raise OSError(f"{path}: {error}") from error


def check_id2label(id2label: object, num_classes: int | None = None) -> None:
    """Raises ValueError unless `id2label` is None or maps class ids, as numbers or text, to names.

    Args:
        num_classes: ids must be below it, where given.
    """
    if id2label is None:
        return
    if not isinstance(id2label, Mapping):
        raise ValueError(f"`id2label` must map class ids to names, got {_short(id2label)}.")
    seen = set()
    for key, name in id2label.items():
        number = int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 20 else key
        if isinstance(number, bool) or not isinstance(number, int) or number < 0 or number in seen:
            raise ValueError(f"`id2label` has the key {_short(key)}: keys must be class ids from 0, each once.")
        if num_classes is not None and number >= num_classes:
            raise ValueError(f"`id2label` has the key {_short(key)}, the model has {num_classes} classes, ids from 0.")
        if not isinstance(name, str):
            raise ValueError(f"`id2label` has the name {_short(name)} for class {number}: names must be text.")
        seen.add(number)


def check_shard_indices(folder: Path) -> None:
    """Raises OSError if an index of weights in several files is malformed, or names what is not there."""
    for path in sorted(folder.glob(SHARD_INDEX)):
        try:
            index = check_json_object(json.loads(path.read_text(encoding="utf-8")), path)
        except (ValueError, RecursionError) as error:
            raise OSError(f"{path} is no JSON: {_short(str(error))}.") from error
        shards = index.get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise OSError(f"{path}: `weight_map` must map tensors to files, it is {_short(shards)}.")
        for tensor, shard in shards.items():
            if not isinstance(shard, str) or Path(shard).name != shard:
                raise OSError(f"{path}: `weight_map` has {_short(shard)} for {_short(tensor)}, which is no file name.")
        missing = [shard for shard in sorted(set(shards.values())) if not (folder / shard).is_file()]
        if missing:
            raise OSError(f"{path}: `weight_map` names {_listed(missing)}, which is not there.")
        for shard in set(shards.values()):  # diffusers takes the index's word for what is in them
            try:
                with safe_open(folder / shard, "pt") as content:
                    names = set(content.keys())
            except SafetensorError as error:
                raise OSError(f"{folder / shard} is damaged: {error}.") from error
            lacking = sorted(tensor for tensor, where in shards.items() if where == shard and tensor not in names)
            if lacking:
                raise OSError(f"{folder / shard} lacks {len(lacking)} tensors of its index: {_listed(lacking)}.")


def check_weights(model: nn.Module, missing: Iterable[str], path: str | os.PathLike) -> None:
    """Raises OSError if weights that were loaded from `path` leave out tensors, or hold NaN or infinity."""
    if missing := sorted(missing):
        raise OSError(f"The weights in {path} lack {len(missing)} tensors: {_listed(missing)}.")
    if broken := nonfinite_tensors(model):
        raise OSError(f"The weights in {path} hold NaN or infinity: {_listed(broken)}.")


@torch.no_grad()
def nonfinite_tensors(model: nn.Module) -> list[str]:
    """Names of a model's tensors that hold NaN or infinity.

    Those that are elsewhere (offloaded) are passed over, and so are subclasses, such as quantized weights, which need
    not know how to be asked.
    """
    return [
        name
        for name, tensor in model.state_dict().items()
        if type(tensor) in (torch.Tensor, nn.Parameter)
        and tensor.is_floating_point()
        and tensor.itemsize > 1
        and not tensor.is_meta
        and not tensor.isfinite().all()
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _short(value: object) -> str:
    """A value for a message; of a container only what it is."""
    if isinstance(value, (dict, list, tuple)) and len(str(value)) > MAX_TEXT:
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
