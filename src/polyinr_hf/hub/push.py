"""Sharing on the Hugging Face Hub: which files of a pipeline folder, and how they get there.

`push_folder` uploads a folder as one commit, `push_pipeline` a pipeline. `PolyINRPipeline.from_pretrained` pulls.
"""

import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open

from ..checks import check_is_pipeline
from ..pipeline_poly_inr import PolyINRPipeline, describe_hub_error, traveling_code
from .model_card import Export, correct_card, create_card, without_paths

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

SHARED_FILES = (  # of a pipeline folder; only these files are uploaded
    "generator/config.json",
    "generator/*.safetensors",
    "generator/*.safetensors.index*.json",
    "recipe.yaml",
    "training.json",
    "evaluation.json",
    "samples.png",
    "showcase.json",
    "README.md",
)
VARIANT_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
TRANSIENT_STATUSES = (408, 429, 500, 502, 503, 504)  # of HTTP: worth another try
TOKEN_PATTERN = re.compile(r"hf_[A-Za-z0-9]{20,}")
NUM_SAMPLE_COLUMNS = 4  # and as many rows, in the card's picture


# --- push -------------------------------------------------------------------------------------------------------------


def push_pipeline(
    pipeline: PolyINRPipeline,
    repo_id: str,
    *,
    safe_serialization: bool = True,
    **kwargs,
) -> CommitInfo:
    """Uploads a pipeline in memory; arguments and errors as in `push_folder`.

    Raises:
        ValueError: if `safe_serialization` is off: a pickle may run code on whoever opens it.
    """
    if not safe_serialization:
        raise ValueError("`safe_serialization` must be True: only safetensors are shared.")
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        return push_folder(folder, repo_id, **kwargs)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    variant: str | None = None,
    subfolder: str | None = None,
    commit_message: str | None = None,
    card: ModelCard | dict | None = None,
    evaluation: dict | None = None,
    draw_samples: bool = True,
    attempts: int = 3,
    retry_seconds: float = 5.0,
) -> CommitInfo:
    """Uploads a pipeline folder as one commit: all of it arrives, or nothing.

    Args:
        folder: What `save_pretrained` or a training run's export wrote.
        repo_id: org/name, created if there is none; a name alone is one of whoever is logged in.
        private: Of a repository that is created.
        revision: Branch to commit to, created if there is none; the default branch if not given.
        tag: Name for the commit, as in `from_pretrained(repo_id, revision=tag)`.
        create_pr: Open a pull request instead of committing.
        variant: "fp16" or "bf16" uploads weights of that dtype beside those that are there, for
            `from_pretrained(repo_id, variant=...)`; or a variant that the folder has.
        subfolder: Where in the repository.
        commit_message: By default what was trained, "kimg 500, 64 x 64".
        card, evaluation: As in `create_card`. Unless `card` is given, a README.md in the folder is taken, with this
            repository's name in place of folders of this machine.
        draw_samples: Whether to draw samples.png if the folder has none, which loads the model.
        attempts, retry_seconds: How often to try while the Hub is out of reach, and how long to wait at first, then
            doubled.

    Returns:
        `huggingface_hub.CommitInfo`, with `commit_url`, `oid` and `pr_url`.

    Raises:
        ValueError: for a folder that is no pipeline or has no whole safetensors, a malformed `repo_id`, or a text file
            with something like a token in it.
        OSError: if the Hub refuses, or stays out of reach; the message is one sentence, without tokens.
    """
    check_repo_id(repo_id)
    check_pipeline_folder(folder, variant)
    api = HfApi(token=token)
    if "/" not in repo_id:
        user = _retrying(api.whoami, repo_id, revision, token, attempts, retry_seconds)
        repo_id = f"{user['name']}/{repo_id}"
    with tempfile.TemporaryDirectory() as workspace:
        export = Export.read(_with_variant(Path(folder), Path(workspace), variant))
        options = {"card": card, "evaluation": evaluation, "revision": revision, "variant": variant}
        options |= {"subfolder": subfolder, "draw_samples": draw_samples, "token": token}
        files = shared_files(export, repo_id, **options)
        prefix = f"{subfolder.strip('/')}/" if subfolder else ""
        message = commit_message or describe_training(export) + (f", {variant}" if variant else "")

        def push() -> CommitInfo:
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            operations = [CommitOperationAdd(prefix + name, content) for name, content in files.items()]
            commit = api.create_commit(
                repo_id, operations, commit_message=message, revision=revision, create_pr=create_pr
            )
            if tag:
                api.create_tag(repo_id, tag=tag, revision=commit.oid, exist_ok=True)
            return commit

        return _retrying(push, repo_id, revision, token, attempts, retry_seconds)


