"""Golden prompts: for every task, a hand-made row and the exact text that the protocol makes of it."""

from __future__ import annotations

import pytest

from tasks import TASKS, get_task
from tasks.hellaswag import clean
from tasks.mt_bench import follow_up

WITH_LETTERS = "\n A. red\n B. dark blue\nAnswer:"
LETTERED = {"text": ["red", "dark blue"], "label": ["A", "B"]}

COLOUR = {"question": "What colour is the sea?", "choices": LETTERED, "answerKey": "B"}
SKY = {"question_stem": "A clear sky is", "choices": LETTERED, "answerKey": "B"}
NUT = {"goal": "Open a nut", "sol1": "Crack it.", "sol2": " Ask it.", "label": 0}
HIVE = {"passage": "Hive -- Bees live in it.", "question": "do cats live in a hive", "label": 0}
VISIT = {
    "context": "Ida came.", "question": "How does Tom feel?", "answerA": "glad", "answerB": "tall", "answerC": "blue",
    "label": "3",
}  # fmt: skip
BIOLOGY = {
    "question": "How many legs has an ant?", "subject": "high_school_biology", "choices": ["4", "6"], "answer": 1
}  # fmt: skip
LOCK = {"sentence": "The _ is bent, it sticks. ", "option1": "key", "option2": "lock", "answer": "2"}
SAIL = {
    "activity_label": "Sailing", "ctx_a": "Two girls pull up a sail.", "ctx_b": "the Boat",
    "endings": [" turns into the wind.", "[step] Wait."], "label": "1",
}  # fmt: skip

# OLMES: task: (row, query of the completions, choices, query of the letters, gold); letters follow from the choices
OLMES = {
    "arc_easy": (COLOUR, "Question: What colour is the sea?\nAnswer:", [" red", " dark blue"],
                 f"Question: What colour is the sea?{WITH_LETTERS}", 1),
    "piqa": (NUT, "Goal: Open a nut\nAnswer:", [" Crack it.", "  Ask it."],
             "Goal: Open a nut\n A. Crack it.\n B.  Ask it.\nAnswer:", 0),
    "boolq": (HIVE, "Hive -- Bees live in it.\nQuestion: do cats live in a hive?\nAnswer:", [" yes", " no"],
              "Hive -- Bees live in it.\nQuestion: do cats live in a hive?\n A. yes\n B. no\nAnswer:", 1),
    "social_iqa": (VISIT, "Question: Ida came. How does Tom feel?\nAnswer:", [" glad", " tall", " blue"],
                   "Question: Ida came. How does Tom feel?\n A. glad\n B. tall\n C. blue\nAnswer:", 2),
    "openbook_qa": (SKY, "Question: A clear sky is\nAnswer:",
                    [" red", " dark blue"], f"Question: A clear sky is{WITH_LETTERS}", 1),
    "mmlu": (BIOLOGY, "Question: How many legs has an ant?\nAnswer:", [" 4", " 6"],
             "Question: How many legs has an ant?\n A. 4\n B. 6\nAnswer:", 1),
    "winogrande": (LOCK, "The ", [" is bent, it sticks."] * 2,
                   "Fill in the blank: The ___ is bent, it sticks. \n A. key\n B. lock\nAnswer:", 1),
    "hellaswag": (SAIL, "Sailing: Two girls pull up a sail. The boat", [" turns into the wind.", "  Wait."],
                  "Sailing: Two girls pull up a sail. The boat\nChoose the best continuation:\n"
                  " A. turns into the wind.\n B. Wait.\nAnswer:", 1),
}  # fmt: skip
OLMES |= dict.fromkeys(("arc_challenge", "commonsense_qa"), OLMES["arc_easy"])

