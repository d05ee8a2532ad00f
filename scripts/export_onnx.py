"""Export a pipeline to ONNX, for onnxruntime and, in a browser, onnxruntime-web.

    python scripts/export_onnx.py --pipeline pretrained/poly-inr-emoji --output out/onnx
    python scripts/export_onnx.py --pipeline poly-inr-imagenet --output out/onnx --dtype float16

Writes mapping.onnx (z, class_labels, truncation_psi -> affine_parameters), synthesis.onnx (affine_parameters,
coordinates -> rgb) and model.json (sizes, class names, license), and prints their paths. The graphs are then run once,
and how far they are from the pipeline is said on stderr.
"""

import sys
from pathlib import Path

from tqdm import tqdm

from arguments import one_line_errors
from polyinr_hf import PolyINRPipeline
from polyinr_hf.checks import check_new_folder
from polyinr_hf.commands import make_parser
from polyinr_hf.onnx_export import DTYPES, MAPPING, METADATA, SYNTHESIS, export_onnx, measure_onnx, read_license


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", required=True, help="pipeline folder or Hub id")
    parser.add_argument("--output", required=True, type=Path, help="folder to write; must be new or empty")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="dtype of the stored weights; the arithmetic is float32 in either case (default: float32)",
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        check_new_folder(args.output)
        pipe = PolyINRPipeline.from_pretrained(args.pipeline)
        with tqdm(total=2, unit="graph", file=sys.stderr) as bar:

            def show(name: str) -> None:
                bar.set_description(name)
                bar.update(name != MAPPING)

            export_onnx(pipe, args.output, args.dtype, read_license(args.pipeline), show)
            bar.update()
        measured = measure_onnx(pipe, args.output)
    print(
        f"largest difference from the pipeline: {measured['relative_error']:.1e} of the largest value; "
        f"PSNR {measured['psnr']:.1f} dB",
        file=sys.stderr,
    )
    for name in (MAPPING, SYNTHESIS, METADATA):
        print(args.output / name)


if __name__ == "__main__":
    main()
