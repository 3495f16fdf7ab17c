"""The store of finished requests: what was computed once is never computed again, and never mistaken.

One SQLite file. A record's key is the meaning of its request (see request_key), its value the result, and a digest
over both travels with it: what does not match its digest counts as missing and is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from evals.core.errors import UserError
from evals.core.files import run_lock, sync, writing
from evals.core.requests import Result
from evals.run import database
from evals.run.records import GENERATION, SCORE, checked, decode, encode, sound
from evals.run.records import request_key as request_key

log = logging.getLogger(__name__)
T = TypeVar("T")

WRITE_SECONDS = 0.005  # from a result to its write, with others of that time: a kill loses these
SYNC_SECONDS = 1.0  # from a write to its being forced to the disk: a power cut loses these
REST = 10  # a thread waits this many times the processor time that it took: a tenth of a core at most
PLAN_BYTES = 8  # of each key, kept with a plan


class Store:
    """Finished requests on disk; any number of processes may share it (SQLite's locks), each with one user thread.

    Every public method raises UserError, and nothing else, for what disk, folder or a damaged file can cause;
    records stored before stay. A damaged file is set aside, what can be read of it is kept, and one line says so.
    """

    def __init__(self, path: Path, on_note: Callable[[str], None]) -> None:
        """Use Store.open."""
        self.path, self._note = path, on_note
        self._log = path.with_name(f"{path.name}-wal")  # commits go here, the file gets them later
        self._pending: list[
            tuple[bytes, bytes]
        ] = []  # put() appends; what is written is taken from the front
        self._ended: list[bytes] = []  # plans to forget once what is pending now is written
        self._failure: Exception | None = None  # of a thread, until it is told
        self._lock = threading.Lock()  # of the connection; put() and syncing do without
        self._connection: sqlite3.Connection | None = None
        self._connect()
        # Two threads: a disk that takes long to sync does not hold up the writes.
        self._closed, self._put, self._written = (threading.Event() for _ in range(3))
        for job in ((self._write, self._put, WRITE_SECONDS), (self._sync, self._written, SYNC_SECONDS)):
            threading.Thread(target=self._work, args=job, daemon=True).start()

    @classmethod
    def open(cls, path: Path | str, on_note: Callable[[str], None] = log.warning) -> Store:
        """Open or create the store at ``path``; ``on_note`` gets one line for each thing worth telling."""
        return cls(Path(path).absolute(), on_note)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Result]:
        """The results that are stored, by key; what is missing or damaged is left out."""
        pending = dict(self._pending)  # before the look-up: what leaves it meanwhile has been written
        records = self._sql(database.lookup, "records", list(dict.fromkeys(keys)))
        found: dict[bytes, Result] = {}
        for key, value, digest in records:
            with contextlib.suppress(ValueError, struct.error):
                if sound(key, value, digest):
                    found[key] = decode(value)
        if damaged := len(records) - len(found):
            self._note(f"cache '{self.path}': {damaged} damaged records are computed again")
        return found | {key: decode(pending[key]) for key in keys if key in pending} if pending else found

    def put(self, pairs: Iterable[tuple[bytes, Result]]) -> None:
        """Store results. Replaces what a key had.

        Within WRITE_SECONDS or so they outlive this process, within SYNC_SECONDS more the machine.
        """
        if self._closed.is_set():
            raise ValueError("the store is closed")
        self._pending += [(key, encode(result)) for key, result in pairs]
        self._put.set()
        failure, self._failure = self._failure, None  # told once: the next write tries again
        if failure is not None:
            raise failure

    def begin(self, keys: Sequence[bytes], known: Iterable[bytes], *, fresh: bool = False) -> set[bytes]:
        """Note that work on ``keys`` begins, of which ``known`` are stored; those known when it really began.

        They differ for work that was interrupted: who plans it as it was planned then gets the same batches, and
        so the same results to the bit. ``fresh`` forgets an earlier beginning.
        """
        plan = hashlib.sha256(b"".join(keys)).digest()
        if plan in self._ended:
            self.flush()
        for record in [] if fresh else self._sql(database.lookup, "plans", [plan]):
            if sound(*record):
                value = record[1]
                before = {value[at : at + PLAN_BYTES] for at in range(0, len(value), PLAN_BYTES)}
                return {key for key in keys if key[:PLAN_BYTES] in before}
        known = set(known)
        value = b"".join(key[:PLAN_BYTES] for key in keys if key in known)
        self._sql(database.begin, checked(plan, value))
        return known

    def end(self, keys: Sequence[bytes]) -> None:
        """Note that the work that begin noted is done: forgotten once all its results are written."""
        self._ended.append(hashlib.sha256(b"".join(keys)).digest())
        self._put.set()

    def flush(self) -> None:
        """Bring all to the disk now."""
        self._failure = None  # tried again here
        self._write()
        self._sync()

    def counts(self) -> dict[str, int]:
        """How many records there are, by kind."""
        self.flush()
        found = self._sql(database.count_kinds)
        return {"score": found.get(SCORE, 0), "generation": found.get(GENERATION, 0)}

    def close(self) -> None:
        """Flush and close; closing twice is fine."""
        for event in (self._closed, self._put, self._written):
            event.set()
        if self._connection is not None:
            try:
                self.flush()
            finally:
                with self._lock:
                    self._disconnect()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(*[UserError] if error else []):  # of two errors the first is to be told
            self.close()

    def _work(self, work: Callable[[], None], asked: threading.Event, delay: float) -> None:
        """A thread: within ``delay`` seconds of being asked it does ``work``, once for all who asked meanwhile."""
        spent = 0.0
        while not self._closed.is_set():
            asked.wait()
            self._closed.wait(max(delay, REST * spent))
            asked.clear()
            start = time.thread_time()  # waiting for a disk does not count
            try:
                work()
            except Exception as error:  # told to the next put: a thread has nobody to tell
                self._failure = error
            spent = time.thread_time() - start

    def _write(self) -> None:
        """Write what is pending; if that fails, it stays pending."""
        self._sql(self._write_pending)

    def _write_pending(self, connection: sqlite3.Connection) -> None:
        ended = self._ended[:]  # before the results: those of these plans are among them
        pending = self._pending[:]
        if pending or ended:
            database.write(connection, [checked(*pair) for pair in pending], ended)
            del self._pending[: len(pending)], self._ended[: len(ended)]
            self._written.set()

    def _sync(self) -> None:
        """Force to the disk what was written. Takes no lock."""
        # Without a log, SQLite has just brought all of it into the main file, synced.
        with writing(self._log), contextlib.suppress(FileNotFoundError):
            sync(self._log)
            sync(self._log.parent)

    def _sql(self, action: Callable[..., T], *given: Any) -> T:
        """Do ``action``; once more on a new connection if the file turns out damaged."""
        told = database.telling(self.path)(action)
        with self._lock:
            if self._connection is None:
                raise ValueError("the store is closed")
            if self._inode != _inode(self.path):
                self._note(f"cache '{self.path}' was removed while in use: going on with a new one")
                self._connect()
            try:
                return told(self._connection, *given)
            except database.Damaged:
                return told(self._connect(), *given)

    def _connect(self) -> sqlite3.Connection:
        """Open the file, one process at a time; a damaged one is set aside."""
        self._disconnect()
        with run_lock(self.path.with_name(f"{self.path.name}.lock"), "the cache", log.debug):
            left_over = self._log.exists() and self._log.stat().st_size > 0
            try:
                connection = database.connect(self.path)
            except database.Damaged:
                self._note(database.set_aside(self.path))
                connection, left_over = database.connect(self.path), False
            self._connection, self._inode = connection, _inode(self.path)
        if left_over:
            kept = sum(database.count_kinds(connection).values())
            why = "an earlier run did not close its cache, or still uses it"
            self._note(f"{why}: {kept} finished requests are kept")
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):  # a checkpoint may lack space: the next opener does it
                self._connection.close()
        self._connection = None


def _inode(path: Path) -> int:
    """Which file stands at the path; 0 for none."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0
