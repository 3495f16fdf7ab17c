"""Generation for many requests at a time: prompts are prefilled as prefix trees, then decoded in KV slots.

Batching is continuous: when a sequence has finished, the next prompt takes its slot while the others go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evals.core.requests import GenerateRequest, Generation, NotFinite
from evals.engine.attention import KVCache, UnsupportedModel
from evals.engine.cpu_slots import CpuSlots
from evals.engine.device import HostCopy, on_device, out_of_memory
from evals.engine.forward import TreeForward
from evals.engine.gpu_slots import GpuSlots
from evals.engine.kv_slots import ActiveSequence, KVSlots, PrefillCache, Prefilled, sequences_that_fit
from evals.engine.packed import TreeBatch
from evals.engine.plain import PlainDecoder
from evals.engine.sampling import NOT_FINITE, draw, generator_of, sample, temperatures_of
from evals.engine.stops import StopCriteria
from evals.engine.tree import Inputs, Plan, plan

MAX_PREFIX = 8192  # tokens of shared prefixes whose KV cache is kept for one plan
PLANNED_TOGETHER = 1024  # requests planned at a time, in the order given

Finished = tuple[GenerateRequest, Generation | None]  # None: the model's logits were no numbers

logger = logging.getLogger(__name__)


class BatchDecoder:
    """Continues many prompts at a time; greedy output equals that of one at a time (exact ties aside).

    ``max_sequences``: how many at a time; ``max_tokens``: prompt tokens in one forward pass. When memory runs out
    both are halved, for good. ``memory_share``: what part of the device's free memory this process may count on.
    A model whose attention cannot run over packed batches is run by the plain engine, with a warning.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        eos_token_ids: Sequence[int],
        max_sequences: int | None = None,
        max_tokens: int | None = None,
        memory_share: float = 1.0,
    ) -> None:
        on_cpu = model.device.type == "cpu"
        self.model = model
        self.tokenizer = tokenizer
        self.eos = frozenset(eos_token_ids)
        self.max_sequences = max_sequences or (64 if on_cpu else 1024)
        self.max_tokens = max_tokens or (2048 if on_cpu else 32768)
        self.memory_share = memory_share
        # CPUs gain from steps as small as their sequences, GPUs from captured ones
        self.kv_slots: type[CpuSlots] | type[GpuSlots] = GpuSlots if model.device.type == "cuda" else CpuSlots
        self.stop_criteria = StopCriteria(tokenizer, self.eos)
        self._slots: KVSlots | None = None
        self._forward: TreeForward | None = None

    def run(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Yield (index, generation) as sequences finish, in any order, each index once. Raises NotFinite."""
        try:
            self._forward = self._forward or TreeForward(self.model)
        except UnsupportedModel as reason:
            logger.warning("this model generates one sequence at a time: %s", reason)
            yield from PlainDecoder(self.model, self.tokenizer, sorted(self.eos)).run(requests)
            return
        todo: dict[GenerateRequest, list[int]] = {}
        for index, request in enumerate(requests):
            if request.max_new_tokens > 0:
                todo.setdefault(request, []).append(index)
            else:
                yield index, Generation("", (), "length")
        while todo:
            try:
                for request, generation in self._decode(self._forward, list(todo)):
                    if generation is None:
                        raise NotFinite(todo[request][0])
                    yield from ((index, generation) for index in todo.pop(request))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or (self.max_sequences == 1 and self.max_tokens == 1):
                    raise
                self.max_sequences = max(1, self.max_sequences // 2)
                self.max_tokens = max(1, self.max_tokens // 2)
                logger.warning("out of memory: going on with %d sequences at a time", self.max_sequences)
                self._slots = None
            torch.cuda.empty_cache()

    def _decode(self, forward: TreeForward, requests: list[GenerateRequest]) -> Iterator[Finished]:
        fits = sequences_that_fit(forward, self.max_sequences, self.memory_share)
        n, capacity = self.kv_slots.size(requests, fits, self._slots)
        if self._slots is None or (self._slots.n, self._slots.capacity) != (n, capacity):
            self._slots = None  # before the new ones are made, which need its memory
            self._slots = self.kv_slots(forward, n, capacity)
        queue = PrefillQueue(forward, requests, self.max_tokens)
        yield from Scheduler(self._slots, queue, self.stop_criteria).run()


class PrefillQueue:
    """The requests' prompts, those with a shared prefix one after the other."""

    def __init__(self, forward: TreeForward, requests: Sequence[GenerateRequest], max_tokens: int) -> None:
        self.forward, self.max_tokens = forward, max_tokens
        self.left = len(requests)  # prompts
        self._ready: deque[Prefilled] = deque()
        self._wanted = 0
        self._passes = self._prefill(requests)

    def next(self, most: int) -> list[Prefilled]:
        """Up to ``most`` prompts, those of one forward pass at most; at least one if any is left."""
        if self.left and not self._ready:
            self._wanted = most
            self._ready.extend(next(self._passes))
        some = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
        self.left -= len(some)
        return some

    def _prefill(self, requests: Sequence[GenerateRequest]) -> Iterator[list[Prefilled]]:
        """One forward pass at a time: blocks for as many prompts as are wanted, or as many blocks as fit.

        Blocks with the same shared prefix follow each other, longest first.
        """
        for begin in range(0, len(requests), PLANNED_TOGETHER):
            together = requests[begin : begin + PLANNED_TOGETHER]
            inputs = Inputs.of([(request.prompt, len(request.prompt) - 1) for request in together])
            planned = plan(inputs, self.max_tokens, MAX_PREFIX, by_prefix=True)
            prefix = self.forward.prefill(planned.prefix)
            starts = planned.member_starts
            since = np.array([len(rows) for rows in planned.blocks.prefixes])[planned.blocks.above]
            rows = planned.rows(np.repeat(since, np.diff(starts)), inputs.lengths[planned.members])
            first = 0
            while first < len(planned.blocks):
                _, fit = next(planned.blocks.batches(self.max_tokens, first))
                stop = min(fit, int(np.searchsorted(starts, starts[first] + self._wanted)))
                yield self._pass(planned, first, stop, prefix, rows, together)
                first = stop

    def _pass(
        self, planned: Plan, first: int, stop: int, prefix: KVCache, rows: tuple[np.ndarray, np.ndarray],
        requests: Sequence[GenerateRequest],
    ) -> list[Prefilled]:  # fmt: skip
        """Some blocks of a plan for ``requests``; ``rows``: of all its prompts, see Plan.rows."""
        blocks = planned.blocks.part(first, stop)
        batch = TreeBatch(blocks, prefix, self.forward.model.device, keep_cache=True)
        hidden = self.forward.hidden(batch)
        cache = PrefillCache(prefix, batch.cache)
        starts = planned.member_starts[first : stop + 1]
        at, bounds = rows[0] - planned.blocks.starts[first], rows[1][starts[0] : starts[-1] + 1]
        # a copy of the last ones: a view would keep the whole pass
        outputs = hidden[on_device(at[bounds[1:] - 1], hidden.device)]
        above = np.repeat(blocks.above, np.diff(starts))
        members = planned.members[starts[0] : starts[-1]]
        return [
            Prefilled(requests[i], cache, blocks.prefixes[k], at[begin:end], output)
            for i, k, begin, end, output in zip(members, above, bounds[:-1], bounds[1:], outputs, strict=True)
        ]


class Scheduler:
    """One pass over distinct requests: admit prompts, take a decode step, accept tokens, and again.

    With ``slots.lag`` 0 a step's tokens are accepted at once. A GPU would then wait for the host after each step, so
    its slots have lag 1: a step starts before the tokens of the one before are looked at. What the host decides (a
    sequence has finished) takes effect a step late, and the token computed in vain meanwhile is dropped.
    """

    def __init__(self, slots: KVSlots, queue: PrefillQueue, stop_criteria: StopCriteria) -> None:
        self.slots, self.queue, self.stop_criteria = slots, queue, stop_criteria
        # sampled tokens on their way to the host, and whose token each of its rows is
        self.pending: deque[tuple[HostCopy, list[tuple[int, ActiveSequence]]]] = deque()

    @torch.inference_mode()
    def run(self) -> Iterator[Finished]:
        """Yield generations as they finish."""
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
            for sequence in filter(None, self.slots.sequences):  # after a failure some are left
                sequence.finished = True
            self.slots.release()

    def _admit(self) -> Iterator[Finished]:
        """Prefill waiting prompts into free slots, once enough are free."""
        enough = max(1.0, self.slots.admit_share * self.slots.n)
        while self.queue.left:
            free = self.slots.n - sum(sequence is not None for sequence in self.slots.sequences)
            if free < enough:
                return
            self._prefill(free)
            if self.slots.lag:
                enough = 1  # nothing finishes before the next step: waiting for more free slots is of no use
            else:
                yield from self._accept(0)

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
        self.pending.append((HostCopy(first), [*enumerate(sequences)]))

    def _step(self) -> None:
        """One decode step over all slots in use."""
        slots = self.slots.sequences
        tokens = self.slots.step(self._draws(slots))
        in_use = [(row, sequence) for row, sequence in enumerate(slots) if sequence is not None]
        self.pending.append((HostCopy(tokens), in_use))

    def _draws(self, sequences: Sequence[ActiveSequence | None]) -> Tensor | None:
        """A number for each sequence's next token; None when all of them are greedy."""
        if not any(sequence and sequence.generator for sequence in sequences):
            return None
        numbers = [draw(sequence.generator if sequence else None) for sequence in sequences]
        return on_device(numbers, self.slots.forward.model.device, torch.float64)

    def _accept(self, keep: int) -> Iterator[Finished]:
        """Append sampled tokens to their sequences, but for the ``keep`` newest steps; hand out what has finished."""
        while len(self.pending) > keep:
            sampled, rows = self.pending.popleft()
            tokens = sampled.numpy().tolist()
            for row, sequence in rows:
                if sequence.finished:
                    continue
                if tokens[row] == NOT_FINITE:
                    yield sequence.request, None
                sequence.tokens.append(tokens[row])
                generation = self.stop_criteria.finished(sequence.request, sequence.tokens)
                if generation is not None:
                    sequence.finished = True
                    yield sequence.request, generation
            self.slots.release()
