"""Decoding with shapes that never change, so that a GPU replays each step as one captured graph.

A small model's step is hundreds of kernels of a few microseconds: launched one by one, the GPU would mostly wait.
Slots, their cache and all that a step reads and writes are allocated once; the host looks at a step's tokens while
the next one runs, so what it decides (a sequence has ended) takes effect one step late, at the cost of one token
computed in vain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from evals.core.requests import GenerateRequest, Generation
from evals.engine.attention import AttentionKind, KeyValues
from evals.engine.device import Arriving, kernels_for, on_device
from evals.engine.forward import TreeForward, sequences_that_fit
from evals.engine.prefill import Prompt, Prompts, RequestNotFinite
from evals.engine.stops import Endings

LATE = 1  # steps that run before the host has seen what came out
ROUND_CAPACITY = 256  # tokens of a slot are rounded up to this, so that slots serve the next requests too
ADMIT_AT = 1 / 4  # of the slots free: a pass over few prompts takes as long as one over many


class StaticSlots:
    """The tensors of a step for ``n`` slots of ``capacity`` tokens each (see attention.PackedBatch).

    ``lengths``: tokens in a slot before this step's; ``alive``: 1 for a slot in use, else 0; ``chosen``: the step's
    outcome, a token for each slot, or -1 where the model's scores were no numbers.
    """

    def __init__(self, forward: TreeForward, n: int, capacity: int) -> None:
        device = forward.model.device
        self.forward, self.n, self.capacity = forward, n, capacity
        self._state = torch.zeros(4, n, dtype=torch.long, device=device)
        self.tokens, self.positions = self._state[0:1], self._state[1:2]
        self.lengths, self.alive = self._state[2], self._state[3]
        self.chosen = torch.zeros(n, dtype=torch.long, device=device)
        self.temperatures = torch.zeros(n, device=device)
        self.draws = torch.zeros(n, dtype=torch.float64, device=device)
        self.slots = torch.arange(n, device=device)
        self.layers: dict[int, KeyValues] = {
            layer: (
                k.new_zeros(n, k.shape[1], capacity, k.shape[2]),
                v.new_zeros(n, v.shape[1], capacity, v.shape[2]),
            )
            for layer, (k, v) in forward.example.items()
        }
        self._graphs: dict[bool, torch.cuda.CUDAGraph] = {}

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        """Each slot's token attends to its slot, itself included."""
        keys, values = self.layers[layer]
        if not kernels_for(q):
            keys[self.slots, :, self.lengths] = k
            values[self.slots, :, self.lengths] = v
            return _attend_masked(q, keys, values, self.lengths, kind)
        from evals.engine.kernels import attend_in_slots, store_in_slots

        store_in_slots(k, v, keys, values, self.lengths)
        return attend_in_slots(q, keys, values, self.lengths, kind.scaling, kind.window, kind.softcap)

    def step(self, sampled: bool) -> None:
        """Feed ``tokens``; the next ones are then in ``chosen`` and, for the slots in use, fed by the next step."""
        if self.tokens.device.type != "cuda":
            self._compute(sampled)
            return
        if sampled not in self._graphs:
            self._graphs[sampled] = self._capture(sampled)
        self._graphs[sampled].replay()

    def _compute(self, sampled: bool) -> None:
        logits = self.forward.head(self.forward.hidden(self))
        chosen = choose(logits, self.temperatures if sampled else None, self.draws)
        self.chosen.copy_(chosen)
        self.tokens.copy_(chosen.clamp_min(0)[None])
        self.positions += self.alive
        self.lengths += self.alive

    def _capture(self, sampled: bool) -> torch.cuda.CUDAGraph:
        """Record a step. Trying it first (kernels are built, libraries set up) must leave nothing changed."""
        state = (self.tokens, self.positions, self.lengths, self.alive, self.chosen)
        before = [x.clone() for x in state]
        self.alive.zero_()
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

    def fill(self, slots: Sequence[int], prompts: Sequence[Prompt]) -> None:
        """Copy the keys and values of fed prompts into their slots."""
        device = self.tokens.device
        passes: dict[int, list[tuple[int, Prompt]]] = {}
        for slot, prompt in zip(slots, prompts, strict=True):
            passes.setdefault(id(prompt.fed), []).append((slot, prompt))
        for members in passes.values():
            fed = members[0][1].fed
            above = len(next(iter(fed.trunk.values()))[0]) if fed.trunk else 0
            rows, into, at = [], [], []
            for slot, prompt in members:
                rows.append(np.concatenate([np.array(prompt.trunk_rows, np.int64), above + prompt.rows]))
                into.append(np.full(len(rows[-1]), slot))
                at.append(np.arange(len(rows[-1])))
            source, target, place = (on_device(np.concatenate(x), device) for x in (rows, into, at))
            for layer, own in fed.own.items():
                trunk = fed.trunk[layer] if above else None
                if kernels_for(own[0]):
                    from evals.engine.kernels import fill_slots

                    fill_slots(own, trunk, self.layers[layer], source, target, place)
                    continue
                for i, store in enumerate(self.layers[layer]):
                    new = torch.cat([trunk[i], own[i]]) if trunk else own[i]
                    store[target, :, place] = new.index_select(0, source)

    def start(self, slots: Sequence[int], prompts: Sequence[Prompt], first: torch.Tensor) -> None:
        """Set slots to prompts that stand in them, with their first new tokens ``first`` [len(slots)] to be fed."""
        where = on_device(slots, self.tokens.device)
        lengths = [len(prompt.trunk_rows) + len(prompt.rows) for prompt in prompts]
        self.tokens[0, where] = first.clamp_min(0)
        self.positions[0, where] = self.lengths[where] = on_device(lengths, where.device)
        heat = [prompt.request.temperature for prompt in prompts]
        self.temperatures[where] = on_device(heat, where.device, torch.float32)
        self.alive[where] = 1

    def stop(self, slots: Sequence[int]) -> None:
        """Set slots out of use."""
        self._state.index_fill_(1, on_device(slots, self.tokens.device), 0)


