"""Images in: datasets, training batches, and the emoji set."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".dataset": (
            "CorruptImageError",
            "DecodedRows",
            "ImageDataset",
            "batches_once",
            "collate",
            "image_batches",
            "load_image_dataset",
        ),
        ".emoji": ("EMOJI_SETS", "Emoji", "LABELS", "STANDARD_GROUPS", "STANDARD_SETS", "rasterize", "read_emoji"),
        ".emoji_dataset": ("build_emoji_splits", "emoji_card", "write_emoji_dataset"),
        ".loader": ("ImageLoader", "make_loader"),
        "..images": ("preprocess_image", "to_float", "to_rgb"),
    },
    extra={".dataset": "train", ".loader": "train", ".emoji": "emoji", ".emoji_dataset": "emoji"},
)
