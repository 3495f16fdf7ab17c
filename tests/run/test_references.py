"""Reference answers' log-probabilities: a run stores them when asked, after the docs' own prompts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from lighteval.tasks.requests import Doc

from evals.core.card import load_card
from evals.core.errors import RowUnavailable
from evals.core.requests import ScoreRequest
from evals.data.sources import parse_source
from evals.run.work import Settings, prepare
from reports.runs import load_run
from tasks import TASKS, get_task
from tests.run.test_ahead import Adapter
from tests.run.test_ahead import run as run_rows
from tests.support.run_bench import ALL, Bench, computed

COLUMNS = {"reference_logprob", "n_reference_tokens"}


@pytest.mark.slow
def test_a_run_stores_them_when_asked(bench: Bench) -> None:
    bench.run()
    plain = load_run(bench.last)
    record = bench.run("--references")
    asked = load_run(bench.last)
    assert computed(record) == 3, "a score for each of the three answers; all else was stored"
    assert not COLUMNS & set(plain.table("gsm8k").column_names)
    assert set(asked.table("gsm8k").column_names) >= COLUMNS
    assert not COLUMNS & set(asked.table("piqa").column_names)
    line = asked.table("gsm8k").to_pylist()[0]
    assert line["n_reference_tokens"] == len(line["gold"][0].encode()), (
        "a token is a byte, and the prompt is none of them"
    )
    assert math.isfinite(line["reference_logprob"]) and line["reference_logprob"] < 0
    same = [one for one in asked.table("gsm8k").column_names if one not in COLUMNS]
    assert plain.table("gsm8k").equals(asked.table("gsm8k").select(same))
    assert computed(bench.run("--references")) == 0 and ALL > 3


def test_the_plan_counts_them(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    for options, requests in ((), 3), (("--references",), 6):
        bench.forks.run(bench.arguments("--dry-run", "--tasks", "gsm8k", *options), bench.log, *bench.hook)
        (row,) = (line for line in bench.log.read_text().splitlines() if "GSM8K" in line)
        assert [cell.strip() for cell in row.split("|")[2:5]].count(str(requests)) >= 1, row
        bench.log.unlink()


def test_which_tasks_have_one_and_under_which_prompt() -> None:
    settings = Settings(source=parse_source("smoke"), references=True)
    for card in ("base", "instruct"):
        (work,) = prepare([load_card(card)], settings)
        assert set(work.references) == {name for name in work.docs if get_task(name).reference}
        for name, docs in work.references.items():
            for own, doc in zip(work.docs[name], docs, strict=True):
                assert (doc.query, doc.fewshot_samples, doc.generation_size) == (
                    own.query, own.fewshot_samples, own.generation_size,
                )  # fmt: skip
                assert len(doc.choices) == 1 and doc.choices[0].strip()
    have = {name for name, task in TASKS.items() if task.reference}
    assert {"gsm8k", "trivia_qa", "bbh_snarks"} <= have and not {"ifeval", "mt_bench", "piqa"} & have
    row = {"question": "Who?", "answer": {"aliases": ["Ada L.", "Ada"], "value": "Ada"}}
    reference = TASKS["trivia_qa"].reference
    assert reference is not None
    assert reference(TASKS["trivia_qa"].prompt(row, "trivia_qa")) == " Ada"
    del row["answer"]["value"]
    assert reference(TASKS["trivia_qa"].prompt(row, "trivia_qa")) == " Ada L."


class NoScores(Adapter):
    """A back end that cannot score."""

    def score_requests(self, docs: list[Doc]) -> list[list[ScoreRequest]]:
        raise RowUnavailable("no prompt log-probabilities here")


@pytest.mark.parametrize("adapter, stored", [(Adapter, True), (NoScores, False)])
def test_a_row_is_not_missing_for_want_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapter: type[Adapter], stored: bool
) -> None:
    made = run_rows(tmp_path, adapter(leaves_cpu=False), references=True, tasks=["gsm8k"])
    assert (set(made.columns["gsm8k"]) >= COLUMNS) == stored
    assert len(made.columns["gsm8k"]["output"]) > 0
    assert ("its reference answers are not scored: no prompt" in capsys.readouterr().err) != stored