def choose(logits: torch.Tensor, temperatures: torch.Tensor | None, draws: torch.Tensor) -> torch.Tensor:
    """The next tokens from ``logits`` [n, vocabulary]: the first largest; where a temperature is set, what ``draws``
    in [0, 1) give by inverting the distribution function in float64; -1 where the logits are no numbers."""
    best = logits.argmax(-1)
    finite = torch.isfinite(logits.gather(1, best[:, None])[:, 0])
    chosen = best
    if temperatures is not None:
        warm = temperatures > 0
        heat = torch.where(warm, temperatures, 1.0)
        cumulative = torch.softmax(logits.float() / heat[:, None], -1).double().cumsum(-1)
        drawn = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
        chosen = torch.where(warm, drawn.clamp_max(logits.shape[1] - 1), best)
    return torch.where(finite, chosen, -1)


def _attend_masked(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor, kind: AttentionKind
) -> torch.Tensor:
    """What kernels.attend_in_slots computes, on any device."""
    at = torch.arange(k.shape[2], device=k.device)
    visible = at <= lengths[:, None]
    if kind.window is not None:
        visible &= at > lengths[:, None] - kind.window
    grouped = q.view(len(q), k.shape[1], -1, q.shape[2])
    scores = torch.matmul(grouped, k.transpose(2, 3)).float() * kind.scaling
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    scores = scores.masked_fill(~visible[:, None, None], float("-inf"))
    return torch.matmul(torch.softmax(scores, -1).to(v.dtype), v).view(len(q), -1, v.shape[3])


@dataclass(slots=True, eq=False)
class _Running:
    request: GenerateRequest
    generator: torch.Generator | None
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    def draw(self) -> float:
        """The number in [0, 1) that decides the next token; one for each, in order."""
        if self.generator is None:
            return 0.0
        return torch.rand((), generator=self.generator, dtype=torch.float64).item()


@dataclass(frozen=True, slots=True, eq=False)
class _Chosen:
    """Tokens on their way to the host: that of ``members[i]`` is ``tokens[rows[i]]``."""

    tokens: Arriving
    rows: list[int]
    members: list[_Running]


