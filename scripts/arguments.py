"""What scripts share: arguments that say which pipeline and which images, or which training run, and a progress bar."""

import argparse
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from torch import Tensor
from tqdm import tqdm

from polyinr_hf import BUNDLED_MODEL, training
from polyinr_hf.commands import IS_WHEEL, ROOT, command_line, find_file
from polyinr_hf.editing import SEED_SOURCES, draw_latents, encode_seeds, w_centroids
from polyinr_hf.pipeline_poly_inr import PolyINRPipeline

if TYPE_CHECKING:
    from polyinr_hf.inversion import InversionStep

# The sentence of `naming_extra`: a script's user has not asked for the function that it begins with.
MISSING_EXTRA = re.compile(
    r'\S+ needs the package (?P<package>\S+), which is not installed: pip install "polyinr-hf\[(?P<extra>\w+)\]"'
)
EXTRAS_TOGETHER = {"train": "train,eval"}  # a run measures what it made
BAR_SECONDS = 1.0  # what takes less time has no progress bar


def _missing_extra(found: re.Match) -> str:
    """What to install where a package is missing, as README has it for scripts: of a clone, or of the wheel."""
    extras = EXTRAS_TOGETHER.get(found["extra"], found["extra"])
    where = f'"polyinr-hf[{extras}]"' if IS_WHEEL else f'-e "{ROOT}[{extras}]"'
    return f"The package {found['package']} is not installed: pip install {where}"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends a script with one line instead of a traceback where a person can put right what went wrong.

    An extra that is not installed is such a case: import what needs one inside the block.
    """
    diffusers_logging.disable_progress_bar()  # of the one component that a pipeline has
    try:
        yield
    except OSError as error:
        is_systems = error.filename is not None and error.strerror is not None  # "[Errno 2] No such file: 'x'"
        sys.exit(f"error: {error.filename}: {error.strerror}" if is_systems else f"error: {error}")
    except (ValueError, RuntimeError, ImportError) as error:
        text = str(error).replace("`name_or_path`", "`--dataset`")  # as load_image_dataset calls it
        text = text.replace("`pipe.labels` lists", f"`{command_line('generate')} --list_classes` lists")
        sys.exit(f"error: {MISSING_EXTRA.sub(_missing_extra, text)}")
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
    parser.add_argument(
        "--pipeline",
        default=str(BUNDLED_MODEL) if BUNDLED_MODEL.is_dir() else None,
        required=not BUNDLED_MODEL.is_dir(),
        help="pipeline folder or Hub id (default: the bundled model, pretrained/poly-inr-emoji)",
    )
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
    """The pipeline asked for, without progress bars of its own.

    Raises:
        ValueError, OSError: for a pipeline or a device that is not there.
    """
    pipe = PolyINRPipeline.from_pretrained(args.pipeline, dtype=getattr(torch, args.dtype))
    try:
        pipe.to(args.device)
    except RuntimeError as error:
        raise ValueError(f"`--device` must be one that is here, such as cpu, got {args.device}: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `sampling` reads."""
    parser.add_argument(
        "--truncation_psi",
        type=float,
        help="truncation; below 1, images are more typical and less varied (default: the pipeline's own)",
    )
    parser.add_argument("--truncation_cutoff", type=int, help="truncate only the levels below this one")
    parser.add_argument(
        "--centroids",
        metavar="C",
        help="truncate towards the nearest of C centroids of w, not the mean of the class; or an .npy file of them",
    )
    parser.add_argument(
        "--seed_source",
        choices=SEED_SOURCES,
        default="torch",
        help="whose random numbers: with numpy's a seed is the image that it is in the authors' scripts, and draws its "
        "class, too, where none is given (default: torch)",
    )


def sampling(pipe: PolyINRPipeline, args: argparse.Namespace) -> dict:
    """What `encode_seeds` is told of every image.

    Raises:
        ValueError, OSError, ImportError: for centroids that there are not, or cannot be computed.
    """
    centroids = args.centroids
    if centroids is not None and centroids.isdecimal():
        centroids = w_centroids(pipe, int(centroids))
    elif centroids is not None:
        centroids = torch.from_numpy(np.load(centroids, allow_pickle=False)).to(pipe.device)
    names = ("truncation_psi", "truncation_cutoff", "seed_source")
    return {name: getattr(args, name) for name in names} | {"centroids": centroids}


def add_image_arguments(parser: argparse.ArgumentParser, seeds: str, prefix: str = "") -> None:
    """Adds what `encode_images` reads beside `add_sampling_arguments`. `seeds` are drawn where nothing is asked for."""
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
        help="images as generate.py --save or inversion saves them, before those of the seeds",
    )
    parser.set_defaults(**{f"{prefix}default_seeds": parse_seeds(seeds)})


