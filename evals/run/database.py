"""The SQLite file under the store: opened, checked, and set aside when it is damaged.

WAL with synchronous=NORMAL: a commit is safe from the end of the process at once, and SQLite itself syncs only at
checkpoints. The store syncs the log besides, once a second, so that a power cut takes no more; with FULL each
commit would wait for the disk, and the results behind it with it.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from evals.core.errors import UserError
from evals.core.files import writing
from evals.run.records import FORMAT, Record, sound

ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter for messages that quote a damaged file
BUSY_SECONDS = 60.0
FULL_BYTES = 2**16  # SQLite's shared memory, the first thing it needs, takes 32 KB
LOOKUP_KEYS = 500  # in one SELECT, a third of the time of one each; SQLite's oldest limit is 999
FILES = ("-wal", "-shm", "")  # the log goes first: one that stayed would be played into the next file

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG)
_COLUMNS = "(key BLOB NOT NULL PRIMARY KEY, value BLOB NOT NULL, digest BLOB NOT NULL)"
_BEGIN = f"""
PRAGMA synchronous=NORMAL; PRAGMA cell_size_check=ON; PRAGMA trusted_schema=OFF;
BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS records {_COLUMNS}; CREATE TABLE IF NOT EXISTS plans {_COLUMNS};
PRAGMA user_version={FORMAT}; COMMIT"""


class Damaged(UserError):
    """The file's content is to blame, rather than disk, rights or another process."""


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Around the use of a file: what SQLite or the system raises becomes the one line."""
    try:
        with writing(path):
            yield
    except ERRORS as error:
        damaged = (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF) in _DAMAGED
        what = f"{error}; check disk and folder, choose another --output-dir, or remove it ('cache clear')"
        with contextlib.suppress(OSError):
            if "full" in str(error) or shutil.disk_usage(path.parent).free < FULL_BYTES:
                what = "no space left: free some and run the same command again"
        raise (Damaged if damaged else UserError)(f"cache '{path}': {what}") from error


def connect(path: Path) -> sqlite3.Connection:
    """Open or create a file of records and check its whole structure.

    Raises Damaged; UserError for another version's file, or a file system without what WAL needs.
    """
    with telling(path), contextlib.ExitStack() as on_error:
        connection = sqlite3.connect(path, BUSY_SECONDS, isolation_level="IMMEDIATE", check_same_thread=False)
        on_error.callback(connection.close)
        connection.text_factory = bytes  # a damaged record may hold text that is none
        if connection.execute("PRAGMA journal_mode=WAL").fetchone() != (b"wal",):
            reason = "this file system (of a network?) lacks what SQLite's log needs"
            raise UserError(f"cache '{path}': {reason}; choose an --output-dir on a local disk")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version not in (0, FORMAT):
            reason = f"its format {version} is not {FORMAT}: another version of this program wrote it"
            raise UserError(f"cache '{path}': {reason}; remove it, or choose another --output-dir")
        connection.executescript(_BEGIN)
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != b"ok":
            raise sqlite3.DatabaseError(verdict.decode(errors="replace"))
        on_error.pop_all()
        return connection


def write(connection: sqlite3.Connection, records: Iterable[Record], ended: Iterable[bytes] = ()) -> None:
    """Records, each in place of what its key had, and plans to forget: all in one transaction, or none."""
    with connection:
        connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", records)
        connection.executemany("DELETE FROM plans WHERE key = ?", ([key] for key in ended))


def begin(connection: sqlite3.Connection, plan: Record) -> None:
    """Keep a plan."""
    with connection:
        connection.execute("INSERT OR REPLACE INTO plans VALUES (?, ?, ?)", plan)


def lookup(connection: sqlite3.Connection, table: str, keys: Sequence[bytes]) -> list[Record]:
    """The records of distinct keys, unchecked, in any order."""
    records: list[Record] = []
    for start in range(0, len(keys), LOOKUP_KEYS):
        some = keys[start : start + LOOKUP_KEYS]
        marks = ",".join("?" * len(some))
        records += connection.execute(f"SELECT key, value, digest FROM {table} WHERE key IN ({marks})", some)
    return records


def count_kinds(connection: sqlite3.Connection) -> dict[bytes, int]:
    """How many records there are, by the first byte of their value."""
    return dict(connection.execute("SELECT substr(value, 1, 1), count(*) FROM records GROUP BY 1"))


def set_aside(path: Path) -> str:
    """Move a damaged file aside and begin a new one with what can be read; returns the line that says so.

    A process that has the damaged file open sees that it was moved, and opens the new one. Raises UserError.
    """
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    fresh = path.with_name(f"{path.name}.repaired")
    with telling(path):
        for part in FILES:
            Path(f"{fresh}{part}").unlink(missing_ok=True)
        with contextlib.closing(connect(fresh)) as connection:
            write(connection, _readable(path))
            kept = sum(count_kinds(connection).values())
        for part in FILES:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{part}").rename(f"{aside}{part}")
        fresh.rename(path)
    saved = f"{kept} finished requests are kept, others are computed again"
    return f"cache '{path}' was damaged: {saved}; the damaged file is now '{aside.name}'"


def _readable(path: Path) -> Iterator[Record]:
    """The sound records of a damaged file, from both its ends up to what cannot be read."""
    with (
        contextlib.suppress(*ERRORS),
        contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection,
    ):
        connection.text_factory = bytes
        connection.execute("PRAGMA writable_schema=ON")  # read a file shorter than its header says, too
        for order in ("ASC", "DESC"):
            query = f"SELECT key, value, digest FROM records NOT INDEXED ORDER BY rowid {order}"
            with contextlib.suppress(*ERRORS):
                yield from (record for record in connection.execute(query) if sound(*record))
