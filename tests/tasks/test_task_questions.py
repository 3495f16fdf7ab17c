"""Questions as completions and as letters, their fixed shots, and choices scored without the question."""

from __future__ import annotations

import dataclasses

import pytest
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc

from evals.core.metric import METRICS
from evals.prompting import text as prompts
from evals.prompting.requests import TextToRequests, choice_response
from tasks.common.builders import FixedShots, likelihood_task
from tasks.common.fewshot import evaluation_docs
from tasks.common.metrics import prediction, score
from tasks.common.questions import WITHOUT, Question, formulations, sign
from tests.support.tiny_models import byte_tokenizer

FACTS = {
    "repo": "toy/toy", "subset": "default", "revision": None, "split": "test", "docs": 3, "columns": ("q", "gold"),
    "shot_split": "train", "shot_docs": 9,
}  # fmt: skip


def read(row):
    return Question(row["q"], ["red", "dark blue"], row["gold"], group=row.get("group"))


def rows(word, n, **more):
    return [{"q": f"{word} {i}?", "gold": i % 2, **more} for i in range(n)]


TRAIN = rows("train", 9)
NAMES = tuple(sign(read(TRAIN[i])) for i in (7, 0, 3, 4, 8))
COMPLETE, LETTERS = formulations("toy", read, metric="acc_pmi", shots=" ".join(NAMES), **FACTS)


def docs(task, evaluated, shots):
    return sorted(evaluation_docs(task, evaluated, shots), key=lambda doc: int(doc.id))


def test_five_named_shots_in_their_order_for_every_doc():
    chosen = COMPLETE.fixed_shots.pick(TRAIN)
    assert [row["q"] for row in chosen] == [f"train {i}?" for i in (7, 0, 3, 4, 8)]
    made = docs(COMPLETE, rows("test", 3), chosen)
    texts = {prompts.plain_text(doc).removesuffix(doc.query) for doc in made}
    answers = ["dark blue", "red", "dark blue", "red", "red"]
    assert texts == {
        "".join(
            f"Question: train {i}?\nAnswer: {a}\n\n" for i, a in zip((7, 0, 3, 4, 8), answers, strict=True)
        )
    }


def test_letters_are_shown_and_scored():
    doc = docs(LETTERS, rows("test", 3), LETTERS.fixed_shots.pick(TRAIN))[1]
    assert doc.query == "Question: test 1?\n A. red\n B. dark blue\nAnswer:"
    assert (doc.choices, doc.gold_index) == ([" A", " B"], 1)
    assert prompts.plain_text(doc).startswith("Question: train 7?\n A. red\n B. dark blue\nAnswer: B\n\n")
    assert doc.unconditioned_query is None


def test_a_split_without_the_named_rows_is_refused():
    with pytest.raises(ValueError, match="2 of the 5 fixed shots are not in it"):
        COMPLETE.fixed_shots.pick(TRAIN[1:8])
    with pytest.raises(ValueError, match="9 rows are given for the 5 fixed shots"):
        evaluation_docs(COMPLETE, rows("test", 3), TRAIN)


def test_a_groups_shots_are_its_first_rows():
    task, _ = formulations("toy", read, metric="acc_per_char", **FACTS)
    train = rows("stars", 7, group="astronomy_101") + rows("law", 5, group="law")
    made = docs(task, rows("test", 1, group="law") + rows("more", 1, group="astronomy_101"), train)
    law = [f"law {i}" for i in range(5)]
    shown = [[shot.query[10:15] for shot in doc.fewshot_samples] for doc in made]
    assert shown == [law, ["stars"] * 5]
    about = "The following are multiple choice questions (with answers) about astronomy 101.\n\nQuestion: stars 0?"
    assert prompts.plain_text(made[1]).startswith(about)
    assert prompts.plain_text(made[1]).count("multiple choice") == 1
    assert [doc.specific["group"] for doc in made] == ["law", "astronomy_101"]


