"""Which classes and seeds a model is best shown by, as its showcase.json says."""

import json
from pathlib import Path

from huggingface_hub import errors, hf_hub_download

from ..checks import check_json_object

SHOWCASE_FILE = "showcase.json"


def read_showcase(path_or_repo: str | Path) -> dict | None:
    """What examples/emoji/showcase.py wrote beside a pipeline, in its folder or its repository on the Hub.

    Args:
        path_or_repo: A pipeline's folder, or its repository, of which the cache is enough.

    Returns:
        `opening`, a list of class and seed; `designs`, the seeds that show a class's designs; `recognized`, the classes
        that can be recognized; of those missing in the file nothing. None if there is no such file.

    Raises:
        OSError: for a file that is not a JSON object.
    """
    path = Path(path_or_repo, SHOWCASE_FILE)
    if not Path(path_or_repo).is_dir():
        try:
            path = Path(hf_hub_download(str(path_or_repo), SHOWCASE_FILE))
        except (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.HFValidationError):
            return None
    if not path.is_file():
        return None
    try:
        shown = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OSError(f"{path} is not JSON: {error}") from error
    return {"opening": [], "designs": {}, "recognized": []} | check_json_object(shown, path)
