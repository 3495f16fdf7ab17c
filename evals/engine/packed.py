"""A packed batch of blocks (tree.py): its tokens in one row, and attention among them, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from evals.engine.attention import AttentionKind, KeyValues, KVCache, attend
from evals.engine.device import kernels_for, on_device
from evals.engine.tree import Block

ROUND_PREFIX = 16  # blocks attend in one call when their prefixes are equally long after rounding up to this


class TreeBatch:
    """Blocks for one forward pass, below shared prefixes that have been prefilled (see attention.PackedBatch).

    With ``keep_cache``, the pass leaves the batch's own keys and values in ``cache``.
    """

    def __init__(
        self, blocks: Sequence[Block], prefix: KVCache, device: torch.device, keep_cache: bool = False
    ) -> None:
        self.prefix = prefix
        self.keep_cache = keep_cache
        self.cache: KVCache = {}
        self.blocks = blocks
        self.tokens = on_device([[t for b in blocks for t in b.tokens]], device)
        self.positions = on_device([[p for b in blocks for p in b.positions]], device)
        self._attention: _Tiled | _Grouped | None = None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kind: AttentionKind) -> Tensor:
        """Each block attends to its shared prefix and to itself."""
        if self.keep_cache:  # contiguous: a view would keep the larger tensor that it is a part of
            self.cache[layer] = (k.contiguous(), v.contiguous())
        prefix = self.prefix.get(layer)
        if self._attention is None:
            n_prefix = len(prefix[0]) if prefix else 0
            self._attention = _Tiled(self) if kernels_for(q) else _Grouped(self.blocks, n_prefix, q.device)
        return self._attention.attend(q, k, v, prefix, kind)


class _Tiled:
    """All blocks in one kernel, for a GPU."""

    def __init__(self, batch: TreeBatch) -> None:
        from evals.engine.kernels import QUERIES

        tiles: list[tuple[int, int, int, int]] = []
        prefix_rows: list[int] = []
        ends: list[int] = []
        starts: list[int] = []
        placed: dict[tuple[int, ...], int] = {}
        for block in batch.blocks:
            start, stop = len(ends), len(ends) + len(block.tokens)
            rows = tuple(block.prefix_rows)
            if rows not in placed:
                placed[rows] = len(prefix_rows)
                prefix_rows += [len(rows), *rows]
            tiles += [(start, first, stop, placed[rows]) for first in range(start, stop, QUERIES)]
            ends += block.ends
            starts.append(start)
        # a block's ends count from its own first row, the kernel's from the batch's
        of_block = np.repeat(starts, np.diff([*starts, len(ends)]))
        device = batch.tokens.device
        self.tiles, self.prefix_rows, self.ends = (
            on_device(x, device, torch.int32) for x in (tiles, prefix_rows, np.array(ends) + of_block)
        )
        self.positions = batch.positions[0].int()

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, prefix: KeyValues | None, kind: AttentionKind
    ) -> Tensor:
        """From [rows, heads, size] of the batch (and its prefix's keys and values) to the same of the batch."""
        from evals.engine.kernels import attend_in_trees

        return attend_in_trees(q, k, v, prefix, self.tiles, self.prefix_rows, self.ends, self.positions, kind)


class _Grouped:
    """Blocks of one size, below prefixes of about one, in one call each, with PyTorch's own attention."""

    def __init__(self, blocks: Sequence[Block], n_prefix: int, device: torch.device) -> None:
        alike: dict[tuple[bool, int, int], list[tuple[int, Block]]] = {}
        start = 0
        for block in blocks:
            alike.setdefault(_likeness(block), []).append((start, block))
            start += len(block.tokens)
        self.groups: list[_Group] = []
        place, offset = [0] * start, 0  # where each row of the batch stands in the groups' joined outputs
        for (causal, _, size), members in alike.items():
            above = max(len(block.prefix_rows) for _, block in members)
            front = above if causal else 0
            query_rows, key_rows = [], []
            for first, block in members:
                query_rows += [first] * front + [*range(first, first + size)]
                own = range(n_prefix + first, n_prefix + first + size)
                key_rows.append([*block.prefix_rows, *[0] * (above - len(block.prefix_rows)), *own])
                place[first : first + size] = range(offset + front, offset + front + size)
                offset += front + size
            # most CPU batches are in order: a slice then saves copying the queries
            rows: Tensor | slice = slice(query_rows[0], query_rows[0] + len(query_rows))
            if query_rows != [*range(query_rows[0], query_rows[0] + len(query_rows))]:
                rows = on_device(query_rows, device)
            group = _Group([block for _, block in members], rows, on_device(key_rows, device), above, causal)
            self.groups.append(group)
        self.place = None if place == [*range(offset)] else on_device(place, device)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, prefix: KeyValues | None, kind: AttentionKind
    ) -> Tensor:
        """From [rows, heads, size] of the batch (and its prefix's keys and values) to the same of the batch."""
        if prefix is not None:  # key_rows index both
            k, v = (torch.cat([above, new]) for above, new in zip(prefix, (k, v), strict=True))
        # cuDNN's attention is left out: it builds a plan for every new shape, which takes longer than the batch
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            parts = [group.attend(q, k, v, kind) for group in self.groups]
        out = torch.cat(parts) if len(parts) > 1 else parts[0]
        return out if self.place is None else out.index_select(0, self.place)


