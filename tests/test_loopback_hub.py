"""The Hub that other tests trust, asked without huggingface_hub."""

import hashlib
import http.client
import json

import pytest
from loopback_hub import LoopbackHub

TOKEN = "hf_recognisableRecognisableRecognisable"
CONTENT = bytes(range(256)) * 4


@pytest.fixture
def hub():
    with LoopbackHub() as hub:
        hub.add_user("ann", TOKEN)
        hub.add_repository("ann/inr", {"a.json": b"{}", "w.safetensors": CONTENT})
        yield hub


def ask(hub, method: str, path: str, headers: dict | None = None, body: bytes | None = None):
    """(status, headers, body)."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def test_small_files_come_at_once_and_large_ones_from_another_host(hub):
    status, headers, body = ask(hub, "GET", "/ann/inr/resolve/main/a.json")
    assert (status, body) == (200, b"{}")
    assert headers["X-Repo-Commit"] == hub["ann/inr"].refs["main"]
    assert headers["ETag"] == f'"{hashlib.sha1(b"blob 2" + bytes(1) + b"{}").hexdigest()}"'  # git's
    status, headers, _ = ask(hub, "HEAD", "/ann/inr/resolve/main/w.safetensors")
    assert status == 302 and headers["X-Linked-Size"] == str(len(CONTENT))
    assert headers["X-Linked-Etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert headers["Location"].startswith(hub.cdn_url) and hub.cdn_url != hub.url


def test_ranges(hub):
    ask(hub, "HEAD", "/ann/inr/resolve/main/w.safetensors")
    path = f"/cdn/{hashlib.sha256(CONTENT).hexdigest()}"
    status, headers, body = ask(hub, "GET", path, {"Range": "bytes=1000-"})
    assert (status, body, headers["Content-Range"]) == (206, CONTENT[1000:], "bytes 1000-1023/1024")
    assert ask(hub, "GET", path, {"Range": "bytes=2-3"})[2] == CONTENT[2:4]
    assert ask(hub, "GET", path, {"Range": "bytes=1024-"})[0] == 416


@pytest.mark.parametrize(
    ("path", "token", "status", "code"),
    [
        ("/api/models/ann/none", TOKEN, 404, "RepoNotFound"),
        ("/api/models/ann/none", None, 401, "RepoNotFound"),
        ("/api/models/ann/inr", "hf_another", 401, None),
        ("/api/models/ann/inr/revision/v9", TOKEN, 404, "RevisionNotFound"),
        ("/ann/inr/resolve/main/none", TOKEN, 404, "EntryNotFound"),
        ("/api/whoami-v2", None, 401, None),
        ("/nowhere", TOKEN, 404, None),
    ],
)
def test_refusals(hub, path, token, status, code):
    answer = ask(hub, "GET", path, {"Authorization": f"Bearer {token}"} if token else {})
    assert answer[0] == status and answer[1]["X-Error-Code"] == code


def test_upload_with_another_content_than_announced_is_refused(hub):
    assert ask(hub, "PUT", f"/lfs/{hashlib.sha256(b'whole').hexdigest()}", body=b"who")[0] == 400
    line = {"key": "lfsFile", "value": {"path": "x", "algo": "sha256", "oid": "0" * 64, "size": 5}}
    header = {"key": "header", "value": {"summary": "x"}}
    body = "\n".join(json.dumps(entry) for entry in (header, line)).encode()
    authorization = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(hub, "POST", "/api/models/ann/inr/commit/main", authorization, body)[0] == 400
    assert "x" not in hub["ann/inr"].files()


def test_faults_come_as_often_as_said(hub):
    hub.fail("GET", "/api/", times=2, status=429, headers={"Retry-After": "3"})
    hub.fail("GET", "/a.json", cut_after=1)
    answers = [ask(hub, "GET", "/api/models/ann/inr") for _ in range(3)]
    assert [answer[0] for answer in answers] == [429, 429, 200] and answers[0][1]["Retry-After"] == "3"
    with pytest.raises(http.client.IncompleteRead):
        ask(hub, "GET", "/ann/inr/resolve/main/a.json")
    assert ask(hub, "GET", "/ann/inr/resolve/main/a.json")[0] == 200
