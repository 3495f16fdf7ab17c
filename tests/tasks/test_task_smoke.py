"""The built-in items: enough of them, in the data sets' schemas, right, and none of them taken from a data set."""

from __future__ import annotations

from pathlib import Path

import pytest

import tasks
from evals.core.metric import final_answer
from evals.data.sources import Source, load
from tasks import TASKS, get_task
from tasks.common.fewshot import evaluation_docs
from tasks.common.ifeval_checks import follow
from tests.support.benchmarks import smoke_items

SMOKE = Path(tasks.__file__).parent / "smoke"
BBH = [task for task in TASKS.values() if task.folder == "bbh"]


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_items_make_docs_with_all_their_shots(task):
    data = load(task, Source("smoke", SMOKE))
    docs = evaluation_docs(task, data.rows, data.shot_rows or ())
    assert len(docs) >= (4 if task.folder == "bbh" else 8)
    grouped = task.fixed_shots is not None and not task.fixed_shots.names
    assert {len(doc.fewshot_samples) for doc in docs} == {1 if grouped else task.shots}
    assert len({doc.query for doc in docs}) == len(docs) or "winogrande" in task.name
    assert all(set(task.columns) <= set(row) for row in data.rows)


def test_no_file_without_a_task():
    expected = {f"{task.smoke_stem(split)}.jsonl" for task in TASKS.values() for split in task.splits}
    assert {str(path.relative_to(SMOKE)) for path in SMOKE.rglob("*.*")} == expected


def test_golds_are_spread():
    for name in ("hellaswag", "arc_easy", "arc_challenge", "piqa", "mmlu", "commonsense_qa", "winogrande"):
        task = get_task(name)
        golds = {doc.gold_index for doc in evaluation_docs(task, smoke_items(task, task.split))}
        assert golds >= ({0, 1} if name in ("piqa", "winogrande") else {0, 1, 2, 3}), name


def test_gsm8k_rationales_compute_what_they_say():
    task = get_task("gsm8k")
    for split in task.splits:
        for row in smoke_items(task, split):
            steps = [part.split(">>")[0] for part in row["answer"].split("<<")[1:]]
            assert steps
            for step in steps:
                left, right = step.split("=")
                assert eval(left, {"__builtins__": {}}) == float(right), step
            assert final_answer(row["answer"]) == steps[-1].split("=")[1]


def test_bbh_answers_that_can_be_computed():
    for row in smoke_items(get_task("bbh_boolean_expressions"), "train"):
        assert str(eval(row["input"].removesuffix(" is"), {"__builtins__": {}})) == row["target"]
    for row in smoke_items(get_task("bbh_multistep_arithmetic_two"), "train"):
        assert str(eval(row["input"].removesuffix("="), {"__builtins__": {}})) == row["target"]
    for row in smoke_items(get_task("bbh_word_sorting"), "train"):
        assert " ".join(sorted(row["input"].split("List: ")[1].split())) == row["target"]
    for row in smoke_items(get_task("bbh_dyck_languages"), "train"):
        text = (row["input"].split("Input: ")[1] + row["target"]).replace(" ", "")
        while text:
            shorter = text
            for pair in ("()", "[]", "{}", "<>"):
                shorter = shorter.replace(pair, "")
            assert len(shorter) < len(text), row
            text = shorter


def test_bbh_targets_are_among_the_options():
    for task in BBH:
        for row in smoke_items(task, "train"):
            _, separator, options = row["input"].partition("\nOptions:\n")
            if separator:
                marks = [
                    line.split(" ", 1)[0] if line[0] == "(" else line[2:].strip()
                    for line in options.split("\n")
                ]
                assert row["target"] in marks, (task.name, row)


def test_mt_bench_has_each_category_and_references_where_a_judge_wants_them():
    rows = smoke_items(get_task("mt_bench"), "train")
    assert sorted(row["category"] for row in rows) == sorted(
        ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"]
    )
    for row in rows:
        assert len(row["reference"]) == (2 if row["category"] in ("math", "reasoning", "coding") else 0)


def test_ifeval_instructions_are_varied_and_can_be_followed():
    task = get_task("ifeval")
    docs = evaluation_docs(task, smoke_items(task, "train"))
    kinds = {kind for doc in docs for kind in doc.specific["item_names"]}
    assert len(kinds) >= 10
    by_row = {int(doc.id): doc for doc in docs}
    for row, answer in {
        0: "The sea is wide. It is salty.",
        2: "* rye\n* wheat\n* oat",
        4: '{"fruits": ["apple", "pear"]}',
        5: '"Dear neighbour, come and eat with us. See you on Friday."',
    }.items():
        specific = by_row[row].specific
        strict, _ = follow("", specific["item_names"], specific["kwargs"], answer)
        assert all(strict), row


@pytest.mark.data
@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_items_have_the_real_columns_and_none_of_the_real_texts(task, data_dir):
    import pyarrow.parquet as parquet

    for split in task.splits if task.fixed_shots is None else ():
        table = parquet.read_table(data_dir / f"{task.stem(split)}.parquet")
        rows = smoke_items(task, split)
        assert {tuple(sorted(row)) for row in rows} == {tuple(sorted(table.column_names))}
        real = set(texts_of(table.to_pylist()))
        for text in texts_of(rows):
            if len(text.split()) > 4:  # a name or a number may well be the same
                assert text not in real, text
            assert not text.strip() or len(text) < 1000


def texts_of(value):
    """Every string in a nested value, options of a puzzle apart."""
    if isinstance(value, str):
        yield value
        yield value.split("\nOptions:\n")[0]
    elif isinstance(value, dict):
        for name, one in value.items():
            if name not in ("kwargs", "instruction_id_list", "activity_label"):
                yield from texts_of(one)
    elif isinstance(value, list):
        for one in value:
            yield from texts_of(one)
