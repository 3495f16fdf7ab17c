"""Planning, without a model: every input is whole, sees its own tokens alone, and little is computed twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evals.engine.tree import Blocks, Inputs, Plan, plan

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=25).map(tuple)


Given = tuple[tuple[int, ...], int]  # tokens, first output


@st.composite
def forests(draw) -> list[Given]:
    """Inputs that often begin like an earlier one, or are one."""
    inputs: list[Given] = []
    for own in draw(st.lists(TOKENS, min_size=1, max_size=12)):
        if inputs and draw(st.booleans()):
            before = draw(st.sampled_from(inputs))[0]
            own = before[: draw(st.integers(0, len(before)))] + draw(st.sampled_from([own, ()]))
        own = own or (0,)
        inputs.append((own, draw(st.integers(0, len(own) - 1))))
    return inputs


def ancestors(ends: list[int], row: int) -> list[int]:
    return [j for j in range(row + 1) if row < ends[j]]


def blocks_of(planned: Plan, inputs: list[Given]) -> list[tuple[Blocks, list[int], dict[int, list[int]]]]:
    """Each block, its prefix rows, and where each of its inputs' tokens below these stand in it."""
    found = []
    lengths = np.array([len(inputs[i][0]) for i in planned.members])
    above = np.array([len(rows) for rows in planned.blocks.prefixes])[planned.blocks.above]
    rows, bounds = planned.rows(np.repeat(above, np.diff(planned.member_starts)), lengths)
    for k in range(len(planned.blocks)):
        block = planned.blocks.part(k, k + 1)
        paths = {}
        for m in range(*planned.member_starts[k : k + 2]):
            paths[int(planned.members[m])] = (
                rows[bounds[m] : bounds[m + 1]] - planned.blocks.starts[k]
            ).tolist()
        found.append((block, block.prefixes[block.above[0]].tolist(), paths))
    return found


@given(forests(), st.sampled_from([1, 5, 50, 1000]), st.sampled_from([0, 3, 10, 1000]), st.booleans())
def test_a_plan_holds_every_input_and_shows_it_nothing_else(inputs, max_block, max_prefix, by_prefix):
    planned = plan(Inputs.of(inputs), max_block, max_prefix, by_prefix)
    prefix = planned.prefix
    assert len(prefix.tokens) <= max_prefix
    met = []
    for block, prefix_rows, paths in blocks_of(planned, inputs):
        for row in prefix_rows:
            assert ancestors(prefix.ends, row) == [r for r in prefix_rows if r <= row]
        for i, rows in paths.items():
            met.append(i)
            tokens = [*prefix.tokens[prefix_rows], *block.tokens[rows]]
            positions = [*prefix.positions[prefix_rows], *block.positions[rows]]
            assert tuple(tokens) == inputs[i][0]
            assert positions == list(range(len(tokens)))
            assert len(prefix_rows) <= inputs[i][1], "an output is asked for inside the prefix"
            for row in rows:
                assert ancestors(block.ends, row) == [r for r in rows if r <= row]
    assert sorted(met) == list(range(len(inputs)))
    asked = [inputs[i] for i in planned.members]
    rows, _ = planned.rows(*np.array([(first, len(tokens)) for tokens, first in asked]).T)
    assert planned.blocks.tokens[rows].tolist() == [t for tokens, first in asked for t in tokens[first:]]


@given(forests())
def test_no_more_is_computed_than_one_by_one(inputs):
    assert plan(Inputs.of(inputs), 1000, 1000).tokens <= sum(len(tokens) for tokens, _ in inputs)


def test_a_benchmark_is_computed_once():
    header, docs = tuple(range(30)), []
    for doc in range(50):
        context = (*header, *(1000 * doc + i for i in range(60)))
        docs += [((*context, 7, doc * choice, 8), len(context) - 1) for choice in (1, 2, 3, 4)]
    planned = plan(Inputs.of(docs), 4096, 2048)
    assert planned.prefix.tokens.tolist() == list(header)
    assert len(planned.blocks) == 50
    assert planned.tokens == len({tokens[:n] for tokens, _ in docs for n in range(1, len(tokens) + 1)})


@given(forests(), st.booleans())
def test_blocks_stand_in_order(inputs, by_prefix):
    planned = plan(Inputs.of(inputs), 20, 10, by_prefix)
    shapes = [(rows, len(block.tokens)) for block, rows, _ in blocks_of(planned, inputs)]
    if by_prefix:
        assert shapes == sorted(shapes, key=lambda shape: (shape[0], -shape[1]))
    else:
        assert shapes == sorted(shapes, key=lambda shape: (-shape[1], -len(shape[0])))


@given(forests(), st.integers(1, 60))
def test_batches_keep_the_budget_and_lose_nothing(inputs, budget):
    blocks = plan(Inputs.of(inputs), 20, 10).blocks
    cut = list(blocks.batches(budget))
    assert [block for first, stop in cut for block in range(first, stop)] == list(range(len(blocks)))
    sizes = [len(blocks.part(first, stop).tokens) for first, stop in cut]
    assert all(stop == first + 1 or size <= budget for (first, stop), size in zip(cut, sizes, strict=True))
    larger = [blocks.starts[stop + 1] - blocks.starts[first] for first, stop in cut[:-1]]
    assert all(size > budget for size in larger), "one more block would fit"
