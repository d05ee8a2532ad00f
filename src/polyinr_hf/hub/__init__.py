"""Sharing on the Hugging Face Hub: which files of a pipeline folder, how they get there, and their model card."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
