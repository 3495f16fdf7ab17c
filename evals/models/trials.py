"""Trials of what a model's files claim, made before anything is scored by them."""

from __future__ import annotations

from typing import Any

import torch

from evals.core.errors import UserError


def tokens_have_rows(tokenizer: Any, model: Any, name: str) -> None:
    """Raises UserError if the vocabulary is larger than the embedding.

    Tokens that were added to a vocabulary may be beyond it: for padding or pictures, say, which are never fed here.
    """
    tokens, rows = tokenizer.vocab_size, model.get_input_embeddings().weight.shape[0]
    if tokens > rows:
        raise UserError(
            f"the tokenizer of '{name}' has {tokens} tokens, the embedding of its weights {rows} rows: "
            "they do not belong together"
        )


@torch.inference_mode()
def predicts_the_next_token(model: Any, name: str) -> None:
    """Raises UserError if what a model says after a token depends on later ones, as an encoder's words do."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = [[(11 + 7 * i) % size for i in range(6)] + [last % size] for last in (3, 5)]
    one, other = (
        model(input_ids=torch.tensor(ids, device=model.device), use_cache=False).logits[:, :6].float()
    )
    # far more than rounding, and far less than an encoder's; weights of NaN are found where they are used
    if (one - other).norm() > 0.01 * one.std() * one.numel() ** 0.5:
        raise UserError(
            f"'{name}' is no causal language model: what it says after a token depends on the tokens that follow"
        )
