"""A Hub that nothing connects to: its cache is looked into at once, instead of six tries at each file in 24 seconds."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.utils import get_session

from .pipeline_poly_inr import describe_hub_error

CONNECT_SECONDS = 10.0
UNREACHABLE = ("ConnectError", "ConnectTimeout")  # of httpx or httpx2, whichever huggingface_hub has


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error, or what it came of, is that no connection could be made: no network, no such host, refused.

    A server that answers, if only with an error, or that breaks off, is reachable: asked again, it may answer.
    """
    while error is not None:
        if type(error).__name__ in UNREACHABLE:
            return True
        error = error.__cause__ or error.__context__
    return False


def connection_error() -> Exception | None:
    """What comes of connecting to the Hub; None if it answers, whatever it says."""
    try:
        get_session().head(constants.ENDPOINT, timeout=CONNECT_SECONDS)
    except Exception as error:  # of httpx, of the operating system
        return error if is_unreachable(error) else None
    return None


@contextmanager
def cache_if_unreachable(repo_id: str, revision: str | None = None, opening: bool = True) -> Iterator[None]:
    """Where nothing connects, has huggingface_hub look into its cache alone in the block, as HF_HUB_OFFLINE=1 does.

    With `opening`, `repo_id` may have been meant for a folder.

    Raises:
        OSError: In a sentence, where nothing connects and the cache has not got it either.
    """
    error = None if constants.HF_HUB_OFFLINE else connection_error()
    if error is None:
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except OSError as missing:
        raise OSError(describe_hub_error(error, repo_id, revision, opening)) from missing
    finally:
        constants.HF_HUB_OFFLINE = False
