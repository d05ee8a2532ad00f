"""Which picture of a small dataset each latent stands for: cells of z, as many as pictures and all equally likely.

A mapping network that is to lead from random latents to pictures needs to know which latents lead to which. Here the
space of latents is cut into cells by semi-discrete optimal transport (Genevay et al., Stochastic Optimization for
Large-scale Optimal Transport, 2016): a latent belongs to the picture whose anchor it agrees with most, after an offset
for each picture that makes all cells of a class equally likely. Anchors are the leading principal components of the
pictures' codes, so what is near in z looks alike, and what lies between two cells is between two such pictures.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..modeling_poly_inr import normalize_rms

FILE = "cells.safetensors"
ROUNDS = 400  # of fitting offsets; with 200 the largest of 200 cells was twice the smallest
LATENTS_PER_CELL, MIN_LATENTS = 4, 4096  # a round's sample: noise of a small one is averaged out by the falling rate
RATE = 0.1  # of a score's standard deviation, that an offset moves by where a cell is drawn twice too often
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
        for label in self.labels.unique().tolist():
            members = torch.nonzero(self.labels == label).flatten()
            self.anchors[members] = principal_directions(codes[members].float(), self.anchors.shape[1])
            for round_ in range(ROUNDS if len(members) > 1 else 0):
                number = max(MIN_LATENTS, LATENTS_PER_CELL * len(members))
                z = torch.randn(number, self.anchors.shape[1], generator=random).to(codes.device)
                chosen = self._scores(z, members).argmax(dim=1)
                excess = torch.bincount(chosen, minlength=len(members)) * (len(members) / number) - 1
                self.offsets[members] -= RATE * (1 - round_ / ROUNDS) * excess.clamp(-2, 2)

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
    save_file({name: value.contiguous().cpu() for name, value in cells.state_dict().items()}, folder / FILE)


def load_cells(pipeline: str | None, num_pictures: int) -> LatentCells | None:
    """The cells in a pipeline's folder; None where there are none, or of another number of pictures."""
    path = Path(pipeline or "", FILE)
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
