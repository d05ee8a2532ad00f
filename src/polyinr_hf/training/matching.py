"""Generated images matched with real ones of their class, in the features of a frozen network.

A discriminator tells a generator what is wrong with its images, and nothing of those it never draws. Here each
generated image is drawn towards a real one, such that all real ones are chosen equally often. By likeness, that is one
near it: semi-discrete optimal transport, whose dual has one number per real image, a bonus that grows while the image
is not chosen (Genevay et al., Stochastic Optimization for Large-scale Optimal Transport, 2016). By latent, for classes
of a few images, it is the one that z stands for. For datasets small enough to hold features of every image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data.dataset import ImageDataset, image_batches
from ..feature_networks import FeatureNetwork
from ..images import to_float
from .windows import Windows, cut_windows


def selector(z: Tensor) -> Tensor:
    """What of latents (B, z_dim) selects a real image in matching by latent, (B,), N(0, 1) like each of their numbers.

    The projection on (1, ..., 1) / sqrt(z_dim): single numbers of latents of neighbouring seeds can be alike.
    """
    return z.float().sum(dim=1) / z.shape[1] ** 0.5


def class_members(class_labels: Tensor | None, num_images: int, num_classes: int | None = None) -> list[Tensor]:
    """The indices of each class's images, in order, for the labels (N,) of all images; one class without labels."""
    if class_labels is None:
        return [torch.arange(num_images)]
    return [torch.nonzero(class_labels == label).flatten() for label in range(num_classes or 1)]


def images_of_latents(z: Tensor, class_labels: Tensor | None, members: list[Tensor]) -> Tensor:
    """For each latent of z (B, z_dim) an image of its class, (B,), by the quantile of its [`selector`].

    `members` are the indices of each class's images; `class_labels` (B,), or None for one class.
    """
    labels = [0] * len(z) if class_labels is None else class_labels.tolist()
    quantiles = torch.special.ndtr(selector(z)).clamp(max=1 - 1e-6).tolist()
    chosen = [members[label] for label in labels]
    return torch.stack([those[int(u * len(those))] for those, u in zip(chosen, quantiles, strict=True)])


