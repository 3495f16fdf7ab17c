"""An early gate: which rows are looked at, how often, and what is left out; then the command on real tiny models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evals.cli import main
from reports.gate.policy import Policy, Rule
from reports.gate.stages import FIRST_LOOK, run_stages
from reports.gate.verdict import INCONCLUSIVE, OPEN, PASS, REGRESSION
from reports.runs import find_runs, load_run
from reports.significance import MEAN
from tests.support.gates import CI_VARIABLES
from tests.support.run_bench import write_jsonl
from tests.support.tiny_checkpoint import write_tiny_model
from tests.tools.gate_power import FLIPS, SIZES, Kind, Row, plan_of

DOCS = 1200
BOTH = Kind("default", True, True)


def staged(drops: dict[str, float], policy: Policy | None = None, lost: tuple[str, ...] = ()):
    """The rows of a made-up early gate, and its looks [(row, docs)]."""
    generator, policy = np.random.default_rng(3), policy or Policy()
    data = {one: Row(generator, one, FLIPS["quiet"][one], drops.get(one, 0.0)) for one in SIZES}
    plan = {label: replace(planned, rule=policy.rule(label)) for label, planned in plan_of(BOTH).items()}
    looks: list[tuple[str, int]] = []

    def measure(label: str, n: int):
        looks.append((label, n))
        return None if label in lost else data[label].evidence(n, both=True)

    return run_stages(plan, measure), looks


def test_rows_are_looked_at_until_they_are_sure():
    rows, looks = staged({})
    assert [label for label, _ in looks[:4]] == ["MMLU", "HellaSwag", "ARC", "PIQA"]  # the least noisy first
    assert {n for _, n in looks[:4]} == {FIRST_LOOK}
    for label in ("MMLU", "HellaSwag", "ARC", "PIQA", "BBH"):
        own = [n for one, n in looks if one == label]
        assert rows[label].verdict == PASS and own == sorted(own) and own[0] == FIRST_LOOK
        assert rows[label].evidence.difference.n < sum(SIZES[label]) / 2
    assert [label for label, _ in looks[-2:]] == ["IFEval", "GSM8K"] or [
        label for label, _ in looks[-2:]
    ] == ["GSM8K", "IFEval"]
    assert rows["GSM8K"].verdict == INCONCLUSIVE and "1,319 docs show drops from" in rows["GSM8K"].reason
    assert MEAN not in rows  # it needs all docs of all rows


def test_a_sure_regression_ends_it():
    rows, looks = staged({"ARC": 0.15})
    assert rows["ARC"].verdict == REGRESSION and rows["ARC"].evidence.difference.n <= 1024
    assert rows["BBH"].verdict == OPEN and rows["BBH"].reason.startswith("not needed")
    assert not {"BBH", "IFEval"} & {label for label, _ in looks}


def test_an_advisory_regression_does_not_end_it():
    rows, _ = staged({"ARC": 0.3}, Policy(rows={"ARC": Rule(tier="advisory")}))
    assert rows["ARC"].verdict == REGRESSION and rows["BBH"].verdict == PASS


def test_a_row_that_cannot_be_had_is_left_out():
    rows, _ = staged({}, lost=("PIQA",))
    assert "PIQA" not in rows and rows["MMLU"].verdict == PASS


def test_a_row_without_all_its_docs_is_never_open_for_ever():
    label = "PIQA"
    plan = {label: replace(plan_of(BOTH)[label], tests=1, evidence="accuracy")}
    row = Row(np.random.default_rng(0), label, 0.5)
    rows = run_stages(plan, lambda _, n: row.evidence(min(n, 500), both=False))
    assert rows[label].verdict == INCONCLUSIVE and "do not share all" in rows[label].reason


def test_reference_answers_never_pass_a_generated_row_before_accuracy_does():
    """Docs lost whatever their reference answers' likelihood: these would call the row unchanged."""
    for seed in range(6):
        row, found = Row(np.random.default_rng(seed), "BBH", 0.08, 0.025, shift=False), []
        for kind in (BOTH, BOTH._replace(both=False)):
            plan = {"BBH": plan_of(kind)["BBH"]}
            rows = run_stages(plan, lambda _, n, row=row, kind=kind: row.evidence(n, kind.both))
            found.append((rows["BBH"].verdict, rows["BBH"].evidence.difference.n))
        assert plan_of(BOTH)["BBH"].evidence == "both" and found[0] == found[1]


