"""A stand-in for the hub's file API over real HTTP on loopback, for the real clients: huggingface_hub and datasets.

It serves what they ask for: a repo's info (commit, file names, card), the listing of its folders, facts of single
paths, and files by HEAD and GET with ranges. Large files answer as on the hub, with a redirect to another host and
the sha256 beside it; small ones carry the git blob's sha1. Faults are put in front of single paths.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".parquet", ".safetensors")


@dataclass
class Repo:
    """Files of one or more revisions; ``branches`` give commits their names."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


@dataclass
class Fault:
    """What happens to requests whose "METHOD /path" contains ``match``, ``times`` times (-1: always).

    ``status`` with ``headers``; status 0 sends half of the body and hangs up; status 1 sends a wrong body; status 2
    sends half of the body, sets ``StandInHub.stalled``, and then nothing.
    """

    match: str
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    times: int = -1


class StandInHub(ThreadingHTTPServer):
    """Repos by "datasets/ORG/NAME" or "models/ORG/NAME"; every request is written down in ``log``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, dict[str, str]]] = []
        self.blobs: dict[str, bytes] = {}
        self.stalled = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, files: dict[str, bytes], revision: str = "main", licence: str = "") -> str:
        """Puts a commit with ``files`` into a repo, under a branch's name or a hash; returns the commit."""
        digest = hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()
        commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else digest
        held = self.repos.setdefault(repo, Repo())
        held.commits[commit] = files
        held.branches[revision] = commit
        held.branches.setdefault("main", commit)
        if licence:
            held.card = {"license": licence}
        return commit

    def requests(self, start: str = "") -> list[str]:
        """ "METHOD /path" of what was asked for, in order."""
        return [line for line, _ in self.log if line.startswith(start)]


