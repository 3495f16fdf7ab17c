"""Each score on hand-made cases."""

from __future__ import annotations

import math

import pytest
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc

from evals.core.metric import (
    METRICS,
    alias_match,
    choice_length,
    exact_match,
    final_answer,
    final_answer_match,
)
from evals.core.metric import predict as predict_choice
from tasks import get_task
from tasks.common.lighteval import config
from tasks.common.metrics import likelihood_line, score
from tasks.trivia_qa import gold_aliases


def predict(doc, logprobs):
    line = likelihood_line(doc, ModelResponse(logprobs=logprobs))
    return predict_choice(line["choices"], line["logprobs"])


def acc(doc, logprobs):
    return METRICS["acc"].formula(likelihood_line(doc, ModelResponse(logprobs=logprobs)))


def acc_norm_nospace(doc, logprobs):
    return METRICS["acc_norm_nospace"].formula(likelihood_line(doc, ModelResponse(logprobs=logprobs)))


def choice_doc(choices, gold=0):
    return Doc(query="q", choices=choices, gold_index=gold, task_name="piqa", id="7")


@pytest.mark.parametrize(
    ("choice", "length"),
    [(" cat", 3), ("cat", 3), ("  cat", 4), (" naïve 猫", 7), ("🙂", 1), ("\ncat", 4), ("", 1), (" ", 1)],
)
def test_choice_length_is_characters_less_one_leading_space(choice, length):
    assert choice_length(choice) == length


def test_normalised_prediction_divides_by_length():
    doc = choice_doc([" ab", " abcdefgh"], gold=1)
    # sums favour the short choice, sums a character (-1.5 and -0.5) the long one
    assert predict(doc, [-3.0, -4.0]) == 1
    assert (acc(doc, [-3.0, -4.0]), acc_norm_nospace(doc, [-3.0, -4.0])) == (0, 1)


def test_the_leading_space_does_not_count():
    # with the space counted, -2/3 > -3/4 and the first would win; without it, -2/2 = -3/3 ties and the first wins;
    # a choice without a leading space keeps its whole length
    assert predict(choice_doc([" ab", "abcd"]), [-2.0, -3.0]) == 1
    assert predict(choice_doc([" ab", " abc"]), [-2.0, -3.0]) == 0


@pytest.mark.parametrize("gold", [0, 1, 2])
def test_ties_go_to_the_first(gold):
    doc = choice_doc([" aa", " bb", " cc"], gold)
    assert predict(doc, [-2.0, -1.0, -1.0]) == 1
    assert acc(doc, [-2.0, -1.0, -1.0]) == int(gold == 1)
    assert acc_norm_nospace(doc, [-2.0, -1.0, -1.0]) == int(gold == 1)


def test_blank_choices_can_be_scored():
    assert predict(choice_doc(["", " ", " a"]), [-3.0, -2.0, -1.0]) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("formula", [predict, acc, acc_norm_nospace])
def test_log_likelihoods_must_be_finite(formula, bad):
    with pytest.raises(ValueError, match=r"piqa doc 7.*not finite"):
        formula(choice_doc([" a", " b"]), [-1.0, bad])


@pytest.mark.parametrize("formula", [predict, acc, acc_norm_nospace])
def test_one_log_likelihood_a_choice(formula):
    with pytest.raises(ValueError, match="piqa doc 7: 1 log-likelihoods for 2 choices"):
        formula(choice_doc([" a", " b"]), [-1.0])


@pytest.mark.parametrize(
    ("aliases", "golds"),
    [
        (["Paris"], ["paris"]),
        (["Paris, France", "Paris"], ["paris"]),  # begins with the kept "Paris"
        (["A", "AB", "ABC", "B"], ["a", "b"]),
        (["AB", "ABC", "AC", "ACB"], ["ab", "ac"]),  # compared with the last kept one alone
        (["paris", "Paris city"], ["paris city", "paris"]),  # capitals sort before small letters and differ
        (["U.S.A.", "USA", "usa"], ["usa"]),  # equal once plain
        (["St. Lucia (island)", " The  Isle "], ["the  isle", "st lucia island"]),  # inner spaces stay
        (["@", "At sign"], ["", "at sign"]),  # a sign alone: nothing is left of it
        (["Łódź", "ÉCOLE"], ["école", "łódź"]),
    ],
)
def test_gold_aliases(aliases, golds):
    assert gold_aliases(aliases) == golds