def _retrying(
    push: Callable[[], Result], repo_id: str, revision: str | None, token: str | bool | None, attempts: int, wait: float
) -> Result:
    """The result of `push`, tried again after errors that pass; others become one sentence without a traceback."""
    for attempt in range(attempts):
        try:
            return push()
        except Exception as error:  # of huggingface_hub, of httpx, RuntimeErrors around both
            sentence = describe_hub_error(error, repo_id, revision)
            if sentence is None and not isinstance(error, OSError):
                raise
            sentence = redact(sentence or f"{repo_id}: {error}", token)
            if attempt + 1 == attempts or not _is_transient(error):
                raise OSError(sentence) from None  # what the server answered might repeat what it was sent
        logger.warning("%s Next attempt in %g s.", sentence, wait)
        time.sleep(wait)
        wait *= 2
    raise ValueError(f"`attempts` must be at least 1, got {attempts}.")


def _is_transient(error: BaseException | None) -> bool:
    """Whether the same request may succeed later: the Hub busy, or the connection lost."""
    while error is not None:
        if isinstance(error, HfHubHTTPError):
            return error.response.status_code in TRANSIENT_STATUSES
        if isinstance(error, (ConnectionError, TimeoutError)):
            return True
        if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
            return True
        error = error.__cause__ or error.__context__
    return False


def redact(text: str, token: str | bool | None = None) -> str:
    """`text` without this token, the one logged in with, and anything that looks like one."""
    for secret in (token, get_token()):
        if isinstance(secret, str) and secret:
            text = text.replace(secret, "hf_***")
    return TOKEN_PATTERN.sub("hf_***", text)


# --- checks -----------------------------------------------------------------------------------------------------------


def check_repo_id(repo_id: str | None, name: str = "repo_id") -> None:
    """Raises ValueError that calls it `name` unless it is org/name or a name."""
    try:
        validate_repo_id(repo_id or "?")
    except HFValidationError:
        raise ValueError(
            f"`{name}` must be org/name or a name of letters, digits, '-', '_' and '.', got {repo_id!r}."
        ) from None


def check_pipeline_folder(folder: str | Path, variant: str | None = None) -> None:
    """Raises ValueError unless `folder` has a pipeline in it, all weights whole, that can be shared as `variant`."""
    folder = Path(folder)
    try:
        check_is_pipeline(folder)
    except OSError as error:
        raise ValueError(f"`folder` must be a pipeline's: {error}") from None
    if not folder.exists():
        raise ValueError(f"`folder` must be a pipeline folder, there is no {folder}.")
    weights = sorted(folder.glob("generator/*.safetensors"))
    if not weights:
        raise ValueError(f"`folder` must have safetensors weights, {folder / 'generator'} has none.")
    if variant not in (None, *VARIANT_DTYPES) and not any(folder.glob(f"generator/*.{variant}*.safetensors")):
        raise ValueError(f"`variant` must be one of {(*VARIANT_DTYPES,)}, or what {folder} has, got {variant!r}.")
    for path in weights:
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"`folder` has a damaged weight file, {path}: {error}") from error


def check_no_tokens(files: dict[str, Path | bytes], token: str | bool | None = None) -> None:
    """Raises ValueError if a text file holds something like a Hub token."""
    for name, content in files.items():
        if Path(name).suffix in (".safetensors", ".png"):
            continue
        text = (content if isinstance(content, bytes) else content.read_bytes()).decode(errors="replace")
        if redact(text, token) != text:
            raise ValueError(f"{name} holds what looks like a Hub token: nothing was uploaded.")


