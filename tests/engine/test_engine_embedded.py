"""Both engines on the embedded weights: scores within 1e-4 nats, answers equal, also where tokens merge at the seam."""

from __future__ import annotations

import pytest
import torch

from evals.core.requests import GenerateRequest, ScoreRequest
from evals.engine.cpu_slots import CpuSlots
from evals.engine.decoding import BatchDecoder
from evals.engine.gpu_slots import GpuSlots
from evals.engine.plain import PlainDecoder, PlainScorer
from evals.engine.scoring import PrefixScorer

pytestmark = [pytest.mark.model, pytest.mark.slow]

CONTEXTS = [
    "Question: What is naï",
    "Question: Which of these is a fruit?\nAnswer:",
    "日本",
    "A family 👩‍👩‍👧 lives in",
]
CHOICES = [" an apple", " a stone", "ve", " an apple pie", "語 is a language", "\n\nNo", "."]


@pytest.fixture(scope="module")
def loaded(embedded):
    return embedded


def test_scores(loaded):
    encode = loaded.tokenizer.encode
    header = encode("<|im_start|>user\n", add_special_tokens=False)
    requests = []
    for context in CONTEXTS:
        for choice in CHOICES:
            n_context = len(encode(context, add_special_tokens=False))
            tokens = encode(context + choice, add_special_tokens=False)
            n_context = min(n_context, len(tokens) - 1)
            requests.append(ScoreRequest((*header, *tokens), len(tokens) - n_context))
    found = dict(PrefixScorer(loaded.model).run(requests))
    for i, score in PlainScorer(loaded.model).run(requests):
        assert found[i].logprob == pytest.approx(score.logprob, abs=1e-4)


@pytest.mark.parametrize("kind", [CpuSlots, GpuSlots])
def test_answers(loaded, kind):
    questions = ["What is 2 + 3?", "Name a fruit.", "Say hello in French."]
    chats = [[{"role": "user", "content": question}] for question in questions]
    texts = [
        loaded.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    requests = [
        GenerateRequest(tuple(loaded.tokenizer.encode(text, add_special_tokens=False)), 12, stops)
        for text in texts
        for stops in ((), (".", " is"))
    ]
    eos = [loaded.tokenizer.eos_token_id]
    decoder = BatchDecoder(loaded.model, loaded.tokenizer, eos, max_sequences=4)
    decoder.kv_slots = kind
    found = dict(decoder.run(requests))
    assert found == dict(PlainDecoder(loaded.model, loaded.tokenizer, eos).run(requests))
    expected = loaded.model.generate(torch.tensor([requests[0].prompt]), do_sample=False, max_new_tokens=12)
    assert list(found[0].tokens) == expected[0, len(requests[0].prompt) :].tolist()
