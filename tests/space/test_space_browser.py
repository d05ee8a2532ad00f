"""The page in headless Chromium."""

import inspect
import io
import shutil
from urllib.parse import parse_qsl, urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from settings import TABS, link

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="needs chromium and chromedriver: apt-get install chromium chromium-driver"
)
SECONDS = 60  # to wait at most for anything
IMAGES = {"generate": "generate-images", "zoom": "zoom-image", "mix": "mix-mixed", "morph": "morph-image"}
UNLABELLED = """
const visible = element => element.getClientRects().length > 0;
const named = element => element.ariaLabel || element.ariaLabelledByElements?.length || element.title
    || [...(element.labels || [])].some(label => label.textContent.trim()) || element.textContent.trim()
    || element.querySelector('img[alt]:not([alt=""])');
return [...document.querySelectorAll('input, select, textarea, button')]
    .filter(element => visible(element) && !named(element)).map(element => element.outerHTML.slice(0, 200));
"""


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
        self.find("#link textarea, #link input")

    def open_tab(self, tab: str) -> None:
        self.find(f"#tab-{tab}-button").click()

    def image(self, tab: str) -> str:
        """The address of the tab's image, once it is there."""
        selector = f"#{IMAGES.get(tab, tab)} img"
        found = lambda: [e.get_attribute("src") for e in self.driver.find_elements(By.CSS_SELECTOR, selector)]  # noqa: E731
        return self.wait(lambda: next((src for src in found() if src and "/file=" in src), None), selector)

    def pixels(self, tab: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(httpx.get(self.image(tab)).content)))

    def changed(self, tab: str, before: str) -> str:
        self.wait(lambda: self.image(tab) != before, f"other image in {tab}")
        return self.image(tab)

    def type(self, selector: str, text: str) -> None:
        """Into a field, in place of what is there, by keyboard alone."""
        field = self.find(selector)
        field.send_keys(Keys.CONTROL + "a")
        field.send_keys(text)

    def value(self, name: str) -> str:
        return self.find(f"#{name} input, #{name} textarea").get_attribute("value")

    def settings(self) -> dict[str, str]:
        """Those in the address bar."""
        return dict(parse_qsl(urlsplit(self.driver.current_url).query))

    def message(self) -> str:
        return self.wait(lambda: self.find(".toast-body").text, "message")


@pytest.fixture
def page(chromium, server) -> Visitor:
    return Visitor(chromium, server)


def test_the_first_image_is_there_at_once(page, studio):
    page.open()
    assert np.array_equal(page.pixels("generate"), studio.generate("cat", 0, 0.7, 1, 256)[0][0])
    assert page.settings() == {"tab": "generate", "class_label": "cat", "seed": "0", "truncation_psi": "0.7"} | {
        "count": "4",
        "size": "256",
    }
    assert page.value("link") == page.driver.current_url


@pytest.mark.parametrize("tab", IMAGES)
def test_the_image_changes_with_seed_class_and_truncation(tab, page):
    page.open()
    page.open_tab(tab)
    image = page.image(tab)
    page.type(f"#{tab}-seed input", "17")
    image = page.changed(tab, image)
    page.type(f"#{tab}-class_label input", "dog" + Keys.ENTER)
    image = page.changed(tab, image)
    page.find(f"#{tab}-truncation_psi input[type=range]").send_keys(Keys.ARROW_RIGHT)
    page.changed(tab, image)
    page.wait(lambda: page.settings().get("truncation_psi") == "0.75", "link")
    assert page.settings() | {"tab": tab, "seed": "17", "class_label": "dog"} == page.settings()


def test_zoom_is_steered_by_buttons_from_the_keyboard(page, studio):
    page.open("?tab=zoom&size=128")
    image = page.image("zoom")
    for name, place in (("In", (0.5, 0.5, 1)), ("Right", (0.5, 0.625, 1)), ("Up", (0.375, 0.625, 1))):
        page.driver.find_element(By.XPATH, f"//button[normalize-space()='{name}']").send_keys(Keys.ENTER)
        image = page.changed("zoom", image)
        page.wait(lambda: page.settings().get("row") == f"{place[0]:g}", "link")  # noqa: B023
    assert np.array_equal(page.pixels("zoom"), studio.zoom("cat", 0, 0.7, "", 0.375, 0.625, 1.0, True, 128))


