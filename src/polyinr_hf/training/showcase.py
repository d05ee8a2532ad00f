"""What a run on few pictures leaves to look at, and how far its samples are from the pictures it was shown."""

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from ..data.dataset import ImageDataset
from ..editing import draw_frames, interpolate, save_film
from ..images import sample_images, save_grid
from ..pipeline_poly_inr import PolyINRPipeline

SHEET_COLUMNS = 8
FILM_STOPS, FRAMES_PER_STOP, FILM_SIDE, FILM_TOLERANCE = 6, 12, 128, 0.1
MAX_MEASURED = 1000  # samples, and pictures, that are compared: a minute of a CPU


def save_contact_sheet(pipeline: PolyINRPipeline, path: Path) -> None:
    """Samples of fixed latents, a row a class where there are any."""
    save_grid(
        sample_images(pipeline.generator, pipeline.generator.config.sample_size, SHEET_COLUMNS), SHEET_COLUMNS, path
    )


def save_morph_film(pipeline: PolyINRPipeline, w: Tensor, path: Path) -> None:
    """A film through the images of w (K, L, w_dim) and back to the first."""
    frames = interpolate(w, FRAMES_PER_STOP * len(w), loop=True)  # (F, L, w_dim)
    with torch.no_grad():
        A = pipeline.generator.affine(frames)  # (F, L, n, 3)
    save_film(draw_frames(pipeline, A, height=FILM_SIDE, width=FILM_SIDE, tolerance=FILM_TOLERANCE), path)


def describe_samples(
    pipeline: PolyINRPipeline, dataset: ImageDataset, pictures: Tensor, accelerator: Accelerator, cache_dir: Path
) -> str:
    """A sentence on what the model is, with how near its samples are to the pictures, measured.

    Args:
        pictures: uint8 (N, 3, S, S), all of the dataset.
        cache_dir: for features that processes share.
    """
    from ..evaluation import PipelineSource, TensorSource, image_features, nearest_pictures
    from ..evaluation.sources import label_frequencies

    side, number = pictures.shape[-1], len(pictures)
    those = torch.linspace(0, number - 1, min(number, MAX_MEASURED)).round().long().to(pictures.device)
    frequencies = label_frequencies(dataset.num_classes, dataset)
    samples = PipelineSource(pipeline, len(those), frequencies, resolution=side)
    options = {"accelerator": accelerator, "cache_dir": cache_dir}
    real = image_features(TensorSource(pictures[those].cpu()), "pictures", **options)
    drawn = image_features(samples, "samples", **options)
    if real is None or drawn is None:  # another process has them all
        return ""
    distances, _, reached = nearest_pictures(drawn, real)
    between = (
        torch.cdist(real, real).fill_diagonal_(float("inf")).amin(dim=1).median() if number > 1 else torch.ones(())
    )
    by_chance = 1 - (1 - 1 / len(those)) ** len(those)
    share = (distances.median() / between).item()
    return (
        f"This model redraws and blends the {number:,} pictures it was shown. Half of {len(those):,} samples are "
        f"within {share:.2f} of the distance between neighboring pictures from the nearest one; {reached:.0%} of the "
        f"pictures are some sample's nearest ({by_chance:.0%} if it drew pictures at random)."
    )
