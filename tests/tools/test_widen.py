"""The widened model of the benchmarks computes what the small one does."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tools.widen import widen

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize("tied", [True, False])
def test_a_widened_model_gives_the_same_logits(tied):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=300, head_dim=16, tie_word_embeddings=tied, **SMALL)
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(weight, 1.0, 0.2)
    shape = {
        "hidden_size": 96,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    }
    wide = widen(model, shape)
    tokens = torch.randint(0, 300, (2, 17))
    with torch.inference_mode():
        torch.testing.assert_close(wide(tokens).logits, model(tokens).logits, atol=1e-5, rtol=1e-4)
    assert wide.model.layers[2].mlp.gate_proj.weight.shape == (80, 96)
    assert all(
        weight.abs().max() > 0 for name, weight in wide.named_parameters() if "layers.2.self_attn.q" in name
    )


def test_other_groups_of_heads_are_refused():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=300, head_dim=16, **SMALL))
    with pytest.raises(ValueError, match="heads that share keys"):
        widen(model, {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2})
