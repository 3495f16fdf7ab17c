"""Dividing requests: complete, balanced, shared beginnings kept together; on made-up and on real requests."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.core.requests import GenerateRequest, Request, ScoreRequest, TextRequest
from evals.run.shares import (
    EXPECTED_OUTPUT,
    LAPS,
    LEAST_TOKENS,
    cost,
    deal,
    distinct_tokens,
    divide,
    stretches,
)

tokens = st.lists(st.integers(0, 3), min_size=2, max_size=12).map(tuple)
scores = st.lists(st.builds(ScoreRequest, tokens, st.just(1)), max_size=40)
generations = st.lists(st.builds(GenerateRequest, tokens, st.integers(1, 20)), max_size=40)


@settings(deadline=None)
@given(requests=st.one_of(scores, generations), workers=st.integers(1, 5), at_a_time=st.integers(1, 3))
def test_every_request_goes_to_one_worker(requests: list[Request], workers: int, at_a_time: int) -> None:
    shares, dealt = divide(requests, workers), deal(requests, workers, at_a_time)
    assert len(shares) == len(dealt) == workers
    cut = stretches(requests, workers, at_a_time)
    for parts in (shares, dealt, cut):
        assert sorted(i for part in parts for i in part) == list(range(len(requests)))
    assert cut == stretches(requests, workers, at_a_time)


def test_one_worker_gets_all_in_order() -> None:
    requests: list[Request] = [ScoreRequest((9 - i, i), 1) for i in range(9)]
    assert stretches(requests, 1) == [list(range(9))]


def test_stretches_get_smaller_where_each_still_fills_a_worker() -> None:
    enough = int(2 * LEAST_TOKENS / min(LAPS))
    requests: list[Request] = [ScoreRequest((i, *range(63), 0), 1) for i in range(enough // 64)]
    cut = stretches(requests, 2)
    sizes = [round(cost([requests[i] for i in stretch]) / cost(requests), 2) for stretch in cut]
    assert sizes == [0.25, 0.25, 0.12, 0.12, 0.06, 0.06, 0.06, 0.06]
    assert len(stretches(requests[:-99], 2)) == 2

    answers: list[Request] = [GenerateRequest((i, i), 9) for i in range(160)]
    assert len(stretches(answers, 2, at_a_time=10)) == 8
    assert len(stretches(answers, 2, at_a_time=11)) == 2, "a worker computes so many together: fewer waste it"


@pytest.mark.slow
def test_what_is_shared_is_not_cut_often() -> None:
    requests: list[Request] = [ScoreRequest((*range(2000), i, i), 1) for i in range(16000)]
    assert len(stretches(requests, 2)) == 2
    assert len(stretches(requests, 1)) == 1


@settings(deadline=None)
@given(requests=scores)
def test_distinct_tokens_are_the_nodes_of_the_prefix_tree(requests: list[Request]) -> None:
    fed = [one.tokens[:-1] for one in requests if isinstance(one, ScoreRequest)]
    nodes = {one[:end] for one in fed for end in range(1, len(one) + 1)}
    assert distinct_tokens(requests) == len(nodes)


def test_cost_by_hand() -> None:
    shared = [ScoreRequest((1, 2, 3, 4), 1), ScoreRequest((1, 2, 3, 5, 6), 2)]
    assert distinct_tokens(shared) == 4  # 1 2 3, and 5; 4 and 6 are scored, not fed
    assert distinct_tokens([GenerateRequest((1, 2), 9), GenerateRequest((1, 3), 9)]) == 3
    assert cost([GenerateRequest((1, 2), 9)]) == 2 + 9 + 1
    assert cost([GenerateRequest((1, 2), 2046)]) == 2 + EXPECTED_OUTPUT + 1


def test_prefix_groups_stay_together() -> None:
    rng = random.Random(1)
    groups = [tuple(rng.randrange(99) for _ in range(200)) for _ in range(16)]
    requests = [
        ScoreRequest((*group, *(rng.randrange(99) for _ in range(10))), 1)
        for group in groups
        for _ in range(50)
    ]
    rng.shuffle(requests)
    shares = deal(requests, 4)
    costs = [cost([requests[i] for i in share]) for share in shares]
    assert max(costs) <= 1.05 * sum(costs) / 4
    assert sum(costs) <= 1.25 * cost(requests), "cutting a group feeds its beginning again: only where cut"


def test_servers_requests_are_not_divided() -> None:
    with pytest.raises(TypeError, match="no tokens to count"):
        stretches([TextRequest((("", "text"),), 5)], 2)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_balance_of_the_mixed_suites_on_real_data(real_rows: list[list[Request]], workers: int) -> None:
    loads, fed_again = [0.0] * workers, 0.0
    for requests in real_rows:
        parts = [cost([requests[i] for i in share]) for share in deal(requests, workers, at_a_time=64)]
        loads = [load + part for load, part in zip(loads, parts, strict=True)]
        fed_again += sum(parts) - cost(requests)
    mean = sum(loads) / workers
    assert max(loads) <= 1.1 * mean
    assert fed_again <= 0.1 * sum(loads)


@pytest.fixture(scope="module")
def real_rows(data_dir: Path) -> list[list[Request]]:
    """The requests of both suites' rows, for the first docs of each task, by a tokenizer that is at hand."""
    from transformers import AutoTokenizer

    from evals.core.card import all_cards
    from evals.core.errors import RowUnavailable
    from evals.data.sources import Source, build_docs, load
    from evals.prompting.requests import TextToRequests
    from tasks import get_task

    tokenizer: Any = AutoTokenizer.from_pretrained(data_dir / "tokenizers" / "Qwen2.5-0.5B-Instruct")
    rows: list[list[Request]] = []
    for suite in all_cards():
        texts = TextToRequests(tokenizer, suite.chat)
        for row in suite.rows:
            requests: list[Request] = []
            for name in row.tasks:
                task = get_task(name)
                try:
                    docs = build_docs(
                        task, load(task, Source("folder", data_dir)), 40 if len(row.tasks) > 2 else 300
                    )
                except RowUnavailable:
                    continue
                if "LOGPROBS" in task.method.name:
                    requests += [one for group in texts.score_requests(docs) for one in group]
                else:
                    requests += texts.generate_requests(docs)
            if requests:
                rows.append(requests)
    return rows
