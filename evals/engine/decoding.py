"""Generation for many requests at a time (scheduler.py), in KV slots that suit the device."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from evals.core.requests import GenerateRequest, Generation, NotFinite
from evals.engine.attention import UnsupportedModel
from evals.engine.cpu_slots import CpuSlots
from evals.engine.device import out_of_memory
from evals.engine.forward import TreeForward
from evals.engine.gpu_slots import GpuSlots
from evals.engine.kv_slots import KVSlots, sequences_that_fit
from evals.engine.plain import PlainDecoder
from evals.engine.prefill import PrefillQueue, RequestNotFinite
from evals.engine.scheduler import Scheduler
from evals.engine.stops import StopCriteria

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
                    yield from ((index, generation) for index in todo.pop(request))
            except RequestNotFinite as error:
                raise NotFinite(todo[error.request][0]) from error
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or (self.max_sequences == 1 and self.max_tokens == 1):
                    raise
                self.max_sequences = max(1, self.max_sequences // 2)
                self.max_tokens = max(1, self.max_tokens // 2)
                logger.warning("out of memory: going on with %d sequences at a time", self.max_sequences)
                self._slots = None
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _decode(
        self, forward: TreeForward, requests: list[GenerateRequest]
    ) -> Iterator[tuple[GenerateRequest, Generation]]:
        fits = sequences_that_fit(forward, self.max_sequences, self.memory_share)
        n, capacity = self.kv_slots.size(requests, fits, self._slots)
        if self._slots is None or (self._slots.n, self._slots.capacity) != (n, capacity):
            self._slots = None  # before the new ones are made, which need its memory
            self._slots = self.kv_slots(forward, n, capacity)
        queue = PrefillQueue(forward, requests, self.max_tokens)
        yield from Scheduler(self._slots, queue, self.stop_criteria).run()
