"""What is asked of a model, and what comes back: the units of computing, storing and sharing.

Plain data, no torch: planners, stores and back ends all speak of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, overload

import numpy as np

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """The log-likelihood of the last ``n_continuation`` tokens of ``tokens``, given those before them.

    ``tokens`` is already cut to the window: at most ``max_length`` tokens are fed (the last is never fed).
    At least one context token, at least one continuation token.
    """

    tokens: tuple[int, ...]
    n_continuation: int


class ScoreRequests(Sequence[ScoreRequest]):
    """Score requests in arrays, 4 bytes a token, where tuples of numbers take 36. Made objects one by one when asked.

    Request i is ``tokens[starts[i]:starts[i + 1]]`` (int32), its last ``n_continuation[i]`` to be scored.
    """

    __slots__ = ("n_continuation", "starts", "tokens")

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, n_continuation: np.ndarray) -> None:
        self.tokens, self.starts, self.n_continuation = tokens, starts, n_continuation

    @classmethod
    def of(cls, requests: Sequence[ScoreRequest]) -> ScoreRequests:
        """The same requests in arrays of their own."""
        if isinstance(requests, ScoreRequests):
            return cls.joined([requests])
        lengths = np.array([len(one.tokens) for one in requests], np.int64)
        tokens = (token for one in requests for token in one.tokens)
        return cls(
            np.fromiter(tokens, np.int32, lengths.sum()),
            np.append(0, np.cumsum(lengths)),
            np.array([one.n_continuation for one in requests], np.int64),
        )

    @classmethod
    def joined(cls, groups: Sequence[Sequence[ScoreRequest]]) -> ScoreRequests:
        """The requests of all groups, one after the other."""
        parts = [group if isinstance(group, ScoreRequests) else cls.of(group) for group in groups]
        if not parts:
            return cls.of([])
        lengths = np.concatenate([np.diff(part.starts) for part in parts])
        return cls(
            np.concatenate([part.tokens[part.starts[0] : part.starts[-1]] for part in parts]),
            np.append(0, np.cumsum(lengths)),
            np.concatenate([part.n_continuation for part in parts]),
        )

    def take(self, indices: Sequence[int] | np.ndarray) -> ScoreRequests:
        """Some of them, by ascending indices; those that follow each other share the arrays."""
        chosen = np.asarray(indices, np.int64)
        if not len(chosen):
            return self[:0]
        some = self[int(chosen[0]) : int(chosen[-1]) + 1]
        starts, tokens = some.starts - some.starts[0], some.tokens[some.starts[0] : some.starts[-1]]
        if len(chosen) == len(some):
            return ScoreRequests(tokens, starts, some.n_continuation)
        kept = np.zeros(len(some), bool)
        kept[chosen - chosen[0]] = True
        lengths = np.diff(starts)
        starts = np.append(0, np.cumsum(lengths[kept]))
        return ScoreRequests(tokens[np.repeat(kept, lengths)], starts, some.n_continuation[kept])

    def __len__(self) -> int:
        return len(self.n_continuation)

    @overload
    def __getitem__(self, which: int) -> ScoreRequest: ...
    @overload
    def __getitem__(self, which: slice) -> ScoreRequests: ...
    def __getitem__(self, which: int | slice) -> ScoreRequest | ScoreRequests:
        if not isinstance(which, slice):
            which = range(len(self))[which]
            tokens = self.tokens[self.starts[which] : self.starts[which + 1]]
            return ScoreRequest(tuple(tokens.tolist()), int(self.n_continuation[which]))
        first, stop, step = which.indices(len(self))
        if step != 1:
            raise ValueError("only requests that follow each other can be sliced")
        stop = max(first, stop)
        return ScoreRequests(self.tokens, self.starts[first : stop + 1], self.n_continuation[first:stop])


def continuations(requests: Sequence[ScoreRequest]) -> list[list[int]]:
    """The tokens that are scored, of each request."""
    if not isinstance(requests, ScoreRequests):
        return [list(one.tokens[-one.n_continuation :]) for one in requests]
    ends, lengths = requests.starts[1:].tolist(), requests.n_continuation.tolist()
    return [requests.tokens[end - n : end].tolist() for end, n in zip(ends, lengths, strict=True)]


def ranges(begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers from ``begins[0]`` to ``ends[0]``, then from ``begins[1]`` to ``ends[1]``, and so on."""
    counts = ends - begins
    numbers: np.ndarray = np.arange(counts.sum()) + np.repeat(begins - np.cumsum(counts) + counts, counts)
    return numbers


@dataclass(frozen=True, slots=True)
class Score:
    """Sum of the continuation's log-probabilities, in nats (float32 log-softmax, float64 sum).

    ``greedy``: whether no token was likelier than the continuation's, at any of its positions: greedy decoding would
    write it, ties aside. None where that is not known: a server does not tell, and a store does not keep it.
    """

    logprob: float
    greedy: bool | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue ``prompt`` (token ids, already cut to the window) by at most ``max_new_tokens``.

    Ends at an end-of-turn token of the model, at the first of ``stops`` in the decoded text (which may span
    tokens), or at the budget. ``temperature`` 0 is greedy; otherwise sampled from a generator of its own, seeded
    with ``seed``, so that the outcome does not depend on what else is in the batch.
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A GenerateRequest for a server that encodes for itself: texts instead of token ids.

    ``messages`` are a chat's (role, content) turns, to which the server applies its template; or one plain
    text to continue, with the empty role.
    """

    messages: tuple[tuple[str, str], ...]
    max_new_tokens: int
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generation:
    """Text up to (not with) the stop, special tokens left out; ``tokens`` are all that were generated.

    A server tells how many tokens it generated, not which: then each is 0.
    ``finish`` is "eos" (an end-of-turn token), "stop" (a stop string) or "length" (the budget).
    """

    text: str
    tokens: tuple[int, ...]
    finish: str


class NotFinite(ValueError):
    """A model's scores were no numbers while it computed the request ``index`` of those it was given."""

    def __init__(self, index: int) -> None:
        super().__init__(index)  # from which it is made again in another process
        self.index = index

    def __str__(self) -> str:
        return f"the scores of request {self.index} are not finite"


class RequestRefused(Exception):
    """A server refuses this one request for good: status 400, 413, 422 and their like, with its reason."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


Request = ScoreRequest | GenerateRequest | TextRequest
Result = Score | Generation


class Backend(Protocol):
    """What the loop needs of a model, wherever it computes (evals/adapters)."""

    chat: bool
    """Whether docs become prompts in the model's chat template."""
    identity: str
    """All that a result depends on besides its request: weights, dtype, engine."""
    at_a_time: int
    """Generations under way together, at most."""
    leaves_cpu: bool
    """Whether `run` leaves the processor mostly idle: the next row's requests are then made meanwhile, by a thread."""

    @property
    def described(self) -> dict[str, Any]:
        """What run.json says of the model ("model") and, by now, of the machine ("machine")."""

    def score_requests(self, docs: Sequence[Doc]) -> Sequence[Sequence[ScoreRequest]]:
        """One request a choice, for each doc; then once more each choice without the question, where it has one."""

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """One request a doc."""

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """Computes requests of one kind: (index, result), each index once, but not those in `skip`.

        Those are known from an interrupted run: a back end whose batches decide the last bit plans with them.
        Raises NotFinite.
        """
