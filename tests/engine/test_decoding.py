"""The batched decoder against one sequence at a time, and against transformers' own generate."""

from __future__ import annotations

import functools
import gc
import logging
import random

import pytest
import torch

from evals.core.requests import GenerateRequest, NotFinite
from evals.engine import cpu_slots, forward, kv_slots, plain
from evals.engine.cpu_slots import CpuSlots, split_by_length
from evals.engine.decoding import BatchDecoder
from evals.engine.gpu_slots import GpuSlots
from evals.engine.kv_slots import PrefillCache
from evals.engine.packed import TreeBatch
from evals.engine.plain import PlainDecoder
from evals.engine.sampling import sample
from tests.support.tiny_models import CONFIGS, EOS, VOCABULARY, byte_tokenizer, readable, tiny_model

TOKENIZER = byte_tokenizer()
CLEAR = 1e-4  # of a logit, or of probability; rounding here is a tenth of it at most
model_of = functools.cache(tiny_model)


def prompts(n: int, seed: int = 0) -> list[tuple[int, ...]]:
    """Prompts of ragged lengths; two headers that several begin with, some prompts twice, one within another."""
    rng = random.Random(seed)
    headers = [tuple(rng.randrange(1, VOCABULARY) for _ in range(size)) for size in (0, 15, 40)]
    found = [rng.choice(headers) + tuple(rng.randrange(1, VOCABULARY) for _ in range(rng.randrange(1, 25)))]
    while len(found) < n:
        own = tuple(rng.randrange(1, VOCABULARY) for _ in range(rng.randrange(1, 25)))
        found.append(rng.choice([rng.choice(headers) + own, found[-1], found[-1] + own]))
    return found


@pytest.fixture(params=[CpuSlots, GpuSlots])
def both_slots(request, monkeypatch):
    """A GPU's slots run on the CPU here, uncaptured."""
    monkeypatch.setitem(SLOTS, "kind", request.param)


SLOTS = {"kind": CpuSlots}


def run(model, requests, **options):
    decoder = BatchDecoder(model, TOKENIZER, [EOS], **options)
    decoder.kv_slots = SLOTS["kind"]
    pairs = list(decoder.run(requests))
    assert sorted(i for i, _ in pairs) == list(range(len(requests)))
    return dict(pairs)


def plainly(model, requests):
    return dict(PlainDecoder(model, TOKENIZER, [EOS]).run(requests))


def clear(model, requests):
    """The requests of which every token is chosen by more than CLEAR: rounding, each machine's own, decides none."""
    found, margins = [], []

    def measured(logits, temperatures, draws):
        if temperatures is not None and temperatures[0] > 0:
            cumulative = torch.softmax(logits[0].float() / temperatures[0], -1).double().cumsum(0)
            margins.append((cumulative[:-1] - draws[0] * cumulative[-1]).abs().min())
        else:
            first, second = logits[0].topk(2).values
            margins.append(first - second)
        return sample(logits, temperatures, draws)

    decoder = PlainDecoder(model, TOKENIZER, [EOS])
    for request in requests:
        margins.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plain, "sample", measured)
            list(decoder.run([request]))
        found += [request] * all(margin > CLEAR for margin in margins)
    assert len(found) > len(requests) // 2
    return found


@pytest.mark.parametrize("max_sequences", [1, 3, 64])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.usefixtures("both_slots")
def test_greedy_like_one_at_a_time(name, max_sequences):
    rng = random.Random(max_sequences)
    requests = clear(model_of(name), [GenerateRequest(p, rng.choice([0, 1, 9, 20])) for p in prompts(14)])
    assert run(model_of(name), requests, max_sequences=max_sequences) == plainly(model_of(name), requests)


@pytest.mark.usefixtures("both_slots")
def test_greedy_is_generate():
    model = model_of("llama")
    results = run(model, [GenerateRequest(p, 30) for p in prompts(10, seed=1)], max_sequences=4)
    for i, prompt in enumerate(prompts(10, seed=1)):
        expected = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=30)[
            0, len(prompt) :
        ]
        assert list(results[i].tokens) == expected.tolist()


@pytest.mark.usefixtures("both_slots")
def test_stops_and_ends():
    model = readable(tiny_model("llama-untied"), TOKENIZER)
    whole = run(model, [GenerateRequest(p, 30) for p in prompts(6)])
    requests = []
    for i, prompt in enumerate(prompts(6)):
        text = whole[i].text
        requests += [
            GenerateRequest(prompt, 30, stops) for stops in ((text[4:7],), (text[9:11], text[5:8]), ("~~~",))
        ]
    results = run(model, requests, max_sequences=5)
    assert results == plainly(model, requests)
    assert {result.finish for result in results.values()} >= {"stop", "length"}


@pytest.mark.usefixtures("both_slots")
def test_an_end_token_ends():
    model = model_of("llama")
    first = run(model, [GenerateRequest((7, 8, 9), 12)])[0]
    end = first.tokens[6]
    decoder = BatchDecoder(model, TOKENIZER, [EOS, end])
    decoder.kv_slots = SLOTS["kind"]
    [(_, result)] = decoder.run([GenerateRequest((7, 8, 9), 12)])
    assert result.finish == "eos"
    assert result.tokens == first.tokens[: first.tokens.index(end) + 1]
    assert result.text == TOKENIZER.decode(result.tokens[:-1], skip_special_tokens=True)