# --- the command ---


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> tuple[Path, Callable[..., int]]:
    """Data whose gold answers are what a tiny model prefers, a run of it as the baseline, and the gate on others."""
    folder = tmp_path_factory.mktemp("early")
    letters = np.random.default_rng(8).choice(list("abcdefgh"), size=(2, DOCS, 6))
    one, two = (["".join(word) for word in side] for side in letters)
    rows = [
        {"goal": f"Spell {n}", "sol1": a, "sol2": b, "label": 0}
        for n, (a, b) in enumerate(zip(one, two, strict=True))
    ]
    for seed in (0, 1):
        write_tiny_model(folder / f"model-{seed}", seed)
    options = ("--suite", "base", "--tasks", "PIQA", "--data", str(folder / "data"), "--device", "cpu")
    for final in (False, True):
        write_jsonl(folder / "data" / "piqa" / "validation.jsonl", rows)
        output = folder / ("base" if final else "first")
        code = main(["--model", str(folder / "model-0"), *options, "--output-dir", str(output), "--no-plan"])
        assert code == 0
        (run,) = find_runs(output)
        answers = load_run(run).table("piqa", ("doc_id", "prediction")).to_pylist()
        for answer in answers:
            rows[answer["doc_id"]]["label"] = answer["prediction"]

    def gate(seed: int, *more: object) -> int:
        model = ["--model", str(folder / f"model-{seed}"), "--output-dir", str(folder / f"out-{seed}")]
        data = ["--data", str(folder / "data"), "--device", "cpu"]
        return main(["gate", "--baseline", str(run), *model, *data, *map(str, more)])

    return folder, gate


@pytest.fixture(autouse=True)
def no_ci(monkeypatch):
    for name in CI_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_the_same_weights_pass_on_a_part_of_the_docs(house, capsys):
    folder, gate = house
    assert gate(0, "--format", "json") == 0
    data = json.loads(capsys.readouterr().out)
    row = data["rows"][0]
    assert (data["verdict"], data["early"], row["verdict"]) == ("PASS", True, "PASS")
    assert FIRST_LOOK <= row["docs_measured"] < DOCS and row["docs"] == DOCS
    run = load_run(Path(data["candidate"]))  # a valid run of the first docs
    assert run.log.limit == run.rows[0].n == row["docs_measured"] and run.rows[0].has("limit")
    whole = load_run(next(path for path in find_runs(folder / "base")))
    assert run.columns("piqa")["doc_id"] == whole.columns("piqa")["doc_id"][: run.rows[0].n]


def test_other_weights_are_stopped_by_the_first_look(house, capsys):
    folder, gate = house
    assert gate(1, "--summary", folder / "s.md", "--junit", folder / "j.xml") == 1
    out = capsys.readouterr().out
    assert f"sure after {FIRST_LOOK} of {DOCS} docs" in out and "so far" in out
    assert f"{FIRST_LOOK} of {DOCS}" in (folder / "s.md").read_text()
    assert f"docs: {FIRST_LOOK} of {DOCS}" in (folder / "j.xml").read_text()


def test_a_partial_run_is_no_whole_candidate(house, capsys):
    folder, gate = house
    assert gate(0) == 0
    (baseline,) = find_runs(folder / "base")
    partial = sorted(find_runs(folder / "out-0"))[-1]
    assert main(["gate", "--baseline", str(baseline), "--candidate", str(partial)]) == 2
    assert "--allow limit" in capsys.readouterr().err


def test_other_data_is_refused(house, tmp_path, capsys):
    folder, _ = house
    write_jsonl(
        tmp_path / "piqa" / "validation.jsonl", [{"goal": "a", "sol1": "b", "sol2": "c", "label": 0}] * 300
    )
    (baseline,) = find_runs(folder / "base")
    words = [
        "--model",
        str(folder / "model-0"),
        "--data",
        str(tmp_path),
        "--output-dir",
        str(tmp_path / "out"),
    ]
    assert main(["gate", "--baseline", str(baseline), *words, "--device", "cpu"]) == 2
    assert "not comparable: other data in piqa" in capsys.readouterr().err


@pytest.mark.slow
def test_a_generated_row_scores_its_reference_answers_where_the_baseline_has_them(house, tmp_path, capsys):
    folder, _ = house
    rows = [{"question": f"{n} and {n}?", "answer": f"It is\n#### {2 * n}"} for n in range(10)]
    for split in ("test", "train"):
        write_jsonl(tmp_path / "gsm8k" / f"{split}.jsonl", rows)
    words = ["--model", str(folder / "model-0"), "--data", str(tmp_path), "--device", "cpu"]
    run = ["--suite", "base", "--tasks", "gsm8k", "--no-plan"]
    found = {}
    for name, more in (("plain", []), ("asked", ["--references"])):
        assert main([*words, *run, "--output-dir", str(tmp_path / name), *more]) == 0
        (baseline,) = find_runs(tmp_path / name)
        gate = ["gate", "--baseline", str(baseline), *words, "--output-dir", str(tmp_path / f"of-{name}")]
        assert (
            main([*gate, "--format", "json", "--allow", "data"]) == 0
        )  # a value of nothing has nothing to lose
        captured = capsys.readouterr()
        data = json.loads(captured.out[captured.out.index("{") :])
        found[name] = data["rows"][0]["gold"]
        has = "reference_logprob" in load_run(Path(data["candidate"])).table("gsm8k").column_names
        assert has == (name == "asked") and ("accuracy alone" in captured.err) != has
    assert found["plain"] is None and found["asked"]["less_likely"] == 0
