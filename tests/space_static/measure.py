"""Measure the assembled page in headless Chromium, in WebAssembly, and take its pictures: by hand, no test.

    python tests/space_static/measure.py --space out/static_space --pipeline pretrained/poly-inr-emoji
    python tests/space_static/measure.py --space out/static_space --pictures docs/images --skip_timing

Prints, for images of 512 x 512 pixels, how long the page takes from a new seed to its first coarse and to its finished,
exact picture, in milliseconds and as a ratio to `pipe.encode` and an exact `render` in Python on as many threads. Page
and Python take turns on the same images; the ratios are of medians. `--pictures` writes static_space_desktop.png,
static_space_desktop_dark.png, static_space_phone.png and static_space_phone_dark.png.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

import torch
from conftest import ROOT, serve, start_browser
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait
from test_static_space import DESKTOP, PHONE, Visitor

from polyinr_hf import PolyINRPipeline

SIZE = 512
MAX_SECONDS = 900  # for one picture
VIEWS = {"desktop": {**DESKTOP, "width": 1280, "height": 800}, "phone": {**PHONE, "deviceScaleFactor": 2}}
STAGE_TIMES = """
    const began = performance.now(), times = (window.stageTimes = {});
    const canvas = document.getElementById("canvas");
    const observer = new MutationObserver(() => {
        const { stage } = canvas.dataset;
        times[stage] ??= performance.now() - began;
        if (stage === "exact") observer.disconnect();
    });
    observer.observe(canvas, { attributeFilter: ["data-stage"] });
    location.hash = arguments[0];
"""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=ROOT / "out" / "static_space", help="the assembled folder")
    parser.add_argument("--pipeline", default=str(ROOT / "pretrained" / "poly-inr-emoji"), help="what it was made of")
    parser.add_argument("--repeats", type=int, default=5, help="images that are timed (default: 5)")
    parser.add_argument("--skip_timing", action="store_true", help="take the pictures only")
    parser.add_argument("--pictures", type=Path, help="folder to write the four pictures to")
    parser.add_argument("--link", default="", help="hash of the link that the pictures show (default: the first image)")
    return parser.parse_args(argv)


def measure(visitor: Visitor, repeats: int) -> None:
    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    visitor.look({**DESKTOP, "width": 1000, "height": SIZE + 48})
    visitor.open(stage="coarse")
    assert visitor.canvas.size["width"] == SIZE
    label, rows = visitor.link().get("class_label"), []
    for seed in range(1, repeats + 2):  # the first is not counted: both warm up
        link = urlencode({"seed": seed} if label is None else {"class_label": label, "seed": seed})
        visitor.driver.execute_script(STAGE_TIMES, link)
        wait = WebDriverWait(visitor.driver, MAX_SECONDS, poll_frequency=1)
        times = wait.until(lambda driver: (times := driver.execute_script("return stageTimes")).get("exact") and times)
        began = time.perf_counter()
        A = visitor.affine_parameters(label, seed)
        visitor.pipe.generator.render(A, SIZE, SIZE)
        rows.append((times["coarse"], times["sharp"], times["exact"], 1000 * (time.perf_counter() - began)))
        print("  ".join(f"{value:.0f}" for value in rows[-1]), "ms", file=sys.stderr, flush=True)
    coarse, sharp, exact, python = (statistics.median(column) for column in zip(*rows[1:], strict=True))
    print(
        f"{visitor.find('#where').text}\n{SIZE} x {SIZE}, median of {repeats}, {threads} threads, {torch.__version__}"
    )
    print(f"Python, exact   {python:7.0f} ms")
    for name, value in (("coarse", coarse), ("sharp", sharp), ("exact", exact)):
        print(f"page, {name:6}    {value:7.0f} ms   {value / python:.2f} of Python's")


def take_pictures(visitor: Visitor, folder: Path, link: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, device in VIEWS.items():
        for scheme in ("light", "dark"):
            visitor.look(device, scheme)
            visitor.open(link, stage="sharp")  # the finished one takes a minute, and is within four steps of 255
            visitor.wait(lambda: not visitor.find("#message").is_displayed(), "end of the message")
            path = folder / f"static_space_{name}{'_dark' if scheme == 'dark' else ''}.png"
            visitor.driver.save_screenshot(str(path))
            Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main(argv=None):
    args = parse_args(argv)
    pipe = PolyINRPipeline.from_pretrained(args.pipeline)
    with tempfile.TemporaryDirectory() as folder, serve(args.space) as address:
        driver = start_browser(Path(folder))
        try:
            visitor = Visitor(driver, address, pipe)
            if not args.skip_timing:
                measure(visitor, args.repeats)
            if args.pictures:
                take_pictures(visitor, args.pictures, args.link)
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
