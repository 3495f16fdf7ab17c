"""Baselines: a blessed run gates like the run itself, is small, and knows the noise of equivalent runs."""

from __future__ import annotations

import numpy as np
import pytest

from evals.commands import bless as bless_command
from evals.core.errors import UserError
from reports.gate import bless
from reports.gate.gold import gold_columns
from reports.gate.policy import Policy
from reports.gate.whole import gate
from reports.runs import load_run
from tests.support.gates import BASE, CI_VARIABLES, run_gate, run_with
from tests.support.made_runs import Made, build, edit
from tests.support.words import parse


@pytest.fixture(autouse=True)
def no_ci(monkeypatch, tmp_path):
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run_bless(*words) -> int:
    return bless_command.main(parse(bless_command.Options, [str(word) for word in words]))


def test_a_blessed_run_gates_like_the_run(tmp_path, capsys):
    labels = ("IFEval (Average prompt/inst)", "MMLU (cloze)", "BBH (3-shot)", "MT-Bench")
    run = build(tmp_path / "a", Made(suite="instruct", labels=labels, size=40))
    worse = build(tmp_path / "b", Made(suite="instruct", labels=labels, size=40, share=0.3, seed=5))
    assert run_bless(run, "--as", "main-1.0", "--baselines", tmp_path / "kept") == 0
    assert "baseline 'main-1.0' is now tiny float32 instruct" in capsys.readouterr().out
    blessed = load_run(tmp_path / "kept" / "main-1.0")
    original = load_run(run)
    assert [(r.label, r.value, r.stderr) for r in blessed.rows] == [
        (r.label, r.value, r.stderr) for r in original.rows
    ]
    for candidate in (run, worse):
        one = gate(original, load_run(candidate), Policy())
        two = gate(blessed, load_run(candidate), Policy())
        assert one.rows == two.rows
    assert two.rows[1].verdict == "REGRESSION"
    code = run_gate("--baseline", "main-1.0", "--candidate", worse, "--baselines", tmp_path / "kept")
    assert code == 1


def test_a_baseline_is_small_and_holds_no_text(tmp_path):
    scores = {"hellaswag": BASE * 5, "piqa": BASE}
    run = run_with(tmp_path, scores=scores)
    assert run_bless(run, "--as", "big", "--baselines", tmp_path / "kept") == 0
    files = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 250_000
    for path in files:
        content = path.read_bytes()
        assert b"Prompt 7" not in content
        assert b" left" not in content
    assert set(load_run(tmp_path / "kept" / "big").columns("piqa")) == {
        "doc_id",
        "prompt_hash",
        "group",
        "acc",
        "acc_norm_nospace",
    }


def test_blessing_again_replaces_and_says_so(tmp_path, capsys):
    first, second = run_with(tmp_path), run_with(tmp_path, name="second")
    for run in (first, second):
        run_bless(run, "--as", "main", "--baselines", tmp_path / "kept")
    assert "is now second float32 base" in capsys.readouterr().out
    assert load_run(tmp_path / "kept" / "main").name == "second"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["main"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a..b", "x" * 101, "a\nb", "-x", "a\\b"])
def test_a_name_is_never_a_path(tmp_path, name):
    run = run_with(tmp_path)
    with pytest.raises(UserError, match="no name of a baseline"):
        bless.checked_name(name)
    with pytest.raises(UserError):
        run_gate(f"--baseline={name or '?'}", "--candidate", run, "--baselines", tmp_path / "kept")


def test_an_unusable_run_is_not_blessed(tmp_path):
    run = run_with(tmp_path)
    edit(run, lambda r: r["rows"][0].update(value=99.0))
    with pytest.raises(UserError):
        run_bless(run, "--as", "main", "--baselines", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_unknown_baselines_name_the_known_ones(tmp_path):
    run = run_with(tmp_path)
    with pytest.raises(UserError, match="none is blessed yet"):
        run_gate("--baseline", "main", "--candidate", run, "--baselines", tmp_path / "kept")
    run_bless(run, "--as", "main", "--baselines", tmp_path / "kept")
    with pytest.raises(UserError, match="blessed are main"):
        run_gate("--baseline", "mian", "--candidate", run, "--baselines", tmp_path / "kept")


def test_equivalent_runs_tell_the_noise(tmp_path, capsys):
    weights = {"model": {"fingerprint": "sha256:one"}}
    flipped = BASE.copy()
    flipped[:50], flipped[-50:] = [0] * 50, [1] * 50
    lower = [0] * 60 + BASE[60:]
    run = run_with(tmp_path, **weights)
    half = {"fingerprint": "sha256:one", "dtype": "bfloat16"}
    other = run_with(tmp_path, model=half, scores={"hellaswag": flipped, "piqa": lower})
    kept = ("--baselines", tmp_path / "kept")
    assert run_bless(run, other, "--as", "main", *kept) == 0
    assert "noise known from 1 equivalent run" in capsys.readouterr().out
    noise = load_run(tmp_path / "kept" / "main").log.noise
    worse = sum(BASE[:60]) / 20  # points
    assert noise["PIQA"].difference == pytest.approx(worse) and noise["HellaSwag"].spread > 0
    candidate = run_with(tmp_path, name="new", model=half, scores={"hellaswag": flipped, "piqa": lower})
    words = ("--baseline", "main", *kept, "--candidate", candidate)
    assert run_gate(*words, "--margin", "1") == 0  # as large a drop as noise makes, in the other dtype
    run_bless(run, "--as", "main", *kept)
    assert run_gate(*words, "--margin", "1", "--allow", "dtype") == 1
    for wrong, why in (
        ({"fingerprint": "sha256:two"}, "not of the weights"),
        ({**half, "chat": True}, "otherwise"),
    ):
        with pytest.raises(UserError, match=why):
            run_bless(run, run_with(tmp_path, model=wrong), "--as", "main", *kept)


def test_a_baseline_keeps_the_gold_answers(tmp_path):
    run = load_run(run_with(tmp_path))
    run_bless(run.folder, "--as", "main", "--baselines", tmp_path / "kept")
    blessed = load_run(tmp_path / "kept" / "main")
    kept, before = gold_columns(blessed, "piqa"), gold_columns(run, "piqa")
    assert kept.keys() == before.keys() and all(np.array_equal(kept[name], before[name]) for name in kept)
    rows = gate(blessed, run, Policy()).rows
    assert rows[0].evidence.gold is not None and rows[0].evidence.soft.value == 0
