"""Pickles that claim, nest or repeat more than weights need: one sentence each.

All are small and harmless to any reader: a guard is tested just beyond its limit, which `max_operations` makes small.
"""

import io
import pickle
import struct
import sys
import traceback
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from polyinr_hf.conversion import load_original_checkpoint
from polyinr_hf.safe_pickle import Call, Name, read_pickle

DEEP = 300  # times, in a process that allows ROOM calls within each other
ROOM = 100


# -- opcodes ----------------------------------------------------------------------------------------------------------
def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(value: str) -> bytes:
    module, _, leaf = value.rpartition(".")
    return b"c" + f"{module}\n{leaf}\n".encode()


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def announced(opcode: bytes, size: int, content: bytes = b"x") -> bytes:
    return b"\x80\x05" + opcode + size.to_bytes(8 if opcode in b"\x8e\x8d\x96\x95" else 4, "little") + content + b"."


def call(function: str, argument: bytes) -> bytes:
    return name(function) + argument + b"\x85R"


def as_content(content: bytes) -> bytes:
    return call("torch.storage._load_from_bytes", b"B" + struct.pack("<I", len(content)) + content)


def shared(levels: int = 3) -> bytes:
    """A tuple of 2^levels ends."""
    return b")" + b"".join(put(i) + get(i) + b"\x86" for i in range(levels))


def network(modules: bytes, parameters: bytes = b"}", kind: str = "a.Module") -> bytes:
    state = b"}(" + text("_parameters") + parameters + text("_buffers") + b"}" + text("_modules") + modules + b"u"
    return name(kind) + b")\x81" + state + b"b"


def checkpoint(root: bytes) -> bytes:
    return b"\x80\x04}" + text("G_ema") + root + b"s."


# -- bombs ------------------------------------------------------------------------------------------------------------
def saved(storage) -> bytes:
    buffer = io.BytesIO()
    torch.save(storage, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def compressed_zip() -> bytes:
    small, compressed = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(64)._typed_storage(), small)
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.namelist():
            target.writestr(item, source.read(item))
    return compressed.getvalue()


def tensor(*size: int) -> bytes:
    return pickle.dumps(torch.zeros(size), protocol=4)[2:-1]


def module_tree(levels: int) -> bytes:
    """Modules whose two children are the same one: 2^levels paths."""
    root = network(b"}")
    for i in range(levels):
        root += put(i) + b"0" + network(b"}(" + text("a") + get(i) + text("b") + get(i) + b"u")
    return root


def module_chain(levels: int) -> bytes:
    root = network(b"}") + put(0)
    for _ in range(levels):
        root += b"0" + network(b"}" + text("a") + get(0) + b"s") + put(0)
    return root


def views(count: int) -> bytes:
    """Many transposed views of one storage."""
    first = pickle.dumps(torch.zeros(30, 30).T, protocol=4)[2:-1] + put(1000)
    return b"}(" + text("0") + first + b"".join(text(str(i)) + get(1000) for i in range(1, count)) + b"u"


def many_levels(count: int) -> bytes:
    names = {"mapping.fc0.weight": (4, 4), "synthesis.fc0_0.weight": (4, 4), "gridt": (2,)}
    names |= {"mapping.w_avg": (4,), "synthesis.to_rgb.weight": (3, 4)}
    parameters = b"".join(text(n) + tensor(*size) for n, size in names.items())
    empty = tensor(0)
    parameters += b"".join(text(f"synthesis.fb{i}.fb0.fc1.weight") + empty for i in range(count))
    return network(b"}", b"}(" + parameters + b"u")


def wide(channels: int) -> bytes:
    """A network wider than any: a tensor without elements takes no bytes."""
    names = {"mapping.fc0.weight": (4, 4), "synthesis.fc0_0.weight": (channels, 0), "gridt": (2,)}
    names |= {"mapping.w_avg": (4,), "synthesis.to_rgb.weight": (3, 4)}
    return network(b"}", b"}(" + b"".join(text(n) + tensor(*size) for n, size in names.items()) + b"u")


