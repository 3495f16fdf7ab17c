"""Order, limit and shots: against the protocol written out a second time, fixed numbers, and lighteval's own draws."""

from __future__ import annotations

import random

import pytest
from lighteval.tasks.lighteval_task import LightevalTask

from tasks import get_task
from tasks.common.fewshot import evaluation_docs, fixed_set
from tasks.common.lighteval import config


def math_rows(n, word):
    return [{"question": f"{word} {i}?", "answer": f"It is {i}.\n#### {i}"} for i in range(n)]


def piqa_rows(n):
    return [{"goal": f"goal {i}", "sol1": "a", "sol2": "b", "label": i % 2} for i in range(n)]


def puzzles(targets):
    return [{"input": f"puzzle {i}", "target": target} for i, target in enumerate(targets)]


def ids(docs):
    return [int(doc.id) for doc in docs]


def test_docs_stand_in_the_protocols_order():
    order = list(range(100))
    random.Random(42).shuffle(order)
    docs = evaluation_docs(get_task("piqa"), piqa_rows(100))
    assert ids(docs) == order
    assert [doc.query for doc in docs] == [f"Question: goal {i}\nAnswer:" for i in order]


def test_docs_carry_their_settings():
    (doc,) = evaluation_docs(get_task("gsm8k"), math_rows(1, "test"), math_rows(9, "train"))
    assert (doc.generation_size, doc.stop_sequences) == (256, ["Question:", "Question"])
    assert doc.task_name == "gsm8k"
    assert [method.value for method in doc.sampling_methods] == ["GENERATIVE"]


def test_gsm8k_order_and_shots_of_the_official_sizes():
    docs = evaluation_docs(get_task("gsm8k"), math_rows(1319, "test"), math_rows(7473, "train"))

    rng = random.Random(42)
    order = list(range(1319))
    rng.shuffle(order)
    for doc, row in zip(docs, order, strict=True):
        assert int(doc.id) == row
        assert ids(doc.fewshot_samples) == rng.sample(range(7473), 5)

    # the same, as numbers: what the random module of Python has drawn since 3.2, for good
    assert ids(docs)[:3] == FIRST_GSM8K_DOCS
    assert [ids(doc.fewshot_samples) for doc in docs[:2]] == FIRST_GSM8K_SHOTS

    shot = docs[0].fewshot_samples[0]
    assert shot.query == f"Question: train {shot.id}?\nAnswer:"
    assert shot.choices[shot.gold_index] == f" It is {shot.id}.\n#### {shot.id}"


FIRST_GSM8K_DOCS = [588, 1214, 57]
FIRST_GSM8K_SHOTS = [[7268, 4403, 1111, 3183, 3716], [3039, 5492, 6087, 5705, 4425]]


def test_gsm8k_draws_are_those_of_lighteval():
    own = get_task("gsm8k")
    task = LightevalTask(config(own))
    task.dataset = {"test": math_rows(50, "test"), "train": math_rows(200, "train")}
    theirs = task.get_docs()
    ours = evaluation_docs(own, math_rows(50, "test"), math_rows(200, "train"))
    assert [(d.query, [s.query for s in d.fewshot_samples]) for d in ours] == [
        (d.query, [s.query for s in d.fewshot_samples]) for d in theirs
    ]


@pytest.mark.parametrize("limit", [1, 7, 30, 1000])
@pytest.mark.parametrize("name", ["gsm8k", "bbh_snarks", "piqa"])
def test_a_limited_run_is_the_beginning_of_a_whole_one(name, limit):
    rows = {
        "gsm8k": math_rows(30, "test"),
        "bbh_snarks": puzzles("ABBA" * 8),
        "piqa": piqa_rows(30),
    }[name]
    task, shots = get_task(name), math_rows(40, "train")
    whole = evaluation_docs(task, rows, shots)
    part = evaluation_docs(task, rows, shots, limit)
    assert len(part) == min(limit, len(rows))
    assert part == whole[: len(part)]


