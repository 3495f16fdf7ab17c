"""Random models of a few thousand weights, and a byte-level tokenizer to go with them."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

EOS = 0
VOCABULARY = 300

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": None,
}

CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**COMMON, tie_word_embeddings=True),
    "llama-untied": lambda: LlamaConfig(**COMMON, tie_word_embeddings=False),
    "qwen2": lambda: Qwen2Config(**COMMON, tie_word_embeddings=True),
    "qwen2-sliding": lambda: Qwen2Config(
        **COMMON, use_sliding_window=True, sliding_window=7, max_window_layers=1, tie_word_embeddings=False
    ),
    "mistral": lambda: MistralConfig(**COMMON, sliding_window=9),
    "gemma": lambda: GemmaConfig(**COMMON),
    "gemma2": lambda: Gemma2Config(
        **COMMON,
        sliding_window=6,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=1.5,
    ),
    "gemma3": lambda: Gemma3TextConfig(**COMMON, sliding_window=6, query_pre_attn_scalar=8),
}


def tiny_model(name: str, seed: int = 0) -> Any:
    """A random float32 model of the named architecture, greedy by default.

    Attention is transformers' eager one where that alone is right (soft caps), else the default.
    """
    torch.manual_seed(seed)
    attention = "eager" if name == "gemma2" else "sdpa"
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention).eval()
    model.generation_config = GenerationConfig(eos_token_id=EOS, pad_token_id=EOS)
    return model


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE: one special token, 256 bytes, some merges that join words and accents."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|end|>": EOS} | {symbol: i + 1 for i, symbol in enumerate(alphabet)}
    merges = []
    for word in ("Question", "the", "\n\n", "é", "日"):
        symbols = [s for s, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(word)]
        left, *rest = "".join(symbols)
        for right in rest:
            merges.append((left, right))
            left += right
            vocab.setdefault(left, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", clean_up_tokenization_spaces=False
    )


def readable(model: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The same model, but all that it says is printable ASCII (untied head)."""
    ids = [
        i
        for i in range(VOCABULARY)
        if not (t := tokenizer.decode([i])).isascii() or not t.isprintable() or not t
    ]
    with torch.no_grad():
        model.lm_head.weight[ids] = 0.0
    return model
