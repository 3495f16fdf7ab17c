"""The Triton kernels against PyTorch: on a GPU, or in Triton's interpreter (TRITON_INTERPRET=1) without one."""

from __future__ import annotations

import os
import random

import pytest
import torch

from tests.support.tiny_models import COMMON, VOCABULARY

triton = pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

from transformers import LlamaConfig, Qwen2Config  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaForCausalLM  # noqa: E402
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM  # noqa: E402

from evals.core.requests import GenerateRequest, ScoreRequest  # noqa: E402
from evals.engine import device, forward, gpu_slots, kernels, packed  # noqa: E402
from evals.engine.attention import AttentionKind  # noqa: E402
from evals.engine.decoding import BatchDecoder  # noqa: E402
from evals.engine.packed import TreeBatch  # noqa: E402
from evals.engine.plain import PlainDecoder, PlainScorer  # noqa: E402
from evals.engine.scoring import PrefixScorer  # noqa: E402
from evals.engine.tree import Inputs, plan  # noqa: E402

PLACE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KINDS = [
    AttentionKind(0.25, None, None),
    AttentionKind(0.25, 7, None),
    AttentionKind(0.25, None, 1.5),
    AttentionKind(0.25, 70, 2.0),
]


def random_(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(PLACE)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_in_trees(kind, monkeypatch):
    rng = random.Random(1)
    header = tuple(rng.randrange(9) for _ in range(70))
    inputs = []
    for _ in range(6):
        context = header + tuple(rng.randrange(9) for _ in range(rng.randrange(1, 90)))
        inputs += [(context + tuple(rng.randrange(9) for _ in range(5)), len(context)) for _ in range(2)]
    planned = plan(Inputs.of(inputs), 150, 100)
    assert len(planned.prefix.tokens)
    prefix = {0: (random_(len(planned.prefix.tokens), 2, 16), random_(len(planned.prefix.tokens), 2, 16) + 1)}
    n = len(planned.blocks.tokens)
    q, k, v = random_(n, 6, 16), random_(n, 2, 16), random_(n, 2, 16) - 1
    results = []
    for use in (False, True):
        monkeypatch.setattr(packed, "kernels_for", lambda q, use=use: use)
        results.append(TreeBatch(planned.blocks, prefix, PLACE).attend(0, q, k, v, kind))
    assert torch.allclose(*results, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_in_slots(kind):
    q, k, v = random_(5, 6, 16), random_(5, 2, 150, 16), random_(5, 2, 150, 16) + 1
    lengths = torch.tensor([0, 1, 63, 64, 149], device=PLACE)
    expected = gpu_slots.attend_in_slots(q, k, v, lengths, kind)
    found = kernels.attend_in_slots(q, k, v, lengths, kind)
    assert torch.allclose(found, expected, atol=1e-5)


MODELS = [
    lambda: LlamaForCausalLM(LlamaConfig(**COMMON | {"head_dim": 16})),
    lambda: Qwen2ForCausalLM(
        Qwen2Config(
            **COMMON | {"head_dim": 16}, use_sliding_window=True, sliding_window=9, max_window_layers=1
        )
    ),
]


@pytest.mark.parametrize("make", MODELS, ids=["llama", "qwen2"])
def test_a_model_on_kernels_alone(make, monkeypatch):
    """Scores and answers are those of one sequence at a time, with fused layers in place."""
    torch.manual_seed(0)
    model = make().to(PLACE).eval()
    monkeypatch.setattr(forward, "use_kernels", lambda device: True)
    for module in (packed, gpu_slots):
        monkeypatch.setattr(module, "kernels_for", lambda q: True)
    rng = random.Random(2)
    context = tuple(rng.randrange(1, VOCABULARY) for _ in range(20))
    requests = [ScoreRequest((*context, *(rng.randrange(VOCABULARY) for _ in range(4))), 3) for _ in range(6)]
    scorer = PrefixScorer(model)
    found = dict(scorer.run(requests))
    assert scorer._forward is not None and scorer._forward._fused is not None, (
        "the fused layers should be right"
    )
    for i, score in PlainScorer(model).run(requests):
        assert found[i].logprob == pytest.approx(score.logprob, abs=1e-4)
    decoder = BatchDecoder(model, None, [])
    decoder.kv_slots = gpu_slots.GpuSlots
    monkeypatch.setattr("evals.engine.stops.detokenize", lambda tokenizer, tokens: "")
    monkeypatch.setattr("evals.engine.plain.detokenize", lambda tokenizer, tokens: "")
    asked = [GenerateRequest(context[:n], 6) for n in (1, 9, 20)]
    assert dict(decoder.run(asked)) == dict(PlainDecoder(model, None, []).run(asked))


def test_the_kernels_are_for_gpus():
    assert device.kernels_for(random_(2, 16)) == (PLACE.type == "cuda")
    assert not device.kernels_for(random_(2, 12))


def test_the_logarithm_of_a_rows_sum_of_exponentials():
    logits = random_(7, 5000) * 30
    logits[1, 17], logits[2, 4999], logits[3], logits[4, 100:] = 300.0, -1e30, -7.0, float("-inf")
    logits[5, 3] = float("nan")
    tops, totals = kernels.log_normalizer(logits)
    found = logits - tops[:, None] - totals[:, None]
    assert torch.isnan(found[5]).all(), "what is no number must not look like one"
    rest = [0, 1, 2, 3, 4, 6]
    assert torch.allclose(found[rest], torch.log_softmax(logits, -1)[rest], atol=1e-5)
    half = logits[rest].bfloat16()
    tops, totals = kernels.log_normalizer(half)
    expected = torch.log_softmax(half.float(), -1)
    assert torch.allclose(half.float() - tops[:, None] - totals[:, None], expected, atol=1e-5)


def test_a_tokens_keys_and_values_go_into_its_slot_alone():
    heads = random_(3, 7, 16)  # queries, keys and values side by side, as one product makes them
    k, v = heads[:, 3:5], heads[:, 5:]
    keys, values = random_(3, 2, 20, 16), random_(3, 2, 20, 16) + 1
    lengths = torch.tensor([0, 19, 7], device=PLACE)
    expected = keys.clone(), values.clone()
    for slot, length in enumerate(lengths.tolist()):
        expected[0][slot, :, length], expected[1][slot, :, length] = k[slot], v[slot]
    kernels.store_in_slots(k, v, keys, values, lengths)
    assert torch.equal(keys, expected[0]) and torch.equal(values, expected[1])


def test_rotation_leaves_what_stands_beside_the_heads():
    x, angle = random_(5, 6, 16), random_(5, 8)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    expected = x.clone()
    left, right = x[:, :4, :8], x[:, :4, 8:]
    turned = torch.cat([-right, left], -1)
    expected[:, :4] = x[:, :4] * cos[:, None] + turned * sin[:, None]
    kernels.rotate_(x[:, :4], cos, sin)
    assert torch.allclose(x, expected, atol=1e-6)


@pytest.mark.parametrize("above", [0, 9])
def test_prompts_go_into_their_slots_alone(above):
    own, prefix = (random_(11, 2, 16), random_(11, 2, 16) + 1), (random_(9, 2, 16) + 2, random_(9, 2, 16) + 3)
    into = random_(3, 2, 20, 16), random_(3, 2, 20, 16) + 1
    expected = tuple(x.clone() for x in into)
    sources = torch.tensor([above, above + 10, above + 3, *range(above)], device=PLACE)
    slots = torch.tensor([2, 0, 1, *[1] * above], device=PLACE)
    places = torch.tensor([0, 19, 4, *range(5, 5 + above)], device=PLACE)
    for i in range(2):
        rows = torch.cat([prefix[i], own[i]]) if above else own[i]
        for source, slot, place in zip(sources, slots, places, strict=True):
            expected[i][slot, :, place] = rows[source]
    kernels.fill_slots(own, prefix if above else None, into, sources, slots, places)
    assert torch.equal(into[0], expected[0]) and torch.equal(into[1], expected[1])
