"""Pretrain a generator on a small labelled dataset without a discriminator, for scripts/train.py to go on from.

    python scripts/pretrain.py examples/emoji/pretraining.yaml --output runs/emoji-pretrained
    python scripts/pretrain.py --output runs/emoji-pretrained --resume

Each image gets a w of its own, learned together with the generator; then the mapping network learns to lead there.
One process. SIGTERM or Ctrl-C saves a checkpoint after the step at hand and exits with 0.
"""

import argparse

from arguments import add_run_arguments, one_line_errors, read_recipe, train_and_show_end
from polyinr_hf import training


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_run_arguments(parser, "YAML file with loss.matching_by: latent, such as examples/emoji/pretraining.yaml")
    parser.add_argument("--mapping_steps", type=int, default=20_000, help="steps of the mapping network at each export")
    arguments = parser.parse_intermixed_args(arguments)
    if arguments.mapping_steps < 1:
        parser.error(f"--mapping_steps: {arguments.mapping_steps} must be at least 1")
    with one_line_errors():
        recipe = read_recipe(arguments)
        trainer = training.Pretrainer(recipe, arguments.output, arguments.resume, arguments.mapping_steps)
    train_and_show_end(trainer, "python scripts/pretrain.py")


if __name__ == "__main__":
    main()
