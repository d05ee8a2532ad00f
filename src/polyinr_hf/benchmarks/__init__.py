"""What rendering and training cost on this machine."""

from .._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        ".adaptive": (
            "AdaptiveResult",
            "adaptive_as_json",
            "draw_where_run",
            "format_adaptive_table",
            "measure_adaptive_rendering",
            "plot_costs",
        ),
        ".rendering": ("RenderResult", "as_json", "format_table", "matmul_limit", "measure_rendering"),
        ".training": ("format_training", "measure_training"),
    },
    extra={".training": "train"},
)
