"""PolyINRPipeline: class names in, images of any size out.

This file and the others of `CODE_FILES` import the standard library, torch, diffusers, huggingface_hub, safetensors and
each other only, so that a Hub repository can carry them.
"""

import difflib
import errno
import importlib
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import is_compiled_module, randn_tensor
from huggingface_hub import errors, model_info, snapshot_download
from safetensors import SafetensorError
from torch import Tensor

from .adaptive_rendering import draw  # noqa: F401  diffusers copies what this file itself imports
from .checks import (
    check_count,
    check_extent,
    check_id2label,
    check_index,
    check_is_pipeline,
    check_json_object,
    check_number,
    check_size,
    check_token,
    finite_number,
    whole_number,
)
from .devices import HALVES  # noqa: F401  likewise
from .modeling_poly_inr import PIXEL_GRIDS, PolyINRGenerator

OUTPUT_TYPES = ("pil", "np", "pt")
PACKAGE = "polyinr_hf"
CODE_FILES = ("pipeline_poly_inr.py", "modeling_poly_inr.py", "adaptive_rendering.py", "checks.py", "devices.py")
RELATIVE_IMPORT = re.compile(r"^from \.(\w+) import (?:\([^)]*\)|[^\n(]*)\n", re.MULTILINE)


class PolyINRPipeline(DiffusionPipeline):
    """Generates images with Poly-INR (Singh, Shukla, Turaga, CVPR 2023).

    Args:
        generator ([`PolyINRGenerator`]): The network.
        id2label (`dict[int, str]`, *optional*): Name of each class id; synonyms are separated by commas. Ids may be
            strings, as JSON has them.
        default_truncation_psi (`float`, defaults to 1.0): `truncation_psi` of a call that gives none: what this model
            is at its best with.
        default_size (`int`, *optional*): Height and width in pixels of a call that gives none;
            `generator.config.sample_size` by default.

    Raises:
        ValueError: for an `id2label` that does not map class ids of the network to names, or a default that is no
            finite number, or no positive whole number of pixels.
    """

    model_cpu_offload_seq = "generator"

    generator: PolyINRGenerator
    config: Any  # diffusers' FrozenDict, whose entries are attributes as well
    progress_bar: Any  # a decorator hides what it gives

    def __init__(
        self,
        generator: PolyINRGenerator,
        id2label: dict[int, str] | dict[str, str] | None = None,
        default_truncation_psi: float = 1.0,
        default_size: int | None = None,
    ):
        super().__init__()
        check_id2label(id2label, generator.config.num_classes or 0)
        psi = finite_number(default_truncation_psi)
        if psi is None:
            raise ValueError(f"`default_truncation_psi` must be a finite number, got {default_truncation_psi!r}.")
        size = None if default_size is None else check_count("default_size", default_size)
        self.register_modules(generator=generator)
        # JSON has no integer keys, and the configuration is written as it is registered.
        names = id2label and {str(key): name for key, name in id2label.items()}
        self.register_to_config(id2label=names, default_truncation_psi=psi, default_size=size)
        self.image_processor = VaeImageProcessor(do_resize=False)

    # For diffusers, which compares types: where the class comes with a repository, it executes its file twice.
    __init__.__annotations__["generator"] = ModelMixin

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "PolyINRPipeline":
        """Opens a pipeline folder or Hub repository, with the arguments of [`~diffusers.DiffusionPipeline`]'s.

        Only safetensors are read, unless `use_safetensors=False`: a pickle may run code. The code that a folder or
        repository carries is not run: the classes are this file's and its sibling's.

        Args:
            subfolder: Where in the folder or repository the pipeline is, if not at the top.

        Raises:
            OSError: for a folder without a pipeline, a weight file that is missing or damaged, or a repository,
                revision or Hub that cannot be reached.
            ValueError: for a path that is neither a folder nor a Hub id, a pipeline of another kind, or a `token` that
                can be none.
        """
        check_token(kwargs.get("token"))
        kwargs.setdefault("use_safetensors", True)
        path, revision = os.fspath(pretrained_model_name_or_path), kwargs.get("revision")
        subfolder = kwargs.pop("subfolder", None)
        opened = path
        try:
            if subfolder:
                opened = str(Path(cls._download_subfolder(path, subfolder, kwargs), subfolder))
            check_is_pipeline(opened)
            return super().from_pretrained(opened, **kwargs)
        except KeyError as error:  # diffusers takes the entries of model_index.json for granted
            raise OSError(f"{path} is no pipeline: its model_index.json has no {error}.") from error
        except Exception as error:
            sentence = cls._variant_hint(path, opened, error, kwargs)
            if sentence is None and kwargs["use_safetensors"]:
                sentence = cls._pickle_hint(path, opened, error)
            if sentence is None and not Path(opened).is_dir():
                sentence = describe_hub_error(error, path, revision, opening=True)
            if sentence is None:
                raise
            raise OSError(sentence) from error

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs) -> "PolyINRPipeline":
        """A pipeline with the components and the configuration of another one, and what `kwargs` replaces of them."""
        if hasattr(pipeline, "generator"):  # diffusers takes over a component of the annotated type, but of no subclass
            kwargs.setdefault("generator", pipeline.generator)
            if "torch_dtype" not in kwargs:  # diffusers casts to float32, and the old pipeline shares the network
                kwargs.setdefault("dtype", kwargs["generator"].dtype)
        pipe: Any = super().from_pipe(pipeline, **kwargs)
        return pipe

    @staticmethod
    def _variant_hint(path: str, opened: str, error: Exception, kwargs: dict) -> str | None:
        """What to do about a pipeline that has variants only; None if that is not what `error` is about."""
        if kwargs.get("variant") or not isinstance(error, (OSError, ValueError)):
            return None
        try:
            if Path(opened).is_dir():
                files = [file.name for file in Path(opened, "generator").glob("*.safetensors*")]
            else:
                info = model_info(path, revision=kwargs.get("revision"), token=kwargs.get("token"))
                files = [Path(file.rfilename).name for file in info.siblings or () if ".safetensors" in file.rfilename]
        except Exception:  # then there is no telling
            return None
        stem = "diffusion_pytorch_model."
        endings = [name.removeprefix(stem) for name in files if name.startswith(stem)]
        endings = [ending.removeprefix("safetensors.index.") for ending in endings]
        variants = {re.split(r"[.-]", ending)[0] for ending in endings}
        if not variants or variants & {"safetensors", "json"}:
            return None
        return f"{path} has weights of a variant only: pass `variant={' or '.join(map(repr, sorted(variants)))}`."

    @staticmethod
    def _pickle_hint(path: str, opened: str, error: Exception) -> str | None:
        """What to do about a pipeline without safetensors; None if that is not what `error` is about."""
        weights = Path(opened, "generator")
        is_pickled = any(weights.glob("*.bin")) and not any(weights.glob("*.safetensors*"))
        if not is_pickled and "Could not find the necessary `safetensors` weights" not in str(error):
            return None
        return (
            f"{path} has no safetensors weights. If you trust where its pickle is from, pass `use_safetensors=False`: "
            "a pickle may run code when it is opened."
        )

    @staticmethod
    def _download_subfolder(path: str, subfolder: str, kwargs: dict) -> str:
        """The local folder that has `subfolder`; takes the arguments of a download out of `kwargs`."""
        names = ("revision", "token", "cache_dir", "force_download", "local_files_only")
        arguments = {name: kwargs.pop(name) for name in names if name in kwargs}
        is_local = Path(path).is_dir()
        folder = path if is_local else snapshot_download(path, allow_patterns=f"{subfolder}/*", **arguments)
        if not Path(folder, subfolder).is_dir():
            raise OSError(f"{path} has no `subfolder` {subfolder!r}.")
        return folder

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict:
        """The index of a pipeline as diffusers has it of its own classes, so that it wants no code from elsewhere."""
        try:
            index = check_json_object(super()._dict_from_json_file(json_file), json_file)
        except RecursionError as error:
            raise OSError(f"{json_file} is nested too deep to be read.") from error
        check_index(index, json_file)
        if index.get("_class_name") == [Path(__file__).stem, PolyINRPipeline.__name__]:
            index["_class_name"] = cls.__name__
        if cls._is_our_generator(index):
            index["generator"] = ["diffusers", PolyINRGenerator.__name__]
        return index

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> dict | tuple:
        """The configuration of a pipeline, model_index.json, of a folder or Hub repository."""
        loaded = super().load_config(pretrained_model_name_or_path, **kwargs)
        index = loaded[0] if isinstance(loaded, tuple) else loaded
        if cls._is_our_generator(index):
            index["generator"] = [PolyINRGenerator.__module__, PolyINRGenerator.__name__]
        return loaded

    @staticmethod
    def _is_our_generator(index: dict) -> bool:
        entry = index.get("generator")
        return isinstance(entry, list) and entry[1:] == [PolyINRGenerator.__name__]

    @classmethod
    def portable_index(cls, index: dict) -> dict:
        """The entries of model_index.json, naming the modules in the folder for a diffusers without this package."""
        index = {key: value for key, value in index.items() if key != "_name_or_path"}  # a path of this machine
        if index["_class_name"] == PolyINRPipeline.__name__:
            index["_class_name"] = [Path(__file__).stem, PolyINRPipeline.__name__]
        if cls._is_our_generator(index):
            index["generator"] = ["modeling_poly_inr", PolyINRGenerator.__name__]
        return index

    def to_json_string(self) -> str:
        index = self.portable_index(json.loads(super().to_json_string()))
        return json.dumps(index, indent=2, sort_keys=True) + "\n"

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs) -> None:
        """Writes model_index.json, and the code that opens the folder where this package is not installed.

        diffusers runs it for `DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` and in no other case.
        """
        for name, source in traveling_code().items():
            target = Path(save_directory, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source, encoding="utf-8")
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Uploads the pipeline with its code and a model card; returns `huggingface_hub.CommitInfo`.

        Args:
            repo_id: org/name, created if there is none; a name alone is one of whoever is logged in.
            kwargs: `token`, `private`, `commit_message`, `create_pr`, `variant` and `subfolder` as in diffusers; from
                this package [`~polyinr_hf.hub.push_pipeline`]'s too, such as `revision`, `tag` and `evaluation`.
        """
        if __package__ != PACKAGE:
            return super().push_to_hub(repo_id, **kwargs)
        return importlib.import_module(f"{PACKAGE}.hub").push_pipeline(self, repo_id, **kwargs)

    def _upload_folder(self, working_dir: str | os.PathLike, repo_id: str, **kwargs) -> str:
        """The end of `save_pretrained(push_to_hub=True)`."""
        if __package__ != PACKAGE:
            return super()._upload_folder(working_dir, repo_id, **kwargs)
        kwargs["card"] = {}  # a card of our own, not the form in the folder that diffusers leaves empty
        return importlib.import_module(f"{PACKAGE}.hub").push_folder(working_dir, repo_id, **kwargs)

    @property
    def id2label(self) -> dict[int, str]:
        """Class id -> class name as given, synonyms included, in composed letters (NFC): a Mac gives others."""
        return {int(key): unicodedata.normalize("NFC", name) for key, name in (self.config.id2label or {}).items()}

    @property
    def labels(self) -> dict[str, int]:
        """Class name -> class id, one entry for each synonym, sorted by name."""
        names = {name.strip(): key for key, joined in self.id2label.items() for name in joined.split(",")}
        return dict(sorted(names.items()))

    def get_label_ids(self, label: str | list[str]) -> list[int]:
        """Class ids of one or several class names: a whole name as in `id2label`, or one of its synonyms.

        Case does not matter, nor what parts words (spaces, hyphens, underscores), nor whether letters are composed.
        Digits that are no name are an id.

        Raises:
            ValueError: for an unknown name, with the nearest ones, or one that several classes share, with their ids.
        """
        names = [label] if isinstance(label, str) else label
        if not names:
            return []
        known: dict[str, set[int]] = {}
        whole: dict[str, set[int]] = {}
        for key, joined in self.id2label.items():
            whole.setdefault(_folded(joined), set()).add(key)
            for name in joined.split(","):
                known.setdefault(_folded(name), set()).add(key)
        known |= whole
        alike: dict[str | None, set[int]] = {}
        for name, keys in known.items():
            alike.setdefault(_spaced(name), set()).update(keys)
        return [self._label_id(name, known, alike) for name in names]

    def _label_id(self, name: str, known: dict[str, set[int]], alike: dict[str | None, set[int]]) -> int:
        spelled = _folded(name)
        found = known.get(spelled) or alike.get(_spaced(spelled) or None) or set()
        if len(found) > 1:
            raise ValueError(f"`class_labels` has {name!r}, the name of classes {sorted(found)}: give the id.")
        if found:
            return next(iter(found))
        if re.fullmatch("[0-9]+", spelled) and self.generator.config.num_classes:
            return self._check_id(int(spelled), name)
        nearest = difflib.get_close_matches(spelled, known, n=3)
        hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
        where = "`pipe.labels` lists the names." if known else "This pipeline has no class names: give ids."
        raise ValueError(f"`class_labels` has an unknown class name {name!r}.{hint} {where}")

    def _check_id(self, key: int | None, label: object) -> int:
        """`key`, the class id that `label` is; ValueError unless there is such a class."""
        num_classes = self.generator.config.num_classes
        if key is None or not 0 <= key < num_classes:
            raise ValueError(f"`class_labels` must be names or ids in 0..{num_classes - 1}, got {label!r}.")
        return key

    @overload
    def __call__(
        self,
        class_labels: int | str | list[int | str] | Tensor | None = None,
        num_images_per_label: int = 1,
        truncation_psi: float | None = None,
        truncation_cutoff: int | None = None,
        height: int | None = None,
        width: int | None = None,
        extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        antialias: int = 1,
        tolerance: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        w: Tensor | None = None,
        affine_parameters: Tensor | None = None,
        output_type: str = "pil",
        return_dict: Literal[True] = True,
        pixel_grid: str = "native",
    ) -> ImagePipelineOutput: ...

    @overload
    def __call__(
        self,
        class_labels: int | str | list[int | str] | Tensor | None = None,
        num_images_per_label: int = 1,
        truncation_psi: float | None = None,
        truncation_cutoff: int | None = None,
        height: int | None = None,
        width: int | None = None,
        extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        antialias: int = 1,
        tolerance: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        w: Tensor | None = None,
        affine_parameters: Tensor | None = None,
        output_type: str = "pil",
        *,
        return_dict: Literal[False],
        pixel_grid: str = "native",
    ) -> tuple: ...

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | list[int | str] | Tensor | None = None,
        num_images_per_label: int = 1,
        truncation_psi: float | None = None,
        truncation_cutoff: int | None = None,
        height: int | None = None,
        width: int | None = None,
        extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        antialias: int = 1,
        tolerance: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        w: Tensor | None = None,
        affine_parameters: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        pixel_grid: str = "native",
    ) -> ImagePipelineOutput | tuple:
        r"""Generates images.

        Args:
            class_labels: Class names or ids, one or a list, array or tensor. `None` for an unconditional model.
            num_images_per_label: Images of each label, consecutive in the result; of an unconditional model, images.
            truncation_psi: 1 samples freely; towards 0, images approach their class's mean: typical, less varied.
                `pipe.config.default_truncation_psi` by default.
            truncation_cutoff: Truncate only the levels below this one.
            height, width: Size in pixels, `pipe.config.default_size` by default, and where that is `None`,
                `pipe.generator.config.sample_size`. Any size will do.
            extent: (top, left, bottom, right) of the region drawn. (0, 0, 1, 1) is the image, a smaller one zooms in,
                a larger one shows what lies beyond the border.
            antialias: k averages k x k colors per pixel.
            tolerance: Above 0, the network runs only where the image has detail and the rest is interpolated, several
                times faster: 0.1 is hard to tell from the exact image, of a range of 2. See
                [`~PolyINRGenerator.render`].
            generator: One `torch.Generator`, from which latents are drawn image by image, or a list of one per image.
                The same seed gives the same image, up to rounding, on every device and in any batch.
            latents: z (B, z_dim), instead of drawing them. An unconditional model draws an image of each.
            w: w (B, L, w_dim), such as levels of two images mixed. It is taken as it is: no labels, latents or
                truncation then.
            affine_parameters: A (B, L, n, 3), taken as they are, too.
            output_type: `"pil"` images; `"np"` (B, H, W, 3) or `"pt"` (B, 3, H, W), both in [0, 1].
            return_dict: `False` returns a tuple.
            pixel_grid: What a pixel grid that was trained with the network, as the authors' are, is used for:
                `"native"` at the size that it was trained at, as theirs; `"interpolated"` at any size and extent;
                `"uniform"` never. Of no effect on other models. See [`~PolyINRGenerator.displace`].

        Returns:
            [`~diffusers.ImagePipelineOutput`] with `images`, or a tuple of them.

        Raises:
            ValueError: for any argument of a wrong kind, shape or range, before anything is computed.

        Example:
            >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
            >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
            >>> seed = torch.Generator().manual_seed(0)
            >>> pipe("red apple", height=256, width=256, generator=seed).images[0].save("apple.png")
        """
        device, default_size = self._execution_device, self.config.default_size or self.generator.config.sample_size
        height, width = check_size(*(default_size if side is None else side for side in (height, width)))
        extent = check_extent(extent)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")
        if pixel_grid not in PIXEL_GRIDS:
            raise ValueError(f"`pixel_grid` must be one of {PIXEL_GRIDS}, got {pixel_grid!r}.")
        antialias = check_count("antialias", antialias)
        tolerance = check_number("tolerance", tolerance)
        num_images_per_label = check_count("num_images_per_label", num_images_per_label)
        if affine_parameters is not None:
            if class_labels is not None or latents is not None or w is not None:
                raise ValueError("`affine_parameters` are the whole image: give no `class_labels`, `latents` or `w`.")
            self._check_tensor("affine_parameters", affine_parameters)
            self.generator.check_affine_parameters(affine_parameters)
        truncation = self.truncation_or_default(truncation_psi, truncation_cutoff)
        make_w = None
        if affine_parameters is None:
            make_w = self._w_maker(class_labels, num_images_per_label, *truncation, generator, latents, w)

        with self._loaded_model() as model:
            if make_w is not None:
                affine_parameters = self._affine(make_w(), truncation[0])
            assert affine_parameters is not None
            images_to_draw = affine_parameters.to(device)
            if len(images_to_draw) > 1:
                images_to_draw = self.progress_bar(images_to_draw)
            drawn = [
                model.render(A[None], height, width, extent, antialias, tolerance=tolerance, pixel_grid=pixel_grid)
                for A in images_to_draw
            ]

        images: Any = self.image_processor.postprocess(torch.cat(drawn), output_type)  # from [-1, 1] to [0, 1]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @torch.no_grad()
    def encode(
        self,
        class_labels: int | str | list[int | str] | Tensor | None = None,
        num_images_per_label: int = 1,
        truncation_psi: float | None = None,
        truncation_cutoff: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        w: Tensor | None = None,
        space: str = "affine",
    ) -> Tensor:
        """Affine parameters A (B, L, n, 3), float32, of the images that a call with these arguments draws.

        Arguments and errors as in [`~PolyINRPipeline.__call__`].

        Args:
            space: `"affine"` for A, `"w"` for w (B, L, w_dim), in which the release mixes styles.

        Example:
            >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
            >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
            >>> A = pipe.encode("red apple", generator=torch.Generator().manual_seed(0))
            >>> pipe(affine_parameters=A, height=256, width=256).images[0].save("apple.png")
        """
        num_images_per_label = check_count("num_images_per_label", num_images_per_label)
        truncation_psi, truncation_cutoff = self.truncation_or_default(truncation_psi, truncation_cutoff)
        if space not in ("w", "affine"):
            raise ValueError(f"`space` must be 'w' or 'affine', got {space!r}.")
        make_w = self._w_maker(
            class_labels, num_images_per_label, truncation_psi, truncation_cutoff, generator, latents, w
        )
        with self._loaded_model():
            return make_w() if space == "w" else self._affine(make_w(), truncation_psi)

    def prepare_latents(
        self,
        num_images: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Latents z (B, z_dim), float32, checked if given; otherwise the i-th image's are drawn i-th, on their own.

        Raises:
            ValueError: for latents that are no tensor, of a wrong shape or not finite, or a `generator` that is
                neither a `torch.Generator` nor a list of one per image.
        """
        z_dim = self.generator.config.z_dim
        if latents is not None:
            self._check_tensor("latents", latents)
            if tuple(latents.shape) != (num_images, z_dim):
                raise ValueError(f"`latents` must have shape ({num_images}, {z_dim}), got {tuple(latents.shape)}.")
            return latents
        generators = generator if isinstance(generator, list) else [generator] * num_images
        if not all(g is None or isinstance(g, torch.Generator) for g in generators):
            raise ValueError(f"`generator` must be a torch.Generator or a list of one per image, got {generator!r}.")
        if len(generators) != num_images:
            raise ValueError(f"`generator` must be a list of one per image, {num_images}, got {len(generators)}.")
        return torch.cat(
            [
                randn_tensor((1, z_dim), g, device=torch.device("cpu" if g is None else g.device), dtype=torch.float32)
                for g in generators
            ]
        )  # (B, z_dim)

    @contextmanager
    def _loaded_model(self) -> Iterator[PolyINRGenerator]:
        """CPU offload moves the model to its device for `forward`, which is not what is used here."""
        if is_compiled_module(self.generator):
            warnings.warn(
                "torch.compile(pipe.generator) compiles its `forward`, which a pipeline does not call: "
                "`pipe.generator.compile()` compiles what it does call.",
                stacklevel=3,
            )
        if hasattr(self.generator, "_hf_hook"):
            self.generator._hf_hook.pre_forward(self.generator)
        yield self.generator
        self.maybe_free_model_hooks()

    def _w_maker(self, class_labels, num_images_per_label, psi, cutoff, generator, latents, w) -> Callable[[], Tensor]:
        """What computes w (B, L, w_dim) once the model is loaded, of arguments that are checked here."""
        device = self._execution_device
        if w is not None:
            if class_labels is not None or latents is not None:
                raise ValueError("`w` is the whole image: give no `class_labels` or `latents`.")
            self._check_tensor("w", w)
            self.generator.check_w(w)
            return lambda: w.to(device)
        ids = self.class_ids(class_labels, num_images_per_label)
        num_images = num_images_per_label if ids is None else len(ids)
        if ids is None and num_images == 1 and isinstance(latents, Tensor) and latents.ndim == 2:
            num_images = max(1, len(latents))
        latents = self.prepare_latents(num_images, generator, latents)
        labels = None if ids is None else torch.tensor(ids, device=device)  # (B,)
        return lambda: self.generator.map(latents.to(device), labels, psi, cutoff)

    def _affine(self, w: Tensor, truncation_psi: float) -> Tensor:
        """`affine` of w (B, L, w_dim), with an error that names what was given."""
        A = self.generator.affine(w)  # (B, L, n, 3)
        if truncation_psi != 1 and not (A.is_meta or A.isfinite().all()):
            raise ValueError(f"`truncation_psi` must leave the image finite, got {truncation_psi!r}.")
        return A

    def class_ids(
        self, class_labels: int | str | list[int | str] | Tensor | None, num_images_per_label: int = 1
    ) -> list[int] | None:
        """Class id of every image, or None for an unconditional model.

        Raises:
            ValueError: for an unknown name or id, or labels that are missing, or given to an unconditional model.
        """
        num_classes = self.generator.config.num_classes
        if num_classes is None:
            if class_labels is not None:
                raise ValueError(f"`class_labels` must be None, this model is unconditional; got {class_labels!r}.")
            return None
        if class_labels is None:
            raise ValueError(f"`class_labels` is required: names or ids in 0..{num_classes - 1}.")
        labels: Any = class_labels
        if hasattr(labels, "tolist"):  # arrays and tensors
            labels = labels.tolist()
        if isinstance(labels, str) or not isinstance(labels, Sequence):
            labels = [labels]
        if len(labels) == 0:
            raise ValueError("`class_labels` is empty: give at least one name or id.")
        named = iter(self.get_label_ids([label for label in labels if isinstance(label, str)]))
        ids = [
            next(named) if isinstance(label, str) else self._check_id(whole_number(label), label) for label in labels
        ]
        return [key for key in ids for _ in range(num_images_per_label)]

    def truncation_or_default(
        self, truncation_psi: float | None, truncation_cutoff: int | None
    ) -> tuple[float, int | None]:
        """Both as Python's numbers, `config.default_truncation_psi` for a psi that is None.

        Raises:
            ValueError: for a psi that is no finite number, or a cutoff outside 0..L.
        """
        psi = self.config.default_truncation_psi if truncation_psi is None else truncation_psi
        return self.generator.check_truncation(psi, truncation_cutoff)

    @staticmethod
    def _check_tensor(name: str, tensor: Tensor) -> None:
        if not isinstance(tensor, Tensor):
            raise ValueError(f"`{name}` must be a tensor, got {type(tensor).__name__}.")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"`{name}` must be finite, got NaN or infinity.")


