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
from .emoji import (
    EMOJI_SETS as EMOJI_SETS,
    LABELS as LABELS,
    STANDARD_GROUPS as STANDARD_GROUPS,
    STANDARD_SETS as STANDARD_SETS,
    Emoji as Emoji,
    rasterize as rasterize,
    read_emoji as read_emoji,
)
from .emoji_dataset import (
    build_emoji_splits as build_emoji_splits,
    emoji_card as emoji_card,
    write_emoji_dataset as write_emoji_dataset,
)
from .loader import ImageLoader as ImageLoader, make_loader as make_loader
