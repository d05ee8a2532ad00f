"""Train a generator by a recipe.

    accelerate launch scripts/train.py configs/emoji.yaml --output runs/emoji
    accelerate launch scripts/train.py configs/emoji.yaml --output runs/mine data.dataset=my/folder stages.0.kimg=500
    accelerate launch scripts/train.py configs/emoji.yaml --output runs/emoji --resume

    ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py configs/emoji.yaml --output runs/emoji

The last line trains in two processes on CPUs, for which `accelerate launch --cpu --num_processes 2` needs MPI.
SIGTERM or Ctrl-C saves a checkpoint after the step at hand and exits with 0.
"""

import argparse

from arguments import one_line_errors
from polyinr_hf import training


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="YAML file, such as configs/emoji.yaml")
    parser.add_argument("overrides", nargs="*", help="key=value, dotted: data.dataset=..., stages.0.batch_size=32")
    parser.add_argument("--output", required=True, help="folder for checkpoints, exports, samples and logs")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in --output")
    parser.add_argument("--init_from", help="pipeline folder or Hub id to fine-tune (run.init_from)")
    arguments = parser.parse_intermixed_args(arguments)
    overrides = arguments.overrides + ([f"run.init_from={arguments.init_from}"] if arguments.init_from else [])
    with one_line_errors():
        recipe = training.load_recipe(arguments.recipe, overrides)
        trainer = training.Trainer(recipe, arguments.output, resume=arguments.resume)
    trainer.train()


if __name__ == "__main__":
    main()
