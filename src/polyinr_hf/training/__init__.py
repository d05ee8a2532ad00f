"""Training: recipes, the adversarial step, pretraining, and the run around them."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__, extra="train")
