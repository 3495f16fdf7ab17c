"""Planning, without a model: every input is whole, sees its own tokens alone, and little is computed twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evals.engine.tree import Input, batches, plan, rows_of

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=25).map(tuple)


@st.composite
def forests(draw) -> list[Input]:
    """Inputs that often begin like an earlier one, or are one."""
    inputs: list[Input] = []
    for own in draw(st.lists(TOKENS, max_size=12)):
        if inputs and draw(st.booleans()):
            before = draw(st.sampled_from(inputs)).tokens
            own = before[: draw(st.integers(0, len(before)))] + draw(st.sampled_from([own, ()]))
        own = own or (0,)
        inputs.append(Input(own, draw(st.integers(0, len(own) - 1))))
    return inputs


def ancestors(ends: list[int], row: int) -> list[int]:
    return [j for j in range(row + 1) if row < ends[j]]


@given(forests(), st.sampled_from([1, 5, 50, 1000]), st.sampled_from([0, 3, 10, 1000]))
def test_a_plan_holds_every_input_and_shows_it_nothing_else(inputs, max_block, max_prefix):
    planned = plan(inputs, max_block, max_prefix)
    prefix = planned.prefix
    assert len(prefix.tokens) <= max_prefix
    met = []
    for block in planned.blocks:
        for row in block.prefix_rows:
            assert ancestors(prefix.ends, row) == [r for r in block.prefix_rows if r <= row]
        for i, path in block.paths:
            met.append(i)
            rows = rows_of(path).tolist()
            tokens = [prefix.tokens[r] for r in block.prefix_rows] + [block.tokens[r] for r in rows]
            positions = [prefix.positions[r] for r in block.prefix_rows] + [block.positions[r] for r in rows]
            assert tuple(tokens) == inputs[i].tokens
            assert positions == list(range(len(tokens)))
            assert len(block.prefix_rows) <= inputs[i].first_output, (
                "an output is asked for inside the prefix"
            )
            for row in rows:
                assert ancestors(block.ends, row) == [r for r in rows if r <= row]
    assert sorted(met) == list(range(len(inputs)))


@given(forests())
def test_no_more_is_computed_than_one_by_one(inputs):
    assert plan(inputs, 1000, 1000).tokens <= sum(len(each.tokens) for each in inputs)


def test_a_benchmark_is_computed_once():
    header, docs = tuple(range(30)), []
    for doc in range(50):
        context = (*header, *(1000 * doc + i for i in range(60)))
        docs += [Input((*context, 7, doc * choice, 8), len(context) - 1) for choice in (1, 2, 3, 4)]
    planned = plan(docs, 4096, 2048)
    assert planned.prefix.tokens == list(header)
    assert len(planned.blocks) == 50
    assert planned.tokens == len({each.tokens[:n] for each in docs for n in range(1, len(each.tokens) + 1)})


@given(forests(), st.integers(1, 60))
def test_batches_keep_the_budget_and_lose_nothing(inputs, budget):
    blocks = plan(inputs, 20, 10).blocks
    cut = list(batches(blocks, budget))
    assert [block for batch in cut for block in batch] == blocks
    assert all(len(batch) == 1 or sum(len(b.tokens) for b in batch) <= budget for batch in cut)
