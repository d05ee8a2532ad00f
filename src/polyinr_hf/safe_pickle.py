"""Reads a pickle as data: nothing in it is imported or called, and reading costs little whatever it claims.

`read_pickle` interprets the opcodes that writers of tensors and containers use. Tensors and plain containers are
rebuilt, every other object becomes a `Record` of its attributes, and a call of anything else is refused by name. What a
file announces is compared with what it holds, operations and bytes of tensors are limited, dictionary keys are short
and flat, and nothing is hashed, compared or printed that has not been checked to be small.
"""

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

MAX_OPERATIONS = 2_000_000  # the authors' largest checkpoint, with its discriminator, takes fewer than 500,000
MAX_NAME = 256  # characters of a name or a dictionary key
MAX_TEXT = 200  # characters of what comes from the file in a message
MAX_DIMENSIONS = 8


class UnsafePickleError(pickle.UnpicklingError, ValueError):
    """A pickle asks for something that rebuilding tensors and containers does not need; the message names it."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle mentions: its name, nothing is imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """An object of a class that is not imported: its attributes, and its items if it was a kind of dict."""

    kind: str
    state: object = field(default_factory=dict)


def describe(value: object) -> str:
    """A short name of any value out of a pickle, for a message: containers are never printed."""
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, str):
        return repr(value[:MAX_TEXT])
    if isinstance(value, Record):
        return f"an object {value.kind}"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def _refuse(what: str) -> None:
    raise UnsafePickleError(f"refused: the pickle {what}, which reading weights does not need. Nothing was run.")


# Values that are written as calls and that no weight depends on. They become records: these are not called either.
_RECORDED_CALLS = {
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "torch.device",
    "torch.Size",
    "functools.partial",  # of feature networks, inside D, as is the next
    "timm.layers.format.Format",
}
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
_MAGIC_NUMBER, _PROTOCOL_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of `torch.save` before its zip archives


class _Budget:
    """What reading one file may cost: operations, and bytes of tensors."""

    def __init__(self, file_size: int):
        self.operations, self.tensor_bytes = MAX_OPERATIONS, file_size

    def spend(self, operations: int = 1) -> None:
        self.operations -= operations
        if self.operations < 0:
            _refuse(f"takes more than {MAX_OPERATIONS:,} operations to read")

    def allocate(self, size: int) -> None:
        self.tensor_bytes -= size
        if self.tensor_bytes < 0:
            _refuse("has tensors of more bytes than the file")


class _Reader:
    """One pass over the opcodes of one pickle in `stream`, which may be followed by others."""

    def __init__(self, stream: io.BytesIO, budget: _Budget):
        self._stream, self._budget = stream, budget
        self._stack: list = []
        self._outer: list[list] = []  # the stacks below each mark
        self._memo: dict[int, object] = {}

    def load(self) -> object:
        for opcode, argument, _ in pickletools.genops(self._stream):
            self._budget.spend()
            if opcode.name == "STOP":
                return self._stack.pop()
            if opcode.name in _VALUES:
                self._stack.append(argument)
            elif opcode.name in _EMPTY:
                self._stack.append(_EMPTY[opcode.name]())
            else:
                handler = getattr(self, f"_{opcode.name.lower()}", None)
                if handler is None:
                    _refuse(f"uses the opcode {opcode.name}")
                handler(argument)
        return None  # genops raises before it comes to this

    # -- stack and memo -----------------------------------------------------------------------------------------------
    def _nothing(self, argument) -> None:
        pass

    _proto = _frame = _nothing

    def _mark(self, argument) -> None:
        self._outer.append(self._stack)
        self._stack = []

    def _pop_items(self) -> list:
        """What was pushed since the last mark."""
        items, self._stack = self._stack, self._outer.pop()
        return items

    def _pop(self, argument) -> None:
        self._stack.pop() if self._stack else self._pop_items()

    def _pop_mark(self, argument) -> None:
        self._pop_items()

    def _dup(self, argument) -> None:
        self._stack.append(self._stack[-1])

    def _memoize(self, argument) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    _binput = _long_binput = _put

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    _binget = _long_binget = _get

    # -- values and containers ----------------------------------------------------------------------------------------
    def _tuple(self, argument) -> None:
        items = self._pop_items()
        self._stack.append(tuple(items))

    def _tuple1(self, argument) -> None:
        self._stack[-1:] = [(self._stack[-1],)]

    def _tuple2(self, argument) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _tuple3(self, argument) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _list(self, argument) -> None:
        items = self._pop_items()
        self._stack.append(items)

    def _append(self, argument) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, argument) -> None:
        self._extend(self._pop_items())

    def _extend(self, items: list) -> None:
        if type(self._stack[-1]) is not list:
            _refuse(f"appends to {describe(self._stack[-1])}")
        self._stack[-1].extend(items)

    def _dict(self, argument) -> None:
        items = self._pop_items()
        self._stack.append({})
        self._set_items(items)

    def _setitem(self, argument) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _setitems(self, argument) -> None:
        self._set_items(self._pop_items())

    def _set_items(self, items: list) -> None:
        target = self._stack[-1].state if isinstance(self._stack[-1], Record) else self._stack[-1]
        if not isinstance(target, dict):
            _refuse(f"sets items of {describe(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_check_key(key)] = value

    def _additems(self, argument) -> None:
        items = self._pop_items()
        if not isinstance(self._stack[-1], set):
            _refuse(f"adds items to {describe(self._stack[-1])}")
        self._stack[-1].update(map(_check_key, items))

    def _frozenset(self, argument) -> None:
        items = self._pop_items()
        self._stack.append(frozenset(map(_check_key, items)))

    # -- names and calls ----------------------------------------------------------------------------------------------
    def _global(self, argument: str) -> None:
        self._push_name(*argument.split(" ", 1))

    def _stack_global(self, argument) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_name(module, name)

    def _push_name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_NAME:
            _refuse("mentions something by what is no name")
        self._stack.append(Name(module, name))

    def _reduce(self, argument) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        rebuild = self._REBUILDERS.get(str(function)) if isinstance(function, Name) else None
        if rebuild is not None and isinstance(arguments, tuple):
            self._stack.append(rebuild(self, *arguments))
        elif isinstance(function, Name) and str(function) in _RECORDED_CALLS:
            self._stack.append(Record(str(function), {"arguments": arguments}))
        else:
            _refuse(f"calls {describe(function)}")

    def _newobj(self, argument) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if not isinstance(kind, Name) or not isinstance(arguments, tuple) or arguments:
            _refuse(f"constructs {describe(kind)} with arguments")
        self._stack.append(Record(str(kind)))

    def _newobj_ex(self, argument) -> None:
        _refuse(f"constructs {describe(self._stack[-3])} with arguments")

    def _build(self, argument) -> None:
        state, record = self._stack.pop(), self._stack[-1]
        if not isinstance(record, Record):
            _refuse(f"sets attributes of {describe(record)}")
        record.state = state

    def _inst(self, argument: str) -> None:  # of protocol 0
        _refuse(f"calls {argument.replace(' ', '.', 1)[:MAX_TEXT]}")

    def _obj(self, argument) -> None:  # of protocol 1
        _refuse(f"calls {describe(self._stack[0])}")

    def _ext1(self, code: int) -> None:
        _refuse(f"uses the extension registry, code {code}")

    _ext2 = _ext4 = _ext1

    def _persid(self, key: object) -> None:
        _refuse(f"refers to data outside, persistent id {describe(key)}")

    def _binpersid(self, argument) -> None:
        self._persid(self._stack[-1])

    # -- the calls that are understood --------------------------------------------------------------------------------
    def _rebuild_storage(self, content: object) -> Tensor:
        """The values that `torch.storage._load_from_bytes` would give, as a tensor of one dimension."""
        if not isinstance(content, bytes):
            _refuse(f"gives torch.storage._load_from_bytes {describe(content)}")
        if content[:2] == b"PK":  # whose members may inflate to any size; the authors' code never wrote them
            _refuse("holds storages in a zip archive")
        try:
            dtype, count, data = _parse_storage(io.BytesIO(content), self._budget)
        except UnsafePickleError as error:
            raise UnsafePickleError(f"torch.storage._load_from_bytes: {error}") from None
        if count * dtype.itemsize != len(data):
            raise ValueError(f"a storage announces {count} values of {dtype}, and has {len(data)} bytes")
        self._budget.allocate(len(data))
        return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)

    def _rebuild_tensor(self, storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> Tensor:
        if (
            not isinstance(storage, Tensor)
            or not _are_sizes(size)
            or not _are_sizes(stride)
            or not _are_sizes((offset,))
        ):
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
            _refuse(f"makes a dictionary of {describe(pairs)}")
        self._budget.spend(len(pairs))
        return OrderedDict((_check_key(key), value) for key, value in pairs)

    def _rebuild_set(self, items: object = ()) -> set:
        if not isinstance(items, (list, tuple)):
            _refuse(f"makes a set of {describe(items)}")
        self._budget.spend(len(items))
        return set(map(_check_key, items))

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


# Opcodes that push the value beside them. `genops` reads no more than is there.
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_VALUES |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_VALUES |= {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_EMPTY = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
_EMPTY |= {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


def _check_key(key: object) -> object:
    """The key of a dictionary or item of a set, if hashing and comparing it costs next to nothing."""
    if isinstance(key, (str, bytes)):
        is_small = len(key) <= MAX_NAME
    elif isinstance(key, int):
        is_small = key.bit_length() <= 64
    else:
        is_small = key is None or isinstance(key, (float, Name, Record))  # records are hashed by identity
    if not is_small:
        _refuse(f"has a dictionary or set with a key that is {describe(key)}")
    return key


def _are_sizes(values: object) -> bool:
    """Whether these are the sizes, strides or offset of a tensor."""
    if not isinstance(values, (tuple, list)) or len(values) > MAX_DIMENSIONS:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


class _StorageReader(_Reader):
    """Of a storage that `torch.save` has written, whose one object is a reference to data that follow."""

    def _binpersid(self, argument) -> None:
        self._stack[-1] = Record("storage", self._stack[-1])

    def _reduce(self, argument) -> None:
        _refuse(f"calls {describe(self._stack[-2])}")


def _parse_storage(stream: io.BytesIO, budget: _Budget) -> tuple[torch.dtype, int, memoryview]:
    """dtype, number of values and bytes of a storage in the format that `torch.save` has without a zip archive."""
    if _Reader(stream, budget).load() != _MAGIC_NUMBER or _Reader(stream, budget).load() != _PROTOCOL_VERSION:
        _refuse("has content of another format")
    _Reader(stream, budget).load()  # the writer's byte order and sizes of integers, which everyone's are
    reference = _StorageReader(stream, budget).load()
    state = reference.state if isinstance(reference, Record) and reference.kind == "storage" else None
    if not isinstance(state, tuple) or len(state) != 6 or not isinstance(state[1], Name):
        _refuse("content is no storage")
    _, kind, _, _, count, view = state
    if str(kind) not in _STORAGE_DTYPES or type(count) is not int or view is not None:
        _refuse(f"content is no storage of numbers but {describe(kind)}")
    _Reader(stream, budget).load()  # the names of the storages that follow: this one
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
        return _Reader(io.BytesIO(content), _Budget(len(content))).load()
    except UnsafePickleError:
        raise
    except Exception as error:  # damaged data raise anything from IndexError to MemoryError
        reason = error.args[0] if error.args and isinstance(error.args[0], str) else ""
        reason = f"{type(error).__name__} {reason[:MAX_TEXT]}".strip()
        raise ValueError(f"`checkpoint` {path} is no pickle, or cut short or damaged: {reason}.") from error
