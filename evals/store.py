"""The store of finished requests: what was computed once is never computed again, and never mistaken.

One SQLite file. A record's key is the meaning of its request (see request_key), its value the result, and a
digest over both travels with it: what does not match its digest counts as missing and is computed again.

WAL with synchronous=FULL: with NORMAL, SQLite syncs only at checkpoints, so that a power cut could take many
minutes of small records. Records are written once a second in one transaction, so one sync a second suffices.
"""

from __future__ import annotations

import logging
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from evals.errors import UserError
from evals.files import FileLock, cannot_write
from evals.records import FORMAT, GENERATION, SCORE, checksum, decode, encode, sound
from evals.records import request_key as request_key
from evals.records import request_keys as request_keys
from evals.requests import Result

log = logging.getLogger(__name__)
T = TypeVar("T")

FLUSH_SECONDS = 1.0
BUSY_SECONDS = 60.0
REPAIR_SECONDS = 10.0
LOOKUP_KEYS = 500  # in one SELECT; SQLite's oldest limit on parameters is 999
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG)
_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter for messages that quote a damaged file
_COLUMNS = "key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL"


class _UnsoundFile(sqlite3.DatabaseError):
    """SQLite's own check found the file's structure damaged."""


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store holds: ``size`` in bytes on disk, ``kinds`` of record with their number."""

    path: Path
    records: int
    size: int
    kinds: Mapping[str, int]


class Store:
    """Finished requests on disk. One writer thread a process; any number of processes (SQLite's locks).

    Every public method raises UserError, and nothing else, for what disk, folder or a damaged file can cause;
    records stored before stay. A damaged file is repaired: readable records are kept, the file is moved
    aside, and one line says so.
    """

    def __init__(self, path: Path, on_note: Callable[[str], None]) -> None:
        """Use Store.open."""
        self.path = path
        self._note = on_note
        self._guard = threading.RLock()
        self._pending: dict[bytes, bytes] = {}
        self._timer: threading.Timer | None = None
        self._failure: UserError | None = None
        self._damaged_told = False
        self._connection: sqlite3.Connection | None = None
        # Shared by all who use the file; who repairs it needs it alone.
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))
        self._inode = 0

    @classmethod
    def open(cls, path: Path | str, on_note: Callable[[str], None] = log.warning) -> Store:
        """Open or create the store at ``path``; ``on_note`` gets one line for each thing worth telling."""
        store = cls(Path(path).absolute(), on_note)
        try:
            store._connect()
        except BaseException:
            store._lock.close()
            raise
        return store

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Result]:
        """The results that are stored, by key; what is missing or damaged is left out."""
        with self._guard:
            self._raise_failure()
            rows = self._sql(lambda connection: _lookup(connection, list(dict.fromkeys(keys))))
            found: dict[bytes, Result] = {}
            for key, value, digest in rows:
                with suppress(ValueError, struct.error):
                    if sound(key, value, digest):
                        found[key] = decode(value)
            damaged = len(rows) - len(found)
            wanted = self._pending.keys() & set(keys) if self._pending else ()
            found |= {key: decode(self._pending[key]) for key in wanted}
            if damaged and not self._damaged_told:
                self._damaged_told = True
                self._note(
                    f"cache '{self.path}': {damaged} damaged records do not count and are computed again"
                )
            return found

    def put(self, pairs: Iterable[tuple[bytes, Result]]) -> None:
        """Store results; on disk within FLUSH_SECONDS and at close. Replaces what the key had."""
        with self._guard:
            self._raise_failure()
            self._pending.update((key, encode(result)) for key, result in pairs)
            if self._pending and self._timer is None:
                self._timer = threading.Timer(FLUSH_SECONDS, self._flush_in_background)
                self._timer.daemon = True
                self._timer.start()

    def flush(self) -> None:
        """Bring all to the disk now."""
        with self._guard:
            self._failure = None  # tried again here
            self._write()

    def close(self) -> None:
        """Flush and close; closing twice is fine."""
        with self._guard:
            if self._connection is None:
                return
            try:
                self.flush()
            finally:
                self._disconnect()
                self._lock.close()

    def info(self) -> StoreInfo:
        """What the store holds now."""
        with self._guard:
            self.flush()
            query = "SELECT substr(value, 1, 1), count(*) FROM records GROUP BY 1"
            counts = dict(self._sql(lambda connection: connection.execute(query).fetchall()))
            kinds = {"score": counts.get(SCORE, 0), "generation": counts.get(GENERATION, 0)}
            files = [self.path, self.path.with_name(f"{self.path.name}-wal")]
            size = sum(file.stat().st_size for file in files if file.exists())
            return StoreInfo(self.path, sum(counts.values()), size, kinds)

    def clear(self) -> int:
        """Forget every record, and the damaged files set aside; returns how many records there were."""
        with self._guard:
            self._pending.clear()
            removed = self._sql(lambda connection: connection.execute("DELETE FROM records").rowcount)
            with suppress(sqlite3.OperationalError):  # another process reads: the file shrinks another time
                self._open_connection().execute("VACUUM")
            for file in self.path.parent.glob(f"{self.path.name}.damaged-*"):
                file.unlink(missing_ok=True)
            return removed

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UserError:
            if error is None:  # else the first error is the one to tell
                raise

    # Writing

    def _write(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._pending:
            return
        rows = [(key, value, checksum(key, value)) for key, value in self._pending.items()]
        try:
            self._sql(lambda connection: _insert(connection, rows))
        except UserError as error:
            raise UserError(f"{error} (the last {len(rows)} finished requests are not stored)") from error
        self._pending.clear()

    def _flush_in_background(self) -> None:
        with self._guard:
            if self._connection is None:
                return
            try:
                self._write()
            except UserError as error:
                self._failure = error  # told to the next caller: a thread has nobody to tell

    def _raise_failure(self) -> None:
        """Hand over what went wrong in the background, once: the next flush tries again."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    # Opening and repairing

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ValueError("the store is closed")
        return self._connection

    def _sql(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``action``; if the file turns out damaged, repair it and run it once more."""
        self._open_connection()
        if not self._is_in_place():
            self._note(f"cache '{self.path}' was removed while in use: a new one is begun")
            self._disconnect()
            self._lock.close()
            self._lock = FileLock(self._lock.path)
            self._connect()
        try:
            return action(self._open_connection())
        except _ERRORS as error:
            if not _means_damage(error):
                raise self._told(error) from error
            self._disconnect()
            self._connect(damage=error)
        try:
            return action(self._open_connection())
        except _ERRORS as error:
            raise self._told(error) from error

    def _connect(self, damage: Exception | None = None) -> None:
        """Open the file, sound; damage is repaired as soon as nobody else uses the file."""
        deadline = time.monotonic() + REPAIR_SECONDS
        while True:
            alone = self._lock.take(exclusive=True)
            if alone or self._lock.take(exclusive=False):
                try:
                    if damage is not None and alone:
                        self._repair()
                    self._connection = self._open_file(check=alone or damage is not None)
                    while not self._lock.take(exclusive=False):  # for an instant others may get between
                        time.sleep(0.01)
                    return
                except _ERRORS as error:
                    if not _means_damage(error) or (damage is not None and alone):
                        raise self._told(error) from error
                    damage = error
                    if alone:
                        continue
            if damage is not None and time.monotonic() > deadline:
                advice = "wait until it ends, then run the same command again"
                raise UserError(f"cache '{self.path}' is damaged and another process uses it: {advice}")
            time.sleep(0.1)

    def _open_file(self, *, check: bool) -> sqlite3.Connection:
        left_over = self.path.with_name(f"{self.path.name}-wal")
        unclean = check and left_over.exists() and left_over.stat().st_size > 0
        try:
            connection = _open_sqlite(self.path, check=check)
        except UserError as error:
            raise UserError(f"cache '{self.path}': {error}") from error
        self._inode = self.path.stat().st_ino
        if unclean:
            (kept,) = connection.execute("SELECT count(*) FROM records").fetchone()
            self._note(f"the last run ended without closing its cache: {kept} finished requests are kept")
        return connection

    def _repair(self) -> None:
        """Copy what is readable into a new file, move the damaged one aside. Needs the lock alone."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        fresh = self.path.with_name(f"{self.path.name}.repaired")
        try:
            _remove(fresh)
            connection = _open_sqlite(fresh, check=False)
            try:
                _insert(connection, _readable(self.path))
                (kept,) = connection.execute("SELECT count(*) FROM records").fetchone()
            finally:
                connection.close()
            # Its WAL goes first: one that stayed would be played into the new file.
            for suffix in ("-wal", "-shm", ""):
                part = self.path.with_name(self.path.name + suffix)
                if part.exists():
                    part.rename(aside.with_name(aside.name + suffix))
            fresh.rename(self.path)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._note(
            f"cache '{self.path}' was damaged: {kept} finished requests are kept, others are computed again; "
            f"the damaged file is now '{aside.name}'"
        )

    def _is_in_place(self) -> bool:
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if connection is not None:
            with suppress(sqlite3.Error):  # the last checkpoint may lack space: the next opener does it
                connection.close()

    def _told(self, error: Exception) -> UserError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        advice = {
            sqlite3.SQLITE_FULL: "no space left: free some and run the same command again",
            sqlite3.SQLITE_READONLY: "it cannot be written: choose another --output-dir",
            sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the folder or choose another --output-dir",
            sqlite3.SQLITE_BUSY: "another process held it for a minute: try again when that is done",
        }.get(code, f"{error}: check the disk, or remove the file with 'run_evals.py cache clear'")
        return UserError(f"cache '{self.path}': {advice}")


def _means_damage(error: Exception) -> bool:
    """Whether the file's content is to blame, rather than disk, rights or another process."""
    if isinstance(error, _UnsoundFile | UnicodeDecodeError):
        return True
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED


def _open_sqlite(path: Path, *, check: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = bytes  # a damaged record may hold text that is none
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FORMAT):
            raise UserError(
                f"its format {version} is not {FORMAT}: another version of this program wrote it; remove it"
            )
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"CREATE TABLE IF NOT EXISTS records ({_COLUMNS})")
        if version == 0:
            connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
        if check:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != b"ok":
                raise _UnsoundFile(verdict.decode(errors="replace"))
        return connection
    except BaseException:
        connection.close()
        raise


def _insert(connection: sqlite3.Connection, rows: Iterable[tuple[bytes, bytes, bytes]]) -> None:
    """All rows in one transaction, or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite rolls back by itself when the disk is full
            connection.execute("ROLLBACK")
        raise


def _lookup(connection: sqlite3.Connection, keys: Sequence[bytes]) -> list[tuple[bytes, bytes, bytes]]:
    rows: list[tuple[bytes, bytes, bytes]] = []
    for start in range(0, len(keys), LOOKUP_KEYS):
        some = keys[start : start + LOOKUP_KEYS]
        marks = ",".join("?" * len(some))
        rows += connection.execute(f"SELECT key, value, digest FROM records WHERE key IN ({marks})", some)
    return rows


def _readable(path: Path) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The sound records of a damaged file, in the order written; jumps over what cannot be read."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except _ERRORS:
        return
    connection.text_factory = bytes
    query = "SELECT rowid, key, value, digest FROM records NOT INDEXED WHERE rowid >= ? ORDER BY rowid"
    start, jump = 0, 1
    try:
        while jump < 2**20:
            try:
                for rowid, key, value, digest in connection.execute(query, (start,)):
                    if rowid < start:
                        break  # pages out of order: go on behind, so that this ends
                    start, jump = rowid + 1, 1
                    if sound(key, value, digest):
                        yield key, value, digest
                else:
                    return
            except _ERRORS:
                pass
            start, jump = start + jump, jump * 2
    finally:
        connection.close()


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
