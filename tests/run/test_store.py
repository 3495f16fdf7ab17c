"""The store: what was put comes back, to whom and whenever."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.core.errors import UserError
from evals.core.requests import Result, Score, ScoreRequest
from evals.run import store as store_module
from evals.run.store import Store, request_key
from tests.support.forks import wait_for
from tests.support.made_records import fill, pairs, results


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.binary(min_size=32, max_size=32), results, max_size=30))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, records: dict[bytes, Result]) -> None:
    path = tmp_path_factory.mktemp("store") / "requests.sqlite"
    notes: list[str] = []
    with Store.open(path, notes.append) as store:
        store.put(records.items())
        assert store.get([*records, b"absent"]) == records  # before the flush too
    with Store.open(path, notes.append) as store:
        assert store.get([*records, *records]) == records
        assert sum(store.counts().values()) == len(records)
    assert notes == []


def test_a_later_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        for value in (1.0, 2.0):
            store.put([(b"k" * 32, Score(value))])
            store.flush()
        assert store.get([b"k" * 32]) == {b"k" * 32: Score(2.0)}


def stored(path: Path) -> int:
    """How many records another process would find."""
    with sqlite3.connect(path) as other:
        (number,) = other.execute("SELECT count(*) FROM records").fetchone()
    return int(number)


def test_results_are_forced_to_the_disk_without_another_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(store_module, "sync", synced.append)
    with Store.open(tmp_path / "s") as store:
        store.put([(b"k" * 32, Score(1.0))])
        wait_for(lambda: len(synced) == 2, 5 * store_module.SYNC_SECONDS)
        assert stored(tmp_path / "s") == 1
        assert synced == [tmp_path / "s-wal", tmp_path]
        store.put([(b"l" * 32, Score(1.0))])
        store.flush()
        assert synced[2:4] == synced[:2]


def test_a_disk_that_is_slow_to_sync_holds_up_no_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncing, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        syncing.set()
        assert go_on.wait(30)

    monkeypatch.setattr(store_module, "sync", slow)
    with Store.open(tmp_path / "s") as store:
        try:
            store.put(pairs(1).items())
            assert syncing.wait(30)
            store.put(pairs(5, start=1).items())
            wait_for(lambda: stored(tmp_path / "s") == 6, 10)
        finally:
            go_on.set()


def test_a_sync_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = Store.open(tmp_path / "s")
    monkeypatch.setattr(store_module, "sync", broken)
    store.put(pairs(1).items())
    wait_for(lambda: store._failure is not None, 5 * store_module.SYNC_SECONDS)
    with pytest.raises(UserError, match="s-wal"):
        store.put(pairs(1, start=1).items())
    monkeypatch.undo()
    store.close()
    with Store.open(tmp_path / "s") as store:
        assert store.get(list(pairs(2))) == pairs(2)


def test_a_killed_process_leaves_what_it_had_flushed(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        from evals.run.store import Store
        from tests.support.made_records import pairs
        store = Store.open(sys.argv[1])
        store.put(pairs(50).items())
        store.flush()
        store.put(pairs(50, start=50).items())
        os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "s")], cwd=root, check=False
    )
    notes: list[str] = []
    with Store.open(tmp_path / "s", notes.append) as store:
        assert store.get(list(pairs(100))) == pairs(50)
    assert len(notes) == 1
    assert "50 finished requests are kept" in notes[0]


def test_a_store_removed_while_open_is_begun_again(tmp_path: Path) -> None:
    path, notes = tmp_path / "deep" / "s", []
    with Store.open(path, notes.append) as store:
        store.put(pairs(5).items())
        shutil.rmtree(path.parent)
    with Store.open(path) as store:
        assert store.get(list(pairs(5))) == pairs(5)
    assert len(notes) == 1


def test_interrupted_work_is_planned_as_it_began(tmp_path: Path) -> None:
    keys = list(pairs(20))
    with Store.open(tmp_path / "s") as store:
        store.put(pairs(5).items())
        assert store.begin(keys, store.get(keys)) == set(keys[:5])
        store.put(pairs(12).items())
    with Store.open(tmp_path / "s") as store:
        assert len(store.get(keys)) == 12
        assert store.begin(keys, store.get(keys)) == set(keys[:5])
        assert store.begin(keys[::-1], store.get(keys)) == set(keys[:12])  # other work
        assert store.begin(keys, [], fresh=True) == set()
        assert store.begin(keys, store.get(keys)) == set()
        store.end(keys)
        assert store.begin(keys, store.get(keys)) == set(keys[:12])


def test_another_format_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "s") as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(UserError, match="format 99"):
        Store.open(tmp_path / "s")


def test_closing_at_any_moment_of_a_write_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when close() wakes the writer between its waking up and its noting that."""

    class SlowEvent(threading.Event):
        def clear(self) -> None:
            time.sleep(0.05)
            super().clear()

    before = threading.enumerate()
    monkeypatch.setattr(threading, "Event", SlowEvent)
    store = Store.open(tmp_path / "s")
    monkeypatch.undo()
    store.put(pairs(1).items())
    time.sleep(2 * store_module.WRITE_SECONDS)
    threads = set(threading.enumerate()).difference(before)
    store.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    with Store.open(tmp_path / "s") as store:
        assert store.get(list(pairs(1))) == pairs(1)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "s")
    store.close()
    store.close()
    with pytest.raises(ValueError, match="closed"):
        store.get([b"k"])


