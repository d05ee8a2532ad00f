"""The controls and pictures of the page."""

from __future__ import annotations

import gradio as gr
from settings import Setting

CLASSES = ("class_label", "second_class_label")


class Upload(gr.Image):
    """An image as the path of the file that was sent: nothing opens it before `photos.open_photo` has looked at it."""

    is_template = True  # in the browser, an Image

    def preprocess(self, payload) -> str | None:
        return None if payload is None else payload.path

    async def async_move_resource_to_block_cache(self, url_or_file_path):
        if str(url_or_file_path).startswith(("http:", "https:")):
            raise gr.Error("Send the image itself: this server fetches nothing.", print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


def control(name: str, setting: Setting, tab: str) -> gr.components.Component:
    """The component for a setting."""
    shared = {"label": setting.label, "info": setting.info, "elem_id": f"{tab}-{name}"}
    if name in CLASSES:
        return gr.Dropdown(list(setting.choices), value=setting.default, visible=bool(setting.choices), **shared)
    if isinstance(setting.default, list):
        return gr.CheckboxGroup(list(setting.choices), value=setting.default, **shared)
    if setting.choices:
        return gr.Dropdown(list(setting.choices), value=setting.default, filterable=False, **shared)
    if isinstance(setting.default, bool):
        return gr.Checkbox(setting.default, **shared)
    if isinstance(setting.default, str):
        return gr.Textbox(setting.default, max_length=40, **shared)
    bounds = {"minimum": setting.minimum, "maximum": setting.maximum, "value": setting.default, "step": setting.step}
    if name.endswith("seed"):
        return gr.Number(precision=0, **bounds, **shared)
    return gr.Slider(precision=0 if setting.step == 1 else None, **bounds, **shared)


def picture(label: str, name: str, **kwargs) -> gr.Image:
    """An image to look at and to download, a PNG unless `kwargs` of `gr.Image` say otherwise."""
    shown = {"interactive": False, "buttons": ["download", "fullscreen"], "elem_id": name, "alt_text": label}
    return gr.Image(label=label, **({"format": "png", "type": "pil"} | shown | kwargs))
