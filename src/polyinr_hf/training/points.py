"""Colours at single points, compared with those of the real image that a latent stands for.

The generator evaluates any points for the price of those points, so a hundred of an image's pixels, drawn anew in each
step, say where its shapes lie for a hundredth of what drawing it whole costs. For datasets small enough to be held in
memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images import to_float
from .matching import class_members, images_of_latents

EDGE_SHARE = 0.5  # of the points, which lie near edges: shapes are decided there
EDGE_RADIUS, EDGE_CONTRAST = 2, 12  # pixels about a point, and levels of brightness between which they range


class PointMatching:
    """Mean absolute error of colours at random pixels of the real images that latents stand for.

    A latent stands for a real image of its class as in [`FeatureMatching`] by latent: by the quantile of its
    [`selector`]. Half of an image's points are pixels near its edges, the others any of its pixels.

    Args:
        points_per_image (`int`): points of each image in a step.
        num_classes (`int`, *optional*): images are matched within classes if there are any.
    """

    def __init__(self, points_per_image: int, num_classes: int | None = None):
        self.points_per_image, self.num_classes = points_per_image, num_classes

    def see_images(self, images: Tensor, class_labels: Tensor | None) -> None:
        """Keeps real images (N, 3, S, S), uint8, where they are, and finds their edges."""
        self.images, self.side = images.flatten(2), images.shape[-1]  # (N, 3, S * S)
        labels = None if class_labels is None else class_labels.tolist()
        self.members = class_members(labels, len(images), self.num_classes)
        edges = [_edges(image) for image in images]
        self.edges = torch.cat(edges)
        self.edge_starts = F.pad(torch.tensor([len(pixels) for pixels in edges]).cumsum(0), (1, 0))  # (N + 1,)

    def draw(self, z: Tensor, class_labels: Tensor | None, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, P, 2) in [0, 1]^2 for latents z (B, z_dim) and labels (B,), and their colours (B, P, 3).

        `uniform` (B, P) are numbers in [0, 1) that decide the points.
        """
        device = z.device
        matches = images_of_latents(z, class_labels, self.members).to(self.images.device)  # (B,)
        number = round(EDGE_SHARE * uniform.shape[1])
        start, end = self.edge_starts[matches, None], self.edge_starts[matches + 1, None]  # (B, 1) each
        near = start + (uniform[:, :number].double() * (end - start)).long()
        anywhere = (uniform[:, number:].double() * self.side**2).long()
        pixels = torch.cat([self.edges[near].long(), anywhere], dim=1)  # (B, P)
        # Image by image: indexing uint8 with a tensor of images copies them whole, slowly.
        rows = zip(matches.tolist(), pixels, strict=True)
        colours = torch.stack([self.images[image][:, where] for image, where in rows])  # (B, 3, P)
        points = torch.stack([pixels // self.side, pixels % self.side], dim=-1) / (self.side - 1)  # (B, P, 2)
        return points.to(device), to_float(colours.transpose(1, 2)).to(device)


def _edges(image: Tensor) -> Tensor:
    """Numbers of the pixels of an image (3, S, S), uint8, near which brightness varies; of all if none are."""
    brightness = image.float().mean(dim=0, keepdim=True)  # (1, S, S)
    window = {"kernel_size": 2 * EDGE_RADIUS + 1, "stride": 1, "padding": EDGE_RADIUS}
    contrast = F.max_pool2d(brightness, **window) + F.max_pool2d(-brightness, **window)
    pixels = torch.nonzero(contrast.flatten() > EDGE_CONTRAST).flatten().int()
    return pixels if len(pixels) else torch.arange(contrast.numel(), dtype=torch.int32, device=image.device)
