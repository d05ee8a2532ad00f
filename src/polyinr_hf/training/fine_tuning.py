"""Starting from trained weights: of any resolution, of another class list, of fewer latent numbers."""

import math
import unicodedata
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from ..modeling_poly_inr import PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline


def load_source(
    generator: PolyINRGenerator,
    source: str,
    id2label: dict[int, str] | None,
    new_classes: bool,
    revision: str | None = None,
) -> PolyINRPipeline:
    """Opens the pipeline that `generator` is to start from: a folder, or a Hub id and revision, of any resolution.

    With `new_classes` the class lists may differ. `z_dim` may be smaller than `generator`'s.

    Raises:
        ValueError: if the networks have other sizes, or other classes and `new_classes` is off.
        OSError: if there is no such pipeline.
    """
    pipeline = PolyINRPipeline.from_pretrained(source, revision=revision)
    if pipeline.generator.drop_trained_grid():  # training draws at any size, and in windows
        warnings.warn(
            f"`run.init_from` {source} has a pixel grid that was trained with it; training goes on from a uniform one.",
            stacklevel=2,
        )
    theirs, ours = pipeline.generator.config, generator.config
    for key in ours:
        if key in ("num_classes", "sample_size", "initialization") or key.startswith("_"):
            continue
        if theirs[key] != ours[key] and not (key == "z_dim" and theirs.z_dim < ours.z_dim):
            raise ValueError(
                f"`model.{key}` must be {theirs[key]!r}, as in `run.init_from` {source}, got {ours[key]!r}."
            )
    if (theirs.num_classes is None) != (ours.num_classes is None):
        raise ValueError(
            f"`data.class_conditional` must be as in `run.init_from`: {source} has {theirs.num_classes or 'no'} "
            f"classes, the dataset {ours.num_classes or 'none in use'}."
        )
    if not new_classes and not _has_same_classes(generator, pipeline, id2label):
        raise ValueError(
            f"`run.init_from` {source} has {theirs.num_classes} classes, the dataset {ours.num_classes}, or their "
            "names differ: set run.new_classes=true to fine-tune on another class list."
        )
    return pipeline


def copy_weights(generator: PolyINRGenerator, pipeline: PolyINRPipeline, id2label: dict[int, str] | None) -> None:
    """Copies the weights of a pipeline from `load_source` into `generator`.

    If the class lists differ, a class takes the embedding and mean w of the class of that name (see [`match_classes`]),
    and keeps its own if there is none.
    """
    state = pipeline.generator.state_dict()
    if not _has_same_classes(generator, pipeline, id2label):
        mine = generator.state_dict()
        for row, match in match_classes(id2label or {}, pipeline.id2label).items():
            for key in ("mapping.embedding.weight", "w_mean"):
                mine[key][row] = state[key][match]
        for key in ("mapping.embedding.weight", "w_mean"):
            state[key] = mine[key]
    if pipeline.generator.config.z_dim < generator.config.z_dim:
        _widen_latents(state, generator)
    generator.load_state_dict(state)


def match_classes(ours: dict[int, str], theirs: dict[int, str]) -> dict[int, int]:
    """Classes of `ours` that are in `theirs`, by id: those of the same whole name, then those that share a synonym.

    A name that either list gives to several classes says nothing: ImageNet's "crane" is a bird and a machine. Case and
    the way in which accents are written do not matter.
    """
    found = {}
    for split in (lambda names: [names], lambda names: names.split(",")):
        rows_of_ours, rows_of_theirs = _rows_by_name(ours, split), _rows_by_name(theirs, split)
        for name, rows in rows_of_ours.items():
            others = rows_of_theirs.get(name, set())
            if len(rows) == len(others) == 1:
                found.setdefault(*rows, *others)
    return found


def _rows_by_name(id2label: dict[int, str], split: Callable[[str], list[str]]) -> dict[str, set[int]]:
    rows: dict[str, set[int]] = {}
    for row, names in id2label.items():
        for name in split(names):
            rows.setdefault(unicodedata.normalize("NFC", name).strip().casefold(), set()).add(row)
    return rows


def _widen_latents(state: dict[str, Tensor], generator: PolyINRGenerator) -> None:
    """Gives a state dict of few latent numbers, and as many of a class, `generator`'s: the new ones count for nothing.

    Only what they do to the root mean squares of both changes w.
    """
    mine = generator.state_dict()
    layer = "mapping.layers.0.weight"
    z_dim = state[layer].shape[1]
    blocks = [state[layer]]
    if "mapping.class_projection.weight" in state:
        z_dim //= 2
        blocks = state[layer].chunk(2, dim=1)  # of z, of the class
        for name in ("mapping.class_projection.weight", "mapping.class_projection.bias"):
            mine[name][:z_dim] = state[name]
            state[name] = mine[name]
    widened = torch.zeros_like(mine[layer])
    # An equalized layer divides by the root of its inputs' number.
    gain = math.sqrt(generator.config.z_dim / z_dim)
    for block, target in zip(blocks, widened.chunk(len(blocks), dim=1), strict=True):
        target[:, :z_dim] = block * gain
    state[layer] = widened


def _has_same_classes(generator: PolyINRGenerator, pipeline: PolyINRPipeline, id2label: dict[int, str] | None) -> bool:
    same_number = pipeline.generator.config.num_classes == generator.config.num_classes
    return same_number and pipeline.id2label in ({}, id2label)
