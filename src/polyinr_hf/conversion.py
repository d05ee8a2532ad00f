"""The authors' checkpoints -> ours, without executing anything that is inside them.

The authors' files are pickles of whole modules, with the source text of their classes; loading one the ordinary way
runs it. `load_original_checkpoint` reads them as data, see `safe_pickle`; docs/checkpoints.md lists what it reads.
"""

import codecs
import json
import logging
import math
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._lazy import naming_extra
from .checks import INDEX
from .images import psnr
from .modeling_poly_inr import PolyINRGenerator, pixel_coordinates
from .pipeline_poly_inr import PolyINRPipeline
from .safe_pickle import MAX_TEXT, Call, Record, StoredTensor, UnsafePickleError, describe, read_pickle

__all__ = [
    "UnsafePickleError",
    "convert_original_checkpoint",
    "load_original_checkpoint",
    "measure_grid",
    "read_id2label",
    "read_module_tensors",
]

logger = logging.getLogger(__name__)

MAX_ENTRIES, MAX_DEPTH = 20_000, 32  # of the tree of modules; the authors' largest generator has 600 entries, 4 deep

_RENAMES = [
    (r"mapping\.embed\.weight", r"mapping.embedding.weight"),
    (r"mapping\.embed_proj\.(weight|bias)", r"mapping.class_projection.\1"),
    (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
    (r"mapping\.w_avg", r"w_mean"),
    (r"synthesis\.fc0_0\.(weight|bias)", r"synthesis_levels.0.\1"),
    (r"synthesis\.fb(\d+)\.fb0\.fc1\.(weight|bias)", r"synthesis_levels.\1.\2"),
    (r"synthesis\.to_rgb\.(weight|bias)", r"to_rgb.\1"),
]
for _index, _layer in enumerate(("coefficient", "bias", "rotation", "shift", "hidden"), start=1):
    _RENAMES += [
        (rf"synthesis\.fc0_{_index}\.(weight|bias)", rf"affine_levels.0.{_layer}.\1"),
        (rf"synthesis\.fb(\d+)\.fc0_{_index}\.(weight|bias)", rf"affine_levels.\1.{_layer}.\2"),
    ]
_GRIDS = ("gridt", "synthesis.grid")  # one tensor by two names, a parameter that their loop trains
# In pixels. Float32 rounds a coordinate by 3e-5 of a pixel at 512, and Adam's first step moves it by 5e-2 there.
_GRID_TOLERANCE = 1e-3


# How files begin that arrive in a checkpoint's place, and the way out.
_OTHER_FILES = {
    b"version https://git-lfs": "is a pointer of Git LFS to the file: run `git lfs pull`, or download the file itself",
    b"\x1f\x8b": "is compressed by gzip: unpack it first, by `gunzip`",
    b"<": "is a web page: download the file itself, not the page that links to it",
}


def load_original_checkpoint(path: str | Path, weights: str = "G_ema") -> tuple[dict, dict[str, Tensor]]:
    """Reads a generator from one of the authors' `.pkl` checkpoints, of any stage, without running what is in it.

    Args:
        path: The pickle, also of one network alone or of its state dict; or a state dict that `torch.save` wrote.
        weights: `"G_ema"`, the running average of the generator that images are made with, or `"G"`.

    Returns:
        Config of a [`PolyINRGenerator`] and its state dict, float32. Buffers and parameters beside those that the
        authors' layers have are left out, with a warning.

    Raises:
        UnsafePickleError: (a ValueError) if the pickle asks for a call that rebuilding tensors and containers does not
            need; the message names it.
        ValueError: for a file that is no such checkpoint, is damaged or cut short, or does not hold `weights`.
    """
    if weights not in ("G_ema", "G"):
        raise ValueError(f"`weights` must be 'G_ema' or 'G', got {weights!r}.")
    checkpoint = _read(path)
    network = checkpoint.get(weights, checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if not _is_network(network) and not isinstance(network, Call):
        entries = list(checkpoint.items())[:20] if isinstance(checkpoint, dict) else ()
        found = ", ".join(describe(name) for name, value in entries if _is_network(value))
        raise ValueError(
            f"`checkpoint` {path} holds no network {weights!r}; its networks: {found or 'none'}. It must be a "
            "checkpoint of the authors' code, one network alone or a state dict with their names."
        )
    try:
        tensors = _load_tensors(network, path)
        config = _infer_config(tensors)
        state_dict = _convert_tensors(tensors, config)
        _check_shapes(config, state_dict)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"`checkpoint` {path}: {weights} is no Poly-INR generator: {reason[:MAX_TEXT]}") from error
    return config, state_dict


def read_module_tensors(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a pickled torch module of any class, without running what is in it.

    Raises:
        UnsafePickleError: (a ValueError) as in [`load_original_checkpoint`].
        ValueError: for a file that holds no module, or is damaged.
    """
    module = _read(path)
    try:
        tensors = _load_tensors(module, path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"[:MAX_TEXT]
        raise ValueError(f"`checkpoint` {path} holds no torch module: {reason}") from error
    return tensors


def _read(path: str | Path) -> object:
    """Content of a checkpoint, or a sentence that says what the file is instead."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"`checkpoint` {path} is {_pipeline_of(path) or 'a folder: give the file that is inside'}.")
    with path.open("rb") as file:
        head = file.read(64)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:  # a length, and JSON as long
        what = _pipeline_of(path) or "in safetensors already, as a pipeline's weights are: it needs no conversion"
        raise ValueError(f"`checkpoint` {path} is {what}.")
    for beginning, what in _OTHER_FILES.items():
        if head.lstrip().startswith(beginning):
            raise ValueError(f"`checkpoint` {path} {what}.")
    if head.startswith(b"PK\x03\x04"):
        return _read_archive(path)
    content = read_pickle(path)
    if content == 0x1950A86A20F9469CFC6C:  # the first of five pickles
        raise ValueError(
            f"`checkpoint` {path} is of `torch.save` in its format before torch 1.6. Save it anew: "
            "`torch.save(torch.load(path, weights_only=True), new_path)`."
        )
    return content


def _pipeline_of(path: Path) -> str | None:
    """What to do with a pipeline's folder, or what is in it; None for anything else."""
    folder = next((folder for folder in (path, *path.absolute().parents[:2]) if (folder / INDEX).is_file()), None)
    return folder and f"a pipeline already and needs no conversion: `PolyINRPipeline.from_pretrained` opens {folder}"


def _read_archive(path: str | Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"`checkpoint` {path} is a zip archive that is cut short or damaged.") from error
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        raise ValueError(f"`checkpoint` {path} is a zip archive: unpack it, and give the file that is inside.")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):  # these may inflate to any size
        raise ValueError(f"`checkpoint` {path} is a compressed zip archive, which `torch.save` never writes.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(
            f"`checkpoint` {path} is of `torch.save` and holds more than tensors, or is damaged. Save the network's "
            "state dict alone, where its code is: `torch.save(G_ema.state_dict(), new_path)`."
        ) from error


def _is_network(value: object) -> bool:
    """Whether this is an object, or a state dict."""
    return isinstance(value, Record) or (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, (StoredTensor, Tensor)) for k, v in value.items())
    )


