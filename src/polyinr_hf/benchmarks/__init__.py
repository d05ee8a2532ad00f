"""What rendering and training cost on this machine."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__, extra={".training": "train"})
