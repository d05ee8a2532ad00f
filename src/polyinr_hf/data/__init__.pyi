# The public names: type checkers read them here, and lazy_exports loads them when they are first asked for.
from ..images import preprocess_image as preprocess_image, to_float as to_float, to_rgb as to_rgb
from .dataset import (
    CorruptImageError as CorruptImageError,
    DecodedRows as DecodedRows,
    ImageDataset as ImageDataset,
    batches_once as batches_once,
    collate as collate,
    image_batches as image_batches,
    load_image_dataset as load_image_dataset,
)
from .loader import ImageLoader as ImageLoader, make_loader as make_loader
