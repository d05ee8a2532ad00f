"""The endpoints, as gradio_client's users call them."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import parse_qsl

import app
import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageSequence
from settings import MAX_UPLOAD_BYTES, restore

ROOT = Path(__file__).resolve().parents[2]
CHANGES = {  # endpoint -> settings away from the defaults, one at a time; each must change what is drawn
    "/generate": {"class_label": "dog", "seed": 4, "truncation_psi": 0.3, "count": 2, "size": 128},
    "/zoom": {"class_label": "dog", "seed": 4, "row": 0.2, "column": 0.9, "zoom": 1.5, "size": 128},
    "/preview": {"class_label": "dog", "seed": 4, "row": 0.2, "column": 0.9, "zoom": 1.5},
    "/mix": {"class_label": "dog", "second_class_label": "cat", "second_seed": 5, "levels": [0], "size": 128},
    "/morph": {"class_label": "dog", "second_class_label": "cat", "second_seed": 5, "position": 0.2, "size": 128},
    "/film": {"class_label": "dog", "second_seed": 5, "num_frames": 4, "size": 128},
}


@pytest.fixture(scope="module")
def client(server, tmp_path_factory) -> Client:
    return Client(server, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def pixels(output) -> bytes:
    """What the files among an endpoint's outputs show, the link left out."""
    files = output[0] if isinstance(output[0], list) else output[:-1]
    paths = [file["image"] if isinstance(file, dict) else file for file in files]
    frames = [frame for path in paths for frame in ImageSequence.all_frames(Image.open(path))]
    return b"".join(np.asarray(frame.convert("RGB")).tobytes() for frame in frames)


def sends(client: Client, path: Path) -> str:
    """The sentence that refuses a file."""
    with pytest.raises(AppError) as error:
        client.predict(image=handle_file(path), num_steps=20, size=64, api_name="/rebuild")
    return str(error.value)


