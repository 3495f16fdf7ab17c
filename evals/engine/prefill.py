"""Prompts to be continued: planned as trees, fed when there is room, handed out with their keys and values."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evals.core.requests import GenerateRequest
from evals.engine.attention import KeyValues
from evals.engine.forward import TreeForward
from evals.engine.packed import TreeBatch
from evals.engine.tree import Block, Feed, plan

MAX_TRUNK = 8192  # tokens of shared beginnings kept for one plan
PLANNED_TOGETHER = 1024  # requests planned at a time, in the order given


class RequestNotFinite(Exception):
    """The model's scores were no numbers while this request was computed."""

    def __init__(self, request: GenerateRequest) -> None:
        super().__init__()
        self.request = request


@dataclass(frozen=True, slots=True, eq=False)
class Fed:
    """Keys and values by layer, [rows, kv heads, size]: of a plan's trunk, and of one forward pass below it."""

    trunk: dict[int, KeyValues]
    own: dict[int, KeyValues]


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt that has been fed: its rows of the trunk, then of the pass (int64); its last output [hidden size]."""

    request: GenerateRequest
    fed: Fed
    trunk_rows: tuple[int, ...]
    rows: np.ndarray
    output: torch.Tensor


class Prompts:
    """The requests' prompts, in an order in which those with a common beginning follow each other."""

    def __init__(self, forward: TreeForward, requests: Sequence[GenerateRequest], max_tokens: int) -> None:
        self.forward, self.max_tokens = forward, max_tokens
        self._unplanned = deque(requests)
        self._planned: list[GenerateRequest] = []
        self._blocks: deque[Block] = deque()
        self._ready: deque[Prompt] = deque()
        self._trunk: dict[int, KeyValues] = {}

    @property
    def waiting(self) -> bool:
        """Whether prompts are left."""
        return bool(self._ready or self._blocks or self._unplanned)

    def next(self, most: int) -> list[Prompt]:
        """Up to ``most`` fed prompts, those of one pass at most; at least one if any is left."""
        while not self._ready and (self._blocks or self._unplanned):
            if not self._blocks:
                self._plan()
            self._feed(most)
        return [self._ready.popleft() for _ in range(min(most, len(self._ready)))]

    def _plan(self) -> None:
        """Plan the next requests. Blocks below the same stretch of trunk follow each other, longest first."""
        size = min(PLANNED_TOGETHER, len(self._unplanned))
        self._planned = [self._unplanned.popleft() for _ in range(size)]
        feeds = [Feed(request.prompt, len(request.prompt) - 1) for request in self._planned]
        planned = plan(feeds, self.max_tokens, MAX_TRUNK)
        self._trunk = self.forward.trunk(planned.trunk)
        self._blocks = deque(sorted(planned.blocks, key=lambda block: (block.trunk, -len(block.tokens))))

    def _feed(self, wanted: int) -> None:
        """One forward pass: blocks for ``wanted`` prompts, or as many as fit."""
        blocks: list[Block] = []
        n_tokens = n_prompts = 0
        while self._blocks and n_prompts < wanted:
            n_tokens += len(self._blocks[0].tokens)
            if blocks and n_tokens > self.max_tokens:
                break
            blocks.append(self._blocks.popleft())
            n_prompts += len(blocks[-1].paths)
        batch = TreeBatch(blocks, self._trunk, self.forward.model.device, keep=True)
        hidden = self.forward.hidden(batch)
        fed = Fed(self._trunk, batch.kept)
        start = 0
        for block in blocks:
            above = tuple(block.trunk)
            for i, path in block.paths:
                rows = start + np.concatenate([np.arange(begin, end) for begin, end in path])
                self._ready.append(Prompt(self._planned[i], fed, above, rows, hidden[int(rows[-1])].clone()))
            start += len(block.tokens)