def test_few_training_rows_give_few_shots():
    docs = evaluation_docs(get_task("gsm8k"), math_rows(4, "test"), math_rows(3, "train"))
    assert all(sorted(ids(doc.fewshot_samples)) == [0, 1, 2] for doc in docs)


def by_hand(targets, size=4):
    """BBH's fixed set as the protocol words it, on the global generator."""
    random.seed(0)
    groups = {}
    for i, target in enumerate(targets):
        groups.setdefault(target, []).append(i)
    ranked = []
    for count in sorted({len(group) for group in groups.values()}, reverse=True):
        equal = [target for target in sorted(groups) if len(groups[target]) == count]
        random.shuffle(equal)
        ranked += equal
    picked, turn = [], 0
    while len(picked) < min(size, len(targets)):
        group = groups[ranked[turn % len(ranked)]]
        turn += 1
        if group:
            picked.append(group.pop(random.randrange(len(group))))
    return picked


TARGETS = [
    ["(A)"] * 60 + ["(B)"] * 90 + ["(C)"] * 100,
    ["valid", "invalid"] * 125,
    [f"answer {i}" for i in range(250)],
    ["Yes"] * 249 + ["No"],
    ["x"] * 250,
    ["b", "a", "c", "a"],
    ["a", "b"],
]


@pytest.mark.parametrize("targets", TARGETS)
def test_fixed_set_by_hand(targets):
    assert fixed_set(targets, 4) == by_hand(targets)


@pytest.mark.parametrize("targets", TARGETS)
def test_fixed_set_is_lightevals_pool(targets):
    task = LightevalTask(config(get_task("bbh_snarks")))
    task.dataset = {"train": puzzles(targets)}
    sampler = task.fewshot_sampler
    sampler._init_fewshot_sampling_balanced(num_fewshot=3, variance_seed=0)
    assert ids(sampler._fewshot_cache[0]) == fixed_set(targets, 4)


def test_fixed_set_as_numbers():
    assert fixed_set(["Yes", "No"] * 125, 4) == FIXED_YES_NO


FIXED_YES_NO = [195, 226, 107, 10]


def test_fixed_set_leaves_the_global_generator_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    fixed_set(["a", "b"] * 10, 4)
    assert random.random() == expected


def test_bbh_docs_never_see_themselves():
    targets = ["(A)", "(B)"] * 125
    pool = fixed_set(targets, 4)
    docs = evaluation_docs(get_task("bbh_snarks"), puzzles(targets))
    assert len(docs) == 250
    for doc in docs:
        assert ids(doc.fewshot_samples) == [i for i in pool if i != int(doc.id)][:3]
    within = [doc for doc in docs if int(doc.id) in pool]
    assert len(within) == 4
    assert all(len(doc.fewshot_samples) == 3 for doc in within)


def test_equal_puzzles_are_told_apart_by_their_place():
    rows = puzzles(["a", "a", "a", "a"])
    for row in rows:
        row["input"] = "the same puzzle"
    for doc in evaluation_docs(get_task("bbh_snarks"), rows):
        assert doc.id not in [shot.id for shot in doc.fewshot_samples]
        assert len(doc.fewshot_samples) == 3


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_must_leave_docs(limit):
    with pytest.raises(ValueError, match="leaves no docs"):
        evaluation_docs(get_task("piqa"), piqa_rows(3), limit=limit)


def test_empty_splits_are_errors():
    with pytest.raises(ValueError, match="'validation' is empty"):
        evaluation_docs(get_task("piqa"), [])
    with pytest.raises(ValueError, match="'train' is empty"):
        evaluation_docs(get_task("gsm8k"), math_rows(3, "test"), [])


def test_errors_name_split_and_row():
    rows = piqa_rows(5)
    rows[3]["label"] = 2
    with pytest.raises(ValueError, match="validation row 3: 'label' is 2, out of range: 0 to 1"):
        evaluation_docs(get_task("piqa"), rows, limit=1)
    shots = [{"question": "q", "answer": "none"}] * 5
    with pytest.raises(ValueError, match=r"train row \d: 'answer' has no final answer"):
        evaluation_docs(get_task("gsm8k"), math_rows(1, "test"), shots)
