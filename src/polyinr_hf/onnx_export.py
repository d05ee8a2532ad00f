"""A pipeline as two ONNX graphs, which onnxruntime and, in a browser, onnxruntime-web run.

    mapping.onnx    z (batch, z_dim), class_labels (batch,), truncation_psi () -> affine_parameters (batch, L, n, 3)
    synthesis.onnx  affine_parameters (L, n, 3), coordinates (num_points, 2) -> rgb (num_points, 3)
    model.json      the metadata of both graphs, for programs that cannot read it from them

An unconditional model has no `class_labels`. Everything is float32, but for `class_labels`, which is int64.
"""

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn

from ._lazy import naming_extra
from .files import replace_folder
from .images import psnr
from .modeling_poly_inr import PolyINRGenerator
from .pipeline_poly_inr import PolyINRPipeline

OPSET = 20
ONNXRUNTIME = ">=1.18"  # the first to read opset 20 and this file format
DTYPES = ("float32", "float16")  # of the stored weights
MAPPING, SYNTHESIS, METADATA = "mapping.onnx", "synthesis.onnx", "model.json"
SIZES = ("z_dim", "w_dim", "channels", "num_levels", "num_classes", "sample_size")
LICENSE_KEYS = ("license", "license_name", "license_link")  # of a model card


class Mapping(nn.Module):
    """z (B, z_dim), class labels (B,) and psi () -> A (B, L, n, 3): `map` and `affine`, with psi as an input."""

    def __init__(self, generator: PolyINRGenerator):
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, class_labels: Tensor | None, truncation_psi: Tensor) -> Tensor:
        if class_labels is not None:  # ONNX counts a negative index from the end; one past the end is an error
            class_labels = torch.where(class_labels < 0, self.generator.config.num_classes, class_labels)
        w = self.generator.mapping(z, class_labels)  # (B, w_dim)
        w_mean = self.generator.w_mean if class_labels is None else self.generator.w_mean[class_labels]
        w = w - (1 - truncation_psi) * (w - w_mean)  # lerp(w_mean, w, psi), exactly w at psi = 1
        return self.generator.affine(w.unsqueeze(1).expand(-1, self.generator.config.num_levels, -1))


class UnconditionalMapping(Mapping):
    """`Mapping` without class labels."""

    def forward(self, z: Tensor, truncation_psi: Tensor) -> Tensor:
        return super().forward(z, None, truncation_psi)


class Synthesis(nn.Module):
    """A (L, n, 3) and coordinates (N, 2) -> RGB (N, 3). Level 0 is folded once per call, as in `render`."""

    def __init__(self, generator: PolyINRGenerator):
        super().__init__()
        self.generator = generator

    def forward(self, affine_parameters: Tensor, coordinates: Tensor) -> Tensor:
        return self.generator.synthesize(affine_parameters.unsqueeze(0), coordinates).squeeze(0)


