"""Dividing requests among processes by predicted cost. Pure: no torch, no processes.

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
# Stretches a process gets: outputs of neighbours are alike in length, which no cost foresees, so each process
# gets some from several places.
STRETCHES = 4


def divide(requests: Sequence[Request], processes: int) -> list[list[int]]:
    """For each process, the indices of its requests; every index once, costs as equal as whole requests allow."""
    if processes == 1:
        return [list(range(len(requests)))]
    order = _by_tokens(requests)
    costs = _costs(requests, order)
    pieces = processes * STRETCHES
    total = sum(costs)
    shares: list[list[int]] = [[] for _ in range(processes)]
    for i, cost, end in zip(order, costs, accumulate(costs), strict=True):
        piece = min(int((end - cost / 2) * pieces / total), pieces - 1)
        lap, seat = divmod(piece, processes)
        # back and forth, so that no process always gets the later piece
        shares[seat if lap % 2 == 0 else processes - 1 - seat].append(i)
    return shares


def cost(requests: Sequence[Request]) -> float:
    """Tokens fed for all of ``requests`` by one process: distinct ones of the prompts, and expected outputs."""
    return sum(_costs(requests, _by_tokens(requests)))


def distinct_tokens(requests: Sequence[Request]) -> int:
    """Tokens of the prompts, what several requests begin with counted once."""
    return sum(_fed(requests, _by_tokens(requests)))


def _tokens(request: Request) -> tuple[int, ...]:
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
