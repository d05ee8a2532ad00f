"""What scripts share: arguments that say which pipeline and which images, or which training run, and a progress bar."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from polyinr_hf import training
from polyinr_hf.editing import encode_seeds
from polyinr_hf.pipeline_poly_inr import PolyINRPipeline

if TYPE_CHECKING:
    from polyinr_hf.inversion import InversionStep


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a script with one line instead of a traceback where a person can put right what went wrong.

    An extra that is not installed is such a case: import what needs one inside the block.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def parse_seeds(text: str) -> list[int]:
    """ "0-3,9" -> [0, 1, 2, 3, 9]."""
    seeds = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds such as 0-15 or 0-3,9")
        seeds += range(int(match[1]), int(match[2] or match[1]) + 1)
    return seeds


def add_pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `load_pipeline` reads."""
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="(default: float32)"
    )
    parser.add_argument("--device", default="cpu", help="device to run on, such as cpu or cuda (default: cpu)")


def add_command(commands, function: Callable[[argparse.Namespace], None], output: str) -> argparse.ArgumentParser:
    """Adds the command that runs `function`, with its name and docstring, and writes to `output` by default."""
    text = function.__doc__
    parser = commands.add_parser(function.__name__, help=text.splitlines()[0], description=text)
    parser.set_defaults(function=function)
    add_pipeline_arguments(parser)
    parser.add_argument(
        "--output", type=Path, default=Path(output), help="file or folder to write (default: %(default)s)"
    )
    return parser


def add_tolerance_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="above 0, the network runs only where the image has detail, and the rest is interpolated: 0.1 is hard to "
        "tell from the exact image and several times faster, more so for large images (default: 0, exact)",
    )


def load_pipeline(args: argparse.Namespace) -> PolyINRPipeline:
    """The pipeline asked for, without progress bars of its own."""
    pipe = PolyINRPipeline.from_pretrained(args.pipeline, dtype=getattr(torch, args.dtype)).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def add_image_arguments(parser: argparse.ArgumentParser, seeds: str, prefix: str = "") -> None:
    """Adds what `encode_images` reads. `seeds` are drawn where nothing is asked for."""
    parser.add_argument(
        f"--{prefix}seeds",
        f"--{prefix}seed",
        type=parse_seeds,
        help=f"random seeds, such as 7, 0-15 or 0-3,9 (default: {seeds}, or none beside --{prefix}parameters)",
    )
    parser.add_argument(
        f"--{prefix}class",
        dest=f"{prefix}class_labels",
        nargs="+",
        action="extend",
        metavar="CLASS",
        help="class names or ids, one for each seed or one for all; leave out for an unconditional model",
    )
    parser.add_argument(
        f"--{prefix}parameters",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="affine parameters, as inversion saves them, before the images of the seeds",
    )
    parser.set_defaults(**{f"{prefix}default_seeds": parse_seeds(seeds)})


def seeds_of(args: argparse.Namespace, prefix: str = "") -> list[int]:
    """Seeds asked for, or the default ones where there are no affine parameters either."""
    seeds, parameters = getattr(args, f"{prefix}seeds"), getattr(args, f"{prefix}parameters")
    return seeds or ([] if parameters else getattr(args, f"{prefix}default_seeds"))


def encode_images(pipe: PolyINRPipeline, args: argparse.Namespace, prefix: str = "") -> Tensor:
    """Affine parameters A (K, L, n, 3) of all images asked for: those of files, then those of seeds.

    Raises:
        ValueError, OSError: for a file that is none or is of another model's size, or as `encode_seeds`.
    """
    images = []
    for path in getattr(args, f"{prefix}parameters") or []:
        from polyinr_hf.inversion import load_affine_parameters

        A = load_affine_parameters(path)
        try:
            pipe.generator.check_affine_parameters(A)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        images.append(A.to(pipe.device))
    if seeds := seeds_of(args, prefix):
        labels = getattr(args, f"{prefix}class_labels")
        images.append(encode_seeds(pipe, labels, seeds, args.truncation_psi))
    return torch.cat(images)


