"""A damaged store: repaired or refused with one line, never a wrong number."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from evals.core.errors import UserError
from evals.core.requests import Result
from evals.run.records import encode
from evals.run.store import Store
from tests.support.made_records import fill, pairs, result


def open_damaged(path: Path, records: dict[bytes, Result]) -> tuple[dict[bytes, Result], list[str]]:
    """Open, read, write and read again a store that may be damaged: no result may ever be a wrong one."""
    notes: list[str] = []
    extra = pairs(3, start=10**6)
    with Store.open(path, notes.append) as store:
        found = store.get(list(records))
        assert all(records[key] == value for key, value in found.items())
        store.put(extra.items())
        store.flush()
        assert store.get(list(extra)) == extra
    with Store.open(path, notes.append) as store:
        assert store.get(list(extra)) == extra
        again = store.get(list(records))
        assert all(records[key] == value for key, value in again.items())
    assert all("\n" not in note for note in notes)
    return found, notes


def snapshot(path: Path, target: Path) -> None:
    """Copy a store that is open, as a power cut would leave it: file and WAL, without the shared memory."""
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{target}{suffix}")


def wipe(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


@pytest.mark.slow
def test_a_log_torn_at_every_byte_of_its_last_record_keeps_the_others(tmp_path: Path) -> None:
    before, last = pairs(40), pairs(1, start=42)
    origin, copy = tmp_path / "origin", tmp_path / "copy"
    wal = Path(f"{origin}-wal")
    with Store.open(origin) as store:
        store.put(before.items())
        store.flush()
        start = wal.stat().st_size
        store.put(last.items())
        store.flush()
        snapshot(origin, tmp_path / "whole")
    whole = Path(f"{tmp_path / 'whole'}-wal").read_bytes()
    assert len(whole) > start
    (key, value) = next(iter(last.items()))
    at = whole.rindex(encode(value), start)  # every byte of the record itself, and steps over its page
    record = range(at - 45, at + len(encode(value)) + 12)
    for end in sorted({*range(start, len(whole), 61), *record, len(whole) - 1}):
        shutil.copy(tmp_path / "whole", copy)
        Path(f"{copy}-wal").write_bytes(whole[:end])
        notes: list[str] = []
        with Store.open(copy, notes.append) as store:
            assert store.get([*before, key]) == before
        assert len(notes) == 1
        assert "40 finished requests are kept" in notes[0]
        wipe(copy)


@pytest.mark.slow
def test_a_file_truncated_at_every_byte_of_its_last_record_is_repaired(tmp_path: Path) -> None:
    records = pairs(150)
    path, copy = tmp_path / "origin", tmp_path / "copy"
    fill(path, records)
    whole = path.read_bytes()
    at = whole.rindex(encode(result(149)))
    kept = []
    for end in sorted({*range(at - 45, at + len(encode(result(149))) + 12), *range(0, len(whole), 1009)}):
        copy.write_bytes(whole[:end])
        found, notes = open_damaged(copy, records)
        assert len(found) == len(records) or notes or end == 0, end
        kept.append(len(found))
        wipe(copy)
    assert max(kept) > 100


@pytest.mark.slow
def test_random_flips_and_garbage_never_give_a_wrong_number(tmp_path: Path) -> None:
    records = pairs(300)
    path, copy = tmp_path / "origin", tmp_path / "copy"
    fill(path, records)
    whole = path.read_bytes()
    generator = random.Random(1)
    told = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 1, 1, 8, 64])):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        if generator.random() < 0.2:
            at = generator.randrange(len(damaged))
            damaged[at : at + 500] = generator.randbytes(500)
        copy.write_bytes(damaged)
        try:
            found, notes = open_damaged(copy, records)
            assert len(found) == len(records) or notes
            told += bool(notes)
        except UserError as error:
            assert "\n" not in str(error)
        wipe(copy)
    assert told > 50


def test_flips_in_the_log_never_give_a_wrong_number(tmp_path: Path) -> None:
    records = pairs(60)
    origin, copy, whole = tmp_path / "origin", tmp_path / "copy", tmp_path / "whole"
    with Store.open(origin) as store:
        for start in range(0, 60, 20):
            store.put(pairs(20, start).items())
            store.flush()
        snapshot(origin, whole)
    log = Path(f"{whole}-wal").read_bytes()
    generator = random.Random(2)
    for _ in range(60):
        damaged = bytearray(log)
        damaged[generator.randrange(len(log))] ^= 1 << generator.randrange(8)
        shutil.copy(whole, copy)
        Path(f"{copy}-wal").write_bytes(damaged)
        found, _ = open_damaged(copy, records)
        assert len(found) % 20 == 0  # a transaction is there or not
        wipe(copy)


@pytest.mark.parametrize("content", [b"", b"no database " * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_store_is_moved_aside(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "requests.sqlite"
    path.write_bytes(content)
    found, notes = open_damaged(path, {})
    assert found == {}
    if content:
        assert len(notes) == 1
        assert "damaged" in notes[0]
        (aside,) = tmp_path.glob("*.damaged-*")
        assert aside.read_bytes() == content


def test_damage_under_an_open_store_is_repaired(tmp_path: Path) -> None:
    path, records, notes = tmp_path / "s", pairs(2000), []
    fill(path, records)
    with Store.open(path, notes.append) as store:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size // 2))
        assert store._connection is not None
        store._connection.execute("PRAGMA shrink_memory")  # else SQLite reads its own copy of the pages
        found = store.get(list(records))
        assert all(records[key] == value for key, value in found.items())
        store.put(records.items())
        store.flush()
        assert store.get(list(records)) == records
    assert any("damaged" in note for note in notes)


def keep_open(path: Path, barrier: Barrier) -> None:
    """Another process: has the store open while it is damaged and replaced, then goes on with it."""
    mine = pairs(20, start=5000)
    with Store.open(path) as store:
        assert store.get(list(pairs(10))) == pairs(10)
        barrier.wait(60)
        barrier.wait(60)  # meanwhile the file was damaged, and replaced by the other
        store.put(mine.items())
        store.flush()
        assert store.get([*pairs(2000), *mine]) == pairs(2000) | mine


def test_a_damaged_store_that_another_process_has_open_is_set_aside_and_both_go_on(tmp_path: Path) -> None:
    path, records, notes = tmp_path / "s", pairs(2000), []
    fill(path, records)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    other = context.Process(target=keep_open, args=(path, barrier))
    other.start()
    barrier.wait(60)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size // 2))
    with Store.open(path, notes.append) as store:
        found = store.get(list(records))
        assert all(records[key] == value for key, value in found.items())
        store.put(records.items())
        store.flush()
        barrier.wait(60)
        other.join(60)
        assert other.exitcode == 0
        assert store.get([*records, *pairs(20, start=5000)]) == records | pairs(20, start=5000)
    assert ["damaged" in note for note in notes] == [True]
    assert len(list(tmp_path.glob("*.damaged-*"))) in (
        1,
        2,
        3,
    )  # the file, and the log that the other has open
    with Store.open(path, notes.append) as store:
        assert store.get(list(records)) == records
    assert len(notes) == 1


def test_damage_in_the_middle_costs_what_lies_there(tmp_path: Path) -> None:
    path, records, notes = tmp_path / "s", pairs(3000), []
    fill(path, records)
    keys = list(records)
    with path.open("r+b") as file:
        at = path.read_bytes().index(encode(records[keys[1501]])) // 4096 * 4096
        file.seek(at)
        file.write(os.urandom(4096))
    with Store.open(path, notes.append) as store:
        found = store.get(keys)
        assert all(records[key] == value for key, value in found.items())
        assert found.keys() >= {*keys[:1300], *keys[-1300:]}
        assert len(found) < 3000
    assert "damaged" in notes[0]


@pytest.mark.slow
def test_a_copy_made_while_a_run_writes_gives_no_wrong_number(tmp_path: Path) -> None:
    """The file first, its log some commits later: what no single moment held."""
    path, copy, records = tmp_path / "s", tmp_path / "copy", pairs(4000)
    told = 0
    with Store.open(path) as store:
        assert store._connection is not None
        store._connection.execute(
            "PRAGMA wal_autocheckpoint=20"
        )  # the file changes all the time, not just now and then
        for start in range(0, 4000, 100):
            for at in range(start, start + 100, 20):
                store.put(pairs(20, at).items())
                store.flush()
                if at == start:
                    shutil.copy(path, copy)
            shutil.copy(f"{path}-wal", f"{copy}-wal")
            _, notes = open_damaged(copy, records)
            told += bool(notes)
            wipe(copy)
    assert told
    with Store.open(path) as store:
        assert store.get(list(records)) == records
