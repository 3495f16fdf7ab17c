"""Generation with a full batch: a finished sequence leaves, the next enters; shared beginnings are computed once.

Prompts go through the model as one tree (tree.py, forward.py). What several sequences begin with is kept once and
attended to by all of them in one product; each has a slot of its own for the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evals.core.requests import GenerateRequest, Generation, NotFinite
from evals.engine.attention import AttentionKind, KeyValues, UnsupportedModel
from evals.engine.device import on_device, out_of_memory
from evals.engine.forward import TreeForward, sequences_that_fit
from evals.engine.plain import PlainDecoder, pick
from evals.engine.prefill import Prompt, Prompts, RequestNotFinite
from evals.engine.static_decoding import StaticDecoding, StaticSlots, size_of_slots
from evals.engine.stops import Endings

COST_APART = 200  # what attending to one sequence apart costs more, in tokens read

logger = logging.getLogger(__name__)


class BatchDecoder:
    """Continues many prompts at a time; greedy output equals that of one at a time (exact ties aside).

    ``max_sequences``: how many at a time; ``max_tokens``: prompt tokens in one forward pass. When memory runs out
    both are halved, for good. A model whose attention cannot be shared is run by the plain engine, with a warning.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        eos_token_ids: Sequence[int],
        max_sequences: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        on_cpu = model.device.type == "cpu"
        self.model = model
        self.tokenizer = tokenizer
        self.eos = frozenset(eos_token_ids)
        self.max_sequences = max_sequences or (64 if on_cpu else 1024)
        self.max_tokens = max_tokens or (2048 if on_cpu else 32768)
        self.static = (
            model.device.type == "cuda"
        )  # CPUs gain from steps as small as their sequences, GPUs from captured ones
        self.endings = Endings(tokenizer, self.eos)
        self._slots: StaticSlots | None = None
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
        if not self.static:
            yield from _Decoding(self, forward, requests).run()
            return
        n, capacity = size_of_slots(forward, requests, self.max_sequences, self._slots)
        if self._slots is None or (self._slots.n, self._slots.capacity) != (n, capacity):
            self._slots = None  # its memory is needed
            self._slots = StaticSlots(forward, n, capacity)
        prompts = Prompts(forward, requests, self.max_tokens)
        yield from StaticDecoding(self._slots, prompts, self.endings).run()


@dataclass(slots=True, eq=False)
class _Prefix:
    """What several sequences begin with: by layer, keys and values [kv heads, tokens, size]."""

    length: int
    layers: dict[int, KeyValues]


