"""A Hugging Face Hub on this machine, for tests: what `huggingface_hub` asks of the real one, over real sockets.

    with LoopbackHub() as hub:
        hub.add_user("ann", token="hf_...")
        hub.fail("PUT", r"^/lfs/", status=500)  # the next upload of a large file
        ...  # with HF_ENDPOINT=hub.url

Repositories live in memory; every commit is a snapshot of all files. Large files go the way of LFS, with a redirect to
another path for downloads, as on the real Hub. Xet is not offered, set HF_HUB_DISABLE_XET=1.
"""

import base64
import fnmatch
import hashlib
import json
import re
import socket
import threading
import time
import types
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from huggingface_hub import constants, hf_api
from huggingface_hub.utils import _http

LFS_PATTERNS = ("*.safetensors", "*.parquet", "*.png", "*.bin")
MESSAGES = {
    "RepoNotFound": (404, "Repository not found"),
    "RevisionNotFound": (404, "Invalid rev id"),
    "EntryNotFound": (404, "Entry not found"),
    "GatedRepo": (403, "Access to this repository is restricted and you are not in the authorized list"),
}


@dataclass
class Repository:
    """Files of each commit, {sha: {path: content}}, and what branches, tags and pull requests point to."""

    owner: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    pull_requests: int = 0

    def __post_init__(self):
        self.refs["main"] = self.commit({}, "initial commit")

    def commit(self, files: dict[str, bytes], message: str) -> str:
        sha = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits[sha], self.messages[sha] = dict(files), message
        return sha

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.refs.get(revision, revision)]

    def message(self, revision: str = "main") -> str:
        return self.messages[self.refs.get(revision, revision)]


@dataclass
class Fault:
    """What happens to the next `times` requests of `method` whose path matches `pattern`."""

    method: str
    pattern: str
    times: int
    status: int | None = None  # answer this
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "fault"
    cut_after: int | None = None  # close the connection after so many bytes of the body
    delay: float = 0.0  # seconds before the answer