def seeds_of(args: argparse.Namespace, prefix: str = "") -> list[int]:
    """Seeds asked for, or the default ones where there are no files of images either."""
    seeds, parameters = getattr(args, f"{prefix}seeds"), getattr(args, f"{prefix}parameters")
    return seeds or ([] if parameters else getattr(args, f"{prefix}default_seeds"))


def encode_images(pipe: PolyINRPipeline, args: argparse.Namespace, prefix: str = "", space: str = "affine") -> Tensor:
    """A (K, L, n, 3), or w (K, L, w_dim), of all images asked for: those of files, then those of seeds.

    Raises:
        ValueError, OSError: for a file that is none or is of another model's size, options that change nothing, or as
            `encode_seeds`.
    """
    seeds, labels = seeds_of(args, prefix), getattr(args, f"{prefix}class_labels")
    if labels and not seeds:
        raise ValueError(f"`--{prefix}class` must come with `--{prefix}seeds` beside `--{prefix}parameters`.")
    if (
        args.truncation_psi is not None
        and not seeds
        and not (hasattr(args, "target_seeds") and seeds_of(args, "target_"))
    ):
        raise ValueError("`--truncation_psi` must come with `--seeds`: images of files are drawn as they are.")
    images = [load_image(pipe, path, space) for path in getattr(args, f"{prefix}parameters") or []]
    if seeds:
        if labels:
            check_class_labels(pipe, labels)
        images.append(encode_seeds(pipe, labels, seeds, space=space, **sampling(pipe, args)))
    return torch.cat(images)


def load_image(pipe: PolyINRPipeline, path: str, space: str) -> Tensor:
    """A, or w, of a file."""
    from polyinr_hf.inversion import load_affine_parameters, load_w

    w = load_w(path)
    if space == "w" and w is None:
        raise ValueError(f"`--space` must be affine, {path} holds no w.")
    try:
        if space == "w":
            pipe.generator.check_w(w)
            return w.to(pipe.device)
        try:
            A = load_affine_parameters(path)
        except ValueError:
            if w is None:
                raise
            A = pipe.encode(w=w)
        pipe.generator.check_affine_parameters(A)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return A.to(pipe.device)


def check_class_labels(pipe: PolyINRPipeline, labels: list[str] | None) -> list[int] | None:
    """Ids of the classes asked for, as `pipe.class_ids`, with a word on quotes where the parts of a name are classes.

    Raises:
        ValueError: for a class that there is not.
    """
    try:
        return pipe.class_ids(labels)
    except ValueError as error:
        name = " ".join(map(str, labels or []))
        try:
            pipe.get_label_ids(name)
        except ValueError:
            raise error from None
        raise ValueError(f'`--class` must have names of several words in quotes: --class "{name}".') from None


