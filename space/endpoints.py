"""The named endpoints: what the page does, for scripts."""

from __future__ import annotations

import functools
import inspect
import logging
import uuid
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from actions import Studio
from components import Upload, parameter
from PIL import Image
from settings import ENDPOINTS, REQUEST_SECONDS, Scene, link
from turns import SupersededError, time_limit

from polyinr_hf.editing import save_film

FILM_FPS = 12
PROGRESS = gr.Progress()  # what Gradio looks for among the defaults
# Each group has a queue of its own: what takes seconds never waits behind what takes minutes.
PREVIEW = {"concurrency_id": "preview", "concurrency_limit": 1}
DRAWING = {"concurrency_id": "drawing", "concurrency_limit": 1}
HEAVY = {"concurrency_id": "heavy", "concurrency_limit": 1}
WENT_WRONG = "Something went wrong here, on the server. It is in its log."


def answer(studio: Studio, name: str, values: tuple, **extra) -> tuple[tuple, dict]:
    """What an action gives for the settings of its endpoint, in order; and these, checked. Errors are sentences."""
    action = getattr(studio, name)
    try:
        settings = studio.check(dict(zip(ENDPOINTS[name], values, strict=True)))
        wanted = inspect.signature(action).parameters
        arguments = {key: value for key, value in settings.items() if key in wanted} | extra
        if "scene" in wanted:
            arguments["scene"] = Scene.of(settings)
        with time_limit(REQUEST_SECONDS):
            result = action(**arguments)
    except (ValueError, TimeoutError) as error:
        raise gr.Error(str(error), title="Sorry", print_exception=False) from error
    except Exception as error:
        logging.exception("%s failed", name)
        raise gr.Error(WENT_WRONG, print_exception=False) from error
    return result if isinstance(result, tuple) else (result,), settings


def save_image(image: Image.Image, name: str, folder: str) -> str:
    """Writes a PNG file of this name where Gradio deletes what has grown old; returns its path."""
    return _in_new_folder(folder, f"{name}.png", image.save)


def save_frames(frames: list[Image.Image], name: str, folder: str) -> str:
    """Writes a GIF file of this name where Gradio deletes what has grown old; returns its path."""
    return _in_new_folder(folder, f"{name}.gif", lambda path: save_film(frames, path, fps=FILM_FPS))


def _in_new_folder(folder: str, name: str, save: Callable[[Path], None]) -> str:
    path = Path(folder, uuid.uuid4().hex, name)
    path.parent.mkdir(parents=True)
    save(path)
    return str(path)


def sentences(method: Callable) -> Callable:
    """A method of the page whose errors are sentences under the picture, which stays."""

    def sentence(page, error: Exception) -> dict:
        if isinstance(error, (ValueError, TimeoutError)):
            return {page.stage: {"note": str(error), "idle": True}}
        logging.error("%s failed", method.__name__, exc_info=error)
        return {page.stage: {"note": WENT_WRONG, "idle": True}}

    @functools.wraps(method)
    def run(page, *args, **kwargs):
        try:
            return method(page, *args, **kwargs)
        except Exception as error:
            return sentence(page, error)

    @functools.wraps(method)
    def generate(page, *args, **kwargs):
        try:
            yield from method(page, *args, **kwargs)
        except SupersededError:
            return
        except Exception as error:
            yield sentence(page, error)

    return generate if inspect.isgeneratorfunction(method) else run


class Endpoints:
    """Adds the endpoints to the Blocks that are being built; nothing of them is to be seen on the page."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.link = gr.Textbox(label="Link", visible=False)
        self.image = gr.Image(label="Image", type="filepath", format="png", visible=False)
        self._add("generate", "generate", [gr.Gallery(label="Images", format="png", visible=False)])
        self._add("zoom", "zoom", [self.image])
        self._add("preview", "zoom", [self.image], **PREVIEW)
        first, second = (
            gr.Image(label=label, type="filepath", format="png", visible=False) for label in ("First", "Second")
        )
        self._add("mix", "mix", [first, second, self.image])
        self._add("morph", "morph", [self.image])
        film = gr.Image(label="Film", type="filepath", format="gif", visible=False)
        self._add("film", "film", [film], **HEAVY)
        self._add("photo", "rebuild", [self.image])
        self._add_rebuild()
        self._add_labels()

    def _add(self, name: str, tab: str, outputs: list, **how) -> None:
        suffixes = ["-first", "-second", ""] if len(outputs) == 3 else [""]

        def run(*values):
            drawn, settings = answer(self.studio, name, values)
            defaults = {key: setting.default for key, setting in self.studio.settings.items()}
            title = self.studio.file_name(tab, Scene.of(defaults | settings))
            files = [self._files(value, f"{title}{suffix}") for value, suffix in zip(drawn, suffixes, strict=True)]
            return *files, link(tab, settings)

        self._describe(run, name)
        inputs = [parameter(self.studio.settings[key]) for key in ENDPOINTS[name]]
        trigger = gr.Button(visible=False)
        trigger.click(run, inputs, [*outputs, self.link], api_name=name, **(DRAWING | how))

    def _describe(self, run: Callable, name: str) -> None:
        """The name, the text and the parameters that Gradio shows of an endpoint."""
        run.__name__, run.__doc__ = name, getattr(self.studio, name).__doc__
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        run.__signature__ = inspect.Signature([inspect.Parameter(key, kind) for key in ENDPOINTS[name]])

    def _add_labels(self) -> None:
        def labels() -> list[str]:
            """The names of the classes; a `class_label` may also be the number of one, from 0."""
            return list(self.studio.class_ids)

        gr.Button(visible=False).click(
            labels, None, gr.JSON(label="Names", visible=False), api_name="labels", queue=False
        )

    def _files(self, drawn, name: str):
        """Images as files whose names say what they show."""
        folder = self.image.GRADIO_CACHE
        if isinstance(drawn, Image.Image):
            return save_image(drawn, name, folder)
        if isinstance(drawn[0], Image.Image):
            return save_frames(drawn, name, folder)
        first = name.rsplit("-", 1)[0]  # without the seed, of which each has its own
        return [(save_image(image, f"{first}-{caption.split()[-1]}", folder), caption) for image, caption in drawn]

    def _add_rebuild(self) -> None:
        settings = self.studio.settings
        inputs = [Upload(label="Image", type="filepath", visible=False)]
        inputs += [parameter(settings[name]) for name in ("num_steps", "size")]
        outputs = [gr.Textbox(label=label, visible=False) for label in ("Image ID", "PSNR")]
        trigger = gr.Button(visible=False)
        trigger.click(self._rebuild, inputs, [self.image, *outputs, self.link], api_name="rebuild", **HEAVY)

    def _rebuild(self, image, num_steps, size, progress=PROGRESS):
        """Rebuilds an image: the rebuilt one, its ID for the other actions, how close it is, and a link.

        Args:
            image: a file, PNG, JPEG, WebP or the like; its middle square is used.
            num_steps: more are slower and closer.
            size: of the rebuilt image, in pixels.
        """
        if image is None:
            raise gr.Error("Choose an image first.", title="Sorry", print_exception=False)

        def callback(step: int, total: int, _) -> None:
            progress((step, total), unit="steps")

        extra = {"path": image, "callback": callback}
        (drawn, code, report), settings = answer(self.studio, "rebuild", (num_steps, size), **extra)
        query = link("rebuild", settings | {"photo": code})
        return save_image(drawn, "rebuilt", self.image.GRADIO_CACHE), code, report, query
