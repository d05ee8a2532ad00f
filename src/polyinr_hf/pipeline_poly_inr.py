"""PolyINRPipeline: class names in, images of any size out."""

import difflib
import math
import os
from collections.abc import Sequence
from numbers import Real

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from polyinr_hf.modeling_poly_inr import PolyINRGenerator, check_extent, check_size

OUTPUT_TYPES = ("pil", "np", "pt")


class PolyINRPipeline(DiffusionPipeline):
    """Generates images with Poly-INR (Singh, Shukla, Turaga, CVPR 2023).

    Args:
        generator ([`PolyINRGenerator`]): The network.
        id2label (`dict[int, str]`, *optional*): Name of each class id; synonyms are separated by commas. Ids may be
            strings, as JSON has them.
    """

    model_cpu_offload_seq = "generator"

    def __init__(self, generator: PolyINRGenerator, id2label: dict[int, str] | dict[str, str] | None = None):
        super().__init__()
        self.register_modules(generator=generator)
        # JSON has no integer keys, and the configuration is written as it is registered.
        self.register_to_config(id2label=id2label and {str(key): name for key, name in id2label.items()})
        self.image_processor = VaeImageProcessor(do_resize=False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> "PolyINRPipeline":
        """Opens a pipeline folder or Hub repository, with the arguments of [`~diffusers.DiffusionPipeline`]'s.

        Only safetensors are read, unless `use_safetensors=False`: a pickle may run code.

        Raises:
            OSError: for a folder without a pipeline, or a weight file that is missing or damaged.
            ValueError: for a path that is neither a folder nor a Hub id, or a pipeline of another kind.
        """
        kwargs.setdefault("use_safetensors", True)
        path = os.fspath(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(path, **kwargs)
        except KeyError as error:  # diffusers takes the entries of model_index.json for granted
            raise OSError(f"{path} is no pipeline: its model_index.json has no {error}.") from error

    @property
    def id2label(self) -> dict[int, str]:
        """Class id -> class name as given, synonyms included."""
        return {int(key): name for key, name in (self.config.id2label or {}).items()}

    @property
    def labels(self) -> dict[str, int]:
        """Class name -> class id, one entry for each synonym, sorted by name."""
        names = {name.strip(): key for key, joined in self.id2label.items() for name in joined.split(",")}
        return dict(sorted(names.items()))

    def get_label_ids(self, label: str | list[str]) -> list[int]:
        """Class ids of one or several class names: a whole name as in `id2label`, or one of its synonyms, in any case.

        Raises:
            ValueError: for an unknown name, with the nearest ones, or one that several classes share, with their ids.
        """
        known: dict[str, set[int]] = {}
        for key, joined in self.id2label.items():
            for name in joined.split(","):
                known.setdefault(name.strip().casefold(), set()).add(key)
        whole: dict[str, set[int]] = {}
        for key, joined in self.id2label.items():
            whole.setdefault(joined.casefold(), set()).add(key)
        known |= whole
        ids = []
        for name in [label] if isinstance(label, str) else label:
            found = known.get(name.strip().casefold(), set())
            if len(found) > 1:
                raise ValueError(f"`class_labels` has {name!r}, the name of classes {sorted(found)}: give the id.")
            if not found:
                nearest = difflib.get_close_matches(name.casefold(), known, n=3)
                hint = f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
                where = "`pipe.labels` lists the names." if known else "This pipeline has no class names: give ids."
                raise ValueError(f"`class_labels` has an unknown class name {name!r}.{hint} {where}")
            ids += found
        return ids

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | list[int | str] | Tensor | None = None,
        num_images_per_label: int = 1,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        height: int | None = None,
        width: int | None = None,
        extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        antialias: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        affine_parameters: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        r"""Generates images.

        Args:
            class_labels: Class names or ids, one or a list. `None` for an unconditional model.
            num_images_per_label: Images of each label, consecutive in the result; of an unconditional model, images.
            truncation_psi: 1 samples freely; towards 0, images approach their class's mean: typical, less varied.
            truncation_cutoff: Truncate only the levels below this one.
            height, width: Size in pixels, `pipe.generator.config.sample_size` by default. Any size will do.
            extent: (top, left, bottom, right) of the region drawn. (0, 0, 1, 1) is the image, a smaller one zooms in,
                a larger one shows what lies beyond the border.
            antialias: k averages k x k colours per pixel.
            generator: One `torch.Generator`, from which latents are drawn image by image, or a list of one per image.
                The same seed gives the same image on every device and in any batch.
            latents: z (B, z_dim), instead of drawing them.
            affine_parameters: A (B, L, n, 3), drawn as it is; no labels, latents or truncation then.
            output_type: `"pil"` images; `"np"` (B, H, W, 3) or `"pt"` (B, 3, H, W), both in [0, 1].
            return_dict: `False` returns a tuple.

        Returns:
            [`~diffusers.ImagePipelineOutput`] with `images`, or a tuple of them.

        Raises:
            ValueError: for any argument of a wrong kind, shape or range, before anything is computed.

        Example:
            >>> pipe = PolyINRPipeline.from_pretrained("pretrained/poly-inr-emoji")
            >>> pipe(class_labels=0, height=512, width=512, generator=torch.Generator().manual_seed(0)).images[0]
        """
        config, device = self.generator.config, self._execution_device
        height = config.sample_size if height is None else height
        width = config.sample_size if width is None else width
        check_size(height, width)
        check_extent(extent)
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"`output_type` must be one of {OUTPUT_TYPES}, got {output_type!r}.")
        for name, value in (("num_images_per_label", num_images_per_label), ("antialias", antialias)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive whole number, got {value!r}.")
        if not isinstance(truncation_psi, Real) or not math.isfinite(truncation_psi):
            raise ValueError(f"`truncation_psi` must be a finite number, got {truncation_psi!r}.")

        if affine_parameters is not None:
            if class_labels is not None or latents is not None:
                raise ValueError("`affine_parameters` are the whole image: give no `class_labels` or `latents`.")
            self.generator._check_affine_parameters(affine_parameters)
            self._check_finite("affine_parameters", affine_parameters)
        else:
            ids = self._class_ids(class_labels, num_images_per_label)
            num_images = num_images_per_label if ids is None else len(ids)
            latents = self.prepare_latents(num_images, generator, latents)
            if truncation_cutoff is not None and truncation_cutoff not in range(config.num_levels + 1):
                raise ValueError(f"`truncation_cutoff` must be in 0..{config.num_levels}, got {truncation_cutoff!r}.")

        if hasattr(self.generator, "_hf_hook"):  # CPU offload moves the model when it is used; `forward` is not
            self.generator._hf_hook.pre_forward(self.generator)
        if affine_parameters is None:
            class_ids = None if ids is None else torch.tensor(ids, device=device)  # (B,)
            w = self.generator.map(latents.to(device), class_ids, truncation_psi, truncation_cutoff)  # (B, L, w_dim)
            affine_parameters = self.generator.affine(w)  # (B, L, n, 3)
        images = [
            self.generator.render(A.unsqueeze(0), height, width, extent, antialias)
            for A in self.progress_bar(affine_parameters.to(device))
        ]
        self.maybe_free_model_hooks()

        images = self.image_processor.postprocess(torch.cat(images), output_type)  # from [-1, 1] to [0, 1]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def prepare_latents(
        self,
        num_images: int,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Latents z (B, z_dim), float32, checked if given; otherwise the i-th image's are drawn i-th, on their own.

        Raises:
            ValueError: for a wrong shape, a NaN or infinity, or a list of generators that is not one per image.
        """
        z_dim = self.generator.config.z_dim
        if latents is not None:
            if tuple(latents.shape) != (num_images, z_dim):
                raise ValueError(f"`latents` must have shape ({num_images}, {z_dim}), got {tuple(latents.shape)}.")
            self._check_finite("latents", latents)
            return latents
        generators = generator if isinstance(generator, list) else [generator] * num_images
        if len(generators) != num_images:
            raise ValueError(f"`generator` must be a list of one per image, {num_images}, got {len(generators)}.")
        return torch.cat(
            [
                randn_tensor((1, z_dim), g, device=torch.device("cpu" if g is None else g.device), dtype=torch.float32)
                for g in generators
            ]
        )  # (B, z_dim)

    def _class_ids(self, class_labels, num_images_per_label: int) -> list[int] | None:
        """Class id of every image, or None for an unconditional model."""
        num_classes = self.generator.config.num_classes
        if num_classes is None:
            if class_labels is not None:
                raise ValueError(f"`class_labels` must be None, this model is unconditional; got {class_labels!r}.")
            return None
        if class_labels is None:
            raise ValueError(f"`class_labels` is required: names or ids in 0..{num_classes - 1}.")
        if isinstance(class_labels, Tensor):
            class_labels = class_labels.tolist()
        if isinstance(class_labels, str) or not isinstance(class_labels, Sequence):
            class_labels = [class_labels]
        if len(class_labels) == 0:
            raise ValueError("`class_labels` is empty: give at least one name or id.")
        ids = []
        for label in class_labels:
            if isinstance(label, str):
                ids += self.get_label_ids(label)
            elif isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < num_classes:
                raise ValueError(f"`class_labels` must be names or ids in 0..{num_classes - 1}, got {label!r}.")
            else:
                ids.append(label)
        return [key for key in ids for _ in range(num_images_per_label)]

    @staticmethod
    def _check_finite(name: str, tensor: Tensor) -> None:
        if not torch.isfinite(tensor).all():
            raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
