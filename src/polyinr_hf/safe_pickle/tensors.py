"""The calls in a pickle that are understood: they rebuild tensors, their storages and plain containers."""

import io
import math
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from .opcodes import OpcodeReader
from .values import MAX_NAME, MAX_TEXT, Budget, Name, Record, UnsafePickleError, check_key, describe, refuse

_STORAGE_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.UntypedStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
_MAX_DIMENSIONS = 8
_MAGIC_NUMBER, _PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of `torch.save` before its zip archives


class _PickleReader(OpcodeReader):
    """One pass over one pickle, with the calls that are understood."""

    def _rebuild_storage(self, content: object) -> Tensor:
        """The values that `torch.storage._load_from_bytes` would give, as a tensor of one dimension."""
        if not isinstance(content, bytes):
            refuse(f"gives torch.storage._load_from_bytes {describe(content)}")
        if content[:2] == b"PK":  # whose members may inflate to any size; the authors' code never wrote them
            refuse("holds storages in a zip archive")
        try:
            dtype, count, data = _parse_storage(io.BytesIO(content), self._budget)
        except UnsafePickleError as error:
            raise UnsafePickleError(f"torch.storage._load_from_bytes: {error}") from None
        if count * dtype.itemsize != len(data):
            raise ValueError(f"a storage announces {count} values of {dtype}, and has {len(data)} bytes")
        self._budget.allocate(len(data))
        return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)

    def _rebuild_tensor(self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> Tensor:
        if not isinstance(storage, Tensor) or not all(map(_are_sizes, (size, stride, (offset,)))):
            raise ValueError("a tensor is made of what is no storage, offset, size and stride")
        if math.prod(size) > storage.numel():  # a stride of 0 would make much of little
            raise ValueError(f"a tensor of size {size} does not lie within its {storage.numel()} stored values")
        return storage.as_strided(size, stride, offset)  # raises if out of bounds

    def _rebuild_parameter(self, data, requires_grad=False, hooks=None) -> object:
        return data

    def _rebuild_persistent_object(self, meta: object) -> Record:
        """The authors' wrapper of classes with source text: the text, `meta["module_src"]`, is ignored."""
        if not isinstance(meta, dict) or not isinstance(meta["class_name"], str):
            raise ValueError("a class with source text is stored without its name")
        return Record(meta["class_name"][:MAX_NAME], meta["state"])

    def _rebuild_ordered_dict(self, pairs: object = ()) -> OrderedDict:
        if not isinstance(pairs, (list, tuple)):
            refuse(f"makes a dictionary of {describe(pairs)}")
        self._budget.spend(len(pairs))
        return OrderedDict((check_key(key), value) for key, value in pairs)

    def _rebuild_set(self, items: object = ()) -> set:
        if not isinstance(items, (list, tuple)):
            refuse(f"makes a set of {describe(items)}")
        self._budget.spend(len(items))
        return set(map(check_key, items))

    def _rebuild_frozenset(self, items: object = ()) -> frozenset:
        return frozenset(self._rebuild_set(items))

    _REBUILDERS = {
        "torch.storage._load_from_bytes": _rebuild_storage,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
        "torch_utils.persistence._reconstruct_persistent_obj": _rebuild_persistent_object,
        "collections.OrderedDict": _rebuild_ordered_dict,
        "builtins.set": _rebuild_set,
        "builtins.frozenset": _rebuild_frozenset,
        "__builtin__.set": _rebuild_set,  # as protocol 2 names them
        "__builtin__.frozenset": _rebuild_frozenset,
    }


def _are_sizes(values: object) -> bool:
    """Whether these are the sizes, strides or offset of a tensor."""
    if not isinstance(values, (tuple, list)) or len(values) > _MAX_DIMENSIONS:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


class _StorageReader(OpcodeReader):
    """Of a storage that `torch.save` has written, whose one object is a reference to data that follow."""

    def _binpersid(self, argument) -> None:
        self._stack[-1] = Record("storage", self._stack[-1])

    def _reduce(self, argument) -> None:
        refuse(f"calls {describe(self._stack[-2])}")


def _parse_storage(stream: io.BytesIO, budget: Budget) -> tuple[torch.dtype, int, memoryview]:
    """dtype, number of values and bytes of a storage in the format that `torch.save` has without a zip archive."""
    if OpcodeReader(stream, budget).load() != _MAGIC_NUMBER or OpcodeReader(stream, budget).load() != _PROTOCOL_VERSION:
        refuse("has content of another format")
    OpcodeReader(stream, budget).load()  # the writer's byte order and sizes of integers, which everyone's are
    reference = _StorageReader(stream, budget).load()
    state = reference.state if isinstance(reference, Record) and reference.kind == "storage" else None
    if not isinstance(state, tuple) or len(state) != 6 or not isinstance(state[1], Name):
        refuse("content is no storage")
    _, kind, _, _, count, view = state
    if str(kind) not in _STORAGE_DTYPES or type(count) is not int or view is not None:
        refuse(f"content is no storage of numbers but {describe(kind)}")
    OpcodeReader(stream, budget).load()  # the names of the storages that follow: this one
    header, data = stream.read(8), stream.getbuffer()[stream.tell() :]
    if int.from_bytes(header, "little") != count:
        raise ValueError(f"a storage announces {count} values and {int.from_bytes(header, 'little')}")
    return _STORAGE_DTYPES[str(kind)], count, data


def read_pickle(path: str | Path) -> object:
    """Content of a pickle: containers, tensors, `Record` for objects, `Name` for classes and functions.

    Raises:
        OSError: if the file cannot be read.
        UnsafePickleError: (a ValueError) if it asks for a call or an object that tensors and containers do not need, or
            for more operations or bytes than a checkpoint of its size.
        ValueError: if it is no pickle, or cut short or damaged.
    """
    content = Path(path).read_bytes()
    try:
        return _PickleReader(io.BytesIO(content), Budget(len(content))).load()
    except UnsafePickleError:
        raise
    except Exception as error:  # damaged data raise anything from IndexError to MemoryError
        reason = error.args[0] if error.args and isinstance(error.args[0], str) else ""
        reason = f"{type(error).__name__} {reason[:MAX_TEXT]}".strip()
        raise ValueError(f"`checkpoint` {path} is no pickle, or cut short or damaged: {reason}.") from error
