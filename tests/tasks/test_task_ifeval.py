"""IFEval's checks on hand-made answers; offline, deterministic, strict and loose."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from lighteval.models.model_output import ModelResponse

from tasks import get_task
from tasks.common.ifeval_checks import build, follow, variants
from tasks.common.metrics import score

ENGLISH = "the cat likes to sleep in the warm kitchen because the stove is on all day"
FRENCH = "Le chat aime dormir dans la cuisine, car il y fait chaud toute la journée."

# instruction, arguments, an answer that follows it, one that does not
CASES = [
    ("punctuation:no_comma", {}, "no comma here", "one, two"),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 3}, "one two three", "one two"),
    (
        "length_constraints:number_words",
        {"relation": "less than", "num_words": 3},
        "one two",
        "one two three",
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 2},
        "Dr. Smith came at 5 p.m. to see Mr. Jones.",  # one sentence to the punkt model
        "It rains. We stay.",
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "at least", "num_sentences": 3},
        "It rains. We stay! Do you?",
        "It rains on Elm St. today. We stay.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First this.\n\nThen, that.",
        "Then this.\n\nFirst that.",
    ),
    ("keywords:existence", {"keywords": ["bee", "honey"]}, "Bees make honey.", "Bees sting."),
    ("keywords:forbidden_words", {"forbidden_words": ["bee"]}, "Beehives and bees.", "A bee."),
    (
        "keywords:frequency",
        {"relation": "at least", "keyword": "bee", "frequency": 2},
        "Bee, oh bee.",
        "A bee.",
    ),
    (
        "keywords:letter_frequency",
        {"let_relation": "less than", "letter": "z", "let_frequency": 2},
        "One zebra.",
        "Zigzag",
    ),
    ("language:response_language", {"language": "fr"}, FRENCH, ENGLISH),
    ("change_case:english_lowercase", {}, ENGLISH, ENGLISH.capitalize()),
    ("change_case:english_capital", {}, ENGLISH.upper(), ENGLISH),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        "NASA met the ESA-team and UNESCO.",
        "NASA met nobody.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] in [town]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\nP.S. Call me", "Bye"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", "* one\n* two\n* three"),
    ("detectable_format:constrained_response", {}, "My answer is maybe.", "Perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*one* and **two**", "*one*"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', '{"a": [1}'),
    ("detectable_format:title", {}, "<<Spring>>\nIt is green.", "Spring\nIt is green."),
    ("combination:two_responses", {}, "one\n******\ntwo", "one\n******\none"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "Say hi. Hi!", "Hi! Say hi."),
    ("startend:end_checker", {"end_phrase": "That is all."}, "Well. That is all.", "That is all. Bye."),
    ("startend:quotation", {}, '"All of it."', 'Half "of it."'),
]


def test_every_kind_of_instruction_has_a_case():
    from lighteval.tasks.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert set(INSTRUCTION_DICT) == {case[0] for case in CASES}


@pytest.mark.parametrize(("instruction", "kwargs", "good", "bad"), CASES, ids=lambda case: str(case)[:40])
def test_instruction(instruction, kwargs, good, bad):
    assert follow("p", [instruction], [kwargs], good)[0] == [1]
    assert follow("p", [instruction], [kwargs], bad)[0] == [0]


def test_an_empty_answer_follows_nothing():
    instructions = ["punctuation:no_comma", "keywords:forbidden_words"]
    kwargs = [{}, {"forbidden_words": ["bee"]}]
    for nothing in ("", " \n\t"):
        assert follow("p", instructions, kwargs, nothing) == ([0, 0], [0, 0])


def test_the_eight_variants():
    assert variants("*a*\nb\nc") == [
        "*a*\nb\nc",
        "b\nc",
        "*a*\nb",
        "b",
        "a\nb\nc",
        "b\nc",
        "a\nb",
        "b",
    ]
    assert set(variants("one line")) == {"one line", ""}


@pytest.mark.parametrize(
    "answer",
    ['Sure, here it is:\n{"a": 1}', '{"a": 1}\nHope, that helps!', 'Sure:\n{"a": 1}\nDone.', '**{"a": 1}**'],
)
def test_loose_forgives_a_first_line_a_last_line_and_asterisks(answer):
    assert follow("p", ["detectable_format:json_format"], [{}], answer) == ([0], [1])


def test_prompt_level_needs_all_instructions():
    row = {
        "prompt": "Name two trees.",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{"num_words": None}, {}],
    }
    task = get_task("ifeval")
    doc = task.prompt(row, "ifeval")
    assert score(task, doc, ModelResponse(text=["Here:\noak and elm"])) == {
        "prompt_level_strict_acc": 0,
        "prompt_level_loose_acc": 0,
        "inst_level_strict_acc": [1, 0],
        "inst_level_loose_acc": [1, 0],
    }
    assert score(task, doc, ModelResponse(text=["Well, here:\n<<Trees>> oak and elm"])) == {
        "prompt_level_strict_acc": 0,
        "prompt_level_loose_acc": 1,
        "inst_level_strict_acc": [0, 1],
        "inst_level_loose_acc": [1, 1],
    }


def test_a_wall_of_brackets_is_no_json_and_no_crash():
    assert follow("p", ["detectable_format:json_format"], [{}], "[" * 100_000) == ([0], [0])


def test_language_checks_do_not_waver():
    text = "No alarm 7"  # so short that an unseeded detector changes its mind
    answers = {
        follow("p", ["language:response_language"], [{"language": "en"}], text)[0][0] for _ in range(30)
    }
    assert len(answers) == 1


def test_odd_arguments_are_drawn_the_same_each_time():
    kwargs = {"letter": "#", "let_relation": "at least", "let_frequency": 2}
    letters = {
        build("keywords:letter_frequency", kwargs, "p").get_instruction_args()["letter"] for _ in range(20)
    }
    assert len(letters) == 1


def test_building_leaves_the_global_generator_alone():
    random.seed(1)
    expected = random.random()
    random.seed(1)
    build("keywords:letter_frequency", {}, "p")
    assert random.random() == expected


@pytest.mark.parametrize(
    ("instruction", "kwargs"),
    [
        ("punctuation:none", {}),
        ("punctuation:no_comma", {"num_words": 3}),
        ("length_constraints:number_words", {"num_words": "many"}),
        ("length_constraints:number_words", {"relation": "about"}),
        ("combination:repeat_prompt", {}),
        ("keywords:existence", {"keywords": 7}),
        ("keywords:existence", {"keywords": ["(unclosed"]}),
        ("keywords:forbidden_words", {"forbidden_words": ["[a"]}),
        ("keywords:frequency", {"keyword": "*", "frequency": 1, "relation": "at least"}),
    ],
)
def test_wrong_instructions_are_found_when_they_are_read(instruction, kwargs):
    with pytest.raises(ValueError, match=instruction):
        build(instruction, kwargs, "p")


OFFLINE = """
import socket
tried = []
def refuse(*args, **kwargs):
    tried.append(args)
    raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = refuse
import pickle
pickle.load = pickle.loads = refuse
from tasks.common.ifeval_checks import follow
print(follow("p", ["length_constraints:number_sentences", "change_case:capital_word_frequency"],
             [{"num_sentences": 2, "relation": "at least"}, {"capital_frequency": 1, "capital_relation": "at least"}],
             "It RAINS. We stay."))
print(len(tried))
"""


def test_checks_need_no_network_no_pickle_and_no_nltk_data(tmp_path):
    root = Path(__file__).resolve().parents[2]
    environment = {"PYTHONPATH": str(root), "HOME": str(tmp_path), "NLTK_DATA": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["([1, 1], [1, 1])", "0"]
    assert list(tmp_path.iterdir()) == []
