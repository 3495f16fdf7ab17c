"""A damaged store: repaired or refused with one line, never a wrong number."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from evals.core.errors import UserError
from evals.core.requests import Result
from evals.run import store as store_module
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


def test_a_damaged_store_that_another_process_uses_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "REPAIR_SECONDS", 0.3)
    path = tmp_path / "s"
    fill(path, pairs(2000))
    with Store.open(path):
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(path.stat().st_size // 2))
        with (
            pytest.raises(UserError, match="another process uses it"),
            Store.open(path) as second,
        ):
            second.get(list(pairs(2000)))
        assert not list(tmp_path.glob("*.damaged-*"))
