"""The reference engine against transformers itself, and against sums written out by hand."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evals.core.requests import GenerateRequest, ScoreRequest
from evals.engine.plain import PlainDecoder, PlainScorer, first_stop
from tests.support.tiny_models import CONFIGS, EOS, VOCABULARY, byte_tokenizer, readable, tiny_model


@pytest.mark.parametrize("name", CONFIGS)
def test_scores_are_the_chain_rule_written_out(name):
    model, rng = tiny_model(name), random.Random(1)
    tokens = tuple(rng.randrange(VOCABULARY) for _ in range(20))
    expected = 0.0
    for at in range(15, 20):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens[:at]])).logits[0, -1]
        expected += torch.log_softmax(logits.double(), -1)[tokens[at]].item()
    [(index, score)] = PlainScorer(model).run([ScoreRequest(tokens, 5)])
    assert index == 0
    assert score.logprob == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_is_generate(name):
    model, rng = tiny_model(name), random.Random(2)
    prompts = [tuple(rng.randrange(1, VOCABULARY) for _ in range(n)) for n in (1, 5, 30)]
    results = dict(
        PlainDecoder(model, byte_tokenizer(), [EOS]).run([GenerateRequest(p, 25) for p in prompts])
    )
    for index, prompt in enumerate(prompts):
        expected = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=25)[
            0, len(prompt) :
        ].tolist()
        assert list(results[index].tokens) == expected
        assert results[index].finish == ("eos" if expected[-1] == EOS else "length")


def test_a_stop_may_span_tokens_and_is_cut_off_with_all_after_it():
    tokenizer = byte_tokenizer()
    model = readable(tiny_model("llama-untied"), tokenizer)
    prompt = tuple(tokenizer.encode("Question: is it?"))
    whole = next(PlainDecoder(model, tokenizer, [EOS]).run([GenerateRequest(prompt, 40)]))[1]
    stop = whole.text[3:6]
    assert len(stop) == 3
    stopped = next(
        PlainDecoder(model, tokenizer, [EOS]).run([GenerateRequest(prompt, 40, ("never seen", stop))])
    )[1]
    assert stopped.finish == "stop"
    assert stopped.text == whole.text[: whole.text.index(stop)]
    assert stopped.tokens == whole.tokens[: len(stopped.tokens)]
    assert stop in tokenizer.decode(stopped.tokens)
    assert stop not in tokenizer.decode(stopped.tokens[:-1])


def test_no_budget_generates_nothing():
    [(_, result)] = PlainDecoder(tiny_model("llama"), byte_tokenizer(), [EOS]).run([GenerateRequest((5,), 0)])
    assert (result.text, result.tokens, result.finish) == ("", (), "length")


def test_the_earliest_stop_wins_and_an_empty_one_never():
    assert first_stop("abcabc", ("c", "b", "")) == 1
    assert first_stop("abc", ("", "x")) is None


@pytest.mark.parametrize("kind", ["mamba", "rwkv", "recurrent_gemma"])
def test_models_whose_state_is_no_kv_cache_are_greedy_too(kind):
    """Written out: the most likely token after all tokens so far, each time."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        kind, **sizes, intermediate_size=48, eos_token_id=EOS, initializer_range=0.3
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [tuple(random.Random(n).randrange(1, VOCABULARY) for _ in range(n)) for n in (1, 5, 12)]
    results = dict(
        PlainDecoder(model, byte_tokenizer(), [EOS]).run([GenerateRequest(prompt, 8) for prompt in prompts])
    )
    for index, prompt in enumerate(prompts):
        tokens = list(prompt)
        while len(tokens) < len(prompt) + 8 and (len(tokens) == len(prompt) or tokens[-1] != EOS):
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
            tokens.append(int(logits[0, -1].argmax()))
        assert list(results[index].tokens) == tokens[len(prompt) :]
