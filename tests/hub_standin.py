"""A server on this machine that speaks as much of the Hugging Face Hub's protocol as the libraries ask for.

It serves models at commits, branches and tags, in whole or by range, and takes new ones (`create_repo`,
`create_branch`, `create_commit`). Tests state what it holds (`add`), read what it was asked (`requests`), and let it
fail (`cut`, `status`).
"""

import base64
import contextlib
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_of_the_test_room"
Files = dict[str, bytes]


@dataclass
class Repo:
    """One repository: every commit's files, and what the names of revisions stand for."""

    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, branch: str = "main") -> str:
        """Add or replace `files` on `branch`; return the commit's hash."""
        parent = self.revisions.get(branch, "")
        content = (self.commits[parent] if parent else {}) | files
        stated = repr((parent, sorted(content.items()))).encode()
        sha = hashlib.sha1(stated).hexdigest()
        self.commits[sha], self.revisions[branch] = content, sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, tag or commit names."""
        return self.revisions.get(revision, revision if revision in self.commits else None)


class RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str = "", message: str = "", url: str = "") -> None:
        self.status, self.code, self.message, self.url = status, code, message, url


class HubStandin:
    """The server and what it holds. `url` is its endpoint."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[str] = []
        """Every request as "GET /ann/rte/resolve/main/config.json", with " bytes=10-" behind it for a part."""
        self.cut: dict[str, int] = {}
        """By file name: the next answer breaks off after so many bytes, and all later ones are `status`."""
        self.status: dict[str, int] = {}
        """By file name, or by the first part of an API path: the status that answers every request for it."""
        self.bad_metadata = ""
        """Why a README.md is refused; empty takes it."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def add(self, name: str, source: Path | Files, *, private: bool = False, gated: bool = False) -> str:
        """Put a folder's files, or these, into repository `name` as one commit on main; return its hash."""
        files = {path.name: path.read_bytes() for path in source.iterdir()} if isinstance(source, Path) else source
        repo = self.repos.setdefault(name, Repo(private=private, gated=gated))
        return repo.commit(files)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def repo(self, name: str, *, token: bool) -> Repo:
        found = self.repos.get(name)
        if found is None or (found.private and not token):
            raise RefusedError(404 if token else 401, "RepoNotFound", "Repository not found")
        return found

    def commit_of(self, name: str, revision: str, *, token: bool) -> tuple[str, Files]:
        repo = self.repo(name, token=token)
        sha = repo.resolve(revision)
        if sha is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repo.commits[sha]

    def file(self, name: str, revision: str, path: str, *, token: bool) -> tuple[str, bytes]:
        sha, files = self.commit_of(name, revision, token=token)
        if self.repos[name].gated and not token:
            raise RefusedError(401, "GatedRepo", f"Access to model {name} is restricted")
        if path not in files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        return sha, files[path]

    def info(self, name: str, revision: str, *, token: bool) -> dict[str, Any]:
        repo = self.repo(name, token=token)
        if not repo.commits:
            return {"id": name, "private": repo.private, "tags": [], "siblings": []}
        sha, files = self.commit_of(name, revision, token=token)
        siblings = [{"rfilename": path} for path in sorted(files)]
        return {"id": name, "sha": sha, "private": repo.private, "tags": [], "siblings": siblings}

    def tree(self, name: str, revision: str, folder: str, *, token: bool) -> list[dict[str, Any]]:
        files = self.commit_of(name, revision, token=token)[1]
        inside = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            raise RefusedError(404, "EntryNotFound", f"{folder} does not exist")
        return [{"type": "file", "path": path, "size": len(data), "oid": blob(data)} for path, data in inside.items()]

    def change(self, path: str, body: bytes, *, token: bool) -> dict[str, Any]:
        """Answer what writes: making repositories and branches, and committing."""
        if path == "validate-yaml":
            if self.bad_metadata:
                raise RefusedError(400, message=self.bad_metadata)
            return {"errors": [], "warnings": []}
        if not token:
            raise RefusedError(401, message="Invalid username or password.")
        if path == "repos/create":
            return self._create(json.loads(body))
        name, action, revision = re.fullmatch(r"models/([^/]+/[^/]+)/(\w+)/(.+)", path).groups()
        repo = self.repo(name, token=token)
        if action == "branch":
            if revision in repo.revisions:
                raise RefusedError(409, message="Reference already exists")
            repo.revisions[revision] = repo.revisions.get("main") or repo.commit({})
            return {}
        if action == "preupload":
            asked = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]}
        if revision != "main" and revision not in repo.revisions:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        sha = repo.commit(files, revision)
        return {"commitUrl": f"{self.url}/{name}/commit/{sha}", "commitOid": sha, "success": True}

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repos:
            raise RefusedError(409, message="You already created this model repo", url=f"{self.url}/{name}")
        self.repos[name] = Repo(private=asked.get("visibility") == "private")
        return {"url": f"{self.url}/{name}", "name": name}


