"""Metrics of generated images against real ones, as the paper's tables have them.

from polyinr_hf.evaluation import evaluate
result = evaluate(pipeline, load_image_dataset("data/emoji-64"), ["fd_lite0"], num_samples=10_000)
"""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__, extra="eval")
