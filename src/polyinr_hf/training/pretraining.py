"""Pretraining without a discriminator: a w for each real image, then a mapping network that leads to them.

Generative latent optimisation (Bojanowski et al., Optimizing the Latent Space of Generative Networks, 2018). First,
each real image has a w of its own, a code, learned together with affine and synthesis levels such that the image comes
out, by the distance of [`FeatureMatching`]. Then the mapping network and the class embeddings learn to give the code of
an image for its class and the latents that stand for it. Adversarial training goes on from there. For small datasets:
each code learns from one image alone.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from ..data.dataset import DecodedRows, image_batches
from ..data.loader import TrainingOrder
from ..images import to_float
from ..modeling_poly_inr import MappingNetwork, PolyINRGenerator
from ..pipeline_poly_inr import PolyINRPipeline
from ..schedules import half_cosine
from .image_generator import ImageGenerator, Windows
from .loop import TrainingLoop
from .matching import selector
from .models import (
    adam_options,
    build_feature_network,
    build_generator,
    build_matching,
    initial_class_embeddings,
    open_source,
    start_weights,
)
from .recipe import Recipe, StageConfig
from .reporting import grid_columns
from .step import apply_gradients, rows_of_process, sample_windows

LR_CODES = 0.03  # w is about 0.5 in size; a code is updated once per epoch
BETAS_CODES = (0.5, 0.9)  # short memory: each code is updated once per epoch
MAX_GRADIENT_NORM = 1.0  # a lower one slows learning down, a higher one lets a bad batch undo more
SELECTOR_GAIN = 8  # norm of the selector's weights, relative to the largest of a class dimension
MAPPING_BATCH, MAPPING_LR = 256, 0.03  # latents a step; rate relative to the standard deviation of a weight tensor


class Pretrainer(TrainingLoop):
    """Learns a code for each real image, and for each export the mapping network; see `scripts/pretrain.py`.

    Stages, exports, checkpoints and `resume` are those of [`TrainingLoop`], but `run.init_from` may have another number
    of mapping layers: codes start from what they give. Learning rates fall from those of the recipe to nothing, along
    half a cosine. Grids show evenly spaced images of the dataset, and what their codes give.

    Args:
        recipe, output_dir, resume: as in [`TrainingLoop`]; the recipe needs `loss.matching_by: latent`.
        mapping_steps: optimizer steps of the mapping network, of 256 latents each.

    Raises:
        ValueError: as in [`TrainingLoop`]; for a recipe without matching by latent; for several processes.
    """

    def __init__(self, recipe: Recipe, output_dir: str | Path, resume: bool = False, mapping_steps: int = 20_000):
        by, weight = recipe.loss.matching_by, recipe.loss.matching_weight
        if by != "latent" or not weight:
            raise ValueError(
                "`loss.matching_by` must be 'latent' and `loss.matching_weight` above 0 in pretraining, "
                f"got {by!r} and {weight}."
            )
        if recipe.loss.points_weight:
            raise ValueError(
                "`loss.points_weight` must be 0 in pretraining, whose codes learn from images, "
                f"got {recipe.loss.points_weight}."
            )
        if recipe.run.evaluate_every_kimg is not None or recipe.run.stage_start != "carry":
            raise ValueError(
                "`run.evaluate_every_kimg` must be null and `run.stage_start` 'carry' in pretraining, which has no "
                "averaged generator to measure or to start a stage from."
            )
        self.mapping_steps = mapping_steps
        super().__init__(recipe, output_dir, resume)

    def build_models(self) -> None:
        if self.accelerator.num_processes > 1:
            processes = self.accelerator.num_processes
            raise ValueError(f"`num_processes` must be 1 in pretraining, whose codes are not shared, got {processes}.")
        recipe, dataset, device = self.recipe, self.dataset, self.device
        generator = build_generator(recipe, dataset.num_classes)
        source = open_source(recipe, generator, dataset.id2label, new_mapping=True)
        self.matching = build_matching(
            recipe, len(dataset), dataset.num_classes, build_feature_network(recipe, device)
        ).to(device)
        self.points = None
        embeddings = initial_class_embeddings(recipe, dataset, self.accelerator, self.output_dir)
        start_weights(generator, embeddings, source, dataset.id2label)

        labels = [
            torch.zeros(len(images), dtype=torch.long) if those is None else those
            for images, those in image_batches(dataset, 1, 256, num_workers=recipe.data.num_workers)
        ]
        self.labels = torch.cat(labels).to(device)  # (N,)
        self.quantiles = class_quantiles(self.labels)  # (N, 2)
        self.class_labels = None if dataset.num_classes is None else self.labels
        codes = self._initial_codes(generator, source)
        self.G, self.G_optimizer, self.codes, self.codes_optimizer = self.accelerator.prepare(
            ImageGenerator(generator, recipe.run.compile),
            torch.optim.Adam(generator.parameters(), **adam_options(recipe, device)),
            codes,
            torch.optim.SparseAdam(codes.parameters(), lr=LR_CODES, betas=BETAS_CODES),
        )
        self.generator = self.accelerator.unwrap_model(self.G, keep_torch_compile=True).generator
        self._attend_to_selector()

    @torch.no_grad()
    def _initial_codes(self, generator: PolyINRGenerator, source: PolyINRPipeline | None) -> nn.Embedding:
        """Codes to start from, (N, w_dim): what the source's mapping network gives, where it has other layers."""
        depth = generator.config.num_mapping_layers
        if source is not None and source.generator.config.num_mapping_layers != depth:
            generator = source.generator
        generator = generator.to(self.device)
        z = self._draw_latents(torch.Generator().manual_seed(0), z_dim=generator.config.z_dim)
        w = generator.mapping(z, self.class_labels)
        return nn.Embedding.from_pretrained(w.float(), freeze=False, sparse=True)

    def begin_stage(self) -> None:
        """Nothing: all stages are one run."""

    def learning_rates(self, stage: StageConfig) -> list[tuple[Optimizer, float]]:
        """Before the half cosine that they follow."""
        return [(self.G_optimizer, stage.lr_generator), (self.codes_optimizer, LR_CODES)]

    def make_batches(self, stage: StageConfig, decoded: tuple | None = None) -> "ImageOrder":
        return ImageOrder(len(self.dataset), stage.batch_size, self.recipe.run.seed, self.images_seen)

    def _draw_latents(self, source: torch.Generator, indices: Tensor | None = None, z_dim: int | None = None) -> Tensor:
        """Latents (B, z_dim), each of those that stand for the image of its index; of all images by default."""
        quantiles = self.quantiles if indices is None else self.quantiles[indices]
        z = torch.randn(len(quantiles), z_dim or self.recipe.model.z_dim, generator=source).to(self.device)
        u = torch.rand(len(quantiles), generator=source).to(self.device)
        low, high = quantiles.unbind(dim=1)
        wanted = torch.special.ndtri((low + u * (high - low)).clamp(1e-6, 1 - 1e-6))  # (B,)
        return z + (wanted - selector(z))[:, None] / z.shape[1] ** 0.5

    def train_step(self, stage: StageConfig, loader: "ImageOrder") -> None:
        """One step of codes, affine and synthesis levels on the next real images of an epoch's random order."""
        factor = half_cosine(self.images_seen / self.total_images)
        for optimizer, lr in self.learning_rates(stage):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
        parts = stage.gradient_accumulation_steps
        extents = sample_windows(self.recipe, stage, self.step)
        for part, indices in enumerate(next(loader).to(self.device).chunk(parts)):
            windows = None
            if extents is not None:
                windows = Windows(rows_of_process(self.accelerator, extents, part, parts), stage.image_resolution)
            with self.accelerator.autocast():
                images = self.G.from_w(self._w(indices), stage.resolution, stage.pixel_chunk, windows)  # (B, 3, R, R)
                distance, _ = self.matching(images, indices, windows=windows)
                self.accelerator.backward(distance / parts)
            self.log.add(matching_loss=distance / parts)
        norm = self.accelerator.clip_grad_norm_(self.generator.parameters(), MAX_GRADIENT_NORM)
        self.log.add(gradient_norm=norm)
        apply_gradients(self.accelerator, self.G_optimizer, "generator", self.log)
        self.codes_optimizer.step()
        self.codes_optimizer.zero_grad(set_to_none=True)
        self.images_seen += stage.batch_size
        self.step += 1

    def _w(self, indices: Tensor) -> Tensor:
        """Codes of images, (B, L, w_dim)."""
        return self.codes(indices).unsqueeze(1).repeat(1, self.recipe.model.num_levels, 1)

    def _shown(self, resolution: int) -> Tensor:
        """Indices of the images in a grid."""
        number = min(len(self.dataset), grid_columns(resolution) ** 2)
        return torch.linspace(0, len(self.dataset) - 1, number).round().long()

    def real_images(self, resolution: int) -> Tensor:
        rows = DecodedRows(self.dataset, resolution)
        return to_float(torch.stack([rows[index][0] for index in self._shown(resolution).tolist()]))

    @torch.no_grad()
    def generated_images(self, resolution: int) -> Tensor:
        """What the codes of the images in [`~Pretrainer.real_images`] give."""
        A = self.generator.affine(self._w(self._shown(resolution).to(self.device)))  # (B, L, n, 3)
        return torch.cat([self.generator.render(part, resolution, resolution) for part in A.split(1)])

    @property
    def exported_generator(self) -> PolyINRGenerator:
        return self.generator

    def export(self, stage: StageConfig) -> None:
        """As [`TrainingLoop.export`], with the mapping network fitted to the codes."""
        self.fit_mapping()
        super().export(stage)

    def fit_mapping(self) -> float:
        """Teaches the mapping network each image's code for the latents that stand for it; sets the mean w of classes.

        Returns the squared error of a w, as a share of the codes' variance.
        """
        codes = self.codes.weight.detach()
        random = torch.Generator().manual_seed(self.recipe.run.seed)

        def batches() -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
            for _ in range(self.mapping_steps):
                indices = torch.randint(len(codes), (MAPPING_BATCH,), generator=random).to(self.device)
                labels = None if self.class_labels is None else self.class_labels[indices]
                yield self._draw_latents(random, indices), labels, codes[indices]

        progress = tqdm(batches(), "mapping network", self.mapping_steps, disable=not self.accelerator.is_main_process)
        error = fit_mapping(self.generator.mapping, progress, self.mapping_steps) / codes.var(dim=0).mean().item()
        progress.write(f"the mapping network leaves {error:.3f} of the codes' variance")
        means = torch.zeros_like(self.generator.w_mean).index_add_(0, self.labels, codes)
        counts = torch.bincount(self.labels, minlength=len(means)).clamp(min=1).unsqueeze(1)
        self.generator.w_mean.copy_(means / counts)
        return error

    def _attend_to_selector(self) -> None:
        """Initializes the mapping network so that of z only its selector counts, which says which image."""
        weight, z_dim = self.generator.mapping.layers[0].weight.data, self.recipe.model.z_dim
        direction = weight[:, :1] / weight[:, 0].norm()  # (w_dim, 1)
        weight[:, :z_dim] = direction * SELECTOR_GAIN * weight[:, -z_dim:].norm(dim=0).max() / z_dim**0.5