@pytest.mark.parametrize(
    ("output", "right"),
    [
        (" Paris\n", 1),
        ("PARIS!", 1),
        ('"Paris."', 1),
        ("Paris, France", 0),
        ("The Paris", 0),
        ("Par is", 0),
        ("Paris !", 0),  # stripped before the sign goes, so a space is left: as the recipe's harness does it
        ("", 0),
        (" \n", 0),
        ("?", 0),
    ],
)
def test_alias_match(output, right):
    assert alias_match(["paris", "lutetia"], output) == right


def test_a_sign_answers_a_question_for_a_sign_but_nothing_does_not():
    assert alias_match(gold_aliases(["@", "At sign"]), " @ ") == 1
    assert alias_match(gold_aliases(["@", "At sign"]), " ") == 0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 4\n#### 4", "4"),
        ("#### 1,234,567", "1234567"),
        ("#### -3.50", "-3.50"),
        ("#### 5\n#### 6", "5"),  # the first one
        ("#### 5 apples", "5"),
        ("#### 7.", "7."),
        ("####5", None),
        ("####  5", None),
        ("#### $5", None),
        ("#### five, that is #### 5", "5"),
        ("the answer is 5", None),
        ("[invalid]", None),
        ("", None),
    ],
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("gold", "output", "right"),
    [
        (" 2 + 2 = 4\n#### 4", " two and two\n#### 4", 1),
        ("#### 1,000", "#### 1000", 1),
        ("#### 1000", "#### 1,0,00", 1),
        ("#### 4", "#### 4.0", 0),  # compared as text
        ("#### 4", "#### 4.", 0),
        ("#### 4", "#### 5\n#### 4", 0),
        ("#### 4", "4", 0),
        ("#### 4", "", 0),
        ("no answer", "no answer", 0),  # nothing never equals nothing
        ("[invalid]", "[invalid]", 0),
    ],
)
def test_final_answer_match(gold, output, right):
    assert final_answer_match(gold, output) == right


@pytest.mark.parametrize(
    ("gold", "output", "right"),
    [
        ("(A)", " (A)\n", 1),
        ("(A)", "A", 0),
        ("(A)", "(A) red", 0),
        ("True", "true", 0),
        ("] )", "] )", 1),
        ("] )", "])", 0),
        ("valid ", "valid", 1),
        ("No", "", 0),
        ("", "", 0),
    ],
)
def test_exact_match(gold, output, right):
    assert exact_match(gold, output) == right


def test_score_gives_the_columns_of_the_results():
    piqa = get_task("piqa")
    doc = choice_doc([" ab", " abcdefgh"], gold=1)
    assert score(piqa, doc, ModelResponse(logprobs=[-3.0, -4.0])) == {"acc": 0, "acc_norm_nospace": 1}

    trivia = Doc(query="q", choices=["paris"], gold_index=[0], task_name="trivia_qa")
    assert score(get_task("trivia_qa"), trivia, ModelResponse(text=["Paris."])) == {"alias_match": 1}

    gsm8k = Doc(query="q", choices=[" #### 4"], gold_index=0, task_name="gsm8k")
    assert score(get_task("gsm8k"), gsm8k, ModelResponse(text=["#### 4"])) == {"final_answer_match": 1}

    bbh = Doc(query="q", choices=["(A)"], gold_index=0, task_name="bbh_snarks")
    assert score(get_task("bbh_snarks"), bbh, ModelResponse(text=["(B)"])) == {"exact_match": 0}

    assert score(get_task("mt_bench"), bbh, ModelResponse(text=["Hello"])) == {}


def test_generative_scores_need_one_output():
    doc = Doc(query="q", choices=["(A)"], gold_index=0, task_name="bbh_snarks", id="3")
    for outputs in ([], ["(A)", "(B)"], [None]):
        with pytest.raises(ValueError, match="bbh_snarks doc 3"):
            score(get_task("bbh_snarks"), doc, ModelResponse(text=outputs))


def test_aggregates():
    aggregates = config(get_task("ifeval")).metrics[0].get_corpus_aggregations()
    assert aggregates["inst_level_strict_acc"]([[1, 0, 0], [1]]) == 0.5  # over instructions, not over prompts
    assert aggregates["prompt_level_strict_acc"]([1, 0, 0, 0]) == 0.25
