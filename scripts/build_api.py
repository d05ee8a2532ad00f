"""Build the reference of the public names from their docstrings, pages that need no server.

    python scripts/build_api.py --output out/api

Needs the extra `docs`. Prints the page to open. A warning, such as of a name that does not resolve, is an error.
"""

import importlib
import re
import warnings
from pathlib import Path

from arguments import one_line_errors
from polyinr_hf.commands import ROOT, make_parser
from polyinr_hf.files import replace_folder

REFERENCE = re.compile(r"\[(`)~?([\w.]+`)\](?!\()")  # as diffusers names an object; pdoc takes no brackets
MODULES = ("editing", "inversion", "data", "training", "evaluation", "hub", "conversion", "onnx_export", "devices")


def build_api(output: Path) -> None:
    """Writes the pages of the package's public names.

    Raises:
        ValueError: if `output` holds something other than an earlier result, or is a file.
        ImportError: without pdoc, or without an extra that a name needs.
    """
    try:
        import pdoc
        from jinja2 import pass_context
        from pdoc.render_helpers import to_markdown_with_context
    except ImportError as error:
        raise ImportError(f'the package {error.name} is not installed: pip install -e ".[docs]"') from error

    if output.is_dir() and any(output.iterdir()) and not (output / "polyinr_hf.html").is_file():
        raise ValueError(f"`output` must be new, empty or an earlier reference, {output} is none of these.")
    names = ["polyinr_hf", *(f"polyinr_hf.{name}" for name in MODULES)]
    for module in map(importlib.import_module, names):
        for name in getattr(module, "__all__", ()):
            getattr(module, name)  # loads it: pdoc looks at what a module holds
    pdoc.render.configure(docformat="google")
    pdoc.render.env.filters["to_markdown"] = pass_context(
        lambda context, text: to_markdown_with_context(context, REFERENCE.sub(r"\1\2", text))
    )
    with replace_folder(output) as folder:
        pdoc.pdoc(*names, output_directory=folder)
        for page in (*folder.rglob("*.html"), folder / "search.js"):  # the bundled model's folder is not this machine's
            page.write_text(page.read_text(encoding="utf-8").replace(f"{ROOT}/", ""), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("out/api"), help="folder to write (default: %(default)s)")
    args = parser.parse_args(argv)
    with one_line_errors(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # pdoc's are
        build_api(args.output)
    print(args.output / "index.html")


if __name__ == "__main__":
    main()