# --- files ------------------------------------------------------------------------------------------------------------


def shared_files(
    folder: str | Path | Export,
    repo_id: str,
    *,
    token: str | bool | None = None,
    card: ModelCard | dict | None = None,
    evaluation: dict | None = None,
    revision: str | None = None,
    variant: str | None = None,
    subfolder: str | None = None,
    draw_samples: bool = True,
) -> dict[str, Path | bytes]:
    """What a repository gets: its path -> a local file, or generated content.

    The folder's own files of `SHARED_FILES`, the code that travels, and the model card. Samples are drawn if there are
    none. Absolute paths of this machine, in the recipe or where a model was loaded from, are cut to their last name; in
    the folder's own card the repository takes the place of folders of this machine.

    Raises:
        ValueError: for an unknown key in `card`, or a text file with something like a token in it.
    """
    export = Export.read(folder)
    files: dict[str, Path | bytes] = {}
    for pattern in SHARED_FILES:
        for path in sorted(export.folder.glob(pattern)):
            is_weights = ".safetensors" in path.name
            if not (variant and is_weights) or f".{variant}" in path.name:
                files[path.relative_to(export.folder).as_posix()] = path
    files["model_index.json"] = _json(PolyINRPipeline.portable_index(dict(export.index)))
    files["generator/config.json"] = _json(
        {key: value for key, value in export.config.items() if key != "_name_or_path"}
    )
    files |= {name: export.texts[name].encode() for name in ("recipe.yaml", "training.json") if name in export.texts}
    files |= {name: source.encode() for name, source in traveling_code().items()}
    if evaluation := without_paths(evaluation) or export.evaluation:
        files["evaluation.json"] = _json(evaluation)
    if draw_samples and "samples.png" not in files:
        files["samples.png"] = _draw_samples(export.folder, variant)
    if card is not None or "README.md" not in files:
        if not isinstance(card, ModelCard):
            options = {"revision": revision, "variant": variant, "subfolder": subfolder}
            card = create_card(export, repo_id, evaluation, card, samples="samples.png" in files, **options)
        files["README.md"] = str(card).encode()
    else:
        files["README.md"] = correct_card(export.texts["README.md"], repo_id).encode()
    check_no_tokens(files, token)
    return dict(sorted(files.items()))


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def describe_training(folder: str | Path | Export) -> str:
    """ "kimg 500, 64 x 64": a commit message."""
    export = Export.read(folder)
    resolution = export.training.get("resolution", export.config["sample_size"])
    start = f"kimg {export.training['kimg']:g}" if "kimg" in export.training else "Poly-INR"
    return f"{start}, {resolution} x {resolution}"


def _open(folder: Path, variant: str | None, dtype: torch.dtype = torch.float32) -> PolyINRPipeline:
    """The pipeline of a folder, from the weights of `variant` if it has them."""
    has_variant = variant and any(folder.glob(f"generator/*.{variant}*.safetensors"))
    return PolyINRPipeline.from_pretrained(folder, variant=variant if has_variant else None, dtype=dtype)


def _draw_samples(folder: Path, variant: str | None) -> bytes:
    """A PNG of `NUM_SAMPLE_COLUMNS` samples a row."""
    from ..images import sample_images, save_grid

    generator = _open(folder, variant).generator
    images = sample_images(generator, generator.config.sample_size, NUM_SAMPLE_COLUMNS)
    with tempfile.TemporaryDirectory() as workspace:
        path = Path(workspace, "samples.png")
        save_grid(images, NUM_SAMPLE_COLUMNS, path)
        return path.read_bytes()


def _with_variant(folder: Path, workspace: Path, variant: str | None) -> Path:
    """A folder that has the weights as `variant`."""
    if variant is None or any(folder.glob(f"generator/*.{variant}*.safetensors")):
        return folder
    pipeline = _open(folder, None, VARIANT_DTYPES[variant])
    pipeline.save_pretrained(workspace, variant=variant)
    for name in SHARED_FILES:
        if "/" not in name and (folder / name).is_file():
            shutil.copyfile(folder / name, workspace / name)
    return workspace
