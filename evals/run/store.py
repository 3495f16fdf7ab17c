"""The store of finished requests: what was computed once is never computed again, and never mistaken.

One SQLite file. A record's key is the meaning of its request (see request_key), its value the result, and a digest
over both travels with it: what does not match its digest counts as missing and is computed again.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from evals.core.errors import UserError
from evals.core.files import FileLock, cannot_write, sync
from evals.core.requests import Result
from evals.run import database
from evals.run.background import Chore
from evals.run.records import GENERATION, SCORE, checksum, decode, encode, sound
from evals.run.records import request_key as request_key
from evals.run.records import request_keys as request_keys

log = logging.getLogger(__name__)
T = TypeVar("T")

WRITE_SECONDS = 0.005  # from a result to its write, with others of that time: a kill loses these
SYNC_SECONDS = 1.0  # from a write to its being forced to the disk: a power cut loses these
REPAIR_SECONDS = 10.0
PLAN_BYTES = 8  # of each key, kept with a plan


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What a store holds: ``size`` in bytes on disk, ``kinds`` of record with their number."""

    path: Path
    records: int
    size: int
    kinds: Mapping[str, int]


class Store:
    """Finished requests on disk; any number of processes may share it (SQLite's locks), each with one user thread.

    Every public method raises UserError, and nothing else, for what disk, folder or a damaged file can cause;
    records stored before stay. A damaged file is repaired: readable records are kept, the file is moved aside,
    and one line says so.
    """

    def __init__(self, path: Path, on_note: Callable[[str], None]) -> None:
        """Use Store.open."""
        self.path = path
        self._note = on_note
        # Two locks, the database's taken first: put() never waits for the disk.
        self._database = threading.RLock()
        self._buffer = threading.RLock()
        self._pending: dict[bytes, bytes] = {}
        # Two threads: a disk that takes long to sync does not hold up the writes.
        self._writer = Chore(self._write, WRITE_SECONDS)
        self._syncer = Chore(self._sync, SYNC_SECONDS)
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._damaged_told = False
        # Shared by all who use the file; who repairs it needs it alone.
        self._lock = FileLock(path.with_name(f"{path.name}.lock"))

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
        with self._database:
            self._raise_failure()
            distinct = list(dict.fromkeys(keys))
            records = self._sql(lambda connection: database.lookup(connection, distinct))
            found: dict[bytes, Result] = {}
            for key, value, digest in records:
                with suppress(ValueError, struct.error):
                    if sound(key, value, digest):
                        found[key] = decode(value)
            if len(found) < len(records) and not self._damaged_told:
                self._damaged_told = True
                damaged = len(records) - len(found)
                self._note(
                    f"cache '{self.path}': {damaged} damaged records do not count, they are computed again"
                )
            with self._buffer:
                if self._pending:
                    found |= {key: decode(self._pending[key]) for key in distinct if key in self._pending}
            return found

    def put(self, pairs: Iterable[tuple[bytes, Result]]) -> None:
        """Store results. Replaces what a key had.

        Within WRITE_SECONDS or so they outlive this process, within SYNC_SECONDS more the machine.
        """
        records = {key: encode(result) for key, result in pairs}
        with self._buffer:
            if self._writer.stopped:
                raise ValueError("the store is closed")
            self._pending |= records  # before a failure is told: close() tries once more to write all
            self._raise_failure()
            if self._pending:
                self._writer.ask()

    def begin(self, keys: Sequence[bytes], known: Iterable[bytes], *, fresh: bool = False) -> set[bytes]:
        """Note that work on ``keys`` begins, of which ``known`` are stored; those known when it really began.

        They differ for work that was interrupted: who plans it as it was planned then gets the same batches, and
        so the same results to the bit. ``fresh`` forgets an earlier beginning.
        """
        plan = hashlib.sha256(b"".join(keys)).digest()
        with self._database:
            if not fresh:
                found = self._sql(lambda connection: database.lookup(connection, [plan], "plans"))
                for key, value, digest in found:
                    if sound(key, value, digest):
                        return _among(keys, value)
            known = set(known)
            value = b"".join(key[:PLAN_BYTES] for key in keys if key in known)
            record = (plan, value, checksum(plan, value))
            self._sql(lambda connection: database.insert(connection, [record], "plans"))
            return known

    def end(self, keys: Sequence[bytes]) -> None:
        """Note that the work that begin noted is done, and all its results are stored."""
        plan = hashlib.sha256(b"".join(keys)).digest()
        with self._database:
            self.flush()
            self._sql(lambda connection: connection.execute("DELETE FROM plans WHERE key = ?", (plan,)))

    def flush(self) -> None:
        """Bring all to the disk now."""
        with self._database:
            self._writer.failure = self._syncer.failure = None  # tried again here
            self._write()
            self._sync()

    def close(self) -> None:
        """Flush and close; closing twice is fine."""
        self._writer.stop()
        self._syncer.stop()
        with self._database:
            if self._connection is None:
                return
            try:
                self.flush()
            finally:
                self._disconnect()
                self._lock.close()

    def info(self) -> StoreInfo:
        """What the store holds now."""
        with self._database:
            self.flush()
            query = "SELECT substr(value, 1, 1), count(*) FROM records GROUP BY 1"
            counts = dict(self._sql(lambda connection: connection.execute(query).fetchall()))
            kinds = {"score": counts.get(SCORE, 0), "generation": counts.get(GENERATION, 0)}
            files = [self.path, database.log_of(self.path)]
            size = sum(file.stat().st_size for file in files if file.exists())
            return StoreInfo(self.path, sum(counts.values()), size, kinds)

    def clear(self) -> int:
        """Forget every record, and the damaged files set aside; returns how many records there were."""
        with self._database:
            with self._buffer:
                self._pending = {}
            self._sql(lambda connection: connection.execute("DELETE FROM plans"))
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
        """Write what is pending; if that fails, it stays pending."""
        with self._database:
            with self._buffer:
                pending = dict(self._pending)
            if not pending:
                return
            records = [(key, value, checksum(key, value)) for key, value in pending.items()]
            try:
                self._sql(lambda connection: database.insert(connection, records))
            except UserError as error:
                lost = f"the last {len(records)} finished requests are not stored"
                raise UserError(f"{error} ({lost})") from error
            with self._buffer:  # what came meanwhile waits for the next write
                self._pending = {
                    key: value for key, value in self._pending.items() if pending.get(key) is not value
                }
            self._syncer.ask()

    def _sync(self) -> None:
        """Force to the disk what was written. Takes no lock."""
        log_file = database.log_of(self.path)
        try:
            with suppress(FileNotFoundError):  # SQLite has just brought all of it into the main file, synced
                sync(log_file)
                sync(log_file.parent)
        except OSError as error:
            raise cannot_write(log_file, error) from error

    def _raise_failure(self) -> None:
        """Hand over what went wrong in the background, once: the next write tries again."""
        for chore in (self._writer, self._syncer):
            failure, chore.failure = chore.failure, None
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
        except database.ERRORS as error:
            if not database.means_damage(error):
                raise database.told(self.path, error) from error
            self._disconnect()
            self._connect(damage=error)
        try:
            return action(self._open_connection())
        except database.ERRORS as error:
            raise database.told(self.path, error) from error

    def _connect(self, damage: Exception | None = None) -> None:
        """Open the file, sound; damage is repaired as soon as nobody else uses the file."""
        deadline = time.monotonic() + REPAIR_SECONDS
        while True:
            alone = self._lock.take(exclusive=True)
            if alone or self._lock.take(exclusive=False):
                try:
                    if damage is not None and alone:
                        self._note(database.repair(self.path))
                    self._connection = self._open_file(check=alone or damage is not None)
                    while not self._lock.take(exclusive=False):  # for an instant others may get between
                        time.sleep(0.01)
                    return
                except database.ERRORS as error:
                    if not database.means_damage(error) or (damage is not None and alone):
                        raise database.told(self.path, error) from error
                    damage = error
                    if alone:
                        continue
            if damage is not None and time.monotonic() > deadline:
                advice = "wait until it ends, then run the same command again"
                raise UserError(f"cache '{self.path}' is damaged and another process uses it: {advice}")
            time.sleep(0.1)

    def _open_file(self, *, check: bool) -> sqlite3.Connection:
        left_over = database.log_of(self.path)
        unclean = check and left_over.exists() and left_over.stat().st_size > 0
        connection = database.connect(self.path, check=check)
        self._inode = self.path.stat().st_ino
        if unclean:
            kept = database.count(connection)
            self._note(f"the last run ended without closing its cache: {kept} finished requests are kept")
        return connection

    def _is_in_place(self) -> bool:
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):  # the last checkpoint may lack space: the next opener does it
                connection.close()


def _among(keys: Sequence[bytes], value: bytes) -> set[bytes]:
    """The keys whose beginnings a plan holds."""
    beginnings = {value[at : at + PLAN_BYTES] for at in range(0, len(value), PLAN_BYTES)}
    return {key for key in keys if key[:PLAN_BYTES] in beginnings}
