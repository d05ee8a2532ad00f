"""A page to play with a Poly-INR model: generate, zoom, mix, morph, and rebuild an image of your own.

    python space/app.py

The environment variable POLYINR_MODEL names the pipeline, a folder or a Hub id (default: pretrained/poly-inr-emoji).
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import gradio as gr
import torch
from actions import MOVES, Studio, move, time_limit
from components import Upload, control, picture
from settings import (
    CACHE_SECONDS,
    MAX_PHOTOS,
    MAX_UPLOAD_BYTES,
    QUEUE_LENGTH,
    REQUEST_SECONDS,
    TABS,
    link,
    restore,
)

from polyinr_hf import PolyINRPipeline
from polyinr_hf.editing import save_film
from polyinr_hf.inversion import InversionStep

HERE = Path(__file__).resolve().parent
BUNDLED = Path("pretrained", "poly-inr-emoji")  # beside this file in a Space, beside its folder in the repository
FILM_FPS = 12
PROGRESS = gr.Progress()  # what Gradio looks for among the defaults
DRAWING = {"concurrency_id": "drawing", "concurrency_limit": 1}
HEAVY = {"concurrency_id": "heavy", "concurrency_limit": 1}  # so that a long request leaves the short ones their turn
PRIVATE = {"api_visibility": "private"}
QUIET = {"queue": False, "show_progress": "hidden", **PRIVATE}  # done in no time
LINK_LABEL = "Link to what you see"
# A tab that is no longer open when its image is there leaves the address as it is.
SHOW_LINK = """query => {
    const url = new URL(query, location.href);
    const panel = document.querySelector(`#tab-${url.searchParams.get("tab")}`);
    if (!panel?.getClientRects().length) return location.href;
    history.replaceState(null, "", url);
    return url.href;
}"""
# Until the address has been restored, with its image, a tab that opens draws nothing: the browser opens the first one.
SHOW_RESTORED = f"""query => {{
    window.isRestored = true;
    document.querySelector("#link textarea").ariaLabel = "{LINK_LABEL}";  // Gradio's label names the copy button
    return ({SHOW_LINK})(query);
}}"""
SAY_RESTORED = "(_, ...values) => [window.isRestored ? 'restored' : '', ...values]"
THEME = gr.themes.Base(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def load_studio(model: str | None = None) -> Studio:
    """The model that `model` or the environment names, or the one that comes with the page."""
    model = model or os.environ.get("POLYINR_MODEL")
    if not model:
        folders = [HERE / BUNDLED, HERE.parent / BUNDLED]
        model = next((folder for folder in folders if folder.is_dir()), None)
        if model is None:
            raise SystemExit(f"error: there is no {BUNDLED}: set POLYINR_MODEL to a pipeline folder or a Hub id")
    pipe = PolyINRPipeline.from_pretrained(model)
    return Studio(pipe.to("cuda" if torch.cuda.is_available() else "cpu"))


def answer(studio: Studio, action: Callable, tab: str | None, values: tuple, **extra) -> tuple:
    """What an action gives for settings in the order of its parameters, and the link to it; errors as sentences."""
    names = [name for name in inspect.signature(action).parameters if name in studio.settings]
    try:
        settings = studio.check(dict(zip(names, values, strict=True)))
        with time_limit(REQUEST_SECONDS):
            result = action(**settings, **extra)
    except (ValueError, TimeoutError) as error:
        raise gr.Error(str(error), title="Sorry", print_exception=False) from error
    except Exception as error:
        logging.exception("%s failed", action.__name__)
        raise gr.Error("Something went wrong here, on the server. It is in its log.", print_exception=False) from error
    result = result if isinstance(result, tuple) else (result,)
    return result if tab is None else (*result, link(tab, settings))


def endpoint(studio: Studio, tab: str, action: Callable) -> Callable:
    """An action as Gradio calls it, under its own name, parameters and documentation."""

    @functools.wraps(action)
    def run(*values):
        return answer(studio, action, tab, values)

    return run


class Page:
    """The Blocks: a tab for each action, one link below, and what makes them answer."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.controls: dict[str, dict[str, gr.components.Component]] = {}
        self.pictures: dict[str, list] = {}
        self.actions = {"generate": studio.generate, "zoom": studio.zoom, "mix": studio.mix, "morph": studio.morph}
        with gr.Blocks(title="Poly-INR", analytics_enabled=False, delete_cache=(600, CACHE_SECONDS)) as self.demo:
            gr.Markdown(
                "# Poly-INR\nEvery image here is a polynomial of its pixel coordinates. It can be drawn at any size, "
                "in part, or beyond its border."
            )
            self.link = gr.Textbox(label=LINK_LABEL, buttons=["copy"], interactive=False, elem_id="link", render=False)
            with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as self.tabs:
                self._add_generate()
                self._add_zoom()
                self._add_mix()
                self._add_morph()
                self._add_rebuild()
            self.link.render()
            self._draw_at_once()
            self._add_restore()

    # -- the tabs -----------------------------------------------------------------------------------------------------
    def _tab(self, name: str) -> gr.Tab:
        return gr.Tab(name.capitalize(), id=name, elem_id=f"tab-{name}")

    def _add_controls(self, tab: str, *names: str) -> None:
        held = self.controls.setdefault(tab, {})
        held.update({name: control(name, self.studio.settings[name], tab) for name in names or TABS[tab]})

    def _add_generate(self) -> None:
        with self._tab("generate"), gr.Row():
            with gr.Column(scale=1, min_width=280):
                self._add_controls("generate")
            with gr.Column(scale=2, min_width=280, elem_classes="pictures"):
                images = gr.Gallery(
                    label="Images",
                    format="png",
                    columns=2,
                    object_fit="contain",
                    height="auto",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="generate-images",
                )
        self.pictures["generate"] = [images]

    def _add_zoom(self) -> None:
        with self._tab("zoom"), gr.Row():
            with gr.Column(scale=1, min_width=280):
                with gr.Row(elem_classes="compass"):
                    buttons = {way: gr.Button(way.capitalize(), size="sm", min_width=70) for way in MOVES}
                    whole = gr.Button("Whole image", size="sm", min_width=150)
                self._add_controls("zoom")
            with gr.Column(scale=2, min_width=280, elem_classes="pictures"):
                image = picture("Part of the image", "zoom-image")
        self.pictures["zoom"] = [image]
        controls = self.controls["zoom"]
        place = [controls[name] for name in ("row", "column", "zoom")]
        self.moves = [
            button.click(functools.partial(self._move, way), place, place, **QUIET) for way, button in buttons.items()
        ]
        self.moves.append(whole.click(lambda: (0.5, 0.5, 0.0), None, place, **QUIET))

    def _add_mix(self) -> None:
        with self._tab("mix"), gr.Row():
            with gr.Column(scale=1, min_width=280):
                self._add_controls("mix")
            with gr.Column(scale=2, min_width=280, elem_classes="pictures"):
                mixed = picture("Mixed", "mix-mixed")
                with gr.Row():
                    first = picture("First", "mix-first", min_width=120)
                    second = picture("Second", "mix-second", min_width=120)
        self.pictures["mix"] = [first, second, mixed]

    def _add_morph(self) -> None:
        with self._tab("morph"), gr.Row():
            with gr.Column(scale=1, min_width=280):
                self._add_controls("morph")
                button = gr.Button("Make a film", variant="primary", elem_id="morph-film-button")
            with gr.Column(scale=2, min_width=280, elem_classes="pictures"):
                image = picture("Between the two", "morph-image")
                film = picture("Film (GIF)", "morph-film", format="gif", type="filepath")
        self.pictures["morph"] = [image]
        names = list(inspect.signature(self.studio.film).parameters)
        inputs = [self.controls["morph"][name] for name in names]
        made = button.click(self._film(film), inputs, [film, self.link], api_name="film", **HEAVY)
        self._show_link(made)

    def _add_rebuild(self) -> None:
        with self._tab("rebuild"), gr.Row():
            with gr.Column(scale=1, min_width=280):
                upload = Upload(
                    label=f"Your image: its middle square is used, up to {MAX_UPLOAD_BYTES >> 20} MB",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=220,
                    elem_id="rebuild-upload",
                )
                self._add_controls("rebuild", "num_steps", "size")
                button = gr.Button("Rebuild", variant="primary", elem_id="rebuild-button")
                gr.Markdown(
                    f"The search starts from the model's own images and changes the numbers that draw one, until it is "
                    f"yours. Those numbers are kept in memory (the latest {MAX_PHOTOS}); your file is deleted within "
                    f"{CACHE_SECONDS // 3600 + 1} hours."
                )
            with gr.Column(scale=2, min_width=280, elem_classes="pictures"):
                image = picture("Rebuilt", "rebuild-image")
                report = gr.Textbox(label="How close", interactive=False, elem_id="rebuild-report")
                code = replace(self.studio.settings["photo"], label="Its code", info="for Zoom, Mix and the link")
                code = self.controls["rebuild"]["photo"] = control("photo", code, "rebuild")
                with gr.Row():
                    to_zoom = gr.Button("Zoom into it", elem_id="rebuild-to-zoom")
                    to_mix = gr.Button("Mix it", elem_id="rebuild-to-mix")
        controls = self.controls["rebuild"]
        self.pictures["rebuild"] = [image]
        made = button.click(
            self._rebuild,
            [upload, controls["num_steps"], controls["size"]],
            [image, code, report, self.link],
            api_name="rebuild",
            show_progress_on=image,
            **HEAVY,
        )
        self._show_link(made)
        shown = gr.on(
            [controls["size"].input, code.submit],
            endpoint(self.studio, "rebuild", self.studio.photo),
            [code, controls["size"]],
            [image, self.link],
            api_name="photo",
            trigger_mode="always_last",
            **DRAWING,
        )
        self._show_link(shown)
        for tab, way in (("zoom", to_zoom), ("mix", to_mix)):
            # The tab draws itself once it is there.
            go = functools.partial(lambda tab, code: (gr.Tabs(selected=tab), code), tab)
            way.click(go, code, [self.tabs, self.controls[tab]["photo"]], **QUIET)

    # -- what happens -------------------------------------------------------------------------------------------------
    def _draw_at_once(self) -> None:
        """Each tab draws when it is opened, and again when anything in it changes."""
        tabs = {block.id: block for block in self.tabs.children}
        for tab, action in self.actions.items():
            names = list(inspect.signature(action).parameters)
            inputs = [self.controls[tab][name] for name in names]
            outputs = [*self.pictures[tab], self.link]
            run = endpoint(self.studio, tab, action)
            how = {"trigger_mode": "always_last", "show_progress_on": self.pictures[tab], **DRAWING}
            self._show_link(gr.on([c.input for c in inputs], run, inputs, outputs, api_name=tab, **how))
            opened = functools.partial(self._draw_opened, run, len(outputs))
            self._show_link(tabs[tab].select(opened, [self.link, *inputs], outputs, js=SAY_RESTORED, **how, **PRIVATE))
            for moved in self.moves if tab == "zoom" else ():
                self._show_link(moved.then(run, inputs, outputs, **how, **PRIVATE))

    def _show_link(self, event) -> None:
        """Puts the link into the address bar, and whole into its box."""
        event.success(None, self.link, self.link, js=SHOW_LINK, **QUIET)

    def _add_restore(self) -> None:
        outputs = [self.tabs, self.link]
        outputs += [c for held in self.controls.values() for c in held.values()]
        outputs += [p for held in self.pictures.values() for p in held]
        how = {"show_progress": "hidden", **DRAWING, **PRIVATE}
        loaded = self.demo.load(self._restore, self.link, outputs, js="() => location.search", **how)
        loaded.then(None, self.link, self.link, js=SHOW_RESTORED, **QUIET)

    def _restore(self, query: str) -> dict:
        """The tab, the settings and the picture that the query of the address asks for."""
        tab, values = restore(dict(parse_qsl(query.lstrip("?"), keep_blank_values=True)), self.studio.settings)
        update = {self.tabs: gr.Tabs(selected=tab), self.link: link(tab, values)}
        update |= {self.controls[tab][name]: value for name, value in values.items()}
        if tab == "rebuild" and not values["photo"]:
            return update
        action = self.actions.get(tab, self.studio.photo)
        names = list(inspect.signature(action).parameters)
        try:
            drawn = answer(self.studio, action, None, tuple(values[name] for name in names))
        except gr.Error as error:
            gr.Warning(error.message)
            return update
        return update | dict(zip(self.pictures[tab], drawn, strict=True))

    @staticmethod
    def _draw_opened(run: Callable, num_outputs: int, restored: str, *values) -> tuple:
        return run(*values) if restored == "restored" else (gr.skip(),) * num_outputs

    def _move(self, way: str, row: float, column: float, zoom: float) -> tuple[float, float, float]:
        return move(way, row, column, zoom, self.studio.settings)

    def _film(self, component: gr.Image) -> Callable:
        studio = self.studio

        @functools.wraps(studio.film)
        def run(*values):
            frames, query = answer(studio, studio.film, "morph", values)
            path = Path(component.GRADIO_CACHE, f"{uuid.uuid4()}.gif")  # where Gradio deletes what has grown old
            save_film(frames, path, fps=FILM_FPS)
            return str(path), query

        return run

    def _rebuild(self, image, num_steps, size, progress=PROGRESS):
        """Inverts an image: the rebuilt one, its code for the other actions, how close it is, and a link.

        Args:
            image: a file, PNG, JPEG, WebP or the like; its middle square is used.
            num_steps: more are slower and closer.
            size: of the rebuilt image, in pixels.
        """
        if image is None:
            raise gr.Error("Choose an image first.", title="Sorry", print_exception=False)

        def callback(step: InversionStep) -> None:
            progress((step.step, step.num_steps), desc=f"loss {step.loss:.4f}", unit="steps")

        extra = {"path": image, "callback": callback}
        drawn, code, report = answer(self.studio, self.studio.rebuild, None, (num_steps, size), **extra)
        return drawn, code, report, link("rebuild", {"photo": code, "num_steps": num_steps, "size": size})


def build(studio: Studio) -> gr.Blocks:
    """The page for a model."""
    return Page(studio).demo.queue(max_size=QUEUE_LENGTH, default_concurrency_limit=1)


def launch(demo: gr.Blocks, **kwargs) -> None:
    """Serves the page; `kwargs` as `gr.Blocks.launch` has them."""
    options = {"ssr_mode": False, "run_history": False, "footer_links": ["api"], "max_file_size": MAX_UPLOAD_BYTES}
    options |= {"theme": THEME, "css_paths": HERE / "style.css", "state_session_capacity": 100}
    return demo.launch(**options | kwargs)


if __name__ == "__main__":
    demo = build(load_studio())
    launch(demo)
