"""The stack machine of a pickle: its opcodes, as far as writers of tensors and containers use them."""

import pickletools
from collections import OrderedDict
from typing import Any

from .values import MAX_NAME, MAX_TEXT, Budget, Call, Name, Record, check_key, describe, refuse

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