@contextmanager
def standin_hub() -> Iterator[StandInHub]:
    """A running stand-in, stopped at the end."""
    server = StandInHub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _blob(body: bytes) -> str:
    """git's name for a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _entry(name: str, body: bytes) -> dict[str, Any]:
    """A file as a listing shows it."""
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(body), "oid": _blob(body)}
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return entry


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandInHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        self.server.log.append((line, {key.lower(): value for key, value in self.headers.items()}))
        fault = next((f for f in self.server.faults if f.match in line and f.times != 0), None)
        if fault is not None:
            fault.times -= 1
            if fault.status >= 100:
                return self._send(fault.status, b"busy or closed", fault.headers)
        broken = fault.status if fault is not None else None
        if path.startswith("/cdn/"):
            return self._send_file(self.server.blobs[path[5:]], {}, broken)
        if match := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(match[1], match[2] or "main")
        if path in ("/api/repos/create", "/api/validate-yaml"):
            return self._create() if path.endswith("create") else self._json({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/(spaces/[^/]+/[^/]+)/(preupload|commit)/main", path):
            return self._preupload() if match[2] == "preupload" else self._receive(match[1])
        if match := re.fullmatch(
            r"/api/((?:models|datasets|spaces)/[^/]+/[^/]+)/(tree|paths-info)/(.+)", path
        ):
            repo, call, rest = match.groups()
            return self._tree(repo, rest) if call == "tree" else self._paths_info(repo, rest)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/(.+)", path):
            return self._resolve(("datasets/" if match[1] else "models/") + match[2], match[3], broken)
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})

    def _json(self, data: Any) -> None:
        self._send(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _create(self) -> None:
        """A new repo, empty; 409 for one that is there."""
        asked = json.loads(self._posted)
        repo = f"{asked['type']}s/{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.url}/{repo}"}
        if repo in self.server.repos:
            return self._send(409, json.dumps(url).encode(), {"Content-Type": "application/json"})
        self.server.add(repo, {})
        self.server.repos[repo].card = {"visibility": asked.get("visibility"), "sdk": asked.get("sdk")}
        self._json(url)

    def _preupload(self) -> None:
        files = json.loads(self._posted)["files"]
        self._json(
            {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        )

    def _receive(self, repo: str) -> None:
        """A commit: a line of JSON for each file that is added or deleted."""
        held = self.server.repos[repo]
        files = dict(held.commits[held.branches["main"]])
        for line in map(json.loads, self._posted.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                files.pop(line["value"]["path"])
        commit = self.server.add(repo, files)
        held.branches["main"] = commit
        url = f"{self.server.url}/{repo}/commit/{commit}"
        self._json({"success": True, "commitUrl": url, "commitOid": commit, "hookOutput": ""})

    def _commit(self, repo: str, revision: str) -> str | None:
        held = self.server.repos.get(repo)
        if held is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        commit = held.branches.get(revision, revision)
        if commit not in held.commits:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return None
        return commit

    def _info(self, repo: str, revision: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        held = self.server.repos[repo]
        names = [{"rfilename": name} for name in held.commits[commit]]
        info = {"id": repo.split("/", 1)[1], "sha": commit, "siblings": names, "cardData": held.card}
        self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _tree(self, repo: str, rest: str) -> None:
        """The entries of a folder, or of all below it (?recursive=true); 404 for one that is not there."""
        revision, folder = self._split(repo, rest)
        commit = self._commit(repo, revision)
        if commit is None:
            return
        files = self.server.repos[repo].commits[commit]
        deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        start = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for name in sorted(files):
            if not name.startswith(start):
                continue
            below = name[len(start) :].split("/")
            for depth in range(1, len(below) if deep else min(len(below), 2)):
                path = start + "/".join(below[:depth])
                entries[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            if deep or len(below) == 1:
                entries[name] = _entry(name, files[name])
        if folder and not entries:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        self._send(200, json.dumps(list(entries.values())).encode(), {"Content-Type": "application/json"})

    def _paths_info(self, repo: str, revision: str) -> None:
        commit = self._commit(repo, revision)
        if commit is None:
            return
        files = self.server.repos[repo].commits[commit]
        asked = parse_qs(self._posted.decode()).get("paths", [])
        entries = [_entry(name, files[name]) for name in asked if name in files]
        self._send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def _split(self, repo: str, rest: str) -> tuple[str, str]:
        """(revision, path) of what follows the repo in an address; a revision may hold slashes."""
        held = self.server.repos.get(repo, Repo())
        known = sorted([*held.branches, *held.commits], key=len, reverse=True)
        found = next(
            (name for name in known if rest == name or rest.startswith(name + "/")), rest.split("/")[0]
        )
        return found, rest[len(found) + 1 :]

    def _resolve(self, repo: str, rest: str, broken: int | None) -> None:
        revision, name = self._split(repo, rest)
        commit = self._commit(repo, revision)
        if commit is None:
            return
        body = self.server.repos[repo].commits[commit].get(name)
        if body is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        if rest.endswith(LARGE):
            digest = hashlib.sha256(body).hexdigest()
            self.server.blobs[digest] = body
            elsewhere = f"http://localhost:{self.server.server_port}/cdn/{digest}"
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body)), "Location": elsewhere}
            return self._send(302, b"", {"X-Repo-Commit": commit, **linked})
        return self._send_file(body, {"X-Repo-Commit": commit, "ETag": f'"{_blob(body)}"'}, broken)

    def _send_file(self, body: bytes, headers: dict[str, str], broken: int | None) -> None:
        if broken == 1:
            body = bytes(len(body))
        status, first = 200, 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first, status = int(asked[1]), 206
            headers = {**headers, "Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"}
        self._send(status, body[first:], headers, broken)

    def _send(self, status: int, body: bytes, headers: dict[str, str], broken: int | None = None) -> None:
        cut = broken in (0, 2)
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
            self.wfile.flush()
        if broken == 2:
            self.server.stalled.set()
            self.rfile.read(1)  # until the client goes away
        if cut:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: tests read ``log``."""
