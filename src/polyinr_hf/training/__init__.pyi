# The public names: type checkers read them here, and lazy_exports loads them when they are first asked for.
from .pictures import PicturesTrainer as PicturesTrainer
from .plan import (
    PEAK_TFLOPS as PEAK_TFLOPS,
    check_memory as check_memory,
    format_plan as format_plan,
    plan_recipe as plan_recipe,
    plan_run as plan_run,
)
from .recipe import Recipe as Recipe, differences as differences, load_recipe as load_recipe, save_recipe as save_recipe
from .reporting import next_commands as next_commands, plot_log as plot_log
from .small import describe_shorter_way as describe_shorter_way, small_recipe as small_recipe
from .trainer import Trainer as Trainer
