"""Planning: from token sequences to packed batches in which each distinct token stands once. No torch.

The sequences form a prefix tree (a radix tree). It is cut in two. The *shared prefixes* are what many requests begin
with (chat header, instruction, shots): prefilled first, their KV cache kept. The *blocks* are the subtrees below them
(most often one doc: its context and its choices), in which a token sees only its own ancestors. Blocks fill a batch up
to a budget of tokens.

Everything here is an array over tokens, inputs, nodes or blocks: a benchmark has some hundred thousand of each.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from evals.core.requests import ranges

# A token in the linear layers costs about as much as this many query-key pairs in attention: 24·h² operations against
# 4·h a layer, for hidden sizes h of some hundreds, and attention runs at a lower rate.
PAIRS_PER_TOKEN = 1024
MIN_SAVING = 8  # tokens that a shared prefix must save; without one the tree is cut into fewer, larger blocks
COMPARED_TOGETHER = 1024  # neighbours in sorted order: their tokens stay in the processor's cache

Array = np.ndarray


class Inputs(NamedTuple):
    """Token ids that go into the model: input i is ``tokens[starts[i]:][:lengths[i]]``.

    ``first_outputs``: the position (0-based) in each of the first output that is asked for.
    """

    tokens: Array
    starts: Array
    lengths: Array
    first_outputs: Array

    @classmethod
    def of(cls, pairs: Sequence[tuple[Sequence[int], int]]) -> Inputs:
        """Of (tokens, first output) pairs."""
        lengths = np.array([len(tokens) for tokens, _ in pairs], np.int64)
        tokens = np.array([token for each, _ in pairs for token in each], np.int32)
        return cls(
            tokens, np.cumsum(lengths) - lengths, lengths, np.array([first for _, first in pairs], np.int64)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Subtrees of the prefix tree, one after the other, the tokens of each depth first.

    Block k is rows ``starts[k]`` to ``starts[k + 1]``. ``ends[i]`` is one past token i's last descendant: in a block,
    token i sees token j exactly when ``j <= i < ends[j]``. ``prefixes[above[k]]``: where the shared prefix, which
    every token of block k sees, stands in the cache of all shared prefixes.
    """

    tokens: Array
    positions: Array
    ends: Array
    starts: Array
    prefixes: Sequence[Array]
    above: Array

    def __len__(self) -> int:
        return len(self.above)

    def part(self, first: int, stop: int) -> Blocks:
        """Some consecutive blocks."""
        begin, end = self.starts[first], self.starts[stop]
        return Blocks(
            self.tokens[begin:end], self.positions[begin:end], self.ends[begin:end] - begin,
            self.starts[first : stop + 1] - begin, self.prefixes, self.above[first:stop],
        )  # fmt: skip

    def batches(self, budget: int, first: int = 0) -> Iterator[tuple[int, int]]:
        """(first, stop) of consecutive blocks up to ``budget`` tokens together (a larger block alone)."""
        while first < len(self):
            stop = int(np.searchsorted(self.starts, self.starts[first] + budget, "right")) - 1
            yield first, (first := max(stop, first + 1))


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Prefill ``prefix``, all shared prefixes (perhaps none) as one block, then ``blocks``.

    Block k is for the inputs ``members[member_starts[k]:member_starts[k + 1]]``.
    """

    prefix: Blocks
    blocks: Blocks
    members: Array
    member_starts: Array
    _leaves: Array  # of each member, the edge that it ends in
    # of each edge in the blocks: position and row of its first token, edge above
    _edges: tuple[Array, Array, Array]

    @property
    def tokens(self) -> int:
        """How many tokens go through the model in all."""
        return len(self.prefix.tokens) + len(self.blocks.tokens)

    def rows(self, since: Array, lengths: Array) -> tuple[Array, Array]:
        """Where each member's tokens from position ``since`` up to its length stand in ``blocks``.

        One member's rows follow the other's; also where those of each begin, and the end of all.
        """
        starts, begins, above = self._edges
        counts = lengths - since
        offsets = np.append(0, np.cumsum(counts))
        rows = np.empty(counts.sum(), np.int64)
        left, edge, stop = np.arange(len(counts)), self._leaves, lengths
        while len(left):  # up the tree, all members together
            begin = np.maximum(starts[edge], since[left])
            at = ranges(begin, stop)
            rows[np.repeat(offsets[left] - since[left], stop - begin) + at] = (
                np.repeat(begins[edge] - starts[edge], stop - begin) + at
            )
            more = begin > since[left]
            left, edge, stop = left[more], above[edge[more]], begin[more]
        return rows, offsets


def plan(inputs: Inputs, max_block: int, max_prefix: int, by_prefix: bool = False) -> Plan:
    """Plan ``inputs`` so that (nearly) each of their distinct prefixes goes through the model once.

    ``max_block``: tokens above which a block is cut into smaller ones if it can be; what these begin with is then
    computed again in each, unless there is place for it among the shared prefixes. ``max_prefix``: tokens of these.
    Blocks stand largest first; with ``by_prefix``, those below one shared prefix follow each other, longest first.
    """
    tree = _radix_tree(inputs)
    parts, tops = _cut(tree, inputs.first_outputs, max_block, max_prefix)
    prefix, paths = _prefix_block(parts, inputs)
    node, start, part = np.array(tops, np.int64).T
    split = node < 0
    node = np.where(split, ~node, node)
    stop = np.where(split, node + 1, tree.ends[node])
    size = np.where(split, tree.depths[node], tree.starts[node] + tree.sizes[node]) - start
    if by_prefix:
        rank = np.argsort(sorted(range(len(paths)), key=lambda k: paths[k].tolist()))
        order = np.lexsort((-size, rank[part]))
    else:
        order = np.lexsort((-np.array([len(path) for path in paths])[part], -size))
    node, start, stop, part = (x[order] for x in (node, start, stop, part))
    edges = _edges(tree, node, start, stop)
    source = inputs.starts[tree.sources[edges.nodes]]
    blocks = Blocks(
        inputs.tokens[ranges(source + edges.starts, source + edges.stops)],
        ranges(edges.starts, edges.stops).astype(np.int32),
        np.repeat(edges.ends, edges.stops - edges.starts).astype(np.int32),
        edges.rows[np.append(edges.first, len(edges.nodes))],
        paths,
        part,
    )
    bounds = tree.bounds
    members = ranges(bounds[node], bounds[stop])
    counts = bounds[stop] - bounds[node]
    leaves = np.repeat(edges.first - node, counts) + tree.leaves[members]
    return Plan(
        prefix, blocks, tree.members[members], np.append(0, np.cumsum(counts)),
        leaves, (edges.starts, edges.rows, edges.above),
    )  # fmt: skip


class _Tree(NamedTuple):
    """The prefix tree: its edges, each tokens ``starts`` to ``depths`` of the input ``sources``; 0 is the root.

    An edge stands before those below it, children in descending order of tokens; ``ends`` is one past the last below.
    ``sizes``: distinct tokens from the edge on. ``members[bounds[k]:bounds[k + 1]]`` are the inputs that end with k,
    and ``leaves`` is k for each of them.
    """

    starts: Array
    depths: Array
    parents: Array
    ends: Array
    sizes: Array
    sources: Array
    members: Array
    leaves: Array
    bounds: Array


def _radix_tree(inputs: Inputs) -> _Tree:
    # most significant byte first: sorts as the tokens do, and compares several times faster
    data = inputs.tokens.astype(">u4").tobytes()
    spans = zip((4 * inputs.starts).tolist(), (4 * (inputs.starts + inputs.lengths)).tolist(), strict=True)
    keys = [data[begin:end] for begin, end in spans]
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__, reverse=True))
    # In sorted order an input leaves the path of the one before at some depth and never comes back to what lies deeper:
    # the path is a stack, and whatever is popped off it is finished.
    firsts, lasts, depths, parents = [0], [len(keys)], [0], [0]  # by edge: the inputs that go through it
    path, leaves = [0], []
    for k, (shared, length) in enumerate(
        zip(_shared(inputs, order).tolist(), inputs.lengths[order].tolist(), strict=True)
    ):
        below = 0
        while depths[path[-1]] > shared:
            below = path.pop()
            lasts[below] = k
        # where the branch leaves in the middle of an edge, that is split; then the branch's own edge
        for via, until in ((firsts[below], shared), (k, length)):
            if depths[path[-1]] < until:
                parents.append(path[-1])
                path.append(len(firsts))
                firsts.append(via)
                depths.append(until)
                lasts.append(len(keys))
                if via < k:
                    parents[below] = path[-1]
        leaves.append(path[-1])
    where = np.lexsort((depths, firsts))
    rank = np.argsort(where)
    first, last, depth = np.array(firsts)[where], np.array(lasts)[where], np.array(depths)[where]
    parent, leaf = rank[np.array(parents)[where]], rank[leaves]
    ends = np.searchsorted(first, last)
    starts = depth[parent]
    total = np.append(0, np.cumsum(depth - starts))
    by_leaf = np.lexsort((order, leaf))
    bounds = np.searchsorted(leaf[by_leaf], np.arange(len(first) + 1))
    sizes = total[ends] - total[:-1]
    return _Tree(starts, depth, parent, ends, sizes, order[first], order[by_leaf], leaf[by_leaf], bounds)


def _shared(inputs: Inputs, order: Array) -> Array:
    """How many tokens each input, in this order, begins with as the one before it does."""
    starts, lengths = inputs.starts[order], inputs.lengths[order]
    shared = np.minimum(lengths, np.append(0, lengths[:-1]))
    for first in range(1, len(order), COMPARED_TOGETHER):
        some = shared[first : first + COMPARED_TOGETHER]
        mine, before = starts[first:][: len(some)], starts[first - 1 :][: len(some)]
        differ = inputs.tokens[ranges(mine, mine + some)] != inputs.tokens[ranges(before, before + some)]
        at = np.flatnonzero(differ)
        pair = np.repeat(np.arange(len(some)), some)[at]
        one = np.diff(pair, prepend=-1) > 0  # the first difference of each pair
        some[pair[one]] = ranges(np.zeros_like(some), some)[at[one]]
    return shared


Part = tuple[int, int, int, int]  # of the shared prefixes: the part above, first and last token of an input
Top = tuple[int, int, int]  # of a block: first edge (~edge: without those below), where it starts, part above


def _cut(tree: _Tree, first_outputs: Array, max_block: int, max_prefix: int) -> tuple[list[Part], list[Top]]:
    """Cut the tree into shared prefixes and blocks.

    The edge that saves most as a shared prefix comes first. An edge that cannot become one (no place, too little saved,
    or its outputs are asked for, which a prefix does not give) is computed again in each child's block.
    """
    children = np.bincount(tree.parents[1:], minlength=len(tree.starts))
    sums, squares = (
        np.bincount(tree.parents[1:], tree.sizes[1:] ** power, len(children)) for power in (1, 2.0)
    )
    asked = first_outputs[tree.members]
    starts, depths, ends, sizes, bounds, n_children, needless_pairs = (
        x.tolist()
        for x in (tree.starts, tree.depths, tree.ends, tree.sizes, tree.bounds, children, sums**2 - squares)
    )

    def stays_whole(node: int, start: int, branches: int) -> bool:
        """Whether one block for all of ``node`` costs less than a block for each child, the edge computed in each."""
        if branches < 2:
            return n_children[node] == 0
        if sizes[node] + starts[node] - start > max_block:
            return False
        return (depths[node] - start) * (branches - 1) * PAIRS_PER_TOKEN >= needless_pairs[node]

    parts: list[Part] = [(0, 0, 0, 0)]
    tops: list[Top] = []
    heap = [(0, 0, 0, 0, 0)]  # what it saves, number, edge, its start, the part above
    place, pushed = max_prefix, 1
    while heap:
        _, _, node, start, part = heapq.heappop(heap)
        branches = n_children[node] + (bounds[node] < bounds[node + 1]) if node >= 0 else 0
        if node < 0 or stays_whole(node, start, branches):
            tops.append((node, start, part))
            continue
        first_output = int(asked[bounds[node] : bounds[ends[node]]].min())
        kept = max(0, min(depths[node], first_output, start + place) - start)
        if kept * (branches - 1) < MIN_SAVING:
            kept = 0
        if kept:
            parts.append((part, start, start + kept, int(tree.sources[node])))
            part = len(parts) - 1
            place -= kept
        below = []
        child = node + 1
        while child < ends[node]:
            below.append(child)
            child = ends[child]
        below.reverse()
        if bounds[node] < bounds[node + 1]:  # inputs that end here need a block of their own
            below.append(~node)
        for child in below:
            saving = (depths[child] - start - kept) * n_children[child] if child >= 0 else 0
            heapq.heappush(heap, (-saving, pushed, child, start + kept, part))
            pushed += 1
    return parts, tops


def _prefix_block(parts: Sequence[Part], inputs: Inputs) -> tuple[Blocks, list[Array]]:
    """The shared prefixes as one block; of each part, the rows from its beginning to the part's end."""
    sizes = [stop - start for _, start, stop, _ in parts]
    below: list[list[int]] = [[] for _ in parts]
    for part in range(len(parts) - 1, 0, -1):  # parts come after those above them
        sizes[parts[part][0]] += sizes[part]
        below[parts[part][0]].append(part)
    paths = [np.arange(0)] * len(parts)
    tokens, positions, ends = [np.zeros(0, np.int32)], [np.arange(0)], [np.arange(0)]
    row, todo = 0, [0]
    while todo:
        part = todo.pop()
        above, start, stop, source = parts[part]
        paths[part] = np.append(paths[above], np.arange(row, row + stop - start))
        begin = inputs.starts[source]
        tokens.append(inputs.tokens[begin + start : begin + stop])
        positions.append(np.arange(start, stop))
        ends.append(np.full(stop - start, row + sizes[part]))
        row += stop - start
        todo += reversed(below[part])
    rows = [np.concatenate(x).astype(np.int32) for x in (tokens, positions, ends)]
    return Blocks(rows[0], rows[1], rows[2], np.array([0, row]), paths[:1], np.zeros(1, np.int64)), paths


class _Edges(NamedTuple):
    """The edges of blocks, one after the other: tokens ``starts`` to ``stops`` of the tree's edge ``nodes``.

    ``rows``: where each begins, and the end of all; ``ends``: one past the last row below it; ``above``: the edge
    above; ``first``: of each block.
    """

    nodes: Array
    starts: Array
    stops: Array
    rows: Array
    ends: Array
    above: Array
    first: Array


def _edges(tree: _Tree, node: Array, start: Array, stop: Array) -> _Edges:
    """The edges ``node`` to ``stop`` of each block; the first of them begins at ``start``, in or above it."""
    counts = stop - node
    first = np.cumsum(counts) - counts
    nodes = ranges(node, stop)
    shift = np.repeat(first - node, counts)
    starts, stops = tree.starts[nodes], tree.depths[nodes]
    starts[first] = start
    rows = np.append(0, np.cumsum(stops - starts))
    ends = rows[np.minimum(tree.ends[nodes], np.repeat(stop, counts)) + shift]
    return _Edges(nodes, starts, stops, rows, ends, tree.parents[nodes] + shift, first)
