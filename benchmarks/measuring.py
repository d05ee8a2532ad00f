"""What the benchmarks share: jobs in processes of their own, the fastest of several calls, and how a command ends."""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring, with `--json`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    return parser


def run_command(measure: Callable[[argparse.Namespace], dict], args: argparse.Namespace) -> None:
    """Runs a benchmark, writes what it returns to `--json`; what a person can put right ends it in one line."""
    try:
        results = measure(args)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def in_fresh_process(function: Callable, *args):
    """Result of a module-level function called in a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, *args).result()


def set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def best_of(run: Callable[[], Tensor | None], repeats: int = 2) -> tuple[Tensor | None, float]:
    """What `run` returns, and the seconds of its fastest call."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)
