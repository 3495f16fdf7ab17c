"""What is tried before a model is believed: its tokens are known, it predicts the next one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evals.core.errors import UserError
from evals.models import loading
from tests.support.tiny_checkpoint import write_tiny_model
from tests.support.tiny_models import CONFIGS, tiny_model


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Any) -> None:
    path = write_tiny_model(tmp_path / "tiny")
    loaded = loading.load(path, torch.device("cpu"), "float32")
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    loaded.tokenizer.add_tokens(["<padding>"])
    loading.tokens_have_rows(loaded.tokenizer, loaded.model, "tiny")
    loaded.model.resize_token_embeddings(rows - 1)
    loaded.model.save_pretrained(path)
    with pytest.raises(
        UserError, match=f"'tiny' has {rows} tokens, the embedding of its weights {rows - 1} rows"
    ):
        loading.load(path, torch.device("cpu"), "float32")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_causal_models_pass(name: str, dtype: torch.dtype) -> None:
    loading.predicts_the_next_token(tiny_model(name).to(dtype), name)


def test_an_encoder_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    loading.predicts_the_next_token(BertLMHeadModel(BertConfig(**sizes, is_decoder=True)).eval(), "decoder")
    with pytest.raises(UserError, match="'encoder' is no causal language model"):
        loading.predicts_the_next_token(BertLMHeadModel(BertConfig(**sizes)).eval(), "encoder")
