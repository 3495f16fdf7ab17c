"""Files that appear whole or not at all, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from evals.core.errors import UserError

PARTIAL = ".partial-"  # unfinished folders; a killed run leaves one behind
PARTIAL_KEPT_SECONDS = 24 * 3600.0
POLL_SECONDS = 0.2

_UMASK = os.umask(0)  # it can only be read by setting it: once, before there are threads
os.umask(_UMASK)

_ADVICE = {
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EACCES: "make it writable or choose another --output-dir",
    errno.EPERM: "make it writable or choose another --output-dir",
    errno.EROFS: "it is on a read-only file system: choose another --output-dir",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another --output-dir",
}


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one line for a failed write: where, why, what to do."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = _ADVICE.get(error.errno or 0, "check the disk and the folder's rights")
    return UserError(f"cannot write '{path}': {reason}; {advice}")


def write_atomic(path: Path | str, content: bytes) -> None:
    """Write a file that is either the old one or the new one, whole, whatever happens. Raises UserError."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_UMASK)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def partial_folder(final: Path | str) -> Path:
    """A new hidden folder beside ``final``, to fill and hand to publish_folder. Raises UserError."""
    final = Path(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        for old in final.parent.glob(f"{PARTIAL}*"):
            if old.is_dir() and time.time() - old.stat().st_mtime > PARTIAL_KEPT_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=PARTIAL, dir=final.parent))
    except OSError as error:
        raise cannot_write(final.parent, error) from error


def publish_folder(partial: Path | str, final: Path | str) -> Path:
    """Make a filled folder appear under its final name at once, on disk before it is seen; returns that name.

    A taken name gets "-2", "-3", … : two runs that end in the same second never mix. Raises UserError.
    """
    partial, final = Path(partial), Path(final)
    try:
        partial.chmod(0o777 & ~_UMASK)
        for folder, _, names in os.walk(partial):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
        target, number = final, 1
        while not _renamed(partial, target):
            number += 1
            target = final.with_name(f"{final.name}-{number}")
        sync(final.parent)
        return target
    except OSError as error:
        raise cannot_write(final, error) from error


def _renamed(source: Path, target: Path) -> bool:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) and target.exists():
            return False
        raise
    return True


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


class FileLock:
    """A lock between processes (flock), shared or exclusive; the system frees it when its holder dies.

    The lock file stays: removing it would let two processes each lock a file of their own.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def take(self, *, exclusive: bool) -> bool:
        """Take the lock, or turn the one held into the other kind; False: others hold it, none is held."""
        try:
            fcntl.flock(self._handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise cannot_write(self.path, error) from error
            fcntl.flock(self._handle, fcntl.LOCK_UN)
            return False
        return True

    def sign(self, text: str) -> None:
        """Write into the lock file who holds it; only for those who wait, so a full disk does not matter."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, text.encode(), 0)

    def signature(self) -> str:
        """What the holder wrote, or an empty text."""
        return os.pread(self._handle, 200, 0).decode(errors="replace")

    def close(self) -> None:
        """Free the lock."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


@contextlib.contextmanager
def run_lock(path: Path | str, what: str, on_note: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock ``path`` while ``what`` runs; while another process holds it, say so once and wait.

    The one who waited then finds in the store what the other computed. If the other is killed, the system
    frees its lock and the waiting one goes on from what was stored. Not re-entrant. Raises UserError.
    """
    lock = FileLock(path)
    try:
        waited = False
        while not lock.take(exclusive=True):
            if not waited:
                holder = lock.signature() or "another process"
                on_note(
                    f"waits for {holder}, at work on {what}; what it finishes is used here (Ctrl-C stops)"
                )
                waited = True
            time.sleep(POLL_SECONDS)
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")
        lock.sign(f"process {os.getpid()} on {socket.gethostname()} (since {since} UTC)")
        if waited:
            on_note(f"goes on with {what}")
        yield
    finally:
        lock.close()
