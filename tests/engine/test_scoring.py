"""The shared-prefix scorer against one-sequence-at-a-time scoring, on random trees and random models."""

from __future__ import annotations

import functools
import logging
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.core.requests import GenerateRequest, ScoreRequest
from evals.engine import forward, packed, scoring
from evals.engine.plain import PlainDecoder, PlainScorer
from evals.engine.scoring import PrefixScorer
from tests.support.tiny_models import CONFIGS, VOCABULARY, byte_tokenizer, tiny_model

TOLERANCE = 1e-4  # nats
TOKEN = st.integers(0, VOCABULARY - 1)

model_of = functools.cache(tiny_model)


def assert_same_as_plain(model, requests, scorer=None):
    pairs = list((scorer or PrefixScorer(model)).run(requests))
    assert sorted(i for i, _ in pairs) == list(range(len(requests)))
    expected = dict(PlainScorer(model).run(requests))
    for i, score in pairs:
        assert score.logprob == pytest.approx(expected[i].logprob, abs=TOLERANCE)


@st.composite
def docs(draw) -> list[ScoreRequest]:
    """Docs with a common header: 1 to 26 choices, some of one token, some that begin another, some twice.

    Now and then a choice changes the context's last token, as tokens that merge across the seam do.
    """
    header = tuple(draw(st.lists(TOKEN, max_size=12)))
    requests = []
    for _ in range(draw(st.integers(1, 4))):
        context = header + tuple(draw(st.lists(TOKEN, min_size=1, max_size=12)))
        choices: list[tuple[int, ...]] = []
        for _ in range(draw(st.sampled_from([1, 2, 4, 4, 26]))):
            choice = tuple(draw(st.lists(TOKEN, min_size=1, max_size=6)))
            if choices and draw(st.integers(0, 3)) == 0:
                choice = draw(st.sampled_from(choices)) + draw(st.sampled_from([(), choice]))
            choices.append(choice)
            merged = len(context) > 1 and draw(st.integers(0, 9)) == 0
            seam = (*context[:-1], (context[-1] + 1) % VOCABULARY) if merged else context
            requests.append(ScoreRequest(seam + choice, len(choice)))
    return requests


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=15, deadline=None)
@given(requests=docs(), budget=st.sampled_from([1, 30, 4096]))
def test_random_docs(name, requests, budget):
    scorer = PrefixScorer(model_of(name), budget)
    assert_same_as_plain(model_of(name), requests, scorer)
    assert scorer._forward is not None, "the plain engine would be compared with itself"


def test_many_plans(monkeypatch):
    monkeypatch.setattr(scoring, "PLANNED_ON_CPU", 7)
    assert_same_as_plain(model_of("llama"), some_requests())


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_contexts_at_the_window(name):
    rng = random.Random(5)
    context = tuple(rng.randrange(VOCABULARY) for _ in range(2030))
    requests = [
        ScoreRequest(context + tuple(rng.randrange(VOCABULARY) for _ in range(n)), n) for n in (19, 19, 1)
    ]
    requests.append(ScoreRequest(context[:1500], 700))
    assert_same_as_plain(model_of(name), requests)


def test_the_same_request_is_computed_once_and_answered_each_time():
    requests = [ScoreRequest((1, 2, 3, 4), 2)] * 3 + [ScoreRequest((1, 2, 3, 4), 3)]
    assert_same_as_plain(model_of("llama"), requests)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_what_greedy_decoding_writes_is_told_from_all_else(name):
    model, prompt = model_of(name), (1, 2, 3)
    [(_, generation)] = PlainDecoder(model, byte_tokenizer(), ()).run([GenerateRequest(prompt, 6)])
    written = generation.tokens
    others = [(*written[:k], (written[k] + 1) % VOCABULARY, *written[k + 1 :]) for k in range(6)]
    requests = [ScoreRequest(prompt + tokens, 6) for tokens in (written, *others)]
    requests.append(ScoreRequest(prompt + written, 3))
    for scorer in (PrefixScorer(model), PlainScorer(model)):
        found = dict(scorer.run(requests))
        assert [found[i].greedy for i in range(8)] == [True, *[False] * 6, True]


