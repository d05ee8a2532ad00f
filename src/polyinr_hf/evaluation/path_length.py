"""Perceptual path length, torch-fidelity's, of a pipeline's generator."""

import numpy as np
from torch import Tensor, nn
from torch_fidelity.generative_model_modulewrapper import GenerativeModelModuleWrapper
from torch_fidelity.metric_ppl import KEY_METRIC_PPL_RAW, calculate_ppl

from .extractors import lpips_weights
from .sources import PipelineSource


class _Renderer(nn.Module):
    """z (B, z_dim), labels (B,) -> images (B, 3, R, R), float32 in [0, 255]: rounding would hide steps of 1e-4."""

    def __init__(self, source: PipelineSource):
        super().__init__()
        self.generator = source.pipeline.generator
        self.resolution, self.truncation_psi = source.resolution, source.truncation_psi

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        device = self.generator.device
        labels = None if labels is None else labels.to(device)
        w = self.generator.map(z.to(device), labels, self.truncation_psi)  # (B, L, w_dim)
        images = self.generator.render(self.generator.affine(w), self.resolution, self.resolution)
        return (images.float().clamp(-1, 1) + 1) * 127.5


def perceptual_path_length(source, weights=None, batch_size: int = 32, progress: bool = False) -> dict[str, float]:
    """Mean of LPIPS(G(z), G(slerp(z, z', 1e-4))) / 1e-8, without its outer percentiles (Karras et al. 2019).

    As many pairs as `source` has samples, classes drawn evenly; images are resized to 64 x 64 for LPIPS. Always in
    float32: the images differ by little.

    Raises:
        ValueError: `source` is no `PipelineSource`, or upsamples.
        FileNotFoundError: LPIPS' weights cannot be had; the message names the file.
    """
    if not isinstance(source, PipelineSource) or source.upsample_to is not None:
        raise ValueError(
            "`source` must be a pipeline that renders the images itself, without upsampling: ppl moves through its z."
        )
    config = source.pipeline.generator.config
    model = GenerativeModelModuleWrapper(_Renderer(source), config.z_dim, "normal", config.num_classes or 0)
    with lpips_weights(weights):
        values = calculate_ppl(
            1,
            input1=model,
            input1_model_z_size=config.z_dim,
            input1_model_z_type="normal",
            input1_model_num_classes=config.num_classes or 0,
            input1_model_num_samples=len(source),
            ppl_sample_similarity_dtype="float32",
            ppl_z_interp_mode="slerp_any",
            ppl_reduction="none",
            # Its own discarding calls numpy in a way that numpy 2.4 no longer knows.
            ppl_discard_percentile_lower=None,
            ppl_discard_percentile_higher=None,
            rng_seed=source.seed,
            batch_size=batch_size,
            cuda=source.pipeline.generator.device.type == "cuda",
            verbose=progress,
        )
    distances = values[KEY_METRIC_PPL_RAW]
    low, high = np.percentile(distances, 1, method="lower"), np.percentile(distances, 99, method="higher")
    inner = distances[(low <= distances) & (distances <= high)]
    return {"ppl": float(inner.mean()), "ppl_std": float(inner.std())}
