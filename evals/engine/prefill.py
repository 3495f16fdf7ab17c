"""Prefill: prompts go through the model as prefix trees, when there are slots for them, and keep their KV cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from evals.core.requests import GenerateRequest
from evals.engine.attention import KVCache
from evals.engine.forward import TreeForward
from evals.engine.packed import TreeBatch
from evals.engine.tree import Block, Input, plan

MAX_PREFIX = 8192  # tokens of shared prefixes whose KV cache is kept for one plan
PLANNED_TOGETHER = 1024  # requests planned at a time, in the order given


class RequestNotFinite(Exception):
    """The model's logits were no numbers while this request was computed."""

    def __init__(self, request: GenerateRequest) -> None:
        super().__init__()
        self.request = request


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
    prefix_rows: tuple[int, ...]
    rows: np.ndarray
    output: Tensor


class PrefillQueue:
    """The requests' prompts, those with a shared prefix one after the other."""

    def __init__(self, forward: TreeForward, requests: Sequence[GenerateRequest], max_tokens: int) -> None:
        self.forward, self.max_tokens = forward, max_tokens
        self._unplanned = deque(requests)
        self._planned: list[GenerateRequest] = []
        self._blocks: deque[Block] = deque()
        self._ready: deque[Prefilled] = deque()
        self._prefix: KVCache = {}

    @property
    def waiting(self) -> bool:
        """Whether prompts are left."""
        return bool(self._ready or self._blocks or self._unplanned)

    def next(self, most: int) -> list[Prefilled]:
        """Up to ``most`` prompts, those of one forward pass at most; at least one if any is left."""
        while not self._ready and (self._blocks or self._unplanned):
            if not self._blocks:
                self._plan()
            self._prefill(most)
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def _plan(self) -> None:
        """Plan the next requests. Blocks with the same shared prefix follow each other, longest first."""
        size = min(PLANNED_TOGETHER, len(self._unplanned))
        self._planned = [self._unplanned.popleft() for _ in range(size)]
        inputs = [Input(request.prompt, len(request.prompt) - 1) for request in self._planned]
        planned = plan(inputs, self.max_tokens, MAX_PREFIX)
        self._prefix = self.forward.prefill(planned.prefix)
        self._blocks = deque(
            sorted(planned.blocks, key=lambda block: (block.prefix_rows, -len(block.tokens)))
        )

    def _prefill(self, wanted: int) -> None:
        """One forward pass: blocks for ``wanted`` prompts, or as many as fit."""
        blocks: list[Block] = []
        n_tokens = n_prompts = 0
        while self._blocks and n_prompts < wanted:
            n_tokens += len(self._blocks[0].tokens)
            if blocks and n_tokens > self.max_tokens:
                break
            blocks.append(self._blocks.popleft())
            n_prompts += len(blocks[-1].paths)
        batch = TreeBatch(blocks, self._prefix, self.forward.model.device, keep_cache=True)
        hidden = self.forward.hidden(batch)
        cache = PrefillCache(self._prefix, batch.cache)
        start = 0
        for block in blocks:
            above = tuple(block.prefix_rows)
            for i, path in block.paths:
                rows = start + np.concatenate([np.arange(begin, end) for begin, end in path])
                # a copy: a part of the pass's output would keep all of it
                output = hidden[int(rows[-1])].clone()
                self._ready.append(Prefilled(self._planned[i], cache, above, rows, output))
            start += len(block.tokens)
