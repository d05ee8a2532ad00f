"""Pretrain a generator on a small labelled dataset without a discriminator, for scripts/train.py to go on from.

    python scripts/pretrain.py configs/emoji_pretraining.yaml --output runs/emoji-pretrained
    python scripts/pretrain.py configs/emoji_pretraining.yaml --output runs/emoji-pretrained --resume

Each image gets a w of its own, learned together with the generator; then the mapping network learns to lead there.
One process. SIGTERM or Ctrl-C saves a checkpoint after the step at hand and exits with 0.
"""

import argparse

from arguments import one_line_errors
from polyinr_hf import training


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "recipe", help="YAML file with loss.matching_by: latent, such as configs/emoji_pretraining.yaml"
    )
    parser.add_argument("overrides", nargs="*", help="key=value, dotted: data.dataset=..., stages.0.batch_size=32")
    parser.add_argument("--output", required=True, help="folder for checkpoints, exports, samples and logs")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in --output")
    parser.add_argument("--mapping_steps", type=int, default=20_000, help="steps of the mapping network at each export")
    arguments = parser.parse_intermixed_args(arguments)
    if arguments.mapping_steps < 1:
        parser.error(f"--mapping_steps: {arguments.mapping_steps} must be at least 1")
    with one_line_errors():
        recipe = training.load_recipe(arguments.recipe, arguments.overrides)
        trainer = training.Pretrainer(recipe, arguments.output, arguments.resume, arguments.mapping_steps)
    trainer.train()


if __name__ == "__main__":
    main()
