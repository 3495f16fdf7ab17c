"""The hub's file API with patience, checked content and one-line errors, over huggingface_hub and its cache.

HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are respected, as huggingface_hub reads them.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import disable_progress_bars

from evals.core.errors import UserError

T = TypeVar("T")

TIMEOUT = 5.0  # seconds to connect, and between two packets
WAITS = (1.0, 2.0, 4.0)  # seconds before each further try when the hub is busy and does not say how long
LONGEST_WAIT = 60.0
BUSY = (429, 500, 502, 503, 504)
COMMIT = re.compile(r"[0-9a-f]{40}")
LOCAL_COPY = "give a local copy (--model-path FOLDER, --data DIR)"
NOUNS = {"dataset": "data set", "model": "model"}


class NotThere(UserError):
    """The hub answered, and has not got it (or does not show it): another copy may."""


class Unreachable(UserError):
    """The hub did not answer, or stays busy: no use in asking for anything else now."""


def offline_error(what: str) -> Unreachable:
    """The one line for something that is not in the cache while offline."""
    return Unreachable(f"{what}: offline, and not in the local cache: run once online, or {LOCAL_COPY}")


@cache
def listing(kind: str, repo: str, revision: str) -> tuple[str, tuple[str, ...]]:
    """(commit, file names) of a repo ("dataset" or "model") at a revision; asked once a process."""
    what = f"{NOUNS[kind]} {repo}"
    if is_offline():
        raise offline_error(what)
    info = HfApi().model_info if kind == "model" else HfApi().dataset_info
    found = patiently(lambda: info(repo, revision=revision, timeout=TIMEOUT), what)
    return str(found.sha), tuple(item.rfilename for item in found.siblings or ())


def download(kind: str, repo: str, revision: str, commit: str, names: Sequence[str]) -> list[Path]:
    """The files ``names`` in the cache; ``commit`` is what ``revision`` stands for now.

    What was downloaded is checked against the hub's hash, and fetched once more if it does not match; a
    cached data file is checked too (weights are not: their fingerprint is part of every result).
    """
    if not sys.stderr.isatty():
        disable_progress_bars()
    paths = []
    for number, name in enumerate(names):
        known = cached_folder(kind, repo, commit)
        trusted = kind == "model" and known is not None and (known / name).exists()
        # asking for the first file by the revision's name leaves that name in the cache, for offline use
        at = revision if number == 0 else commit
        path = _fetch(kind, repo, name, at, force=False)
        if not trusted and not is_sound(path):
            path = _fetch(kind, repo, name, at, force=True)
            if not is_sound(path):
                raise UserError(
                    f"{repo}: {name} does not match the hub's hash, twice: try later, or {LOCAL_COPY}"
                )
        commit = path.parents[name.count("/")].name
        paths.append(path)
    return paths


def cached_folder(kind: str, repo: str, revision: str) -> Path | None:
    """The snapshot folder of a repo in the hub's cache (its name is the commit), if there is one."""
    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)
    commit = revision
    if not COMMIT.fullmatch(revision):
        ref = storage / "refs" / revision
        if not ref.is_file():
            return None
        commit = ref.read_text().strip()
    folder = storage / "snapshots" / commit
    return folder if folder.is_dir() else None


_sound: set[tuple[str, int, int]] = set()


def is_sound(path: Path) -> bool:
    """Whether a cached file's content has the hash that the hub gave for it.

    The cache names a content by its etag: sha256 for large files, the git blob's sha1 for small ones. A cache
    without symbolic links does not keep that name, and cannot be checked.
    """
    blob = path.resolve()
    if not blob.is_file():
        return False
    stat = blob.stat()
    key = (str(blob), stat.st_size, stat.st_mtime_ns)
    if key in _sound or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        return True
    digest = hashlib.sha256() if len(blob.name) == 64 else hashlib.sha1(b"blob %d\0" % stat.st_size)
    with blob.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != blob.name:
        return False
    _sound.add(key)
    return True


