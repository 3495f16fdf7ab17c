"""The attention function that stands in for a model's own: packed batches tell it which token sees which.

A packed batch is one row of tokens of many sequences, so that the model's other layers see no padding. transformers
hands the keyword arguments of a call down to the attention function; the batch comes as ``tree``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "smol_evals_tree"
KeyValues = tuple[torch.Tensor, torch.Tensor]  # each [rows, kv heads, head size]


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """How a layer attends: factor of the scores, sliding window (tokens), soft cap of the scores."""

    scaling: float
    window: int | None
    softcap: float | None


class PackedBatch(Protocol):
    """Tokens of many sequences in one row, and how they attend."""

    tokens: torch.Tensor  # [1, tokens]
    positions: torch.Tensor  # [1, tokens]

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        """Attention of one layer: [tokens, heads, size] (k, v: kv heads) to [tokens, heads, size]."""


class UnsupportedModel(Exception):
    """This model's attention cannot be shared this way; score it plainly."""


@contextmanager
def packed_attention(config: Any) -> Iterator[None]:
    """The tree's attention function for as long as this lasts."""
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def _shared_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree: PackedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: ``query`` [1, heads, tokens, size] to output [1, tokens, heads, size]."""
    _refuse_unknown(module, sliding_window, others)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    kind = AttentionKind(scaling or query.shape[-1] ** -0.5, sliding_window, softcap)
    return tree.attend(module.layer_idx, q, k, v, kind)[None], None  # type: ignore[arg-type]


# What transformers passes along that does not change what attention computes.
_HARMLESS = {"dropout", "position_ids", "use_cache", "is_causal", "output_attentions", "output_hidden_states"}


def _refuse_unknown(module: torch.nn.Module, sliding_window: int | None, others: dict[str, Any]) -> None:
    unknown = [name for name, value in others.items() if value is not None and name not in _HARMLESS]
    if unknown:
        raise UnsupportedModel(f"its attention takes {', '.join(sorted(unknown))}")
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    kind = kinds[module.layer_idx] if kinds else "full_attention"
    if kind not in ("full_attention", "sliding_attention"):
        raise UnsupportedModel(f"its attention is of the kind '{kind}'")
    if kind == "sliding_attention" and sliding_window is None:
        raise UnsupportedModel("its sliding window is not told to the attention function")


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _shared_attention)
