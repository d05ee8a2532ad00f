"""What a pickle read as data is made of, and the limits and refusals that reading it shares."""

import pickle
from dataclasses import dataclass, field

# Each checkpoint in tests/reference takes some 20,000; this many are read in seconds.
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
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"


def refuse(what: str) -> None:
    raise UnsafePickleError(f"refused: the pickle {what}, which reading weights does not need. Nothing was run.")


class Budget:
    """What reading one file may cost: operations, and bytes of tensors."""

    def __init__(self, file_size: int):
        self.operations, self.tensor_bytes = MAX_OPERATIONS, file_size

    def spend(self, operations: int = 1) -> None:
        self.operations -= operations
        if self.operations < 0:
            refuse(f"takes more than {MAX_OPERATIONS:,} operations to read")

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
        is_small = key is None or isinstance(key, (float, Name, Record, Call))  # records are hashed by identity
    if not is_small:
        refuse(f"has a dictionary or set with a key that is {describe(key)}")
    return key
