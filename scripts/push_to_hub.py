"""Upload a pipeline folder to the Hugging Face Hub, with the code that opens it anywhere and a model card.

    python scripts/push_to_hub.py --pipeline runs/emoji/exports/kimg-000500 --repo me/poly-inr-emoji --dry_run
    python scripts/push_to_hub.py --pipeline runs/emoji/exports/kimg-000500 --repo me/poly-inr-emoji \\
        --card examples/emoji/model_card.yaml --evaluation result.json --tag v1
    python scripts/push_to_hub.py --pipeline poly-inr-imagenet --repo me/poly-inr-imagenet-256 --variant fp16 \\
        --card model_cards/imagenet-256.yaml

Log in first with `hf auth login`, or set HF_TOKEN. All files arrive in one commit, or none does. A README.md in the
folder is taken as the card unless `--card` is given. Prints the commit's, or the pull request's, URL.
"""

from pathlib import Path

import yaml

from arguments import one_line_errors
from polyinr_hf.commands import find_file, make_parser
from polyinr_hf.connection import connection_error
from polyinr_hf.hub import check_pipeline_folder, check_repo_id, push_folder, shared_files
from polyinr_hf.pipeline_poly_inr import describe_hub_error


def parse_args(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("--pipeline", required=True, type=Path, help="folder of save_pretrained or of a run's exports/")
    parser.add_argument("--repo", required=True, help="org/name, or a name of your own; created if there is none")
    parser.add_argument(
        "--private", action="store_true", default=None, help="make the repository private, if it is created"
    )
    parser.add_argument("--revision", help="branch to commit to; created if there is none (default: main)")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--variant", help="fp16 or bf16: weights of that dtype, beside those that are there")
    parser.add_argument("--tag", help="name for the commit, such as v1")
    parser.add_argument("--commit_message", help='default: what was trained, "kimg 500, 64 x 64"')
    parser.add_argument("--card", type=Path, help="YAML file of title, license and so on, as in model_cards/")
    parser.add_argument("--evaluation", type=Path, help="JSON of scripts/evaluate.py, for the card")
    parser.add_argument("--dry_run", action="store_true", help="print the files and the card, and upload nothing")
    return parser.parse_args(argv)


def print_dry_run(files: dict[str, Path | bytes]) -> None:
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        print(f"{size:>12,}  {name}")
    card = files["README.md"]
    print("\n" + (card.decode() if isinstance(card, bytes) else card.read_text(encoding="utf-8")))


def read_mapping(name: str, path: Path) -> dict:
    """The keys and values of a YAML file, which JSON is too.

    Raises:
        ValueError, OSError: for a file that holds none.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"`--{name}` must be a file of keys and values, {path} is none.")
    return content


def main(argv=None):
    args = parse_args(argv)
    with one_line_errors():
        card = read_mapping("card", find_file(args.card)) if args.card else None
        evaluation = read_mapping("evaluation", args.evaluation) if args.evaluation else None
        options = {"card": card, "evaluation": evaluation, "revision": args.revision, "variant": args.variant}
        if args.dry_run:
            check_repo_id(args.repo)
            check_pipeline_folder(args.pipeline, args.variant)
            print_dry_run(shared_files(args.pipeline, args.repo, **options))
            return
        check_pipeline_folder(args.pipeline, args.variant)
        if (error := connection_error()) is not None:  # a push tries again, as the Hub may be busy
            raise OSError(describe_hub_error(error, args.repo))
        commit = push_folder(
            args.pipeline,
            args.repo,
            private=args.private,
            create_pr=args.create_pr,
            tag=args.tag,
            commit_message=args.commit_message,
            **options,
        )
    print(commit.pr_url or commit.commit_url)


if __name__ == "__main__":
    main()
