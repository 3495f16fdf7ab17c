"""Planning: from token sequences to packed batches in which each distinct token stands once. No torch.

The sequences form a prefix tree (a radix tree). It is cut in two. The *shared prefixes* are what many requests begin
with (chat header, instruction, shots): prefilled first, their KV cache kept. The *blocks* are the subtrees below them
(most often one doc: its context and its choices), in which a token sees only its own ancestors. Blocks fill a batch up
to a budget of tokens.
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

# A token in the linear layers costs about as much as this many query-key pairs in attention: 24·h² operations against
# 4·h a layer, for hidden sizes h of some hundreds, and attention runs at a lower rate.
PAIRS_PER_TOKEN = 1024
MIN_SAVING = 8  # tokens that a shared prefix must save; without one the tree is cut into fewer, larger blocks
WIDTH = array("I").itemsize  # bytes of a token in a key

Path = tuple[tuple[int, int], ...]  # rows of a block, as half-open ranges in order of position


class Input(NamedTuple):
    """Token ids that go into the model, and the position (0-based) of the first output that is asked for."""

    tokens: tuple[int, ...]
    first_output: int


@dataclass(slots=True)
class Block:
    """A subtree of the prefix tree, its tokens depth first.

    ``ends[i]`` is one past token i's last descendant: token i sees token j exactly when ``j <= i < ends[j]``.
    ``prefix_rows``: where the shared prefix, which every token here sees, stands in the cache of all shared prefixes.
    ``paths``: for each input that ends in this block, the rows of its tokens that stand here.
    """

    prefix_rows: list[int]
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    paths: list[tuple[int, Path]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of (queries, keys) in attention."""
        return len(self.tokens), len(self.prefix_rows) + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Plan:
    """Prefill ``prefix``, all shared prefixes (perhaps none), then ``blocks``, which stand largest first."""

    prefix: Block
    blocks: list[Block]

    @property
    def tokens(self) -> int:
        """How many tokens go through the model in all."""
        return len(self.prefix.tokens) + sum(len(block.tokens) for block in self.blocks)


def plan(inputs: Sequence[Input], max_block: int, max_prefix: int) -> Plan:
    """Plan ``inputs`` so that (nearly) each of their distinct prefixes goes through the model once.

    ``max_block``: tokens above which a block is cut into smaller ones if it can be; what these begin with is then
    computed again in each, unless there is place for it among the shared prefixes. ``max_prefix``: tokens of these.
    """
    if not inputs:
        return Plan(Block([]), [])
    with _no_garbage_collection():
        root, tops = _cut(_radix_tree(inputs), max_block, max_prefix)
        prefix = root.emit(inputs)
        blocks = [_emit(node, inputs, above.rows()) for node, above in tops]
        blocks.sort(key=lambda block: block.shape, reverse=True)
        return Plan(prefix, blocks)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Planning makes many small objects and drops none: searching them for garbage takes longer than planning does."""
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
    """An edge of the prefix tree, tokens ``start`` to ``depth`` of input ``source``, and what hangs below it."""

    start: int
    depth: int
    source: int
    children: list[_Node] = field(default_factory=list)
    terminals: list[int] = field(default_factory=list)
    size: int = 0  # distinct tokens, this edge's included
    first_output: int = 0  # the earliest that an input ending here or below asks for


def _radix_tree(inputs: Sequence[Input]) -> _Node:
    """The root of the tree over ``inputs``; ends are ``terminals``, so inputs of equal tokens share a node."""
    keys = [_key(each.tokens) for each in inputs]
    # In sorted order an input leaves the path of the one before at some depth and never comes back to what lies deeper:
    # the path is a stack, and whatever is popped off it is finished.
    order = sorted(range(len(inputs)), key=keys.__getitem__)
    root = _Node(0, 0, order[0])
    stack = [root]
    between = 0  # shared by the last two docs; mostly the next two share as much
    for i in order:
        key, before = keys[i], keys[stack[-1].source]
        first, length = inputs[i].first_output, len(inputs[i].tokens)
        shared = _shared(key, before, first)  # choices of one doc share all before the first output
        if shared < first:
            shared = between = _shared(key, before, between)
        shared = min(shared, stack[-1].depth)
        while len(stack) > 1 and stack[-2].depth >= shared and stack[-1].depth > shared:
            _close(stack.pop(), inputs)
        top = stack[-1]
        if top.depth > shared:
            # the branch leaves in the middle of an edge: split it
            upper = _Node(top.start, shared, top.source, children=[top])
            top.start = shared
            stack[-2].children[-1] = upper
            _close(stack.pop(), inputs)
            stack.append(upper)
        if length > shared:
            leaf = _Node(shared, length, i)
            stack[-1].children.append(leaf)
            stack.append(leaf)
        stack[-1].terminals.append(i)
    while stack:
        _close(stack.pop(), inputs)
    return root


def _key(tokens: tuple[int, ...]) -> bytes:
    """Four bytes a token, most significant first: sorts as the tokens do, and compares several times faster."""
    packed = array("I", tokens)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def _shared(a: bytes, b: bytes, guess: int) -> int:
    """Length in tokens of two keys' common prefix; found fast when it is ``guess`` or a little more."""
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


