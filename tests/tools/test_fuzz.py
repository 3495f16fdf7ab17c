"""A small helping of the fuzz command: what others wrote gives a result or a documented error, never a crash."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from evals.core.metric import alias_match, exact_match, final_answer, final_answer_match
from evals.judging.prompts import rating_of
from tasks import TASKS
from tasks.common.fewshot import build_doc
from tests.support.forks import ROOT


def test_hostile_inputs_break_nothing() -> None:
    command = [sys.executable, "tests/tools/fuzz.py", "--inputs", "600", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "BROKEN" not in done.stdout
    parts = set(re.findall(r"^([A-Za-z. ]+?) {2,}.*(?:passed|one line)", done.stdout, re.MULTILINE))
    assert {"data rows", "outputs", "GGUF headers", "safetensors headers", "run.json", "parquet"} <= parts


hostile_text = st.text(st.characters(exclude_categories=()), max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hostile_text | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(hostile_text, inner, max_size=4),
    max_leaves=8,
)
choices = st.fixed_dictionaries(
    {"text": st.lists(hostile_text, max_size=4), "label": st.lists(hostile_text, max_size=4)}
)
aliases = st.fixed_dictionaries({"aliases": st.lists(hostile_text, max_size=4)})


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_row_is_a_doc_or_an_error_that_names_it(data: st.DataObject) -> None:
    task = data.draw(st.sampled_from(list(TASKS.values())))
    cell = (
        hostile_text | st.lists(hostile_text, max_size=4) | st.integers(-1, 5) | choices | aliases | anything
    )
    row: dict[str, Any] = {column: data.draw(cell) for column in task.columns}
    try:
        doc = build_doc(task, row, 7)
    except ValueError as error:
        assert f"{task.split} row 7: " in str(error)
        return
    doc.query.encode()
    golds = doc.gold_index if isinstance(doc.gold_index, list) else [doc.gold_index]
    assert all(0 <= gold < max(1, len(doc.choices)) for gold in golds)


@settings(max_examples=400, deadline=None)
@given(hostile_text, hostile_text)
def test_any_output_has_a_score(gold: str, output: str) -> None:
    for match in (exact_match, final_answer_match):
        assert match(gold, output) in (0, 1)
    assert alias_match([gold], output) in (0, 1)
    assert alias_match([""], output) in (0, 1)
    answer = final_answer(f"{output}#### {gold}")
    assert answer is None or "," not in answer
    rating, outcome = rating_of(f"{output}[[{gold}]]")
    assert 1 <= rating <= 10 if outcome == "rated" else rating == -1
