import argparse
import collections
import contextlib
import copyreg
import datetime
import functools
import gzip
import importlib
import io
import json
import operator
import os
import pathlib
import pickle
import runpy
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import dill
import pytest
import timm
import torch
from torch import nn

from polyinr_hf import PolyINRGenerator, PolyINRPipeline
from polyinr_hf.conversion import (
    UnsafePickleError,
    convert_original_checkpoint,
    load_original_checkpoint,
    read_id2label,
)
from polyinr_hf.modeling_poly_inr import pixel_coordinates

NAMES = ("official_conditional_n64", "official_unconditional_superres_n32")
REFERENCE = Path(__file__).with_name("reference")
SCRIPT = Path(__file__).parents[1] / "scripts" / "convert_original.py"


@pytest.fixture(params=NAMES)
def checkpoint(request, reference_values):
    return reference_values / f"{request.param}.pkl"


@pytest.fixture
def script():
    return runpy.run_path(str(SCRIPT))["main"]


# --- writing checkpoints in the authors' format ---------------------------------------------------------------------


def draw_tensors(channels, num_classes, num_levels, size, z_dim=16, w_dim=24, dtype=torch.float32):
    """Random tensors of the authors' names and shapes."""
    shapes = {"gridt": (1, size * size, 2), "synthesis.grid": (1, size * size, 2)}
    shapes |= {"mapping.embed.weight": (num_classes or 1000, 20)}  # unused without classes
    shapes |= {"mapping.w_avg": (num_classes, w_dim) if num_classes else (w_dim,)}

    def linear(name, fan_in, fan_out):
        shapes.update({f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (fan_out,)})

    if num_classes:
        linear("mapping.embed_proj", 20, z_dim)
    linear("mapping.fc0", z_dim * (2 if num_classes else 1), w_dim)
    linear("mapping.fc1", w_dim, w_dim)
    for level in range(num_levels):
        prefix = "synthesis" if level == 0 else f"synthesis.fb{level}"
        fan_in = w_dim if level == 0 else channels
        if level > 0:
            linear(f"{prefix}.fc0_5", w_dim, channels)
        for index, fan_out in enumerate((2 * channels, channels, 4, 2), start=1):
            linear(f"{prefix}.fc0_{index}", fan_in, fan_out)
        linear(f"{prefix}.fc0_0" if level == 0 else f"{prefix}.fb0.fc1", channels, channels)
    shapes |= {"synthesis.to_rgb.weight": (3, channels, 1, 1), "synthesis.to_rgb.bias": (3,)}
    rng = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    tensors |= dict.fromkeys(("gridt", "synthesis.grid"), pixel_coordinates(size, size)[None])  # not trained
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def build_modules(tensors):
    """A tree of modules whose state dict is `tensors`."""
    root = nn.Module()
    for name, tensor in tensors.items():
        module = root
        *path, leaf = name.split(".")
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        if leaf == "w_avg":
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, nn.Parameter(tensor))
    return root


def write_checkpoint(path, tensors, **entries):
    path.write_bytes(pickle.dumps({"G": None, "G_ema": build_modules(tensors), **entries}))
    return path


@pytest.fixture
def small_tensors():
    return draw_tensors(channels=8, num_classes=3, num_levels=2, size=4)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_infers_the_config(reference_values):
    configs = [load_original_checkpoint(reference_values / f"{name}.pkl")[0] for name in NAMES]
    common = {"z_dim": 64, "w_dim": 512, "num_levels": 10, "num_mapping_layers": 2, "class_embed_dim": 320}
    common |= {"initialization": "released", "grid_size": None}
    assert configs[0] == common | {"channels": 64, "num_classes": 4, "sample_size": 32}
    assert configs[1] == common | {"channels": 32, "num_classes": None, "sample_size": 64}


