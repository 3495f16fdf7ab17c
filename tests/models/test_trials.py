"""What is tried before a model is believed: its template ends, its tokens are known, it predicts the next one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evals.core.errors import UserError
from evals.models import loading, trials
from tests.support.tiny_checkpoint import TEMPLATE, write_tiny_model
from tests.support.tiny_models import CONFIGS, tiny_model

LOOP = "{% for a in range(99999) %}" * 3 + "X" + "{% endfor %}" * 3


def tokenizer(template: str) -> Any:
    """What a trial needs of one."""
    return SimpleNamespace(get_chat_template=lambda: template, special_tokens_map={"eos_token": "</s>"})


@pytest.mark.parametrize(
    "template", [TEMPLATE, "{{ eos_token }}" * 9, "{% for %}", "{{ raise_exception('no') }}", ""]
)
def test_templates_that_end_pass_and_what_they_raise_is_told_where_they_are_used(template: str) -> None:
    trials.template_ends(tokenizer(template), "m")


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 100000000 }}",
        "{{ 'x' * 100000000000 }}",
        LOOP.replace("X", "{{ 'x' * (100000 + a) }}"),
        pytest.param(LOOP.replace("X", "{% set b = a %}"), marks=pytest.mark.slow),
        pytest.param("{{ 9 ** 999999999 }}", marks=pytest.mark.slow),
    ],
    ids=["long", "longer", "fills the memory", "silent", "power"],
)
def test_templates_that_do_not_end_are_refused(template: str) -> None:
    with pytest.raises(UserError, match="the chat template of 'm' does not end"):
        trials.template_ends(tokenizer(template), "m")


def test_a_vocabulary_larger_than_the_embedding_is_refused(tmp_path: Any) -> None:
    path = write_tiny_model(tmp_path / "tiny")
    loaded = loading.load(path, torch.device("cpu"), "float32")
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    loaded.tokenizer.add_tokens(["<padding>"])
    trials.tokens_have_rows(loaded.tokenizer, loaded.model, "tiny")
    loaded.model.resize_token_embeddings(rows - 1)
    loaded.model.save_pretrained(path)
    with pytest.raises(
        UserError, match=f"'tiny' has {rows} tokens, the embedding of its weights {rows - 1} rows"
    ):
        loading.load(path, torch.device("cpu"), "float32")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_causal_models_pass(name: str, dtype: torch.dtype) -> None:
    trials.predicts_the_next_token(tiny_model(name).to(dtype), name)


def test_an_encoder_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    trials.predicts_the_next_token(BertLMHeadModel(BertConfig(**sizes, is_decoder=True)).eval(), "decoder")
    with pytest.raises(UserError, match="'encoder' is no causal language model"):
        trials.predicts_the_next_token(BertLMHeadModel(BertConfig(**sizes)).eval(), "encoder")
