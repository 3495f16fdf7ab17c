"""KV slots for a GPU: shapes never change, so that each decode step is replayed as one captured graph.

A small model's step is hundreds of kernels of a few microseconds: launched one by one, the GPU would mostly wait.
So all that a step reads and writes is allocated once, and a shared prefix is copied into each slot that has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from evals.core.requests import GenerateRequest, ranges
from evals.engine.attention import AttentionKind, KVCache, attend, bias_of
from evals.engine.device import kernels_for, on_device
from evals.engine.forward import TreeForward
from evals.engine.kv_slots import ActiveSequence, Fits, KVSlots, Prefilled, longest_of
from evals.engine.sampling import sample, temperatures_of

ROUND_CAPACITY = 256  # tokens of a slot are rounded up to this, so that slots serve the next requests too


class GpuSlots:
    """See kv_slots.KVSlots. It is a step's batch too (see attention.PackedBatch): free slots are computed along.

    ``lengths``: tokens in a slot before this step's; ``in_use``: 1 for a slot in use, else 0; ``sampled``: the step's
    outcome by slot.
    """

    lag, admit_share = 1, 1 / 4  # a quarter: a prefill of few prompts takes as long as one of many

    def __init__(self, forward: TreeForward, n: int, capacity: int) -> None:
        device = forward.model.device
        self.forward, self.n, self.capacity = forward, n, capacity
        self.sequences: list[ActiveSequence | None] = [None] * n
        self._state = torch.zeros(4, n, dtype=torch.long, device=device)
        self.tokens, self.positions = self._state[0:1], self._state[1:2]
        self.lengths, self.in_use = self._state[2], self._state[3]
        self.sampled = torch.zeros(n, dtype=torch.long, device=device)
        self.temperatures = torch.zeros(n, device=device)
        self.draws = torch.zeros(n, dtype=torch.float64, device=device)
        self.slots = torch.arange(n, device=device)
        self.cache: KVCache = {  # [slots, kv heads, tokens, size]
            layer: (
                k.new_zeros(n, k.shape[1], capacity, k.shape[2]),
                v.new_zeros(n, v.shape[1], capacity, v.shape[2]),
            )
            for layer, (k, v) in forward.example.items()
        }
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    @staticmethod
    def size(requests: Sequence[GenerateRequest], fits: Fits, old: KVSlots | None) -> tuple[int, int]:
        """See KVSlots."""
        tokens = longest_of(requests) + GpuSlots.lag + 1
        capacity = -(-tokens // ROUND_CAPACITY) * ROUND_CAPACITY
        waves = -(-len(requests) // fits(capacity, old.n * old.capacity if old else 0))
        # no more than the waves need: answers to one task are often of one length, so waves end together
        n = -(-len(requests) // waves)
        if old is not None and old.capacity >= capacity and n <= old.n <= 2 * n:
            return old.n, old.capacity
        return n, capacity

    def admit(self, sequences: Sequence[ActiveSequence], prompts: Sequence[Prefilled], first: Tensor) -> None:
        """See KVSlots."""
        free = [slot for slot, sequence in enumerate(self.sequences) if sequence is None]
        slots = free[: len(sequences)]
        for slot, sequence in zip(slots, sequences, strict=True):
            self.sequences[slot] = sequence
        self._fill(slots, prompts)
        where = on_device(slots, self.tokens.device)
        lengths = [len(prompt.prefix_rows) + len(prompt.rows) for prompt in prompts]
        self.tokens[0, where] = first.clamp_min(0)  # NOT_FINITE is no row of the embedding
        self.positions[0, where] = self.lengths[where] = on_device(lengths, where.device)
        self.temperatures[where] = temperatures_of([prompt.request for prompt in prompts], where.device)
        self.in_use[where] = 1

    def step(self, draws: Tensor | None) -> Tensor:
        """See KVSlots. The sampled tokens are the next step's input already, so that it need not wait for the host."""
        sampled = draws is not None
        if draws is not None:
            self.draws.copy_(draws)
        if self.tokens.device.type != "cuda":
            self._compute(sampled)
        else:
            if sampled not in self._graphs:
                self._graphs[sampled] = self._capture(sampled)
            self._graphs[sampled].replay()
        return self.sampled

    def release(self) -> None:
        """See KVSlots."""
        slots = [slot for slot, sequence in enumerate(self.sequences) if sequence and sequence.finished]
        for slot in slots:
            self.sequences[slot] = None
        if slots:
            self._state.index_fill_(1, on_device(slots, self.tokens.device), 0)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kind: AttentionKind) -> Tensor:
        """Each slot's token attends to its slot, itself included."""
        keys, values = self.cache[layer]
        if not kernels_for(q):
            keys[self.slots, :, self.lengths] = k
            values[self.slots, :, self.lengths] = v
            return attend_in_slots(q, keys, values, self.lengths, kind)
        from evals.engine import kernels

        kernels.store_in_slots(k, v, keys, values, self.lengths)
        return kernels.attend_in_slots(q, keys, values, self.lengths, kind)

    def _compute(self, sampled: bool) -> None:
        logits = self.forward.head(self.forward.hidden(self))
        tokens = sample(logits, self.temperatures if sampled else None, self.draws)
        self.sampled.copy_(tokens)
        self.tokens.copy_(tokens.clamp_min(0)[None])
        self.positions += self.in_use  # a free slot stays where it is: it must not run out of its capacity
        self.lengths += self.in_use

    def _capture(self, sampled: bool) -> torch.cuda.CUDAGraph:
        """Record a step. It is run twice before, to build kernels and set up libraries, and must leave no trace."""
        state = (self.tokens, self.positions, self.lengths, self.in_use, self.sampled)
        before = [x.clone() for x in state]
        self.in_use.zero_()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._compute(sampled)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._compute(sampled)
        for x, old in zip(state, before, strict=True):
            x.copy_(old)
        return graph

    def _fill(self, slots: Sequence[int], prompts: Sequence[Prefilled]) -> None:
        """Copy the keys and values of prompts, all of one pass, into their slots."""
        cache = prompts[0].cache
        above = len(next(iter(cache.prefix.values()))[0]) if cache.prefix else 0
        rows = [np.concatenate([prompt.prefix_rows, above + prompt.rows]) for prompt in prompts]
        lengths = np.array([len(each) for each in rows])
        into, places = np.repeat(slots, lengths), ranges(0 * lengths, lengths)
        source, target, place = (
            on_device(x, self.tokens.device) for x in (np.concatenate(rows), into, places)
        )
        for layer, own in cache.own.items():
            prefix = cache.prefix[layer] if above else None
            if kernels_for(own[0]):
                from evals.engine.kernels import fill_slots

                fill_slots(own, prefix, self.cache[layer], source, target, place)
                continue
            for i, store in enumerate(self.cache[layer]):
                new = torch.cat([prefix[i], own[i]]) if prefix else own[i]
                store[target, :, place] = new.index_select(0, source)


def attend_in_slots(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor, kind: AttentionKind) -> Tensor:
    """What the kernel of this name computes, by the reference, on any device."""
    at = torch.arange(k.shape[2], device=k.device)
    visible = at <= lengths[:, None]
    if kind.window is not None:
        visible &= at > lengths[:, None] - kind.window
    grouped = q.view(len(q), k.shape[1], -1, q.shape[2])
    return attend(grouped, k, v, bias_of(visible)[:, None, None], kind).view(len(q), -1, v.shape[3])
