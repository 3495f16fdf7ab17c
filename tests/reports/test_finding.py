"""Which run a user means: a folder, its run.json, a model's folder, a blessed name; the same for every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals import cli
from evals.core.errors import UserError
from reports.finding import find_each, find_run
from tests.support.made_runs import Made, build, edit


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with two runs of a model in results/, the one that ended first newer by name."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    for stamp, ended in (
        ("20260305T000000Z", "2026-03-05T01:00:00Z"),
        ("20260304T000000Z", "2026-03-05T02:00:00Z"),
    ):
        folder = build(Path("results"), Made(labels=("PIQA",), stamp=stamp))
        edit(folder, lambda r, ended=ended: r["provenance"].update(finished=ended))
    return tmp_path


LATEST = Path("results/tiny/20260304T000000Z-base")


def test_a_run_is_its_folder_or_its_run_json() -> None:
    other = Path("results/tiny/20260305T000000Z-base")
    assert find_run(str(other)) == find_run(f"{other}/run.json") == other


def test_a_models_folder_is_its_latest_run_of_the_suite() -> None:
    assert find_run("results/tiny") == find_run("results") == LATEST
    instruct = build(Path("results"), Made(suite="instruct", labels=("PIQA",)))
    with pytest.raises(
        UserError, match=r"holds several runs: give one of .*20260304T000000Z-base, .*-instruct"
    ):
        find_run("results/tiny")
    assert find_each(["results/tiny"]) == [LATEST, instruct]
    assert find_each([str(instruct), "results/tiny"]) == [instruct, LATEST]


def test_a_blessed_name_is_looked_up_here_first() -> None:
    assert cli.main(["bless", "results/tiny", "--as", "main"]) == 0
    assert find_run("main") == Path("results/baselines/main")
    with pytest.raises(UserError, match=r"no run folder and no baseline 'mian': blessed are .*main"):
        find_run("mian")
    assert find_run("results") == LATEST  # a baseline is no run of a model's


def test_every_command_takes_the_same_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bless", "results/tiny", "--as", "main"]) == 0
    worse = build(Path("new"), Made(labels=("PIQA",), name="worse", share=0.2))
    for words in (
        ["report", "main", "new/worse", "results/tiny"],
        ["compare", "main", "new"],
        ["gate", "--baseline", "main", "--candidate", f"{worse}/run.json", "--allow-inconclusive"],
    ):
        assert cli.main(words) in (0, 1)
    out = capsys.readouterr().out
    assert "worse (measured)" in out and "REGRESSION" in out


@pytest.mark.parametrize("sides", [("main", "new"), ("new", "main")])
def test_flips_beside_a_baseline_show_what_is_there(
    sides: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bless", "results/tiny", "--as", "main"]) == 0
    build(Path("new"), Made(labels=("PIQA",), name="worse", share=0.2))
    assert cli.main(["compare", *sides, "--show-flips", "1"]) == 0
    out = capsys.readouterr().out
    assert "## Docs whose score changed" in out and " of piqa" in out


def test_a_baseline_is_no_candidate(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bless", "results/tiny", "--as", "main"]) == 0
    assert cli.main(["gate", "--baseline", "results/tiny", "--candidate", "main"]) == 2
    assert "is a blessed baseline, whose scores cannot be computed again" in capsys.readouterr().err
