# The public names: type checkers read them here, and lazy_exports loads them when they are first asked for.
from .adaptive import (
    AdaptiveResult as AdaptiveResult,
    adaptive_as_json as adaptive_as_json,
    draw_where_run as draw_where_run,
    format_adaptive_table as format_adaptive_table,
    measure_adaptive_rendering as measure_adaptive_rendering,
    plot_costs as plot_costs,
)
from .rendering import (
    RenderResult as RenderResult,
    as_json as as_json,
    format_table as format_table,
    matmul_limit as matmul_limit,
    measure_rendering as measure_rendering,
)
from .training import format_training as format_training, measure_training as measure_training