@pytest.mark.parametrize("num_classes", [1, 7, None])
def test_any_size_is_read_exactly(tmp_path, num_classes):
    tensors = draw_tensors(channels=12, num_classes=num_classes, num_levels=4, size=48)
    discriminator = nn.ModuleList([nn.utils.spectral_norm(nn.Conv2d(3, 4, 1)), timm.create_model("test_vit")])
    path = write_checkpoint(tmp_path / "network.pkl", tensors, D=discriminator, device=torch.device("cpu"))
    generator = convert_original_checkpoint(path).generator
    config = generator.config
    assert (config.channels, config.num_levels, config.sample_size) == (12, 4, 48)
    assert (config.num_classes, config.z_dim, config.w_dim) == (num_classes, 16, 24)
    ours = generator.state_dict()
    assert torch.equal(ours["synthesis_levels.3.weight"], tensors["synthesis.fb3.fb0.fc1.weight"])
    assert torch.equal(ours["affine_levels.0.rotation.bias"], tensors["synthesis.fc0_3.bias"])
    assert torch.equal(ours["affine_levels.2.hidden.weight"], tensors["synthesis.fb2.fc0_5.weight"])
    assert torch.equal(ours["to_rgb.weight"], tensors["synthesis.to_rgb.weight"][:, :, 0, 0])
    dropped = {"gridt", "synthesis.grid"} | (set() if num_classes else {"mapping.embed.weight"})
    assert sum(t.numel() for t in ours.values()) == sum(t.numel() for n, t in tensors.items() if n not in dropped)
    assert all(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize("num_classes", [1, 7])
def test_the_running_mean_says_how_many_classes_there_are(tmp_path, num_classes):
    """The authors' code starts the class embedding from a file of ImageNet's 1000 rows, whatever it is trained on."""
    tensors = draw_tensors(channels=8, num_classes=num_classes, num_levels=2, size=4)
    embedding = torch.randn(1000, 20)
    embedding[:num_classes] = tensors["mapping.embed.weight"]
    exact = convert_original_checkpoint(write_checkpoint(tmp_path / "exact.pkl", tensors))
    path = write_checkpoint(tmp_path / "network.pkl", tensors | {"mapping.embed.weight": embedding})
    pipe = convert_original_checkpoint(path, id2label={i: f"class {i}" for i in range(num_classes)})
    assert pipe.generator.config.num_classes == num_classes
    torch.testing.assert_close(pipe.generator.state_dict(), exact.generator.state_dict(), rtol=0, atol=0)
    pipe.save_pretrained(tmp_path / "pipeline")
    assert len(PolyINRPipeline.from_pretrained(tmp_path / "pipeline").labels) == num_classes


def test_half_precision_and_views_become_whole_float32(tmp_path, small_tensors):
    small_tensors = {name: tensor.half() for name, tensor in small_tensors.items()}
    weight = small_tensors["mapping.fc1.weight"]
    small_tensors["mapping.fc1.weight"] = weight.T
    _, state_dict = load_original_checkpoint(write_checkpoint(tmp_path / "network.pkl", small_tensors))
    assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in state_dict.values())
    assert torch.equal(state_dict["mapping.layers.1.weight"], weight.T.float())


def test_averaged_weights_are_the_default(tmp_path, small_tensors):
    last = {name: tensor + 1 for name, tensor in small_tensors.items()}
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"G": build_modules(last), "G_ema": build_modules(small_tensors)}))
    for weights, expected in (({}, small_tensors), ({"weights": "G_ema"}, small_tensors), ({"weights": "G"}, last)):
        _, state_dict = load_original_checkpoint(path, **weights)
        assert torch.equal(state_dict["w_mean"], expected["mapping.w_avg"])


def with_attributes(tensors):
    root = build_modules(tensors)
    root.gridt.decay = False
    root.mapping.w_avg.note = "a buffer with an attribute"
    return root


def optimizer(module):
    optimizer = torch.optim.Adam(module.parameters())
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimizer.step()
    return optimizer