@pytest.mark.usefixtures("both_slots")
def test_samples_do_not_depend_on_the_batch():
    model = model_of("llama")
    requests = [
        GenerateRequest(p, 15, temperature=t, seed=s)
        for p in prompts(4)
        for s in (1, 2)
        for t in (0.0, 0.7, 1.5)
    ]
    requests = clear(model, requests)
    together = run(model, requests)
    assert together == run(model, requests, max_sequences=2) == plainly(model, requests)
    shuffled = random.Random(0).sample(range(len(requests)), len(requests))
    again = run(model, [requests[i] for i in shuffled], max_sequences=7)
    assert all(again[place] == together[i] for place, i in enumerate(shuffled))
    hot = [together[i].tokens for i, r in enumerate(requests) if r.temperature == 1.5]
    assert len(set(hot)) > len(hot) // 2, "other seeds should give other answers"


@pytest.mark.usefixtures("both_slots")
def test_to_the_window():
    rng = random.Random(3)
    long = tuple(rng.randrange(1, VOCABULARY) for _ in range(2000))
    requests = [GenerateRequest(long, 48), GenerateRequest(long[:1990], 58), GenerateRequest(long[1000:], 5)]
    for name in ("llama", "gemma3"):
        assert run(model_of(name), requests) == plainly(model_of(name), requests)


@pytest.mark.parametrize("largest", [100, 20, 1])
@pytest.mark.usefixtures("both_slots")
def test_out_of_memory_halves_the_batch_and_changes_no_answer(monkeypatch, caplog, largest):
    """Stands in for an allocator that can hold only `largest` sequences' step."""
    original = forward.TreeForward.hidden

    def hidden(self, batch):
        if not isinstance(batch, TreeBatch) and batch.tokens.shape[1] > largest:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return original(self, batch)

    model = model_of("llama")
    requests = [GenerateRequest(p, 6) for p in prompts(60, seed=4)]
    expected = plainly(model, requests)
    monkeypatch.setattr(forward.TreeForward, "hidden", hidden)
    assert run(model, requests) == expected
    assert ("out of memory" in caplog.text) == (largest < 40)


@pytest.mark.usefixtures("both_slots")
def test_no_more_sequences_at_a_time_than_free_memory_holds(monkeypatch):
    sizes = []
    original = forward.TreeForward.hidden

    def hidden(self, batch):
        if not isinstance(batch, TreeBatch):
            sizes.append(batch.tokens.shape[1])
        return original(self, batch)

    model = model_of("llama")
    requests = [GenerateRequest(p, 6) for p in prompts(20, seed=5)]
    expected = plainly(model, requests)
    assert run(model, requests) == expected
    shared = forward.TreeForward(model)
    a_token = sum(x[0].numel() * x.element_size() for pair in shared.example.values() for x in pair)
    longest = max(len(request.prompt) for request in requests) + 6
    rounded = 256 if SLOTS["kind"] is GpuSlots else longest
    assert kv_slots.sequences_that_fit(shared, 1000, 1.0)(rounded, 0) == 1000
    monkeypatch.setattr(kv_slots, "free_memory", lambda device: int(3.5 * a_token * rounded / 0.6))
    assert kv_slots.sequences_that_fit(shared, 1000, 0.5)(rounded, 0) == 1
    assert kv_slots.sequences_that_fit(shared, 1000, 0.5)(rounded, 10 * rounded) == 7
    monkeypatch.setattr(forward.TreeForward, "hidden", hidden)
    assert run(model, requests) == expected
    assert max(sizes) == 3


@pytest.mark.slow
def test_a_prefills_cache_is_let_go_once_its_prompts_stand_in_slots():
    headers = [tuple((7 * i + 3 * k) % VOCABULARY for i in range(30)) for k in range(12)]
    requests = [GenerateRequest((*header, 5 + n), 4) for header in headers for n in range(3)]
    decoder = BatchDecoder(model_of("llama"), TOKENIZER, [EOS], max_sequences=3, max_tokens=8)
    kept = []
    for _ in decoder.run(requests):
        kept.append(sum(isinstance(one, PrefillCache) for one in gc.get_objects()))
    assert len(kept) == len(requests) and max(kept) <= 2, (
        "keys and values of every header's prompts were kept"
    )


def test_no_memory_for_a_single_sequence_is_an_error(monkeypatch):
    decoder = BatchDecoder(model_of("llama"), TOKENIZER, [EOS])
    assert list(decoder.run([])) == []

    def hidden(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(forward.TreeForward, "hidden", hidden)
    with pytest.raises(torch.OutOfMemoryError):
        list(decoder.run([GenerateRequest(p, 6) for p in prompts(3)]))


def test_a_model_that_cannot_share_is_run_plainly_and_says_so(caplog):
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    model = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2)).eval()
    requests = [GenerateRequest(p, 6) for p in prompts(3)]
    with caplog.at_level(logging.WARNING):
        assert run(model, requests) == plainly(model, requests)
    assert "one sequence at a time" in caplog.text


@pytest.mark.parametrize("kind", [BatchDecoder, PlainDecoder])
def test_logits_that_are_no_numbers_name_their_request(kind):
    model = tiny_model("llama-untied")
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = float("nan")
    requests = [GenerateRequest(p, 3) for p in ((1, 2, 3), (4, 77, 5), (6, 7))]
    with pytest.raises(NotFinite) as caught:
        list(kind(model, TOKENIZER, [EOS]).run(requests))
    assert caught.value.index == 1


def test_long_sequences_are_attended_to_apart(monkeypatch):
    assert split_by_length([10, 2000, 12, 9]) == (12, [(1, 2000)])
    assert split_by_length([1000, 1100, 1050]) == (1100, [])
    assert split_by_length([7]) == (7, [])
    monkeypatch.setattr(cpu_slots, "COST_APART", 0)
    requests = [GenerateRequest(p, 12) for p in prompts(12, seed=5)]
    assert len(split_by_length([len(request.prompt) for request in requests])[1]) > 1
    for name in ("llama", "gemma2", "gemma3"):
        assert run(model_of(name), requests) == plainly(model_of(name), requests)
