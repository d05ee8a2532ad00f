"""The page in headless Chromium: by hand, by keyboard, by link."""

import base64
import io
import shutil
from urllib.parse import parse_qsl, urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from settings import PREVIEW_SIZE, Scene, link

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver: apt-get install chromium chromium-driver"
)
SECONDS = 120  # what the slowest machine with other work beside it has needed, and more
UNLABELLED = """
const visible = element => element.getClientRects().length > 0;
const named = element => element.ariaLabel || element.ariaLabelledByElements?.length || element.title
    || [...(element.labels || [])].some(label => label.textContent.trim()) || element.textContent.trim()
    || element.querySelector('img[alt]:not([alt=""])');
return [...document.querySelectorAll('input, select, textarea, button, [tabindex="0"]')]
    .filter(element => visible(element) && !named(element)).map(element => element.outerHTML.slice(0, 200));
"""
REMEMBER = """
window.shown = [];
new MutationObserver(() => {
    const sources = [...document.querySelectorAll('#stage .pictures img')].map(image => image.src);
    window.shown.push(...sources.filter(source => !window.shown.includes(source)));
}).observe(document.body, {childList: true, subtree: true});
"""
SHARPEST = "return [...document.querySelectorAll('#stage .pictures img')].pop()?.src"
SMALL = "size=128"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1280,1000"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def decode(source: str) -> np.ndarray:
    """The pixels of an image that is in its own address."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"))


class Visitor:
    """What a person does with the page."""

    def __init__(self, driver, server: str):
        self.driver, self.server = driver, server

    def wait(self, condition, what: str):
        return WebDriverWait(self.driver, SECONDS, poll_frequency=0.1).until(lambda _: condition(), f"no {what}")

    def find(self, selector: str):
        return self.wait(lambda: next(iter(self.driver.find_elements(By.CSS_SELECTOR, selector)), None), selector)

    def open(self, query: str = "") -> None:
        self.driver.get("about:blank")
        self.driver.get(f"{self.server}/{query}")
        self.find("#wall .tiles button")
        self.driver.execute_script(REMEMBER)

    def tiles(self, strip: str) -> list:
        return self.wait(lambda: self.driver.find_elements(By.CSS_SELECTOR, f"#{strip} .tiles button"), strip)

    def pick(self, strip: str, name: str) -> None:
        """Taps the thumbnail whose name begins so, of a row that may be drawn anew at any moment."""
        selector = f'#{strip} .tiles button[aria-label^="{name}"]'
        click = f"const tile = document.querySelector('{selector}'); tile?.click(); return Boolean(tile)"
        self.wait(lambda: self.driver.execute_script(click), selector)

    def press(self, element, key: str = Keys.ENTER) -> None:
        """By keyboard alone."""
        self.driver.execute_script("arguments[0].focus()", element)
        ActionChains(self.driver).send_keys(key).perform()

    def picture(self, size: int) -> np.ndarray:
        """What the stage shows, once it is of this size."""
        stage = self.find("#stage .frame")
        self.wait(lambda: stage.get_attribute("data-size") == str(size), f"picture of {size} pixels")
        return decode(self.driver.execute_script(SHARPEST))

    def shows(self, image: Image.Image) -> None:
        """Waits until the stage shows this image."""
        self.wait(lambda: np.array_equal(self.picture(image.width), image), "such picture")

    def shown(self) -> list[np.ndarray]:
        """What the stage has shown since the page was opened, in order, however briefly."""
        return [decode(source) for source in self.driver.execute_script("return window.shown")]

    def value(self, name: str) -> str:
        return self.find(f"#{name} input, #{name} textarea").get_attribute("value")

    def query(self) -> dict[str, str]:
        """What the address holds."""
        return dict(parse_qsl(urlsplit(self.driver.current_url).query))

    def holds(self, **expected: str) -> dict[str, str]:
        """The address, once it holds this."""
        self.wait(lambda: self.query() | expected == self.query(), f"address with {expected}")
        return self.query()

    def place(self, condition) -> tuple[float, float, float]:
        """Row, column and zoom in the address, once they are such."""
        read = lambda: tuple(float(self.query().get(name, "nan")) for name in ("row", "column", "zoom"))  # noqa: E731
        self.wait(lambda: condition(*read()), "such place in the address")
        return read()


@pytest.fixture
def page(chromium, server) -> Visitor:
    return Visitor(chromium, server)


def scene(studio, tab="zoom", size=128, **changes) -> Image.Image:
    settings = {name: setting.default for name, setting in studio.settings.items()} | changes
    return studio.draw(tab, Scene.of(settings), size)


def test_by_hand(page, studio):
    """The wall, a tap on it, a drag, the wheel, a tap on the picture, and back."""
    page.open()
    wall = page.tiles("wall")
    assert [tile.get_attribute("aria-label") for tile in wall] == ["cat 0", "dog 1", "tree 2"]
    assert not page.driver.find_element(By.CSS_SELECTOR, "#stage").is_displayed()
    wall[1].click()
    page.shows(scene(studio, class_label="dog", seed=1, size=512))
    coarse = scene(studio, class_label="dog", seed=1, size=PREVIEW_SIZE)
    assert np.array_equal(page.shown()[0], coarse)  # at once, before the sharp one
    assert page.holds(class_label="dog", seed="1", tab="zoom")["zoom"] == "0"
    assert page.value("class_label") == "dog"
    assert page.value("link") == page.driver.current_url

    stage = page.find("#stage .frame")
    width = stage.rect["width"]
    ActionChains(page.driver).drag_and_drop_by_offset(stage, round(width / 4), round(width / 8)).perform()
    row, column, _ = page.place(lambda row, *_: row < 0.45)
    assert (row, column) == pytest.approx((0.375, 0.25), abs=0.01)
    ActionChains(page.driver).scroll_from_origin(ScrollOrigin.from_element(stage), 0, -300).perform()
    _, _, zoom = page.place(lambda *place: place[2] == 1)
    ActionChains(page.driver).move_to_element_with_offset(stage, round(width / 4), 0).click().perform()
    _, column, _ = page.place(lambda _, column, zoom: column > 0.3)
    assert column == pytest.approx(0.25 + 0.125, abs=0.01)

    page.find("#back").click()
    page.wait(wall[0].is_displayed, "wall")
    assert page.query() == {}
    page.driver.back()
    page.holds(class_label="dog", zoom="1")


def test_two_pictures_are_mixed_morphed_and_filmed(page, studio):
    page.open(f"?tab=zoom&seed=3&{SMALL}&num_frames=3")
    page.tiles("between")  # the last to come
    page.pick("seconds", "tree 2")
    chosen = {"seed": 3, "second_class_label": "tree", "second_seed": 2}
    page.wait(lambda: page.value("second_class_label") == "tree", "second class")
    page.pick("mixtures", "cat 3 with levels 4, 5 of tree 2")
    page.holds(tab="mix", levels="4,5", second_seed="2")
    page.shows(scene(studio, "mix", levels=[4, 5], **chosen))
    page.pick("between", "cat 3 → tree 2, 20%")
    page.holds(tab="morph", position="0.2")
    page.shows(scene(studio, "morph", position=0.2, **chosen))
    page.find("#film-button").click()
    page.holds(tab="film")
    address = page.find("#film img").get_attribute("src")
    assert address.endswith("cat-3-film-tree-2.gif")
    film = Image.open(io.BytesIO(httpx.get(address).content))
    assert film.format == "GIF"


def test_by_touch_on_a_phone_where_everything_fits_and_has_a_name(page):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})

    def touch(kind: str, *points: tuple[float, float]) -> None:
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})

    def fits() -> None:
        widths = "return [document.scrollingElement.scrollWidth, document.documentElement.clientWidth]"
        page.wait(lambda: page.driver.execute_script(widths) == [390, 390], "page as wide as the phone")
        page.wait(lambda: page.driver.execute_script(UNLABELLED) == [], "name for everything")

    try:
        page.open()
        fits()
        page.open(f"?tab=zoom&{SMALL}")
        page.picture(128)
        page.tiles("between")
        page.find("#more button").click()
        fits()
        page.driver.execute_script("scrollTo(0, 0)")
        box = page.driver.execute_script("return document.querySelector('#stage .frame').getBoundingClientRect()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        touch("touchStart", (x - 40, y), (x + 40, y))
        for spread in (60, 80):
            touch("touchMove", (x - spread, y), (x + spread, y))
        touch("touchEnd")
        row, column, zoom = page.place(lambda *place: place[2] > 0.9)
        assert (row, column, zoom) == pytest.approx((0.5, 0.5, 1), abs=0.03)
    finally:
        page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_by_keyboard_alone(page, studio):
    page.open()
    page.press(page.tiles("wall")[2])
    page.holds(class_label="tree", seed="2")
    stage = page.find("#stage .frame")
    for key, place in (("+", (0.5, 0.5, 1)), (Keys.ARROW_RIGHT, (0.5, 0.625, 1)), (Keys.ARROW_UP, (0.375, 0.625, 1))):
        page.press(stage, key)
        assert page.place(lambda *seen: seen == place) == place  # noqa: B023
    page.press(stage, "0")
    page.place(lambda *seen: seen == (0.5, 0.5, 0))

    field = page.find("#class_label input")
    page.press(field, "dog")  # in place of what was there
    assert field.get_attribute("value") == "dog"
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    page.holds(class_label="dog", seed="2")
    page.press(page.find("#more button"))
    seed = page.find("#seed input")
    page.press(seed, Keys.BACKSPACE)
    page.wait(lambda: "empty" in page.find("#stage .note").text, "word about the empty field")
    assert page.driver.execute_script(SHARPEST)  # the picture stays
    page.press(seed, "17")
    page.holds(seed="17")
    page.shows(scene(studio, class_label="dog", seed=17, size=512))
    page.press(page.find("#dice-button"))
    page.wait(lambda: page.query().get("seed") not in ("2", "17"), "other seed")


@pytest.mark.parametrize(
    ("tab", "chosen"),
    [
        ("zoom", {"class_label": "tree", "seed": 4, "row": 0.25, "column": 0.75, "zoom": 1.5, "border": False}),
        ("mix", {"class_label": "tree", "second_class_label": "dog", "second_seed": 5, "levels": [0, 4]}),
        ("morph", {"class_label": "dog", "second_class_label": "cat", "second_seed": 5, "position": 0.2}),
    ],
)
def test_a_link_restores_its_state_and_draws_once(tab, chosen, page, studio, monkeypatch):
    drawn, draw = [], studio.sharper
    monkeypatch.setattr(studio, "sharper", lambda *args: drawn.append(args) or draw(*args))
    values = {name: setting.default for name, setting in studio.settings.items()} | chosen | {"size": 128}
    query = link(tab, values)
    page.open(query)
    page.shows(studio.draw(tab, Scene.of(values), 128))
    page.tiles("between")
    assert sum(size == 128 for _, _, size in drawn) == 1  # a page before may still wait for others
    assert page.query().items() >= dict(parse_qsl(query[1:])).items()
    for name in set(chosen) & {"class_label", "second_class_label"}:
        assert page.value(name) == values[name]


def test_the_link_to_a_film_makes_it(page):
    page.open(link("film", {"class_label": "dog", "seed": 1, "second_class_label": "cat", "num_frames": 2, "size": 64}))
    assert page.find("#film img").get_attribute("src").endswith("dog-1-film-cat-1.gif")


def test_a_link_with_something_illegal_says_so(page):
    page.open("?tab=zoom&class_label=wolf&size=64")
    assert "Class must be one of cat, dog, tree, not 'wolf'" in page.wait(
        lambda: page.find("#stage .note").text, "note"
    )
    page.open("?tab=zoom&size=64&photo=0123456789")
    page.wait(lambda: "rebuild it once more" in page.find("#stage .note").text, "note")


def test_an_upload_is_rebuilt_and_its_link_restores_it(page, photo, studio, tmp_path):
    page.open(f"?tab=zoom&num_steps=20&{SMALL}")
    page.picture(128)
    bad = tmp_path / "text.png"
    bad.write_text("no image")
    upload = "input[type=file]"
    page.find(upload).send_keys(str(bad))
    page.wait(lambda: "cannot be read as an image" in page.find("#stage .note").text, "sentence")

    page.find(upload).send_keys(str(photo))
    code = page.wait(lambda: page.query().get("photo"), "ID in the address")
    page.shows(studio.photo(code, 128))
    page.pick("mixtures", "your picture with levels 5 of")
    page.holds(tab="mix", photo=code)
    page.open(f"?tab=rebuild&photo={code}&{SMALL}")
    page.shows(studio.photo(code, 128))