OTHER_FORMS = {
    "a network alone": lambda tensors: pickle.dumps(build_modules(tensors)),
    "its state dict": lambda tensors: pickle.dumps(build_modules(tensors).state_dict()),
    "a dict of state dicts": lambda tensors: pickle.dumps({"G_ema": build_modules(tensors).state_dict()}),
    "a state dict of torch.save": lambda tensors: torch_file(build_modules(tensors).state_dict()),
    "state dicts of torch.save": lambda tensors: torch_file({"G_ema": build_modules(tensors).state_dict(), "step": 3}),
    "DataParallel": lambda tensors: pickle.dumps({"G_ema": nn.DataParallel(build_modules(tensors))}),
    "a state dict of DataParallel": lambda tensors: torch_file(nn.DataParallel(build_modules(tensors)).state_dict()),
    "a state dict of torch.compile": lambda tensors: torch_file(torch.compile(build_modules(tensors)).state_dict()),
    "parameters with attributes": lambda tensors: pickle.dumps({"G_ema": with_attributes(tensors)}),
    **{
        f"protocol {protocol}": lambda tensors, protocol=protocol: pickle.dumps(
            {"G_ema": build_modules(tensors), "set": {1}}, protocol=protocol
        )
        for protocol in range(6)
    },
    **{
        f"beside other objects, protocol {protocol}": lambda tensors, protocol=protocol: pickle.dumps(
            {
                "optimizer": optimizer(nn.Linear(2, 2)),
                "args": argparse.Namespace(lr=1e-3, folder=pathlib.Path("runs/1")),
                "settings": types.SimpleNamespace(bounds=(slice(3), range(2), 1j)),
                "time": [datetime.datetime(2022, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(1)],
                "counts": [collections.Counter("aab"), collections.deque([1]), collections.defaultdict(list, a=[1])],
                "G_ema": build_modules(tensors),
            },
            protocol=protocol,
        )
        for protocol in range(6)
    },
}


@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_weights_are_read_in_other_forms_too(tmp_path, small_tensors, form):
    _, expected = load_original_checkpoint(write_checkpoint(tmp_path / "expected.pkl", small_tensors))
    (tmp_path / "network.pkl").write_bytes(OTHER_FORMS[form](small_tensors))
    _, found = load_original_checkpoint(tmp_path / "network.pkl")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_was_added_to_a_layer_is_left_out_with_a_warning(tmp_path, small_tensors, caplog):
    added = small_tensors | {"synthesis.gain": torch.zeros(2), "mapping.fc0.steps": torch.zeros(1)}
    _, expected = load_original_checkpoint(write_checkpoint(tmp_path / "expected.pkl", small_tensors))
    assert not caplog.messages
    _, found = load_original_checkpoint(write_checkpoint(tmp_path / "network.pkl", added))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    (message,) = caplog.messages
    assert "'synthesis.gain'" in message and "'mapping.fc0.steps'" in message


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("dill_*.pkl")), ids=lambda path: path.stem)
def test_whatever_dill_wrote_gives_the_same_images(path, tmp_path):
    """Discriminators with hooks that are closures and bound methods are beside the generator."""
    tensors = runpy.run_path(str(REFERENCE / "make_dill_checkpoints.py"))["draw_tensors"]
    expected = convert_original_checkpoint(write_checkpoint(tmp_path / "plain.pkl", tensors()))
    found = convert_original_checkpoint(path)
    torch.testing.assert_close(found.generator.state_dict(), expected.generator.state_dict(), rtol=0, atol=0)
    call = {"class_labels": [0, 2], "output_type": "pt"}
    images = [pipe(**call, generator=torch.Generator().manual_seed(0)).images for pipe in (found, expected)]
    assert torch.equal(*images)
    _, last = load_original_checkpoint(path, weights="G")
    assert torch.equal(last["w_mean"], tensors(shift=1)["mapping.w_avg"])