def test_the_endpoints_are_named_and_described(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {*CHANGES, "/rebuild", "/photo", "/labels"}
    for endpoint in endpoints.values():
        assert endpoint["description"]
        assert all(re.fullmatch("[a-z_]+", parameter["parameter_name"]) for parameter in endpoint["parameters"])
        assert all(parameter["label"] for parameter in endpoint["parameters"])


@pytest.mark.parametrize("endpoint", CHANGES)
def test_every_setting_changes_the_image_and_the_link(endpoint, client, studio):
    small = {} if endpoint == "/preview" else {"size": 64}
    small |= {"num_frames": 3} if endpoint == "/film" else {}
    before = client.predict(**small, api_name=endpoint)
    for name, value in CHANGES[endpoint].items():
        after = client.predict(**{**small, name: value}, api_name=endpoint)
        assert pixels(after) != pixels(before), name
        tab, values, _ = restore(dict(parse_qsl(after[-1][1:])), studio.settings)
        assert (tab, values[name]) == (endpoint[1:].replace("preview", "zoom"), value)


def test_images_are_png_files_of_the_size_asked_for(client):
    images, _ = client.predict(count=2, size=256, api_name="/generate")
    assert [image["caption"] for image in images] == ["seed 0", "seed 1"]
    for path in (*(image["image"] for image in images), client.predict(size=256, api_name="/zoom")[0]):
        with Image.open(path) as image:
            assert (image.format, image.size) == ("PNG", (256, 256))


def test_files_are_named_after_what_they_show(client):
    images, _ = client.predict(class_label="dog", seed=3, count=2, size=64, api_name="/generate")
    assert [Path(image["image"]).name for image in images] == ["dog-3.png", "dog-4.png"]
    assert Path(client.predict(class_label="dog", seed=3, api_name="/preview")[0]).name == "dog-3.png"
    files = client.predict(second_class_label="tree", second_seed=2, size=64, api_name="/mix")[:3]
    name = "cat-0-mix-tree-2"
    assert [Path(path).name for path in files] == [f"{name}-first.png", f"{name}-second.png", f"{name}.png"]


def test_sizes_and_levels_may_be_texts_and_class_names_in_any_case(client):
    given = {"size": "64", "levels": ["4", 5], "class_label": "Dog"}
    as_text, as_number = (client.predict(**x, api_name="/mix") for x in (given, {"size": 64, "levels": [4, 5]}))
    assert Image.open(as_text[2]).size == Image.open(as_number[2]).size == (64, 64)
    assert "class_label=dog" in as_text[-1]


def test_classes_are_listed_and_may_be_numbers(client):
    assert client.predict(api_name="/labels") == ["cat", "dog", "tree"]
    image, link = client.predict(class_label=1, size=64, api_name="/zoom")
    assert "class_label=dog" in link
    with pytest.raises(AppError, match=r"Class: it must be names or ids in 0\.\.2, got 7"):
        client.predict(class_label=7, size=64, api_name="/zoom")


@pytest.mark.parametrize("image", ["cat.jpg", "", {"url": "cat.jpg"}, 3, ["cat.jpg"]])
def test_what_is_no_file_where_one_is_wanted_gets_a_sentence(client, image):
    with pytest.raises(AppError, match="handle_file"):
        client.predict(image=image, num_steps=20, size=64, api_name="/rebuild")


def test_the_film_is_an_animation(client):
    film, _ = client.predict(num_frames=5, size=64, api_name="/film")
    assert Path(film).suffix == ".gif"
    with Image.open(film) as image:
        assert (image.format, image.n_frames, image.size) == ("GIF", 8, (64, 64))


def test_an_upload_is_rebuilt_then_mixed_and_zoomed(client, photo):
    rebuilt, code, report, link = client.predict(
        image=handle_file(photo), num_steps=20, size=64, api_name="/rebuild"
    )  # fmt: skip
    assert "dB PSNR after 20 steps" in report
    assert dict(parse_qsl(link[1:]))["photo"] == code
    first, _, mixed, _ = client.predict(photo=code, levels=[4, 5], size=64, api_name="/mix")
    zoomed, _ = client.predict(photo=code, border=False, size=64, api_name="/zoom")
    again, _ = client.predict(photo=code, size=64, api_name="/photo")
    images = [np.asarray(Image.open(path)) for path in (rebuilt, first, zoomed, again, mixed)]
    assert all(np.array_equal(image, images[0]) for image in images[1:4])
    assert not np.array_equal(images[4], images[0])


@pytest.mark.parametrize(
    ("endpoint", "settings", "sentence"),
    [
        ("/generate", {"count": 9, "size": 1024}, "too many at once"),
        ("/generate", {"count": 1000}, "Images must be a whole number between 1 and 9, not 1000"),
        ("/generate", {"seed": -1}, "Seed must be a whole number between 0 and 4,?294,?967,?295, not -1"),
        ("/generate", {"seed": "abc"}, "Seed must be a whole number .*, not 'abc'"),
        ("/generate", {"seed": 1.5}, "Seed must be a whole number .*, not 1.5"),
        ("/generate", {"seed": None}, "Seed must be .*, it is empty"),
        ("/generate", {"truncation_psi": None}, "Truncation psi must be .*, it is empty"),
        ("/generate", {"class_label": "wolf"}, "unknown class name 'wolf'"),
        ("/generate", {"class_label": "dogg"}, "Did you mean 'dog'"),
        ("/generate", {"size": 4096}, "Size must be one of 64, 128, 256, 512, 1024, not 4096"),
        ("/zoom", {"zoom": 60}, "Zoom must be between -2 and 8, not 60"),
        ("/zoom", {"zoom": None}, "Zoom must be .*, it is empty"),
        ("/zoom", {"photo": "no-such-code"}, "rebuild it once more"),
        ("/photo", {}, "Give the ID of a rebuilt image"),
        ("/mix", {"levels": [99]}, "Levels from the second must be one of 0, 1, 2, 3, 4, 5, not 99"),
        ("/mix", {"levels": "fine"}, "must be a list"),
        ("/morph", {"position": None}, "Position must be .*, it is empty"),
        ("/film", {"num_frames": 60, "size": 512}, "too many at once"),
        ("/rebuild", {"image": None, "num_steps": 20}, "Choose an image first"),
    ],
)
def test_what_goes_beyond_the_limits_is_refused_with_a_sentence(endpoint, settings, sentence, client):
    with pytest.raises(AppError, match=sentence):
        client.predict(**settings, api_name=endpoint)


def test_a_hostile_upload_is_refused_with_a_sentence_and_the_server_answers(hostile, client):
    path, sentence = hostile
    assert re.search(sentence, sends(client, path))
    assert len(client.predict(count=1, size=64, api_name="/generate")[0]) == 1


@pytest.mark.parametrize("url", ["data:image/png;base64,iVBORw0KGgo=", "data:text/plain,hello"])
def test_an_image_as_base64_gets_a_sentence(url, client):
    with pytest.raises(AppError, match="as a file, which"):
        client.predict(image={"url": url, "meta": {"_type": "gradio.FileData"}}, num_steps=20, api_name="/rebuild")


def test_an_upload_of_too_many_bytes_is_not_taken(server):
    files = {"files": ("large.png", bytes(MAX_UPLOAD_BYTES + 1))}
    assert httpx.post(f"{server}/gradio_api/upload", files=files).status_code == 413


@pytest.mark.parametrize("path", ["/etc/hostname", "http://127.0.0.1:9/x.png", "https://example.com/x.png"])
def test_nothing_but_uploads_is_read(path, client):
    with pytest.raises((AppError, ValueError)) as error:
        client.predict(image={"path": path, "meta": {"_type": "gradio.FileData"}}, num_steps=20, api_name="/rebuild")
    assert "rebuilt" not in str(error.value).lower()
    assert len(client.predict(count=1, size=64, api_name="/generate")[0]) == 1


def test_a_copy_of_the_folder_runs_on_its_own(tiny_model, tmp_path):
    """As a Space does: these files, the package beside them, a model named by the environment."""
    shutil.copytree(ROOT / "space", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "src" / "polyinr_hf", tmp_path / "polyinr_hf")
    find = "import importlib.util; print(importlib.util.find_spec('polyinr_hf').origin)"
    found = subprocess.run([sys.executable, "-c", find], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).parent == tmp_path / "polyinr_hf"  # not the one installed

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"POLYINR_MODEL": str(tiny_model), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    settings |= {"GRADIO_TEMP_DIR": str(tmp_path / "files"), "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen([sys.executable, "app.py"], cwd=tmp_path, env={**os.environ, **settings})
    try:
        address = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            try:
                httpx.get(address)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        client = Client(address, verbose=False, download_files=str(tmp_path / "downloads"))
        assert len(client.predict(count=2, size=64, api_name="/generate")[0]) == 2
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("missing", ["gradio", "timm"])
def test_without_its_extra_it_says_what_to_install(missing):
    code = f"import sys, runpy; sys.modules[{missing!r}] = None; runpy.run_path('app.py', run_name='__main__')"
    path = os.pathsep.join([str(ROOT / "space"), str(ROOT / "src")])
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "space",
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
    assert missing in run.stderr and 'pip install -e ".[space,eval]"' in run.stderr


def test_without_a_model_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("POLYINR_MODEL", raising=False)
    monkeypatch.setattr(app, "HERE", tmp_path / "space")
    with pytest.raises(SystemExit, match="POLYINR_MODEL"):
        app.find_model()


def test_the_model_beside_the_page_is_found(tiny_model, tmp_path, monkeypatch):
    monkeypatch.delenv("POLYINR_MODEL", raising=False)
    monkeypatch.setattr(app, "HERE", tmp_path / "space")
    shutil.copytree(tiny_model, tmp_path / app.BUNDLED)
    assert app.find_model() == tmp_path / app.BUNDLED


def test_the_page_shows_the_models_card_and_links_to_paper_and_code(tiny_model, monkeypatch):
    (tiny_model / "README.md").write_text("---\nlicense: mit\n---\nCredits: Jane.\n![samples](samples.png)\n")
    monkeypatch.setenv("SPACE_ID", "jane/poly-inr")
    studio = app.load_studio(tiny_model)
    (tiny_model / "README.md").unlink()
    page = "\n".join(str(component["props"].get("value")) for component in app.build(studio).config["components"])
    for expected in ("Credits: Jane.", "thecvf.com", "huggingface.co/spaces/jane/poly-inr/tree/main"):
        assert expected in page
    assert "samples.png" not in page
