"""Train a generator by a recipe.

    python scripts/train.py small --output runs/mine --dataset path/to/pictures
    python scripts/train.py configs/finetune.yaml --output runs/mine --dataset path/to/pictures
    python scripts/train.py examples/emoji/kinds.yaml --output runs/emoji stages.0.kimg=500
    python scripts/train.py --output runs/emoji --resume
    accelerate launch scripts/train.py configs/imagenet.yaml --output runs/imagenet  # on several GPUs

`small` is no file: it is made for the number of pictures and the device found. What a recipe costs is printed before
the first step. SIGTERM or Ctrl-C saves a checkpoint after the step at hand and exits with 0; --resume goes on from
there, by the recipe in the run's folder.

    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py examples/emoji/kinds.yaml --output runs/emoji

The last line trains in two processes on CPUs, for which `accelerate launch --cpu --num_processes 2` needs MPI.
"""

import sys

from arguments import add_run_arguments, one_line_errors, read_recipe, train_and_show_end
from polyinr_hf import training
from polyinr_hf.commands import command_line, make_parser


def main(arguments: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    add_run_arguments(parser, "small, or a YAML file, such as examples/emoji/kinds.yaml")
    parser.add_argument(
        "--init_from",
        help="pipeline folder or Hub id to start from (run.init_from); small: the bundled one by default, or scratch",
    )
    parser.add_argument("--minutes", type=float, help="time of small (default: 15, on a GPU 30) (run.codes)")
    arguments = parser.parse_intermixed_args(arguments)
    with one_line_errors():
        recipe = read_recipe(arguments)
        if recipe.run.codes:
            trainer, plan = training.PicturesTrainer(recipe, arguments.output, resume=arguments.resume), None
        else:
            trainer = training.Trainer(recipe, arguments.output, resume=arguments.resume)
            plan = training.plan_run(trainer.recipe, trainer.accelerator, trainer.dataset)
            if not trainer.dataset.streaming:
                plan = "\n".join(filter(None, [plan, training.describe_shorter_way(recipe, len(trainer.dataset))]))
    if plan and trainer.accelerator.is_main_process:
        print(plan, file=sys.stderr)
    train_and_show_end(trainer, command_line("train", launched=trainer.accelerator.num_processes > 1))


if __name__ == "__main__":
    main()
