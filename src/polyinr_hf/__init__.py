"""Poly-INR for the Hugging Face ecosystem: images as polynomials of their pixel coordinates."""

from ._lazy import lazy_exports

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
