"""The generator as training calls it: whole images, with a graph no larger than a chunk of pixels if asked."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..modeling_poly_inr import PolyINRGenerator, pixel_coordinates


class ImageGenerator(nn.Module):
    """The generator as training calls it: latents and labels to images, in chunks of pixels if asked.

    With `pixel_chunk`, each chunk's forward keeps no graph and is run again, chunk by chunk, in the backward: pixels
    are independent, so gradients are the same and memory stays that of one chunk.
    """

    def __init__(self, generator: PolyINRGenerator, compile_synthesis: bool = False):
        super().__init__()
        self.generator = generator
        self._synthesize = torch.compile(generator.synthesize) if compile_synthesis else generator.synthesize

    def forward(
        self, z: Tensor, class_labels: Tensor | None, resolution: int, pixel_chunk: int | None = None
    ) -> Tensor:
        """z (B, z_dim) and labels (B,) -> images (B, 3, R, R); `pixel_chunk` counts pixels of the whole batch."""
        A = self.generator.affine(self.generator.map(z, class_labels))  # (B, L, n, 3)
        coordinates = pixel_coordinates(resolution, resolution, device=A.device)  # (R * R, 2)
        if pixel_chunk is None or not torch.is_grad_enabled():
            chunk = len(coordinates) if pixel_chunk is None else max(1, pixel_chunk // len(z))
            rgb = [self._synthesize(A, part) for part in coordinates.split(chunk)]
        else:
            parts = coordinates.split(max(1, pixel_chunk // len(z)))
            rgb = [checkpoint(self._synthesize, A, part, use_reentrant=False) for part in parts]
        return torch.cat(rgb, dim=1).transpose(1, 2).unflatten(2, (resolution, resolution))  # (B, 3, R, R)
