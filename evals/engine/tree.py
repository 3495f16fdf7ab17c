"""Planning: from token sequences to packed batches in which each distinct token stands once. No torch.

The sequences form a prefix tree (a radix tree). It is cut in two. The *shared prefixes* are what many requests begin
with (chat header, instruction, shots): prefilled first, their KV cache kept. The *blocks* are the subtrees below them
(most often one doc: its context and its choices), in which a token sees only its own ancestors. Blocks fill a batch up
to a budget of tokens.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

# A token in the linear layers costs about as much as this many query-key pairs in attention: 24·h² operations against
# 4·h a layer, for hidden sizes h of some hundreds, and attention runs at a lower rate.
PAIRS_PER_TOKEN = 1024
MIN_SAVING = 8  # tokens that a shared prefix must save; without one the tree is cut into fewer, larger blocks

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
    ``paths``: for each input that ends in this block (for each block that hangs from here, in the shared prefixes'
    own), the rows of its tokens that stand here.
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
    root, tops = _cut(_radix_tree(inputs), max_block, max_prefix)
    prefix = _emit(root, inputs, [])
    above = {k: rows_of(path).tolist() for k, path in prefix.paths}
    blocks = [_emit(top, inputs, above[k]) for k, top in enumerate(tops)]
    blocks.sort(key=lambda block: block.shape, reverse=True)
    return Plan(prefix, blocks)


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


def rows_of(path: Path) -> np.ndarray:
    """The rows of a path, in order of position."""
    return np.concatenate([np.arange(0), *(np.arange(start, stop) for start, stop in path)])


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
    # most significant byte first: sorts as the tokens do, and compares several times faster
    keys = [np.array(array("I", each.tokens)).astype(">u4").tobytes() for each in inputs]
    # In sorted order an input leaves the path of the one before at some depth and never comes back to what lies deeper:
    # the path is a stack, and whatever is popped off it is finished.
    order = sorted(range(len(inputs)), key=keys.__getitem__)
    root = _Node(0, 0, order[0])
    stack = [root]
    for i in order:
        length = len(inputs[i].tokens)
        shared = min(_shared(keys[i], keys[stack[-1].source]), stack[-1].depth)
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


def _shared(a: bytes, b: bytes) -> int:
    """How many tokens two keys begin with alike."""
    n = min(len(a), len(b)) // 4
    differ = np.frombuffer(a, np.uint32, n) != np.frombuffer(b, np.uint32, n)
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


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


def _cut(root: _Node, max_block: int, max_prefix: int) -> tuple[_Node, list[_Node]]:
    """Cut the tree: the root of the shared prefixes, whose ``terminals`` number the blocks; each block's top.

    The node that saves most as a shared prefix comes first. A node that cannot become one (no place, too little saved,
    or its outputs are asked for, which a prefix does not give) is computed again in each child's block.
    """
    prefix = _Node(0, 0, root.source)
    tops: list[_Node] = []
    heap: list[tuple[int, int, _Node, list[_Node]]] = [(0, 0, root, [prefix])]  # with all prefixes above
    place, pushed = max_prefix, 1
    while heap:
        _, _, node, above = heapq.heappop(heap)
        if _stays_whole(node, max_block):
            above[-1].terminals.append(len(tops))
            tops.append(node)
            continue
        branches = len(node.children) + bool(node.terminals)
        kept = max(0, min(node.depth, node.first_output, node.start + place) - node.start)
        if kept * (branches - 1) < MIN_SAVING:
            kept = 0
        if kept:
            part = _Node(node.start, node.start + kept, node.source)
            above[-1].children.append(part)
            above = [*above, part]
            for each in above:
                each.size += kept
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
