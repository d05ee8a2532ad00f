# The public names: type checkers read them here, and lazy_exports loads them when they are first asked for.
from ..images import psnr as psnr, ssim as ssim
from .evaluator import (
    Evaluator as Evaluator,
    evaluate as evaluate,
    image_features as image_features,
    truncation_sweep as truncation_sweep,
)
from .report import (
    class_diversity as class_diversity,
    eval_results as eval_results,
    format_table as format_table,
    nearest_neighbors as nearest_neighbors,
    nearest_neighbours as nearest_neighbours,
    nearest_pictures as nearest_pictures,
    neighbors_figure as neighbors_figure,
    neighbours_figure as neighbours_figure,
    plot_truncation_sweep as plot_truncation_sweep,
    write_json as write_json,
)
from .sources import (
    DatasetSource as DatasetSource,
    PipelineSource as PipelineSource,
    TensorSource as TensorSource,
    class_frequencies as class_frequencies,
    class_ids as class_ids,
)