def check_output_folder(folder: Path) -> None:
    """Raises ValueError unless files can be written into `folder`, which need not be there yet."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise ValueError(f"`--output` must be in a folder, got {folder}: {place} is a file.")
    if not os.access(place, os.W_OK):
        raise ValueError(f"`--output` must be where you may write, got {folder}: {place} is not.")


def class_names(pipe: PolyINRPipeline, labels: list[int | str] | None) -> list[str]:
    """The first name of the class that each label is a name or the id of."""
    names = pipe.id2label
    return [names.get(key, f"class {key}").split(",")[0].strip() for key in pipe.class_ids(labels) or []]


def image_names(pipe: PolyINRPipeline, args: argparse.Namespace, prefix: str = "") -> list[str]:
    """What the images of `encode_images` are called: files by their name, samples by class and seed."""
    seeds = seeds_of(args, prefix)
    files = [Path(path).stem for path in getattr(args, f"{prefix}parameters") or []]
    ids, _ = (
        draw_latents(pipe, getattr(args, f"{prefix}class_labels"), seeds, args.seed_source) if seeds else (None, None)
    )
    kinds = class_names(pipe, ids) if ids else ["seed"] * len(seeds)
    seeds = seeds * (len(kinds) // len(seeds)) if seeds else []
    return files + [f"{kind} {seed}" for kind, seed in zip(kinds, seeds, strict=True)]


class ProgressBar(tqdm):
    """A bar for what takes longer than `BAR_SECONDS` and has several parts; at 0 % nothing is left of it."""

    def __init__(self, iterable=None, **kwargs):
        total = kwargs.get("total", len(iterable) if hasattr(iterable, "__len__") else None)
        super().__init__(iterable, delay=BAR_SECONDS, disable=total == 1, **kwargs)

    def close(self) -> None:
        if not self.disable:
            self.leave = self.n > self.initial
        super().close()

    # tqdm.write clears and draws all bars, those that are not due as well.
    def clear(self, *args, **kwargs) -> None:
        if not self.disable and time.time() >= self.start_t + self.delay:
            super().clear(*args, **kwargs)

    def refresh(self, *args, **kwargs) -> None:
        if not self.disable and time.time() >= self.start_t + self.delay:
            super().refresh(*args, **kwargs)


def say(path: Path) -> None:
    """Prints a path above a progress bar."""
    tqdm.write(str(path))
    sys.stdout.flush()


class CallbackProgress:
    """A tqdm bar for callbacks of (done, in all), and for those of inversion."""

    def __init__(self, unit: str, name: str | None = None):
        self.bar = ProgressBar(desc=name, unit=unit, unit_scale=unit == "pixel")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.bar.close()

    def update(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)

    def update_step(self, step: "InversionStep") -> None:
        # tqdm's own remaining time takes all steps to be as long as the last ones.
        remaining = tqdm.format_interval(step.remaining_seconds)
        self.bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<" + remaining + "{postfix}]"
        self.bar.set_postfix(loss=f"{step.loss:.5f}", refresh=False)
        self.update(step.step, step.num_steps)


def add_run_arguments(parser: argparse.ArgumentParser, recipe_help: str) -> None:
    """Adds what `read_recipe` reads."""
    parser.add_argument(
        "recipe", nargs="?", help=f"{recipe_help} (default: small with --dataset, with --resume the run's)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        help="recipe values to change, such as data.dataset=my/pictures stages.0.batch_size=32; all keys, and what "
        "they may be, are in src/polyinr_hf/training/recipe.py",
    )
    parser.add_argument("--dataset", help="pictures to train on: a folder or a Hub id (data.dataset)")
    parser.add_argument("--output", required=True, type=Path, help="folder for checkpoints, exports, samples and logs")
    parser.add_argument("--resume", action="store_true", help="resume from the newest complete checkpoint in --output")


def read_recipe(arguments: argparse.Namespace) -> "training.Recipe":
    """The recipe asked for: a file, `small`, or with --resume and no other that of the run; with overrides applied."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("polyinr_hf").setLevel(logging.INFO)  # how the pictures' folder was read, what is on the Hub
    name, overrides = arguments.recipe, list(arguments.overrides)
    if name is not None and "=" in name:  # an override where no recipe is named
        name, overrides = None, [name, *overrides]
    if odd := [text for text in overrides if "=" not in text]:
        hint = f": for a folder of pictures write --dataset {odd[0]}" if Path(odd[0]).exists() else ""
        raise ValueError(f"`overrides` must be KEY=VALUE, such as run.seed=1, got {odd[0]!r}{hint}.")
    if name is None and arguments.dataset is not None and not arguments.resume:
        name = "small"
    if arguments.dataset is not None:
        overrides.insert(0, f"data.dataset={arguments.dataset}")
    if name not in (None, "small"):
        name = str(find_file(name))
    if name not in (None, "small") and not Path(name).is_file():
        kind = f"a folder: of pictures, write --dataset {name}" if Path(name).is_dir() else "which is no file"
        raise ValueError(f"`recipe` must be small or a YAML file, such as configs/finetune.yaml, got {name!r}, {kind}.")
    init_from, minutes = getattr(arguments, "init_from", None), getattr(arguments, "minutes", None)
    own = arguments.output / "recipe.yaml"
    if name == "small":
        if not (arguments.resume and own.exists()):
            start = None if init_from == "scratch" else init_from or str(BUNDLED_MODEL)
            return training.small_recipe(overrides, minutes, start)
        name = None  # the run's own
    if minutes is not None:
        overrides.append(f"run.codes={minutes:g} minutes")
    if init_from is not None:
        overrides.append(f"run.init_from={'null' if init_from == 'scratch' else init_from}")
    if name is None:
        if not arguments.resume:
            raise ValueError("`recipe` is missing: name one, such as small or configs/ffhq.yaml, or --resume a run.")
        if not own.is_file():
            raise ValueError(f"`--output` must be the folder of a run with --resume, got {arguments.output}.")
        return training.load_recipe(own, overrides)
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
    print(f"{'finished' if finished else 'stopped'} at {trainer.position}: {trainer.output_dir}")
    recipe = trainer.recipe
    print(training.next_commands(trainer.output_dir, recipe.data.dataset, command, finished, recipe.run.codes is None))
