"""An image -> its affine parameters (section 4.2 of the paper), and, by tuning, weights fitted to it."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__, extra="eval")
