"""The assembled page in headless Firefox: it draws there what it draws in Chromium, with the headers and without."""

import base64
import io
import time

import numpy as np
import pytest
from conftest import HEADERS, serve
from PIL import Image

from polyinr_hf.editing import encode_seeds

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SECONDS = 120
LOOK = """
    const canvas = document.getElementById("canvas");
    const shown = (id) => document.getElementById(id)?.textContent;
    return { ...canvas?.dataset, where: shown("where"), message: shown("message"), size: canvas?.width };
"""


def wait_for(firefox, condition) -> dict:
    """What the page shows once that is so."""
    deadline = time.monotonic() + SECONDS
    while not condition(page := firefox.execute_script(LOOK)):
        assert time.monotonic() < deadline and page.get("stage") != "failed", page
        time.sleep(0.1)
    return page


def assert_shows(firefox, pipe, class_label: str, seed: int, extent=(0.0, 0.0, 1.0, 1.0)) -> None:
    """The picture is the pipeline's within 2 of 255."""
    data = firefox.execute_script("return document.getElementById('canvas').toDataURL('image/png')")
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB")).astype(int)
    A, size = encode_seeds(pipe, class_label, seed), len(found)
    expected = pipe(affine_parameters=A, height=size, width=size, extent=extent).images[0]
    assert np.abs(found - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("headers", [HEADERS, {}], ids=["isolated", "alone"])
def test_a_picture_and_its_zoom_are_the_pipelines(firefox, space, pipe, headers):
    with serve(space, headers) as address:
        firefox.get(f"{address}/index.html#class_label=cat&seed=3")
        page = wait_for(firefox, lambda page: page.get("stage") == "exact")
        assert "pixels, every one computed; WebAssembly, " in page["where"]
        assert firefox.execute_script("return crossOriginIsolated") is bool(headers)
        assert_shows(firefox, pipe, "cat", 3)
        firefox.execute_script("document.getElementById('zoom-in').click()")
        page = wait_for(firefox, lambda page: page.get("stage") == "exact" and page["extent"] == "0.25,0.25,0.75,0.75")
        assert_shows(firefox, pipe, "cat", 3, (0.25, 0.25, 0.75, 0.75))
        if not headers:
            assert "WebAssembly, 1 thread, " in page["where"]
        firefox.get("about:blank")


def test_a_class_that_is_not_there_is_named(firefox, server):
    firefox.get(f"{server}/index.html#class_label=zebra&seed=2")
    wait_for(firefox, lambda page: "There is no class “zebra” here" in page["message"])
    firefox.get("about:blank")
