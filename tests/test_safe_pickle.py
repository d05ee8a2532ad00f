"""Pickles that run nothing but would hang, crash or fill the machine: one sentence, within seconds and 1 GB."""

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from polyinr_hf.safe_pickle import MAX_OPERATIONS, Call, Name, read_pickle

MANY, DEEP = 200_000, 200_000
SECONDS, MEGABYTES = 20, 1024  # of processor time, of address space beyond what torch takes

READ = """
import json, os, resource, signal, sys
from polyinr_hf.conversion import load_original_checkpoint

seconds, megabytes, *paths = sys.argv[1:]
torch_takes = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for path in paths:
    child = os.fork()
    if child == 0:
        limit = torch_takes + int(megabytes) * 2**20 + os.path.getsize(path)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        signal.alarm(10 * int(seconds))  # of a busy machine
        try:
            load_original_checkpoint(path)
            print(json.dumps("it was read"), flush=True)
        except ValueError as error:
            print(json.dumps(str(error)), flush=True)
        os._exit(0)
    if (status := os.waitpid(child, 0)[1]) != 0:
        print(json.dumps(f"it broke the process: {status}"), flush=True)
"""


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


def shared(levels: int = 60) -> bytes:
    """A tuple of 2^levels ends, that takes a few bytes a level."""
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


def inflating_zip() -> bytes:
    small, large = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(2**24)._typed_storage(), small)
    with zipfile.ZipFile(small) as source, zipfile.ZipFile(large, "w", zipfile.ZIP_DEFLATED) as target:
        for item in source.namelist():
            target.writestr(item, source.read(item))
    return large.getvalue()


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
    first = pickle.dumps(torch.zeros(1000, 1000).T, protocol=4)[2:-1] + put(10**6)
    return b"}(" + text("0") + first + b"".join(text(str(i)) + get(10**6) for i in range(1, count)) + b"u"


def many_levels(count: int) -> bytes:
    names = {"mapping.fc0.weight": (4, 4), "synthesis.fc0_0.weight": (4, 4), "gridt": (2,)}
    names |= {"mapping.w_avg": (4,), "synthesis.to_rgb.weight": (3, 4)}
    parameters = b"".join(text(n) + tensor(*size) for n, size in names.items())
    empty = tensor(0)
    parameters += b"".join(text(f"synthesis.fb{i}.fb0.fc1.weight") + empty for i in range(count))
    return network(b"}", b"}(" + parameters + b"u")


def wide(channels: int) -> bytes:
    """A network as wide as no file is: a tensor without elements takes no bytes."""
    names = {"mapping.fc0.weight": (4, 4), "synthesis.fc0_0.weight": (channels, 0), "gridt": (2,)}
    names |= {"mapping.w_avg": (4,), "synthesis.to_rgb.weight": (3, 4)}
    return network(b"}", b"}(" + b"".join(text(n) + tensor(*size) for n, size in names.items()) + b"u")