def class_name(pipe: PolyINRPipeline, label: str) -> str:
    """The first name of the class that `label` is a name or the id of."""
    key = pipe.get_label_ids(label)[0]
    return pipe.id2label.get(key, f"class {key}").split(",")[0].strip()


def image_names(pipe: PolyINRPipeline, args: argparse.Namespace, prefix: str = "") -> list[str]:
    """What the images of `encode_images` are called: files by their name, samples by class and seed."""
    names = [Path(path).stem for path in getattr(args, f"{prefix}parameters") or []]
    seeds, labels = seeds_of(args, prefix), getattr(args, f"{prefix}class_labels")
    if labels and len(labels) == 1:
        labels = labels * len(seeds)
    for index, seed in enumerate(seeds):
        names.append(f"{class_name(pipe, labels[index])} {seed}" if labels else f"seed {seed}")
    return names


class CallbackProgress:
    """A tqdm bar for callbacks of (done, in all), and for those of inversion."""

    def __init__(self, unit: str, name: str | None = None):
        self.bar = tqdm(desc=name, unit=unit, unit_scale=unit == "pixel")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def update(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def update_step(self, step: "InversionStep") -> None:
        self.bar.set_postfix(loss=f"{step.loss:.5f}", refresh=False)
        self.update(step.step, step.num_steps)


def add_run_arguments(parser: argparse.ArgumentParser, recipe_help: str) -> None:
    """Adds what `read_recipe` reads."""
    parser.add_argument("recipe", nargs="?", help=f"{recipe_help}; not needed with --resume")
    parser.add_argument(
        "overrides", nargs="*", help="recipe values to change, such as data.dataset=my/pictures stages.0.batch_size=32"
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for checkpoints, exports, samples and logs")
    parser.add_argument("--resume", action="store_true", help="resume from the newest complete checkpoint in --output")


def read_recipe(arguments: argparse.Namespace) -> "training.Recipe":
    """The recipe asked for: a file, `small`, or with --resume and no other that of the run; with overrides applied."""
    name, overrides = arguments.recipe, list(arguments.overrides)
    if name is not None and "=" in name:  # an override where no recipe is named
        name, overrides = None, [name, *overrides]
    if getattr(arguments, "init_from", None):
        overrides.append(f"run.init_from={arguments.init_from}")
    own = arguments.output / "recipe.yaml"
    if name is None:
        if not arguments.resume:
            raise ValueError("`recipe` is missing: name one, such as small or configs/ffhq.yaml, or --resume a run.")
        return training.load_recipe(own, overrides)
    if name == "small":
        return training.small_recipe(overrides)
    recipe = training.load_recipe(name, overrides)
    if arguments.resume and own.exists() and (changed := training.differences(training.load_recipe(own), recipe)):
        print(f"resuming by {name}, not by {own}: {'; '.join(changed)}", file=sys.stderr)
    return recipe


def train_and_show_end(trainer, command: str) -> None:
    """Trains; prints where the run is and which commands go on from there. A broken picture ends it in one sentence."""
    from polyinr_hf.data import CorruptImageError

    try:
        finished = trainer.train()
    except CorruptImageError as error:  # a worker process puts its traceback before the sentence
        sys.exit(f"error: {str(error).strip().rpartition('CorruptImageError: ')[2]}")
    except (FloatingPointError, OSError) as error:  # not finite any more; no space left
        sys.exit(f"error: {error}")
    if not trainer.accelerator.is_main_process:
        return
    seen, total = trainer.images_seen / 1000, trainer.total_images / 1000
    state = "finished" if finished else "stopped"
    print(f"{state} at {seen:g} of {total:g} kimg: {trainer.output_dir}")
    print(training.next_commands(trainer.output_dir, trainer.recipe.data.dataset, command, finished))