class FeatureMatching(nn.Module):
    """Mean squared distance of generated images to the real ones they are matched with.

    The distance is taken on pixels and on the four maps of a feature network. Channels are standardised over the real
    images, and all maps count alike: two unrelated images are about sqrt(2) apart.

    Args:
        feature_network (`FeatureNetwork`): frozen.
        num_images (`int`): real images.
        num_classes (`int`, *optional*): images are matched within classes if there are any.
        by (`str`): "likeness", or "latent": the quantile of z's [`selector`] says which of the class's images, in the
            dataset's order; a dataset in the order of its sources makes it a number of style.
        bonus_rate (`float`): what the bonus of a real image gains, in squared distance, in the time in which
            it should have been chosen once; each choice takes as much away.

    Attributes:
        bonus: (num_images,), the dual variables, in state dicts; all else is computed anew by
            [`~FeatureMatching.see_real_images`].
    """

    def __init__(
        self,
        feature_network: FeatureNetwork,
        num_images: int,
        num_classes: int | None = None,
        by: str = "likeness",
        bonus_rate: float = 0.05,
    ):
        super().__init__()
        self.feature_network, self.num_classes, self.by, self.bonus_rate = feature_network, num_classes, by, bonus_rate
        self.register_buffer("bonus", torch.zeros(num_images))
        self.window_images = None

    @torch.no_grad()
    def see_real_images(self, dataset: ImageDataset, resolution: int, batch_size: int = 64, **options) -> None:
        """Keeps the features of all real images at a resolution, in bfloat16: 30 kB an image at 32 x 32.

        `options` go to [`image_batches`].
        """
        self.window_images, device = None, self.bonus.device
        batches, labels = [], []
        for images, class_labels in image_batches(dataset, resolution, batch_size, **options):
            batches.append([x.bfloat16() for x in self._maps(to_float(images.to(device)))])
            labels.append(self._labels(images, class_labels))
        maps = self._standardise(batches, labels)  # each (N, C, H, W)
        parts = zip(*(x.split(batch_size) for x in maps), strict=True)
        self.reals = torch.cat([self._flatten([x.float() for x in part]).bfloat16() for part in parts])  # (N, D)

    @torch.no_grad()
    def see_window_images(
        self, images: Tensor, class_labels: Tensor | None, resolution: int, batch_size: int = 64
    ) -> None:
        """Keeps all real images (N, 3, S, S), uint8, to cut windows of R pixels from; images of a stage with windows.

        Channels are standardised over the whole images, at R pixels.
        """
        self.window_images, whole = images, torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
        batches = []
        for part in images.split(batch_size):
            windows = Windows(whole.expand(len(part), 4), images.shape[-1])
            shrunk = cut_windows(part, windows, resolution).to(self.bonus.device)  # (B, 3, R, R)
            batches.append([x.bfloat16() for x in self._maps(shrunk)])
        self._standardise(batches, [self._labels(images, class_labels)])

    def _standardise(self, batches: list[list[Tensor]], labels: list[Tensor]) -> list[Tensor]:
        """Sets each class's members and each map's scale; returns the maps of all images, each (N, C, H, W)."""
        labels = torch.cat(labels).to(self.bonus.device)
        self.members = class_members(labels, len(labels), self.num_classes)
        maps = [torch.cat(parts) for parts in zip(*batches, strict=True)]  # each (N, C, H, W)
        self.scales = []
        for x in maps:
            std, mean = torch.std_mean(x.float(), dim=(0, 2, 3), keepdim=True)  # (1, C, 1, 1)
            # The squared distance is a mean over maps of the mean over a map's numbers.
            self.scales.append((mean, (std.clamp(min=1e-6) * (x[0].numel() * len(maps)) ** 0.5).reciprocal()))
        return maps

    def forward(
        self, images: Tensor, z: Tensor, class_labels: Tensor | None = None, windows: Windows | None = None
    ) -> tuple[Tensor, Tensor]:
        """Matches images (B, 3, R, R) in [-1, 1]; returns the mean squared distance and the matches' indices (B,).

        `z` (B, z_dim) and `class_labels` (B,) are what the images were generated from, at `windows` if given.
        """
        features = self._flatten(self._maps(images))  # (B, D)
        class_labels = self._labels(images, class_labels)
        if self.by == "latent":
            matches = images_of_latents(z, class_labels, self.members)
        else:
            matches = self._match(features.detach(), class_labels)
        return self._distance(features, matches, windows, images.shape[-1]), matches

    def distance(self, images: Tensor, matches: Tensor, windows: Windows | None = None) -> Tensor:
        """Mean squared distance of images (B, 3, R, R) in [-1, 1] to the real images of indices `matches` (B,)."""
        return self._distance(self._flatten(self._maps(images)), matches, windows, images.shape[-1])

    def _distance(self, features: Tensor, matches: Tensor, windows: Windows | None, resolution: int) -> Tensor:
        if windows is None:
            reals = self.reals[matches].float()  # (B, D)
        else:
            with torch.no_grad():
                images = self.window_images[matches.to(self.window_images.device)].to(features.device)
                reals = self._flatten(self._maps(cut_windows(images, windows, resolution)))
        return (features - reals).square().sum(dim=1).mean()

    @torch.no_grad()
    def update_bonus(self, matches: Tensor, class_labels: Tensor | None = None) -> None:
        """Moves the bonus of all real images of the classes in a batch, after all its images were matched."""
        class_labels = self._labels(matches, class_labels)
        for label in class_labels.unique().tolist():
            members, chosen = self.members[label], matches[class_labels == label]
            self.bonus[members] += self.bonus_rate * len(chosen) / len(members)
            self.bonus.index_add_(0, chosen, torch.full_like(chosen, -self.bonus_rate, dtype=self.bonus.dtype))

    def _match(self, features: Tensor, class_labels: Tensor) -> Tensor:
        """For each row of features (B, D) the real image of its class with the least squared distance less bonus."""
        matches = torch.empty_like(class_labels)
        for label in class_labels.unique().tolist():
            rows, members = class_labels == label, self.members[label]
            reals = self.reals[members].float()  # (M, D)
            cost = torch.cdist(features[rows].float(), reals).square() - self.bonus[members]
            matches[rows] = members[cost.argmin(dim=1)]
        return matches

    @staticmethod
    def _labels(batch: Tensor, class_labels: Tensor | None) -> Tensor:
        """(B,) integers; one class for all where there are none."""
        return torch.zeros(len(batch), dtype=torch.long, device=batch.device) if class_labels is None else class_labels

    def _maps(self, images: Tensor) -> list[Tensor]:
        return [images, *self.feature_network(images)]

    def _flatten(self, maps: list[Tensor]) -> Tensor:
        """Maps to standardised rows (B, D) whose squared distances are those of the loss."""
        scaled = [(x.float() - mean) * scale for x, (mean, scale) in zip(maps, self.scales, strict=True)]
        return torch.cat([x.flatten(1) for x in scaled], dim=1)