@dataclass(slots=True, eq=False)
class _Sequence:
    """One request in progress. ``length``: its own tokens in its slot, those of ``prefix`` not counted."""

    request: GenerateRequest
    prefix: _Prefix
    generator: torch.Generator | None
    length: int
    tokens: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Where the newest token stands, which is yet to be fed."""
        return self.prefix.length + self.length


class _Decoding:
    """One pass over distinct requests, each step's shapes as large as its sequences need."""

    def __init__(self, settings: BatchDecoder, forward: TreeForward, requests: list[GenerateRequest]) -> None:
        longest = max(len(request.prompt) + request.max_new_tokens for request in requests)
        # asked for beforehand: a system that promises more memory than it has ends a process instead of refusing
        self.forward, self.most = forward, sequences_that_fit(forward, longest, settings.max_sequences)
        self.endings = settings.endings
        self.prompts = Prompts(forward, requests, settings.max_tokens)
        self.cache = _SlotCache()
        self.active: list[_Sequence] = []  # active[slot]
        self.prefixes: dict[tuple[int, ...], tuple[dict[int, KeyValues], _Prefix]] = {}

    @torch.inference_mode()
    def run(self) -> Iterator[tuple[GenerateRequest, Generation]]:
        """Fill the slots, take a step, give out what is finished, and again."""
        while True:
            free = self.most - len(self.active)
            while self.prompts.waiting and free and (free * 8 >= self.most or not self.active):
                yield from self._admit(free)
                free = self.most - len(self.active)
            if not self.active:
                return
            logits = self._step()
            yield from self._accept(logits, list(range(len(self.active))))

    def _admit(self, free: int) -> Iterator[tuple[GenerateRequest, Generation]]:
        """Put the next prompts into free slots; their first tokens come from the prompts' last outputs."""
        first = len(self.active)
        prompts = self.prompts.next(free)
        longest = max(len(prompt.rows) for prompt in prompts)
        for layer, kept in prompts[0].fed.own.items():
            self.cache.reserve(layer, first + len(prompts), longest + 1, kept)
        for prompt in prompts:
            request = prompt.request
            generator = torch.Generator().manual_seed(request.seed) if request.temperature > 0 else None
            rows = on_device(prompt.rows, self.forward.model.device)
            self.cache.fill(len(self.active), rows, prompt.fed.own)
            self.active.append(_Sequence(request, self._prefix(prompt), generator, len(prompt.rows)))
        logits = self.forward.head(torch.stack([prompt.output for prompt in prompts]))
        yield from self._accept(logits, list(range(first, len(self.active))))

    def _prefix(self, prompt: Prompt) -> _Prefix:
        """The prompt's stretch of trunk, copied together once for all that have it."""
        rows = prompt.trunk_rows
        trunk, prefix = self.prefixes.get(rows, (None, None))
        if prefix is None or trunk is not prompt.fed.trunk:
            layers = {
                layer: (
                    k[list(rows)].transpose(0, 1).contiguous(),
                    v[list(rows)].transpose(0, 1).contiguous(),
                )
                for layer, (k, v) in (prompt.fed.trunk.items() if rows else ())
            }
            prefix = _Prefix(len(rows), layers)
            self.prefixes = {key: kept for key, kept in self.prefixes.items() if kept[0] is prompt.fed.trunk}
            self.prefixes[rows] = (
                prompt.fed.trunk,
                prefix,
            )  # not what the prompt was fed with: that is large
        return prefix

    def _step(self) -> torch.Tensor:
        """Feed each sequence's newest token; the logits after it, [sequences, vocabulary]."""
        step = _Step(self.active, self.cache, self.forward.model.device)
        hidden = self.forward.hidden(step)
        for sequence in self.active:
            sequence.length += 1
        return self.forward.head(hidden)

    def _accept(self, logits: torch.Tensor, slots: list[int]) -> Iterator[tuple[GenerateRequest, Generation]]:
        """Choose the next token of the sequences in ``slots``; hand out and remove those that end with it."""
        best = logits.argmax(-1)
        finite = torch.isfinite(
            logits.gather(1, best[:, None])[:, 0]
        ).tolist()  # a NaN is taken for the largest
        greedy = best.tolist()
        finished = []
        for row, slot in enumerate(slots):
            sequence = self.active[slot]
            if not finite[row]:
                raise RequestNotFinite(sequence.request)
            token = greedy[row]
            if sequence.generator is not None:
                token = pick(logits[row].float(), sequence.request.temperature, sequence.generator)
            sequence.tokens.append(token)
            generation = self.endings.ended(sequence.request, sequence.tokens)
            if generation is not None:
                finished.append(slot)
                yield sequence.request, generation
        for slot in reversed(finished):
            last = len(self.active) - 1
            if slot != last:
                self.active[slot] = self.active[last]
                self.cache.move(last, slot, self.active[slot].length)
            self.active.pop()


