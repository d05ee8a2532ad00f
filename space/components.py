"""The parts of the page: controls, a picture to zoom into, rows of thumbnails; and what the endpoints take."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import gradio as gr
from gradio.components import Component
from gradio.components.api_component import Api
from gradio.data_classes import ImageData
from PIL import Image
from pydantic import ValidationError
from settings import PLACE, Setting, listed

HERE = Path(__file__).resolve().parent
STAGE_HTML = """
<div class="frame" tabindex="0" role="group">
  <div class="pictures"></div>
  <div class="border" hidden></div>
  <div class="busy" hidden></div>
  <div class="hint">drag · pinch · scroll</div>
</div>
<div class="caption"><strong class="title"></strong><span class="note" role="status"></span></div>
<div class="tools">
  <button type="button" data-do="out" aria-label="Zoom out">−</button>
  <button type="button" data-do="in" aria-label="Zoom in">+</button>
  <button type="button" data-do="whole" aria-label="Whole picture">⤢</button>
  <button type="button" data-do="save" aria-label="Save as a PNG file">⤓ Save</button>
</div>
"""


class Stage(gr.HTML):
    """One large picture that is dragged, pinched and scrolled.

    In the browser its value is what is to be seen, `{"tab", "settings", "epoch"}`; from the server come new settings
    and pictures of parts of them (see stage.js). It triggers "look" while it moves, "rest" and "sharpen" when it
    rests, "settle" when something else is seen, and "film".
    """

    is_template = True  # in the browser, an HTML

    def __init__(self, settings: dict[str, Setting], **kwargs):
        limits = {name: [settings[name].minimum, settings[name].maximum, settings[name].default] for name in PLACE}
        code = (HERE / "stage.js").read_text()
        bare = {"apply_default_css": False}
        super().__init__({}, html_template=STAGE_HTML, js_on_load=code, limits=limits, **bare, **kwargs)

    def api_info(self) -> dict:
        return {"type": "object"}


class Strip(gr.HTML):
    """Thumbnails that are buttons. It triggers "pick", with what is picked, as given to `strip_of`."""

    is_template = True

    def __init__(self, value: dict | None = None, **kwargs):
        code = (HERE / "strip.js").read_text()
        html = '<div class="tiles"></div>'
        super().__init__(value or {}, html_template=html, js_on_load=code, apply_default_css=False, **kwargs)

    def api_info(self) -> dict:
        return {"type": "object"}


def strip_of(labels: list[str], picks: list[dict], sheet: Image.Image | None, columns: int | None = None) -> dict:
    """The value of a `Strip`: what each tile is called and stands for, and their pictures, in rows of `columns`."""
    columns = columns or len(picks)
    return {"labels": labels, "picks": picks, "columns": columns, "sheet": sheet and data_uri(sheet, "WEBP")}


def data_uri(image: Image.Image, format: str = "PNG") -> str:
    """An image as an address that holds it."""
    content = io.BytesIO()
    image.save(content, format, **({"quality": 90} if format == "WEBP" else {}))
    return f"data:image/{format.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


NO_FILE = "Send the image as a file, which in Python is `handle_file(path)`: this server takes no other data."


class SentFile(ImageData):
    """A file that was sent; whatever else comes in its place, such as a path, is answered by a sentence."""

    @classmethod
    def model_validate(cls, value, **kwargs):
        try:
            return super().model_validate(value, **kwargs)
        except ValidationError as error:
            raise gr.Error(NO_FILE, print_exception=False) from error


def _path(self, payload) -> str | None:
    """The file that was sent, as it is; other data, such as base64, is refused."""
    if payload is not None and payload.path is None:
        raise gr.Error(NO_FILE, print_exception=False)
    return None if payload is None else payload.path


async def _move(self, url_or_file_path):
    if str(url_or_file_path).startswith(("http:", "https:")):
        raise gr.Error("Send the image itself: this server fetches nothing.", print_exception=False)
    return await Component.async_move_resource_to_block_cache(self, url_or_file_path)


class Upload(gr.Image):
    """An image as the path of the file that was sent: nothing opens it before `photos.open_photo` has looked at it."""

    is_template = True  # in the browser, an Image
    data_model = SentFile
    preprocess, async_move_resource_to_block_cache = _path, _move


class UploadButton(gr.UploadButton):
    """A button that sends such an image."""

    is_template = True
    preprocess, async_move_resource_to_block_cache = _path, _move


def control(name: str, setting: Setting, **changes) -> gr.components.Component:
    """The component for a setting."""
    shared = {"label": setting.label, "info": setting.info, "elem_id": name} | changes
    if name.endswith("class_label"):
        choices = [(str(choice).replace("-", " ").replace("_", " "), choice) for choice in setting.choices]
        return gr.Dropdown(choices, value=setting.default, visible=bool(setting.choices), **shared)
    if isinstance(setting.default, list):
        return gr.CheckboxGroup(list(setting.choices), value=setting.default, **shared)
    if setting.choices:
        return gr.Dropdown(list(setting.choices), value=setting.default, filterable=False, **shared)
    if isinstance(setting.default, bool):
        return gr.Checkbox(setting.default, **shared)
    if isinstance(setting.default, str):
        return gr.Textbox(setting.default, max_length=40, **shared)
    if name.endswith("seed") or name in PLACE:  # whose limits the server checks: a sentence is better than a silent cut
        return gr.Number(setting.default, step=1 if setting.step == 1 else 0.1, **shared)
    bounds = {"minimum": setting.minimum, "maximum": setting.maximum, "value": setting.default, "step": setting.step}
    return gr.Slider(precision=0 if setting.step == 1 else None, **bounds, **shared)


def parameter(setting: Setting) -> Api:
    """A setting as an endpoint takes it: the value is checked by `Setting.check`, whose errors are sentences."""
    if isinstance(setting.default, list):
        schema = {"type": "array", "items": {"type": "integer"}, "description": f"some of {listed(setting.choices)}"}
    elif setting.choices:
        kind = "integer" if isinstance(setting.choices[0], int) else "string"
        schema = {"type": kind, "description": f"one of {listed(setting.choices)}"}
    elif isinstance(setting.default, bool):
        schema = {"type": "boolean", "description": ""}
    elif setting.default is None or isinstance(setting.default, str):
        schema = {"type": "string", "description": setting.info or ""}
    else:
        kind = "integer" if setting.step == 1 else "number"
        schema = {"type": kind, "description": f"{setting.minimum:g} to {setting.maximum:.10g}"}
    schema["additional_description"] = schema["description"]
    return Api(setting.default, schema, setting.label)
