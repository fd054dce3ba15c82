# SPDX-License-Identifier: Apache-2.0
"""A small Hugging Face Hub on the loopback interface, for the ordinary `huggingface_hub` client.

    with FakeHub() as hub:
        hub.add("showlab/show-1-base", folder)
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache)})

`FakeHub` holds the repositories; `_Handler.routes` lists every request that it answers, one method each. A repository
is its branches, and a branch is the id of a commit: a dict from path to `Blob`. An upload is a new commit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import threading
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


LARGE = (".bin", ".safetensors", ".pt", ".mp4", ".model")  # kept as LFS files, as the Hub's .gitattributes have it


@dataclasses.dataclass(frozen=True)
class Blob:
    """A file's content: bytes, or a file that holds them."""

    source: bytes | Path

    @cached_property
    def size(self) -> int:
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def read(self) -> bytes:
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.read()).hexdigest()

    @cached_property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % self.size + self.read()).hexdigest()


Commit = dict[str, Blob]


class Repo:
    """Branches and commits of one repository."""

    def __init__(self) -> None:
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.gated = False
        self.commit("main", {})

    def commit(self, branch: str, files: Commit) -> str:
        """Makes `files`, all of them, the head of `branch`; returns the commit's id (40 hex digits)."""
        text = json.dumps([len(self.commits), branch, sorted((path, blob.git_id) for path, blob in files.items())])
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """A branch's name or a commit's id -> the commit's id; None for neither."""
        return self.branches.get(revision, revision if revision in self.commits else None)


class FakeHub:
    """Serves repositories from a thread, as a context manager; `url` is what `HF_ENDPOINT` has to be."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, Blob] = {}  # LFS objects that no commit has yet, by sha256
        self.requests: list[str] = []  # "GET /api/models/...", for tests that count or forbid downloads
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, repo_id: str, folder: str | Path, revision: str = "main", gated: bool = False) -> str:
        """Puts a folder's files up as a commit on a branch; returns the commit's id."""
        folder = Path(folder)
        files = {p.relative_to(folder).as_posix(): Blob(p) for p in sorted(folder.rglob("*")) if p.is_file()}
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo())
            repo.gated = gated
            return repo.commit(revision, files)


class Refusal(Exception):
    """An answer that is an error: HTTP status, the Hub's error code (`X-Error-Code`), and a sentence."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open, as the Hub does
    hub: FakeHub

    # One line a request: method, path (whole), the method of this class that answers it. First match wins.
    repo_id = r"(?P<repo_id>[^/]+/[^/]+)"
    routes = [
        ("GET", rf"/api/models/{repo_id}", "model_info"),
        ("GET", rf"/api/models/{repo_id}/revision/(?P<revision>[^/]+)", "model_info"),
        ("GET", rf"/api/models/{repo_id}/tree/(?P<revision>[^/]+)(/(?P<under>.+))?", "tree"),
        ("HEAD", rf"/{repo_id}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", rf"/{repo_id}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    ]

    # --- reading -------------------------------------------------------------------------------------------------

    def model_info(self, repo_id: str, revision: str = "main") -> None:
        sha, files = self.find(repo_id, revision)
        siblings = [
            {"rfilename": path, "size": blob.size, "blobId": blob.git_id, **self.lfs(path, blob)}
            for path, blob in sorted(files.items())
        ]
        self.send_json(
            {
                "_id": "0",
                "id": repo_id,
                "modelId": repo_id,
                "sha": sha,
                "private": False,
                "gated": "manual" if self.hub.repos[repo_id].gated else False,
                "tags": [],
                "downloads": 0,
                "siblings": siblings,
            }
        )

    def tree(self, repo_id: str, revision: str, under: str | None = None) -> None:
        _, files = self.find(repo_id, revision)
        self.check_access(repo_id)
        prefix = f"{under}/" if under else ""
        inside = {path: blob for path, blob in files.items() if path.startswith(prefix)}
        folders = {path[: -len(rest)] for path in inside for rest in self.tails(path, prefix)}
        recursive = self.query.get("recursive", "").lower() == "true"
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": folder.rstrip("/"), "oid": hashlib.sha1(folder.encode()).hexdigest()}
            for folder in sorted(folders)
            if recursive or "/" not in folder[len(prefix) : -1]
        ]
        entries += [
            {"type": "file", "path": path, "size": blob.size, "oid": blob.git_id, **self.lfs(path, blob)}
            for path, blob in sorted(inside.items())
            if recursive or "/" not in path[len(prefix) :]
        ]
        self.send_json(entries)

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        """A file, with the headers by which the client knows its commit and content."""
        sha, files = self.find(repo_id, revision)
        self.check_access(repo_id)
        if path not in files:
            raise Refusal(404, "EntryNotFound", f"{repo_id} has no {path} in {revision}", {"X-Repo-Commit": sha})
        blob = files[path]
        large = path.endswith(LARGE)
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.sha256 if large else blob.git_id}"'}
        if large:
            headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size)}
        self.send_body(200, b"" if self.command == "HEAD" else blob.read(), headers, length=blob.size)

    # --- what several answers need -------------------------------------------------------------------------------

    def find(self, repo_id: str, revision: str) -> tuple[str, Commit]:
        """The commit that a revision names, and its files."""
        repo = self.hub.repos.get(repo_id)
        if repo is None:
            raise Refusal(404, "RepoNotFound", f"Repository not found: {repo_id}")
        sha = repo.resolve(revision)
        if sha is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha, repo.commits[sha]

    def check_access(self, repo_id: str) -> None:
        """A gated repository tells about itself to everybody, and gives its files to nobody here."""
        if self.hub.repos[repo_id].gated:
            raise Refusal(403, "GatedRepo", f"Access to model {repo_id} is restricted.")

    @staticmethod
    def lfs(path: str, blob: Blob) -> dict[str, Any]:
        if not path.endswith(LARGE):
            return {}
        return {"lfs": {"oid": blob.sha256, "sha256": blob.sha256, "size": blob.size, "pointerSize": 134}}

    @staticmethod
    def tails(path: str, prefix: str) -> list[str]:
        """What follows each slash of `path` behind `prefix`."""
        return [path[i + 1 :] for i in range(len(prefix), len(path)) if path[i] == "/"]

    # --- plumbing ------------------------------------------------------------------------------------------------

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self.read_chunks()
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {unquote(parts.path)}")
        try:
            for method, pattern, name in self.routes:
                match = re.fullmatch(pattern, parts.path) if method == self.command else None
                if match:
                    given = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                    return getattr(self, name)(**given)
            raise Refusal(404, "NotServed", f"The fake Hub does not know {self.command} {parts.path}")
        except Refusal as refusal:
            status, code, text, *more = refusal.args
            headers = {"X-Error-Code": code, "X-Error-Message": text, **(more[0] if more else {})}
            self.send_json({"error": text}, status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def read_chunks(self) -> bytes:
        """A body sent piece by piece, of a length that the client did not know."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return b""
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def send_json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        text = json.dumps(value).encode()
        self.send_body(status, text, {"Content-Type": "application/json", **(headers or {})})

    def send_body(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silence: tests read `FakeHub.requests`."""
