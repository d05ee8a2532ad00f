"""Images in: datasets, training batches, and the emoji set."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__, __file__, extra={".dataset": "train", ".loader": "train", ".emoji": "emoji", ".emoji_dataset": "emoji"}
)
