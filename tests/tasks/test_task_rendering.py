"""Golden contexts and token splits, plain and chat, with the embedded model's own tokenizer and template."""

from __future__ import annotations

import pytest

from evals.models.loading import load_tokenizer
from evals.prompting.requests import TextToRequests
from tasks import get_task
from tasks.common.fewshot import evaluation_docs
from tasks.mt_bench import follow_up

pytestmark = pytest.mark.model

SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)


@pytest.fixture(scope="module")
def tokenizer(embedded_path):
    return load_tokenizer(embedded_path, chat=True)


def chat(*turns):
    """The template's text, written out: turns are (user, assistant, user, ...)."""
    text = SYSTEM
    for i, turn in enumerate(turns):
        text += f"<|im_start|>{('user', 'assistant')[i % 2]}\n{turn}<|im_end|>\n"
    return text + "<|im_start|>assistant"  # and "\n": white space at the end moves to the continuation


LETTERED = {"text": ["red", "dark blue"], "label": ["A", "B"]}

# task: (row, plain context, plain continuations, the user's turn in chat, chat continuations)
LIKELIHOOD = {
    "hellaswag": (
        {
            "activity_label": "Sailing",
            "ctx_a": "Two girls pull up a sail.",
            "ctx_b": "the boat",
            "endings": ["turns into the wind.", "sinks."],
            "label": "0",
        },
        "Sailing: Two girls pull up a sail. The boat",
        ["  turns into the wind.", "  sinks."],
        "Sailing: Two girls pull up a sail. The boat ",
        ["\n turns into the wind.", "\n sinks."],
    ),
    "arc_challenge": (
        {"question": "What colour is the sea?", "choices": LETTERED, "answerKey": "B"},
        "Question: What colour is the sea?\nAnswer:",
        [" red", " dark blue"],
        "Question: What colour is the sea?\nAnswer:",
        ["\n red", "\n dark blue"],
    ),
    "arc_easy": (
        {"question": "What colour is blood?", "choices": LETTERED, "answerKey": "A"},
        "Question: What colour is blood?\nAnswer:",
        [" red", " dark blue"],
        "Question: What colour is blood?\nAnswer:",
        ["\n red", "\n dark blue"],
    ),
    "piqa": (
        {"goal": "Open a nut", "sol1": "Crack it.", "sol2": "Ask it.", "label": 0},
        "Question: Open a nut\nAnswer:",
        [" Crack it.", " Ask it."],
        "Question: Open a nut\nAnswer:",
        ["\n Crack it.", "\n Ask it."],
    ),
    "mmlu": (
        {"question": "What is 2 + 2?", "subject": "college_mathematics", "choices": ["3", "4"], "answer": 1},
        "The following are questions about college mathematics.\nQuestion: What is 2 + 2?\nAnswer:",
        [" 3", " 4"],
        "The following are questions about college mathematics.\nQuestion: What is 2 + 2?\nAnswer:",
        ["\n 3", "\n 4"],
    ),
    "commonsense_qa": (
        {"question": "What colour is a ripe tomato?", "choices": LETTERED, "answerKey": "A"},
        "What colour is a ripe tomato?",
        [" red", " dark blue"],
        "What colour is a ripe tomato?",
        ["\n red", "\n dark blue"],
    ),
    "winogrande": (
        {
            "sentence": "The key sticks since the _ is bent.",
            "option1": "key",
            "option2": "lock",
            "answer": "1",
        },
        "The key sticks since the",
        [" key is bent.", " lock is bent."],
        "The key sticks since the ",
        ["\nkey is bent.", "\nlock is bent."],
    ),
    "openbook_qa": (
        {"question_stem": "A clear sky at noon is", "choices": LETTERED, "answerKey": "B"},
        "A clear sky at noon is",
        [" red", " dark blue"],
        "A clear sky at noon is",
        ["\n red", "\n dark blue"],
    ),
}


