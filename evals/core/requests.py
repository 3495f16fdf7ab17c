"""What is asked of a model, and what comes back: the units of computing, storing and sharing.

Plain data, no torch: planners, stores and back ends all speak of these.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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
        super().__init__(f"the scores of request {index} are not finite")
        self.index = index

    def __reduce__(self) -> tuple[type[NotFinite], tuple[int]]:
        """Made again from its index, in another process: an exception is otherwise made from its message."""
        return NotFinite, (self.index,)


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

    def score_requests(self, docs: Sequence[Doc]) -> list[list[ScoreRequest]]:
        """One request a choice, for each doc; then once more each choice without the question, where it has one."""

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """One request a doc."""

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """Computes requests of one kind: (index, result), each index once, but not those in `skip`.

        Those are known from an interrupted run: a back end whose batches decide the last bit plans with them.
        Raises NotFinite.
        """