def blob(data: bytes) -> str:
    """The hash that git gives a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _handler(hub: HubStandin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            path = unquote(url.path).strip("/")
            part = self.headers.get("Range")
            hub.requests.append(f"{self.command} /{path}" + (f" {part}" if part else ""))
            try:
                self.route(path, parse_qs(url.query))
            except RefusedError as refused:
                errors = {"error": refused.message, "errors": [{"message": refused.message}], "url": refused.url}
                headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
                self.send(refused.status, json.dumps(errors).encode(), headers)

        def route(self, path: str, query: dict[str, list[str]]) -> None:
            token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            name = path.rpartition("/")[2] if not path.startswith("api/") else path.split("/")[1]
            if name in hub.status and name not in hub.cut:
                raise RefusedError(hub.status[name], message="out of order")
            if self.command == "POST":
                self.send_json(hub.change(path.removeprefix("api/"), self.body, token=token))
            elif found := re.fullmatch(r"api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self.send_json(hub.info(found[1], found[2] or "main", token=token))
            elif found := re.fullmatch(r"api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", path):
                self.send_json(hub.tree(found[1], found[2], found[3] or "", token=token))
            elif found := re.fullmatch(r"([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                sha, data = hub.file(found[1], found[2], found[3], token=token)
                self.send_file(found[3], sha, data)
            else:
                raise RefusedError(404, message=f"the stand-in knows no {path}")

        def send_file(self, path: str, sha: str, data: bytes) -> None:
            headers = {"ETag": f'"{blob(data)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked is None:
                self.send(HTTPStatus.OK, data, headers, name=path)
                return
            begin = int(asked[1])
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            self.send(HTTPStatus.PARTIAL_CONTENT, data[begin:], headers, name=path)

        def send_json(self, data: Any) -> None:
            self.send(HTTPStatus.OK, json.dumps(data).encode(), {"Content-Type": "application/json"})

        def send(self, status: int, data: bytes, headers: dict[str, str], name: str = "") -> None:
            self.send_response(status)
            for key, value in headers.items():
                if value:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if name in hub.cut:
                data = data[: hub.cut.pop(name)]
                self.close_connection = True
            self.wfile.write(data)

    return Handler


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[HubStandin]:
    """A stand-in that huggingface_hub and transformers of this process take for the hub, with their cache at `cache`.

    Nobody is logged in; `monkeypatch.setenv("HF_TOKEN", TOKEN)` does it.
    """
    from huggingface_hub import constants

    standin = HubStandin()
    # The libraries read the environment once, when they are imported.
    monkeypatch.setattr(constants, "ENDPOINT", standin.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{standin.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(cache / "stored_tokens"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    forget_connections()
    try:
        yield standin
    finally:
        forget_connections()
        standin.close()


def forget_connections() -> None:
    """Make both libraries connect anew, to what the constants say now."""
    from huggingface_hub import close_session

    close_session()
    if hub := sys.modules.get("transformers.utils.hub"):
        hub._hf_api = None
