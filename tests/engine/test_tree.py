"""Planning, without a model: every feed is whole, sees its own tokens alone, and little is fed twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evals.engine.tree import Feed, batches, last_rows, plan

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=25).map(tuple)


@st.composite
def forests(draw) -> list[Feed]:
    """Feeds that often begin like an earlier one, or are one."""
    feeds: list[Feed] = []
    for own in draw(st.lists(TOKENS, max_size=12)):
        if feeds and draw(st.booleans()):
            before = draw(st.sampled_from(feeds)).tokens
            own = before[: draw(st.integers(0, len(before)))] + draw(st.sampled_from([own, ()]))
        own = own or (0,)
        feeds.append(Feed(own, draw(st.integers(0, len(own) - 1))))
    return feeds


def ancestors(ends: list[int], row: int) -> list[int]:
    return [j for j in range(row + 1) if row < ends[j]]


@given(forests(), st.sampled_from([1, 5, 50, 1000]), st.sampled_from([0, 3, 10, 1000]))
def test_a_plan_feeds_every_sequence_and_shows_it_nothing_else(feeds, max_block, max_trunk):
    planned = plan(feeds, max_block, max_trunk)
    trunk = planned.trunk
    assert len(trunk.tokens) <= max_trunk
    met = []
    for block in planned.blocks:
        for row in block.trunk:
            assert ancestors(trunk.ends, row) == [r for r in block.trunk if r <= row]
        for i, path in block.paths:
            met.append(i)
            rows = [row for start, stop in path for row in range(start, stop)]
            tokens = [trunk.tokens[r] for r in block.trunk] + [block.tokens[r] for r in rows]
            positions = [trunk.positions[r] for r in block.trunk] + [block.positions[r] for r in rows]
            assert tuple(tokens) == feeds[i].tokens
            assert positions == list(range(len(tokens)))
            assert len(block.trunk) <= feeds[i].first_output, "an output is asked for inside the trunk"
            for row in rows:
                assert ancestors(block.ends, row) == [r for r in rows if r <= row]
            for n in range(len(rows) + 1):
                assert last_rows(path, n) == rows[len(rows) - n :]
    assert sorted(met) == list(range(len(feeds)))


@given(forests())
def test_no_more_is_fed_than_one_by_one(feeds):
    assert plan(feeds, 1000, 1000).tokens <= sum(len(feed.tokens) for feed in feeds)


def test_a_benchmark_is_fed_once():
    header, docs = tuple(range(30)), []
    for doc in range(50):
        context = (*header, *(1000 * doc + i for i in range(60)))
        docs += [Feed((*context, 7, doc * choice, 8), len(context) - 1) for choice in (1, 2, 3, 4)]
    planned = plan(docs, 4096, 2048)
    assert planned.trunk.tokens == list(header)
    assert len(planned.blocks) == 50
    assert planned.tokens == len({feed.tokens[:n] for feed in docs for n in range(1, len(feed.tokens) + 1)})


@given(forests(), st.integers(1, 60))
def test_batches_keep_the_budget_and_lose_nothing(feeds, budget):
    blocks = plan(feeds, 20, 10).blocks
    cut = list(batches(blocks, budget))
    assert [block for batch in cut for block in batch] == blocks
    assert all(len(batch) == 1 or sum(len(b.tokens) for b in batch) <= budget for batch in cut)