class LoopbackHub:
    """The server; a context manager. `requests` holds (method, path) of all that was asked."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.users: dict[str, str] = {}  # token: name
        self.lfs_objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.cdn_url = f"http://localhost:{self._server.server_port}"  # another host: large files come from elsewhere

    def __enter__(self) -> "LoopbackHub":
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_user(self, name: str, token: str) -> None:
        self.users[token] = name

    def add_repository(self, repo_id: str, files: dict[str, bytes], repo_type: str = "model", **settings) -> Repository:
        repository = Repository(owner=repo_id.split("/")[0], **settings)
        repository.refs["main"] = repository.commit(files, "files")
        self.repositories[repo_type, repo_id] = repository
        return repository

    def __getitem__(self, repo_id: str) -> Repository:
        return self.repositories["model", repo_id]

    def fail(self, method: str, pattern: str, times: int = 1, **fault) -> None:
        """Adds a [`Fault`]; `status`, `cut_after` or `delay` says which."""
        self.faults.append(Fault(method, pattern, times, **fault))

    def count(self, method: str, pattern: str) -> int:
        """How many such requests came in."""
        return sum(m == method and re.search(pattern, path) is not None for m, path in self.requests)

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None


def connect(monkeypatch: pytest.MonkeyPatch, hub: LoopbackHub, home: Path, token: str | None) -> None:
    """Points this process, and those it starts, at `hub`, with an empty cache in `home` and no sleep before retries."""
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    for name, value in (environment | {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}).items():
        monkeypatch.setenv(name, value)
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "HF_MODULES_CACHE"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None, time=time.time))


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _is_lfs(path: str, content_size: int) -> bool:
    return content_size > 10_000_000 or any(fnmatch.fnmatch(path, pattern) for pattern in LFS_PATTERNS)


def _etag(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if _is_lfs(path, len(content)) else _git_oid(content)


class _Refusal(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


def _refuse(code: str) -> _Refusal:
    return _Refusal(*MESSAGES[code], code)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub
    disable_nagle_algorithm = True

    def log_message(self, *args) -> None:
        pass

    # -- one request --------------------------------------------------------------------------------------------------
    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.url_path, self.query = parts.path, parse_qs(parts.query)
        self.fault = self.hub.take_fault(self.command, self.url_path)
        if self.fault:
            time.sleep(self.fault.delay)
        try:
            if self.fault and self.fault.cut_after is not None and self.command in ("PUT", "POST"):
                self.rfile.read(self.fault.cut_after)
                self._hang_up()
                return
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                self.body = self._read_chunks()
            if self.fault and self.fault.status:
                self._answer(self.fault.status, {"error": self.fault.message}, self.fault.headers)
                return
            with self.hub.lock:
                self._route()
        except _Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self._answer(refusal.status, {"error": refusal.message}, headers)
        except ConnectionError:  # the client went away
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, status: int, content: bytes | dict | list = b"", headers: dict | None = None) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json"} | (headers or {})
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut_after is not None:
            self.wfile.write(content[: self.fault.cut_after])
            self._hang_up()
        else:
            self.wfile.write(content)

    def _json(self) -> dict:
        return json.loads(self.body or b"{}")

    # -- who asks, for what -------------------------------------------------------------------------------------------
    @property
    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise _Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def _repository(self, repo_type: str, repo_id: str, write: bool = False) -> Repository:
        repository, user = self.hub.repositories.get((repo_type, repo_id)), self.user
        if repository is None or (repository.private and user != repository.owner):
            raise _Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and user != repository.owner and not self.query.get("create_pr"):
            raise _Refusal(401 if user is None else 403, "You don't have the right to write here")
        return repository

    def _commit_of(self, repository: Repository, revision: str) -> str:
        sha = repository.resolve(unquote(revision))
        if sha is None:
            raise _refuse("RevisionNotFound")
        return sha

    def _route(self) -> None:
        path = self.url_path
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == ("GET" if self.command == "HEAD" else self.command):
                groups = match.groupdict()
                if "type" in groups:
                    groups["type"] = (groups["type"] or "models/").strip("/")[:-1]
                getattr(self, action)(**groups)
                return
        raise _Refusal(404, f"no such route: {self.command} {path}")

    # -- accounts and repositories ------------------------------------------------------------------------------------
    def whoami(self) -> None:
        if self.user is None:
            raise _Refusal(401, "Invalid username or password.")
        self._answer(200, {"type": "user", "name": self.user, "orgs": [], "auth": {"type": "access_token"}})

    def validate_yaml(self) -> None:
        self._answer(200, {"errors": [], "warnings": []})

    def create_repo(self) -> None:
        request, user = self._json(), self.user
        if user is None:
            raise _Refusal(401, "Invalid username or password.")
        owner = request.get("organization") or user
        if owner != user:
            raise _Refusal(403, f"You don't have the rights to create a repository under {owner}")
        repo_id, key = f"{owner}/{request['name']}", (request.get("type") or "model", f"{owner}/{request['name']}")
        body = {"url": f"{self.hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
        if key in self.hub.repositories:
            self._answer(409, {"error": "You already created this repo", **body})
            return
        private = request.get("visibility") == "private" or bool(request.get("private"))
        self.hub.repositories[key] = Repository(owner=owner, private=private)
        self._answer(200, body)

    def info(self, type: str, repo: str, revision: str = "main") -> None:
        repository = self._repository(type, repo)
        sha = self._commit_of(repository, revision)
        siblings = [{"rfilename": path} for path in repository.commits[sha]]
        flags = {"private": repository.private, "gated": "auto" if repository.gated else False, "disabled": False}
        body = {"id": repo, "_id": repo, "modelId": repo, "sha": sha, "siblings": siblings, "tags": [], **flags}
        card = re.match(rb"---\n(.*?)\n---", repository.commits[sha].get("README.md", b""), re.DOTALL)
        body["cardData"] = yaml.safe_load(card[1]) if card else None
        self._answer(200, {**body, "downloads": 0, "likes": 0, "lastModified": "2024-01-01T00:00:00.000Z"})

    def refs(self, type: str, repo: str) -> None:
        repository = self._repository(type, repo)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in repository.refs.items()
        ]
        self._answer(200, {"branches": branches, "converts": [], "tags": []})

    def tree(self, type: str, repo: str, revision: str, path: str | None = None) -> None:
        repository = self._repository(type, repo)
        files = repository.commits[self._commit_of(repository, revision)]
        prefix, entries = f"{unquote(path)}/" if path else "", {}
        for name, content in files.items():
            if not name.startswith(prefix):
                continue
            parts = name[len(prefix) :].split("/")
            for depth in range(1, len(parts)):
                folder = prefix + "/".join(parts[:depth])
                entries[folder] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": folder}
            entries[name] = self._entry(name, content)
        if self.query.get("recursive") not in (["True"], ["true"], ["1"]):
            entries = {name: entry for name, entry in entries.items() if "/" not in name[len(prefix) :]}
        if path and not entries:
            raise _refuse("EntryNotFound")
        self._answer(200, list(entries.values()))

    @staticmethod
    def _entry(path: str, content: bytes) -> dict:
        entry = {"type": "file", "oid": _git_oid(content), "size": len(content), "path": path}
        if _is_lfs(path, len(content)):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return entry

    def paths_info(self, type: str, repo: str, revision: str) -> None:
        repository = self._repository(type, repo)
        files = repository.commits[self._commit_of(repository, revision)]
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = self._json()["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        entries = [self._entry(path, files[path]) for path in paths if path in files]
        for path in paths:
            if path not in files and any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": path})
        self._answer(200, entries)

    # -- upload -------------------------------------------------------------------------------------------------------
    def preupload(self, type: str, repo: str, revision: str) -> None:
        repository = self._repository(type, repo, write=True)
        current = repository.commits[self._commit_of(repository, revision)]
        files = []
        for file in self._json()["files"]:
            path = file["path"]
            entry = {"path": path, "uploadMode": "lfs" if _is_lfs(path, file["size"]) else "regular"}
            files.append(entry | {"shouldIgnore": False})
            if path in current:
                files[-1]["oid"] = _etag(path, current[path])
        self._answer(200, {"files": files})

    def lfs_batch(self, type: str, repo: str) -> None:
        self._repository(type, repo)
        objects = []
        for wanted in self._json()["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.lfs_objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}?signature=1"}}
            objects.append(entry)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refusal(400, "the content does not have this hash")
        self.hub.lfs_objects[oid] = self.body
        self._answer(200)

    def commit(self, type: str, repo: str, revision: str) -> None:
        repository = self._repository(type, repo, write=True)
        files = dict(repository.commits[self._commit_of(repository, revision)])
        message = ""
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                message = value["summary"]
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.lfs_objects:
                    raise _Refusal(400, f"{value['path']}: its content was never uploaded")
                files[value["path"]] = self.hub.lfs_objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        sha = repository.commit(files, message)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"}
        if self.query.get("create_pr"):
            repository.pull_requests += 1
            repository.refs[f"refs/pr/{repository.pull_requests}"] = sha
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{repository.pull_requests}"
        else:
            repository.refs[unquote(revision)] = sha
        self._answer(200, answer)

    def create_branch(self, type: str, repo: str, name: str) -> None:
        self._create_ref(self._repository(type, repo, write=True), unquote(name), self._json().get("startingPoint"))

    def create_tag(self, type: str, repo: str, revision: str) -> None:
        self._create_ref(self._repository(type, repo, write=True), self._json()["tag"], revision)

    def _create_ref(self, repository: Repository, name: str, start: str | None) -> None:
        if name in repository.refs:
            raise _Refusal(409, "Reference already exists")
        repository.refs[name] = self._commit_of(repository, start or "main")
        self._answer(200, {})

    # -- download -----------------------------------------------------------------------------------------------------
    def resolve(self, type: str, repo: str, revision: str, path: str) -> None:
        repository, path = self._repository(type, repo), unquote(path)
        if repository.gated and self.user != repository.owner:
            raise _Refusal(401 if self.user is None else 403, MESSAGES["GatedRepo"][1], "GatedRepo")
        sha = self._commit_of(repository, revision)
        if path not in repository.commits[sha]:
            raise _refuse("EntryNotFound")
        content = repository.commits[sha][path]
        etag, headers = _etag(path, content), {"X-Repo-Commit": sha}
        if _is_lfs(path, len(content)):
            self.hub.lfs_objects[etag] = content
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": len(content)}
            self._answer(302, b"", headers | {"Location": f"{self.hub.cdn_url}/cdn/{etag}"})
        else:
            self._send_content(content, headers | {"ETag": f'"{etag}"'})

    def cdn(self, oid: str) -> None:
        self._send_content(self.hub.lfs_objects[oid], {"ETag": f'"{oid}"'})

    def _send_content(self, content: bytes, headers: dict) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers = {"Accept-Ranges": "bytes", **headers}
        if not wanted:
            self._answer(200, content, headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if start >= len(content):
            raise _Refusal(416, "Range not satisfiable")
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._answer(206, content[start : end + 1], headers)


_API = r"/api/(?P<type>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"
_WEB = r"/(?P<type>datasets/|spaces/)?(?P<repo>[^/]+/[^/]+)"
_ROUTES = (
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", r"/api/repos/create", "create_repo"),
    ("GET", _API, "info"),
    ("GET", _API + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", _API + r"/refs", "refs"),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("POST", _API + r"/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", _API + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("POST", _API + r"/branch/(?P<name>[^/]+)", "create_branch"),
    ("POST", _API + r"/tag/(?P<revision>[^/]+)", "create_tag"),
    ("POST", _WEB + r"\.git/info/lfs/objects/batch", "lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>\w+)", "lfs_put"),
    ("GET", r"/cdn/(?P<oid>\w+)", "cdn"),
    ("GET", _WEB + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
)