def test_source_text_and_classes_inside_are_never_run(tmp_path, small_tensors, monkeypatch):
    """As `torch_utils.persistence` writes objects: a call with the source text of their class and their state."""
    marker = tmp_path / "marker"
    source = f"open({str(marker)!r}, 'w')"
    persistence = types.ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise AssertionError('called')", persistence.__dict__)
    persistence._reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    (tmp_path / "trap_module.py").write_text(source + "\nclass Settings(dict): pass")
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", persistence)
    monkeypatch.syspath_prepend(tmp_path)

    class Persistent(nn.Module):
        def __reduce__(self):
            meta = {"type": "class", "version": 6, "module_src": source, "class_name": "Generator"}
            return persistence._reconstruct_persistent_obj, ({**meta, "state": self.__dict__},)

    import trap_module

    root = Persistent()
    root.__dict__.update(build_modules(small_tensors).__dict__)
    root.settings = trap_module.Settings(size=1)
    (tmp_path / "network.pkl").write_bytes(pickle.dumps({"G_ema": root}))
    marker.unlink()
    for name in ("torch_utils", "torch_utils.persistence", "trap_module"):
        monkeypatch.delitem(sys.modules, name)
    _, state_dict = load_original_checkpoint(tmp_path / "network.pkl")
    assert torch.equal(state_dict["w_mean"], small_tensors["mapping.w_avg"])
    assert not marker.exists()
    assert "trap_module" not in sys.modules


# --- what is refused --------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments

    def __call__(self, *arguments):
        raise AssertionError  # what is called in a pickle has to be callable


def with_persistent_id():
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer)
    pickler.persistent_id = lambda obj: "elsewhere" if isinstance(obj, Call) else None
    pickler.dump(Call(print))
    return buffer.getvalue()


ATTACKS = {
    # what the message names: a pickle, given the path of a file that must not appear
    "posix.system": lambda marker: pickle.dumps(Call(os.system, f"touch {marker}")),
    "builtins.eval": lambda marker: pickle.dumps(Call(eval, f"open({marker!r}, 'w')")),
    "builtins.exec": lambda marker: pickle.dumps({"G_ema": [Call(exec, f"open({marker!r}, 'w')")]}),
    "__builtin__.eval": lambda marker: pickle.dumps(Call(eval, f"open({marker!r}, 'w')"), protocol=2),
    "io.open": lambda marker: pickle.dumps(Call(open, marker, "w")),
    "builtins.setattr": lambda marker: pickle.dumps(Call(setattr, nn.Module(), "training", True)),
    "subprocess.Popen": lambda marker: pickle.dumps(Call(subprocess.Popen, ["touch", marker])),
    "importlib.import_module": lambda marker: pickle.dumps(Call(importlib.import_module, "antigravity")),
    "torch.serialization.load": lambda marker: pickle.dumps(Call(torch.load, marker)),
    "torch.hub.load": lambda marker: pickle.dumps(Call(torch.hub.load, "owner/name", "model")),
    "builtins.bytearray": lambda marker: pickle.dumps(Call(bytearray, 8)),
    "calls os.system": lambda marker: b"cos\nsystem\n(X\x01\0\0\0xtR.",
    "calls os.popen": lambda marker: b"(X\x01\0\0\0xios\npopen\n.",
    "calls os.remove": lambda marker: b"(cos\nremove\nX\x01\0\0\0xo.",
    "constructs pathlib.Path": lambda marker: b"\x80\x04cpathlib\nPath\n(X\x01\0\0\0/t\x81.",
    "constructs pathlib.PurePath": lambda marker: b"\x80\x04cpathlib\nPurePath\n)}\x92.",
    "persistent id 'elsewhere'": lambda marker: with_persistent_id(),
    "extension registry, code 240": lambda marker: b"\x80\x02\x82\xf0X\x01\0\0\0x\x85R.",
    "attributes of torch._utils._rebuild_parameter": lambda marker: (
        b"\x80\x04ctorch._utils\n_rebuild_parameter\nN}X\x0c\0\0\0__defaults__)s\x86b."
    ),
    "_load_from_bytes: refused: the pickle calls __builtin__.exec": lambda marker: pickle.dumps(
        Call(torch.storage._load_from_bytes, pickle.dumps(Call(exec, f"open({marker!r}, 'w')"), protocol=2))
    ),
    "_load_from_bytes: refused: the pickle calls collections.OrderedDict": lambda marker: pickle.dumps(
        Call(torch.storage._load_from_bytes, saved({"weight": torch.zeros(2)}))
    ),
}


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_smuggled_call_is_refused_by_name(name, tmp_path):
    copyreg.add_extension("os", "system", 240)
    try:
        marker = tmp_path / "marker"
        (tmp_path / "network.pkl").write_bytes(ATTACKS[name](str(marker)))
        with pytest.raises(UnsafePickleError) as error:
            load_original_checkpoint(tmp_path / "network.pkl")
    finally:
        copyreg.remove_extension("os", "system", 240)
    assert name in str(error.value)
    assert isinstance(error.value, ValueError)
    assert not marker.exists()
    assert "antigravity" not in sys.modules


