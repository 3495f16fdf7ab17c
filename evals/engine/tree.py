"""Planning: from token sequences to packed batches in which each distinct token stands once. No torch.

The sequences form a radix tree. It is cut into a *trunk* (what many docs begin with: chat header, instruction; fed
once, its keys and values kept) and *blocks* (a doc: context and choices, tokens that see only their own ancestors).
Blocks of similar size fill a batch up to a budget of tokens.
"""

from __future__ import annotations

import gc
import heapq
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

# A token's way through the linear layers costs about as much as this many query-key pairs in attention: 24·h²
# operations against 4·h a layer, for hidden sizes h of some hundreds, and attention runs at a lower rate.
PAIRS_PER_TOKEN = 1024
# A shared beginning goes into the trunk when that saves at least this many tokens.
MIN_SAVING = 8
WIDTH = array("I").itemsize  # bytes of a token in a key

Path = tuple[tuple[int, int], ...]  # rows of a block, as half-open ranges in order of position


class Feed(NamedTuple):
    """Token ids to feed, and the position (0-based) from which on the model's outputs are asked for."""

    tokens: tuple[int, ...]
    first_output: int


@dataclass(slots=True)
class Block:
    """Tokens fed together: a subtree, depth first, below a stretch of the trunk.

    ``ends[i]`` is one past token i's last descendant: token i sees token j exactly when ``j <= i < ends[j]``.
    ``trunk`` are the rows of the trunk that every token here sees. ``paths`` gives, for each feed that ends in this
    block, the rows of it that stand here.
    """

    trunk: list[int]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: list[tuple[int, Path]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of (queries, keys) in attention."""
        return len(self.tokens), len(self.trunk) + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Plan:
    """Feed ``trunk`` first (it may be empty), then ``blocks``, which stand largest first."""

    trunk: Block
    blocks: list[Block]

    @property
    def tokens(self) -> int:
        """How many tokens will be fed in all."""
        return len(self.trunk.tokens) + sum(len(block.tokens) for block in self.blocks)


def plan(feeds: Sequence[Feed], max_block: int, max_trunk: int) -> Plan:
    """Plan the feeding of ``feeds`` so that (nearly) every distinct prefix of them is fed once.

    ``max_block``: tokens above which a block is taken apart if it can be (its shared part is then fed again unless
    it fits the trunk). ``max_trunk``: most tokens whose keys and values are kept.
    """
    if not feeds:
        return Plan(Block([]), [])
    with _no_garbage_collection():
        root, tops = _cut(_radix_tree(feeds), max_block, max_trunk)
        trunk = root.emit(feeds)
        blocks = [_emit(node, feeds, above.rows()) for node, above in tops]
        blocks.sort(key=lambda block: block.shape, reverse=True)
        return Plan(trunk, blocks)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Planning makes many small objects, all of them needed: looking for garbage among them takes longer than it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def batches(blocks: Sequence[Block], budget: int) -> Iterator[list[Block]]:
    """Consecutive blocks up to ``budget`` tokens together (a larger block alone)."""
    batch: list[Block] = []
    size = 0
    for block in blocks:
        if batch and size + len(block.tokens) > budget:
            yield batch
            batch, size = [], 0
        batch.append(block)
        size += len(block.tokens)
    if batch:
        yield batch


def last_ranges(path: Path, n: int) -> list[tuple[int, int]]:
    """The last ``n`` rows of a path as half-open ranges, in order of position."""
    start, stop = path[-1] if path else (0, 0)
    if stop - start >= n:  # most often
        return [(stop - n, stop)]
    ranges: list[tuple[int, int]] = []
    for start, stop in reversed(path):
        if n <= 0:
            break
        ranges.insert(0, (max(start, stop - n), stop))
        n -= stop - start
    return ranges


def last_rows(path: Path, n: int) -> list[int]:
    """The last ``n`` rows of a path, in order of position."""
    return [row for start, stop in last_ranges(path, n) for row in range(start, stop)]


@dataclass(slots=True, eq=False)
class _Node:
    """An edge of the radix tree, tokens ``start`` to ``depth`` of feed ``source``, and what hangs below it."""

    start: int
    depth: int
    source: int
    children: list[_Node] = field(default_factory=list)
    terminals: list[int] = field(default_factory=list)
    size: int = 0  # distinct tokens, this edge's included
    first_output: int = 0  # the earliest position that a feed ending here or below asks for


def _radix_tree(feeds: Sequence[Feed]) -> _Node:
    """The root of the tree over ``feeds``; ends are ``terminals``, so feeds of equal tokens share a node."""
    keys = [_key(feed.tokens) for feed in feeds]
    order = sorted(range(len(feeds)), key=keys.__getitem__)
    root = _Node(0, 0, order[0])
    stack = [root]
    between = 0  # what two docs had in common the last time: a good guess for the next
    for i in order:
        key, before = keys[i], keys[stack[-1].source]
        first, length = feeds[i].first_output, len(feeds[i].tokens)
        shared = _shared(key, before, first)
        if shared < first:
            shared = between = _shared(key, before, between)
        shared = min(shared, stack[-1].depth)
        while len(stack) > 1 and stack[-2].depth >= shared and stack[-1].depth > shared:
            _close(stack.pop(), feeds)
        top = stack[-1]
        if top.depth > shared:
            # the branch leaves in the middle of an edge: split it
            upper = _Node(top.start, shared, top.source, children=[top])
            top.start = shared
            stack[-2].children[-1] = upper
            _close(stack.pop(), feeds)
            stack.append(upper)
        if length > shared:
            leaf = _Node(shared, length, i)
            stack[-1].children.append(leaf)
            stack.append(leaf)
        stack[-1].terminals.append(i)
    while stack:
        _close(stack.pop(), feeds)
    return root


def _key(tokens: tuple[int, ...]) -> bytes:
    """Four bytes a token, in the same order as the tokens' own: compared several times faster."""
    packed = array("I", tokens)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def _shared(a: bytes, b: bytes, guess: int) -> int:
    """How many tokens two keys have in common at the beginning; fast when that is ``guess`` or a little more."""
    low, high = 0, min(len(a), len(b))
    step = WIDTH * guess
    if step <= high and a[:step] == b[:step]:
        low, step = step, WIDTH
        while low + step <= high and a[low : low + step] == b[low : low + step]:
            low += step
            step *= 2
        high = min(high, low + step)
    else:
        high = min(high, step)
    while low < high:  # bisected: slices compare fast
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low // WIDTH


def _close(node: _Node, feeds: Sequence[Feed]) -> None:
    """Sum up a finished node; its children are finished."""
    if not node.children and len(node.terminals) == 1:  # most often
        node.size, node.first_output = node.depth - node.start, feeds[node.terminals[0]].first_output
        return
    node.size = node.depth - node.start + sum(child.size for child in node.children)
    outputs = [child.first_output for child in node.children] + [
        feeds[i].first_output for i in node.terminals
    ]
    node.first_output = min(outputs, default=0)


@dataclass(slots=True, eq=False)
class _Trunk:
    """A stretch of the trunk: tokens ``start`` to ``depth`` of feed ``source``; the trunk's root is empty."""

    start: int
    depth: int
    source: int
    above: _Trunk | None = None
    children: list[_Trunk] = field(default_factory=list)
    row: int = 0

    def rows(self) -> list[int]:
        """Trunk rows from the root to here."""
        stretches = []
        at: _Trunk | None = self
        while at is not None:
            stretches.append(range(at.row, at.row + at.depth - at.start))
            at = at.above
        return [row for stretch in reversed(stretches) for row in stretch]

    def emit(self, feeds: Sequence[Feed]) -> Block:
        """All below this root as one block; numbers the rows."""
        block = Block(trunk=[])
        order, stack = [], [self]
        while stack:
            at = stack.pop()
            order.append(at)
            at.row = len(block.tokens)
            block.tokens.extend(feeds[at.source].tokens[at.start : at.depth])
            block.positions.extend(range(at.start, at.depth))
            stack.extend(at.children)
        block.ends = [0] * len(block.tokens)
        last: dict[_Trunk, int] = {}
        for at in reversed(order):
            stop = at.row + at.depth - at.start
            last[at] = max([stop, *(last[child] for child in at.children)])
            block.ends[at.row : stop] = [last[at]] * (stop - at.row)
        return block


def _cut(root: _Node, max_block: int, max_trunk: int) -> tuple[_Trunk, list[tuple[_Node, _Trunk]]]:
    """Cut the tree: the trunk's root, and the top of each block with the stretch of trunk that it hangs from.

    Nodes are taken by what their place in the trunk saves. A node cut without a place there (no room, too little
    saved, or its outputs are asked for) has its tokens fed again in each child's block.
    """
    trunk = _Trunk(0, 0, root.source)
    tops: list[tuple[_Node, _Trunk]] = []
    heap: list[tuple[int, int, _Node, _Trunk]] = [(0, 0, root, trunk)]
    room, pushed = max_trunk, 1
    while heap:
        _, _, node, above = heapq.heappop(heap)
        if _stays_whole(node, max_block):
            tops.append((node, above))
            continue
        branches = len(node.children) + bool(node.terminals)
        kept = max(0, min(node.depth, node.first_output, node.start + room) - node.start)
        if kept * (branches - 1) < MIN_SAVING:
            kept = 0
        if kept:
            stretch = _Trunk(node.start, node.start + kept, node.source, above)
            above.children.append(stretch)
            above = stretch
            room -= kept
        ending = (
            [_Node(node.depth, node.depth, node.source, terminals=node.terminals)] if node.terminals else []
        )
        for child in node.children + ending:
            child.size += node.depth - (node.start + kept)
            child.start = node.start + kept
            saving = (child.depth - child.start) * len(child.children)
            heapq.heappush(heap, (-saving, pushed, child, above))
            pushed += 1
    return trunk, tops


def _stays_whole(node: _Node, max_block: int) -> bool:
    """Whether one block for all of ``node`` costs less than a block for each child, the edge fed in each."""
    branches = len(node.children) + bool(node.terminals)
    if branches < 2:
        return not node.children
    if node.size > max_block:
        return False
    sizes = [child.size for child in node.children]
    needless_pairs = sum(sizes) ** 2 - sum(size * size for size in sizes)
    return (node.depth - node.start) * (branches - 1) * PAIRS_PER_TOKEN >= needless_pairs


def _emit(top: _Node, feeds: Sequence[Feed], trunk: list[int]) -> Block:
    """The block of a subtree."""
    tokens: list[int] = []
    positions: list[int] = []
    ends: list[int] = []
    paths: list[tuple[int, Path]] = []
    stack: list[tuple[_Node, Path]] = [(top, ())]
    while stack:
        node, path = stack.pop()
        row, start, depth = len(tokens), node.start, node.depth
        if depth > start:
            path = (*path, (row, row + depth - start))
            tokens += feeds[node.source].tokens[start:depth]
            positions += range(start, depth)
            ends += [row + node.size] * (depth - start)
        for i in node.terminals:
            paths.append((i, path))
        for child in node.children:
            stack.append((child, path))
    return Block(trunk, tokens, positions, ends, paths)