LONG_NAME = "n" * 2**20
INTEGER = b"\x8b" + struct.pack("<I", 2**20) + bytes(2**20 - 1) + b"\x01"
TEN_THOUSAND = b"](" + b"K\x01" * 10_000 + b"e" + put(0)
BOMBS = {
    # what the message says, without blanks at its ends: the pickle
    "expected 4294967296 bytes in a bytearray8": lambda: announced(b"\x96", 2**32),
    "damaged: ValueError expected 4294967296 bytes in a bytes8": lambda: announced(b"\x8e", 2**32),
    "expected 4294967296 bytes in a unicodestring8": lambda: announced(b"\x8d", 2**32),
    "in a bytes4": lambda: announced(b"B", 2**32 - 1),
    "in a unicodestring4": lambda: announced(b"X", 2**32 - 1),
    "to read long4": lambda: announced(b"\x8b", 2**31 - 1),
    "calls __builtin__.bytearray": lambda: checkpoint(
        as_content(pickle.dumps(bytearray, 2)[:-1] + b"J\0\0\0\x7f\x85R.")
    ),
    "holds storages in a zip archive": lambda: checkpoint(as_content(inflating_zip())),
    "a storage announces 2147483647 values and 1000": lambda: checkpoint(
        as_content(saved(torch.zeros(1000)._typed_storage()).replace(b"M\xe8\x03", b"J\xff\xff\xff\x7f"))
    ),
    "makes a set of a Tensor": lambda: checkpoint(call("builtins.set", tensor(30_000))),
    "makes a set of a Tensor,": lambda: checkpoint(call("builtins.frozenset", tensor(30_000))),
    "makes a dictionary of a Tensor": lambda: checkpoint(call("collections.OrderedDict", tensor(30_000))),
    "calls builtins.list": lambda: checkpoint(call("builtins.list", tensor(30_000))),
    # hashed
    "key that is a tuple": lambda: checkpoint(b"}" + shared() + b"Ns"),
    "set with a key that is a tuple": lambda: checkpoint(b"\x8f(" + shared() + b"\x90"),
    "key that is a tuple, ": lambda: checkpoint(b"(" + shared() + b"\x91"),
    "key that is a tuple, which": lambda: checkpoint(call("builtins.set", b"]" + shared() + b"a")),
    "key that is a frozenset": lambda: checkpoint(b"(" * DEEP + b"\x91" * DEEP),
    "key that is an int": lambda: checkpoint(INTEGER + put(0) + b"0}" + (get(0) + b"Ns") * 1000),
    "key that is 'nnn": lambda: checkpoint(
        text(LONG_NAME) + put(0) + b"0" + text(LONG_NAME) + put(1) + b"0}" + get(0) + b"Ns" + (get(1) + b"Ns") * MANY
    ),
    "by what is no name": lambda: checkpoint(text(LONG_NAME) + put(0) + (get(0) + get(0) + b"\x930") * MANY),
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
    "a tensor is made of what is no storage": lambda: (
        checkpoint(name("torch._utils._rebuild_tensor_v2") + shared(20) + b"\x85R")
        .replace(b"\x85R", b"K\x00))\x89N" + b"tR")
        .replace(b"_v2\n", b"_v2\n(")
    ),
    "holds no network 'G_ema'": lambda: b"\x80\x04}(" + b"".join(text(str(i) * 50) + b"N" for i in range(1000)) + b"u.",
    # walked
    "more than 20,000 modules and tensors": lambda: checkpoint(module_tree(31)),
    "or is 32 deep": lambda: checkpoint(module_chain(2000)),
    "its tensors have more bytes than the file": lambda: checkpoint(network(b"}", views(10_000))),
    "`num_levels` must be": lambda: checkpoint(many_levels(10_000)),
    "`channels` must be": lambda: checkpoint(wide(10**9)),
    # deep
    "no Poly-INR generator: TypeError": lambda: checkpoint(
        name("a.B") + b")\x81" + b"]" * DEEP + b"a" * (DEEP - 1) + b"b"
    ),
    "holds no network 'G_ema'; its networks: none": lambda: checkpoint(b")" + b"\x85" * DEEP),
    "its networks: none": lambda: checkpoint(b"}" + (text("a") + b"}") * DEEP + b"s" * DEEP),
    "KeyError: '_parameters'": lambda: checkpoint((name("a.B") + b")\x81}" + text("a")) * DEEP + b"N" + b"sb" * DEEP),
    # counted
    f"more than {MAX_OPERATIONS:,} operations": lambda: b"\x80\x04" + b"\x8f" * 10**7,
    f"than {MAX_OPERATIONS:,} operations": lambda: b"\x80\x04" + b"(" * 10**7,
    f"takes more than {MAX_OPERATIONS:,}": lambda: checkpoint(
        TEN_THOUSAND + call("builtins.set", get(0)) * 20_000 + b"0" * 20_000
    ),
    "has tensors of more bytes than the file": lambda: checkpoint(
        as_content(saved(torch.zeros(2**20)._typed_storage())).replace(b"\x85R", put(0) + b"\x85R", 1)
        + call("torch.storage._load_from_bytes", get(0)) * 1000
    ),
}


@pytest.fixture(scope="module")
def messages(tmp_path_factory) -> dict[str, str]:
    """What reading each bomb says, in a process of limited time and memory."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = []
    for index, bomb in enumerate(BOMBS.values()):
        paths.append(folder / f"{index}.pkl")
        paths[-1].write_bytes(bomb())
    command = [sys.executable, "-c", READ, str(SECONDS), str(MEGABYTES), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths), done.stderr
    return dict(zip(BOMBS, map(json.loads, lines), strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of a process are Linux's")
@pytest.mark.parametrize("reason", BOMBS)
def test_a_bomb_is_one_sentence(messages, reason):
    message = messages[reason]
    assert reason.strip() in message
    assert len(message) < 500 and "\n" not in message


def test_every_storage_of_torch_is_read(tmp_path):
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8):
        value = torch.arange(-6, 6).to(dtype).view(3, 4)
        (tmp_path / "a.pkl").write_bytes(pickle.dumps([value, value.T, value[1:, ::2], torch.empty(0, dtype=dtype)]))
        same, transposed, part, empty = read_pickle(tmp_path / "a.pkl")
        assert same.dtype == empty.dtype == dtype and len(empty) == 0
        assert torch.equal(same, value) and torch.equal(transposed, value.T) and torch.equal(part, value[1:, ::2])
    flags = torch.tensor([True, False])
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(flags))
    assert torch.equal(read_pickle(tmp_path / "a.pkl"), flags)


@pytest.mark.parametrize("protocol", range(6))
def test_containers_are_read_as_python_reads_them(tmp_path, protocol):
    shared_list = [1, 2]
    value = {
        "numbers": [0, -1, 300, 70_000, 2**40, -(2**80), 1.5, float("inf"), True, False, None],
        "text": ("", "häß", "a" * 300),
        "bytes": [b"", b"\xff" * 300] if protocol > 2 else [],
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
