"""Attention over packed batches: how it stands in for a model's own, and the reference that kernels are held against.

A packed batch is one row of the tokens of many sequences, so that the model's other layers see no padding. A model of
transformers hands the keyword arguments of a call down to its attention function; the batch is one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "smol_evals_packed"
KeyValues = tuple[Tensor, Tensor]  # each [tokens, kv heads, head size]
KVCache = dict[int, KeyValues]  # by layer


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """How a layer attends: factor of the scores, sliding window (tokens), soft cap of the scores."""

    scaling: float
    window: int | None
    softcap: float | None


class PackedBatch(Protocol):
    """Tokens of many sequences in one row, and how they attend."""

    tokens: Tensor  # [1, tokens]
    positions: Tensor  # [1, tokens]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kind: AttentionKind) -> Tensor:
        """Attention of one layer: [tokens, heads, size] (k, v: kv heads) to [tokens, heads, size]."""


class UnsupportedModel(Exception):
    """This model's attention cannot run over packed batches; the plain engine takes it."""


@contextmanager
def packed_attention(config: Any) -> Iterator[None]:
    """The model of ``config`` attends over packed batches for as long as this lasts."""
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend_packed(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed_batch: PackedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: ``query`` [1, heads, tokens, size] to output [1, tokens, heads, size]."""
    _refuse_unknown(module, sliding_window, others)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    kind = AttentionKind(scaling or query.shape[-1] ** -0.5, sliding_window, softcap)
    return packed_batch.attend(module.layer_idx, q, k, v, kind)[None], None  # type: ignore[arg-type]


# What transformers passes along that does not change what attention computes. Any other argument (sinks, a position
# bias) would be left out silently, so a model that passes one is refused.
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


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attend_packed)


def bias_of(visible: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What to add to scores: 0 where a query sees a key, else -inf."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(
        ~visible, float("-inf")
    )


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kind: AttentionKind) -> Tensor:
    """The reference: softmax of the scores, times ``v``, rounded where transformers' eager attention rounds.

    ``q`` [..., queries, size], ``k`` and ``v`` [..., keys, size], ``bias`` (see bias_of) [..., queries, keys]; leading
    dimensions are broadcast. Scores are in the dtype of ``bias``.
    """
    weights = torch.softmax(_scores(q, k, bias, kind), -1, dtype=torch.float32)
    return torch.matmul(weights.to(v.dtype), v)


def attend_to_part(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kind: AttentionKind
) -> tuple[Tensor, Tensor]:
    """The same over some of the keys, in float32: the output, and the logarithm of the softmax's sum [..., queries, 1].

    ``join`` makes one of two such parts. Where a query sees no key of this part, its sum is next to nothing.
    """
    if (q.device.type, q.dtype, kind.window, kind.softcap) == ("cpu", torch.float32, None, None):
        # PyTorch's fused attention, which tells the sum too. It makes NaN of a query without keys: there is none here,
        # as only a sliding window hides a whole part.
        out, norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(x.view(-1, *x.shape[-3:]) for x in (q, k, v)), attn_mask=bias, scale=kind.scaling
        )
        return out.view(q.shape), norm.view(*q.shape[:-1], 1)
    scores = _scores(q, k, bias, kind)
    top = scores.amax(-1, keepdim=True).clamp_min(-1e30)  # -inf less -inf would be NaN
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    out = torch.matmul(weights.to(v.dtype), v).float() / total.clamp_min(1e-30)
    return out, top + torch.log(total)


def join(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over two sets of keys from attention over each: the outputs, weighted by the softmaxes' sums."""
    (out, norm), (other, other_norm) = first, second
    total = torch.logaddexp(norm, other_norm)
    return out * torch.exp(norm - total) + other * torch.exp(other_norm - total)


def _scores(q: Tensor, k: Tensor, bias: Tensor, kind: AttentionKind) -> Tensor:
    scores = torch.matmul(q, k.transpose(-1, -2)).to(bias.dtype) * kind.scaling
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    return scores + bias
