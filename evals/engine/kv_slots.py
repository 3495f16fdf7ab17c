"""KV slots: the KV cache of the sequences in progress, a slot each, and the decode step over all of them.

There are two kinds: cpu_slots.py reads and computes as little as it can, gpu_slots.py never changes a shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from evals.core.requests import GenerateRequest
from evals.engine.attention import KVCache
from evals.engine.device import free_memory
from evals.engine.forward import TreeForward

CACHE_SHARE = 0.6  # of the free memory, at most: prefill and the logits of a step need some too

# (tokens, reusable) to how many sequences of so many tokens fit, when the memory of ``reusable`` tokens is taken over.
Fits = Callable[[int, int], int]


@dataclass(frozen=True, slots=True, eq=False)
class PrefillCache:
    """Keys and values of a plan's shared prefixes, and of one forward pass below them."""

    prefix: KVCache
    own: KVCache


@dataclass(frozen=True, slots=True, eq=False)
class Prefilled:
    """A prompt that has gone through the model. Its tokens stand at ``prefix_rows``, then at ``rows``, of ``cache``;
    ``output`` [hidden size] is the last one's."""

    request: GenerateRequest
    cache: PrefillCache
    prefix_rows: np.ndarray
    rows: np.ndarray
    output: Tensor


@dataclass(slots=True, eq=False)
class ActiveSequence:
    """A request that has a slot. ``tokens``: generated so far; ``finished``: its slot may be released."""

    request: GenerateRequest
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    finished: bool = False


class KVSlots(Protocol):
    """``n`` slots of at most ``capacity`` tokens each; made by ``(forward, n, capacity)``, of the ``size`` that fits.

    ``lag``: decode steps that are started before the tokens of one are looked at. ``admit_share``: the part of all
    slots that must be free for another prefill to pay.
    """

    forward: TreeForward
    n: int
    capacity: int
    lag: int
    admit_share: float

    @property
    def sequences(self) -> Sequence[ActiveSequence | None]:
        """By slot; None in a free one. Free slots at the end may be left out."""

    @staticmethod
    def size(requests: Sequence[GenerateRequest], fits: Fits, old: KVSlots | None) -> tuple[int, int]:
        """``n`` and ``capacity`` for these requests; those of the ``old`` slots if they will do."""

    def admit(self, sequences: Sequence[ActiveSequence], prompts: Sequence[Prefilled], first: Tensor) -> None:
        """Put prompts of one pass into free slots; ``first`` [sequences] are the tokens sampled after them."""

    def step(self, draws: Tensor | None) -> Tensor:
        """Run each sequence's newest token through the model; the tokens sampled after it, [slots].

        ``draws`` [slots]: what decides them (sampling.py); None when all sequences are greedy.
        """

    def release(self) -> None:
        """Free the slots of finished sequences."""


def longest_of(requests: Sequence[GenerateRequest]) -> int:
    """Tokens of the longest sequence that these requests can become."""
    return max(len(request.prompt) + request.max_new_tokens for request in requests)


def sequences_that_fit(forward: TreeForward, most: int, memory_share: float) -> Fits:
    """Tells how many sequences fit, at least one and at most ``most``, in this share of the free memory.

    Asked before memory is taken: a system that promises more than it has ends a process instead of refusing.
    """
    a_token = sum(x[0].numel() * x.element_size() for pair in forward.example.values() for x in pair)

    def fits(tokens: int, reusable: int) -> int:
        free = free_memory(forward.model.device) * memory_share + reusable * a_token
        return max(1, min(most, int(CACHE_SHARE * free / (a_token * tokens))))

    return fits