class StaticDecoding:
    """One pass over distinct requests in static slots."""

    def __init__(self, slots: StaticSlots, prompts: Prompts, endings: Endings) -> None:
        self.slots, self.prompts, self.endings = slots, prompts, endings
        self.running: list[_Running | None] = [None] * slots.n
        self.coming: deque[_Chosen] = deque()

    @torch.inference_mode()
    def run(self) -> Iterator[tuple[GenerateRequest, Generation]]:
        """Fill the slots, take a step, look at the tokens of the step before, and again."""
        try:
            while True:
                free = [slot for slot, running in enumerate(self.running) if running is None]
                if self.prompts.waiting and len(free) >= ADMIT_AT * self.slots.n:
                    self._admit(free)
                running = any(self.running)
                if running:
                    self._step()
                if not self.coming:
                    return
                while len(self.coming) > (LATE if running else 0):
                    yield from self._look(self.coming.popleft())
        finally:
            self.slots.stop([slot for slot, running in enumerate(self.running) if running is not None])

    def _admit(self, free: list[int]) -> None:
        """Feed prompts into free slots, some at a time."""
        while free and self.prompts.waiting:
            prompts = self.prompts.next(len(free))
            slots, free = free[: len(prompts)], free[len(prompts) :]
            members = []
            for slot, prompt in zip(slots, prompts, strict=True):
                seed = prompt.request.seed
                warm = prompt.request.temperature > 0
                members.append(
                    _Running(prompt.request, torch.Generator().manual_seed(seed) if warm else None)
                )
                self.running[slot] = members[-1]
            logits = self.slots.forward.head(torch.stack([prompt.output for prompt in prompts]))
            heat = on_device([p.request.temperature for p in prompts], logits.device, torch.float32)
            draws = on_device([m.draw() for m in members], logits.device, torch.float64)
            first = choose(logits, heat, draws)
            self.slots.fill(slots, prompts)
            self.slots.start(slots, prompts, first)
            self.coming.append(_Chosen(Arriving(first), [*range(len(members))], members))

    def _step(self) -> None:
        pairs = [(slot, running) for slot, running in enumerate(self.running) if running is not None]
        rows, members = [slot for slot, _ in pairs], [running for _, running in pairs]
        sampled = any(running.generator is not None for running in members)
        if sampled:
            draws = [0.0] * self.slots.n
            for slot, running in pairs:
                draws[slot] = running.draw()
            self.slots.draws.copy_(on_device(draws, self.slots.draws.device, torch.float64))
        self.slots.step(sampled)
        self.coming.append(_Chosen(Arriving(self.slots.chosen), rows, members))

    def _look(self, chosen: _Chosen) -> Iterator[tuple[GenerateRequest, Generation]]:
        """Take up tokens that have arrived; hand out and remove what ends with them."""
        tokens = chosen.tokens.tolist()
        ended = []
        for row, running in zip(chosen.rows, chosen.members, strict=True):
            if running.ended:
                continue
            if tokens[row] < 0:
                raise RequestNotFinite(running.request)
            running.tokens.append(tokens[row])
            generation = self.endings.ended(running.request, running.tokens)
            if generation is not None:
                running.ended = True
                ended.append(running)
                yield running.request, generation
        if ended:
            slots = [
                slot for slot, running in enumerate(self.running) if running is not None and running.ended
            ]
            for slot in slots:
                self.running[slot] = None
            self.slots.stop(slots)


def size_of_slots(
    forward: TreeForward, requests: Sequence[GenerateRequest], most: int, old: StaticSlots | None
) -> tuple[int, int]:
    """How many slots, at most ``most``, of how many tokens suit these requests; the ``old`` ones' size if they do."""
    tokens = max(len(request.prompt) + request.max_new_tokens for request in requests) + LATE + 1
    capacity = -(-tokens // ROUND_CAPACITY) * ROUND_CAPACITY
    reusable = 0 if old is None else old.n * old.capacity
    most = sequences_that_fit(forward, capacity, most, reusable)
    waves = -(-len(requests) // most)
    n = -(-len(requests) // waves)  # no more than the waves need: answers to one task are often of one length
    if old is not None and old.capacity >= capacity and n <= old.n <= 2 * n:
        return old.n, old.capacity
    return n, capacity
