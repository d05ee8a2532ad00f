"""Reads a pickle as data: nothing in it is imported or called, and reading costs little whatever it claims.

`read_pickle` interprets the opcodes that writers of tensors and containers use. Plain containers are rebuilt, tensors
where they are asked for; every other object becomes a `Record` of its attributes. Calls that real checkpoints hold and
no weight depends on, such as those of dill, are recorded by name; any other is refused by name. What a file announces
is compared with what it holds, operations and bytes of tensors are limited, dictionary keys are short and flat, and
nothing is hashed, compared or printed that has not been checked to be small.
"""

import functools
import math
import mmap
import pickle
import pickletools
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

# The authors' generators take some 20,000, with their discriminator 200,000; this many are read in seconds.
MAX_OPERATIONS = 2_000_000
MAX_NAME = 256  # characters of a name or a dictionary key
MAX_TEXT = 200  # characters of what comes from the file in a message


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


@dataclass(eq=False)
class Call:
    """A call that is recorded and never made. What the pickle does to its result goes nowhere."""

    function: str

    def __str__(self) -> str:
        return self.function


class Storage:
    """The values of tensors in the file, which are not copied before one is asked for."""

    def __init__(self, dtype: torch.dtype, data: memoryview):
        self.dtype, self.data = dtype, data

    def __len__(self) -> int:
        return len(self.data) // self.dtype.itemsize

    @functools.cached_property
    def tensor(self) -> Tensor:
        values = bytearray(self.data)
        if isinstance(self.data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.data.obj.madvise(mmap.MADV_DONTNEED)  # the file's pages would stay beside their copy
        return torch.frombuffer(values, dtype=self.dtype) if values else torch.empty(0, dtype=self.dtype)


@dataclass(eq=False)
class StoredTensor:
    """A tensor in the file: `load` copies its storage, once for all tensors that share it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def load(self) -> Tensor:
        return self.storage.tensor.as_strided(self.shape, self.stride, self.offset)  # raises if out of bounds


def describe(value: object) -> str:
    """A short name of any value out of a pickle, for a message: containers are never printed."""
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, str):
        return repr(value[:MAX_TEXT])
    if isinstance(value, Call):
        return f"the result of {value}"
    if isinstance(value, Record):
        return f"an object {value.kind}"
    kind = "Tensor" if isinstance(value, StoredTensor) else type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def refuse(what: str) -> NoReturn:
    raise UnsafePickleError(f"refused: the pickle {what}, which reading weights does not need. Nothing was run.")


class Budget:
    """What reading one file may cost: operations, and bytes of tensors."""

    def __init__(self, file_size: int, max_operations: int = MAX_OPERATIONS):
        self.max_operations = self.operations = max_operations
        self.tensor_bytes = 2 * file_size  # below protocol 3 bytes are stored as text, and count twice

    def spend(self, operations: int = 1) -> None:
        self.operations -= operations
        if self.operations < 0:
            refuse(f"takes more than {self.max_operations:,} operations to read")

    def allocate(self, size: int) -> None:
        self.tensor_bytes -= size
        if self.tensor_bytes < 0:
            refuse("has tensors of more bytes than the file")


def check_key(key: object) -> object:
    """The key of a dictionary or item of a set, if hashing and comparing it costs next to nothing."""
    if isinstance(key, (str, bytes)):
        is_small = len(key) <= MAX_NAME
    elif isinstance(key, int):
        is_small = key.bit_length() <= 64
    else:
        # A tensor, a parameter that an optimizer knows, is hashed by identity, and so are records.
        is_small = key is None or isinstance(key, (float, Name, Record, Call, StoredTensor))
    if not is_small:
        refuse(f"has a dictionary or set with a key that is {describe(key)}")
    return key


# --- the stack machine ------------------------------------------------------------------------------------------------

LONG = 4096  # bytes from which on a value is a view of the file

# Values that are written as calls and that no weight depends on. They are recorded by name, and not called either.
_RECORDED_CALLS = {
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "torch.device",
    "torch.Size",
    "functools.partial",  # of feature networks, inside D, as is the next
    "timm.layers.format.Format",
    # What people put beside networks: optimizers, times, paths, settings.
    *(f"collections.{name}" for name in ("defaultdict", "deque", "Counter")),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"pathlib{own}.{name}" for own in ("", "._local") for name in ("PosixPath", "WindowsPath")),
    *(f"pathlib{own}.Pure{name}" for own in ("", "._local") for name in ("PosixPath", "WindowsPath")),
    "types.SimpleNamespace",
    *(f"{builtins}.{name}" for builtins in ("builtins", "__builtin__") for name in ("complex", "slice")),
    *("builtins.range", "__builtin__.xrange"),
    # Functions, classes and values that dill takes apart: hooks of feature networks, layers' gains in numpy.
    *(f"dill._dill._{name}" for name in ("import_module", "get_attr", "load_type", "create_array")),
    *(f"dill._dill._create_{name}" for name in ("function", "code", "cell", "type")),
    "builtins.getattr",
    "_operator.getitem",  # of annotations, in classes that dill 0.3.6 writes with their content, as is the next
    "_functools.reduce",
}
# Opcodes that push the value beside them. `genops` reads no more than is there.
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_VALUES |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_VALUES |= {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_EMPTY = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False}
_EMPTY |= {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


class Content:
    """Bytes as a stream, which gives long pieces as views: what nobody asks for is never copied."""

    def __init__(self, content):
        self._view, self._position = memoryview(content), 0

    def read(self, size: int) -> bytes | memoryview:
        piece = self._view[self._position : self._position + size]
        self._position += len(piece)
        return piece if len(piece) > LONG else bytes(piece)

    def readline(self) -> bytes:
        size = LONG
        while (end := bytes(self._view[self._position :][:size]).find(b"\n")) < 0 and size < len(self._view):
            size *= 2
        return bytes(self.read(size if end < 0 else end + 1))

    def tell(self) -> int:
        return self._position

    def rest(self) -> memoryview:
        return self._view[self._position :]


class OpcodeReader:
    """One pass over the opcodes of one pickle in `stream`, which may be followed by others.

    Subclasses say in `_REBUILDERS` which calls are understood; here none is.
    """

    _REBUILDERS: dict = {}

    def __init__(self, stream: Content, budget: Budget):
        self._stream, self._budget = stream, budget
        self._stack: list = []
        self._outer: list[list] = []  # the stacks below each mark
        self._memo: dict[int, object] = {}

    def load(self) -> object:
        stream: Any = self._stream  # as much of a file as is asked for
        for opcode, argument, _ in pickletools.genops(stream):
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
                    refuse(f"uses the opcode {opcode.name}")
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
        if isinstance(self._stack[-1], Call):
            return
        if type(self._stack[-1]) is not list:
            refuse(f"appends to {describe(self._stack[-1])}")
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
        if isinstance(self._stack[-1], Call):
            return
        target = self._stack[-1].state if isinstance(self._stack[-1], Record) else self._stack[-1]
        if not isinstance(target, dict):
            refuse(f"sets items of {describe(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value

    def _additems(self, argument) -> None:
        items = self._pop_items()
        if isinstance(self._stack[-1], Call):
            return
        if not isinstance(self._stack[-1], set):
            refuse(f"adds items to {describe(self._stack[-1])}")
        self._stack[-1].update(map(check_key, items))

    def _frozenset(self, argument) -> None:
        items = self._pop_items()
        self._stack.append(frozenset(map(check_key, items)))

    # -- names and calls ----------------------------------------------------------------------------------------------
    def _global(self, argument: str) -> None:
        self._push_name(*argument.split(" ", 1))

    def _stack_global(self, argument) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push_name(module, name)

    def _push_name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_NAME:
            refuse("mentions something by what is no name")
        self._stack.append(Name(module, name))

    def _reduce(self, argument) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        rebuild = self._REBUILDERS.get(str(function)) if isinstance(function, Name) else None
        if rebuild is not None and isinstance(arguments, tuple):
            self._stack.append(rebuild(self, *arguments))
        elif isinstance(function, Call) or (isinstance(function, Name) and str(function) in _RECORDED_CALLS):
            self._stack.append(Call(str(function)))
        else:
            refuse(f"calls {describe(function)}")

    def _newobj(self, argument) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if not isinstance(kind, (Name, Call)) or not isinstance(arguments, tuple) or arguments:
            refuse(f"constructs {describe(kind)} with arguments")
        self._stack.append(Record(str(kind)))

    def _newobj_ex(self, argument) -> None:
        refuse(f"constructs {describe(self._stack[-3])} with arguments")

    def _build(self, argument) -> None:
        state, record = self._stack.pop(), self._stack[-1]
        if isinstance(record, (Call, OrderedDict)):  # a state dict has an attribute beside its items, `_metadata`
            return
        if not isinstance(record, Record):
            refuse(f"sets attributes of {describe(record)}")
        record.state = state

    def _inst(self, argument: str) -> None:  # of protocol 0
        refuse(f"calls {argument.replace(' ', '.', 1)[:MAX_TEXT]}")

    def _obj(self, argument) -> None:  # of protocol 1
        refuse(f"calls {describe(self._stack[0])}")

    def _ext1(self, code: int) -> None:
        refuse(f"uses the extension registry, code {code}")

    _ext2 = _ext4 = _ext1

    def _persid(self, key: object) -> None:
        refuse(f"refers to data outside, persistent id {describe(key)}")

    def _binpersid(self, argument) -> None:
        self._persid(self._stack[-1])


# --- calls that are understood ----------------------------------------------------------------------------------------

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
