"""A stand-in of the Hub's HTTP API on loopback, as far as this program and its libraries ask it.

It keeps repositories as commits of whole files, knows who may write where, and can break a
connection in the middle of an upload. Uploads go the way of `HF_HUB_DISABLE_XET=1`: large files by
LFS, under their sha256; small ones in the commit. What it answers was taken from what
huggingface_hub reads: status codes, `X-Error-Code`, `X-Error-Message`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_standinWRITES0123456789abcdefgh"
READER = "hf_standinREADS00123456789abcdefgh"
# Files of at most this many bytes are part of the commit; the Hub decides by .gitattributes.
SMALL = 64 * 1024


@dataclass
class Repo:
    """A repository: branches, and the files of each commit."""

    private: bool
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        text = f"{len(self.commits)}{branch}{sorted(files)}"
        oid = hashlib.sha1(text.encode() + b"".join(files.values())).hexdigest()
        self.commits[oid], self.branches[branch] = files, oid
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        oid = self.branches.get(revision, revision)
        return (oid, self.commits[oid]) if oid in self.commits else None


@dataclass
class Hub:
    """What the stand-in holds, and what it was asked.

    Attributes:
        repos: by (models or datasets, ORG/NAME).
        stored: what LFS holds, by sha256.
        writes: the organisations that TOKEN may write to.
        log: each request, `PUT /lfs/...`.
        authorised: the Authorization headers seen.
        drop_after: LFS uploads that arrive; the connection of every later one breaks.
        answers: status and message for requests whose `METHOD path` begins so.
        spoil: a file whose content arrives otherwise.
        moves: whether somebody else commits during each upload.
    """

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    writes: set[str] = field(default_factory=lambda: {"me"})
    log: list[str] = field(default_factory=list)
    authorised: set[str | None] = field(default_factory=set)
    drop_after: int | None = None
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    spoil: str = ""
    moves: bool = False
    uploads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self, name: str, files: dict[str, bytes], kind: str = "models", private: bool = False
    ) -> str:
        """Make a repository, or commit to it; return the commit."""
        repo = self.repos.setdefault((kind, name), Repo(private))
        return repo.commit("main", files)

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        found = self.repos["models", name].at(branch)
        assert found is not None
        return found[1]

    def asked(self, begin: str) -> list[str]:
        return [line for line in self.log if line.startswith(begin)]


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, said: str, code: str = "") -> None:
        super().__init__(said)
        self.status, self.said, self.code = status, said, code


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def listed(path: str, content: bytes) -> dict[str, Any]:
    """A file as `?blobs=true` lists it."""
    known: dict[str, Any] = {
        "rfilename": path,
        "size": len(content),
        "blobId": git_hash(content),
    }
    if len(content) > SMALL:
        digest = hashlib.sha256(content).hexdigest()
        known["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 134}
    return known


class Answer(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        place = urlsplit(self.path)
        self.parts = [unquote(part) for part in place.path.strip("/").split("/")]
        self.query = parse_qs(place.query)
        self.hub.log.append(f"{self.command} {place.path}")
        self.token = self.headers.get("Authorization")
        # huggingface_hub asks once a day which programs may have started it, without a token.
        if self.parts[0] != "lfs" and self.parts != ["api", "agent-harnesses"]:
            self.hub.authorised.add(self.token)
        try:
            self._scripted(f"{self.command} {place.path}")
            if self.parts[0] == "lfs":
                self._receive()
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "resolve" in self.parts:
                self._resolve()
                return
            self._send(200, self._route(body))
        except Refused as refused:
            self._send(refused.status, {"error": refused.said}, refused)

    def _scripted(self, line: str) -> None:
        for begin, (status, said) in self.hub.answers.items():
            if line.startswith(begin):
                self.close_connection = True
                raise Refused(status, said)

    def _send(self, status: int, content: Any, refused: Refused | None = None) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if refused and refused.code:
            self.send_header("X-Error-Code", refused.code)
        if refused:
            self.send_header("X-Error-Message", refused.said)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _route(self, body: bytes) -> Any:
        if self.parts[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if self.parts == ["api", "validate-yaml"]:
            return {"errors": [], "warnings": []}
        if self.parts[-4:] == ["info", "lfs", "objects", "batch"]:
            return self._batch(json.loads(body))
        if self.parts[0] != "api" or self.parts[1] not in ("models", "datasets"):
            raise Refused(404, "not found")
        kind, name, rest = self.parts[1], "/".join(self.parts[2:4]), self.parts[4:]
        repo = self._repo(kind, name)
        if not rest or rest[0] == "revision":
            return self._info(repo, name, rest[1] if rest else "main")
        if rest[0] == "tree":
            return self._tree(repo, rest[1], "/".join(rest[2:]))
        self._may_write(name)
        return self._write(repo, name, rest, body)

    def _write(self, repo: Repo, name: str, rest: list[str], body: bytes) -> Any:
        what, branch = rest
        if what == "branch":
            if branch in repo.branches:
                raise Refused(409, "the branch exists")
            repo.branches[branch] = repo.branches["main"]
            return {}
        if what == "preupload":
            return self._preupload(repo, branch, json.loads(body))
        assert what == "commit"
        return self._commit(repo, name, branch, body)

    def _known(self) -> bool:
        if self.token not in (None, f"Bearer {TOKEN}", f"Bearer {READER}"):
            raise Refused(401, "Invalid credentials in Authorization header")
        return self.token is not None

    def _may_write(self, name: str) -> None:
        if not self._known():
            raise Refused(401, "Invalid username or password.")
        organisation = name.partition("/")[0]
        if self.token != f"Bearer {TOKEN}" or organisation not in self.hub.writes:
            raise Refused(
                403,
                "You don't have the rights to create a model under the namespace "
                f'"{organisation}"',
            )

    def _repo(self, kind: str, name: str) -> Repo:
        known, repo = self._known(), self.hub.repos.get((kind, name))
        if repo is None or (repo.private and not known):
            raise Refused(404 if known else 401, "Repository not found", "RepoNotFound")
        return repo

    def _at(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]]:
        found = repo.at(revision)
        if found is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def _create(self, asked: dict[str, Any]) -> Any:
        name = f"{asked['organization']}/{asked['name']}"
        self._may_write(name)
        if ("models", name) in self.hub.repos:
            raise Refused(409, "You already created this model repo")
        repo = self.hub.repos["models", name] = Repo(asked.get("visibility") != "public")
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return {"url": f"{self.hub.url}/{name}"}

    def _info(self, repo: Repo, name: str, revision: str) -> Any:
        oid, files = self._at(repo, revision)
        siblings = [
            listed(path, content) if "blobs" in self.query else {"rfilename": path}
            for path, content in files.items()
        ]
        return {
            "id": name,
            "sha": oid,
            "private": repo.private,
            "siblings": siblings,
            "tags": [],
            "downloads": 0,
        }

    def _tree(self, repo: Repo, revision: str, under: str) -> Any:
        files = self._at(repo, revision)[1]
        return [
            {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
            for path, content in files.items()
            if path.startswith(under)
        ]

    def _preupload(self, repo: Repo, revision: str, asked: dict[str, Any]) -> Any:
        _, files = self._at(repo, revision)
        if self.hub.moves:
            repo.commit(revision, files | {"other.txt": b"another's"})
        answer = []
        for each in asked["files"]:
            content, large = files.get(each["path"]), each["size"] > SMALL
            oid = None
            if content is not None:
                oid = hashlib.sha256(content).hexdigest() if large else git_hash(content)
            mode = "lfs" if large else "regular"
            known = {"path": each["path"], "uploadMode": mode, "shouldIgnore": False}
            answer.append(known | ({"oid": oid} if oid else {}))
        return {"files": answer}

    def _batch(self, asked: dict[str, Any]) -> Any:
        self._may_write("/".join(self.parts[:2]))
        objects = []
        for each in asked["objects"]:
            known = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.stored:
                known["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
            objects.append(known)
        return {"transfer": "basic", "objects": objects}

    def _receive(self) -> None:
        """Store a large file, or let its connection break half-way."""
        size, hub = int(self.headers["Content-Length"]), self.hub
        # Several arrive at once: they are counted as they come, each one that breaks as well.
        with hub.lock:
            hub.uploads += 1
            breaks = hub.drop_after is not None and hub.uploads > hub.drop_after
        if breaks:
            self.rfile.read(size // 2)
            self.close_connection = True
            self.connection.shutdown(2)
            return
        content = self.rfile.read(size)
        assert hashlib.sha256(content).hexdigest() == self.parts[1]
        hub.stored[self.parts[1]] = content
        self._send(200, {})

    def _commit(self, repo: Repo, name: str, branch: str, body: bytes) -> Any:
        lines = [json.loads(line) for line in body.splitlines()]
        head, files = lines[0]["value"], dict(self._at(repo, branch)[1])
        if head.get("parentCommit") not in (None, repo.branches[branch]):
            raise Refused(412, "The branch has moved on")
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                files[value["path"]] = self.hub.stored[value["oid"]]
        if self.hub.spoil:
            files[self.hub.spoil] += b"x"
        oid = repo.commit(branch, files)
        return {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid}

    def _resolve(self) -> None:
        """Answer a download: /ORG/NAME/resolve/REVISION/PATH, with /datasets in front or not."""
        dataset = self.parts[0] == "datasets"
        parts = self.parts[dataset:]
        repo = self._repo("datasets" if dataset else "models", "/".join(parts[:2]))
        oid, files = self._at(repo, parts[3])
        content = files.get("/".join(parts[4:]))
        if content is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        self.send_response(200)
        self.send_header("X-Repo-Commit", oid)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """Serve a stand-in on a free port."""
    hub = Hub()
    handler = type("OfThisHub", (Answer,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def reach(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process take the stand-in for the Hub, and wait for no retry."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    download = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