def gap(row):
    names, rest = ("cup", "shelf"), (" fell.",) * 2
    asked = "So the ___ fell."
    return Question(asked, names, row["gold"], label="", query="So the ", scored=rest, openings=names)


def test_a_choice_may_begin_in_the_context():
    task, _ = formulations("gap", gap, metric="acc", shots=" ".join([sign(gap({"gold": 1}))] * 5), **FACTS)
    (doc,) = evaluation_docs(task, [{"gold": 0}], [{"gold": 1}] * 5)
    shots = "So the shelf fell.\n\n" * 5
    assert prompts.choice_pairs(doc, prompts.plain_text(doc)) == [
        (f"{shots}So the cup", " fell."),
        (f"{shots}So the shelf", " fell."),
    ]


def test_choices_are_asked_once_more_without_the_question():
    doc = docs(COMPLETE, rows("test", 3), TRAIN[:5])[0]
    tokenizer = byte_tokenizer()
    (group,) = TextToRequests(tokenizer, chat=False).score_requests([doc])
    assert len(group) == 4
    parts = [
        (
            tokenizer.decode(one.tokens[: -one.n_continuation]),
            tokenizer.decode(one.tokens[-one.n_continuation :]),
        )
        for one in group
    ]
    assert parts[2:] == [(WITHOUT, " red"), (WITHOUT, " dark blue")]
    assert [choice for _, choice in parts[:2]] == [" red", " dark blue"]
    response = choice_response(doc, group, [-1.0, -2.0, -1.5, -9.0])
    assert (response.logprobs, response.unconditioned_logprobs) == ([-1.0, -2.0], [-1.5, -9.0])
    # the likelier choice without the question is not the one that gains by it
    assert score(COMPLETE, doc, response) == {"acc": 1, "acc_per_token": 0, "acc_per_char": 0, "acc_pmi": 0}


@pytest.mark.parametrize(
    ("metric", "logprobs", "tokens", "best"),
    [
        ("acc_per_char", [-3.0, -4.5], [1, 1], 0),  # -3/4 > -4.5/5: the space counts
        ("acc_norm_nospace", [-3.0, -3.9], [1, 1], 1),  # -3/3 < -3.9/4
        ("acc_per_token", [-3.0, -4.0], [1, 2], 1),
        ("acc", [-3.0, -4.0], [1, 2], 0),
    ],
)
def test_what_a_choice_is_divided_by(metric, logprobs, tokens, best):
    task = likelihood_task(**FACTS | {"name": "toy", "prompt": read, "metrics": ("acc", metric)})
    doc = Doc(query="q", choices=[" abc", " abcd"], gold_index=best)
    response = ModelResponse(logprobs=logprobs, output_tokens=[[0] * n for n in tokens])
    assert score(task, doc, response)[metric] == 1
    line = {"choices": doc.choices, "logprobs": logprobs, "n_tokens": tokens, "gold": best}
    assert prediction(task, line) == best
    assert METRICS[metric].formula(line) == 1


def test_a_task_that_is_not_asked_twice_has_no_such_metric():
    with pytest.raises(ValueError, match="'acc_pmi' cannot score 'toy'"):
        dataclasses.replace(COMPLETE, name="toy", unconditioned=None)
    assert FixedShots(str).names == ()


def test_the_prompt_hash_knows_what_is_rare():
    doc = docs(COMPLETE, rows("test", 3), TRAIN[:5])[0]
    others = [
        dataclasses.replace(doc, unconditioned_query=None),
        dataclasses.replace(doc, instruction="About"),
        dataclasses.replace(doc, specific={"openings": ["a", "b"]}),
    ]
    assert len({prompts.prompt_hash(one, chat=False) for one in (doc, *others)}) == 4


def test_a_hash_of_before_is_the_same():
    doc = Doc(query="Question: goal?\nAnswer:", choices=[" a", " b"], gold_index=0, specific={})
    assert prompts.prompt_hash(doc, chat=False) == "df4a87015e8bf5fe"
