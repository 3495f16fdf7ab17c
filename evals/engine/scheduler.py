"""Continuous batching: when a sequence has finished, the next prompt takes its slot while the others go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evals.core.requests import GenerateRequest, Generation
from evals.engine.device import HostCopy, on_device
from evals.engine.kv_slots import ActiveSequence, KVSlots
from evals.engine.prefill import PrefillQueue, RequestNotFinite
from evals.engine.sampling import NOT_FINITE, draw, generator_of, sample, temperatures_of
from evals.engine.stops import StopCriteria


@dataclass(frozen=True, slots=True, eq=False)
class _Sampled:
    """Tokens on their way to the host: the token of ``sequences[i]`` is ``tokens[rows[i]]``."""

    tokens: HostCopy
    rows: list[int]
    sequences: list[ActiveSequence]


class Scheduler:
    """One pass over distinct requests: admit prompts, take a decode step, accept tokens, and again.

    With ``slots.lag`` 0 a step's tokens are accepted at once. A GPU would then wait for the host after each step, so
    its slots have lag 1: a step starts before the tokens of the one before are looked at. What the host decides (a
    sequence has finished) takes effect a step late, and the token computed in vain meanwhile is dropped.
    """

    def __init__(self, slots: KVSlots, queue: PrefillQueue, stop_criteria: StopCriteria) -> None:
        self.slots, self.queue, self.stop_criteria = slots, queue, stop_criteria
        self.pending: deque[_Sampled] = deque()

    @torch.inference_mode()
    def run(self) -> Iterator[tuple[GenerateRequest, Generation]]:
        """Yield generations as they finish. Raises RequestNotFinite."""
        try:
            while True:
                yield from self._admit()
                active = any(self.slots.sequences)
                if active:
                    self._step()
                if not self.pending:
                    return
                yield from self._accept(self.slots.lag if active else 0)
        finally:
            self.slots.close()

    def _admit(self) -> Iterator[tuple[GenerateRequest, Generation]]:
        """Prefill waiting prompts into free slots, once enough are free."""
        enough = max(1.0, self.slots.admit_share * self.slots.n)
        while self.queue.waiting and (free := self._free()) >= enough:
            self._prefill(free)
            if self.slots.lag:
                enough = (
                    1  # nothing finishes before the next step, so waiting for more free slots is of no use
                )
            else:
                yield from self._accept(0)

    def _free(self) -> int:
        return self.slots.n - sum(sequence is not None for sequence in self.slots.sequences)

    def _prefill(self, free: int) -> None:
        """One pass over prompts; their first tokens are sampled from the logits after the last of each."""
        prompts = self.queue.next(free)
        requests = [prompt.request for prompt in prompts]
        sequences = [ActiveSequence(request, generator_of(request)) for request in requests]
        logits = self.slots.forward.head(torch.stack([prompt.output for prompt in prompts]))
        draws = self._draws(sequences)
        temperatures = None if draws is None else temperatures_of(requests, logits.device)
        first = sample(logits, temperatures, draws)
        self.slots.admit(sequences, prompts, first)
        self.pending.append(_Sampled(HostCopy(first), [*range(len(sequences))], sequences))

    def _step(self) -> None:
        """One decode step over all slots in use."""
        slots = self.slots.sequences
        tokens = self.slots.step(self._draws(slots))
        rows = [row for row, sequence in enumerate(slots) if sequence is not None]
        sequences = [sequence for sequence in slots if sequence is not None]
        self.pending.append(_Sampled(HostCopy(tokens), rows, sequences))

    def _draws(self, sequences: Sequence[ActiveSequence | None]) -> Tensor | None:
        """A number for each sequence's next token; None when all of them are greedy."""
        if not any(sequence and sequence.generator for sequence in sequences):
            return None
        numbers = [draw(sequence.generator if sequence else None) for sequence in sequences]
        return on_device(numbers, self.slots.forward.model.device, torch.float64)

    def _accept(self, keep: int) -> Iterator[tuple[GenerateRequest, Generation]]:
        """Append sampled tokens to their sequences, but for the ``keep`` newest steps; hand out what has finished."""
        while len(self.pending) > keep:
            sampled = self.pending.popleft()
            tokens = sampled.tokens.tolist()
            for row, sequence in zip(sampled.rows, sampled.sequences, strict=True):
                if sequence.finished:
                    continue
                if tokens[row] == NOT_FINITE:
                    raise RequestNotFinite(sequence.request)
                sequence.tokens.append(tokens[row])
                generation = self.stop_criteria.finished(sequence.request, sequence.tokens)
                if generation is not None:
                    sequence.finished = True
                    yield sequence.request, generation
            self.slots.release()