def _close(node: _Node, inputs: Sequence[Input]) -> None:
    """Sum up a finished node; its children are finished."""
    if not node.children and len(node.terminals) == 1:  # most often
        node.size, node.first_output = node.depth - node.start, inputs[node.terminals[0]].first_output
        return
    node.size = node.depth - node.start + sum(child.size for child in node.children)
    outputs = [child.first_output for child in node.children] + [
        inputs[i].first_output for i in node.terminals
    ]
    node.first_output = min(outputs, default=0)


@dataclass(slots=True, eq=False)
class _Prefix:
    """An edge among the shared prefixes: tokens ``start`` to ``depth`` of input ``source``; the root's is empty."""

    start: int
    depth: int
    source: int
    above: _Prefix | None = None
    children: list[_Prefix] = field(default_factory=list)
    row: int = 0

    def rows(self) -> list[int]:
        """Rows of the shared prefix that ends here."""
        parts = []
        at: _Prefix | None = self
        while at is not None:
            parts.append(range(at.row, at.row + at.depth - at.start))
            at = at.above
        return [row for part in reversed(parts) for row in part]

    def emit(self, inputs: Sequence[Input]) -> Block:
        """All below this root as one block; numbers the rows."""
        block = Block(prefix_rows=[])
        order, stack = [], [self]
        while stack:
            at = stack.pop()
            order.append(at)
            at.row = len(block.tokens)
            block.tokens.extend(inputs[at.source].tokens[at.start : at.depth])
            block.positions.extend(range(at.start, at.depth))
            stack.extend(at.children)
        block.ends = [0] * len(block.tokens)
        last: dict[_Prefix, int] = {}
        for at in reversed(order):
            stop = at.row + at.depth - at.start
            last[at] = max([stop, *(last[child] for child in at.children)])
            block.ends[at.row : stop] = [last[at]] * (stop - at.row)
        return block


def _cut(root: _Node, max_block: int, max_prefix: int) -> tuple[_Prefix, list[tuple[_Node, _Prefix]]]:
    """Cut the tree: the root of the shared prefixes, and the top of each block with the prefix that it hangs from.

    The node that saves most as a shared prefix comes first. A node that cannot become one (no place, too little saved,
    or its outputs are asked for, which a prefix does not give) is computed again in each child's block.
    """
    prefix = _Prefix(0, 0, root.source)
    tops: list[tuple[_Node, _Prefix]] = []
    heap: list[tuple[int, int, _Node, _Prefix]] = [(0, 0, root, prefix)]
    place, pushed = max_prefix, 1
    while heap:
        _, _, node, above = heapq.heappop(heap)
        if _stays_whole(node, max_block):
            tops.append((node, above))
            continue
        branches = len(node.children) + bool(node.terminals)
        kept = max(0, min(node.depth, node.first_output, node.start + place) - node.start)
        if kept * (branches - 1) < MIN_SAVING:
            kept = 0
        if kept:
            part = _Prefix(node.start, node.start + kept, node.source, above)
            above.children.append(part)
            above = part
            place -= kept
        children = node.children
        if node.terminals:  # inputs that end here need a block of their own, be it an empty one
            children = [*children, _Node(node.depth, node.depth, node.source, terminals=node.terminals)]
        for child in children:
            child.size += node.depth - (node.start + kept)
            child.start = node.start + kept
            saving = (child.depth - child.start) * len(child.children)
            heapq.heappush(heap, (-saving, pushed, child, above))
            pushed += 1
    return prefix, tops


def _stays_whole(node: _Node, max_block: int) -> bool:
    """Whether one block for all of ``node`` costs less than a block for each child, the edge computed in each."""
    branches = len(node.children) + bool(node.terminals)
    if branches < 2:
        return not node.children
    if node.size > max_block:
        return False
    sizes = [child.size for child in node.children]
    needless_pairs = sum(sizes) ** 2 - sum(size * size for size in sizes)
    return (node.depth - node.start) * (branches - 1) * PAIRS_PER_TOKEN >= needless_pairs


def _emit(top: _Node, inputs: Sequence[Input], prefix: list[int]) -> Block:
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
            tokens += inputs[node.source].tokens[start:depth]
            positions += range(start, depth)
            ends += [row + node.size] * (depth - start)
        for i in node.terminals:
            paths.append((i, path))
        for child in node.children:
            stack.append((child, path))
    return Block(prefix, tokens, positions, ends, paths)
