"""Colors at single points, compared with those of the real image that a latent stands for.

The generator evaluates any points for the price of those points, so a hundred of an image's pixels, drawn anew in each
step, say where its shapes lie for a hundredth of what drawing it whole costs. For datasets small enough to be held in
memory.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import to_float
from .matching import LatentCells, class_members, images_of_latents

EDGE_SHARE = 0.5  # of the points, which lie near edges: shapes are decided there (not tuned)
EDGE_TRIES = 8  # enough that nine of ten points lie near edges where these are a quarter of a picture
# Pixels about a point, and levels of brightness between which they range; not tuned.
EDGE_RADIUS, EDGE_CONTRAST = 2, 12


class PointMatching:
    """Mean absolute error of colors at random pixels of the real images that latents stand for.

    A latent stands for a real image of its class as in [`FeatureMatching`] by latent: by the quantile of its
    [`selector`]. Half of an image's points are pixels near its edges, the others any of its pixels.

    Args:
        points_per_image (`int`): points of each image in a step.
        num_classes (`int`, *optional*): images are matched within classes if there are any.
        cells (`LatentCells`, *optional*): which image a latent stands for, in place of its quantile.
    """

    def __init__(self, points_per_image: int, num_classes: int | None = None, cells: LatentCells | None = None):
        self.points_per_image, self.num_classes, self.cells = points_per_image, num_classes, cells

    def keep_images(self, images: Tensor, class_labels: Tensor | None) -> None:
        """Keeps real images (N, 3, S, S), uint8, where they are, and finds their edges."""
        self.images, self.side = images.flatten(2), images.shape[-1]  # (N, 3, S * S)
        labels = None if class_labels is None else class_labels.tolist()
        self.members = class_members(labels, len(images), self.num_classes)
        edges = [_edges(image) for image in images]
        self.edges = torch.cat(edges)
        self.edge_starts = F.pad(torch.tensor([len(pixels) for pixels in edges]).cumsum(0), (1, 0))  # (N + 1,)

    def draw(self, z: Tensor, class_labels: Tensor | None, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, P, 2) in [0, 1]^2 for latents z (B, z_dim) and labels (B,), and their colors (B, P, 3).

        `uniform` (B, P) are numbers in [0, 1) that decide the points.
        """
        device = z.device
        matches = images_of_latents(z, class_labels, self.members, self.cells).to(self.images.device)  # (B,)
        number = round(EDGE_SHARE * uniform.shape[1])
        start, end = self.edge_starts[matches, None], self.edge_starts[matches + 1, None]  # (B, 1) each
        near = start + (uniform[:, :number].double() * (end - start)).long()
        anywhere = (uniform[:, number:].double() * self.side**2).long()
        pixels = torch.cat([self.edges[near].long(), anywhere], dim=1)  # (B, P)
        # Image by image: indexing uint8 with a tensor of images copies them whole, slowly.
        rows = zip(matches.tolist(), pixels, strict=True)
        colors = torch.stack([self.images[image][:, where] for image, where in rows])  # (B, 3, P)
        points = torch.stack([pixels // self.side, pixels % self.side], dim=-1) / (self.side - 1)  # (B, P, 2)
        return points.to(device), to_float(colors.transpose(1, 2)).to(device)


def colors_at(pictures: Tensor, rows: Tensor, points: Tensor, device: torch.device | None = None) -> Tensor:
    """Colors (B, P, 3) of the pictures `rows` (B,) at points (B, P, 2) in [0, 1]^2, between pixels bilinearly.

    `pictures` are uint8 (N, 3, S, S), wherever they are: nothing but those pixels is touched. Pixel (i, j) lies at
    (i, j) / (S - 1), as [`PolyINRGenerator.render`] draws it.
    """
    side = pictures.shape[-1]
    rows, points = rows.to(pictures.device)[:, None], points.to(pictures.device)
    first = (points * (side - 1)).long().clamp(0, max(side - 2, 0))  # (B, P, 2), the pixel above and to the left
    part = points * (side - 1) - first  # (B, P, 2), of the way to the next one
    colors = torch.zeros(*points.shape[:2], 3, device=pictures.device)
    for down in (0, 1):
        for right in (0, 1):
            row, column = (first[..., 0] + down).clamp(max=side - 1), (first[..., 1] + right).clamp(max=side - 1)
            weight = (part[..., 0] if down else 1 - part[..., 0]) * (part[..., 1] if right else 1 - part[..., 1])
            colors += weight.unsqueeze(-1) * pictures[rows, :, row, column]  # (B, P, 3)
    return (colors / 127.5 - 1).to(device or pictures.device)


def random_points(near_edges: Tensor, rows: Tensor, number: int, random: torch.Generator) -> Tensor:
    """Points (B, P, 2) in [0, 1]^2 for the pictures `rows` (B,), half of them near the picture's edges.

    `near_edges` (N, S, S) is of [`edge_pixels`]. Of several candidates the first that is near an edge is taken, so that
    no list of a picture's edges has to be kept.
    """
    near = round(EDGE_SHARE * number)
    tries = torch.rand(EDGE_TRIES, len(rows), near, 2, generator=random)
    pixels = (tries * (near_edges.shape[-1] - 1)).round().long().to(near_edges.device)
    hits = near_edges[rows.to(near_edges.device)[:, None], pixels[..., 0], pixels[..., 1]].cpu()  # (T, B, near)
    first = hits.byte().argmax(dim=0)  # 0 where there is no hit
    chosen = tries.gather(0, first[None, ..., None].expand(1, -1, -1, 2))[0]  # (B, near, 2)
    return torch.cat([chosen, torch.rand(len(rows), number - near, 2, generator=random)], dim=1)


def edge_pixels(pictures: Tensor) -> Tensor:
    """Which pixels of pictures (N, 3, S, S), uint8, have varying brightness about them, bool (N, S, S)."""
    highest = partial(F.max_pool2d, kernel_size=2 * EDGE_RADIUS + 1, stride=1, padding=EDGE_RADIUS)
    near = []
    for part in pictures.split(64):
        brightness = part.float().mean(dim=1)  # (B, S, S)
        near.append(highest(brightness) + highest(-brightness) > EDGE_CONTRAST)
    return torch.cat(near)


def _edges(image: Tensor) -> Tensor:
    """Numbers of the pixels of an image (3, S, S), uint8, that are near edges; of all if none are."""
    near = edge_pixels(image[None]).flatten()
    pixels = torch.nonzero(near).flatten().int()
    return pixels if len(pixels) else torch.arange(near.numel(), dtype=torch.int32, device=image.device)
