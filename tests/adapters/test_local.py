"""The default adapter on the embedded model: tokens at the seam, windows, budgets; scores against a naive reference."""

from __future__ import annotations

import pytest
import torch
from lighteval.tasks.requests import Doc

from evals.adapters.local import PrefixModel, end_tokens
from evals.core.errors import UserError
from evals.core.requests import ScoreRequest
from evals.data.sources import build_docs, load, parse_source
from evals.models import loading
from evals.models.known import resolve
from evals.prompting import text as prompts
from evals.prompting.requests import TextToRequests
from tasks import get_task
from tests.support.tiny_checkpoint import write_tiny_model

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def loaded(embedded: loading.LoadedModel) -> loading.LoadedModel:
    return embedded


def pieces(tokenizer, request: ScoreRequest) -> tuple[list[str], list[str]]:
    words = [tokenizer.decode([token]) for token in request.tokens]
    split = len(words) - request.n_continuation
    return words[:split], words[split:]


def scored(loaded, doc: Doc, chat: bool) -> list[tuple[list[str], list[str]]]:
    (group,) = TextToRequests(loaded.tokenizer, chat).score_requests([doc])
    return [pieces(loaded.tokenizer, request) for request in group]


def test_plain_split_is_at_the_contexts_end(loaded):
    doc = Doc(query="Question: Why?\nAnswer:", choices=[" So.", " Because it is"], gold_index=0)
    context = ["Question", ":", " Why", "?", "\n", "Answer", ":"]
    assert scored(loaded, doc, chat=False) == [(context, [" So", "."]), (context, [" Because", " it", " is"])]


def test_space_at_the_contexts_end_moves_to_the_choice(loaded):
    doc = Doc(query="Ann called ", choices=["Bob at once."], gold_index=0)
    assert scored(loaded, doc, chat=False) == [(["Ann", " called"], [" Bob", " at", " once", "."])]


def test_chat_choice_begins_with_the_templates_newline(loaded):
    doc = Doc(query="Hi", choices=[" yes"], gold_index=0)
    ((context, continuation),) = scored(loaded, doc, chat=True)
    assert "".join(context).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant")
    assert continuation == ["\n", " yes"]


def test_a_choice_that_merges_into_the_context_splits_one_token_earlier(loaded):
    doc = Doc(query="wait un", choices=["til"], gold_index=0)  # " until" is one token
    assert scored(loaded, doc, chat=False) == [(["wait"], [" until"])]


def test_no_token_is_added(loaded):
    (group,) = TextToRequests(loaded.tokenizer, False).score_requests(
        [Doc(query="A", choices=[" b"], gold_index=0)]
    )
    assert len(group[0].tokens) == 2


def test_window_cuts_from_the_left(loaded):
    doc = Doc(query="word " * 3000, choices=[" end"], gold_index=0)
    (group,) = TextToRequests(loaded.tokenizer, False, max_length=16).score_requests([doc])
    assert len(group[0].tokens) == 17 and loaded.tokenizer.decode([group[0].tokens[-1]]) == " end"


@pytest.mark.parametrize(
    ("query", "budget", "tokens", "new"),
    [
        ("one two three", 5, 3, 5),
        ("one two three", 50, 3, 13),
        ("one two three", None, 3, 13),
        ("a " * 40, 5, 15, 1),
    ],
)
def test_budget_ends_at_the_window(loaded, query, budget, tokens, new):
    doc = Doc(query=query, choices=[], gold_index=[], generation_size=budget)
    (request,) = TextToRequests(loaded.tokenizer, False, max_length=16).generate_requests([doc])
    assert (len(request.prompt), request.max_new_tokens) == (tokens, new)


def test_stops_count_in_plain_mode_only(loaded):
    doc = Doc(query="x", choices=[], gold_index=[], generation_size=4, stop_sequences=["Question"])
    assert TextToRequests(loaded.tokenizer, False).generate_requests([doc])[0].stops == ("Question",)
    assert TextToRequests(loaded.tokenizer, True).generate_requests([doc])[0].stops == ()


def test_shots_that_do_not_fit_are_dropped_from_the_end(loaded):
    shots = [Doc(query=f"q{i} " + "pad " * 10, choices=[" a"], gold_index=0) for i in range(4)]
    doc = Doc(query="last", choices=[], gold_index=[], generation_size=10, fewshot_samples=shots)
    (request,) = TextToRequests(loaded.tokenizer, False, max_length=50).generate_requests([doc])
    text = loaded.tokenizer.decode(request.prompt)
    assert "q0" in text and "q1" in text and "q2" not in text and text.endswith("\n\nlast")


def test_end_of_turn_token_is_read_off_the_template(loaded):
    assert loaded.tokenizer.convert_tokens_to_ids("<|im_end|>") in end_tokens(loaded, chat=True)


def naive(model, tokenizer, context: str, choice: str) -> float:
    """The protocol written down once more, with nothing of the project's: one sequence, float32, summed."""
    bare = context.rstrip()
    choice = context[len(bare) :] + choice
    whole = tokenizer.encode(bare + choice, add_special_tokens=False)
    split = len(tokenizer.encode(bare, add_special_tokens=False))
    split = split if split < len(whole) else len(whole) - 1
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0].float()
    logprobs = torch.log_softmax(logits, -1)
    return sum(float(logprobs[i - 1, whole[i]]) for i in range(split, len(whole)))


@pytest.mark.data
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    "name",
    ["arc_easy", "winogrande", *(pytest.param(n, marks=pytest.mark.slow) for n in ("hellaswag", "mmlu"))],
)
def test_scores_equal_a_naive_reference_on_real_docs(loaded, data_dir, name, chat):
    task = get_task(name)
    docs = build_docs(task, load(task, parse_source(str(data_dir))), limit=2)
    for response, doc in zip(PrefixModel(loaded, chat).loglikelihood(docs), docs, strict=True):
        context = prompts.render(doc, loaded.tokenizer, chat)
        expected = [naive(loaded.model, loaded.tokenizer, context, choice) for choice in doc.choices]
        assert response.logprobs == pytest.approx(expected, abs=1e-4)


def test_missing_template_is_one_line(loaded):
    template, loaded.tokenizer.chat_template = loaded.tokenizer.chat_template, None
    try:
        with pytest.raises(UserError, match="no chat template"):
            PrefixModel(loaded, chat=True, name="m")
    finally:
        loaded.tokenizer.chat_template = template


def test_the_embedded_name_means_the_package_and_the_hub_id_the_hub():
    assert resolve("SmolLM2-135M-Instruct").source == "package"
    assert resolve("HuggingFaceTB/SmolLM2-135M-Instruct").source == "hub"


def test_vector_math_is_settled_before_a_model_computes(tmp_path, monkeypatch):
    path, order = write_tiny_model(tmp_path / "tiny", 1), []
    settle, load_model = loading.settle_vector_math, loading._load_model
    monkeypatch.setattr(loading, "settle_vector_math", lambda: (order.append("settled"), settle()))
    monkeypatch.setattr(loading, "_load_model", lambda *a: (order.append("loaded"), load_model(*a))[1])
    loading.load(path, torch.device("cpu"), "float32")
    assert order == ["settled", "loaded"]
