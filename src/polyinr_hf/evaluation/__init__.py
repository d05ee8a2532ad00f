"""Metrics of generated images against real ones, as the paper's tables have them.

from polyinr_hf.evaluation import evaluate
result = evaluate(pipeline, load_image_dataset("data/emoji-64"), ["fd_lite0"], num_samples=10_000)
"""

from polyinr_hf.evaluation.evaluator import Evaluator, evaluate, truncation_sweep
from polyinr_hf.evaluation.neighbours import class_diversity, nearest_neighbours, neighbours_figure
from polyinr_hf.evaluation.reconstruction import psnr, ssim
from polyinr_hf.evaluation.report import eval_results, format_table, plot_truncation_sweep, write_json
from polyinr_hf.evaluation.sources import DatasetSource, PipelineSource, TensorSource

__all__ = [
    "DatasetSource",
    "Evaluator",
    "PipelineSource",
    "TensorSource",
    "class_diversity",
    "eval_results",
    "evaluate",
    "format_table",
    "nearest_neighbours",
    "neighbours_figure",
    "plot_truncation_sweep",
    "psnr",
    "ssim",
    "truncation_sweep",
    "write_json",
]
