"""Training: recipes, runs on few pictures, the adversarial step and the run around it."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__, extra="train")