def _load_tensors(network: object, path: str | Path) -> dict[str, Tensor]:
    """The state dict of a network, without what DataParallel and `torch.compile` put before its names."""
    tensors = network if isinstance(network, dict) else _named_tensors(network)
    # Many tensors may be views of one storage; whole copies of them could be any size.
    if sum(tensor.nbytes for tensor in tensors.values()) > Path(path).stat().st_size:
        raise ValueError("its tensors have more bytes than the file")
    tensors = {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensor for name, tensor in tensors.items()}
    return {name: t.load() if isinstance(t, StoredTensor) else t.clone() for name, t in tensors.items()}


def _named_tensors(network: object) -> dict[str, StoredTensor]:
    """What `state_dict` would give, read off the records."""
    tensors, entries, waiting = {}, 0, [("", network, 0)]
    while waiting:
        prefix, module, depth = waiting.pop()
        if not isinstance(module, Record):
            raise TypeError(f"{prefix or 'the network'} is no module but {describe(module)}")
        state: Any = module.state
        own = [state[kind] for kind in ("_parameters", "_buffers", "_modules")]
        if not all(isinstance(names, dict) and all(isinstance(name, str) for name in names) for names in own):
            raise TypeError(f"{prefix or 'the network'} is no module")
        entries += 1 + sum(map(len, own))
        if entries > MAX_ENTRIES or depth > MAX_DEPTH:  # modules that share their children can be many more than stored
            raise ValueError(f"it has more than {MAX_ENTRIES:,} modules and tensors, or is {MAX_DEPTH} deep")
        parameters, buffers, modules = own
        for name, tensor in (*parameters.items(), *buffers.items()):
            if tensor is not None and not isinstance(tensor, StoredTensor):
                raise TypeError(f"{prefix}{name} is no tensor but {describe(tensor)}")
            if tensor is not None:
                tensors[f"{prefix}{name}"] = tensor
        children = [(f"{prefix}{name}.", child, depth + 1) for name, child in modules.items() if child is not None]
        waiting += reversed(children)
    return tensors


