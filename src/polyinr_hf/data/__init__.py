"""Images in: datasets and training batches."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__, extra={".dataset": "train", ".loader": "train"})
