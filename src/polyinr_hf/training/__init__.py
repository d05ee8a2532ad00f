"""Training: recipes, the adversarial step, pretraining, and the run around them."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".config": ("Recipe", "load_recipe", "save_recipe"),
        ".pretraining": ("Pretrainer",),
        ".reporting": ("plot_log",),
        ".trainer": ("Trainer",),
    },
    extra="train",
)
