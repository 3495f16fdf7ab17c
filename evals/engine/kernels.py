"""Triton kernels for a GPU: attention in packed batches and in slots, and the small steps between matrix products.

Unfused, those small steps (norms, rotary embedding, activation) take a small model longer than its matrix products.
Head sizes are powers of two, at least 16; sums are float32.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from evals.engine.attention import AttentionKind, KeyValues

QUERIES = 64  # queries at a time in a packed batch
TREE_KEYS, SLOT_KEYS = 32, 64  # keys at a time, in packed batches and in slots: the fastest on an H100
MIN_ROWS = 16  # the least that the matrix units take


@triton.jit
def _soften(scores, softcap, CAPPED: tl.constexpr):
    if CAPPED:
        # softcap · tanh(scores / softcap)
        scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
    return scores


@triton.jit
def _take_in(top, total, summed, scores, visible, values, PRECISION: tl.constexpr):
    """One more tile of keys into a running softmax. Rows that see nothing yet have top -inf."""
    scores = tl.where(visible, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))
    safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
    weights = tl.exp(scores - safe_top[:, None])
    shrink = tl.exp(top - safe_top)
    total = total * shrink + tl.sum(weights, 1)
    summed = summed * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
    return new_top, total, summed


@triton.jit
def _tree_kernel(
    q, k, v, prefix_k, prefix_v, out, tiles, prefix_rows, ends, positions, scaling, window, softcap,
    q_row, q_head, k_row, k_head, v_row, v_head, prefix_row, prefix_head, out_row, out_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    head = tl.program_id(1)
    block = tl.load(tiles + tile * 4)  # the first row of the tile's block
    first = tl.load(tiles + tile * 4 + 1)  # the tile's own first row, and one past the block's last
    stop = tl.load(tiles + tile * 4 + 2)
    rows_at = tl.load(tiles + tile * 4 + 3)  # where the block's prefix rows begin and end
    n_above = tl.load(prefix_rows + rows_at)
    row = first + tl.arange(0, M)
    inside = row < stop
    size = tl.arange(0, SIZE)
    at = row.to(tl.int64)[:, None]
    queries = tl.load(q + at * q_row + head * q_head + size[None, :], mask=inside[:, None], other=0.0)
    position = tl.load(positions + row, mask=inside, other=0)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    summed = tl.zeros([M, SIZE], tl.float32)
    k_base = prefix_k + (head // GROUP) * prefix_head
    v_base = prefix_v + (head // GROUP) * prefix_head
    for start in range(0, n_above, N):
        key = start + tl.arange(0, N)
        seen = key < n_above
        source = tl.load(prefix_rows + rows_at + 1 + key, mask=seen, other=0).to(tl.int64)[:, None]
        keys = tl.load(k_base + source * prefix_row + size[None, :], mask=seen[:, None], other=0.0)
        values = tl.load(v_base + source * prefix_row + size[None, :], mask=seen[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scaling
        scores = _soften(scores, softcap, CAPPED)
        visible = seen[None, :] & inside[:, None]
        if WINDOWED:
            visible = visible & (position[:, None] - key[None, :] < window)
        top, total, summed = _take_in(top, total, summed, scores, visible, values, PRECISION)
    k_base = k + (head // GROUP) * k_head
    v_base = v + (head // GROUP) * v_head
    for start in range(block, tl.minimum(first + M, stop), N):
        key = start + tl.arange(0, N)
        seen = key < stop
        source = key.to(tl.int64)[:, None]
        keys = tl.load(k_base + source * k_row + size[None, :], mask=seen[:, None], other=0.0)
        values = tl.load(v_base + source * v_row + size[None, :], mask=seen[:, None], other=0.0)
        end = tl.load(ends + key, mask=seen, other=0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scaling
        scores = _soften(scores, softcap, CAPPED)
        visible = (key[None, :] <= row[:, None]) & (row[:, None] < end[None, :]) & inside[:, None]
        if WINDOWED:
            key_position = tl.load(positions + key, mask=seen, other=0)
            visible = visible & (position[:, None] - key_position[None, :] < window)
        top, total, summed = _take_in(top, total, summed, scores, visible, values, PRECISION)
    summed = summed / tl.where(inside, total, 1.0)[:, None]
    tl.store(out + at * out_row + head * out_head + size[None, :], summed, mask=inside[:, None])


def attend_in_trees(
    q: Tensor, k: Tensor, v: Tensor, prefix: KeyValues | None,
    tiles: Tensor, prefix_rows: Tensor, ends: Tensor, positions: Tensor, kind: AttentionKind,
) -> Tensor:  # fmt: skip
    """Attention of ``q`` [tokens, heads, size] of a packed batch (packed.py); the same shape comes back.

    ``k``, ``v`` [tokens, kv heads, size]; ``prefix``, if there is one, the same of its tokens, contiguous.
    ``tiles`` [tiles, 4] int32: a block's first row, the tile's first row, one past the block's last row, where the
    block's prefix rows stand in ``prefix_rows`` (their number, then the rows). ``ends`` [tokens] int32: one past the
    last row that sees a row. ``positions`` [tokens] int32.
    """
    n, heads, size = q.shape
    out = torch.empty(n, heads, size, dtype=q.dtype, device=q.device)
    above_k, above_v = prefix or (k, v)  # without a prefix nothing is read there
    _tree_kernel[len(tiles), heads](
        q, k, v, above_k, above_v, out, tiles, prefix_rows, ends, positions,
        kind.scaling, kind.window or 0, kind.softcap or 0.0,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        above_k.stride(0), above_k.stride(1), out.stride(0), out.stride(1),
        GROUP=heads // k.shape[1], SIZE=size, M=QUERIES, N=TREE_KEYS, WINDOWED=kind.window is not None,
        CAPPED=kind.softcap is not None, PRECISION=_precision(q), num_stages=2,
    )  # fmt: skip
    return out


@triton.jit
def _slots_kernel(
    q, k, v, out, lengths, scaling, window, softcap, q_row, q_head, stride_slot, stride_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    head = tl.program_id(1)
    length = tl.load(lengths + slot).to(tl.int32) + 1
    group = tl.arange(0, ROWS)
    size = tl.arange(0, SIZE)
    own = slot.to(tl.int64) * q_row + (head * GROUP + group)[:, None] * q_head + size[None, :]
    queries = tl.load(q + own, mask=group[:, None] < GROUP, other=0.0)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    summed = tl.zeros([ROWS, SIZE], tl.float32)
    base = slot.to(tl.int64) * stride_slot + head * stride_head
    first = tl.maximum(length - window, 0)
    for start in range(first // N * N, length, N):
        key = start + tl.arange(0, N)
        seen = (key < length) & (key >= first)
        place = base + key[:, None] * SIZE + size[None, :]
        keys = tl.load(k + place, mask=seen[:, None], other=0.0)
        values = tl.load(v + place, mask=seen[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scaling
        scores = _soften(scores, softcap, CAPPED)
        top, total, summed = _take_in(top, total, summed, scores, seen[None, :], values, PRECISION)
    at = ((slot * tl.num_programs(1) + head) * GROUP + group)[:, None] * SIZE + size[None, :]
    tl.store(out + at, summed / total[:, None], mask=group[:, None] < GROUP)


def attend_in_slots(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, kind: AttentionKind) -> Tensor:
    """Attention of ``q`` [slots, heads, size] to the first ``lengths + 1`` tokens of each slot.

    ``k``, ``v``: [slots, kv heads, tokens, size], contiguous.
    """
    slots, heads, size = q.shape
    n_kv = k.shape[1]
    out = torch.empty(slots, heads, size, dtype=q.dtype, device=q.device)
    _slots_kernel[slots, n_kv](
        q, k, v, out, lengths, kind.scaling, kind.window or k.shape[2] + 1, kind.softcap or 0.0,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), GROUP=heads // n_kv, SIZE=size,
        ROWS=max(MIN_ROWS, triton.next_power_of_2(heads // n_kv)), N=SLOT_KEYS,
        CAPPED=kind.softcap is not None, PRECISION=_precision(q),
    )  # fmt: skip
    return out


@triton.jit
def _store_kernel(
    k, v, keys, values, lengths, k_row, v_row, stride_slot, stride_head,
    HEADS: tl.constexpr, PADDED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, PADDED)[:, None]
    size = tl.arange(0, SIZE)[None, :]
    inside = head < HEADS
    place = slot * stride_slot + head * stride_head + tl.load(lengths + slot) * SIZE + size
    tl.store(keys + place, tl.load(k + slot * k_row + head * SIZE + size, mask=inside), mask=inside)
    tl.store(values + place, tl.load(v + slot * v_row + head * SIZE + size, mask=inside), mask=inside)


def store_in_slots(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, lengths: Tensor) -> None:
    """Put ``k``, ``v`` [slots, kv heads, size] behind the ``lengths`` tokens of each slot.

    ``keys``, ``values``: [slots, kv heads, tokens, size], contiguous; a row's heads stand side by side in ``k``, ``v``.
    """
    slots, heads, size = k.shape
    _store_kernel[slots,](
        k, v, keys, values, lengths, k.stride(0), v.stride(0), keys.stride(0), keys.stride(1),
        HEADS=heads, PADDED=triton.next_power_of_2(heads), SIZE=size,
    )  # fmt: skip


@triton.jit
def _fill_kernel(
    k, v, prefix_k, prefix_v, keys, values, sources, slots, places, n_prefix, row, stride_slot, stride_head,
    HEADS: tl.constexpr, PADDED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    source = tl.load(sources + token)
    head = tl.arange(0, PADDED)[:, None]
    at = head * SIZE + tl.arange(0, SIZE)[None, :]
    inside = head < HEADS
    of_prefix = inside & (source < n_prefix)
    of_own = inside & (source >= n_prefix)
    place = tl.load(slots + token) * stride_slot + head * stride_head + tl.load(places + token) * SIZE
    place += tl.arange(0, SIZE)[None, :]
    above, own = source * row + at, (source - n_prefix) * row + at
    k_new = tl.where(of_prefix, tl.load(prefix_k + above, mask=of_prefix), tl.load(k + own, mask=of_own))
    tl.store(keys + place, k_new, mask=inside)
    v_new = tl.where(of_prefix, tl.load(prefix_v + above, mask=of_prefix), tl.load(v + own, mask=of_own))
    tl.store(values + place, v_new, mask=inside)


def fill_slots(
    own: KeyValues, prefix: KeyValues | None, into: KeyValues,
    sources: Tensor, slots: Tensor, places: Tensor,
) -> None:  # fmt: skip
    """Copy keys and values, each [tokens, kv heads, size] and contiguous, into slots.

    ``sources`` [n] are rows of prefix and own, counted through; they go to ``places`` [n] of ``slots`` [n] (int64).
    """
    (k, v), (above_k, above_v), (keys, values) = own, prefix or own, into
    _, heads, size = k.shape
    _fill_kernel[len(sources),](
        k, v, above_k, above_v, keys, values, sources, slots, places, len(above_k) if prefix else 0,
        heads * size, keys.stride(0), keys.stride(1),
        HEADS=heads, PADDED=triton.next_power_of_2(heads), SIZE=size,
    )  # fmt: skip


def _precision(q: Tensor) -> str:
    return "ieee" if q.dtype == torch.float32 else "tf32"


@triton.jit
def _norm_kernel(x, weight, out, eps, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    values = tl.load(x + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / WIDTH + eps)
    weights = tl.load(weight + column, mask=inside, other=0.0)
    # rounded before the weight is applied, as transformers does
    tl.store(out + row * WIDTH + column, (values * scale).to(weights.dtype) * weights, mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of the last dimension, then times ``weight``; ``x`` contiguous."""
    out = torch.empty_like(x)
    width = x.shape[-1]
    _norm_kernel[x.numel() // width,](x, weight, out, eps, WIDTH=width, PADDED=triton.next_power_of_2(width))
    return out


@triton.jit
def _rotate_kernel(x, cos, sin, stride, HEADS: tl.constexpr, PADDED: tl.constexpr, HALF: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    half = tl.arange(0, HALF)[None, :]
    head = tl.arange(0, PADDED)[:, None]
    inside = head < HEADS
    at = row * stride + head * 2 * HALF + half
    left = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(x + at + HALF, mask=inside, other=0.0).to(tl.float32)
    angle = row * 2 * HALF + half
    cos_left, cos_right = tl.load(cos + angle).to(tl.float32), tl.load(cos + angle + HALF).to(tl.float32)
    sin_left, sin_right = tl.load(sin + angle).to(tl.float32), tl.load(sin + angle + HALF).to(tl.float32)
    tl.store(x + at, left * cos_left - right * sin_left, mask=inside)
    tl.store(x + at + HALF, right * cos_right + left * sin_right, mask=inside)


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary embedding of ``x`` [tokens, heads, size], in place, by ``cos``, ``sin`` [tokens, size].

    A row's heads stand side by side; rows may have more beside them. ``cos``, ``sin`` are contiguous.
    """
    n, heads, size = x.shape
    _rotate_kernel[n,](
        x, cos, sin, x.stride(0), HEADS=heads, PADDED=triton.next_power_of_2(heads), HALF=size // 2
    )


@triton.jit
def _gate_kernel(x, out, n, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    place = at + at // WIDTH * WIDTH  # of the gate in rows of gates and ups
    gate = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + place + WIDTH, mask=inside, other=0.0)
    # rounded between the two products, as separate operations do
    tl.store(out + at, (gate * tl.sigmoid(gate)).to(up.dtype) * up, mask=inside)


def silu_gate(x: Tensor) -> Tensor:
    """``silu(gate) * up`` [tokens, width] of ``x`` [tokens, gate and up: 2 · width], contiguous."""
    n, width = len(x), x.shape[1] // 2
    out = torch.empty(n, width, dtype=x.dtype, device=x.device)
    _gate_kernel[triton.cdiv(n * width, 1024),](x, out, n * width, WIDTH=width, BLOCK=1024)
    return out


@triton.jit
def _normalizer_kernel(logits, tops, totals, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    top = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        inside = start + column < size
        x = tl.load(logits + row * size + start + column, mask=inside, other=float("-inf")).to(tl.float32)
        new_top = tl.maximum(top, x)
        safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp(top - safe_top) + tl.exp(x - safe_top)
        top = new_top
    highest = tl.max(top, 0)
    tl.store(tops + row, highest)
    tl.store(totals + row, tl.log(tl.sum(total * tl.exp(top - highest), 0)))


def log_normalizer(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of ``logits`` [n, vocabulary], contiguous, float32 [n]: the largest; the logarithm of the sum of
    exponentials of what the others are less than it. A log-probability is its logit less both, in this order."""
    tops, totals = (torch.empty(len(logits), device=logits.device) for _ in range(2))
    _normalizer_kernel[len(logits),](logits, tops, totals, logits.shape[1], BLOCK=2048)
    return tops, totals
