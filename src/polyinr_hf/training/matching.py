"""Generated images matched with real ones of their class, in the features of a frozen network.

A discriminator tells a generator what is wrong with its images, and nothing of those it never draws. Here each
generated image is drawn towards a real one, such that all real ones are chosen equally often. By likeness, that is one
near it: semi-discrete optimal transport, whose dual has one variable per real image, which grows while the image is
not chosen (Genevay et al., Stochastic Optimization for Large-scale Optimal Transport, 2016). By latent, for classes
of a few images, it is the one that z stands for. For datasets small enough to hold features of every image.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..feature_networks import FeatureNetwork
from ..images import to_float
from ..modeling_poly_inr import normalize_rms
from .image_generator import Windows, cut_windows

CELLS_FILE = "cells.safetensors"
ROUNDS = 400  # of fitting offsets; with 200 the largest of 200 cells was twice the smallest
LATENTS_PER_CELL, MIN_LATENTS = 4, 4096  # a round's sample: noise of a small one is averaged out by the falling rate
RATE = 0.1  # of a score's standard deviation, that an offset moves by where a cell is drawn twice too often
ORDER_SLOPE = 0.4  # of cells in order: about one standard deviation of a latent's selector between three cells' scores
SOFTNESS = 0.02  # standard deviations of a score over which one picture's code blends into the next one's


class LatentCells(nn.Module):
    """Cells of latents, one for each picture, in a state dict.

    Args:
        num_pictures (`int`): pictures of the dataset.
        z_dim (`int`): width of a latent.
        labels (`Tensor`, *optional*): (N,), pictures' classes; a latent's cells are those of its class.

    Attributes:
        anchors: (N, z_dim), direction of the latents that stand for a picture.
        offsets: (N,), added to a picture's score.
    """

    anchors: Tensor
    offsets: Tensor
    labels: Tensor

    def __init__(self, num_pictures: int, z_dim: int, labels: Tensor | None = None):
        super().__init__()
        self.register_buffer("anchors", torch.zeros(num_pictures, z_dim))
        self.register_buffer("offsets", torch.zeros(num_pictures))
        self.register_buffer("labels", torch.zeros(num_pictures, dtype=torch.long) if labels is None else labels.long())

    @torch.no_grad()
    def fit(self, codes: Tensor, seed: int = 0) -> None:
        """Places the anchors by the pictures' codes (N, w_dim), and makes the cells of each class equally likely."""
        self.offsets.zero_()
        random = torch.Generator().manual_seed(seed)
        labels, sizes = self.labels.unique(return_counts=True)
        for size in sizes.unique().tolist():  # all classes of one size together, with the same latents
            classes = torch.stack([torch.nonzero(self.labels == label).flatten() for label in labels[sizes == size]])
            for members in classes:
                self.anchors[members] = principal_directions(codes[members].float(), self.anchors.shape[1])
            for round_ in range(ROUNDS if size > 1 else 0):
                number = max(MIN_LATENTS, LATENTS_PER_CELL * size)
                z = torch.randn(number, self.anchors.shape[1], generator=random).to(codes.device)
                chosen = self._scores(z, classes.flatten()).unflatten(1, classes.shape).argmax(dim=2)  # (number, C)
                counts = torch.zeros(classes.shape, device=codes.device)
                counts.scatter_add_(1, chosen.T, torch.ones(chosen.T.shape, device=codes.device))
                excess = counts * (size / number) - 1
                self.offsets[classes] -= RATE * (1 - round_ / ROUNDS) * excess.clamp(-2, 2)

    @torch.no_grad()
    def order(self) -> None:
        """Puts each class's cells along a latent's [`selector`], in the pictures' order, as in matching by latent.

        Which picture a latent stands for does not depend on codes then, and stays the same from run to run. For classes
        of up to some hundreds: of thousands, scores of neighbors differ by no more than float32 rounds them.
        """
        for label in self.labels.unique().tolist():
            members = torch.nonzero(self.labels == label).flatten()
            # The more cells, the narrower: of a steeper score the same share of a cell is close to a border.
            places = torch.arange(len(members), dtype=torch.float64) - (len(members) - 1) / 2
            slopes = ORDER_SLOPE * len(members) * places
            borders = torch.special.ndtri(torch.arange(1, len(members), dtype=torch.float64) / len(members))
            offsets = F.pad(-(slopes.diff() * borders).cumsum(0), (1, 0))  # neighbors score alike at their border
            self.anchors[members] = slopes.float().unsqueeze(1).expand(-1, self.anchors.shape[1]).to(self.anchors)
            self.offsets[members] = offsets.to(self.offsets)

    def _scores(self, z: Tensor, members: Tensor) -> Tensor:
        """(B, M): how much latents (B, z_dim) agree with the anchors of `members`, N(0, 1), plus their offsets."""
        return normalize_rms(z.float()) @ self.anchors[members].T / z.shape[1] ** 0.5 + self.offsets[members]

    @torch.no_grad()
    def shares(self, z: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """(B, N): of the pictures' codes in what latents (B, z_dim) of classes (B,) should give; rows add up to 1.

        One picture has nearly all within its cell; close to a border two or more share.
        """
        scores = self._scores(z, torch.arange(len(self.labels), device=z.device))  # (B, N)
        if class_labels is not None:
            scores = scores.masked_fill(class_labels[:, None] != self.labels, float("-inf"))
        return (scores / SOFTNESS).softmax(dim=1)

    def forward(self, z: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The picture that each latent of z (B, z_dim) stands for, (B,)."""
        return self.shares(z, class_labels).argmax(dim=1)


def save_cells(cells: LatentCells, folder: Path) -> None:
    """Writes what [`load_cells`] reads, beside the pipeline whose latents they are of."""
    save_file({name: value.contiguous().cpu() for name, value in cells.state_dict().items()}, folder / CELLS_FILE)


def load_cells(pipeline: str | None, num_pictures: int) -> LatentCells | None:
    """The cells in a pipeline's folder; None where there are none, or of another number of pictures."""
    path = Path(pipeline or "", CELLS_FILE)
    if pipeline is None or not path.is_file():
        return None
    state = load_file(path)
    if len(state["anchors"]) != num_pictures:
        return None
    cells = LatentCells(num_pictures, state["anchors"].shape[1])
    cells.load_state_dict(state)
    return cells


def principal_directions(codes: Tensor, number: int) -> Tensor:
    """The leading principal components of codes (M, w_dim), all with the same variance, as rows (M, `number`) of rms 1.

    Rows are zero where all codes are one, and components that so few codes do not have are zero.
    """
    U, S, _ = torch.linalg.svd(codes - codes.mean(dim=0), full_matrices=False)
    components = U[:, :number] * (S[:number] > 1e-6 * S[:1].clamp(min=1e-12))  # (M, up to `number`)
    return normalize_rms(F.pad(components, (0, number - components.shape[1])))


# --- which image a latent stands for, and how far from it its own is --------------------------------------------------


def selector(z: Tensor) -> Tensor:
    """What of latents (B, z_dim) selects a real image in matching by latent, (B,), N(0, 1) like each of their numbers.

    The projection on (1, ..., 1) / sqrt(z_dim): single numbers of latents of neighboring seeds can be alike.
    """
    return z.float().sum(dim=1) / z.shape[1] ** 0.5


def class_members(class_labels: list[int] | None, num_images: int, num_classes: int | None = None) -> list[Tensor]:
    """The indices of each class's images, in order, for the labels of all images; one class without labels."""
    if class_labels is None:
        return [torch.arange(num_images)]
    members: list[list[int]] = [[] for _ in range(num_classes or 1)]
    for index, label in enumerate(class_labels):
        members[label].append(index)
    return [torch.tensor(those, dtype=torch.long) for those in members]


def images_of_latents(
    z: Tensor, class_labels: Tensor | None, members: list[Tensor], cells: LatentCells | None = None
) -> Tensor:
    """For each latent of z (B, z_dim) an image of its class, (B,), by `cells`, or by the quantile of its [`selector`].

    `members` are the indices of each class's images; `class_labels` (B,), or None for one class.
    """
    if cells is not None:
        return cells(z, class_labels)
    labels = [0] * len(z) if class_labels is None else class_labels.tolist()
    quantiles = torch.special.ndtr(selector(z)).clamp(max=1 - 1e-6).tolist()
    chosen = [members[label] for label in labels]
    return torch.stack([those[int(u * len(those))] for those, u in zip(chosen, quantiles, strict=True)])


class FeatureMatching(nn.Module):
    """Mean squared distance of generated images to the real ones they are matched with.

    The distance is taken on pixels and on the four maps of a feature network. Channels are standardized over the real
    images, and all maps count alike: two unrelated images are about sqrt(2) apart.

    Args:
        feature_network (`FeatureNetwork`): frozen.
        num_images (`int`): real images.
        num_classes (`int`, *optional*): images are matched within classes if there are any.
        by (`str`): "likeness", or "latent": the quantile of z's [`selector`] says which of the class's images, in the
            dataset's order; a dataset in the order of its sources makes it a number of style.
        dual_rate (`float`): what the dual variable of a real image gains, in squared distance, in the time in which
            it should have been chosen once; each choice takes as much away. Not tuned: unrelated images are about 2
            apart, so that one that is never chosen wins over any other after some forty times that.
        cells (`LatentCells`, *optional*): by latent, which image a latent stands for, in place of its quantile.

    Attributes:
        dual: (num_images,), the dual variables, in state dicts; all else is computed anew by
            [`~FeatureMatching.cache_features`].
    """

    dual: Tensor

    def __init__(
        self,
        feature_network: FeatureNetwork,
        num_images: int,
        num_classes: int | None = None,
        by: str = "likeness",
        dual_rate: float = 0.05,
        cells: LatentCells | None = None,
    ):
        super().__init__()
        self.feature_network, self.num_classes, self.by, self.dual_rate = feature_network, num_classes, by, dual_rate
        self.register_buffer("dual", torch.zeros(num_images))
        self.window_images: Tensor | None = None
        self.cells = cells

    @torch.no_grad()
    def cache_features(self, batches: Iterable[tuple[Tensor, Tensor | None]], chunk: int = 64) -> None:
        """Keeps the features of all real images, in bfloat16: 30 kB an image at 32 x 32.

        `batches` are all of them and their labels, as [`image_batches`] gives them.
        """
        self.window_images, device = None, self.dual.device
        maps, labels = [], []
        for images, class_labels in batches:
            maps.append([x.bfloat16() for x in self._maps(to_float(images.to(device)))])
            labels += [0] * len(images) if class_labels is None else class_labels.tolist()
        maps = self._standardize(maps, labels)  # each (N, C, H, W)
        parts = zip(*(x.split(chunk) for x in maps), strict=True)
        self.reals = torch.cat([self._flatten([x.float() for x in part]).bfloat16() for part in parts])  # (N, D)

    @torch.no_grad()
    def keep_images(self, images: Tensor, class_labels: Tensor | None, resolution: int, batch_size: int = 64) -> None:
        """Keeps all real images (N, 3, S, S), uint8, to cut windows of R pixels from; images of a stage with windows.

        Channels are standardized over the whole images, at R pixels.
        """
        self.window_images, whole = images, torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
        parts = (
            cut_windows(part, Windows(whole.expand(len(part), 4), images.shape[-1]), resolution)
            for part in images.split(batch_size)
        )
        self.standardize(parts, None if class_labels is None else class_labels.tolist())

    @torch.no_grad()
    def standardize(self, batches: Iterable[Tensor], labels: list[int] | None = None) -> None:
        """Learns the scale of each channel from images (B, 3, R, R) in [-1, 1], of which nothing is kept."""
        maps = [[x.bfloat16() for x in self._maps(images.to(self.dual.device))] for images in batches]
        self._standardize(maps, labels or [0] * sum(len(part[0]) for part in maps))

    def _standardize(self, batches: list[list[Tensor]], labels: list[int]) -> list[Tensor]:
        """Sets each class's members and each map's scale; returns the maps of all images, each (N, C, H, W)."""
        members = class_members(labels, len(labels), self.num_classes)
        self.members = [those.to(self.dual.device) for those in members]
        maps = [torch.cat(parts) for parts in zip(*batches, strict=True)]  # each (N, C, H, W)
        self.scales = []
        for x in maps:
            std, mean = torch.std_mean(x.float(), dim=(0, 2, 3), keepdim=True)  # (1, C, 1, 1)
            # The squared distance is a mean over maps of the mean over a map's numbers.
            self.scales.append((mean, (std.clamp(min=1e-6) * (x[0].numel() * len(maps)) ** 0.5).reciprocal()))
        return maps

    def choose(self, z: Tensor, class_labels: Tensor | None) -> tuple[Tensor | None, dict[int, Tensor] | None]:
        """What latents z (B, z_dim) and labels (B,) alone say of the matches of images.

        By latent, their indices (B,). By likeness, {class: its rows}, among whose real images they are to be found.
        """
        labels = self._labels(z, class_labels)
        if self.by == "latent":
            return images_of_latents(z, labels, self.members, self.cells), None
        return None, {label: torch.nonzero(labels == label).flatten() for label in labels.unique().tolist()}

    def forward(
        self,
        images: Tensor,
        matches: Tensor | None,
        class_rows: dict[int, Tensor] | None = None,
        windows: Windows | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean squared distance of images (B, 3, R, R) in [-1, 1] to the real images that they are matched with.

        Args:
            images: Generated, at `windows` if given.
            matches, class_rows: of [`~FeatureMatching.choose`].
            windows: Of the images.

        Returns:
            the distance, and the indices (B,) of the real images.
        """
        if windows is not None:
            assert matches is not None and self.window_images is not None  # by latent, and by `keep_images`
            originals = self.window_images[matches.to(self.window_images.device)].to(images.device)
            return self.distances(images, cut_windows(originals, windows, images.shape[-1])).mean(), matches
        features = self._flatten(self._maps(images))  # (B, D)
        if matches is None:
            assert class_rows is not None  # one or the other, as `choose` gives them
            matches = self._nearest(features.detach(), class_rows)
        return (features - self.reals[matches].float()).square().sum(dim=1).mean(), matches

    def distances(self, images: Tensor, reals: Tensor) -> Tensor:
        """Squared distances (B,) of images (B, 3, R, R) in [-1, 1] to real ones, pair by pair."""
        with torch.no_grad():
            targets = self._flatten(self._maps(reals))  # (B, D)
        return (self._flatten(self._maps(images)) - targets).square().sum(dim=1)

    @torch.no_grad()
    def update_dual(self, matches: Tensor, class_labels: Tensor | None = None) -> None:
        """Moves the dual variables of all real images of the classes in a batch, after all its images were matched."""
        class_labels = self._labels(matches, class_labels)
        for label in class_labels.unique().tolist():
            members, chosen = self.members[label], matches[class_labels == label]
            self.dual[members] += self.dual_rate * len(chosen) / len(members)
            self.dual.index_add_(0, chosen, torch.full_like(chosen, -self.dual_rate, dtype=self.dual.dtype))

    def _nearest(self, features: Tensor, class_rows: dict[int, Tensor]) -> Tensor:
        """For each row of features (B, D) the real image of its class with the least squared distance less its dual."""
        matches = torch.empty(len(features), dtype=torch.long, device=features.device)
        for label, rows in class_rows.items():
            members = self.members[label]
            reals = self.reals[members].float()  # (M, D)
            cost = torch.cdist(features[rows].float(), reals).square() - self.dual[members]
            matches[rows] = members[cost.argmin(dim=1)]
        return matches

    @staticmethod
    def _labels(batch: Tensor, class_labels: Tensor | None) -> Tensor:
        """(B,) integers; one class for all where there are none."""
        return torch.zeros(len(batch), dtype=torch.long, device=batch.device) if class_labels is None else class_labels

    def _maps(self, images: Tensor) -> list[Tensor]:
        return [images, *self.feature_network(images)]

    def _flatten(self, maps: list[Tensor]) -> Tensor:
        """Maps to standardized rows (B, D) whose squared distances are those of the loss."""
        scaled = [(x.float() - mean) * scale for x, (mean, scale) in zip(maps, self.scales, strict=True)]
        return torch.cat([x.flatten(1) for x in scaled], dim=1)
