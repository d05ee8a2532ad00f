"""What a training step costs, naively implemented and as it is, in one run; the memory that chunks of pixels save.

    python benchmarks/training.py --recipe examples/emoji/kinds.yaml --set data.dataset=data/emoji-64 --json train.json

The first stage of a recipe on its data: seconds of the whole step and of the generator's forward and backward, naively
(float32, eager, nothing folded) and as the recipe says, and the peak memory of the generator's backward with and
without chunks of pixels.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from measuring import in_fresh_process, make_parser, run_command
from polyinr_hf import PolyINRGenerator, training
from polyinr_hf.training.image_generator import ImageGenerator, Windows
from polyinr_hf.training.reporting import peak_memory_mb
from rendering import synthesize_plainly

WARM_UP_STEPS, MEASURED_STEPS = 2, 5


class PlainImageGenerator(ImageGenerator):
    """Every level on the whole pixel grid, composed per pixel, in a graph that keeps it all."""

    def forward(
        self,
        z: Tensor,
        class_labels: Tensor | None,
        resolution: int,
        pixel_chunk: int | None = None,
        windows: Windows | None = None,
    ) -> Tensor:
        if windows is not None:
            raise ValueError(
                "`stages.0.image_resolution` must be null: the naive implementation draws whole images only."
            )
        w = self.generator.map(z, class_labels)  # (B, L, w_dim)
        return synthesize_plainly(self.generator, w, resolution, resolution)  # (B, 3, R, R)


def measure_training(
    recipe: "training.Recipe", memory_sizes: list[int], memory_batch_size: int, pixel_chunk: int
) -> dict:
    """Measures the first stage of a recipe on its own data, and a generator's backward alone.

    Returns:
        `plain_step_seconds`, `plain_generator_seconds`: float32, eager, nothing folded, contiguous feature networks;
        the whole step, and the generator's forward and backward alone. `step_seconds`, `generator_seconds`: as the
        recipe says. `peak_mb`: size -> [plain graph, in chunks of `pixel_chunk` pixels], each in a process of its own,
        of the generator's forward and backward of `memory_batch_size` images, eager, float32.
    """
    plain = replace(recipe, run=replace(recipe.run, mixed_precision="no", compile=False))
    plain_step, plain_generator = in_fresh_process(_measure_step, plain, True)
    step, generator = in_fresh_process(_measure_step, recipe, False)
    results = {"plain_step_seconds": plain_step, "step_seconds": step}
    results |= {"plain_generator_seconds": plain_generator, "generator_seconds": generator, "peak_mb": {}}
    for size in memory_sizes:
        results["peak_mb"][size] = [
            in_fresh_process(_measure_memory, recipe.model.generator_arguments(), size, memory_batch_size, chunk)
            for chunk in (None, pixel_chunk)
        ]
    return results


def format_training(results: dict) -> str:
    """The result of `measure_training` as text, ratios included."""
    lines = ["               plain s     ours s   x plain"]
    for name, key in (("whole step", "step_seconds"), ("generator", "generator_seconds")):
        plain, ours = results[f"plain_{key}"], results[key]
        lines.append(f"{name:12s} {plain:9.3f} {ours:10.3f} {plain / ours:9.2f}")
    lines.append("peak memory of the generator's backward, MB:")
    for size, (plain, ours) in results["peak_mb"].items():
        lines.append(f"{size:5d} px: plain {plain:.0f}, chunked {ours:.0f}")
    return "\n".join(lines)


def _measure_step(recipe: "training.Recipe", plainly: bool) -> tuple[float, float]:
    """Seconds of a whole step, and of the generator's forward and backward."""
    stage = recipe.stages[0]
    recipe = replace(deepcopy(recipe), run=replace(recipe.run, log_with=[], class_embeddings="random"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.Trainer(recipe, folder)
        if plainly:
            trainer.networks.G = PlainImageGenerator(trainer.generator)
            for branch in trainer.discriminator.branches:
                branch.feature_network.backbone.to(memory_format=torch.contiguous_format)
        loader = trainer.enter_stage(stage)
        step_seconds = _mean_seconds(lambda: trainer.train_step(stage, loader))
        z = torch.randn(stage.batch_size, recipe.model.z_dim, device=trainer.device)
        labels = next(loader)["class_labels"]

        def run_generator() -> None:
            with trainer.accelerator.autocast():
                images = trainer.networks.G(z, labels, stage.resolution, stage.pixel_chunk)
            images.square().mean().backward()
            trainer.generator.zero_grad()

        return step_seconds, _mean_seconds(run_generator)


def _measure_memory(model: dict, size: int, batch_size: int, pixel_chunk: int | None) -> float:
    generator = PolyINRGenerator(**model, num_classes=None)
    z = torch.randn(batch_size, generator.config.z_dim)
    ImageGenerator(generator)(z, None, size, pixel_chunk).square().mean().backward()
    return peak_memory_mb(torch.device("cpu"))


def _mean_seconds(run: Callable[[], None]) -> float:
    for _ in range(WARM_UP_STEPS):  # compiles
        run()
    start = time.perf_counter()
    for _ in range(MEASURED_STEPS):
        run()
    return (time.perf_counter() - start) / MEASURED_STEPS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--recipe", default="examples/emoji/kinds.yaml", help="YAML file (default: %(default)s)")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="values of the recipe to change, such as data.dataset=my/folder",
    )
    parser.add_argument(
        "--memory_sizes",
        type=int,
        nargs="+",
        default=[64, 128, 256],
        help="sides in pixels of the images of the memory test",
    )
    parser.add_argument(
        "--memory_batch_size", type=int, default=2, help="number of images in the memory test (default: 2)"
    )
    parser.add_argument(
        "--pixel_chunk", type=int, default=4096, help="pixels of a chunk in the memory test (default: 4096)"
    )
    return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> dict:
    recipe = training.load_recipe(args.recipe, args.set)
    results = measure_training(recipe, args.memory_sizes, args.memory_batch_size, args.pixel_chunk)
    print(format_training(results))
    return results


def main(argv: list[str] | None = None) -> None:
    run_command(measure, parse_args(argv))


if __name__ == "__main__":
    main()
