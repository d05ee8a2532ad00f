"""The assembled page, served on the loopback as the Hub serves a static Space, and a browser to see it in."""

import functools
import json
import runpy
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from selenium import webdriver

from polyinr_hf import PolyINRGenerator, PolyINRPipeline

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "space_static"
RUNTIME = PAGE / "node_modules" / "onnxruntime-web"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
HEADERS = {
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


class Handler(SimpleHTTPRequestHandler):
    extra_headers = HEADERS
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def end_headers(self):
        for name, value in self.extra_headers.items():
            self.send_header(name, value)
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serve(folder: Path, headers: dict[str, str] = HEADERS):
    """Yields the address at which `folder` is served."""
    handler = functools.partial(type("Served", (Handler,), {"extra_headers": headers}), directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def start_browser(folder: Path) -> webdriver.Chrome:
    """Headless Chromium that reaches nothing but the loopback, and logs its requests and its console.

    It keeps its profile in `folder` / "profile" and its downloads in `folder` / "downloads", `driver.downloads`.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
        "window-size=1280,800",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(f"--{argument}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.downloads = folder / "downloads"
    driver.set_script_timeout(120)
    return driver


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    if not (BROWSER and DRIVER):
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    driver = start_browser(tmp_path_factory.mktemp("browser"))
    yield driver
    driver.quit()


class Firefox:
    """Headless Firefox by its own protocol, Marionette, as geckodriver speaks it: messages `length:[0, id, name, {}]`.

    It reaches nothing but the loopback.
    """

    PREFERENCES = {
        "marionette.port": 0,  # any that is free; it is written into the profile
        "network.proxy.type": 1,
        "network.proxy.http": "127.0.0.1",
        "network.proxy.http_port": 9,  # where nobody listens
        "network.proxy.ssl": "127.0.0.1",
        "network.proxy.ssl_port": 9,
    }

    def __init__(self, folder: Path):
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in self.PREFERENCES.items()]
        (folder / "user.js").write_text("\n".join(lines))
        command = [FIREFOX, "--headless", "--marionette", "--no-remote", "--profile", str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port, deadline = folder / "MarionetteActivePort", time.monotonic() + 60
        while not (port.exists() and port.read_text()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise OSError(f"{FIREFOX} did not start.")
            time.sleep(0.1)
        self.socket = socket.create_connection(("127.0.0.1", int(port.read_text())), timeout=180)
        self.file, self.count = self.socket.makefile("rb"), 0
        self._read()  # who it is
        self.send("WebDriver:NewSession")

    def _read(self):
        length = b""
        while not length.endswith(b":"):
            length += self.file.read(1)
        return json.loads(self.file.read(int(length[:-1])))

    def send(self, name: str, **parameters):
        self.count += 1
        message = json.dumps([0, self.count, name, parameters]).encode()
        self.socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._read()
        assert error is None, error
        return result.get("value") if isinstance(result, dict) else result

    def get(self, url: str) -> None:
        self.send("WebDriver:Navigate", url=url)

    def execute_script(self, script: str, *args):
        return self.send("WebDriver:ExecuteScript", script=script, args=args)

    def quit(self) -> None:
        self.file.close()
        self.socket.close()
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="session")
def firefox(tmp_path_factory):
    if FIREFOX is None:
        pytest.skip("needs firefox: apt-get install firefox-esr")
    driver = Firefox(tmp_path_factory.mktemp("firefox"))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def pipe() -> PolyINRPipeline:
    """An untrained pipeline of a few classes: it draws smooth patches of color, quickly."""
    torch.manual_seed(0)
    model = PolyINRGenerator(
        z_dim=16, w_dim=32, channels=32, num_levels=4, num_classes=70, class_embed_dim=16, sample_size=32
    )
    names = {key: f"kind {key}" for key in range(70)} | {7: "cat, tabby", 9: "dog"}
    return PolyINRPipeline(model.eval(), names)


@pytest.fixture(scope="session")
def space(pipe, tmp_path_factory) -> Path:
    """The folder of a static Space of that pipeline."""
    if not RUNTIME.is_dir():
        pytest.skip("needs onnxruntime-web: npm ci --prefix space_static")
    build = runpy.run_path(str(ROOT / "scripts" / "build_static_space.py"))["build_static_space"]
    folder = tmp_path_factory.mktemp("static")
    pipe.save_pretrained(folder / "pipeline")
    (folder / "pipeline" / "README.md").write_text("---\nlicense: mit\n---\n# Patches\n")
    build(str(folder / "pipeline"), folder / "space")
    return folder / "space"


@pytest.fixture(scope="session")
def server(space):
    with serve(space) as address:
        yield address


@pytest.fixture
def with_model(space, tmp_path):
    """Makes the folder of a Space like that one, with the model of another folder."""

    def make(model: Path) -> Path:
        folder = tmp_path / "other"
        folder.mkdir()
        for path in space.iterdir():
            (folder / path.name).symlink_to(model if path.name == "model" else path)
        return folder

    return make
