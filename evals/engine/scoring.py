"""Scoring continuations: each distinct token goes through the model once (tree.py plans, forward.py computes)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from evals.core.requests import Score, ScoreRequest
from evals.engine.attention import KVCache, UnsupportedModel
from evals.engine.device import HostCopy, on_device, out_of_memory
from evals.engine.forward import TreeForward
from evals.engine.packed import TreeBatch
from evals.engine.plain import PlainScorer
from evals.engine.tree import Block, Input, batches, plan, rows_of

MAX_PREFIX = 2048  # tokens of shared prefixes whose KV cache is kept for one plan
# Requests planned at a time. More of them share more; but a GPU has nothing to do before the first plan is made.
PLANNED_ON_CPU, PLANNED_ON_GPU = 65536, 8192
IN_FLIGHT = 3  # batches that a GPU has been given when the host reads the oldest one's results

logger = logging.getLogger(__name__)


class PrefixScorer:
    """Scores requests as one prefix tree: shared prefixes once, no padding, logits only where they are scored.

    ``max_tokens``: tokens in one forward pass; when memory runs out it is halved, for good. A model whose attention
    cannot be shared is scored by the plain engine, with a warning.
    """

    def __init__(self, model: Any, max_tokens: int | None = None) -> None:
        self.model = model
        self.max_tokens = max_tokens or (2048 if model.device.type == "cpu" else 131072)
        self._forward: TreeForward | None = None

    def run(
        self, requests: Sequence[ScoreRequest], skip: Collection[int] = ()
    ) -> Iterator[tuple[int, Score]]:
        """Yield (index, score) as batches finish, in any order, each index once.

        ``skip``: indices whose scores are known and not yielded. They are planned with the others, so that the
        batches, and with them the scores to the last bit, are those of a run without ``skip``.
        """
        same: dict[ScoreRequest, list[int]] = {}
        for index, request in enumerate(requests):
            same.setdefault(request, []).append(index)
        distinct = list(same)
        known = {i for i, request in enumerate(distinct) if skip and all(k in skip for k in same[request])}
        for i, score in self._run(distinct, known):
            yield from ((index, score) for index in same[distinct[i]] if index not in skip)

    def _run(self, requests: list[ScoreRequest], known: set[int]) -> Iterator[tuple[int, Score]]:
        try:
            self._forward = self._forward or TreeForward(self.model)
        except UnsupportedModel as reason:
            logger.warning("this model is scored one sequence at a time: %s", reason)
            todo = [i for i in range(len(requests)) if i not in known]
            for k, score in PlainScorer(self.model).run([requests[i] for i in todo]):
                yield todo[k], score
            return
        running: deque[_Batch] = deque()
        # on a CPU nothing runs meanwhile: holding a finished batch back would only lose it when the run is killed
        in_flight = 0 if self.model.device.type == "cpu" else IN_FLIGHT
        for batch in self._started(self._forward, requests, known):
            running.append(batch)
            if len(running) > in_flight:
                yield from (pair for pair in running.popleft().finish() if pair[0] not in known)
        for batch in running:
            yield from (pair for pair in batch.finish() if pair[0] not in known)

    def _started(
        self, forward: TreeForward, requests: list[ScoreRequest], known: set[int]
    ) -> Iterator[_Batch]:
        """Started batches, planned some thousand requests at a time, in the order given."""
        together = PLANNED_ON_CPU if self.model.device.type == "cpu" else PLANNED_ON_GPU
        for first in range(0, len(requests), together):
            todo = list(range(first, min(first + together, len(requests))))
            while not known.issuperset(todo):
                started: set[int] = set()
                try:
                    for batch in self._attempt(forward, requests, todo, known):
                        started.update(batch.names)
                        yield batch
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error) or self.max_tokens == 1:
                        raise
                    self.max_tokens //= 2
                    logger.warning("out of memory: going on with %d tokens in a batch", self.max_tokens)
                else:
                    break
                torch.cuda.empty_cache()
                todo = [i for i in todo if i not in started and i not in known]

    @torch.inference_mode()
    def _attempt(
        self, forward: TreeForward, requests: list[ScoreRequest], todo: list[int], known: set[int]
    ) -> Iterator[_Batch]:
        """Plan ``todo`` and start its batches."""
        asked = [requests[i] for i in todo]
        planned = plan([input_of(one) for one in asked], self.max_tokens, min(MAX_PREFIX, self.max_tokens))
        prefix = forward.prefill(planned.prefix)
        for blocks in batches(planned.blocks, self.max_tokens):
            # skipped only as a whole: another batch would give the rest other last digits than an unbroken run
            if known and all(todo[i] in known for block in blocks for i, _ in block.paths):
                continue
            yield _Batch(blocks, asked, todo, forward, prefix)


class _Batch:
    """Blocks that are scored in one pass, which starts at once; only ``finish`` waits for the device."""

    def __init__(
        self,
        blocks: Sequence[Block],
        requests: Sequence[ScoreRequest],
        names: Sequence[int],
        forward: TreeForward,
        prefix: KVCache,
    ) -> None:
        paths, begin = [], 0
        for block in blocks:
            paths += [(i, begin + rows_of(path)) for i, path in block.paths]
            begin += len(block.tokens)
        self.names = [names[i] for i, _ in paths]
        lengths = [requests[i].n_continuation for i, _ in paths]
        rows = np.concatenate([path[-n:] for (_, path), n in zip(paths, lengths, strict=True)])
        targets = [
            token for (i, _), n in zip(paths, lengths, strict=True) for token in requests[i].tokens[-n:]
        ]
        device = forward.model.device
        hidden = forward.hidden(TreeBatch(blocks, prefix, device))
        logprobs, likeliest = forward.head.logprobs(hidden, rows, targets)
        owners = on_device(np.repeat(np.arange(len(lengths)), lengths), device)
        sums, likelier = torch.zeros(2, len(lengths), dtype=torch.float64, device=device)
        sums.index_add_(0, owners, logprobs.double())
        likelier.index_add_(0, owners, (~likeliest).double())  # positions at which another token is likelier
        self.found = HostCopy(torch.stack([sums, likelier]))

    def finish(self) -> list[tuple[int, Score]]:
        """Each request's (index, score)."""
        return [
            (name, Score(logprob, greedy=not likelier))
            for name, logprob, likelier in zip(self.names, *self.found.tolist(), strict=True)
        ]


def input_of(request: ScoreRequest) -> Input:
    """What goes into the model for a request: all but its last token, outputs from the last context token on."""
    return Input(request.tokens[:-1], len(request.tokens) - 1 - request.n_continuation)