def test_nothing_asked_nothing_answered():
    assert list(PrefixScorer(model_of("llama")).run([])) == []


def some_requests(n: int = 40) -> list[ScoreRequest]:
    rng = random.Random(6)
    header = tuple(rng.randrange(VOCABULARY) for _ in range(20))
    requests = []
    for _ in range(n // 2):
        context = header + tuple(rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 30)))
        for _ in range(2):
            choice = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 8)))
            requests.append(ScoreRequest(context + choice, len(choice)))
    return requests


@pytest.mark.parametrize("largest", [400, 100, 60])
def test_out_of_memory_halves_the_budget_and_changes_no_number(monkeypatch, caplog, largest):
    """Stands in for an allocator that cannot give more than `largest` tokens' worth."""
    sizes, original = [], forward.TreeForward.hidden

    def hidden(self, batch):
        sizes.append(batch.tokens.shape[1])
        if sizes[-1] > largest:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return original(self, batch)

    model = model_of("llama")
    scorer = PrefixScorer(model, 3000)
    list(scorer.run(some_requests(2)))
    sizes.clear()
    monkeypatch.setattr(forward.TreeForward, "hidden", hidden)
    assert_same_as_plain(model, some_requests(), scorer)
    assert sizes[0] <= 3000 and max(sizes) > largest, "the test should meet the limit"
    assert scorer.max_tokens <= largest
    sizes.clear()
    assert_same_as_plain(model, some_requests(), scorer)
    assert max(sizes) <= largest, "the smaller budget should be remembered"
    assert "out of memory" in caplog.text


def test_one_request_too_large_is_an_error(monkeypatch):
    scorer = PrefixScorer(model_of("llama"))
    list(scorer.run(some_requests(2)))

    def hidden(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(forward.TreeForward, "hidden", hidden)
    with pytest.raises(torch.OutOfMemoryError):
        list(scorer.run(some_requests()))


def test_another_error_is_not_taken_for_lack_of_memory(monkeypatch):
    scorer = PrefixScorer(model_of("llama"))
    list(scorer.run(some_requests(2)))
    monkeypatch.setattr(forward.TreeForward, "hidden", lambda self, batch: torch.zeros(2) + torch.zeros(3))
    with pytest.raises(RuntimeError, match="must match"):
        list(scorer.run(some_requests()))


def test_a_model_that_cannot_share_is_scored_plainly_and_says_so(caplog):
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2)
    with caplog.at_level(logging.WARNING):
        assert_same_as_plain(BloomForCausalLM(config).eval(), some_requests(6))
    assert "one sequence at a time" in caplog.text


def test_a_model_whose_numbers_would_differ_is_scored_plainly(monkeypatch, caplog):
    """Stands in for an architecture that ignores what it is told about who sees whom."""

    monkeypatch.setattr(packed, "scaled_dot_product_attention", lambda q, *_, **__: torch.zeros_like(q))
    with caplog.at_level(logging.WARNING):
        assert_same_as_plain(tiny_model("llama"), some_requests(6))
    assert "other numbers" in caplog.text


def test_the_model_keeps_its_own_attention():
    model = tiny_model("gemma2")
    before = model.config._attn_implementation
    list(PrefixScorer(model).run(some_requests(2)))
    assert model.config._attn_implementation == before == "eager"


def test_what_is_skipped_is_planned_but_not_computed(monkeypatch):
    model, requests = model_of("llama"), some_requests()
    whole = dict(PrefixScorer(model, 100).run(requests))
    batches, original = [], forward.TreeForward.hidden

    def hidden(self, batch):
        batches.append(batch.tokens.shape[1])
        return original(self, batch)

    monkeypatch.setattr(forward.TreeForward, "hidden", hidden)
    list(PrefixScorer(model, 100).run(requests))
    all_batches = len(batches)
    batches.clear()
    skip = {i for i, request in enumerate(requests) if i % 7 == 0 or len(request.tokens) > 40}
    rest = dict(PrefixScorer(model, 100).run(requests, skip))
    assert rest == {i: score for i, score in whole.items() if i not in skip}, "to the last bit"
    assert len(batches) < all_batches
