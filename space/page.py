"""The page: a wall of pictures; one of them large, with what can be made of it beside it."""

from __future__ import annotations

import functools
import os
import random
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import gradio as gr
from actions import STRIP_COUNT, Studio, describe_others, readable
from components import Stage, Strip, UploadButton, control, data_uri, strip_of
from endpoints import DRAWING, HEAVY, PREVIEW, Endpoints, save_frames, sentences
from PIL import Image
from settings import (
    CACHE_SECONDS,
    FILM_SIZE,
    MAX_PHOTOS,
    MAX_UPLOAD_BYTES,
    PLACE,
    PREVIEW_SIZE,
    REQUEST_SECONDS,
    SECOND,
    SHOWING,
    Scene,
    link,
    restore,
)
from texts import ABOUT, CARD_PICTURES, CODE, HEAD, SELECT_ON_FOCUS, SHOW_LINK, SHOW_WALL
from turns import Latest, preview, time_limit, updates_of, wanted_while

PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
QUICK = {"queue": False, **PRIVATE}  # done in no time
LAST = {"trigger_mode": "always_last", **PRIVATE}  # of several while one runs, the last
COLUMNS = 10  # of the wall's contact sheet
SECONDS_OFFERED = 7  # one row of tiles
DICE_SIDES = 10_000  # seeds that a dice can show
EMERGE_SECONDS = 0.7  # between two pictures of one that is being rebuilt
TAB_OF = {"levels": "mix", "position": "morph"}  # control -> what it shows