def _folded(name: str) -> str:
    """A class name for comparing: without case, and composed, as file names of a Mac are not."""
    return unicodedata.normalize("NFC", name.casefold()).strip()


def _spaced(name: str) -> str:
    """A class name with one space for whatever parts its words: "Red_Apple" -> "red apple"."""
    return re.sub(r"[\W_]+", " ", _folded(name)).strip()


# --- what travels with a pipeline, and what goes wrong on the way -----------------------------------------------------


def traveling_code() -> dict[str, str]:
    """The code that a pipeline folder or repository carries, by its path there.

    Of a component's folder diffusers downloads the one module that model_index.json names and none beside it: the
    generator's is the model's file with those that it imports written into it.
    """

    def inlined(name: str) -> str:
        source = Path(__file__).with_name(name).read_text(encoding="utf-8")
        return RELATIVE_IMPORT.sub(lambda found: f"\n{inlined(found[1] + '.py')}\n", source)

    code = {name: Path(__file__).with_name(name).read_text(encoding="utf-8") for name in CODE_FILES}
    return code | {"generator/modeling_poly_inr.py": inlined("modeling_poly_inr.py")}


def describe_hub_error(
    error: BaseException, repo_id: str, revision: str | None = None, opening: bool = False
) -> str | None:
    """What went wrong between here and the Hub, in one sentence; None if it was something else.

    `opening` a pipeline, `repo_id` may have been meant for a folder, which there is none of.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    found: dict[type, Any] = {kind: e for e in reversed(chain) for kind in type(e).__mro__}  # the first of a kind
    if errors.GatedRepoError in found:
        return f"{repo_id} is gated: accept its terms on its page, then `hf auth login` or pass `token`."
    if errors.RevisionNotFoundError in found:
        return f"{repo_id} has no revision {revision or 'main'!r}."
    if errors.RepositoryNotFoundError in found:
        kinds = "folder or repository" if opening else "repository"
        return f"There is no {kinds} {repo_id}, or it is private: then `hf auth login` or pass `token`."
    if errors.EntryNotFoundError in found and errors.LocalEntryNotFoundError not in found:
        missing = Path(found[errors.EntryNotFoundError].response.url.path).name
        return f"{repo_id} is not a complete pipeline: {missing} is missing."
    if errors.HfHubHTTPError in found:
        status = found[errors.HfHubHTTPError].response.status_code
        hints = {401: "`hf auth login` or pass a valid `token`", 403: "the token does not allow this"}
        return f"The Hub answered {status} for {repo_id}: {hints.get(status, 'try again later')}."
    if SafetensorError in found or json.JSONDecodeError in found:
        folder = f"models--{repo_id.replace('/', '--')}"  # `force_download` does not reach the weights in diffusers
        return f"A file of {repo_id} is damaged: delete the folder {folder} in the cache and call again."
    full = [e for e in chain if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)]
    if full:
        return f"The disk is full, {repo_id} did not fit: free some space, or set HF_HOME to a larger disk."
    if errors.OfflineModeIsEnabled in found or errors.LocalEntryNotFoundError in found:
        where = f"{repo_id} is no folder here and not in the cache at {revision or 'main'!r}"
        return f"{where}; the Hub was out of reach or not asked."
    if any(type(e).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2") for e in chain):
        failed = f"connection to the Hub failed for {repo_id} ({type(chain[0]).__name__})"
        if opening:
            return f"There is no folder {repo_id} here, and the {failed}: check the path, or try again."
        return f"The {failed}: try again."
    return None