def test_levels_are_mixed_by_checkboxes(page, studio):
    page.open("?tab=mix&size=128&levels=3,4,5")
    image = page.image("mix")
    boxes = page.driver.find_elements(By.CSS_SELECTOR, "#mix-levels input[type=checkbox]")
    assert [box.is_selected() for box in boxes] == [False] * 3 + [True] * 3
    boxes[5].send_keys(Keys.SPACE)
    page.changed("mix", image)
    assert np.array_equal(page.pixels("mix"), studio.mix("cat", 0, 0.7, "", "tree", 1, [3, 4], 128)[2])


def test_morph_moves_and_makes_a_film(page):
    page.open("?tab=morph&size=64&num_frames=4")
    image = page.image("morph")
    page.type("#morph-position input[type=number]", "0.1")
    page.changed("morph", image)
    page.find("#morph-film-button").click()
    film = Image.open(io.BytesIO(httpx.get(page.image("morph-film")).content))
    assert (film.format, film.n_frames) == ("GIF", 6)


@pytest.mark.parametrize(
    ("tab", "chosen"),
    [
        ("generate", {"class_label": "dog", "seed": 4, "truncation_psi": 0.3, "count": 2, "size": 64}),
        ("zoom", {"class_label": "tree", "seed": 4, "row": 0.25, "column": 0.75, "zoom": 1.5, "border": False}),
        ("mix", {"class_label": "tree", "second_class_label": "dog", "second_seed": 5, "levels": [0, 4]}),
        ("morph", {"class_label": "dog", "second_class_label": "cat", "second_seed": 5, "position": 0.2}),
    ],
)
def test_a_link_restores_its_state(tab, chosen, page, studio):
    values = {name: setting.default for name, setting in studio.settings.items()} | chosen
    action = getattr(studio, tab)
    values = {name: values[name] for name in inspect.signature(action).parameters}
    query = link(tab, values)
    page.open(query)
    shown = page.pixels(tab)
    drawn = action(**values)
    expected = {"generate": lambda: drawn[0][0], "mix": lambda: drawn[2]}.get(tab, lambda: drawn)()
    assert np.array_equal(shown, expected)
    assert page.find(f"#tab-{tab}-button").get_attribute("aria-selected") == "true"
    for name in chosen:
        if name not in ("levels", "border"):
            assert page.value(f"{tab}-{name}") == str(values[name])
    assert page.settings().items() >= dict(parse_qsl(query[1:])).items()


def test_an_upload_is_inverted_then_zoomed_and_its_link_restores_it(page, photo, studio):
    page.open("?tab=rebuild&num_steps=20&size=64")
    page.find("#rebuild-upload input[type=file]").send_keys(str(photo))
    page.image("rebuild-upload")
    page.find("#rebuild-button").click()
    page.image("rebuild-image")
    code = page.wait(lambda: page.value("rebuild-photo"), "code")
    assert "dB PSNR after 20 steps" in page.wait(lambda: page.value("rebuild-report"), "report")
    page.wait(lambda: page.settings().get("photo") == code, "link")
    assert np.array_equal(page.pixels("rebuild-image"), studio.photo(code, 64))

    page.find("#rebuild-to-zoom").click()
    page.wait(lambda: page.settings().get("tab") == "zoom", "link")
    assert page.settings()["photo"] == code == page.value("zoom-photo")
    assert np.array_equal(page.pixels("zoom"), studio.zoom("cat", 0, 0.7, code, 0.5, 0.5, 0.0, True, 256))

    page.open(f"?tab=rebuild&size=128&photo={code}")
    assert np.array_equal(page.pixels("rebuild-image"), studio.photo(code, 128))


def test_a_hostile_upload_gets_a_sentence_and_the_page_goes_on(page, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no image")
    page.open("?tab=rebuild")
    page.find("#rebuild-upload input[type=file]").send_keys(str(path))
    page.image("rebuild-upload")
    page.find("#rebuild-button").click()
    assert "cannot be read as an image" in page.message()
    page.open_tab("zoom")
    page.image("zoom")


def test_a_link_to_what_is_gone_says_so(page):
    page.open("?tab=zoom&photo=0123456789")
    assert "rebuild it once more" in page.message()


@pytest.mark.parametrize("tab", TABS)
def test_a_phone_shows_it_all_in_its_width_and_everything_has_a_name(tab, page):
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        page.open(f"?tab={tab}")
        if tab in IMAGES:
            page.image(tab)
        widths = "return [document.scrollingElement.scrollWidth, document.documentElement.clientWidth]"
        # The page is laid out in several goes: what counts is how it ends.
        page.wait(lambda: page.driver.execute_script(widths) == [390, 390], "page as wide as the phone")
        page.wait(lambda: page.driver.execute_script(UNLABELLED) == [], "name for everything")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