def is_offline() -> bool:
    """Whether the environment forbids the network (HF_HUB_OFFLINE)."""
    return bool(constants.HF_HUB_OFFLINE)


_out_of_reach: list[str] = []  # the reason, once the hub could not be reached in this process


def patiently(call: Callable[[], T], what: str) -> T:
    """The call's value, after waiting as the hub asks when it is busy.

    Raises NotThere, Unreachable (from then on at once, for anything) or UserError, each in one line.
    """
    if _out_of_reach:
        raise Unreachable(_out_of_reach[0])
    for pause in (*WAITS, 0.0):
        try:
            return call()
        except (HTTPError, OSError) as error:
            cause = _root(error)
            status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else 0
            # a wrapped error has the client's own retries behind it
            if status in BUSY and cause is error and 0 < (wait := _wait(cause, pause)) <= LONGEST_WAIT:
                time.sleep(wait)
                continue
            failure = _explain(cause, status, what)
            if isinstance(failure, Unreachable):
                _out_of_reach.append(str(failure))
            raise failure from None
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f"{what}: {_hub_name()} does not answer as the hub does: check the name and HF_ENDPOINT"
            ) from None
    raise AssertionError("the last try returns or raises")


def _fetch(kind: str, repo: str, name: str, revision: str, force: bool) -> Path:
    def call() -> str:
        return hf_hub_download(
            repo, name, repo_type=kind, revision=revision, etag_timeout=TIMEOUT, force_download=force
        )

    return Path(patiently(call, f"{NOUNS[kind]} {repo}"))


def _root(error: BaseException) -> BaseException:
    """What really happened: the client wraps an error when it also looked into the cache."""
    while not isinstance(error, HTTPError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _wait(error: BaseException, pause: float) -> float:
    """Seconds before the next try: as Retry-After says if it is there, else ``pause``; 0: no further try."""
    assert isinstance(error, HfHubHTTPError)
    stated = error.response.headers.get("Retry-After", "")
    return max(float(stated), pause) if pause and stated.isdigit() else pause


def _explain(error: BaseException, status: int, what: str) -> UserError:
    """One line for a failed request. Never the server's text, which may repeat a token."""
    hub = _hub_name()
    if status == 401 and "credentials" in _server_message(error):
        return UserError(f"{what}: {hub} refuses the token (401): 'hf auth login' again, or correct HF_TOKEN")
    if status == 401:
        return NotThere(
            f"{what}: {hub} asks for a login (401): the name is wrong or the repo private; check the name, "
            f"log in ('hf auth login' or HF_TOKEN), or {LOCAL_COPY}"
        )
    if status == 403:
        return NotThere(
            f"{what}: {hub} refuses access (403): ask for access on the repo's page, log in "
            f"('hf auth login' or HF_TOKEN), or {LOCAL_COPY}"
        )
    if status in (404, 410):
        return NotThere(
            f"{what}: no such repo, revision or file on {hub} ({status}): check the name, or {LOCAL_COPY}"
        )
    if status == 429:
        return Unreachable(
            f"{what}: {hub} limits the rate of requests (429): try again in some minutes, log in for a "
            f"higher limit ('hf auth login' or HF_TOKEN), or {LOCAL_COPY}"
        )
    if 400 <= status < 500:
        return UserError(f"{what}: {hub} refuses the request ({status}): check the name, or {LOCAL_COPY}")
    if status:
        return Unreachable(f"{what}: {hub} is out of order ({status}): try again later, or {LOCAL_COPY}")
    if isinstance(error, HTTPError):
        return Unreachable(f"{what}: {hub} cannot be reached: fill the cache once online, or {LOCAL_COPY}")
    reason = getattr(error, "strerror", None) or type(error).__name__
    return UserError(f"{what}: the download failed ({reason}): try again, or {LOCAL_COPY}")


def _server_message(error: BaseException) -> str:
    assert isinstance(error, HfHubHTTPError)
    return str(error.response.headers.get("X-Error-Message", "")).lower()


def _hub_name() -> str:
    """The hub's host (HF_ENDPOINT may carry a password before it)."""
    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
