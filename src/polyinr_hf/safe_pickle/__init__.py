"""Reads a pickle as data: nothing in it is imported or called, and reading costs little whatever it claims.

`read_pickle` interprets the opcodes that writers of tensors and containers use. Plain containers are rebuilt, tensors
where they are asked for; every other object becomes a `Record` of its attributes. Calls that real checkpoints hold and
no weight depends on, such as those of dill, are recorded by name; any other is refused by name. What a file announces
is compared with what it holds, operations and bytes of tensors are limited, dictionary keys are short and flat, and
nothing is hashed, compared or printed that has not been checked to be small.
"""

from .tensors import read_pickle
from .values import MAX_TEXT, Call, Name, Record, StoredTensor, UnsafePickleError, describe

__all__ = ["MAX_TEXT", "Call", "Name", "Record", "StoredTensor", "UnsafePickleError", "describe", "read_pickle"]
