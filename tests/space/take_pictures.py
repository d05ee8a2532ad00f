"""Take the Space's pictures in headless Chromium: by hand, no test.

    python tests/space/take_pictures.py --output docs/images

Serves the bundled model on the loopback and writes space_desktop.png and space_phone.png: the wall and pictures, in
light and dark.
"""

import argparse
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "space"))
from app import BUNDLED, HERE, build, launch, load_studio

SECONDS = 300
DESKTOP = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
WALL, PICTURE = "", "?tab=zoom&class_label=avocado&seed=4&second_class_label=frog&second_seed=1"
BEYOND = "?tab=zoom&class_label=rainbow&seed=19&zoom=-0.6&second_class_label=avocado&second_seed=4"
MIXED = "?tab=mix&class_label=avocado&seed=4&second_class_label=frog&second_seed=1&levels=7,8,9"
# Of each picture: query, color scheme, and how far it is scrolled.
VIEWS = {
    "space_desktop.png": (DESKTOP, 2, 724, [(WALL, "light", 0), (PICTURE, "light", 0), (BEYOND, "light", 0),
                                            (MIXED, "dark", 0)]),
    "space_phone.png": (PHONE, 4, 360, [(WALL, "light", 0), (PICTURE, "light", 0), (PICTURE, "dark", 700),
                                        (BEYOND, "dark", 0)]),
}  # fmt: skip


def open_page(driver, address: str, query: str, device: dict, scheme: str, scroll: int) -> Image.Image:
    """A screenshot, once everything on the page is there."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get("about:blank")
    driver.get(f"{address}/{query}")
    wait = WebDriverWait(driver, SECONDS, poll_frequency=0.5)
    wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, "#wall .tiles button"))
    if query:
        frame = wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, "#stage .frame"))[0]
        wait.until(lambda _: frame.get_attribute("data-size") == "512")
        wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, "#between .tiles button"))
    driver.execute_script(f"scrollTo(0, {scroll})")
    time.sleep(3)  # the picture fades in
    return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder (default: %(default)s)")
    args = parser.parse_args(argv)
    demo = build(load_studio(HERE.parent / BUNDLED))
    launch(demo, server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            for name, (device, columns, width, views) in VIEWS.items():
                shots = [open_page(driver, demo.local_url.rstrip("/"), *view[:1], device, *view[1:]) for view in views]
                height = width * device["height"] // device["width"]
                sheet = Image.new(
                    "RGB", (columns * (width + 8) - 8, -(-len(shots) // columns) * (height + 8) - 8), "gray"
                )
                for index, shot in enumerate(shots):
                    place = index % columns * (width + 8), index // columns * (height + 8)
                    sheet.paste(shot.resize((width, height), Image.Resampling.LANCZOS), place)
                sheet.quantize(256, dither=Image.Dither.NONE).save(args.output / name, optimize=True)
                print(f"{args.output / name}: {(args.output / name).stat().st_size / 1000:.0f} kB", flush=True)
        finally:
            driver.quit()
            demo.close(verbose=False)


if __name__ == "__main__":
    main()