def fit_mapping(mapping: MappingNetwork, batches: Iterator[tuple[Tensor, Tensor | None, Tensor]], steps: int) -> float:
    """Least squares of `mapping(z, class_labels)` to w over `batches` of the three; returns the last tenth's mean.

    Equalised layers are scaled where they are used, so a tensor's learning rate goes with the size of its numbers.
    """
    groups = []
    for module in mapping.modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            groups.append({"params": list(module.parameters(recurse=False)), "size": weight.detach().std().item()})
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    errors = []
    for step, (z, class_labels, w) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = MAPPING_LR * group["size"] * half_cosine(step / steps)
        error = F.mse_loss(mapping(z, class_labels), w)
        error.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        errors.append(error.detach())
    return torch.stack(errors[-max(1, steps // 10) :]).mean().item()


def class_quantiles(labels: Tensor) -> Tensor:
    """Which latents stand for each image of labels (N,): from and to which quantile of their selector, (N, 2)."""
    quantiles = torch.empty(len(labels), 2, device=labels.device)
    for label in labels.unique():
        members = torch.nonzero(labels == label).flatten()
        bounds = torch.linspace(0, 1, len(members) + 1, device=labels.device)
        quantiles[members] = torch.stack([bounds[:-1], bounds[1:]], dim=1)
    return quantiles


class ImageOrder:
    """Batches of image indices: all images in random order, then again in another; `images_seen` is where to go on."""

    num_skipped = 0

    def __init__(self, num_images: int, batch_size: int, seed: int, images_seen: int = 0):
        self.batch_size, self.images_seen = batch_size, images_seen
        self._batches = TrainingOrder(num_images, seed, mirror=False).batches(images_seen, batch_size)

    def __next__(self) -> Tensor:
        self.images_seen += self.batch_size
        return torch.tensor([index for index, _ in next(self._batches)])

    def state_dict(self) -> dict:
        return {"images_seen": self.images_seen}
