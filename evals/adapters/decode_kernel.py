"""A Triton kernel: one query token a sequence against keys and values of ragged lengths. Needs a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 64  # keys at a time
MIN_QUERIES = 16  # the least that the matrix units take


@triton.jit
def _attend_kernel(  # type: ignore[no-untyped-def]
    q, k, v, out, lengths, scaling, window, stride_slot, stride_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, QUERIES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    head = tl.program_id(1)
    n_kv = tl.num_programs(1)
    length = tl.load(lengths + slot).to(tl.int32) + 1
    group = tl.arange(0, QUERIES)
    size = tl.arange(0, SIZE)
    rows = (slot * n_kv + head) * GROUP + group
    at = rows[:, None] * SIZE + size[None, :]
    queries = tl.load(q + at, mask=group[:, None] < GROUP, other=0.0)
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    summed = tl.zeros([QUERIES, SIZE], tl.float32)
    base = slot.to(tl.int64) * stride_slot + head * stride_head
    first = tl.maximum(length - window, 0)
    for start in range(first // BLOCK * BLOCK, length, BLOCK):
        key = start + tl.arange(0, BLOCK)
        visible = (key < length) & (key >= first)
        place = base + key[:, None] * SIZE + size[None, :]
        keys = tl.load(k + place, mask=visible[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scaling
        scores = tl.where(visible[None, :], scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp(scores - new_top[:, None])
        shrink = tl.exp(top - new_top)
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(v + place, mask=visible[:, None], other=0.0)
        summed = summed * shrink[:, None] + tl.dot(
            weights.to(values.dtype), values, input_precision=PRECISION
        )
        top = new_top
    tl.store(out + at, summed / total[:, None], mask=group[:, None] < GROUP)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    lengths: torch.Tensor,
    scaling: float,
    window: int | None,
) -> torch.Tensor:
    """Attention of ``q`` [slots, heads, size] to the first ``lengths + 1`` tokens of each slot.

    ``k``, ``v``: [slots, kv heads, tokens, size], contiguous; ``size`` a power of two, at least 16. ``window``: only
    the last so many tokens.
    """
    slots, heads, size = q.shape
    n_kv = k.shape[1]
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    _attend_kernel[slots, n_kv](
        q.contiguous(), k, v, out, lengths, scaling, window or k.shape[2] + 1, k.stride(0), k.stride(1),
        GROUP=heads // n_kv, SIZE=size, BLOCK=BLOCK, QUERIES=max(MIN_QUERIES, triton.next_power_of_2(heads // n_kv)),
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
    )  # fmt: skip
    return out