@pytest.mark.parametrize("in_chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("name", LIKELIHOOD)
def test_likelihood_context_and_split(tokenizer, name, in_chat):
    row, plain, plain_parts, user, chat_parts = LIKELIHOOD[name]
    (doc,) = evaluation_docs(get_task(name), [row])
    (requests,) = TextToRequests(tokenizer, in_chat).score_requests([doc])
    context, parts = (chat(user), chat_parts) if in_chat else (plain, plain_parts)
    assert len(requests) == len(parts)
    for request, part in zip(requests, parts, strict=True):
        split = len(request.tokens) - request.n_continuation
        assert tokenizer.decode(request.tokens[:split]) == context
        assert tokenizer.decode(request.tokens[split:]) == part


def test_token_pieces(tokenizer):
    (doc,) = evaluation_docs(get_task("hellaswag"), [LIKELIHOOD["hellaswag"][0]])
    for in_chat, pieces in ((False, ["Ġ", "Ġturns"]), (True, ["Ċ", "Ġturns"])):
        (requests,) = TextToRequests(tokenizer, in_chat).score_requests([doc])
        continuation = requests[0].tokens[-requests[0].n_continuation :]
        assert tokenizer.convert_ids_to_tokens(continuation)[:2] == pieces


def gsm8k_rows(n):
    return [{"question": f"What is {i} and {i}?", "answer": f"Twice {i}.\n#### {2 * i}"} for i in range(n)]


def test_gsm8k_plain_and_chat(tokenizer):
    doc = evaluation_docs(get_task("gsm8k"), gsm8k_rows(1), gsm8k_rows(9))[0]
    # random.Random(42).sample(range(9), 5): the shuffle of a single doc draws nothing
    shots = [1, 0, 5, 2, 8]
    assert [int(shot.id) for shot in doc.fewshot_samples] == shots
    plain = "".join(f"Question: What is {i} and {i}?\nAnswer: Twice {i}.\n#### {2 * i}\n\n" for i in shots)
    plain += "Question: What is 0 and 0?\nAnswer:"
    turns = [
        text
        for i in shots
        for text in (f"Question: What is {i} and {i}?\nAnswer:", f" Twice {i}.\n#### {2 * i}")
    ]
    check(tokenizer, doc, plain, chat(*turns, "Question: What is 0 and 0?\nAnswer:") + "\n", 256, 2)


def test_bbh_plain_and_chat(tokenizer):
    rows = [{"input": f"not {side} is", "target": str(not side)} for side in (True, False, True, False)]
    doc = next(d for d in evaluation_docs(get_task("bbh_boolean_expressions"), rows) if d.id == "0")
    shots = [(shot.query, shot.choices[0]) for shot in doc.fewshot_samples]
    assert sorted(shots) == [
        ("Question: not False is\nAnswer: ", "True"),
        ("Question: not False is\nAnswer: ", "True"),
        ("Question: not True is\nAnswer: ", "False"),
    ]
    plain = "\n\n".join(query + target for query, target in shots) + "\n\nQuestion: not True is\nAnswer: "
    turns = [text for shot in shots for text in shot]
    request = check(tokenizer, doc, plain, chat(*turns, "Question: not True is\nAnswer: ") + "\n", None, 2)
    assert request.max_new_tokens == 2048 - len(request.prompt)


def test_trivia_qa_plain_and_chat(tokenizer):
    row = {"question": "Who lives in a hive?", "answer": {"aliases": ["Bees"]}}
    (doc,) = evaluation_docs(get_task("trivia_qa"), [row])
    text = "Question: Who lives in a hive?\nAnswer:"
    check(tokenizer, doc, text, chat(text) + "\n", 20, 2)


def test_ifeval_plain_and_chat(tokenizer):
    row = {"prompt": "Hi, no commas. ", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    (doc,) = evaluation_docs(get_task("ifeval"), [row])
    check(tokenizer, doc, "Hi, no commas. ", chat("Hi, no commas. ") + "\n", 1280, 0)


def test_mt_bench_second_turn_in_chat(tokenizer):
    row = {"question_id": 3, "category": "writing", "turns": ["Say hi.", "Again."], "reference": []}
    (first,) = evaluation_docs(get_task("mt_bench"), [row])
    second = follow_up(first, "Hi!\n")
    (one,) = TextToRequests(tokenizer, True).generate_requests([first])
    (two,) = TextToRequests(tokenizer, True).generate_requests([second])
    assert tokenizer.decode(one.prompt) == chat("Say hi.") + "\n"
    assert tokenizer.decode(two.prompt) == chat("Say hi.", "Hi!\n", "Again.") + "\n"
    assert (one.temperature, two.temperature, one.max_new_tokens) == (0.7, 0.7, 1024)
    assert one.seed != two.seed


def check(tokenizer, doc, plain, in_chat, budget, n_stops):
    """Compares both renderings, the budget and the stops; gives the plain request."""
    (request,) = TextToRequests(tokenizer, False).generate_requests([doc])
    (chat_request,) = TextToRequests(tokenizer, True).generate_requests([doc])
    assert tokenizer.decode(request.prompt) == plain
    assert tokenizer.decode(chat_request.prompt) == in_chat
    assert (len(request.stops), len(chat_request.stops)) == (n_stops, 0)
    assert (request.temperature, chat_request.temperature) == (0.0, 0.0)
    if budget is not None:
        assert request.max_new_tokens == chat_request.max_new_tokens == budget
    return request
