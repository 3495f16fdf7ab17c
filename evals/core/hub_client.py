"""Files of the Hugging Face hub through huggingface_hub and its cache: checked content, one-line errors.

HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are respected, as huggingface_hub reads them.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import tenacity
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.utils import disable_progress_bars
from huggingface_hub.utils import logging as hub_logging

from evals.core.errors import UserError
from evals.core.retry import retry_after

T = TypeVar("T")
Choose = Callable[[Sequence[str]], list[str]]

TIMEOUT = 5.0  # seconds to connect, and between two packets
TRIES = 4
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
BUSY = (429, 500, 502, 503, 504)
NOUNS = {"dataset": "data set", "model": "model"}
LOCAL_COPY = "give a local copy (--model-path FOLDER, --data DIR)"
LOGIN = "log in ('hf auth login' or HF_TOKEN)"


class NotThere(UserError):
    """The hub answered, and has not got it (or does not show it): another copy may."""


class Unreachable(UserError):
    """The hub did not answer, or stays busy: no use in asking for anything else now."""


NO_SUCH = "no such repo, revision or file on {hub}: check the name"
REASONS: dict[int, tuple[type[UserError], str]] = {
    401: (
        NotThere,
        f"{{hub}} asks for a login (401): the name is wrong or the repo private; check the name, {LOGIN}",
    ),
    403: (NotThere, f"{{hub}} refuses access (403): ask for access on the repo's page, {LOGIN}"),
    404: (NotThere, NO_SUCH),
    410: (NotThere, NO_SUCH),
    429: (Unreachable, f"{{hub}} limits the rate of requests (429): try again in some minutes, or {LOGIN}"),
}


@cache
def repo_info(kind: str, repo: str, revision: str) -> Any:
    """What the hub says of a repo ("dataset" or "model") at a revision; asked once a process."""
    ask = partial(HfApi().repo_info, repo, repo_type=kind, revision=revision, timeout=TIMEOUT)
    return _ask(ask, f"{NOUNS[kind]} {repo}")


def fetch(kind: str, repo: str, revision: str, choose: Choose, offline: bool) -> tuple[Path, list[str]]:
    """(snapshot folder, names) of the files that ``choose`` picks from a repo's listing, downloaded unless cached.

    The folder is named by the commit. A commit whose files are cached is not asked for again; a branch is, and its
    cached files serve while the hub is out of reach. Raises NotThere, Unreachable or UserError, each in one line.
    """
    what = f"{NOUNS[kind]} {repo}"
    offline = offline or bool(constants.HF_HUB_OFFLINE)
    known = _cached(kind, repo, revision, choose)
    if known and (offline or re.fullmatch("[0-9a-f]{40}", revision)):
        return known
    if offline:
        raise Unreachable(f"{what}: offline, and not in the local cache: run once online, or {LOCAL_COPY}")
    hub_logging.set_verbosity(logging.CRITICAL)  # what went wrong is told here, in one line
    if not sys.stderr.isatty():
        disable_progress_bars()
    get = partial(snapshot_download, repo, repo_type=kind, revision=revision, etag_timeout=TIMEOUT)
    try:
        names = choose([file.rfilename for file in repo_info(kind, repo, revision).siblings or ()])
        if not names:
            raise NotThere(f"{what}: at {revision} there is no parquet file of it: {LOCAL_COPY}")
        for force in (False, True):
            folder = Path(_ask(partial(get, allow_patterns=names, force_download=force), what))
            damaged = [name for name in names if not is_sound(folder / name)]
            if not damaged:
                return folder, names
    except Unreachable:
        if known:
            return known
        raise
    raise UserError(f"{what}: {damaged[0]} does not match the hub's hash, twice: try later, or {LOCAL_COPY}")


def push_space(folder: Path, repo: str) -> str:
    """Puts a folder's files into a static Space in one commit, in place of what it held; returns its address.

    A Space that is not there yet is made, a private one. Needs a login. Raises NotThere, Unreachable or UserError.
    """
    if constants.HF_HUB_OFFLINE:
        raise Unreachable(f"space {repo}: offline (HF_HUB_OFFLINE), so nothing can be pushed")
    if not sys.stderr.isatty():
        disable_progress_bars()
    hub_logging.set_verbosity(logging.CRITICAL)  # what went wrong is told here, in one line
    api, what = HfApi(), f"space {repo}"
    make = partial(api.create_repo, repo, repo_type="space", space_sdk="static", private=True, exist_ok=True)
    send = partial(
        api.upload_folder, repo_id=repo, folder_path=folder, repo_type="space", delete_patterns="*",
        commit_message="The leaderboard's site",
    )  # fmt: skip
    try:
        address = str(_ask(make, what))
        _ask(send, what)
    except UserError as error:  # a local copy is what fetching would need
        raise type(error)(str(error).removesuffix(f", or {LOCAL_COPY}")) from None
    return address


def is_sound(path: Path) -> bool:
    """Whether a cached file's content has the hash that the hub gave for it: sha256, or git's for small files.

    The cache keeps it as the name that the first link has: that may lead on to a store of all repos, with names of
    its own. A cache without links does not keep the hash, and cannot be checked.
    """
    expected = path.readlink().name if path.is_symlink() else ""
    if not path.is_file() or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):
        return path.is_file()
    digest = hashlib.sha256() if len(expected) == 64 else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest() == expected


def _cached(kind: str, repo: str, revision: str, choose: Choose) -> tuple[Path, list[str]] | None:
    """What the cache holds of a revision, if all of it is there and sound."""
    find = partial(snapshot_download, repo, repo_type=kind, revision=revision, local_files_only=True)
    try:
        folder = Path(find(allow_patterns=[]))
        names = choose([path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()])
    except (OSError, ValueError, UserError):
        return None
    return (folder, names) if names and all(is_sound(folder / name) for name in names) else None


_out_of_reach: list[str] = []  # the reason, once the hub could not be reached in this process


def _ask(call: Callable[[], T], what: str) -> T:
    """The call's value, after waiting as the hub asks when it is busy.

    Raises NotThere, Unreachable (from then on at once, for anything) or UserError, each in one line.
    """
    if _out_of_reach:
        raise Unreachable(_out_of_reach[0])
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: 0 <= _stated_wait(error) <= LONGEST_WAIT_S),
        wait=_wait,
        stop=tenacity.stop_after_attempt(TRIES),
        before_sleep=lambda _: _note_once(f"{_hub_name()} is busy: waiting for it"),
        reraise=True,
    )
    try:
        return retrying(call)
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: from the client's Rust part
        failure = _explain(error, what)
        if isinstance(failure, Unreachable):
            _out_of_reach.append(str(failure))
        raise failure from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        reason = "does not answer as the hub does: check the name and HF_ENDPOINT"
        raise UserError(f"{what}: {_hub_name()} {reason}") from None


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(FIRST_WAIT_S * 2.0 ** (state.attempt_number - 1), _stated_wait(error) if error else 0.0)


def _stated_wait(error: BaseException) -> float:
    """Seconds that a busy hub asks to wait, 0 if it names none; -1 for troubles that waiting does not mend.

    An error that the client wrapped in another has the client's own retries behind it.
    """
    if isinstance(error, HfHubHTTPError) and error.response.status_code in BUSY:
        return retry_after(error.response.headers) or 0.0
    return -1.0


@cache
def _note_once(text: str) -> None:
    logging.getLogger(__name__).warning("%s", text)


def _explain(error: BaseException, what: str) -> UserError:
    """One line for a failed request. Never the server's text, which may repeat a token."""
    while not isinstance(error, HTTPError) and error.__cause__ is not None:
        error = error.__cause__  # the client wraps an error when it also looked into the cache
    hub = _hub_name()
    if isinstance(error, HfHubHTTPError):
        status, said = error.response.status_code, str(error.response.headers.get("X-Error-Message"))
        if status == 401 and "credentials" in said.lower():
            return UserError(
                f"{what}: {hub} refuses the token (401): 'hf auth login' again, or correct HF_TOKEN"
            )
        refused = (UserError, f"{{hub}} refuses the request ({status}): check the name")
        broken = (Unreachable, f"{{hub}} is out of order ({status}): try again later")
        failure, reason = REASONS.get(status, refused if 400 <= status < 500 else broken)
        return failure(f"{what}: {reason.format(hub=hub)}, or {LOCAL_COPY}")
    if isinstance(error, HTTPError):
        return Unreachable(f"{what}: {hub} cannot be reached: fill the cache once online, or {LOCAL_COPY}")
    reason = getattr(error, "strerror", None) or type(error).__name__
    return UserError(f"{what}: the download failed ({reason}): try again, or {LOCAL_COPY}")


def _hub_name() -> str:
    """The hub's host (HF_ENDPOINT may carry a password before it)."""
    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
