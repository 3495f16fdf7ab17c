"""The trial that decides whether a model's numbers survive the shared engine, below float32 too."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM

from evals.engine import forward, packed
from evals.engine.attention import UnsupportedModel
from evals.engine.forward import TreeForward
from tests.support.tiny_models import COMMON, CONFIGS, tiny_model

LOW = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_models_below_float32_are_shared(name, dtype):
    TreeForward(tiny_model(name).to(dtype))


def test_a_deep_model_whose_rounding_grows_is_shared_in_bfloat16(monkeypatch):
    """How a machine rounds is its own affair, so the shared pass is made to round otherwise here."""
    attend = packed.scaled_dot_product_attention

    def rounded_otherwise(*args, **options):
        """Attention of which every other number is off by a unit in bfloat16's last place."""
        out = attend(*args, **options)
        steps = 1 + 2**-7 * (torch.arange(out.numel()).reshape(out.shape) % 2)
        return (out.float() * steps).to(out.dtype)

    monkeypatch.setattr(packed, "scaled_dot_product_attention", rounded_otherwise)
    torch.manual_seed(0)
    config = LlamaConfig(**COMMON | {"num_hidden_layers": 48, "head_dim": 16, "initializer_range": 0.6})
    model = LlamaForCausalLM(config).eval()
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data *= 3
    tree = TreeForward(model.to(torch.bfloat16))
    with torch.inference_mode():
        assert forward._distance(*tree._both_ways()) > 0.1, "the rounding of a whole pass should be seen"
    assert len(tree.model.model.layers) == len(tree.example) == 48


@pytest.mark.parametrize("dtype", [torch.float32, *LOW], ids=str)
def test_attention_that_errs_by_a_tenth_is_refused(dtype, monkeypatch):
    right = packed.scaled_dot_product_attention
    monkeypatch.setattr(
        packed, "scaled_dot_product_attention", lambda *args, **options: right(*args, **options) * 1.1
    )
    model = tiny_model("llama").to(dtype)
    with pytest.raises(UnsupportedModel, match="a trial"):
        TreeForward(model)
    assert len(model.model.layers) == COMMON["num_hidden_layers"]


def test_every_kind_of_layer_is_in_the_trial(monkeypatch):
    """The first full attention comes after more layers than a trial has otherwise."""
    seen = []
    kinds = ["sliding_attention"] * 11 + ["full_attention", "sliding_attention"]
    config = Gemma3TextConfig(
        **COMMON | {"num_hidden_layers": len(kinds)},
        sliding_window=6,
        layer_types=kinds,
        query_pre_attn_scalar=8,
    )
    model = Gemma3ForCausalLM(config).eval().to(torch.bfloat16)
    original = forward._logits

    def logits(model, given):
        seen.append(len(model.model.layers))
        return original(model, given)

    monkeypatch.setattr(forward, "_logits", logits)
    TreeForward(model)
    assert set(seen) == {12}
