"""Assemble a static Space: a page that runs a pipeline in the visitor's own browser, and loads nothing from elsewhere.

    python scripts/build_static_space.py --pipeline pretrained/poly-inr-emoji --output out/static_space
    python scripts/build_static_space.py --pipeline me/poly-inr-imagenet --output out/static_space --dtype float32

onnxruntime-web must be there: `npm ci --prefix space_static`, which `make static_space` does. Prints the folder; upload
it with `hf upload me/poly-inr-demo out/static_space --repo-type space`.
"""

import json
import shutil
from pathlib import Path

from huggingface_hub import SpaceCard

from arguments import one_line_errors
from polyinr_hf import PolyINRPipeline
from polyinr_hf.commands import make_parser
from polyinr_hf.files import replace_folder
from polyinr_hf.hub import read_showcase
from polyinr_hf.onnx_export import DTYPES, export_onnx, import_onnx, read_license

PAGE = Path(__file__).resolve().parents[1] / "space_static"
PAGE_FILES = ("index.html", "style.css", "icon.svg", "js")
RUNTIME = PAGE / "node_modules" / "onnxruntime-web" / "dist"
RUNTIME_FILES = (  # a visitor's browser loads the first three or, where it has WebGPU, the last three
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; what it holds is replaced")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float16",
        help="dtype of the stored weights, which is what a visitor waits for (default: float16)",
    )
    return parser.parse_args(argv)


def add_showcase(pipeline: str | Path, labels: dict[str, int], metadata: Path) -> None:
    """Adds the showcase of a pipeline, if it has one, to the page's `metadata`, by the IDs of classes."""
    if (shown := read_showcase(pipeline)) is None:
        return
    opening = [[labels[name], seed] for name, seed in shown["opening"] if name in labels]
    designs = {labels[name]: seeds for name, seeds in shown["designs"].items() if name in labels}
    content = json.loads(metadata.read_text(encoding="utf-8"))
    content["showcase"] = {"opening": opening, "designs": designs}
    metadata.write_text(json.dumps(content), encoding="utf-8")


def build_static_space(pipeline: str, output: Path, dtype: str = "float16") -> None:
    """Writes the page, onnxruntime-web, the graphs of `pipeline` and a README.md that makes the folder a Space.

    Raises:
        ValueError: if `output` holds something other than an earlier result, or is a file.
        OSError: for a pipeline that cannot be opened, or a runtime that is not there.
    """
    if missing := [name for name in RUNTIME_FILES if not (RUNTIME / name).is_file()]:
        raise OSError(f"onnxruntime-web is missing ({missing[0]}): run `npm ci --prefix space_static` first.")
    if output.is_dir() and any(output.iterdir()) and not (output / "model" / "mapping.onnx").is_file():
        raise ValueError(f"`output` must be new, empty or an earlier static Space, {output} is none of these.")
    import_onnx()  # a missing extra is said first
    pipe = PolyINRPipeline.from_pretrained(pipeline)
    license = read_license(pipeline)
    with replace_folder(output) as folder:
        for name in PAGE_FILES:
            copy = shutil.copytree if (PAGE / name).is_dir() else shutil.copyfile
            copy(PAGE / name, folder / name)
        (folder / "runtime").mkdir()
        for name in RUNTIME_FILES:
            shutil.copyfile(RUNTIME / name, folder / "runtime" / name)
        card = SpaceCard.load(PAGE / "README.md")
        card.data.license = license.get("license")
        card.data.models = None if Path(pipeline).exists() else [pipeline]
        card.save(folder / "README.md")
        export_onnx(pipe, folder / "model", dtype, license)
        add_showcase(pipeline, pipe.labels, folder / "model" / "model.json")


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        build_static_space(args.pipeline, args.output, args.dtype)
    print(args.output)


if __name__ == "__main__":
    main()