LONG_NAME = "n" * 257
INTEGER = b"\x8a\x09" + bytes(8) + b"\x01"  # 2^64
BOMBS = {
    # what the message says, without blanks at its ends: the pickle
    "expected 1000 bytes in a bytearray8": lambda: announced(b"\x96", 1000),
    "damaged: ValueError expected 1000 bytes in a bytes8": lambda: announced(b"\x8e", 1000),
    "expected 1000 bytes in a unicodestring8": lambda: announced(b"\x8d", 1000),
    "in a bytes4": lambda: announced(b"B", 1000),
    "in a unicodestring4": lambda: announced(b"X", 1000),
    "to read long4": lambda: announced(b"\x8b", 1000),
    "calls __builtin__.bytearray": lambda: checkpoint(as_content(pickle.dumps(bytearray, 2)[:-1] + b"K\x08\x85R.")),
    "makes bytes of an int": lambda: checkpoint(call("__builtin__.bytes", b"K\x08")),
    "holds storages in a zip archive": lambda: checkpoint(as_content(compressed_zip())),
    "a storage announces 2000 values and 1000": lambda: checkpoint(
        as_content(saved(torch.zeros(1000)._typed_storage()).replace(b"M\xe8\x03", b"M\xd0\x07"))
    ),
    "makes a set of a Tensor": lambda: checkpoint(call("builtins.set", tensor(3))),
    "makes a set of a Tensor,": lambda: checkpoint(call("builtins.frozenset", tensor(3))),
    "makes a dictionary of a Tensor": lambda: checkpoint(call("collections.OrderedDict", tensor(3))),
    "calls builtins.list": lambda: checkpoint(call("builtins.list", b"]")),
    "makes a tensor by posix.system": lambda: checkpoint(
        name("torch._tensor._rebuild_from_type_v2") + b"(" + name("posix.system") + name("a.B") + b"(NtNtR"
    ),
    "makes a tensor by a tuple": lambda: checkpoint(
        name("torch._tensor._rebuild_from_type_v2") + b"(" + shared() + name("a.B") + b"(NtNtR"
    ),
    # hashed
    "key that is a tuple": lambda: checkpoint(b"}" + shared() + b"Ns"),
    "set with a key that is a tuple": lambda: checkpoint(b"\x8f(" + shared() + b"\x90"),
    "key that is a tuple, ": lambda: checkpoint(b"(" + shared() + b"\x91"),
    "key that is a tuple, which": lambda: checkpoint(call("builtins.set", b"]" + shared() + b"a")),
    "key that is a frozenset": lambda: checkpoint(b"((\x91\x91"),
    "key that is an int": lambda: checkpoint(b"}" + INTEGER + b"Ns"),
    "key that is 'nnn": lambda: checkpoint(b"}" + text(LONG_NAME) + b"Ns"),
    "by what is no name": lambda: checkpoint(text(LONG_NAME) + text("a") + b"\x93"),
    # printed
    "calls a tuple": lambda: checkpoint(shared() + b")R"),
    "constructs a tuple": lambda: checkpoint(shared() + b")\x81"),
    "constructs a tuple with": lambda: checkpoint(shared() + b")}\x92"),
    "calls a tuple, which": lambda: checkpoint(b"(" + shared() + b"o"),
    "sets attributes of a tuple": lambda: checkpoint(shared() + b"Nb"),
    "sets items of a tuple": lambda: checkpoint(shared() + b"NNs"),
    "appends to a tuple": lambda: checkpoint(shared() + b"Na"),
    "adds items to a tuple": lambda: checkpoint(shared() + b"(\x90"),
    "persistent id a tuple": lambda: checkpoint(shared() + b"Q"),
    "a class with source text is stored without its name": lambda: checkpoint(
        call("torch_utils.persistence._reconstruct_persistent_obj", b"}" + text("class_name") + shared() + b"s")
    ),
    "no Poly-INR generator: TypeError: the network is no module": lambda: checkpoint(
        network(b"}", b"}" + network(b"}") + tensor(1) + b"s")
    ),
    "a tensor is made of what is no storage": lambda: checkpoint(
        name("torch._utils._rebuild_tensor_v2") + b"(" + shared() + b"K\0))\x89NtR"
    ),
    "holds no network 'G_ema'": lambda: b"\x80\x04}(" + b"".join(text(str(i) * 50) + b"N" for i in range(100)) + b"u.",
    # walked
    "more than 20,000 modules and tensors": lambda: checkpoint(module_tree(14)),
    "or is 32 deep": lambda: checkpoint(module_chain(33)),
    "its tensors have more bytes than the file": lambda: checkpoint(network(b"}", views(10))),
    "`num_levels` must be": lambda: checkpoint(many_levels(2**8)),
    "`channels` must be": lambda: checkpoint(wide(2**16 + 1)),
    # deep
    "no Poly-INR generator: TypeError": lambda: checkpoint(
        name("a.B") + b")\x81" + b"]" * DEEP + b"a" * (DEEP - 1) + b"b"
    ),
    "holds no network 'G_ema'; its networks: none": lambda: checkpoint(b")" + b"\x85" * DEEP),
    "its networks: none": lambda: checkpoint(b"}" + (text("a") + b"}") * DEEP + b"s" * DEEP),
    "it lacks '_parameters'": lambda: checkpoint((name("a.B") + b")\x81}" + text("a")) * DEEP + b"N" + b"sb" * DEEP),
    # counted
    "has tensors of more bytes than the file": lambda: checkpoint(
        as_content(saved(torch.zeros(1000)._typed_storage())).replace(b"\x85R", put(0) + b"\x85R", 1)
        + call("torch.storage._load_from_bytes", get(0)) * 3
    ),
    "has tensors of more bytes than the file, ": lambda: checkpoint(
        text("t" * 1000) + put(0) + (name("_codecs.encode") + get(0) + text("latin1") + b"\x86R") * 3
    ),
}


