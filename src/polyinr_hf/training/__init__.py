"""Training: recipes, the adversarial step, pretraining, and the run around them."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".config": ("Recipe", "differences", "load_recipe", "save_recipe"),
        ".plan": ("PEAK_TFLOPS", "check_memory", "format_plan", "plan_recipe", "plan_run"),
        ".pretraining": ("Pretrainer",),
        ".reporting": ("next_commands", "plot_log"),
        ".small": ("small_recipe",),
        ".trainer": ("Trainer",),
    },
    extra="train",
)
