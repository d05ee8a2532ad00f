"""Without a network the Hub is given up at once, and its cache goes on working."""

import types
from pathlib import Path

import datasets.config
import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.utils import _http
from loopback_hub import LoopbackHub, connect

from polyinr_hf.connection import cache_if_unreachable, connection_error
from polyinr_hf.data import load_image_dataset
from polyinr_hf.feature_networks import load_backbone
from polyinr_hf.training.models import source_config

ASKED_FOR = [
    ("no/where", lambda: load_image_dataset("no/where")),
    ("pictures", lambda: load_image_dataset("pictures")),
    ("no/model", lambda: source_config("no/model@v1")),
    ("timm/resnet18", lambda: load_backbone("resnet18")),
]


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """An address at which nobody listens, and nobody waits."""
    with LoopbackHub() as hub:
        hub.add_user("ann", "hf_" + "t" * 30)
        hub.add_repository("ann/inr", {"a.json": b"{}"})
        connect(monkeypatch, hub, tmp_path / "home", None)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        hf_hub_download("ann/inr", "a.json")
        _http.close_session()  # a connection that is kept alive
    sleep = lambda seconds: pytest.fail(f"waits {seconds} s to try again")  # noqa: E731
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=sleep, time=_http.time.time))


@pytest.mark.parametrize(("name", "ask"), ASKED_FOR)
def test_no_connection_is_said_at_once(nobody, name, ask):
    with pytest.raises(OSError, match=rf"connection to the Hub failed for {name}\S* \(ConnectError\)"):
        ask()
    assert constants.HF_HUB_OFFLINE is False


def test_what_was_downloaded_is_there_without_a_connection(nobody):
    with cache_if_unreachable("ann/inr"):
        assert Path(hf_hub_download("ann/inr", "a.json")).read_text() == "{}"


def test_a_hub_that_answers_is_asked_whatever_it_says(monkeypatch, tmp_path):
    with LoopbackHub() as hub:
        hub.add_user("ann", "hf_" + "t" * 30)
        hub.add_repository("ann/inr", {"generator/config.json": b'{"num_classes": 3}'})
        connect(monkeypatch, hub, tmp_path / "home", None)
        hub.fail("HEAD", "^/$", status=503)
        assert connection_error() is None
        hub.fail("HEAD", "^/$", status=503)
        assert source_config("ann/inr")[1]["num_classes"] == 3
