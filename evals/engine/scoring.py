"""Scoring continuations: each distinct token goes through the model once (tree.py plans, forward.py computes)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evals.core.requests import Score, ScoreRequest, ScoreRequests, ranges
from evals.engine.attention import UnsupportedModel
from evals.engine.device import HostCopy, on_device, out_of_memory
from evals.engine.forward import TreeForward
from evals.engine.packed import TreeBatch
from evals.engine.plain import PlainScorer
from evals.engine.tree import Inputs, plan

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
        flat = requests if isinstance(requests, ScoreRequests) else ScoreRequests.of(requests)
        known = np.zeros(len(flat), bool)
        known[list(skip)] = True
        try:
            self._forward = self._forward or TreeForward(self.model)
        except UnsupportedModel as reason:
            logger.warning("this model is scored one sequence at a time: %s", reason)
            todo = np.flatnonzero(~known).tolist()
            yield from ((todo[k], score) for k, score in PlainScorer(self.model).run(flat.take(todo)))
            return
        running: deque[_Batch] = deque()
        # on a CPU nothing runs meanwhile: holding a finished batch back would only lose it when the run is killed
        in_flight = 0 if self.model.device.type == "cpu" else IN_FLIGHT
        for batch in self._started(self._forward, flat, known):
            running.append(batch)
            if len(running) > in_flight:
                yield from running.popleft().finish(known)
        for batch in running:
            yield from batch.finish(known)

    def _started(self, forward: TreeForward, requests: ScoreRequests, known: np.ndarray) -> Iterator[_Batch]:
        """Started batches, planned some thousand requests at a time, in the order given."""
        together = PLANNED_ON_CPU if self.model.device.type == "cpu" else PLANNED_ON_GPU
        for first in range(0, len(requests), together):
            todo = np.arange(first, min(first + together, len(requests)))
            while not known[todo].all():
                started = [todo[:0]]
                try:
                    for batch in self._attempt(forward, requests, todo, known):
                        started.append(batch.names)
                        yield batch
                except (RuntimeError, MemoryError) as error:
                    if not out_of_memory(error) or self.max_tokens == 1:
                        raise
                    self.max_tokens //= 2
                    logger.warning("out of memory: going on with %d tokens in a batch", self.max_tokens)
                else:
                    break
                torch.cuda.empty_cache()
                todo = todo[~(known[todo] | np.isin(todo, np.concatenate(started)))]

    @torch.inference_mode()
    def _attempt(
        self, forward: TreeForward, requests: ScoreRequests, todo: np.ndarray, known: np.ndarray
    ) -> Iterator[_Batch]:
        """Plan ``todo`` and start its batches."""
        asked = requests.take(todo)
        planned = plan(inputs_of(asked), self.max_tokens, min(MAX_PREFIX, self.max_tokens))
        prefix = forward.prefill(planned.prefix)
        counts = asked.n_continuation[planned.members]
        stops = asked.starts[planned.members + 1]
        targets = asked.tokens[ranges(stops - counts, stops)]
        lengths = np.diff(asked.starts)[planned.members] - 1
        rows, offsets = planned.rows(lengths - counts, lengths)
        for first, stop in planned.blocks.batches(self.max_tokens):
            begin, end = planned.member_starts[[first, stop]]
            # skipped only as a whole: another batch would give the rest other last digits than an unbroken run
            names = todo[planned.members[begin:end]]
            if known[names].all():
                continue
            some = slice(offsets[begin], offsets[end])
            batch = TreeBatch(planned.blocks.part(first, stop), prefix, self.model.device)
            rows_in = rows[some] - planned.blocks.starts[first]
            yield _Batch(names, _sums(forward, batch, rows_in, targets[some], counts[begin:end]))


def _sums(
    forward: TreeForward, batch: TreeBatch, rows: np.ndarray, targets: np.ndarray, counts: np.ndarray
) -> HostCopy:
    """Of each request: the sum of its log-probabilities; at how many positions another token is likelier.

    ``rows``: after which rows of the batch the ``targets`` come; the first ``counts[0]`` are the first request's.
    """
    device = forward.model.device
    logprobs, likeliest = forward.head.logprobs(forward.hidden(batch), rows, targets)
    owners = on_device(np.repeat(np.arange(len(counts)), counts), device)
    found = torch.zeros(2, len(counts), dtype=torch.float64, device=device)
    for sums, values in zip(found, (logprobs, ~likeliest), strict=True):
        sums.index_add_(0, owners, values.double())
    return HostCopy(found)


@dataclass(frozen=True, eq=False)
class _Batch:
    """The requests ``names``, whose pass has been started; only ``finish`` waits for the device."""

    names: np.ndarray
    found: HostCopy

    def finish(self, known: np.ndarray) -> Iterator[tuple[int, Score]]:
        """(index, score) of each request that is not known."""
        new = ~known[self.names]
        sums, likelier = self.found.numpy()[:, new]
        greedy = (likelier == 0).tolist()
        return zip(self.names[new].tolist(), map(Score, sums.tolist(), greedy), strict=True)


def inputs_of(requests: ScoreRequests) -> Inputs:
    """What goes into the model for each request: all but its last token, outputs from the last context token on."""
    lengths = np.diff(requests.starts) - 1
    return Inputs(requests.tokens, requests.starts[:-1], lengths, lengths - requests.n_continuation)