class Page:
    """The Blocks, and what makes them answer.

    What is to be seen is the value of the stage, `{"tab", "settings", ...}`, in the browser; the controls follow it.
    """

    def __init__(self, studio: Studio):
        self.studio = studio
        self.latest = Latest()
        self.names = [name for name in studio.settings if name != "count"]  # of the settings of what is seen
        self.whole = {name: studio.settings[name].default for name in (*PLACE, "photo")}
        self.wall_picks, self.wall_sheet = studio.wall()
        self.controls: dict[str, gr.components.Component] = {}
        with gr.Blocks(title="Poly-INR", analytics_enabled=False, delete_cache=(600, CACHE_SECONDS)) as self.demo:
            Endpoints(studio)
            gr.Markdown(HEAD, elem_id="head")
            self._add_bar()
            with gr.Column(elem_classes="in-wall"):
                self.wall = Strip(self._wall(), elem_id="wall")
            with gr.Row(elem_classes="in-subject"):
                with gr.Column(scale=6, min_width=320):
                    self.stage = Stage(studio.settings, elem_id="stage")
                    self.link = gr.Textbox(
                        label="Link to what you see", buttons=["copy"], interactive=False, elem_id="link"
                    )
                with gr.Column(scale=5, min_width=320):
                    self._add_offers()
                    self._add_more()
            space = os.environ.get("SPACE_ID")  # set where the page is a Space of the Hub
            gr.Markdown(ABOUT + (CODE.format(space=space) if space else ""), elem_id="about")
            if studio.card:
                with gr.Accordion("The model, what it learned from, licenses and credits", open=False, elem_id="card"):
                    gr.Markdown(CARD_PICTURES.sub("", studio.card))
            self._add_events()

    # -- what there is ------------------------------------------------------------------------------------------------
    def _control(self, name: str, **changes) -> None:
        self.controls[name] = control(name, self.studio.settings[name], **changes)

    def _add_bar(self) -> None:
        with gr.Row(elem_id="bar"):
            self.back = gr.Button("← All", elem_id="back", elem_classes="in-subject", min_width=90)
            self._control("class_label", label="Find a picture by its name")
            self.surprise = gr.Button("🎲 Surprise me", elem_id="surprise", min_width=140)
            self.upload = UploadButton("📷 Rebuild a photo", file_types=["image"], elem_id="upload", min_width=160)

    def _add_offers(self) -> None:
        self.dice_button = gr.Button("🎲 Dice: another one of its kind", elem_id="dice-button")
        self.dice_count = gr.Markdown(elem_id="dice-count")
        self.dice = Strip(elem_id="dice", elem_classes="row-of-tiles")
        with gr.Row(elem_classes="heading"):
            gr.Markdown("**Mix with, or morph to**")
            self.others = gr.Button("🎲 Others", size="sm", min_width=90, elem_id="others")
        self.seconds = Strip(self._seconds(), elem_id="seconds", elem_classes="row-of-tiles")
        self._control("second_class_label", label="... or with one that you name")
        gr.Markdown("**Mixed**, from a little to a lot")
        self.mixtures = Strip(elem_id="mixtures", elem_classes="row-of-tiles")
        gr.Markdown("**Between the two**")
        self.between = Strip(elem_id="between", elem_classes="row-of-tiles")
        self.film_button = gr.Button("▶ Make a film of it", elem_id="film-button")
        self.film = gr.Image(
            label="Film", format="gif", type="filepath", interactive=False, visible=False, elem_id="film",
            buttons=["download", "fullscreen"],
        )  # fmt: skip

    def _add_more(self) -> None:
        with gr.Accordion("More", open=False, elem_id="more"):
            for names in (("seed", "truncation_psi"), ("size", "photo"), PLACE, ("border", "second_seed")):
                with gr.Row():
                    for name in names:
                        self._control(name)
            for name in ("levels", "position", "num_frames", "num_steps"):
                self._control(name)
            gr.Markdown(
                f"A photograph is rebuilt from its middle square. What draws it is kept in memory (the latest "
                f"{MAX_PHOTOS}); your file, of {MAX_UPLOAD_BYTES >> 20} MB at most, is deleted within "
                f"{CACHE_SECONDS // 3600 + 1} hours."
            )

    def _wall(self) -> dict:
        picks = [{"tab": "zoom", **self.whole, **pick} for pick in self.wall_picks]
        return strip_of([self._name(pick) for pick in picks], picks, self.wall_sheet, COLUMNS)

    def _seconds(self) -> dict:
        """Some of the wall, to mix with."""
        chosen = sorted(random.sample(range(len(self.wall_picks)), min(SECONDS_OFFERED, len(self.wall_picks))))
        picks = [dict(zip(SECOND, self.wall_picks[i].values(), strict=True)) for i in chosen]
        side = PREVIEW_SIZE
        sheet = Image.new("RGB", (side * len(picks), side))
        for position, i in enumerate(chosen):
            x, y = i % COLUMNS * side, i // COLUMNS * side
            sheet.paste(self.wall_sheet.crop((x, y, x + side, y + side)), (position * side, 0))
        return strip_of([self._name(self.wall_picks[i]) for i in chosen], picks, sheet)

    @staticmethod
    def _name(pick: dict) -> str:
        return readable(pick["class_label"], pick["seed"])

    # -- what happens -------------------------------------------------------------------------------------------------
    def _add_events(self) -> None:
        stage, everything = self.stage, [self.stage, self.link, *self.controls.values()]
        for strip in (self.wall, self.dice, self.seconds, self.mixtures, self.between):
            strip.pick(self._pick, stage, everything, trigger_mode="multiple", **QUICK)
        self.surprise.click(self._surprise, stage, everything, **QUICK)
        self.dice_button.click(self._dice, stage, everything, **QUICK)
        self.others.click(self._seconds, None, self.seconds, **QUICK)
        for name, component in self.controls.items():
            change = functools.partial(self._change, name)
            component.input(change, [stage, component], [stage, self.link], **(LAST | QUICK))
        stage.look(self._look, stage, stage, **LAST, **PREVIEW)
        place = [self.controls[name] for name in PLACE]
        stage.rest(self._rest, stage, [stage, self.link, *place], **(LAST | QUICK))
        stage.sharpen(self._sharpen, stage, stage, **LAST, **DRAWING)
        offered = [stage, self.dice, self.dice_count, self.mixtures, self.between]
        stage.settle(self._settle, stage, offered, **LAST, concurrency_id="offers", concurrency_limit=1)
        made = {"fn": self._film, "inputs": stage, "outputs": [stage, self.film, self.link]}
        for makes_film in (self.film_button.click, stage.film):
            makes_film(**made, **PRIVATE, **HEAVY)
        self.upload.upload(self._rebuild, [stage, self.upload], everything, **PRIVATE, **HEAVY)
        self.link.change(None, self.link, self.link, js=SHOW_LINK, **QUICK)
        self.back.click(None, js=SHOW_WALL, **QUICK)
        self.demo.load(self._open, self.link, everything, js="() => [location.search]", **QUICK)
        self.demo.load(None, js=SELECT_ON_FOCUS, **QUICK)

    def _seen(self, scene: dict | None) -> tuple[str, dict]:
        """Tab and settings that the browser says are seen, checked."""
        scene = scene if isinstance(scene, dict) else {}
        given, tab = scene.get("settings") or {}, scene.get("tab") or "zoom"
        if tab not in SHOWING:
            raise ValueError(f"There is no {tab!r}.")
        settings = self.studio.settings
        return tab, self.studio.check({name: given.get(name, settings[name].default) for name in self.names})

    def _show(self, tab: str, settings: dict, **extra) -> dict:
        """Updates of the whole page for something else to be seen."""
        updates = {self.controls[name]: value for name, value in settings.items() if name in self.controls}
        return updates | {self.stage: self._stage(tab, settings, **extra), self.link: link(tab, settings)}

    def _stage(self, tab: str, settings: dict, **extra) -> dict:
        seen = Scene.of(settings)
        named = {"title": self.studio.title(tab, seen), "name": self.studio.file_name(tab, seen)}
        return {"tab": tab, "settings": settings, "note": "", "open": True, **named, **extra}

    @sentences
    def _pick(self, scene, event: gr.EventData):
        tab, settings = self._seen(scene)
        pick = dict(event._data["pick"])
        tab = pick.pop("tab", tab)
        return self._show(tab, settings | self.studio.check(pick))

    @sentences
    def _surprise(self, scene):
        _, settings = self._seen(scene)
        names = self.studio.showcase["recognized"] or list(self.studio.class_ids) or [None]
        class_label = random.choice(names)
        seed = self.studio.seed_to_show(class_label, random.randrange(DICE_SIDES))
        return self._show("zoom", settings | self.whole | {"class_label": class_label, "seed": seed})

    @sentences
    def _dice(self, scene):
        _, settings = self._seen(scene)
        seeds = self.studio.others(settings)
        if not seeds:
            return {self.stage: {"note": describe_others(0)}}
        seed = random.choice(seeds) if len(seeds) < STRIP_COUNT else random.randrange(DICE_SIDES)
        return self._show("zoom", settings | {"photo": "", "seed": seed})

    @sentences
    def _change(self, name: str, scene, value):
        """A control was changed by hand."""
        tab, settings = self._seen(scene)
        if value is None and settings[name] is not None:  # a field that is being typed into
            return {self.stage: {"note": f"{self.studio.settings[name].label} is empty."}}
        settings |= self.studio.check({name: value})
        if name in ("class_label", "seed"):
            settings["photo"] = ""
        tab = TAB_OF.get(name, tab)
        return {self.stage: self._stage(tab, settings), self.link: link(tab, settings)}

    # -- drawing ------------------------------------------------------------------------------------------------------
    @sentences
    def _look(self, scene, request: gr.Request) -> dict:
        """Coarse, at once."""
        tab, settings = self._seen(scene)
        self.latest.advance(request.session_hash, scene["moves"])
        with preview(), time_limit(REQUEST_SECONDS):
            image = self.studio.draw(tab, Scene.of(settings), PREVIEW_SIZE)
        return {self.stage: {"picture": self._picture(scene, settings, image)}}

    @sentences
    def _rest(self, scene) -> dict:
        """The link and the numbers follow the picture that was moved."""
        tab, settings = self._seen(scene)
        return {self.link: link(tab, settings), **{self.controls[name]: settings[name] for name in PLACE}}

    @sentences
    def _sharpen(self, scene, request: gr.Request) -> Iterator[dict]:
        """Sharper and sharper, until something else is wanted."""
        tab, settings = self._seen(scene)
        is_wanted = functools.partial(self.latest.is_latest, request.session_hash, scene["moves"])
        images = self.studio.sharper(tab, Scene.of(settings), settings["size"])
        while True:
            with wanted_while(is_wanted), time_limit(REQUEST_SECONDS):
                image = next(images, None)
            if image is None:
                break
            yield {self.stage: {"picture": self._picture(scene, settings, image)}}
        yield {self.stage: {"idle": True}}

    def _picture(self, scene: dict, settings: dict, image: Image.Image) -> dict:
        return {
            "src": data_uri(image),
            "extent": Scene.of(settings).extent,
            "size": image.width,
            "epoch": scene["epoch"],
        }

    @sentences
    def _settle(self, scene) -> Iterator[dict]:
        """What is offered beside the picture, row by row."""
        _, settings = self._seen(scene)
        for strip, picks in zip((self.dice, self.mixtures, self.between), self.studio.picks(settings), strict=True):
            labels = [self.studio.title(pick["tab"], Scene.of(settings | pick)) for pick in picks]
            with time_limit(REQUEST_SECONDS):
                row = strip_of(labels, picks, self.studio.strip(settings, picks))
            yield {strip: row}
            if strip is self.dice:
                yield {self.dice_count: describe_others(len(picks)) if not settings["photo"].strip() else ""}

    @sentences
    def _film(self, scene) -> Iterator[dict]:
        """A film of the way to the second image and back."""
        _, settings = self._seen(scene)
        seen, total = Scene.of(settings), settings["num_frames"]
        way, frames = self.studio.frames(seen, total, min(settings["size"], FILM_SIZE)), []
        while len(frames) < total:
            with time_limit(REQUEST_SECONDS):
                frames.append(next(way))
            yield {self.stage: {"note": f"The film: frame {len(frames)} of {total}"}}
        path = save_frames(frames + frames[-2:0:-1], self.studio.file_name("film", seen), self.film.GRADIO_CACHE)
        note = {"note": "The film is there.", "idle": True}
        yield {self.film: gr.Image(path, visible=True), self.stage: note, self.link: link("film", settings)}

    @sentences
    def _rebuild(self, scene, path: str | None) -> Iterator[dict]:
        """An uploaded image, as it emerges."""
        _, settings = self._seen(scene)
        first = {"title": "Your picture", "note": "Looking for something like it ...", "hold": True}
        yield {self.stage: self._stage("zoom", settings | self.whole, **first)}

        def work(put: Callable[[dict], None]) -> None:
            shown = 0.0

            def callback(step: int, total: int, draw: Callable[[], Image.Image]) -> None:
                nonlocal shown
                if time.monotonic() - shown < EMERGE_SECONDS:
                    return
                image = draw()
                picture = {"src": data_uri(image), "extent": (0, 0, 1, 1), "size": image.width}
                put({self.stage: {"picture": picture, "note": f"Step {step} of {total}"}})
                shown = time.monotonic()

            with time_limit(REQUEST_SECONDS):
                _, code, report = self.studio.rebuild(path, settings["num_steps"], PREVIEW_SIZE, callback)
            put(self._show("zoom", settings | self.whole | {"photo": code}, note=report))

        yield from updates_of(work)

    # -- a link -------------------------------------------------------------------------------------------------------
    @sentences
    def _open(self, query: str) -> dict:
        """What the query of the address asks for; the wall, if it asks for nothing."""
        query = dict(parse_qsl(query.lstrip("?"), keep_blank_values=True))
        tab, settings, complaints = restore(query, self.studio.settings, self.names)
        if "tab" not in query or (tab == "rebuild" and not settings["photo"]):
            return {self.stage: gr.skip()}
        note = " ".join([*complaints, "The rest of the link is as it was."]) if complaints else ""
        shown = {"film": "morph"}.get(tab, tab if tab in SHOWING else "zoom")
        return self._show(shown, settings, note=note, film=tab == "film")
