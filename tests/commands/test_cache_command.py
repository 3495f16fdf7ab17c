"""`cache info` and `cache clear`, as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.cli import main
from evals.core.requests import Generation, Score
from evals.run.store import Store


def fill(output: Path) -> Path:
    path = output / ".cache" / "requests.sqlite"
    with Store.open(path) as store:
        store.put(
            [(b"a" * 32, Score(-1.0)), (b"b" * 32, Score(-2.0)), (b"c" * 32, Generation("x", (1,), "eos"))]
        )
    return path


def test_info_counts_and_clear_removes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = fill(tmp_path)
    assert main(["cache", "info", "--output-dir", str(tmp_path)]) == 0
    assert "3 finished requests (2 scores, 1 generations)" in capsys.readouterr().out
    assert main(["cache", "clear", "--output-dir", str(tmp_path)]) == 0
    assert "removed" in capsys.readouterr().out
    assert not path.exists()
    assert main(["cache", "info", "--output-dir", str(tmp_path)]) == 0
    assert "nothing is stored" in capsys.readouterr().out


def test_clear_empties_a_store_that_a_run_has_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fill(tmp_path)
    with Store.open(path) as store:
        assert main(["cache", "clear", "--output-dir", str(tmp_path)]) == 0
        assert "removed" in capsys.readouterr().out
        assert store.get([b"a" * 32]) == {}
        store.put([(b"a" * 32, Score(-1.0))])
    with Store.open(path) as store:
        assert store.get([b"a" * 32]) == {b"a" * 32: Score(-1.0)}


def test_clear_removes_what_no_store_can_read(tmp_path: Path) -> None:
    path = fill(tmp_path)
    path.write_bytes(b"garbage" * 1000)
    (path.parent / f"{path.name}.damaged-1").write_bytes(b"garbage")
    assert main(["cache", "clear", "--output-dir", str(tmp_path)]) == 0
    assert {file.name for file in path.parent.iterdir()} == {f"{path.name}.lock"}


def test_a_folder_that_is_none_gives_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "info", "--output-dir", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
