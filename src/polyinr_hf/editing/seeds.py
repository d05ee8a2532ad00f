"""Images by class and seed, as torch or the authors' scripts number them; their truncation; designs of a class.

The authors draw images with the scripts of StyleGAN-XL, which their code is built on: z is
`numpy.random.RandomState(seed).randn(1, z_dim)`, and where no class is asked for, it is
`numpy.random.RandomState(seed).randint(num_classes)`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._lazy import naming_extra
from ..checks import check_count, check_number, whole_numbers
from ..pipeline_poly_inr import PolyINRPipeline

SEED_SOURCES = ("torch", "numpy")
NUMPY_SEEDS = 2**32  # as many as RandomState has


def numpy_latents(seeds: int | Sequence[int], z_dim: int = 64) -> Tensor:
    """Latents z (K, z_dim), float32, that the authors' scripts draw from these seeds, each on its own.

    Raises:
        ValueError: for a seed that is no whole number in 0..2^32-1.
    """
    rows = [np.random.RandomState(seed).randn(z_dim) for seed in _check_seeds(seeds, NUMPY_SEEDS)]
    return torch.from_numpy(np.stack(rows)).float()  # (K, z_dim)


def numpy_class_ids(seeds: int | Sequence[int], num_classes: int) -> list[int]:
    """The classes that the authors' scripts draw from these seeds where none is asked for.

    Raises:
        ValueError: as `numpy_latents`, and for `num_classes` below 1.
    """
    num_classes = check_count("num_classes", num_classes)
    return [int(np.random.RandomState(seed).randint(num_classes)) for seed in _check_seeds(seeds, NUMPY_SEEDS)]


def draw_latents(
    pipe: PolyINRPipeline,
    class_labels: int | str | list[int | str] | None = None,
    seeds: int | Sequence[int] = 0,
    seed_source: str = "torch",
) -> tuple[list[int] | None, Tensor]:
    """Class ids, None for an unconditional model, and latents z (K, z_dim) of one image for each class and seed.

    Args:
        class_labels: one name or id, or one for each image; None for an unconditional model, and, with numpy's seeds,
            for classes that are drawn, too.
        seeds: one, or one for each image. Where there is one of either, it serves all.
        seed_source: "torch", the pipeline's, whose images are `generator=torch.Generator().manual_seed(seed)`'s; or
            "numpy", the authors'.

    Raises:
        ValueError: for seeds or classes that there are not, or several of both that are not as many.
    """
    if seed_source not in SEED_SOURCES:
        raise ValueError(f"`seed_source` must be one of {SEED_SOURCES}, got {seed_source!r}.")
    is_numpy, num_classes = seed_source == "numpy", pipe.generator.config.num_classes
    seeds = _check_seeds(seeds, NUMPY_SEEDS if is_numpy else 2**64)
    if class_labels is None and is_numpy and num_classes:
        class_labels = [*numpy_class_ids(seeds, num_classes)]
    ids = pipe.class_ids(class_labels)
    if ids is not None:
        count = max(len(ids), len(seeds))
        if len(ids) not in (1, count) or len(seeds) not in (1, count):
            raise ValueError(
                "`class_labels` and `seeds` must be as many, or one of either for all; "
                f"got {len(ids)} labels and {len(seeds)} seeds."
            )
        ids, seeds = ids * (count // len(ids)), seeds * (count // len(seeds))
    if is_numpy:
        return ids, numpy_latents(seeds, pipe.generator.config.z_dim)
    return ids, pipe.prepare_latents(len(seeds), [torch.Generator().manual_seed(seed) for seed in seeds])


def _check_seeds(given: int | Sequence[int], limit: int) -> list[int]:
    numbers = whole_numbers(given)
    seeds = [seed for seed in numbers if seed is not None and 0 <= seed < limit]
    if not seeds or len(seeds) < len(numbers):
        raise ValueError(f"`seeds` must be whole numbers in 0..{limit - 1}, at least one, got {given!r}.")
    return seeds


def encode_seeds(
    pipe: PolyINRPipeline,
    class_labels: int | str | list[int | str] | None = None,
    seeds: int | Sequence[int] = 0,
    truncation_psi: float | None = None,
    truncation_cutoff: int | None = None,
    space: str = "affine",
    seed_source: str = "torch",
    centroids: Tensor | None = None,
) -> Tensor:
    """Affine parameters A (K, L, n, 3), or w (K, L, w_dim), of the images with these classes and seeds.

    Args:
        class_labels, seeds, seed_source: as in `draw_latents`.
        truncation_psi, truncation_cutoff: as in the pipeline.
        space: "affine" for A, "w" for w.
        centroids: (C, w_dim), from `w_centroids`: truncation towards the nearest of them, not the mean of the class.

    Raises:
        ValueError: as `draw_latents`, `truncate` and the pipeline.
    """
    ids, latents = draw_latents(pipe, class_labels, seeds, seed_source)
    images = {"class_labels": ids, "num_images_per_label": len(latents) if ids is None else 1, "latents": latents}
    if centroids is None:
        truncation = {"truncation_psi": truncation_psi, "truncation_cutoff": truncation_cutoff}
        return pipe.encode(**images, **truncation, space=space)
    psi, cutoff = pipe.truncation_or_default(truncation_psi, truncation_cutoff)
    w = truncate(pipe.encode(**images, truncation_psi=1.0, space="w"), centroids, psi, cutoff)
    return pipe.encode(w=w, space=space)


def w_centroids(pipe: PolyINRPipeline, num_centroids: int = 64, num_samples: int = 5_000, seed: int = 0) -> Tensor:
    """Centers (C, w_dim) of the clusters that k-means finds in w, for multimodal truncation (Mokady et al., 2022).

    StyleGAN-XL's scripts, and so the authors', read such centroids from a file.

    Args:
        num_centroids: C. Neither default is tuned.
        num_samples: w to cluster, of classes drawn at random where there are any.
        seed: of the samples and of k-means.

    Raises:
        ValueError: for counts below 1, or fewer samples than centroids.
        ImportError: without scipy, of the extra `eval`.
    """
    with naming_extra("w_centroids", "eval"):
        from scipy.cluster.vq import kmeans2
    num_centroids = check_count("num_centroids", num_centroids)
    num_samples = check_count("num_samples", num_samples, minimum=num_centroids)
    generator, num_classes = torch.Generator().manual_seed(seed), pipe.generator.config.num_classes
    labels = torch.randint(num_classes, (num_samples,), generator=generator).tolist() if num_classes else None
    images = {"class_labels": labels, "num_images_per_label": 1 if labels else num_samples}
    w = pipe.encode(**images, truncation_psi=1.0, generator=generator, space="w")[:, 0].float()  # (S, w_dim)
    cluster: Any = kmeans2  # its `seed` is called `rng` since scipy 1.15
    centers, _ = cluster(w.cpu().numpy(), num_centroids, minit="++", seed=np.random.default_rng(seed))
    return torch.from_numpy(centers).to(w)  # (C, w_dim)


def truncate(w: Tensor, centroids: Tensor, truncation_psi: float, truncation_cutoff: int | None = None) -> Tensor:
    """w (B, L, w_dim) pulled towards the nearest of `centroids` (C, w_dim): multimodal truncation.

    Args:
        truncation_psi: 1 leaves w as it is, 0 makes it the centroid.
        truncation_cutoff: truncate only the levels below this one.

    Raises:
        ValueError: for centroids of another width.
    """
    if centroids.ndim != 2 or centroids.shape[1] != w.shape[2]:
        raise ValueError(f"`centroids` must have shape (C, {w.shape[2]}), got {tuple(centroids.shape)}.")
    centroids = centroids.to(w)
    nearest = centroids[torch.cdist(w[:, 0].float(), centroids.float()).argmin(dim=1)]  # (B, w_dim)
    truncated = torch.lerp(nearest.unsqueeze(1).expand_as(w), w, truncation_psi)  # (B, L, w_dim)
    if truncation_cutoff is None:
        return truncated
    return torch.cat([truncated[:, :truncation_cutoff], w[:, truncation_cutoff:]], dim=1)


# --- how many different pictures they are -----------------------------------------------------------------------------

SIZE = 16  # pixels that images are compared at, point samples
# Root mean square difference of a color, of a range of 1. Of 24 seeds each of 430 classes of the bundled model, half of
# the pairs differ by less than 0.03 or more than 0.2, and fewest by this: 1.7 % by 0.06 to 0.07, 1.7 % by 0.07 to 0.08.
ALIKE = 0.07
PASSAGE = 8  # no more than one seed in so many: images on the way from one design to another, 1 to 3 of those 24
SHARED = 2 / 3  # of the seeds at least are in larger groups where there are designs; of those 430 names 17 of 24


def designs(
    pipe: PolyINRPipeline,
    class_label: int | str | None = None,
    seeds: Sequence[int] = range(24),
    truncation_psi: float | None = None,
    alike: float = ALIKE,
) -> list[list[int]]:
    """Groups the seeds of a class by what they look like: one group for each design, the one with most seeds first.

    A model whose images vary without end has a design for every seed; one that redraws a few pictures of each class, as
    the bundled one, has as many designs as there are pictures. Where most seeds share designs, those of no more than
    one seed in eight, on the way from one to another, are left out.

    Args:
        class_label: A name or ID; None for an unconditional model.
        seeds: Torch's, as `generator=torch.Generator().manual_seed(seed)` has them.
        truncation_psi: As in the pipeline.
        alike: Root mean square difference, of colors in 0..1 at 16 x 16 points, below which two images are one design.

    Returns:
        Seeds, those of each group from its middle outwards, so that the first shows the design best.

    Raises:
        ValueError: As [`encode_seeds`], or for `alike` below 0.

    Example:
        >>> from polyinr_hf import BUNDLED_MODEL, PolyINRPipeline
        >>> from polyinr_hf.editing import designs
        >>> pipe = PolyINRPipeline.from_pretrained(BUNDLED_MODEL)
        >>> [group[0] for group in designs(pipe, "avocado")]  # a seed of each
        [9, 2, 23]
    """
    check_number("alike", alike)
    seeds = list(dict.fromkeys(seeds))
    A = encode_seeds(pipe, class_label, seeds, truncation_psi)  # (K, L, n, 3)
    images = pipe.generator.render(A, SIZE, SIZE)  # (K, 3, 16, 16), in [-1, 1]
    images = images.float().clamp(-1, 1).flatten(1) / 2
    distances = torch.cdist(images, images) / images.shape[1] ** 0.5  # (K, K)
    groups = _group(distances, alike)
    large = [group for group in groups if len(group) * PASSAGE > len(seeds)]
    is_shared = sum(map(len, large)) >= SHARED * len(seeds)
    return [[seeds[i] for i in group] for group in (large if is_shared else groups)]


def _group(distances: Tensor, alike: float) -> list[list[int]]:
    """Groups of indices: again and again, what is within `alike` of the index that has most of what is left there."""
    left, groups = torch.ones(len(distances), dtype=torch.bool), []
    near = (distances < alike) | torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    near, distances = near.cpu(), distances.cpu()
    while left.any():
        counts = (near & left).sum(dim=1).where(left, -1)
        group = (near[counts.argmax()] & left).nonzero().squeeze(1)
        middle = group[distances[group][:, group].sum(dim=1).argmin()]
        groups.append(group[distances[middle][group].argsort(stable=True)].tolist())
        left[group] = False
    return sorted(groups, key=len, reverse=True)