# Folders and disks


def mounted(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting needs rights that this account lacks: {done.stderr.strip()}")


def test_a_full_disk_gives_one_line_and_loses_nothing_stored(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk))
    try:
        kept: dict[bytes, Result] = {}
        store = Store.open(disk / "s")
        with pytest.raises(UserError, match="no space left"):
            for start in range(0, 10**6, 500):
                some = pairs(500, start)
                store.put(some.items())
                store.flush()
                kept |= some
        assert kept
        with pytest.raises(UserError, match="no space left"):
            store.close()
        mounted("-o", "remount,size=64m", str(disk))
        with Store.open(disk / "s") as store:
            assert store.get(list(kept)) == kept
            store.put(pairs(5, start=10**6).items())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_from_the_start_gives_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk))
    try:
        with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(UserError) as caught:
            Store.open(disk / "s")
        assert "\n" not in str(caught.value)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder_gives_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk))
    try:
        fill(disk / "s", pairs(3))
        mounted("-o", "remount,ro", str(disk))
        for name in ("s", "new"):
            with pytest.raises(UserError, match=r"[Rr]ead-only") as caught:
                Store.open(disk / name)
            assert "--output-dir" in str(caught.value)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_system_without_what_the_log_needs_gives_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some network folders are: SQLite's "unix-none" layer shares no memory between processes either."""
    real = sqlite3.connect

    def connect(path: Path, *given: Any, **named: Any) -> sqlite3.Connection:
        return real(f"{path.as_uri()}?vfs=unix-none", *given, uri=True, **named)

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(UserError, match="--output-dir on a local disk"):
        Store.open(tmp_path / "s")


def test_a_file_system_without_locks_gives_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system call is a stand-in: no such file system can be had here."""

    def flock(*given: Any) -> None:
        raise OSError(errno.ENOLCK, "")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"No locks available.*--output-dir"):
        Store.open(tmp_path / "s")


# Processes


def write_many(path: Path, start: int, barrier: multiprocessing.synchronize.Barrier) -> None:
    barrier.wait()
    with Store.open(path) as store:
        for offset in range(0, 400, 20):
            some = pairs(20, start + offset)
            found = store.get(list(some))
            assert all(some[key] == value for key, value in found.items())
            store.put((key, value) for key, value in some.items() if key not in found)
            store.flush()


def test_two_processes_ten_times_on_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(10):
        path, barrier = tmp_path / str(attempt) / "s", context.Barrier(2)
        workers = [context.Process(target=write_many, args=(path, start, barrier)) for start in (0, 200)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        with Store.open(path) as store:
            assert store.get(list(pairs(700))) == pairs(600)
            assert sum(store.counts().values()) == 600


# Speed


def test_sixty_thousand_requests_are_stored_and_found_with_work_in_proportion(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine, a thousand at a time: they are the same on every computer."""
    generator = random.Random(3)
    contexts = [tuple(generator.choices(range(49152), k=150)) for _ in range(100)]
    requests = [ScoreRequest((*contexts[number % 100], number), 1) for number in range(60_000)]
    thousands = []
    with Store.open(tmp_path / "s") as store:
        assert store._connection is not None
        store._connection.set_progress_handler(lambda: thousands.append(1), 1000)
        keys = [request_key("model", request) for request in requests]
        assert store.get(keys) == {}
        store.put((key, Score(-float(number))) for number, key in enumerate(keys))
        store.flush()
        assert len(store.get(keys)) == 60_000
    assert 0 < len(thousands) < 60 * 200, "a request costs 200 steps or more"
    print(f"{1000 * len(thousands) / 60_000:.0f} steps a request")
