"""The assembled page in headless Chromium, in WebAssembly, with nothing else to be reached."""

import base64
import io
import json
import os
import re
import shutil
import time
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import torch
from conftest import PAGE, serve
from huggingface_hub import SpaceCard
from PIL import Image
from selenium.common.exceptions import NoSuchElementException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from polyinr_hf import PolyINRPipeline
from polyinr_hf.editing import encode_seeds

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SECONDS = 120  # what the slowest machine with other work beside it has needed, and more
DESKTOP = {"width": 900, "height": 300, "deviceScaleFactor": 1, "mobile": False}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
WASM = r"WebAssembly, \d+ threads?"


class Visitor:
    """What a person does with the page, and what the pipeline draws of it."""

    def __init__(self, driver, server: str, pipe: PolyINRPipeline):
        self.driver, self.server, self.pipe = driver, server, pipe

    def look(self, device: dict = DESKTOP, scheme: str = "light") -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, link: str = "", stage: str = "exact") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.server}/index.html{link}")
        self.wait_for(stage)

    def wait(self, condition, what: str):
        return WebDriverWait(self.driver, SECONDS, poll_frequency=0.05).until(lambda _: condition(), f"no {what}")

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    @property
    def canvas(self):
        return self.find("#canvas")

    def stage(self) -> str | None:
        return self.canvas.get_attribute("data-stage")

    def wait_for(self, stage: str) -> None:
        reached = {"coarse": ("coarse", "sharp", "exact"), "sharp": ("sharp", "exact")}.get(stage, (stage,))
        self.wait(lambda: self.stage() in reached, f"{stage} picture: {self.find('#message').text}")

    def act(self, action) -> None:
        """Does something that asks for another picture, and waits until that is exact."""
        extent = self.canvas.get_attribute("data-extent")
        self.driver.execute_script("document.getElementById('canvas').dataset.stage = 'before'")
        action()
        self.wait(lambda: self.stage() != "before", f"reaction, {extent}")
        self.wait_for("exact")

    def extent(self) -> tuple[float, ...]:
        return tuple(float(part) for part in self.canvas.get_attribute("data-extent").split(","))

    def pixels(self) -> np.ndarray:
        data = self.driver.execute_script("return document.getElementById('canvas').toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.partition(",")[2]))).convert("RGB"))

    def affine_parameters(self, class_label: str | None, seed: int, psi: float = 1.0) -> torch.Tensor:
        """A (1, L, n, 3) of a class and a seed, which mean the same on the page."""
        return encode_seeds(self.pipe, class_label, seed, psi)

    def assert_shows(self, A: torch.Tensor) -> None:
        """The picture is the pipeline's within 2 of 255."""
        assert np.abs(self.pixels().astype(int) - self.drawn(A, self.canvas.size["width"], self.extent())).max() <= 2

    def drawn(self, A: torch.Tensor, size: int, extent=(0.0, 0.0, 1.0, 1.0)) -> np.ndarray:
        return np.asarray(self.pipe(affine_parameters=A, height=size, width=size, extent=extent).images[0]).astype(int)

    def link(self) -> dict[str, str]:
        time.sleep(0.3)  # the address follows the hand after a fifth of a second
        return dict(parse_qsl(urlsplit(self.driver.current_url).fragment))

    def choose(self, selector: str, text: str) -> None:
        """A class, by keyboard alone."""
        self.find(selector).send_keys(Keys.CONTROL + "a")
        self.find(selector).send_keys(text + Keys.ENTER)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


@pytest.fixture
def visitor(chromium, server, pipe):
    """A visitor; at the end nothing was asked of another machine, and the console has no error."""
    chromium.get_log("browser"), chromium.get_log("performance")
    visitor = Visitor(chromium, server, pipe)
    visitor.look()
    yield visitor
    requests = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    urls = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
    reached = [url for url in urls if url.startswith(("http", "ws"))]  # others are the browser's own
    assert reached and [url for url in reached if not url.startswith(f"{visitor.server}/")] == []
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_first_picture_is_the_pipelines(visitor):
    visitor.open()
    assert visitor.link() == {"class_label": "kind 52", "seed": "0"}
    assert visitor.extent() == (0, 0, 1, 1)
    visitor.assert_shows(visitor.affine_parameters("kind 52", 0))
    side, work = visitor.canvas.size["width"], visitor.find("#where").text
    assert re.fullmatch(rf"{side} × {side} pixels, every one computed; {WASM}, [\d,.]+ points a second", work)
    assert visitor.find("#about").text.startswith("4 levels, 32 channels; 70 classes; license of the weights: mit")
    assert visitor.canvas.get_attribute("aria-label") == "kind 52, seed 0, 1.0 times enlarged"


def test_the_wheel_zooms_where_the_hand_is(visitor):
    visitor.open()
    side = visitor.canvas.size["width"]
    origin = ScrollOrigin.from_element(visitor.canvas, side // 4, -side // 4)
    visitor.act(lambda: ActionChains(visitor.driver).scroll_from_origin(origin, 0, -300).perform())
    top, left, bottom, right = visitor.extent()
    assert bottom - top == pytest.approx(right - left)
    assert 0.4 < bottom - top < 0.7
    assert (0.25 - top) / (bottom - top) == pytest.approx(0.25, abs=0.01)
    assert (0.75 - left) / (right - left) == pytest.approx(0.75, abs=0.01)
    visitor.assert_shows(visitor.affine_parameters("kind 52", 0))
    visitor.act(lambda: ActionChains(visitor.driver).scroll_from_origin(origin, 0, 900).perform())
    top, left, bottom, right = visitor.extent()
    assert bottom - top > 1
    visitor.assert_shows(visitor.affine_parameters("kind 52", 0))


def test_a_drag_pans_beyond_the_border_and_the_picture_follows_at_once(visitor):
    visitor.open()
    before, side = visitor.pixels(), visitor.canvas.size["width"]
    A = visitor.affine_parameters("kind 52", 0)

    def drag():
        hand = ActionChains(visitor.driver, duration=20).move_to_element(visitor.canvas)
        hand.click_and_hold().move_by_offset(side // 4, -side // 2).release().perform()

    visitor.act(drag)
    top, left, bottom, right = visitor.extent()
    assert (top, left) == pytest.approx((0.5, -0.25), abs=0.01)
    assert (bottom - top, right - left) == pytest.approx((1, 1))
    visitor.assert_shows(A)

    # The last picture moves with the view before the network has run again.
    moved = visitor.driver.execute_async_script("""
        const done = arguments[0];
        const canvas = document.getElementById("canvas");
        Worker.prototype.postMessage = () => {};
        canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "0", bubbles: true }));
        requestAnimationFrame(() => requestAnimationFrame(() => done(canvas.toDataURL("image/png"))));
    """)
    moved = np.asarray(Image.open(io.BytesIO(base64.b64decode(moved.partition(",")[2]))).convert("RGB")).astype(int)
    seen = np.abs(moved - before)[side // 2 + 4 :, : 3 * side // 4 - 4]  # what both views have
    assert np.median(seen) <= 2 and seen.mean() < 6


def test_two_fingers_zoom_and_move(visitor):
    visitor.look(PHONE)
    visitor.open()
    box = visitor.canvas.rect
    assert box["width"] == 390
    x, y = box["x"] + 195, box["y"] + 195

    def pinch():
        visitor.touch("touchStart", (x - 40, y), (x + 40, y))
        for step in range(1, 5):
            visitor.touch("touchMove", (x - 40 - 10 * step, y), (x + 40 + 10 * step, y))
        visitor.touch("touchEnd")

    visitor.act(pinch)
    assert visitor.extent() == pytest.approx((0.25, 0.25, 0.75, 0.75), abs=0.005)
    visitor.assert_shows(visitor.affine_parameters("kind 52", 0))


def test_keys_and_buttons_move_the_view(visitor):
    visitor.open()
    visitor.act(lambda: visitor.canvas.send_keys("+" + Keys.ARROW_RIGHT + Keys.ARROW_UP))
    side = 2**-0.5
    center = (0.5 - 0.1 * side, 0.5 + 0.1 * side)
    expected = (center[0] - side / 2, center[1] - side / 2, center[0] + side / 2, center[1] + side / 2)
    assert visitor.extent() == pytest.approx(expected)
    visitor.act(lambda: visitor.find("#zoom-out").click())
    assert visitor.extent()[2] - visitor.extent()[0] == pytest.approx(2**0.5)
    visitor.act(lambda: visitor.find("#whole").send_keys(Keys.ENTER))
    assert visitor.extent() == (0, 0, 1, 1)


def test_class_and_seed_change_the_image(visitor):
    visitor.open()
    visitor.act(lambda: visitor.choose("#class", "TABBY"))
    assert visitor.find("#class").get_attribute("value") == "cat"
    visitor.assert_shows(visitor.affine_parameters("cat", 0))
    visitor.act(lambda: visitor.find("#dice").click())
    seed = int(visitor.find("#seed").get_attribute("value"))
    visitor.assert_shows(visitor.affine_parameters("cat", seed))
    assert visitor.link() == {"class_label": "cat", "seed": str(seed)}
    visitor.find("#seed").send_keys(Keys.CONTROL + "a")
    visitor.act(lambda: visitor.find("#seed").send_keys("4294967295" + Keys.TAB))
    visitor.assert_shows(visitor.affine_parameters("cat", 2**32 - 1))
    visitor.act(lambda: visitor.find("#psi").send_keys(Keys.ARROW_LEFT * 6))
    assert visitor.link() == {"class_label": "cat", "seed": str(2**32 - 1), "truncation_psi": "0.7"}
    visitor.assert_shows(visitor.affine_parameters("cat", 2**32 - 1, 0.7))


def test_the_class_box_searches_and_takes_a_click(visitor):
    visitor.open()
    box = visitor.find("#class")
    box.click()
    options = visitor.driver.find_elements(By.CSS_SELECTOR, "#class-list [role=option]")
    assert len(options) == 60
    assert visitor.find("#class-list .hint").text == "10 more: type a name"
    box.send_keys(Keys.CONTROL + "a")
    box.send_keys("no such thing")
    assert visitor.find("#class-list").text == "No such class"
    box.send_keys(Keys.ESCAPE)
    assert box.get_attribute("value") == "kind 52"
    box.send_keys(Keys.CONTROL + "a")
    box.send_keys("kind_6")
    names = [option.text for option in visitor.driver.find_elements(By.CSS_SELECTOR, "#class-list [role=option]")]
    assert names[:11] == ["kind 6", *(f"kind {i}" for i in range(60, 70))]
    assert names[11:] == [f"kind {i}6" for i in range(1, 6)]
    box.send_keys(Keys.ARROW_DOWN)
    assert visitor.find(f"#{box.get_attribute('aria-activedescendant')}").text == "kind 60"
    visitor.act(lambda: visitor.driver.find_elements(By.CSS_SELECTOR, "#class-list [role=option]")[2].click())
    assert box.get_attribute("value") == "kind 61"
    assert not visitor.find("#class-list").is_displayed()
    assert visitor.link()["class_label"] == "kind 61"


def test_levels_are_mixed(visitor):
    visitor.open("#class_label=cat&seed=3")
    visitor.act(lambda: visitor.choose("#second-class", "dog"))
    assert visitor.find("#position").get_attribute("value") == "0.5"
    first, second = visitor.affine_parameters("cat", 3), visitor.affine_parameters("dog", 1)
    visitor.assert_shows(torch.lerp(first, second, 0.5))
    boxes = visitor.driver.find_elements(By.CSS_SELECTOR, "#levels input")
    assert [box.is_selected() for box in boxes] == [True] * 4
    visitor.act(lambda: [box.send_keys(Keys.SPACE) for box in boxes[1:3]])
    mixed = first.clone()
    mixed[:, [0, 3]] = torch.lerp(first, second, 0.5)[:, [0, 3]]
    visitor.assert_shows(mixed)
    link = {"class_label": "cat", "seed": "3", "second_class_label": "dog", "position": "0.5", "levels": "0,3"}
    assert visitor.link() == link
    visitor.act(lambda: visitor.find("#position").send_keys(Keys.HOME))
    visitor.assert_shows(first)


def test_a_link_restores_everything(visitor):
    link = "#class_label=dog&seed=5&truncation_psi=0.6&second_class_label=cat&second_seed=9&position=0.3&levels=1,2"
    link += "&row=1.1&column=0.25&zoom=1.5"
    visitor.open(link)
    first, second = visitor.affine_parameters("dog", 5, 0.6), visitor.affine_parameters("cat", 9, 0.6)
    mixed = first.clone()
    mixed[:, 1:3] = torch.lerp(first, second, 0.3)[:, 1:3]
    half = 2**-1.5 / 2
    assert visitor.extent() == pytest.approx((1.1 - half, 0.25 - half, 1.1 + half, 0.25 + half))
    visitor.assert_shows(mixed)
    assert visitor.link() == dict(parse_qsl(link[1:]))
    shown = {name: visitor.find(f"#{name}").get_attribute("value") for name in ("class", "seed", "second-class", "psi")}
    assert shown == {"class": "dog", "seed": "5", "second-class": "cat", "psi": "0.6"}


def test_a_link_to_what_is_not_there_says_so(visitor):
    visitor.open("#class_label=zebra&seed=2")
    visitor.wait(lambda: "There is no class “zebra” here" in visitor.find("#message").text, "message")
    visitor.assert_shows(visitor.affine_parameters("kind 52", 2))


def test_a_picture_is_downloaded_at_its_size(visitor):
    visitor.open("#class_label=cat&seed=3&row=0.3&zoom=1")
    visitor.find("#size").send_keys("256 px")
    visitor.find("#save").click()
    path = visitor.driver.downloads / "cat-seed3.png"
    visitor.wait(path.exists, "file")
    image = Image.open(path)
    assert image.size == (256, 256)
    expected = visitor.drawn(visitor.affine_parameters("cat", 3), 256, visitor.extent())
    assert np.abs(np.asarray(image.convert("RGB")).astype(int) - expected).max() <= 2
    assert visitor.find("#save").text == "Download PNG"


def test_a_download_can_be_stopped_and_waits_for_the_hand(visitor):
    visitor.open("#class_label=cat&seed=4")
    visitor.find("#size").send_keys("4,096 px")
    visitor.find("#save").click()
    visitor.wait(lambda: visitor.find("#save").text.startswith("Stop ("), "progress")
    visitor.act(lambda: visitor.find("#zoom-in").click())  # an exact picture in between
    assert visitor.find("#save").text.startswith("Stop (")
    visitor.find("#save").click()
    assert visitor.find("#save").text == "Download PNG"
    visitor.act(lambda: visitor.find("#whole").click())
    assert not (visitor.driver.downloads / "cat-seed4.png").exists()


def test_without_the_headers_it_runs_on_one_thread(visitor, space):
    with serve(space, headers={}) as visitor.server:
        visitor.open()
        assert visitor.driver.execute_script("return crossOriginIsolated") is False
        assert "; WebAssembly, 1 thread, " in visitor.find("#where").text
        visitor.assert_shows(visitor.affine_parameters("kind 52", 0))


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
@pytest.mark.parametrize("held_up", ["one thread", "several"])
def test_the_faster_number_of_threads_is_kept(held_up, visitor, space, tmp_path):
    """Whichever is held up for a fifth of a second at each step leaves all pictures to the other, after some turns."""
    for path in space.iterdir():
        if path.name != "js":
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(space / "js", tmp_path / "js")
    with (tmp_path / "js" / "runner.js").open("a", encoding="utf-8") as file:
        file.write(f"""
            const {{ synthesize }} = calls, turns = new BroadcastChannel("turns");
            calls.synthesize = async (points) => {{
                const name = numThreads === 1 ? "one thread" : "several";
                turns.postMessage(name);
                if (name === "{held_up}") await new Promise((resolve) => setTimeout(resolve, 200));
                return synthesize(points);
            }};
        """)
    with serve(tmp_path) as visitor.server:
        visitor.open(stage="coarse")
        assert "; WebAssembly, 1 thread, " in visitor.find("#where").text  # several come later: nobody waits for them
        listen = "window.turns = []; new BroadcastChannel('turns').onmessage = ({ data }) => turns.push(data)"
        visitor.driver.execute_script(listen)
        seen = set()

        def only_runner() -> str | None:
            """The one that ran all of a new picture, once both have had turns."""
            visitor.driver.execute_script("turns.length = 0")
            visitor.act(lambda: visitor.find("#dice").click())
            names = set(visitor.driver.execute_script("return turns"))
            seen.update(names)
            return names.pop() if len(names) == 1 and len(seen) == 2 else None

        kept = visitor.wait(only_runner, "end of the trial")
        assert kept == ("several" if held_up == "one thread" else "one thread")
        assert (", 1 thread, " in visitor.find("#where").text) == (kept == "one thread")
        visitor.assert_shows(visitor.affine_parameters("kind 52", int(visitor.link()["seed"])))


def test_the_hand_is_never_blocked(visitor):
    visitor.open()
    gap = visitor.driver.execute_async_script("""
        const done = arguments[0];
        let last = performance.now(), worst = 0, frames = 0;
        const frame = () => {
            const now = performance.now();
            worst = Math.max(worst, now - last);
            last = now;
            document.getElementById("canvas").dispatchEvent(
                new KeyboardEvent("keydown", { key: frames % 2 ? "ArrowUp" : "+", bubbles: true }));
            if (++frames < 40) requestAnimationFrame(frame); else done(worst);
        };
        requestAnimationFrame(frame);
    """)
    assert gap < 500  # milliseconds; on a busy machine too, and far from the second that a picture takes
    visitor.wait_for("exact")
    visitor.assert_shows(visitor.affine_parameters("kind 52", 0))


@pytest.mark.parametrize("name", ["ort-wasm-simd-threaded.wasm", "ort-wasm-simd-threaded.mjs", "ort.wasm.min.mjs"])
def test_a_runtime_that_is_not_there_is_named(name, chromium, space, tmp_path, pipe):
    for path in space.iterdir():
        if path.name != "runtime":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "runtime").mkdir()
    for path in (space / "runtime").iterdir():
        if path.name != name:
            (tmp_path / "runtime" / path.name).symlink_to(path)
    with serve(tmp_path) as address:
        visitor = Visitor(chromium, address, pipe)
        visitor.open(stage="failed")
        assert visitor.find("#message").text == f"runtime/{name} could not be fetched: the server answered 404."


@pytest.mark.parametrize("how", ["file", "sandbox", "scripts"])
def test_where_it_cannot_start_it_says_so(how, chromium, space, server, tmp_path):
    """Opened by double click, in a frame that runs no scripts, and in one whose scripts are of no origin."""
    if how == "file":
        chromium.get((space / "index.html").as_uri())
    else:
        sandbox = "allow-scripts" if how == "scripts" else ""
        (tmp_path / "frame.html").write_text(f"<iframe sandbox='{sandbox}' src='{server}/index.html'></iframe>")
        with serve(tmp_path, headers={}) as address:
            chromium.get(f"{address}/frame.html")
        chromium.switch_to.frame(0)
    wait = WebDriverWait(chromium, SECONDS, ignored_exceptions=[NoSuchElementException])
    message = wait.until(lambda _: chromium.find_element(By.CSS_SELECTOR, "#message"))
    wait.until(lambda _: message.is_displayed())
    assert "once a web server sends it" in message.text
    assert "Loading" not in message.text
    chromium.switch_to.default_content()


def test_text_fields_do_not_make_phones_zoom(visitor):
    visitor.open(stage="coarse")
    for width in (390, 820, 1180):
        visitor.look({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 1000})
        for field in visitor.driver.find_elements(By.CSS_SELECTOR, "input:not([type=range], [type=checkbox]), select"):
            assert float(field.value_of_css_property("font-size").removesuffix("px")) >= 16


@pytest.mark.parametrize("damage", ["missing", "torn", "metadata", "sizes"])
def test_a_model_that_fails_to_load_says_why(damage, chromium, space, with_model, tmp_path, pipe):
    model = tmp_path / "model"
    model.mkdir()
    for path in (space / "model").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    if damage == "missing":
        (model / "synthesis.onnx").unlink()
        sentence = "model/synthesis.onnx could not be fetched: the server answered 404."
    elif damage == "torn":
        (model / "mapping.onnx").write_bytes((model / "mapping.onnx").read_bytes()[:1000])
        sentence = "model/mapping.onnx could not be opened: "
    elif damage == "metadata":
        (model / "model.json").write_text("<!doctype html>")
        sentence = "model/model.json is damaged: it is not JSON."
    else:
        metadata = json.loads((model / "model.json").read_text())
        metadata["config"]["channels"] = 64
        (model / "model.json").write_text(json.dumps(metadata))
        sentence = "The files in model/ do not work together: "
    with serve(with_model(model)) as address:
        visitor = Visitor(chromium, address, pipe)
        visitor.open(stage="failed")
        assert sentence in visitor.find("#message").text
        assert visitor.find("#message").get_attribute("role") == "alert"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing(device, scheme, visitor):
    axe = PAGE / "node_modules" / "axe-core" / "axe.min.js"
    visitor.look(device, scheme)
    visitor.open()
    visitor.find("#class").click()  # with a list open
    # Through the driver: the page itself runs no script of others.
    visitor.driver.execute_script(axe.read_text(encoding="utf-8"))
    found = visitor.driver.execute_async_script("axe.run().then((result) => arguments[0](result))")
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
    assert len(found["passes"]) > 15
    widths = "return [document.scrollingElement.scrollWidth, document.documentElement.clientWidth]"
    needed, available = visitor.driver.execute_script(widths)
    assert needed == available


def test_the_bundled_checkpoint_on_the_page_is_the_pipelines(visitor, with_model, bundled_onnx):
    visitor.pipe = PolyINRPipeline.from_pretrained(PAGE.parent / "pretrained" / "poly-inr-emoji")
    visitor.look({**DESKTOP, "height": 176})
    with serve(with_model(bundled_onnx)) as visitor.server:
        visitor.open("#class_label=cat-face&seed=1&zoom=-0.5")
        assert visitor.canvas.size["width"] == 128
        visitor.assert_shows(visitor.affine_parameters("cat-face", 1))


def test_the_folder_is_a_static_space(space):
    card = SpaceCard.load(space / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.license) == ("static", "index.html", "mit")
    assert card.data.custom_headers == {
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "cross-origin",
    }
    assert len(card.data.short_description) <= 60
    assert {path.name for path in (space / "model").iterdir()} == {"mapping.onnx", "synthesis.onnx", "model.json"}
