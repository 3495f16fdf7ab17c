"""The SQLite file under the store: opened safely, checked, repaired.

WAL with synchronous=NORMAL: a commit is safe from the end of the process at once, and SQLite itself syncs only at
checkpoints. The store syncs the log besides, once a second (store.SYNC_SECONDS), so that a power cut takes no more;
with FULL each commit would wait for the disk, and the results behind it with it.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from evals.core.errors import UserError
from evals.core.files import cannot_write
from evals.run.records import FORMAT, sound

Record = tuple[bytes, bytes, bytes]  # key, value, digest

ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter for messages that quote a damaged file
BUSY_SECONDS = 60.0
FULL_BYTES = 2**16  # SQLite's shared memory, the first thing it needs, takes 32 KB
LOOKUP_KEYS = 500  # in one SELECT; SQLite's oldest limit on parameters is 999

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG)
_COLUMNS = "key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL"
_ADVICE = {
    sqlite3.SQLITE_FULL: "no space left: free some and run the same command again",
    sqlite3.SQLITE_READONLY: "it cannot be written: choose another --output-dir",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check the folder or choose another --output-dir",
    sqlite3.SQLITE_BUSY: "another process held it for a minute: try again when that is done",
}


class UnsoundFile(sqlite3.DatabaseError):
    """SQLite's own check found the file's structure damaged."""


def means_damage(error: Exception) -> bool:
    """Whether the file's content is to blame, rather than disk, rights or another process."""
    if isinstance(error, UnsoundFile | UnicodeDecodeError):
        return True
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGED


def told(path: Path, error: Exception) -> UserError:
    """The one line for an error of SQLite."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _is_full(path):
        code = sqlite3.SQLITE_FULL
    advice = _ADVICE.get(code, f"{error}: check the disk, or remove the file with 'run_evals.py cache clear'")
    return UserError(f"cache '{path}': {advice}")


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < FULL_BYTES
    except OSError:
        return False


def connect(path: Path, *, check: bool) -> sqlite3.Connection:
    """Open or create a file of records; with ``check``, its whole structure is read.

    Raises UserError for another version's file, else SQLite's errors.
    """
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.text_factory = bytes  # a damaged record may hold text that is none
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FORMAT):
            reason = f"its format {version} is not {FORMAT}: another version of this program wrote it"
            raise UserError(f"cache '{path}': {reason}; remove it, or choose another --output-dir")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"CREATE TABLE IF NOT EXISTS records ({_COLUMNS})")
        connection.execute(f"CREATE TABLE IF NOT EXISTS plans ({_COLUMNS})")
        if version == 0:
            connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
        if check:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            if verdict != b"ok":
                raise UnsoundFile(verdict.decode(errors="replace"))
        return connection
    except BaseException:
        connection.close()
        raise


def insert(connection: sqlite3.Connection, records: Iterable[Record], table: str = "records") -> None:
    """All records in one transaction, or none; one replaces what its key had."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)", records)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite rolls back by itself when the disk is full
            connection.execute("ROLLBACK")
        raise


def lookup(connection: sqlite3.Connection, keys: Sequence[bytes], table: str = "records") -> list[Record]:
    """The records of distinct keys, unchecked, in any order."""
    records: list[Record] = []
    for start in range(0, len(keys), LOOKUP_KEYS):
        some = keys[start : start + LOOKUP_KEYS]
        marks = ",".join("?" * len(some))
        records += connection.execute(f"SELECT key, value, digest FROM {table} WHERE key IN ({marks})", some)
    return records


def log_of(path: Path) -> Path:
    """SQLite's write-ahead log of the file: commits are there until a checkpoint brings them into it."""
    return path.with_name(f"{path.name}-wal")


def count(connection: sqlite3.Connection) -> int:
    """How many records there are."""
    (number,) = connection.execute("SELECT count(*) FROM records").fetchone()
    return int(number)


def repair(path: Path) -> str:
    """Copy what is readable into a new file and move the damaged one aside; returns the line that says so.

    Nobody else may have the file open. Raises UserError for what the folder or disk does not allow.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    fresh = path.with_name(f"{path.name}.repaired")
    try:
        for suffix in ("", "-wal", "-shm"):
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
        connection = connect(fresh, check=False)
        try:
            insert(connection, _readable(path))
            kept = count(connection)
        finally:
            connection.close()
        # Its WAL goes first: one that stayed would be played into the new file.
        for suffix in ("-wal", "-shm", ""):
            part = path.with_name(path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        fresh.rename(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    return (
        f"cache '{path}' was damaged: {kept} finished requests are kept, others are computed again; "
        f"the damaged file is now '{aside.name}'"
    )


def _readable(path: Path) -> Iterator[Record]:
    """The sound records of a damaged file, in the order written; jumps over what cannot be read."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    except ERRORS:
        return
    connection.text_factory = bytes
    query = "SELECT rowid, key, value, digest FROM records NOT INDEXED WHERE rowid >= ? ORDER BY rowid"
    start, jump = 0, 1
    try:
        while jump < 2**20:
            with suppress(*ERRORS):
                for rowid, key, value, digest in connection.execute(query, (start,)):
                    if rowid < start:
                        break  # pages out of order: go on behind, so that this ends
                    start, jump = rowid + 1, 1
                    if sound(key, value, digest):
                        yield key, value, digest
                else:
                    return
            start, jump = start + jump, jump * 2
    finally:
        connection.close()
