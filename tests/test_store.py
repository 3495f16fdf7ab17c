"""The store: what was put comes back to the bit, whatever happens to the file, and never anything else."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals import store as store_module
from evals.errors import UserError
from evals.records import decode, encode
from evals.requests import GenerateRequest, Generation, Result, Score, ScoreRequest
from evals.store import Store, request_key, request_keys

finite = st.floats(allow_nan=False, allow_infinity=False)
tokens = st.lists(st.integers(0, 2**32 - 1), max_size=20).map(tuple)
texts = st.text(st.characters(exclude_categories=()), max_size=30)
results = st.builds(Score, finite) | st.builds(
    Generation, text=texts, tokens=tokens, finish=st.sampled_from(["eos", "stop", "length"])
)


def result(number: int) -> Result:
    """A result that is a function of its number, so that a wrong one shows."""
    if number % 3 == 0:
        words = f"answer {number} " * (number % 17)
        return Generation(words, tuple(range(number, number + number % 40)), "stop")
    return Score(-math.sqrt(number + 1))


def pairs(count: int, start: int = 0) -> dict[bytes, Result]:
    return {
        request_key("model", ScoreRequest((number, 1), 1)): result(number)
        for number in range(start, start + count)
    }


def fill(path: Path, records: dict[bytes, Result]) -> None:
    with Store.open(path) as store:
        store.put(records.items())


# Records


@given(results)
def test_a_result_survives_to_the_bit(value: Result) -> None:
    again = decode(encode(value))
    assert again == value
    assert repr(again) == repr(value)  # -0.0 is not 0.0


@given(st.binary(max_size=60))
def test_bytes_that_are_no_record_are_refused(value: bytes) -> None:
    try:
        assert encode(decode(value))[:1] == value[:1]
    except (ValueError, OverflowError) as error:
        assert not isinstance(error, UserError)
    except Exception as error:
        assert type(error).__name__ == "error"  # struct.error


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_stored(tmp_path: Path, wrong: float) -> None:
    with Store.open(tmp_path / "s") as store, pytest.raises(ValueError, match="no result"):
        store.put([(b"k" * 32, Score(wrong))])


GREEDY = GenerateRequest((1, 2), 5, ("Question:",))


@pytest.mark.parametrize(
    "other",
    [
        GenerateRequest((1, 3), 5, ("Question:",)),
        GenerateRequest((1,), 5, ("Question:",)),
        GenerateRequest((1, 2), 6, ("Question:",)),
        GenerateRequest((1, 2), 5, ("Question",)),
        GenerateRequest((1, 2), 5, ()),
        GenerateRequest((1, 2), 5, ("Question:", "")),
        GenerateRequest((1, 2), 5, ("Question:",), 0.7),
        GenerateRequest((1, 2), 5, ("Question:",), 0.7, 1),
        ScoreRequest((1, 2), 1),
        ScoreRequest((1, 2), 5),
    ],
)
def test_another_meaning_is_another_key(other: GenerateRequest | ScoreRequest) -> None:
    assert request_key("model", other) != request_key("model", GREEDY)
    assert request_key("model", other) == request_key("model", other)


def test_keys_hang_on_the_model_and_not_on_a_seed_that_decides_nothing() -> None:
    assert request_key("model", GREEDY) != request_key("model2", GREEDY)
    assert request_key("model", GREEDY) == request_key(
        "model", GenerateRequest((1, 2), 5, ("Question:",), -0.0, 9)
    )
    hot = [GenerateRequest((1,), 5, (), 0.7, seed) for seed in (1, 2, 2**70)]
    assert len(set(request_keys("model", hot))) == 3


def test_stops_are_not_joined() -> None:
    first, second = GenerateRequest((1,), 5, ("ab", "c")), GenerateRequest((1,), 5, ("a", "bc"))
    assert request_key("model", first) != request_key("model", second)


def test_keys_stay_the_same_between_versions() -> None:
    """A changed key makes every stored result worthless: then raise FORMAT, and change this on purpose."""
    assert request_key("model", ScoreRequest((1, 2, 3), 2)).hex()[:16] == "208b282a707cceac"
    assert request_key("model", GREEDY).hex()[:16] == "9589f88eefab46ca"


# The file


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
        assert store.info().records == len(records)
        assert sum(store.info().kinds.values()) == len(records)
        assert store.clear() == len(records)
        assert store.get(list(records)) == {}
    assert notes == []


def test_a_later_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        for value in (1.0, 2.0):
            store.put([(b"k" * 32, Score(value))])
            store.flush()
        assert store.get([b"k" * 32]) == {b"k" * 32: Score(2.0)}


def test_it_syncs_every_commit_to_the_disk(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        connection = store._connection
        assert connection is not None
        assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_results_reach_the_disk_within_two_seconds_without_another_call(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        store.put([(b"k" * 32, Score(1.0))])
        deadline = time.monotonic() + 2 * store_module.FLUSH_SECONDS[1]
        with sqlite3.connect(tmp_path / "s") as other:
            while time.monotonic() < deadline:
                if other.execute("SELECT count(*) FROM records").fetchone() == (1,):
                    break
                time.sleep(0.05)
            assert other.execute("SELECT count(*) FROM records").fetchone() == (1,)


def test_a_killed_process_leaves_what_it_had_flushed(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        from evals.store import Store
        from tests.test_store import pairs
        store = Store.open(sys.argv[1])
        store.put(pairs(50).items())
        store.flush()
        store.put(pairs(50, start=50).items())
        os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).resolve().parent.parent
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "s")], cwd=root, check=False
    )
    notes: list[str] = []
    with Store.open(tmp_path / "s", notes.append) as store:
        assert store.get(list(pairs(100))) == pairs(50)
    assert len(notes) == 1
    assert "50 finished requests are kept" in notes[0]


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


def test_closing_at_any_moment_of_a_write_ends(tmp_path: Path) -> None:
    """Also when close() wakes the writer between its waking up and its noting that."""

    class SlowEvent(threading.Event):
        def clear(self) -> None:
            time.sleep(0.05)
            super().clear()

    store = Store.open(tmp_path / "s")
    store._wake = SlowEvent()
    store.put(pairs(1).items())
    time.sleep(2 * store_module.FLUSH_SECONDS[0])
    closing = threading.Thread(target=store.close, daemon=True)
    closing.start()
    closing.join(30)
    assert not closing.is_alive()
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
            with pytest.raises(UserError, match=r"read-only|cannot be") as caught:
                Store.open(disk / name)
            assert "--output-dir" in str(caught.value)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


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
            assert store.info().records == 600


# Speed


def test_sixty_thousand_requests_are_keyed_stored_and_found_in_seconds(tmp_path: Path) -> None:
    generator = random.Random(3)
    contexts = [tuple(generator.choices(range(49152), k=150)) for _ in range(100)]
    requests = [ScoreRequest((*contexts[number % 100], number), 1) for number in range(60_000)]
    with Store.open(tmp_path / "s") as store:
        start = time.process_time()
        keys = request_keys("model", requests)
        keyed = time.process_time()
        assert store.get(keys) == {}
        missed = time.process_time()
        store.put((key, Score(-float(number))) for number, key in enumerate(keys))
        store.flush()
        stored = time.process_time()
        assert len(store.get(keys)) == 60_000
        found = time.process_time()
    print(
        f"60,000 requests: keys {keyed - start:.2f} s, look-up of none {missed - keyed:.2f} s, "
        f"storing {stored - missed:.2f} s, look-up of all {found - stored:.2f} s"
    )
    assert found - start < 15  # on a crowded machine too; about two seconds of processor time otherwise
