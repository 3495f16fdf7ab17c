"""Every row of the real files makes a doc; sizes and draws on them."""

from __future__ import annotations

import random
from functools import cache

import pytest
from lighteval.tasks.lighteval_task import LightevalTask

from evals.core.errors import RowUnavailable
from evals.data.sources import Source, load
from tasks import TASKS, get_task
from tasks.common.fewshot import evaluation_docs, fixed_set
from tasks.common.ifeval_checks import _registry, build, follow
from tasks.common.lighteval import config

pytestmark = pytest.mark.data

INCOMPLETE = {"hellaswag": 3243, "trivia_qa": 11313}  # rows in a folder that lacks the rest


@cache
def read(folder, stem):
    import pyarrow.parquet as parquet

    return parquet.read_table(folder / f"{stem}.parquet").to_pylist()


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_row_makes_a_doc(task, data_dir):
    try:
        data = load(task, Source("folder", data_dir))
    except RowUnavailable as error:
        pytest.skip(str(error))
    rows = data.rows
    assert len(rows) in (task.docs, INCOMPLETE.get(task.name))
    if task.fixed_shots is None:
        assert len(data.shot_rows or ()) == task.shot_docs
    docs = evaluation_docs(task, rows, data.shot_rows or ())
    assert sorted(int(doc.id) for doc in docs) == list(range(len(rows)))
    assert {len(doc.fewshot_samples) for doc in docs} == {task.shots}


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("hellaswag", {4}),
        ("arc_easy", {3, 4, 5}),
        ("arc_challenge", {3, 4, 5}),
        ("piqa", {2}),
        ("mmlu", {4}),
        ("commonsense_qa", {5}),
        ("winogrande", {2}),
        ("openbook_qa", {4}),
    ],
)
def test_numbers_of_choices(name, counts, data_dir):
    task = get_task(name)
    docs = evaluation_docs(task, read(data_dir, task.stem(task.split)))
    assert {len(doc.choices) for doc in docs} == counts


def test_mmlu_has_57_subjects(data_dir):
    docs = evaluation_docs(get_task("mmlu"), read(data_dir, "mmlu/test"))
    assert len({doc.specific["group"] for doc in docs}) == 57


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.folder == "bbh"], ids=lambda task: task.name)
def test_bbh_sets_are_lightevals(task, data_dir):
    rows = read(data_dir, task.stem(task.split))
    theirs = LightevalTask(config(task))
    theirs.dataset = {"train": [dict(row) for row in rows]}
    theirs.fewshot_sampler._init_fewshot_sampling_balanced(num_fewshot=3, variance_seed=0)
    pool = [int(doc.id) for doc in theirs.fewshot_sampler._fewshot_cache[0]]
    assert fixed_set([row["target"] for row in rows], 4) == pool


def test_gsm8k_is_lightevals(data_dir):
    task = get_task("gsm8k")
    rows, shots = read(data_dir, "gsm8k/test"), read(data_dir, "gsm8k/train")
    theirs = LightevalTask(config(task))
    theirs.dataset = {"test": [dict(row) for row in rows], "train": [dict(row) for row in shots]}
    expected = [(d.query, [s.query for s in d.fewshot_samples]) for d in theirs.get_docs(max_samples=100)]
    ours = evaluation_docs(task, rows, shots, limit=100)
    assert [(doc.query, [shot.query for shot in doc.fewshot_samples]) for doc in ours] == expected


def test_ifeval_instructions_all_build(data_dir):
    docs = evaluation_docs(get_task("ifeval"), read(data_dir, "ifeval/train"))
    pairs = [
        (kind, arguments)
        for doc in docs
        for kind, arguments in zip(doc.specific["item_names"], doc.specific["kwargs"], strict=True)
    ]
    assert (len(docs), len(pairs), len({kind for kind, _ in pairs})) == (541, 834, 25)
    # lighteval would drop arguments that are 0 or empty: none is, so both readings are one here
    assert all(value for _, arguments in pairs for value in arguments.values())
    drawn = []
    for kind, arguments in pairs:
        build(kind, arguments, "p")
        state = random.getstate()
        _registry()[kind](kind).build_description(**arguments)
        if random.getstate() != state:
            drawn.append((kind, arguments["letter"]))
            random.setstate(state)
    # two rows ask for a sign where the checker knows letters only; it then draws a letter (here always the same)
    assert drawn == [("keywords:letter_frequency", "#"), ("keywords:letter_frequency", "!")]


def test_ifeval_scores_any_text(data_dir):
    docs = evaluation_docs(get_task("ifeval"), read(data_dir, "ifeval/train"))
    for doc in docs:
        specific = doc.specific
        for answer in ("", "Ok.", doc.query):
            strict, loose = follow(doc.query, specific["item_names"], specific["kwargs"], answer)
            assert len(strict) == len(loose) == len(specific["kwargs"])
            assert all(one <= other for one, other in zip(strict, loose, strict=True))
            assert answer or not any(loose)


def test_mt_bench_references(data_dir):
    docs = evaluation_docs(get_task("mt_bench"), read(data_dir, "mt_bench/train"))
    with_reference = {doc.specific["group"] for doc in docs if doc.specific["reference"]}
    assert with_reference == {"math", "reasoning", "coding"}
    assert sum(bool(doc.specific["reference"]) for doc in docs) == 30
    assert {len(doc.specific["reference"]) for doc in docs} == {0, 2}