def export_onnx(
    pipeline: PolyINRPipeline,
    output: str | Path,
    dtype: str = "float32",
    license: dict[str, str] | None = None,
    callback: Callable[[str], None] | None = None,
) -> None:
    """Writes mapping.onnx, synthesis.onnx and model.json into the folder `output`, in place of what it held.

    Both graphs have opset 20 and carry, as metadata, `config` (the generator's sizes, JSON), `class_names` (the
    pipeline's `id2label`, JSON) and what is known of the license.

    Args:
        pipeline: Of any configuration and dtype. A trained pixel grid is left out: the graphs take coordinates.
        dtype: `"float16"` halves the files: weights are stored in half precision and widened when a session is
            created. The arithmetic is float32 in either case, so that both run at the same speed wherever ONNX does.
        license: The model card's `license`, `license_name` and `license_link`, see `read_license`.
        callback: Called with the name of each file before it is made.

    Raises:
        ImportError: without the extra `onnx`.
        ValueError: for another `dtype`, weights beyond it, a strange key in `license`, or an `output` that is a file.
    """
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {DTYPES}, got {dtype!r}.")
    if strangers := set(license or {}) - set(LICENSE_KEYS):
        raise ValueError(f"`license` must have no keys but {LICENSE_KEYS}, got the unknown keys {sorted(strangers)}.")
    import_onnx()
    generator = _float32_copy(pipeline)
    config = generator.config
    if dtype == "float16":
        limit = torch.finfo(torch.float16).max
        if large := [name for name, tensor in generator.state_dict().items() if tensor.abs().max() > limit]:
            names = ", ".join(large[:5])
            raise ValueError(f"`dtype` must be 'float32', got 'float16', which {names} exceed: {limit:,.0f}.")
    metadata = {
        "config": {name: config[name] for name in SIZES},
        "class_names": pipeline.id2label,
        "dtype": dtype,
        "onnxruntime": ONNXRUNTIME,
        **(license or {}),
    }
    batch, points = {0: torch.export.Dim("batch")}, {0: torch.export.Dim("num_points")}
    z, psi, labels = torch.zeros(2, config.z_dim), torch.ones(()), torch.zeros(2, dtype=torch.int64)
    inputs, mapping = {"z": (z, batch)}, UnconditionalMapping(generator)
    if config.num_classes:
        inputs, mapping = inputs | {"class_labels": (labels, batch)}, Mapping(generator)
    inputs["truncation_psi"] = (psi, {})
    A = torch.zeros(config.num_levels, config.channels, 3)
    graphs = {
        MAPPING: (mapping, inputs, "affine_parameters"),
        SYNTHESIS: (
            Synthesis(generator),
            {"affine_parameters": (A, {}), "coordinates": (torch.zeros(5, 2), points)},
            "rgb",
        ),
    }
    with replace_folder(output) as folder:
        for name, (module, inputs, result) in graphs.items():
            if callback is not None:
                callback(name)
            _export_graph(module, inputs, result, metadata, folder / name)
        (folder / METADATA).write_text(json.dumps(metadata, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def import_onnx():
    """The module `onnx`.

    Raises:
        ImportError: that names the extra, where it or onnxscript, which torch exports with, is missing.
    """
    with naming_extra("export_onnx", "onnx"):
        import onnx
        import onnxscript  # noqa: F401
    return onnx


def read_license(path_or_repo: str | Path) -> dict[str, str]:
    """What the model card of a pipeline folder or Hub repository says of the license, {} if there is no card.

    Raises:
        OSError: for a Hub that cannot be reached.
    """
    path = Path(path_or_repo)
    if path.is_dir() and not (path / "README.md").is_file():
        return {}
    try:
        card = ModelCard.load(path / "README.md" if path.is_dir() else str(path_or_repo))
    except EntryNotFoundError:
        return {}
    return {key: card.data[key] for key in LICENSE_KEYS if card.data.get(key)}


def measure_onnx(pipeline: PolyINRPipeline, folder: str | Path, num_points: int = 4096) -> dict[str, float]:
    """How far the graphs in `folder`, run by onnxruntime, are from `pipeline` in float32.

    One image of random z and class, at random points of (-0.5, 1.5)^2.

    Returns:
        `relative_error`, the largest difference over the largest value, and `psnr` in dB of colors clipped to [-1, 1].

    Raises:
        ImportError: without onnxruntime.
    """
    with naming_extra("measure_onnx", "onnx"):
        import onnxruntime
    generator = _float32_copy(pipeline)
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(1, generator.config.z_dim, generator=rng)
    coordinates = torch.rand(num_points, 2, generator=rng) * 2 - 0.5
    num_classes = generator.config.num_classes
    labels = torch.randint(num_classes, (1,), generator=rng) if num_classes else None
    with torch.no_grad():
        expected = generator.synthesize(generator.affine(generator.map(z, labels, 0.7)), coordinates)[0]  # (N, 3)

    mapping, synthesis = (
        onnxruntime.InferenceSession(Path(folder, name), providers=["CPUExecutionProvider"])
        for name in (MAPPING, SYNTHESIS)
    )
    inputs = {"z": z.numpy(), "truncation_psi": torch.tensor(0.7).numpy()}
    inputs |= {} if labels is None else {"class_labels": labels.numpy()}
    outputs: Any = mapping.run(None, inputs)  # of all kinds that ONNX has
    A = outputs[0][0]
    rgb: Any = synthesis.run(None, {"affine_parameters": A, "coordinates": coordinates.numpy()})[0]
    found = torch.from_numpy(rgb)  # (N, 3)
    images = [colors.T[None, :, None] for colors in (found, expected.clamp(-1, 1))]  # (1, 3, 1, N) each
    return {
        "relative_error": ((found - expected).abs().max() / expected.abs().max()).item(),
        "psnr": psnr(*images)[0],
    }


def _float32_copy(pipeline: PolyINRPipeline) -> PolyINRGenerator:
    """The generator on the CPU, in float32; the pipeline's own stays as it is."""
    generator = copy.deepcopy(pipeline.generator)
    nn.Module.to(generator, "cpu", torch.float32)  # ModelMixin's own warns of modules to keep in float32
    return generator.eval().requires_grad_(False)


def _export_graph(
    module: nn.Module, inputs: dict[str, tuple[Tensor, dict]], output: str, metadata: dict, path: Path
) -> None:
    """Writes one graph. `inputs` are an example of each input, and the names of its dynamic axes."""
    onnx = import_onnx()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of its own workings
        program = torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple(axes for _, axes in inputs.values()),
            verbose=False,
        )
    assert program is not None  # `dynamo` gives one
    model = program.model_proto
    if metadata["dtype"] == "float16":
        _store_in_half_precision(model)
    onnx.helper.set_model_props(
        model, {key: text if isinstance(text, str) else json.dumps(text) for key, text in metadata.items()}
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _store_in_half_precision(model) -> None:
    """Replaces each float32 weight of an ONNX model by a float16 one and the cast that widens it, in place."""
    onnx = import_onnx()
    graph, casts = model.graph, []
    for weight in graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != "float32" or values.ndim == 0:
            continue
        name, stored = weight.name, f"{weight.name}.float16"
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]  # inputs come before their uses
    del graph.node[:]
    graph.node.extend(nodes)
    # What is known of the intermediate results' shapes names the weights too, as float32.
    del graph.value_info[:]
