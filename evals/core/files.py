"""Files that appear whole or not at all, and a lock between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.errors import UserError

if TYPE_CHECKING:
    import pyarrow

PARTIAL = ".partial-"  # unfinished files and folders; a killed run leaves one behind
PARTIAL_KEPT_SECONDS = 24 * 3600.0


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one line for a failed write: where, why, what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = "check the folder's rights and file system, or choose another --output-dir"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some and run the same command again"
    return UserError(f"cannot write '{path}': {reason}; {advice}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes ``path``: an OSError becomes the one line."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def write_atomic(path: Path | str, content: bytes) -> None:
    """Write a file that is either the old one or the new one, whole, whatever happens. Raises UserError."""
    path = Path(path)
    temporary = path.with_name(f"{PARTIAL}{uuid.uuid4().hex}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            sync(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def partial_folder(final: Path | str) -> Path:
    """A new hidden folder beside ``final``, to fill and hand to publish_folder. Raises UserError."""
    beside = Path(final).parent
    partial = beside / f"{PARTIAL}{uuid.uuid4().hex}"
    with writing(beside):
        partial.mkdir(parents=True)
        for old in beside.glob(f"{PARTIAL}*"):
            # by the file system's own clock: this machine's can be days away from it
            if old.is_dir() and partial.stat().st_mtime - old.stat().st_mtime > PARTIAL_KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    return partial


def publish_folder(partial: Path | str, final: Path | str) -> Path:
    """Make a filled folder appear under its final name at once, on disk before it is seen; returns that name.

    A taken name gets "-2", "-3", … : two runs that end in the same second never mix. Raises UserError.
    """
    target = final = Path(final)
    number = 1
    with writing(final):
        for folder, _, names in os.walk(partial):
            for name in (*names, "."):
                sync(Path(folder, name))
        while True:
            try:
                Path(partial).rename(target)
                break
            except OSError:
                if not target.exists():
                    raise
            number += 1
            target = final.with_name(f"{final.name}-{number}")
        sync(final.parent)
    return target


def sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk (folders: where the file system knows how)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def run_lock(path: Path | str, what: str, on_note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock ``path`` while ``what`` runs; while another process holds it, say so once and wait.

    The one who waited then finds in the store what the other computed. If the other is killed, the system
    frees its lock (flock) and the waiting one goes on from what was stored. The lock file stays: removing it
    would let two processes each lock a file of their own. Not re-entrant. Raises UserError.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", errors="replace")
    with file:
        with writing(path):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read(200) or "another process"
                on_note(
                    f"waits for {holder}, at work on {what}; what it finishes is used here (Ctrl-C stops)"
                )
                fcntl.flock(file, fcntl.LOCK_EX)
                on_note(f"goes on with {what}")
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        with contextlib.suppress(OSError):  # a full disk: only those who wait would read it
            path.write_text(f"process {os.getpid()} on {socket.gethostname()} (since {since} UTC)")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                file.truncate(0)  # the host's name is for those who wait, not for those who get the folder


def parquet_bytes(table: pyarrow.Table, compression: str = "zstd") -> bytes:
    """A table as a parquet file's content."""
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression=compression)
    return buffer.getvalue()


def text_hash(text: str | None) -> str | None:
    """sha256 of a text, such as a chat template."""
    return None if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