# task: (row, query, choices, gold)
GOLDEN = {
    **{
        f"smollm3_{name}": (COLOUR, "Question: What colour is the sea?\nAnswer:", [" Red", " Dark blue"], 1)
        for name in ("arc_easy", "arc_challenge", "commonsense_qa")
    },
    "smollm3_piqa": (NUT, "Question: Open a nut\nAnswer:", [" Crack it.", "  Ask it."], 0),
    "smollm3_openbook_qa": (SKY, "Question: A clear sky is\nAnswer:", [" Red", " Dark blue"], 1),
    "smollm3_mmlu": (BIOLOGY, "Question: How many legs has an ant?\nAnswer:", [" 4", " 6"], 1),
    "smollm3_winogrande": (LOCK, "The", [" key  is bent, it sticks.", " lock  is bent, it sticks."], 1),
    "smollm3_hellaswag": (
        SAIL,
        "Sailing:\nTwo girls pull up a sail. The Boat",
        [" turns into the wind.", " wait."],
        1,
    ),
    **{
        f"olmes_{name}": (row, query, choices, gold) for name, (row, query, choices, _, gold) in OLMES.items()
    },
    **{
        f"olmes_{name}_mc": (row, query, [f" {letter}" for letter in "ABC"[: len(choices)]], gold)
        for name, (row, _, choices, query, gold) in OLMES.items()
    },
    "hellaswag": (
        {
            "activity_label": "Sailing",
            "ctx_a": "Two girls pull up a sail.",
            "ctx_b": "the Boat",
            "endings": ["turns into the wind.", "eats [x] a  cake."],
            "label": "1",
        },
        "Sailing: Two girls pull up a sail. The boat ",
        [" turns into the wind.", " eats a cake."],
        1,
    ),
    "arc_easy": (
        {"question": "What colour is the sea?", "choices": LETTERED, "answerKey": "B"},
        "Question: What colour is the sea?\nAnswer:",
        [" red", " dark blue"],
        1,
    ),
    "arc_challenge": (
        {
            "question": "What colour is blood?",
            "choices": {"text": ["blue", "red", "green"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        },
        "Question: What colour is blood?\nAnswer:",
        [" blue", " red", " green"],
        1,
    ),
    "piqa": (
        {"goal": "Open a nut", "sol1": "Crack it.", "sol2": "Ask it.", "label": 0},
        "Question: Open a nut\nAnswer:",
        [" Crack it.", " Ask it."],
        0,
    ),
    "mmlu": (
        {
            "question": "How many legs has an ant?",
            "subject": "high_school_biology",
            "choices": ["4", "6", "8", "10"],
            "answer": 1,
        },
        "The following are questions about high school biology.\nQuestion: How many legs has an ant?\nAnswer:",
        [" 4", " 6", " 8", " 10"],
        1,
    ),
    "commonsense_qa": (
        {"question": "What colour is a ripe tomato?", "choices": LETTERED, "answerKey": "A"},
        "What colour is a ripe tomato?",
        [" red", " dark blue"],
        0,
    ),
    "winogrande": (
        {
            "sentence": "The key does not fit the lock because the _ is bent. ",
            "option1": "key",
            "option2": "lock",
            "answer": "1",
        },
        "The key does not fit the lock because the ",
        ["key is bent.", "lock is bent."],
        0,
    ),
    "openbook_qa": (
        {"question_stem": "A clear sky at noon is", "choices": LETTERED, "answerKey": "B"},
        "A clear sky at noon is",
        [" red", " dark blue"],
        1,
    ),
    "trivia_qa": (
        {"question": "Who lives in a hive?", "answer": {"aliases": ["The bees!", "Bees", "Bees (insect)"]}},
        "Question: Who lives in a hive?\nAnswer:",
        ["bees", "the bees"],
        [0, 1],
    ),
    "gsm8k": (
        {"question": "What is 2 and 3?", "answer": "It is 2 + 3 = <<2+3=5>>5.\n#### 5"},
        "Question: What is 2 and 3?\nAnswer:",
        [" It is 2 + 3 = <<2+3=5>>5.\n#### 5"],
        0,
    ),
    "ifeval": (
        {
            "prompt": "Write a line without commas. ",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{"num_words": None}],
        },
        "Write a line without commas. ",
        [],
        [],
    ),
    "mt_bench": (
        {
            "question_id": 7,
            "category": "roleplay",
            "turns": ["You are a cat. Hello!", "And now a dog."],
            "reference": [],
        },
        "You are a cat. Hello!",
        [],
        [],
    ),
    **{
        task.name: (
            {"input": "not False is", "target": "True"},
            "Question: not False is\nAnswer: ",
            ["True"],
            0,
        )
        for task in TASKS.values()
        if task.name.startswith("bbh_")
    },
}


def test_every_task_has_a_golden_prompt():
    assert {task.name for task in TASKS.values()} == set(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_prompt(name):
    row, query, choices, gold = GOLDEN[name]
    doc = get_task(name).prompt(row, name)
    assert (doc.query, doc.choices, doc.gold_index) == (query, choices, gold)
    assert doc.task_name == name
    if "mmlu" not in name or "olmes" not in name:
        assert doc.instruction is None  # lighteval would put a blank line around one


def test_what_only_some_docs_have():
    doc = get_task("olmes_mmlu_mc").prompt(BIOLOGY, "olmes_mmlu_mc")
    about = "The following are multiple choice questions (with answers) about high school biology.\n\n"
    assert (doc.instruction, doc.specific) == (about, {"group": "high_school_biology"})
    assert get_task("olmes_winogrande").prompt(LOCK, "").specific == {"openings": ["key", "lock"]}
    asked_twice = {name for name, task in TASKS.items() if task.unconditioned == "Answer:"}
    assert asked_twice == {"olmes_arc_challenge", "olmes_commonsense_qa", "olmes_openbook_qa"}


@pytest.mark.parametrize(
    ("scene", "cleaned"),
    [
        ("How to bake [title] Mix flour.", "How to bake. Mix flour."),
        ("[header] One [step] two [substeps] three", " One two three"),
        ("a [b] c [d] e", "a c e"),
        ("four    spaces", "four  spaces"),  # one pass: pairs, not runs
        ("open [bracket", "open [bracket"),
    ],
)
def test_hellaswag_cleaning(scene, cleaned):
    assert clean(scene) == cleaned


def test_hellaswag_without_second_part_keeps_one_trailing_space():
    row = {**GOLDEN["hellaswag"][0], "ctx_b": ""}
    assert get_task("hellaswag").prompt(row, "").query == "Sailing: Two girls pull up a sail. "


def test_mmlu_group_is_the_subject():
    doc = get_task("mmlu").prompt(GOLDEN["mmlu"][0], "mmlu")
    assert doc.specific == {"group": "high_school_biology"}


def test_ifeval_drops_only_null_arguments():
    row = {
        "prompt": "p",
        "instruction_id_list": ["length_constraints:number_words"],
        "kwargs": [{"num_words": 0, "relation": "at least", "language": None}],
    }
    doc = get_task("ifeval").prompt(row, "ifeval")
    assert doc.specific == {
        "item_names": ["length_constraints:number_words"],
        "kwargs": [{"num_words": 0, "relation": "at least"}],
    }


@pytest.mark.parametrize(
    ("category", "temperature"),
    [
        ("writing", 0.7),
        ("roleplay", 0.7),
        ("stem", 0.1),
        ("humanities", 0.1),
        ("math", 0.0),
        ("reasoning", 0.0),
        ("coding", 0.0),
        ("extraction", 0.0),
    ],
)
def test_mt_bench_temperature_by_category(category, temperature):
    row = {**GOLDEN["mt_bench"][0], "category": category}
    specific = get_task("mt_bench").prompt(row, "mt_bench").specific
    assert (specific["group"], specific["temperature"]) == (category, temperature)


def test_mt_bench_second_turn_sees_the_first_and_its_answer():
    first = get_task("mt_bench").prompt(GOLDEN["mt_bench"][0], "mt_bench")
    second = follow_up(first, " Meow\n")
    assert second.query == "And now a dog."
    assert [(shot.query, shot.choices[shot.gold_index]) for shot in second.fewshot_samples] == [
        ("You are a cat. Hello!", " Meow\n")
    ]
    assert (first.specific["turn"], second.specific["turn"]) == (1, 2)
    assert first.fewshot_samples == []


def test_mt_bench_seeds_differ_by_question_and_turn():
    task = get_task("mt_bench")
    seeds = []
    for question in range(81, 161):
        first = task.prompt({**GOLDEN["mt_bench"][0], "question_id": question}, "mt_bench")
        seeds += [first.specific["seed"], follow_up(first, "").specific["seed"]]
    assert len(set(seeds)) == 160


@pytest.mark.parametrize(
    ("given", "kept"),
    [(None, []), ([], []), ([""], []), (["4", "8"], ["4", "8"]), (["4"], ["4", ""]), (["", "8"], ["", "8"])],
)
def test_mt_bench_references(given, kept):
    doc = get_task("mt_bench").prompt({**GOLDEN["mt_bench"][0], "reference": given}, "mt_bench")
    assert doc.specific["reference"] == kept


@pytest.mark.parametrize(
    ("name", "budget", "stops", "shots"),
    [
        ("trivia_qa", 20, ("Question:", "Question"), 0),
        ("gsm8k", 256, ("Question:", "Question"), 5),
        ("bbh_snarks", None, ("Question:", "Question"), 3),
        ("ifeval", 1280, (), 0),
        ("mt_bench", 1024, (), 0),
    ],
)
def test_generation_settings(name, budget, stops, shots):
    task = get_task(name)
    assert (task.budget, task.stops, task.shots) == (budget, stops, shots)


LABEL_COLUMN = {"hellaswag": "label", "piqa": "label", "mmlu": "answer", "winogrande": "answer"}


@pytest.mark.parametrize("name", LABEL_COLUMN)
@pytest.mark.parametrize("label", [-1, 9, "9", "", None, True, 0.5, "A"])
def test_label_out_of_range_or_odd(name, label):
    column = LABEL_COLUMN[name]
    with pytest.raises(ValueError, match=f"'{column}'"):
        get_task(name).prompt({**GOLDEN[name][0], column: label}, name)


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge", "commonsense_qa", "openbook_qa"])
@pytest.mark.parametrize("answer", ["E", "0", "", None, 1])
def test_answer_key_must_be_a_label(name, answer):
    with pytest.raises(ValueError, match="'answerKey'"):
        get_task(name).prompt({**GOLDEN[name][0], "answerKey": answer}, name)


@pytest.mark.parametrize(
    "choices",
    [
        None,
        ["red", "blue"],
        {"text": ["red"], "label": ["A"]},
        {"text": ["red", "blue"], "label": ["A"]},
        {"text": ["red", "blue", "green"], "label": ["A", "B"]},
        {"text": ["red", "blue"], "label": ["A", "A"]},
        {"text": ["red", ""], "label": ["A", "B"]},
        {"text": "red", "label": ["A", "B"]},
        {"text": ["red", "blue"]},
    ],
)
def test_lettered_choices_must_fit(choices):
    row = {"question": "?", "choices": choices, "answerKey": "A"}
    with pytest.raises(ValueError, match=r"label|text|choices"):
        get_task("arc_easy").prompt(row, "arc_easy")


@pytest.mark.parametrize("name", GOLDEN)
def test_missing_columns_are_named(name):
    task, row = get_task(name), GOLDEN[name][0]
    assert set(task.columns) == set(row)
    for column in task.columns:
        rest = {key: value for key, value in row.items() if key != column}
        with pytest.raises(ValueError, match=column):
            task.prompt(rest, name)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("value", [None, 3.5, ["x"], " \n", "half a pair \ud800"])
def test_text_must_be_text(name, value):
    row = GOLDEN[name][0]
    may_be_blank = ("ctx_a", "ctx_b") if isinstance(value, str) and not value.strip() else ()
    for column in (key for key, field in row.items() if isinstance(field, str) and key not in may_be_blank):
        with pytest.raises(ValueError, match=column):
            get_task(name).prompt({**row, column: value}, name)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("winogrande", {"sentence": "no gap here"}, "0 gaps"),
        ("winogrande", {"sentence": "a _ and a _"}, "2 gaps"),
        ("gsm8k", {"answer": "It is 5."}, "no final answer"),
        ("trivia_qa", {"answer": {"aliases": []}}, "aliases"),
        ("trivia_qa", {"answer": {"aliases": ["a", ""]}}, "aliases"),
        ("trivia_qa", {"answer": "bees"}, "aliases"),
        ("mt_bench", {"category": "poetry"}, "poetry"),
        ("mt_bench", {"turns": ["one"]}, "turns"),
        ("mt_bench", {"turns": ["one", "two", "three"]}, "turns"),
        ("mt_bench", {"reference": ["a", "b", "c"]}, "reference"),
        ("mt_bench", {"question_id": "x"}, "question_id"),
        ("ifeval", {"instruction_id_list": ["punctuation:none"]}, "punctuation:none"),
        ("ifeval", {"kwargs": []}, "kwargs"),
        ("ifeval", {"kwargs": [None]}, "kwargs"),
        ("ifeval", {"kwargs": [{"num_words": 3}]}, "punctuation:no_comma"),
    ],
)
def test_odd_rows(name, change, message):
    with pytest.raises(ValueError, match=message):
        get_task(name).prompt({**GOLDEN[name][0], **change}, name)