def _stored_grid(tensors: dict[str, Tensor]) -> Tensor:
    """Coordinates (N, 2) of the pixels, as stored."""
    return (tensors[_GRIDS[0] if _GRIDS[0] in tensors else _GRIDS[1]]).reshape(-1, 2)


def _displacement(grid: Tensor) -> Tensor:
    """How far coordinates (N, 2) of a square grid are from uniform ones, (2, H, W), in pixels."""
    size = math.isqrt(len(grid))
    if size**2 != len(grid):
        raise ValueError(f"its pixel grid has {len(grid)} points, which are no square")
    return ((grid.double() - pixel_coordinates(size, size)) * max(size - 1, 1)).T.unflatten(1, (size, size))


def _infer_config(tensors: dict[str, Tensor]) -> dict:
    first_layer, projection = tensors["mapping.fc0.weight"], tensors.get("mapping.embed_proj.weight")
    # Unconditional networks carry an embedding too, without a use: it is no input of the first layer.
    config = {"z_dim": first_layer.shape[1], "num_classes": None, "class_embed_dim": 320}
    if projection is not None:
        config["z_dim"] = first_layer.shape[1] - projection.shape[0]
        # The embedding may have more rows: the authors' code starts from ImageNet's 1000, whatever it is trained on.
        config["num_classes"] = tensors["mapping.w_avg"].shape[0]
        config["class_embed_dim"] = tensors["mapping.embed.weight"].shape[1]
    grid = _stored_grid(tensors)
    trained = not _displacement(grid).abs().max() <= _GRID_TOLERANCE
    return config | {
        "w_dim": first_layer.shape[0],
        "channels": tensors["synthesis.fc0_0.weight"].shape[0],
        "num_levels": 1 + sum(name.endswith(".fb0.fc1.weight") for name in tensors),
        "num_mapping_layers": sum(re.fullmatch(r"mapping\.fc\d+\.weight", name) is not None for name in tensors),
        "sample_size": math.isqrt(grid.numel() // 2),
        "grid_size": math.isqrt(grid.numel() // 2) if trained else None,
        "initialization": "released",
    }


def _rename(name: str) -> str | None:
    """Our name of one of the authors' tensors."""
    return next((re.sub(old, new, name) for old, new in _RENAMES if re.fullmatch(old, name)), None)


def _leave_out_extras(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leaves out what was added to the authors' layers; a layer of its own would change the images, and is an error."""
    known = {name: tensor for name, tensor in tensors.items() if name in _GRIDS or _rename(name)}
    layers = {name[:end] for name in known for end in [0, *(dot.start() for dot in re.finditer(r"\.", name))]}
    extras = [name for name in tensors if name not in known]
    for name in extras:
        if name.rpartition(".")[0] not in layers:
            raise ValueError(f"unknown tensor {describe(name)}, of a layer that no Poly-INR generator has")
    if extras:
        names = ", ".join(map(describe, extras[:5])) + (", ..." if len(extras) > 5 else "")
        logger.warning("left out, as no Poly-INR generator has them: %s", names)
    return known


def _convert_tensors(tensors: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    state_dict = {}
    tensors = _leave_out_extras(tensors)
    for name, tensor in tensors.items():
        if name in _GRIDS or (config["num_classes"] is None and name == "mapping.embed.weight"):
            continue
        renamed = _rename(name)
        if name == "mapping.embed.weight":
            tensor = tensor[: config["num_classes"]].clone()
        state_dict[renamed] = tensor.float().contiguous()
    state_dict["w_mean"] = state_dict["w_mean"].reshape(-1, config["w_dim"])  # one row if unconditional
    if config["grid_size"]:
        state_dict["grid_displacement"] = _displacement(_stored_grid(tensors)).float().contiguous()
    state_dict["to_rgb.weight"] = state_dict["to_rgb.weight"].flatten(1)  # (3, n, 1, 1) -> (3, n)
    return state_dict


def _check_shapes(config: dict, state_dict: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in PolyINRGenerator(**config).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state_dict.items()}
    wrong = {name: (found.get(name), expected.get(name)) for name in expected.keys() | found.keys()}
    wrong = [f"{name} {got} (expected {want})" for name, (got, want) in sorted(wrong.items()) if got != want]
    if wrong:
        raise ValueError(f"{'; '.join(wrong[:5])}")


def convert_original_checkpoint(
    path: str | Path, id2label: dict[int, str] | None = None, weights: str = "G_ema"
) -> PolyINRPipeline:
    """One of the authors' `.pkl` checkpoints -> a pipeline, ready to use or to `save_pretrained`.

    Args:
        path, weights: See `load_original_checkpoint`.
        id2label: Name of every class id, see [`PolyINRPipeline`]; `read_id2label` reads one.

    Raises:
        ValueError: as `load_original_checkpoint`, and for an `id2label` that does not name the network's classes.
    """
    config, state_dict = load_original_checkpoint(path, weights)
    num_classes = config["num_classes"] or 0
    if id2label is not None and set(id2label) != set(range(num_classes)):
        raise ValueError(
            f"`id2label` must name the network's {num_classes} classes, ids from 0, got {len(id2label)} names."
        )
    with torch.device("meta"):
        generator = PolyINRGenerator(**config)
    generator.load_state_dict(state_dict, assign=True)
    return PolyINRPipeline(generator.eval(), id2label)


@torch.no_grad()
def measure_grid(generator: PolyINRGenerator, num_images: int = 4, num_points: int = 4096) -> dict[str, float]:
    """How far the pixel grid that was trained with a generator is from a uniform one.

    Returns:
        `max` and `mean`, of how far a row or column coordinate is off, in pixels, and `psnr` in dB between images drawn
        on both, of random z and class, at psi 1, over `num_points` pixels of each. Of a uniform grid 0, 0 and infinity.
    """
    if not generator.config.grid_size:
        return {"max": 0.0, "mean": 0.0, "psnr": math.inf}
    size, config = generator.config.grid_size, generator.config
    distance = generator.grid_displacement.float().abs()
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(num_images, config.z_dim, generator=rng)
    labels = torch.randint(config.num_classes, (num_images,), generator=rng) if config.num_classes else None
    points = pixel_coordinates(size, size)[torch.randperm(size**2, generator=rng)[:num_points]]  # (N, 2)
    A = generator.affine(generator.map(z, labels))
    grids = points, generator.displace(points, size, size)
    # A few points at a time: features of all of them would take as much memory as the weights.
    chunks = [[[generator.synthesize(a, part) for part in grid.split(256)] for a in A.split(1)] for grid in grids]
    colors = [torch.cat([torch.cat(parts, dim=1) for parts in images]).clamp(-1, 1) for images in chunks]
    images = [rgb.transpose(1, 2).unsqueeze(2) for rgb in colors]  # (B, 3, 1, N) each
    return {"max": distance.max().item(), "mean": distance.mean().item(), "psnr": sum(psnr(*images)) / num_images}


def read_id2label(source: str | Path) -> dict[int, str]:
    """Class names from a file, or, for "imagenet", ImageNet's own as timm has them.

    Args:
        source: A file of JSON or of one name a line, in UTF-8 or, with its mark, UTF-16. The JSON is a list of names,
            an object `{id: name}` or `{name: id}`; of a list in a name's place, `["n01440764", "tench"]`, the last
            counts.

    Raises:
        ValueError: if the file is none of these.
    """
    if str(source) == "imagenet":
        with naming_extra("`id2label` imagenet", "eval"):
            from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return {index: info.index_to_description(index, detailed=False) for index in range(info.num_classes())}
    content = Path(source).read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding).strip()
        names = json.loads(text) if text.startswith(("[", "{")) else text.splitlines()
    except ValueError as error:
        raise ValueError(
            f"`id2label` {source} must be JSON or one name a line, in UTF-8 or UTF-16: {error}."
        ) from error
    pairs = list(enumerate(names) if isinstance(names, list) else names.items())
    if pairs and all(isinstance(value, int) for _, value in pairs):
        pairs = [(index, name) for name, index in pairs]
    named = {}
    for key, name in pairs:
        name = name[-1] if isinstance(name, list) and name else name
        index = int(key) if isinstance(key, int) or re.fullmatch("[0-9]{1,9}", key) else None
        if not isinstance(name, str) or not name.strip() or index is None or index in named:
            raise ValueError(
                f"`id2label` {source} must be a list of names, {{id: name}} or {{name: id}}, each id there once: "
                f"got {str(key)[:MAX_TEXT]!r}: {str(name)[:MAX_TEXT]!r}."
            )
        named[index] = name.strip()
    if not named:
        raise ValueError(f"`id2label` {source} must hold class names, got none.")
    return named
