"""Triton kernels for a GPU: attention in packed batches and in slots, and the small steps between matrix products.

Unfused, those small steps (norms, rotary embedding, activation) take a small model longer than its matrix products.
Head sizes are powers of two, at least 16; sums are float32.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl

QUERIES = 64  # queries at a time in a packed batch
KEYS = 64  # keys at a time
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
    q, k, v, out, tiles, trunk_rows, ends, positions, scaling, window, softcap, n_trunk,
    q_row, q_head, k_row, k_head, v_row, v_head, out_row, out_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    WINDOWED: tl.constexpr, CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    head = tl.program_id(1)
    block = tl.load(tiles + tile * 4)  # the first row of the tile's block
    first = tl.load(tiles + tile * 4 + 1)  # the tile's own first row, and one past the block's last
    stop = tl.load(tiles + tile * 4 + 2)
    rows_at = tl.load(tiles + tile * 4 + 3)  # where the block's trunk rows begin and end
    n_above = tl.load(trunk_rows + rows_at)
    row = first + tl.arange(0, M)
    inside = row < stop
    size = tl.arange(0, SIZE)
    at = row.to(tl.int64)[:, None]
    queries = tl.load(q + at * q_row + head * q_head + size[None, :], mask=inside[:, None], other=0.0)
    position = tl.load(positions + row, mask=inside, other=0)
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    summed = tl.zeros([M, SIZE], tl.float32)
    k_base = k + (head // GROUP) * k_head
    v_base = v + (head // GROUP) * v_head
    for start in range(0, n_above, N):
        key = start + tl.arange(0, N)
        seen = key < n_above
        source = tl.load(trunk_rows + rows_at + 1 + key, mask=seen, other=0).to(tl.int64)[:, None]
        keys = tl.load(k_base + source * k_row + size[None, :], mask=seen[:, None], other=0.0)
        values = tl.load(v_base + source * v_row + size[None, :], mask=seen[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scaling
        scores = _soften(scores, softcap, CAPPED)
        visible = seen[None, :] & inside[:, None]
        if WINDOWED:
            visible = visible & (position[:, None] - key[None, :] < window)
        top, total, summed = _take_in(top, total, summed, scores, visible, values, PRECISION)
    for start in range(block, tl.minimum(first + M, stop), N):
        key = start + tl.arange(0, N)
        seen = key < stop
        source = (key + n_trunk).to(tl.int64)[:, None]
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
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tiles: torch.Tensor, trunk_rows: torch.Tensor,
    ends: torch.Tensor, positions: torch.Tensor, scaling: float, window: int | None, softcap: float | None,
) -> torch.Tensor:  # fmt: skip
    """Attention of ``q`` [tokens, heads, size] of a packed batch (packed.py); the same shape comes back.

    ``k``, ``v`` [trunk + tokens, kv heads, size]. ``tiles`` [tiles, 4] int32: a block's first row, the tile's first
    row, one past the block's last row, where the block's trunk rows stand in ``trunk_rows`` (their number, then the
    rows). ``ends`` [tokens] int32: one past the last row that sees a row. ``positions`` [tokens] int32.
    """
    n, heads, size = q.shape
    out = torch.empty(n, heads, size, dtype=q.dtype, device=q.device)
    _tree_kernel[len(tiles), heads](
        q, k, v, out, tiles, trunk_rows, ends, positions, scaling, window or 0, softcap or 0.0, len(k) - n,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1), out.stride(0), out.stride(1),
        GROUP=heads // k.shape[1], SIZE=size, M=QUERIES, N=KEYS, WINDOWED=window is not None,
        CAPPED=softcap is not None, PRECISION=_precision(q),
    )  # fmt: skip
    return out


@triton.jit
def _slots_kernel(
    q, k, v, out, lengths, scaling, window, softcap, stride_slot, stride_head,
    GROUP: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, N: tl.constexpr,
    CAPPED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    slot = tl.program_id(0)
    head = tl.program_id(1)
    length = tl.load(lengths + slot).to(tl.int32) + 1
    group = tl.arange(0, ROWS)
    size = tl.arange(0, SIZE)
    at = ((slot * tl.num_programs(1) + head) * GROUP + group)[:, None] * SIZE + size[None, :]
    queries = tl.load(q + at, mask=group[:, None] < GROUP, other=0.0)
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
    tl.store(out + at, summed / total[:, None], mask=group[:, None] < GROUP)


def attend_in_slots(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor,
    scaling: float, window: int | None, softcap: float | None,
) -> torch.Tensor:  # fmt: skip
    """Attention of ``q`` [slots, heads, size] to the first ``lengths + 1`` tokens of each slot.

    ``k``, ``v``: [slots, kv heads, tokens, size], contiguous. ``window``: only the last so many tokens.
    """
    slots, heads, size = q.shape
    n_kv = k.shape[1]
    out = torch.empty(slots, heads, size, dtype=q.dtype, device=q.device)
    _slots_kernel[slots, n_kv](
        q.contiguous(), k, v, out, lengths, scaling, window or k.shape[2] + 1, softcap or 0.0,
        k.stride(0), k.stride(1), GROUP=heads // n_kv, SIZE=size,
        ROWS=max(MIN_ROWS, triton.next_power_of_2(heads // n_kv)), N=KEYS,
        CAPPED=softcap is not None, PRECISION=_precision(q),
    )  # fmt: skip
    return out


def _precision(q: torch.Tensor) -> str:
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


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Root-mean-square norm of the last dimension, then times ``weight``; ``x`` contiguous."""
    out = torch.empty_like(x)
    width = x.shape[-1]
    _norm_kernel[x.numel() // width,](x, weight, out, eps, WIDTH=width, PADDED=triton.next_power_of_2(width))
    return out


@triton.jit
def _rotate_kernel(x, cos, sin, out, HEADS: tl.constexpr, PADDED: tl.constexpr, HALF: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    half = tl.arange(0, HALF)[None, :]
    head = tl.arange(0, PADDED)[:, None]
    inside = head < HEADS
    at = (row * HEADS + head) * 2 * HALF + half
    left = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(x + at + HALF, mask=inside, other=0.0).to(tl.float32)
    angle = row * 2 * HALF + half
    cos_left, cos_right = tl.load(cos + angle).to(tl.float32), tl.load(cos + angle + HALF).to(tl.float32)
    sin_left, sin_right = tl.load(sin + angle).to(tl.float32), tl.load(sin + angle + HALF).to(tl.float32)
    tl.store(out + at, left * cos_left - right * sin_left, mask=inside)
    tl.store(out + at + HALF, right * cos_right + left * sin_right, mask=inside)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of ``x`` [tokens, heads, size] by ``cos``, ``sin`` [tokens, size]; all contiguous."""
    out = torch.empty_like(x)
    n, heads, size = x.shape
    _rotate_kernel[n,](x, cos, sin, out, HEADS=heads, PADDED=triton.next_power_of_2(heads), HALF=size // 2)
    return out


@triton.jit
def _gate_kernel(gate, up, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    x = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + at, mask=inside, other=0.0)
    # rounded between the two products, as separate operations do
    tl.store(out + at, (x * tl.sigmoid(x)).to(y.dtype) * y, mask=inside)


def silu_gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """``silu(gate) * up``, both contiguous."""
    out = torch.empty_like(gate)
    _gate_kernel[triton.cdiv(gate.numel(), 1024),](gate, up, out, gate.numel(), BLOCK=1024)
    return out
