"""A page to play with a Poly-INR model: zoom into its pictures, mix and morph them, rebuild a picture of your own.

    python space/app.py

The environment variable POLYINR_MODEL names the pipeline, a folder or a Hub id (default: pretrained/poly-inr-emoji).
"""

from __future__ import annotations

import os
from pathlib import Path

try:
    import gradio as gr
    import torch
    from actions import Studio
    from huggingface_hub import ModelCard
    from page import Page
    from settings import MAX_UPLOAD_BYTES, QUEUE_LENGTH

    from polyinr_hf import PolyINRPipeline
    from polyinr_hf.commands import make_parser
    from polyinr_hf.feature_networks import load_feature_network as _load  # noqa: F401  what the next compares with
    from polyinr_hf.hub import read_showcase
    from polyinr_hf.inversion import tune as _tune  # noqa: F401  of a photograph, which the page offers
except ImportError as error:
    install = 'pip install "polyinr-hf[space,eval]", or in a clone of the repository pip install -e ".[space,eval]"'
    raise SystemExit(f"error: {error}: {install}") from error

HERE = Path(__file__).resolve().parent
BUNDLED = Path("pretrained", "poly-inr-emoji")  # beside this file in a Space, beside its folder in the repository
THEME = gr.themes.Base(primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


def find_model() -> str | Path:
    """The model that the environment names, or the one that comes with the page."""
    model = os.environ.get("POLYINR_MODEL")
    if not model:
        folders = [HERE / BUNDLED, HERE.parent / BUNDLED]
        model = next((folder for folder in folders if folder.is_dir()), None)
        if model is None:
            raise SystemExit(f"error: there is no {BUNDLED}: set POLYINR_MODEL to a pipeline folder or a Hub id.")
    return model


def load_studio(model: str | Path) -> Studio:
    """The model of a folder or Hub id, its card and its showcase."""
    pipe = PolyINRPipeline.from_pretrained(model)
    card = Path(model, "README.md")
    if card.is_file():
        text = ModelCard.load(card, ignore_metadata_errors=True).text
    else:
        text = f"The model is [{model}](https://huggingface.co/{model}), whose card says what it learned from."
    return Studio(pipe.to("cuda" if torch.cuda.is_available() else "cpu"), text, read_showcase(model))


def build(studio: Studio) -> gr.Blocks:
    """The page for a model."""
    return Page(studio).demo.queue(max_size=QUEUE_LENGTH, default_concurrency_limit=1)


def launch(demo: gr.Blocks, **kwargs) -> None:
    """Serves the page; `kwargs` as `gr.Blocks.launch` has them."""
    options = {"ssr_mode": False, "run_history": False, "footer_links": ["api"], "max_file_size": MAX_UPLOAD_BYTES}
    options |= {"theme": THEME, "css_paths": HERE / "style.css", "state_session_capacity": 100}
    return demo.launch(**options | kwargs)


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.parse_args(argv)
    launch(build(load_studio(find_model())))


if __name__ == "__main__":
    main()