def test_a_partial_is_a_record_that_is_never_called(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "network.pkl").write_bytes(pickle.dumps({"G_ema": functools.partial(open, str(marker), "w")}))
    with pytest.raises(ValueError, match="no Poly-INR generator"):
        load_original_checkpoint(tmp_path / "network.pkl")
    assert not marker.exists()


OS = Call(dill._dill._import_module, "os")
HIDDEN = {
    # attacks on an ordinary reader that are made of calls which are recorded
    "getattr": lambda marker: Call(Call(getattr, OS, "mkdir"), marker),
    "dill's getattr": lambda marker: Call(Call(dill._dill._get_attr, OS, "mkdir"), marker),
    "an item": lambda marker: Call(Call(operator.getitem, Call(getattr, OS, "__dict__"), "mkdir"), marker),
    "a partial": lambda marker: Call(functools.partial(os.mkdir, marker)),
    "a dict that makes its items": lambda marker: Call(
        Call(getattr, collections.defaultdict(functools.partial(os.mkdir, marker)), "__missing__"), 0
    ),
    "reduce": lambda marker: Call(functools.reduce, Call(getattr, OS, "mkdir"), [marker, 0o700]),
    "a function by its code": lambda marker: Call(lambda: __import__("os").mkdir(marker)),
    "an array": lambda marker: Call(dill._dill._create_array, Call(getattr, OS, "mkdir"), (marker,), ()),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_an_attack_behind_recorded_calls_is_inert(name, tmp_path, small_tensors):
    marker = tmp_path / "marker"
    path = tmp_path / "network.pkl"
    path.write_bytes(dill.dumps({"D": HIDDEN[name](str(marker)), "G_ema": build_modules(small_tensors)}))
    with contextlib.suppress(Exception):
        dill.loads(path.read_bytes())
    assert marker.exists()  # it is an attack
    marker.rmdir()
    _, state_dict = load_original_checkpoint(path)
    assert torch.equal(state_dict["w_mean"], small_tensors["mapping.w_avg"])
    assert not marker.exists()


def test_what_a_call_would_give_is_never_weights(tmp_path, small_tensors):
    root = build_modules(small_tensors)
    call = Call(dill._dill._create_array, copyreg.__newobj__, (nn.Module,), root.__dict__)
    child, parameter = build_modules(small_tensors), build_modules(small_tensors)
    child._modules["mapping"], parameter.mapping._buffers["w_avg"] = call, call
    storage = {"G_ema": child, "D": Call(torch.storage._load_from_bytes, call)}
    for content, message in (
        ({"G_ema": call}, "the network is no module but the result of dill._dill._create_array"),
        ({"G_ema": functools.partial(root)}, "the network is no module but the result of functools.partial"),
        ({"G_ema": child}, "mapping. is no module but the result of dill._dill._create_array"),
        ({"G_ema": parameter}, "mapping.w_avg is no tensor but the result of dill._dill._create_array"),
        (storage, "gives torch.storage._load_from_bytes the result of dill._dill._create_array"),
    ):
        (tmp_path / "network.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=message):
            load_original_checkpoint(tmp_path / "network.pkl")


def test_a_call_beside_the_weights_is_refused_too(tmp_path, small_tensors):
    path = write_checkpoint(tmp_path / "network.pkl", small_tensors, D=Call(os.system, f"touch {tmp_path / 'marker'}"))
    with pytest.raises(UnsafePickleError, match="posix.system"):
        load_original_checkpoint(path)
    assert not (tmp_path / "marker").exists()


def rebuilt(storage, *arguments):
    return pickle.dumps(Call(torch._utils._rebuild_tensor_v2, storage, *arguments, False, {}))


def test_claims_of_more_than_there_is_are_refused(tmp_path):
    storage = torch.zeros(4)._typed_storage()
    inflated = saved(storage).replace(b"K\x04", b"K\x09", 1)
    bombs = [
        rebuilt(storage, 0, (3, 3), (0, 0)),
        rebuilt(storage, 0, (5,), (1,)),
        rebuilt(storage, 0, (2,), (4,)),
        rebuilt(storage, 3, (2,), (1,)),
        rebuilt(storage, -1, (2,), (1,)),
        rebuilt(storage, 0, (-2, -2), (1, 1)),
        pickle.dumps(Call(torch.storage._load_from_bytes, inflated)),
        b"\x80\x04\x8e" + (1000).to_bytes(8, "little") + b"x.",  # bytes
        b"\x80\x04\x95" + (1000).to_bytes(8, "little") + b"N.",  # a frame
        b"\x80\x04Nr\xe8\x03\0\0.",  # a memo of 1000 entries
    ]
    for bomb in bombs:
        (tmp_path / "network.pkl").write_bytes(bomb)
        with pytest.raises(ValueError, match="`checkpoint`"):
            load_original_checkpoint(tmp_path / "network.pkl")


@pytest.mark.parametrize("fraction", [0, 0.001, 0.1, 0.5, 0.9, 0.99999])
def test_a_file_cut_short_is_an_error(checkpoint, tmp_path, fraction):
    content = checkpoint.read_bytes()
    (tmp_path / "cut.pkl").write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(ValueError, match=r"`checkpoint` .*cut\.pkl.* cut short"):
        load_original_checkpoint(tmp_path / "cut.pkl")


def torch_file(value, **kwargs):
    buffer = io.BytesIO()
    torch.save(value, buffer, **kwargs)
    return buffer.getvalue()


def compressed(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", content)
    return buffer.getvalue()


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("network.pkl", content)
    return buffer.getvalue()


OTHER_FILES = {
    "is a web page: download the file itself": lambda: b"\n<!DOCTYPE html><html></html>",
    "is a pointer of Git LFS to the file: run `git lfs pull`": lambda: b"version https://git-lfs.github.com/spec/v1\n",
    "is compressed by gzip: unpack it": lambda: gzip.compress(pickle.dumps({"G_ema": None})),
    "is a zip archive: unpack it": lambda: zipped(b"N."),
    "is a compressed zip archive, which `torch.save` never writes": lambda: compressed(b"N."),
    "is a zip archive that is cut short": lambda: torch_file({"a": torch.zeros(2)})[:-30],
    "of `torch.save` and holds more than tensors": lambda: torch_file(nn.Linear(2, 2)),
    "of `torch.save` in its format before torch 1.6": lambda: saved({"a": torch.zeros(2)}),
    "holds no network 'G_ema'; its networks: none. It must be": lambda: pickle.dumps([1, 2]),
    "holds no network 'G_ema'; its networks: 'D'": lambda: pickle.dumps({"D": nn.Linear(2, 2)}),
    "its networks: none": lambda: pickle.dumps({"G_ema": None, "G": 1, "lr": torch.zeros(1)}),
    "is no Poly-INR generator: it lacks 'mapping.fc0.weight'": lambda: pickle.dumps({"G_ema": nn.Linear(2, 2)}),
    "it lacks 'mapping.fc0.weight'": lambda: pickle.dumps(nn.Linear(2, 2)),
    "cut short or damaged: ValueError cannot mmap an empty file. Compare its 0 bytes": lambda: b"",
}


@pytest.mark.parametrize("sentence", OTHER_FILES)
def test_other_files_are_said_to_be_what_they_are(tmp_path, sentence):
    (tmp_path / "network.pkl").write_bytes(OTHER_FILES[sentence]())
    with pytest.raises(ValueError, match="^`checkpoint`") as error:
        load_original_checkpoint(tmp_path / "network.pkl")
    assert sentence in str(error.value)


def test_what_needs_no_conversion_is_said_to_need_none(tmp_path, small_tensors):
    original = write_checkpoint(tmp_path / "network.pkl", small_tensors)
    convert_original_checkpoint(original).save_pretrained(tmp_path / "pipe")
    (weights,) = (tmp_path / "pipe" / "generator").glob("*.safetensors")
    for path in (tmp_path / "pipe", weights.parent, weights):
        with pytest.raises(ValueError, match="is a pipeline already and needs no conversion") as error:
            load_original_checkpoint(path)
        assert str(error.value).startswith(f"`checkpoint` {path} is")
        assert str(error.value).endswith(f": `PolyINRPipeline.from_pretrained` opens {tmp_path / 'pipe'}.")
    shutil.copyfile(weights, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors is in safetensors already, .* needs no conversion"):
        load_original_checkpoint(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="^`checkpoint` .* is a folder: give the file that is inside"):
        load_original_checkpoint(tmp_path)
    shutil.copyfile(original, tmp_path / "pipe" / "network.pkl")
    assert load_original_checkpoint(tmp_path / "pipe" / "network.pkl")[0]["num_classes"] == 3


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damage_is_an_error_or_changes_a_value(tmp_path, small_tensors):
    content = write_checkpoint(tmp_path / "network.pkl", small_tensors).read_bytes()
    rng, refused = torch.Generator().manual_seed(0), 0
    for _ in range(60):
        damaged = bytearray(content)
        position, value = (int(torch.randint(limit, (1,), generator=rng)) for limit in (len(content), 256))
        damaged[position] = value
        (tmp_path / "network.pkl").write_bytes(damaged)
        try:
            load_original_checkpoint(tmp_path / "network.pkl")
        except ValueError:
            refused += 1
    assert refused > 5


def test_wrong_tensors_are_named(tmp_path, small_tensors):
    cases = {
        "unknown tensor 'synthesis.skip.weight', of a layer": small_tensors | {"synthesis.skip.weight": torch.zeros(2)},
        "synthesis_levels.1.bias": {k: v for k, v in small_tensors.items() if k != "synthesis.fb1.fb0.fc1.bias"},
        "affine_levels.0.shift.bias": small_tensors | {"synthesis.fc0_4.bias": torch.zeros(5)},
        r"mapping.embedding.weight \(3, 20\) \(expected \(4, 20\)\)": small_tensors
        | {"mapping.w_avg": torch.zeros(4, 24)},
        "it lacks 'mapping.fc0.weight'": {k: v for k, v in small_tensors.items() if k != "mapping.fc0.weight"},
    }
    for message, tensors in cases.items():
        with pytest.raises(ValueError, match=message):
            load_original_checkpoint(write_checkpoint(tmp_path / "network.pkl", tensors))


def test_bad_arguments_are_named(tmp_path, small_tensors, reference_values):
    path = write_checkpoint(tmp_path / "network.pkl", small_tensors)
    with pytest.raises(ValueError, match="`weights` must be 'G_ema' or 'G', got 'D'"):
        load_original_checkpoint(path, weights="D")
    with pytest.raises(ValueError, match="no network 'G'; its networks:.*G_ema"):
        load_original_checkpoint(path, weights="G")
    with pytest.raises(ValueError, match="`id2label` must name the network's 3 classes, ids from 0, got 2 names"):
        convert_original_checkpoint(path, id2label={0: "a", 1: "b"})
    with pytest.raises(ValueError, match="`id2label` must name the network's 0 classes, ids from 0, got 1 names"):
        convert_original_checkpoint(reference_values / f"{NAMES[1]}.pkl", id2label={0: "a"})
    with pytest.raises(FileNotFoundError):
        load_original_checkpoint(tmp_path / "none.pkl")


# --- class names ------------------------------------------------------------------------------------------------------


NAME_FILES = {
    "a list": '["cat", "dog"]',
    "ids": '{"0": "cat", "1": "dog"}',
    "other order": '{"1": "dog", "0": "cat"}',
    "Keras": '{"0": ["n02121620", "cat"], "1": ["n02084071", "dog"]}',
    "names of ids": '{"cat": 0, "dog": 1}',
    "a line each": "cat\ndog\n",
    "lines of Windows": "cat\r\ndog\r\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("form", NAME_FILES)
def test_class_names_come_in_any_form(tmp_path, form, encoding):
    path = tmp_path / "names.json"
    path.write_bytes(NAME_FILES[form].replace("cat", "été").encode(encoding))
    assert read_id2label(path) == {0: "été", 1: "dog"}


def test_class_names_of_imagenet():
    names = read_id2label("imagenet")
    assert list(names) == list(range(1000))
    assert (names[1], names[207]) == ("goldfish, Carassius auratus", "golden retriever")


@pytest.mark.parametrize(
    "content",
    [b"", b" \n", b'{"cat": "dog"}', b'["cat", 1]', b'["cat"', b'{"a": 0, "b": 0}', b'{"0": "a", "00": "b"}', b"[[]]"]
    + [b"cat\n\ndog", b'{"0": null}', b"\xff\xfe\x00", b"\xe9t\xe9", b'{"-1": "cat"}'],
)
def test_other_class_names_are_an_error(tmp_path, content):
    (tmp_path / "names.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"`id2label` .*names\.json must"):
        read_id2label(tmp_path / "names.json")


# --- the script -------------------------------------------------------------------------------------------------------


def test_script_writes_a_pipeline_that_makes_the_same_images(tmp_path, reference_values, script, capsys):
    checkpoint, names = reference_values / f"{NAMES[0]}.pkl", tmp_path / "names.json"
    names.write_text(json.dumps(["tench, Tinca tinca", "goldfish, Carassius auratus", "hen", "ostrich"]))
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), "--id2label", str(names)]
    script([*arguments, "--variant", "fp16"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"names.json", "out"}
    pipe = PolyINRPipeline.from_pretrained(tmp_path / "out")
    assert pipe.id2label[1] == "goldfish, Carassius auratus"
    call = {"class_labels": ["goldfish", 0], "output_type": "pt"}
    image = pipe(**call, generator=torch.Generator().manual_seed(0)).images
    direct = convert_original_checkpoint(checkpoint, read_id2label(names))
    assert torch.equal(direct(**call, generator=torch.Generator().manual_seed(0)).images, image)
    half = PolyINRPipeline.from_pretrained(tmp_path / "out", variant="fp16", dtype=torch.float16)
    assert half.generator.dtype == torch.float16
    # An output that is there already is refused and kept.
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*"))
    with pytest.raises(SystemExit, match="`output` must be a new or empty folder"):
        script(arguments)
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")) == before


def test_script_takes_imagenets_class_names(tmp_path, script):
    tensors = draw_tensors(channels=4, num_classes=1000, num_levels=2, size=4, w_dim=8)
    path = write_checkpoint(tmp_path / "network.pkl", tensors)
    script(["--checkpoint", str(path), "--output", str(tmp_path / "out"), "--id2label", "imagenet"])
    assert PolyINRPipeline.from_pretrained(tmp_path / "out").get_label_ids("golden retriever") == [207]


def test_an_interrupted_conversion_leaves_nothing(tmp_path, small_tensors, script, monkeypatch):
    path = write_checkpoint(tmp_path / "network.pkl", small_tensors)
    save_model = PolyINRGenerator.save_pretrained

    def interrupted(self, *args, **kwargs):
        save_model(self, *args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(PolyINRGenerator, "save_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        script(["--checkpoint", str(path), "--output", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["network.pkl"]


def test_script_reports_an_attack_and_writes_nothing(tmp_path, script):
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"G_ema": Call(os.system, f"touch {tmp_path / 'marker'}")}))
    with pytest.raises(SystemExit, match=r"refused: the pickle calls posix\.system"):
        script(["--checkpoint", str(path), "--output", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["network.pkl"]
