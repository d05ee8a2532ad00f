"""What a pickle read as data is made of, and the limits and refusals that reading it shares."""

import functools
import math
import mmap
import pickle
from dataclasses import dataclass, field
from typing import NoReturn

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