class _SlotCache:
    """Keys and values of each slot's own tokens: by layer [slots, kv heads, tokens, size], grown as needed."""

    def __init__(self) -> None:
        self.layers: dict[int, KeyValues] = {}

    def fill(self, slot: int, rows: torch.Tensor, kept: dict[int, KeyValues]) -> None:
        """Put a fed prompt into a slot, for which there is room."""
        for layer, new in kept.items():
            for store, x in zip(self.layers[layer], new, strict=True):
                store[slot, :, : len(rows)] = x[rows].transpose(0, 1)

    def append(self, layer: int, lengths: torch.Tensor, most: int, new: KeyValues) -> KeyValues:
        """Add one token a slot behind ``lengths``; all slots' keys and values, ``most`` tokens of each."""
        n = len(lengths)
        stored = self.reserve(layer, n, most, new)
        slots = torch.arange(n, device=lengths.device)
        for store, x in zip(stored, new, strict=True):
            store[slots, :, lengths] = x
        return stored[0][:n, :, :most], stored[1][:n, :, :most]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a slot onto another."""
        for stored in self.layers.values():
            for store in stored:
                store[target, :, :length] = store[source, :, :length]

    def reserve(self, layer: int, slots: int, tokens: int, like: KeyValues) -> KeyValues:
        """Room for at least so much; zeros where nothing was written (attention multiplies them by zero)."""
        stored = self.layers.get(layer)
        have = stored[0].shape[0::2] if stored else (0, 0)
        if stored is None or have[0] < slots or have[1] < tokens:
            size = [have[0] if have[0] >= slots else max(slots, 2 * have[0])]
            size.append(have[1] if have[1] >= tokens else max(tokens + 64, have[1] * 5 // 4))
            grown = tuple(x.new_zeros(size[0], x.shape[1], size[1], x.shape[2]) for x in like)
            for old, new in zip(stored or (), grown, strict=False):
                new[: have[0], :, : have[1]] = old
            self.layers[layer] = stored = (grown[0], grown[1])
        return stored


class _Step:
    """The newest token of each active sequence, one row (see attention.PackedBatch)."""

    def __init__(self, active: Sequence[_Sequence], cache: _SlotCache, device: torch.device) -> None:
        self.cache = cache
        self.tokens = torch.tensor([[sequence.tokens[-1] for sequence in active]], device=device)
        self.positions = torch.tensor([[sequence.position for sequence in active]], device=device)
        self.lengths = torch.tensor([sequence.length for sequence in active], device=device)
        self.starts = torch.tensor([sequence.prefix.length for sequence in active], device=device)
        lengths = [sequence.length + 1 for sequence in active]
        self.most = max(lengths)
        self.together, self.apart = split_by_length(lengths)
        groups: dict[_Prefix, list[int]] = {}
        for slot, sequence in enumerate(active):
            if sequence.prefix.length:
                groups.setdefault(sequence.prefix, []).append(slot)
        self.groups = [(prefix, torch.tensor(slots, device=device)) for prefix, slots in groups.items()]
        self._biases: dict[tuple[int | None, int], torch.Tensor] = {}

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        """Each sequence attends to its prefix (together with the others that have it) and to its own tokens."""
        keys, values = self.cache.append(layer, self.lengths, self.most, (k, v))
        n, n_heads, size = q.shape
        n_kv = k.shape[1]
        grouped = q.view(n, n_kv, n_heads // n_kv, size)
        bias = self._bias(kind.window, -1)[:, None, None]
        to = self.together
        out, norm = _attend_partly(grouped, keys[:, :, :to], values[:, :, :to], bias[..., :to], kind)
        for slot, to in self.apart:
            one = slice(slot, slot + 1)
            out[one], norm[one] = _attend_partly(
                grouped[one], keys[one, :, :to], values[one, :, :to], bias[one, ..., :to], kind
            )
        for i, (prefix, slots) in enumerate(self.groups):
            bias = self._bias(kind.window, i)
            queries = grouped[slots].transpose(0, 1).reshape(n_kv, -1, size)
            bias = bias.repeat_interleave(n_heads // n_kv, 0)
            part, part_norm = _attend_partly(queries, *prefix.layers[layer], bias, kind)
            part, part_norm = (
                x.view(n_kv, len(slots), -1, x.shape[-1]).transpose(0, 1) for x in (part, part_norm)
            )
            total = torch.logaddexp(norm[slots], part_norm)
            out[slots] = out[slots] * torch.exp(norm[slots] - total) + part * torch.exp(part_norm - total)
        return out.reshape(n, n_heads, -1).to(q.dtype)

    def _bias(self, window: int | None, group: int) -> torch.Tensor:
        """What to add to scores, [sequences, keys]: own tokens (group -1), or those of a group's prefix."""
        if (window, group) not in self._biases:
            at = torch.arange(
                self.most if group < 0 else self.groups[group][0].length, device=self.lengths.device
            )
            position = self.positions[0, :, None]
            if group < 0:
                at = at + self.starts[:, None]
            else:
                position = position[self.groups[group][1]]
            visible = at <= position
            if window is not None:
                visible &= position - at < window
            bias = torch.zeros(visible.shape, dtype=torch.float32, device=visible.device)
            self._biases[window, group] = bias.masked_fill_(~visible, float("-inf"))
        return self._biases[window, group]


def split_by_length(lengths: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """How many tokens to attend to in all slots together, and (slot, tokens) of those longer, to be done apart.

    Together, all are read to the length of the longest; a few long sequences would make short ones pay.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    costs, above = [], 0
    for slot in order:  # costs[k]: the k longest apart
        costs.append(above + len(lengths) * lengths[slot])
        above += lengths[slot] + COST_APART
    k = costs.index(min(costs))
    return lengths[order[k]], [(slot, lengths[slot]) for slot in order[:k]]


def _attend_partly(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor, kind: AttentionKind
) -> KeyValues:
    """Attention over some of the keys: output [..., queries, size] and log of the softmax's sum [..., queries, 1].

    Parts are joined by weighting each with its sum. float32 throughout; where no key is visible the sum is zero.
    """
    if (q.device.type, q.dtype, kind.window, kind.softcap) == ("cpu", torch.float32, None, None):
        # with neither window nor cap each query sees a key, as this needs
        out, norm = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(x.view(-1, *x.shape[-3:]) for x in (q, k, v)), attn_mask=bias, scale=kind.scaling
        )
        return out.view(q.shape), norm.view(*q.shape[:-1], 1)
    scores = torch.matmul(q, k.transpose(-1, -2)).float() * kind.scaling
    if kind.softcap is not None:
        scores = torch.tanh(scores / kind.softcap) * kind.softcap
    scores = scores + bias
    top = scores.amax(-1, keepdim=True).clamp_min(-1e30)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    out = torch.matmul(weights.to(v.dtype), v).float() / total.clamp_min(1e-30)
    return out, top + torch.log(total)
