"""How many different pictures a class has: its seeds, grouped by how alike their images are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import check_number
from ..pipeline_poly_inr import PolyINRPipeline
from .seeds import encode_seeds

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