@dataclass(slots=True, eq=False)
class _Group:
    """Blocks of about equal shape, attended to in one call.

    ``query_rows`` [blocks, queries]: rows of the batch; or a slice of it, in order, with no padding.
    ``key_rows`` [blocks, keys]: rows of prefix + batch. Padding repeats some row.
    ``n_prefix``: keys that are the prefix's, the same number for each (padded).
    ``causal``: each block is one sequence without forks, and its queries begin with one for each of the prefix's
    keys (their outputs are not used), so that query i sees exactly the keys up to i.
    """

    blocks: list[Block]
    query_rows: Tensor | slice
    key_rows: Tensor
    n_prefix: int
    causal: bool
    masks: dict[int | None, Tensor] = field(default_factory=dict)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, kind: AttentionKind) -> Tensor:
        """From [rows, heads, size] of the batch (k, v: of prefix + batch) to [blocks · queries, heads, size]."""
        n, n_keys = self.key_rows.shape
        asked = self.query_rows
        queries = q[asked] if isinstance(asked, slice) else q.index_select(0, asked)
        queries = queries.view(n, -1, *q.shape[1:]).transpose(1, 2)
        rows = self.key_rows.view(-1)
        keys, values = (x.index_select(0, rows).view(n, n_keys, *x.shape[1:]).transpose(1, 2) for x in (k, v))
        # a window that holds the longest sequence hides nothing, and causal attention needs no mask
        window = None if kind.window is not None and kind.window >= self._longest() else kind.window
        if kind.softcap is not None:
            # the reference: PyTorch has no fused attention with a soft cap
            times = queries.shape[1] // keys.shape[1]
            keys, values = (x.repeat_interleave(times, 1) for x in (keys, values))
            out = attend(queries, keys, values, self._mask(window, queries), kind)
        else:
            mask = None if self.causal and window is None else self._mask(window, queries)
            out = scaled_dot_product_attention(
                queries, keys, values, mask, is_causal=mask is None, scale=kind.scaling, enable_gqa=True
            )
        return out.transpose(1, 2).reshape(-1, q.shape[1], v.shape[2])

    def _longest(self) -> int:
        return max(max(block.positions) for block in self.blocks) + 1

    def _mask(self, window: int | None, queries: Tensor) -> Tensor:
        """What to add to attention's scores, [blocks, 1, queries, keys]; made once for all layers of one window."""
        if window not in self.masks:
            device, n_keys = self.key_rows.device, self.key_rows.shape[1]
            first = 0 if self.causal else self.n_prefix
            # each query's own key, which is the last that it sees
            own = torch.arange(first, first + queries.shape[2], device=device)[None, :, None]
            key = torch.arange(n_keys, device=device)
            ends, positions = on_device(
                [self._key_ends_and_positions(block, n_keys) for block in self.blocks], device
            ).unbind(1)
            visible = (key <= own) & (own < ends[:, None, :])
            if window is not None:
                visible &= (
                    positions[:, first : first + queries.shape[2], None] - positions[:, None, :] < window
                )
            mask = torch.zeros(visible.shape, dtype=queries.dtype, device=device)
            self.masks[window] = mask.masked_fill_(~visible, float("-inf"))[:, None]
        return self.masks[window]

    def _key_ends_and_positions(self, block: Block, n_keys: int) -> tuple[list[int], list[int]]:
        """Of each key: one past the last query that may see it (0 for padding), and its position."""
        above = len(block.prefix_rows)
        pad = [0] * (self.n_prefix - above)
        ends = [n_keys] * above + pad + [end + self.n_prefix for end in block.ends]
        return ends, [*range(above), *pad, *block.positions]


def _likeness(block: Block) -> tuple[bool, int, int]:
    """Equal for blocks that go into one group: whether causal, prefix (rounded, if not causal), tokens."""
    size, above = len(block.tokens), len(block.prefix_rows)
    # Queries that stand for the prefix's keys make attention causal, which is faster than a mask as long as they are
    # fewer than the block's own.
    if above < size and min(block.ends) == size:
        return True, above, size
    return False, -(-above // ROUND_PREFIX), size