@pytest.fixture
def little_room():
    """As if what is nested DEEP were nested too deep for Python, which nothing here is."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(traceback.extract_stack()) + ROOM)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.parametrize("reason", BOMBS)
def test_a_bomb_is_one_sentence(reason, tmp_path, little_room):
    (tmp_path / "a.pkl").write_bytes(BOMBS[reason]())
    assert (tmp_path / "a.pkl").stat().st_size < 200_000
    with pytest.raises(ValueError) as error:
        load_original_checkpoint(tmp_path / "a.pkl")
    message = str(error.value).replace(str(tmp_path), "")
    assert reason.strip() in message
    assert len(message) < 500 and "\n" not in message


@pytest.mark.parametrize(
    "content",
    [b"\x8f" * 100, b"(" * 100, b"](" + b"K\x01" * 60 + b"e" + put(0) + call("builtins.set", get(0)) * 5],
    ids=["containers", "marks", "items of one list"],
)
def test_operations_are_counted(content, tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + content + b".")
    with pytest.raises(ValueError, match="takes more than 90 operations"):
        read_pickle(tmp_path / "a.pkl", max_operations=90)


def test_every_storage_of_torch_is_read(tmp_path):
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8):
        value = torch.arange(-6, 6).to(dtype).view(3, 4)
        (tmp_path / "a.pkl").write_bytes(pickle.dumps([value, value.T, value[1:, ::2], torch.empty(0, dtype=dtype)]))
        same, transposed, part, empty = (tensor.load() for tensor in read_pickle(tmp_path / "a.pkl"))
        assert same.dtype == empty.dtype == dtype and len(empty) == 0
        assert torch.equal(same, value) and torch.equal(transposed, value.T) and torch.equal(part, value[1:, ::2])
    flags = torch.tensor([True, False])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(flags))
    assert torch.equal(read_pickle(tmp_path / "a.pkl").load(), flags)


@pytest.mark.parametrize("protocol", range(6))
def test_containers_are_read_as_python_reads_them(tmp_path, protocol):
    shared_list = [1, 2]
    value = {
        "numbers": [0, -1, 300, 70_000, 2**40, -(2**80), 1.5, float("inf"), True, False, None],
        "text": ("", "häß", "a" * 300),
        "bytes": [b"", b"\xff" * 300, bytes(10_000)],
        "sets": [{1, "a"}, frozenset({2})] if protocol > 1 else [],
        "shared": [shared_list, shared_list, ()],
        3: {"nested": {}},
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    found = read_pickle(tmp_path / "a.pkl")
    assert found == value
    assert found["shared"][0] is found["shared"][1]


def test_objects_are_records_and_classes_are_names(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([np.float64(1), torch.nn.Linear(1, 1), torch.nn.Linear]))
    number, module, kind = read_pickle(tmp_path / "a.pkl")
    assert isinstance(number, Call) and number.function.endswith("multiarray.scalar")
    assert module.kind == str(kind) == "torch.nn.modules.linear.Linear" and isinstance(kind, Name)
    assert module.state["_parameters"]["weight"].shape == (1, 1)


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_of_every_protocol(tmp_path, protocol):
    module = torch.nn.Linear(40, 40)
    module.weight.note = "a parameter with an attribute"
    module.register_buffer("extra", torch.ones(2))
    module.extra.note = "a tensor with one"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(module, protocol=protocol))
    found = read_pickle(tmp_path / "a.pkl").state
    assert torch.equal(found["_parameters"]["weight"].load(), module.weight)
    assert torch.equal(found["_buffers"]["extra"].load(), module.extra)


def test_only_the_network_that_is_wanted_is_copied(tmp_path):
    content = {"D": [torch.zeros(10**6) for _ in range(4)], "G_ema": torch.nn.Linear(500, 500)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    tracemalloc.start()
    with pytest.raises(ValueError, match="it lacks"):
        load_original_checkpoint(tmp_path / "a.pkl")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 10**6 < peak < 2 * 10**6  # of 17 MB
