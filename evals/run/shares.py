"""Dividing requests among workers by predicted cost. Pure: no torch, no processes.

The cost of a request is the tokens that have to be fed for it: those of its prompt that no neighbour shares, and
its output, as far as one can tell before. Requests that share a beginning lie next to each other in order of
their tokens, so a share is made of few stretches of that order: a shared beginning is fed again only where it is
cut through.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from evals.core.requests import GenerateRequest, Request, ScoreRequest

EXPECTED_OUTPUT = 256  # tokens; a budget says more only when it is smaller
# Places that an even share is made of: outputs of neighbours are alike in length, which no cost foresees.
PLACES = 4
# What a worker takes of its share at a time. Large stretches have full batches; small ones at the end let workers
# that are not equally fast end together.
LAPS = (1 / 2, 1 / 4, 1 / 8, 1 / 8)
LEAST_TOKENS = 2048  # of a stretch: a forward pass on a CPU has so many; smaller stretches would waste it
FED_AGAIN = 0.05  # share of the cost that cutting shared beginnings may add


def stretches(requests: Sequence[Request], workers: int, at_a_time: int = 1) -> list[list[int]]:
    """The requests' indices in stretches, for workers to take one after another, larger ones first; every index once.

    One worker gets all in one, in their order: its batches are those of a process alone. Where stretches of several
    laps would be too small to fill a worker (which generates `at_a_time` answers together) or would cut too much
    that is shared, each worker gets one: an even share.
    """
    if workers == 1 or not requests:
        return [list(range(len(requests)))]
    order = _by_tokens(requests)
    costs = _costs(requests, order)
    if isinstance(requests[0], GenerateRequest):
        fills = len(requests) * min(LAPS) >= workers * at_a_time
    else:
        fills = sum(costs) * min(LAPS) >= workers * LEAST_TOKENS
    if fills:
        cut = _cut(order, costs, [part for part in LAPS for _ in range(workers)])
        again = sum(cost([requests[i] for i in stretch]) for stretch in cut)
        if again <= (1 + FED_AGAIN) * sum(costs):
            return [stretch for stretch in cut if stretch]
    return [share for share in divide(requests, workers) if share]


def divide(requests: Sequence[Request], workers: int) -> list[list[int]]:
    """For each worker, the indices of its even share; every index once, costs as equal as whole requests allow."""
    order = _by_tokens(requests)
    shares: list[list[int]] = [[] for _ in range(workers)]
    for number, piece in enumerate(_cut(order, _costs(requests, order), [1.0] * (workers * PLACES))):
        lap, seat = divmod(number, workers)
        # back and forth, so that no worker always gets the later piece
        shares[seat if lap % 2 == 0 else workers - 1 - seat] += piece
    return shares


def deal(requests: Sequence[Request], workers: int, at_a_time: int = 1) -> list[list[int]]:
    """For each worker, what it will have computed of the stretches if time goes by cost."""
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0.0] * workers
    for stretch in stretches(requests, workers, at_a_time):
        first = loads.index(min(loads))
        loads[first] += cost([requests[i] for i in stretch])
        shares[first] += stretch
    return shares


def cost(requests: Sequence[Request]) -> float:
    """Tokens fed for all of ``requests`` by one worker: distinct ones of the prompts, and expected outputs."""
    return sum(_costs(requests, _by_tokens(requests)))


def distinct_tokens(requests: Sequence[Request]) -> int:
    """Tokens of the prompts, what several requests begin with counted once."""
    return sum(_fed(requests, _by_tokens(requests)))


def _cut(order: Sequence[int], costs: Sequence[float], parts: Sequence[float]) -> list[list[int]]:
    """``order`` in consecutive pieces whose costs are to each other as ``parts``; some may be empty."""
    pieces: list[list[int]] = [[] for _ in parts]
    scale = sum(costs) / sum(parts)
    ends = [end * scale for end in accumulate(parts)]
    number = 0
    for i, cost, end in zip(order, costs, accumulate(costs), strict=True):
        while number < len(parts) - 1 and end - cost / 2 >= ends[number]:
            number += 1
        pieces[number].append(i)
    return pieces


def _tokens(request: Request) -> tuple[int, ...]:
    """The tokens that a request gives: a prompt, and what is scored after it."""
    if isinstance(request, ScoreRequest):
        return request.tokens
    if isinstance(request, GenerateRequest):
        return request.prompt
    raise TypeError(f"{type(request).__name__} has no tokens to count: a server's work is not divided")


def _by_tokens(requests: Sequence[Request]) -> list[int]:
    return sorted(range(len(requests)), key=lambda i: _tokens(requests[i]))


def _fed(requests: Sequence[Request], order: Sequence[int]) -> list[int]:
    """Tokens of each request in ``order`` that have to be fed and that the one before it does not share."""
    fed: list[int] = []
    before: tuple[int, ...] = ()
    fed_before = 0
    for i in order:
        tokens = _tokens(requests[i])
        length = len(tokens) - isinstance(requests[i], ScoreRequest)  # the last one is scored, never fed
        fed.append(length - min(length, fed_before, _shared(before, tokens)))
        before, fed_before = tokens, length
    return fed


def _shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens both begin with, by halving: comparing slices is faster than a loop over tokens."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _costs(requests: Sequence[Request], order: Sequence[int]) -> list[float]:
    """The cost of each request in ``order``; at least a little, as nothing is free."""
    costs: list[float] = []
    for i, fed in zip(order, _fed(requests, order), strict=True):
        request = requests[i]
        output = min(request.max_new_tokens, EXPECTED_OUTPUT) if isinstance(request, GenerateRequest) else 0
        costs.append(fed + output + 1)
    return costs
