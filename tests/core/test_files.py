"""Files and folders that appear whole or not at all; a lock that outlives nobody."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evals.core.errors import UserError
from evals.core.files import PARTIAL, partial_folder, publish_folder, run_lock, write_atomic

ROOT = Path(__file__).resolve().parents[2]


def mounted(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting needs rights that this account lacks: {done.stderr.strip()}")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run.json"
    write_atomic(path, b"old")
    write_atomic(path, b"new" * 1000)
    assert path.read_bytes() == b"new" * 1000
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_file_where_a_folder_is_needed_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for action in (
        lambda: write_atomic(tmp_path / "file" / "run.json", b""),
        lambda: partial_folder(tmp_path / "file" / "run"),
        lambda: run_lock(tmp_path / "file" / "lock", "x", print).__enter__(),
    ):
        with pytest.raises(UserError, match="cannot write"):
            action()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk))
    try:
        write_atomic(disk / "run.json", b"old")
        with pytest.raises(UserError, match="No space left"):
            write_atomic(disk / "run.json", bytes(2**20))
        assert (disk / "run.json").read_bytes() == b"old"
        assert [file.name for file in disk.iterdir()] == ["run.json"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_folder_gives_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted("-t", "tmpfs", "-o", "ro", "tmpfs", str(disk))
    try:
        with pytest.raises(UserError, match=r"[Rr]ead-only"):
            write_atomic(disk / "run.json", b"")
        with pytest.raises(UserError, match=r"[Rr]ead-only"):
            partial_folder(disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_appears_at_once_and_never_over_another(tmp_path: Path) -> None:
    final = tmp_path / "model" / "20250101T000000Z-base"
    names = []
    for attempt in range(3):
        partial = partial_folder(final)
        (partial / "samples").mkdir()
        (partial / "samples" / "piqa.parquet").write_text(str(attempt))
        names.append(publish_folder(partial, final))
        assert not partial.exists()
    assert [path.name for path in names] == [final.name, f"{final.name}-2", f"{final.name}-3"]
    assert [(path / "samples" / "piqa.parquet").read_text() for path in names] == ["0", "1", "2"]
    assert sorted(final.parent.iterdir()) == names


def test_what_a_killed_run_left_goes_after_a_day(tmp_path: Path) -> None:
    for name, age in (("old", 2 * 86400), ("young", 60)):
        (tmp_path / f"{PARTIAL}{name}").mkdir()
        os.utime(tmp_path / f"{PARTIAL}{name}", (time.time() - age,) * 2)
    partial = partial_folder(tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {f"{PARTIAL}young", partial.name}


def test_a_clock_that_is_not_the_file_systems_removes_nothing_young(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that jumped, or a file server whose clock is days behind."""
    (tmp_path / f"{PARTIAL}young").mkdir()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 40 * 86400)
    partial = partial_folder(tmp_path / "run")
    assert {path.name for path in tmp_path.iterdir()} == {f"{PARTIAL}young", partial.name}


HOLDER = """
import signal, sys
from evals.core.files import run_lock
with run_lock(sys.argv[1], "m", print):
    print("held", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_the_second_waits_with_one_line_and_goes_on_when_the_first_is_gone(tmp_path: Path, end: int) -> None:
    path = tmp_path / "cache" / "m.lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    notes: list[str] = []

    def told(note: str) -> None:
        notes.append(note)
        holder.send_signal(end)

    with run_lock(path, "SmolLM2-135M", told):
        assert holder.wait() == -end
    holder.stdout.close()
    assert f"process {holder.pid} on" in notes[0]
    assert "SmolLM2-135M" in notes[0]
    assert len(notes) == 2


def test_a_free_lock_says_nothing(tmp_path: Path) -> None:
    notes: list[str] = []
    for _ in range(2):
        with run_lock(tmp_path / "lock", "m", notes.append):
            assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()
        assert (tmp_path / "lock").read_text() == "", "a host's name would travel with the folder"
    assert notes == []
