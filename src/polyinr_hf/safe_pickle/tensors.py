"""The calls in a pickle that are understood: they rebuild tensors, their storages and plain containers."""

import math
import mmap
from collections import OrderedDict
from pathlib import Path

import torch

from .opcodes import Content, OpcodeReader
from .values import (
    MAX_NAME,
    MAX_OPERATIONS,
    MAX_TEXT,
    Budget,
    Name,
    Record,
    Storage,
    StoredTensor,
    UnsafePickleError,
    check_key,
    describe,
    refuse,
)

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
_MAX_DIMENSIONS = 8  # of a tensor; the networks' have four at most
_MAGIC_NUMBER, _PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of `torch.save` before its zip archives


class _PickleReader(OpcodeReader):
    """One pass over one pickle, with the calls that are understood."""

    def _rebuild_storage(self, content: object) -> Storage:
        """The values that `torch.storage._load_from_bytes` would give."""
        if not isinstance(content, (bytes, memoryview)):
            refuse(f"gives torch.storage._load_from_bytes {describe(content)}")
        if content[:2] == b"PK":  # whose members may inflate to any size; the authors' code never wrote them
            refuse("holds storages in a zip archive")
        try:
            dtype, count, data = _parse_storage(Content(content), self._budget)
        except UnsafePickleError as error:
            raise UnsafePickleError(f"torch.storage._load_from_bytes: {error}") from None
        if count * dtype.itemsize != len(data):
            raise ValueError(f"a storage announces {count} values of {dtype}, and has {len(data)} bytes")
        self._budget.allocate(len(data))
        return Storage(dtype, data)

    def _rebuild_tensor(
        self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None
    ) -> StoredTensor:
        if not isinstance(storage, Storage) or not all(map(_are_sizes, (size, stride, (offset,)))):
            raise ValueError("a tensor is made of what is no storage, offset, size and stride")
        last = offset + sum(stride * (size - 1) for size, stride in zip(size, stride, strict=True))
        count = math.prod(size)  # a stride of 0 would make much of little
        if count > len(storage) or (count and last >= len(storage)):
            raise ValueError(f"a tensor of size {size} does not lie within its {len(storage)} stored values")
        return StoredTensor(storage, offset, tuple(size), tuple(stride))

    def _rebuild_parameter(self, data, requires_grad=False, hooks=None, state=None) -> object:
        return data

    def _rebuild_from_type(self, function, kind, arguments, state=None) -> object:
        """A tensor that carries attributes, which are ignored, or of a class of its own."""
        if function != Name("torch._utils", "_rebuild_tensor_v2") or not isinstance(arguments, tuple):
            refuse(f"makes a tensor by {describe(function)}")
        return self._rebuild_tensor(*arguments)

    def _rebuild_bytes(self, text: object = "", encoding: object = "latin1") -> bytes:
        """Protocols 0 to 2 write bytes as the text of the same numbers."""
        if not isinstance(text, str) or encoding != "latin1":
            refuse(f"makes bytes of {describe(text)}")
        self._budget.allocate(len(text))
        return text.encode("latin1")

    def _rebuild_object(self, kind: object, base: object = None, state: object = None) -> Record:
        """As protocols 0 and 1 write every object."""
        return Record(describe(kind))

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
        "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
        "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
        "torch_utils.persistence._reconstruct_persistent_obj": _rebuild_persistent_object,
        "collections.OrderedDict": _rebuild_ordered_dict,
        "builtins.set": _rebuild_set,
        "builtins.frozenset": _rebuild_frozenset,
        "__builtin__.set": _rebuild_set,  # as protocol 2 names them
        "__builtin__.frozenset": _rebuild_frozenset,
        "__builtin__.bytes": _rebuild_bytes,
        "_codecs.encode": _rebuild_bytes,
        "copy_reg._reconstructor": _rebuild_object,
        "copyreg._reconstructor": _rebuild_object,
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


def _parse_storage(stream: Content, budget: Budget) -> tuple[torch.dtype, int, memoryview]:
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
    header, data = stream.read(8), stream.rest()
    if int.from_bytes(header, "little") != count:
        raise ValueError(f"a storage announces {count} values and {int.from_bytes(header, 'little')}")
    return _STORAGE_DTYPES[str(kind)], count, data


def read_pickle(path: str | Path, max_operations: int = MAX_OPERATIONS) -> object:
    """Content of a pickle: containers, `StoredTensor`, `Record` for objects, `Name` for classes and functions, `Call`.

    The file is mapped into memory and stays so while a tensor of it is in use: only what is loaded costs memory.

    Raises:
        OSError: if the file cannot be read.
        UnsafePickleError: (a ValueError) if it asks for a call or an object that tensors and containers do not need, or
            for more operations or bytes than a checkpoint of its size.
        ValueError: if it is no pickle, or cut short or damaged.
    """
    try:
        with Path(path).open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _PickleReader(Content(content), Budget(len(content), max_operations)).load()
    except OSError:
        raise
    except UnsafePickleError:
        raise
    except Exception as error:  # damaged data raise anything from IndexError to MemoryError
        reason = error.args[0] if error.args and isinstance(error.args[0], str) else ""
        reason = f"{type(error).__name__} {reason[:MAX_TEXT]}".strip()
        size = f"{Path(path).stat().st_size:,} bytes"
        raise ValueError(
            f"`checkpoint` {path} is no pickle, or cut short or damaged: {reason}. Compare its {size} with the "
            "original's, and download or copy it again."
        ) from error
