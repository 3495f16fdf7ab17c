"""A packed batch of blocks (tree.py): its tokens in one row, and attention among them, block by block."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from evals.core.requests import ranges
from evals.engine.attention import AttentionKind, KeyValues, KVCache, attend, bias_of
from evals.engine.device import kernels_for, on_device
from evals.engine.tree import Blocks

ROUND_PREFIX = 16  # blocks attend in one call when their prefixes are equally long after rounding up to this


class TreeBatch:
    """Blocks for one forward pass, below shared prefixes that have been prefilled (see attention.PackedBatch).

    With ``keep_cache``, the pass leaves the batch's own keys and values in ``cache``.
    """

    def __init__(
        self, blocks: Blocks, prefix: KVCache, device: torch.device, keep_cache: bool = False
    ) -> None:
        self.prefix = prefix
        self.keep_cache = keep_cache
        self.cache: KVCache = {}
        self.blocks = blocks
        self.tokens = on_device(blocks.tokens[None], device)
        self.positions = on_device(blocks.positions[None], device)
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

        blocks = batch.blocks
        starts, stops = blocks.starts[:-1], blocks.starts[1:]
        used, above = np.unique(blocks.above, return_inverse=True)
        prefixes = [np.append(len(blocks.prefixes[k]), blocks.prefixes[k]) for k in used]
        placed = np.cumsum([0, *map(len, prefixes[:-1])])
        counts = -(-(stops - starts) // QUERIES)
        of_block = np.stack([starts, starts, stops, placed[above]], axis=1)
        tiles = np.repeat(of_block, counts, axis=0)
        tiles[:, 1] += QUERIES * ranges(0 * counts, counts)
        device = batch.tokens.device
        self.tiles, self.prefix_rows, self.ends = (
            on_device(x, device, torch.int32) for x in (tiles, np.concatenate(prefixes), blocks.ends)
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

    def __init__(self, blocks: Blocks, n_prefix: int, device: torch.device) -> None:
        sizes = np.diff(blocks.starts)
        above = np.array([len(rows) for rows in blocks.prefixes])[blocks.above]
        # Queries that stand for the prefix's keys make attention causal, which is faster than a mask as long as they
        # are fewer than the block's own.
        causal = (np.minimum.reduceat(blocks.ends, blocks.starts[:-1]) == blocks.starts[1:]) & (above < sizes)
        alike: dict[tuple[bool, int, int], list[int]] = {}
        rounded = np.where(causal, above, -(-above // ROUND_PREFIX))
        for block, likeness in enumerate(zip(causal.tolist(), rounded.tolist(), sizes.tolist(), strict=True)):
            alike.setdefault(likeness, []).append(block)
        self.groups = [
            _group(blocks, np.array(members), is_causal, n_prefix, device)
            for (is_causal, _, _), members in alike.items()
        ]
        # where each row of the batch stands in the groups' joined outputs
        place, offset = np.empty(len(blocks.tokens), np.int64), 0
        for group, members in zip(self.groups, alike.values(), strict=True):
            n, n_keys = group.key_rows.shape
            size = n_keys - group.n_prefix
            queries = n_keys if group.causal else size
            at = offset + queries * np.arange(n)[:, None] + np.arange(queries - size, queries)
            place[blocks.starts[members, None] + np.arange(size)] = at
            offset += n * queries
        in_order = offset == len(place) and bool((np.diff(place) == 1).all())
        self.place = None if in_order else on_device(place, device)

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


def _group(blocks: Blocks, members: np.ndarray, causal: bool, n_prefix: int, device: torch.device) -> _Group:
    """Blocks of one size, below prefixes of which the longest sets the number of keys."""
    first = blocks.starts[members, None]
    own = first + np.arange(blocks.starts[members[0] + 1] - blocks.starts[members[0]])
    prefixes = [blocks.prefixes[k] for k in blocks.above[members]]
    most = max(map(len, prefixes))
    above = np.zeros((len(members), most), np.int64)
    for row, prefix in zip(above, prefixes, strict=True):
        row[: len(prefix)] = prefix
    key_rows = np.hstack([above, n_prefix + own])
    ends = np.hstack([np.zeros_like(above), blocks.ends[own] - first + most])
    for row, prefix in zip(ends, prefixes, strict=True):
        row[: len(prefix)] = key_rows.shape[1]
    positions = np.hstack([np.arange(most) + 0 * above, blocks.positions[own]])
    queries = np.hstack([first + 0 * above, own]).ravel() if causal else own.ravel()
    # most CPU batches are in order: a slice then saves copying the queries
    rows: Tensor | slice = slice(int(queries[0]), int(queries[-1]) + 1)
    if (np.diff(queries) != 1).any():
        rows = on_device(queries, device)
    return _Group(rows, on_device(key_rows, device), ends, positions, most, causal)


@dataclass(slots=True, eq=False)
class _Group:
    """Blocks of about equal shape, attended to in one call.

    ``query_rows`` [blocks, queries]: rows of the batch; or a slice of it, in order, with no padding.
    ``key_rows`` [blocks, keys]: rows of prefix + batch. Padding repeats some row.
    ``ends``, ``positions`` [blocks, keys]: one past the last query that may see a key (0 for padding), its position.
    ``n_prefix``: keys that are the prefix's, the same number for each (padded).
    ``causal``: each block is one sequence without forks, and its queries begin with one for each of the prefix's
    keys (their outputs are not used), so that query i sees exactly the keys up to i.
    """

    query_rows: Tensor | slice
    key_rows: Tensor
    ends: np.ndarray
    positions: np.ndarray
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
        longest = self.positions.max() + 1
        window = None if kind.window is not None and kind.window >= longest else kind.window
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

    def _mask(self, window: int | None, queries: Tensor) -> Tensor:
        """What to add to attention's scores, [blocks, 1, queries, keys]; made once for all layers of one window."""
        if window not in self.masks:
            device, n_keys = self.key_rows.device, self.key_rows.shape[1]
            first = 0 if self.causal else self.n_prefix
            # each query's own key, which is the last that it sees
            own = torch.arange(first, first + queries.shape[2], device=device)[None, :, None]
            key = torch.arange(n_keys, device=device)
            ends, positions = (on_device(x, device) for x in (self.ends, self.positions))
            visible = (key <= own) & (own < ends[:, None, :])
            if window is not None:
                visible &= (
                    positions[:, first : first + queries.shape[2], None] - positions[:, None, :] < window
                )
            self.masks[window] = bias_of(visible, queries.dtype)[:, None]
        return self.masks[window]
