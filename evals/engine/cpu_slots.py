"""KV slots for a CPU: a step is as small as its sequences need, and a shared prefix is kept once for all of them.

A CPU is bound by the memory it reads. So sequences stand in the first slots without gaps, slots are read only as far as
they are filled, and a shared prefix is attended to by all that have it in one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evals.core.requests import GenerateRequest
from evals.engine.attention import AttentionKind, KeyValues, KVCache, attend_to_part, bias_of, join
from evals.engine.device import on_device
from evals.engine.forward import TreeForward
from evals.engine.kv_slots import ActiveSequence, Fits, KVSlots, Prefilled, longest_of
from evals.engine.sampling import sample, temperatures_of

COST_APART = 200  # what attending to one sequence on its own costs besides reading it, in tokens read


@dataclass(frozen=True, slots=True, eq=False)
class _Prefix:
    """A shared prefix: keys and values [kv heads, tokens, size]."""

    length: int
    cache: KVCache


class CpuSlots:
    """See kv_slots.KVSlots. Slot i holds what ``sequences[i]`` has after ``prefixes[i]``: ``lengths[i]`` tokens."""

    lag, admit_share = 0, 1 / 8

    def __init__(self, forward: TreeForward, n: int, capacity: int) -> None:
        self.forward, self.n, self.capacity = forward, n, capacity
        self.sequences: list[ActiveSequence] = []
        self.lengths: list[int] = []
        self.prefixes: list[_Prefix] = []
        self.cache: KVCache = {}  # [slots, kv heads, tokens, size], grown as needed
        self._copied: dict[bytes, tuple[KVCache, _Prefix]] = {}

    @staticmethod
    def size(requests: Sequence[GenerateRequest], fits: Fits, old: KVSlots | None) -> tuple[int, int]:
        """See KVSlots."""
        longest = longest_of(requests)
        return fits(longest, 0), longest

    def admit(self, sequences: Sequence[ActiveSequence], prompts: Sequence[Prefilled], first: Tensor) -> None:
        """See KVSlots."""
        longest, own = max(len(prompt.rows) for prompt in prompts), prompts[0].cache.own
        for layer, new in own.items():
            self._reserve(layer, len(self.sequences) + len(prompts), longest + 1, new)
        for sequence, prompt in zip(sequences, prompts, strict=True):
            slot, rows = len(self.sequences), on_device(prompt.rows, first.device)
            for layer, new in own.items():
                for stored, x in zip(self.cache[layer], new, strict=True):
                    stored[slot, :, : len(rows)] = x[rows].transpose(0, 1)
            self.sequences.append(sequence)
            self.lengths.append(len(rows))
            self.prefixes.append(self._prefix(prompt))

    def step(self, draws: Tensor | None) -> Tensor:
        """See KVSlots."""
        hidden = self.forward.hidden(_Step(self))
        self.lengths = [length + 1 for length in self.lengths]
        logits = self.forward.head(hidden)
        if draws is None:
            return sample(logits, None, None)
        return sample(logits, temperatures_of((s.request for s in self.sequences), logits.device), draws)

    def release(self) -> None:
        """See KVSlots. The last sequence moves into the gap; memory that none needs is given back."""
        for slot in reversed(range(len(self.sequences))):
            if not self.sequences[slot].finished:
                continue
            last, length = len(self.sequences) - 1, self.lengths[-1]
            if slot != last:
                for stored in (x for pair in self.cache.values() for x in pair):
                    stored[slot, :, :length] = stored[last, :, :length]
            self.sequences[slot], self.lengths[slot] = self.sequences[last], length
            self.prefixes[slot] = self.prefixes[last]
            for held in (self.sequences, self.lengths, self.prefixes):
                held.pop()
        if not self.sequences:
            self.cache.clear()
            self._copied.clear()

    def append(self, layer: int, lengths: Tensor, most: int, new: KeyValues) -> KeyValues:
        """Add a token to each slot, behind its ``lengths``; keys and values of all slots, ``most`` tokens of each."""
        n = len(lengths)
        stored = self._reserve(layer, n, most, new)
        slots = torch.arange(n, device=lengths.device)
        for store, x in zip(stored, new, strict=True):
            store[slots, :, lengths] = x
        return stored[0][:n, :, :most], stored[1][:n, :, :most]

    def _prefix(self, prompt: Prefilled) -> _Prefix:
        """The prompt's shared prefix, copied once for all that have it."""
        rows, key = prompt.prefix_rows, prompt.prefix_rows.tobytes()
        source = prompt.cache.prefix
        copied_from, prefix = self._copied.get(key, (None, None))
        if prefix is None or copied_from is not source:
            wanted = torch.as_tensor(rows)
            cache = {
                layer: (k[wanted].transpose(0, 1).contiguous(), v[wanted].transpose(0, 1).contiguous())
                for layer, (k, v) in (source.items() if len(rows) else ())
            }
            prefix = _Prefix(len(rows), cache)
            # Prefixes of an earlier plan are forgotten. Only the plan's own cache is remembered, not the prompt's: that
            # holds a whole pass, and keeping it for each prefix once took 15 GB.
            self._copied = {one: kept for one, kept in self._copied.items() if kept[0] is source}
            self._copied[key] = source, prefix
        return prefix

    def _reserve(self, layer: int, slots: int, tokens: int, like: KeyValues) -> KeyValues:
        """Memory for at least so much. Zeros where nothing was written: attention multiplies what it hides by zero."""
        stored = self.cache.get(layer)
        have = stored[0].shape[0::2] if stored else (0, 0)
        if stored is None or have[0] < slots or have[1] < tokens:
            # more than asked for, as growing copies everything
            size = [have[0] if have[0] >= slots else max(slots, 2 * have[0])]
            size.append(have[1] if have[1] >= tokens else max(tokens + 64, have[1] * 5 // 4))
            grown = tuple(x.new_zeros(size[0], x.shape[1], size[1], x.shape[2]) for x in like)
            for old, new in zip(stored or (), grown, strict=False):
                new[: have[0], :, : have[1]] = old
            self.cache[layer] = stored = (grown[0], grown[1])
        return stored


class _Step:
    """The newest token of each sequence, one row (see attention.PackedBatch)."""

    def __init__(self, slots: CpuSlots) -> None:
        self.slots, device = slots, slots.forward.model.device
        starts = [prefix.length for prefix in slots.prefixes]
        positions = [start + length for start, length in zip(starts, slots.lengths, strict=True)]
        self.tokens = torch.tensor([[sequence.tokens[-1] for sequence in slots.sequences]], device=device)
        self.positions = torch.tensor([positions], device=device)
        # Everything that is the same for all layers is made here, once a step.
        self.lengths = torch.tensor(slots.lengths, device=device)
        self.starts = torch.tensor(starts, device=device)
        lengths = [length + 1 for length in slots.lengths]
        self.most = max(lengths)
        self.together, self.apart = split_by_length(lengths)
        groups: dict[_Prefix, list[int]] = {}
        for slot, prefix in enumerate(slots.prefixes):
            if prefix.length:
                groups.setdefault(prefix, []).append(slot)
        self.groups = [(prefix, torch.tensor(members, device=device)) for prefix, members in groups.items()]
        self._biases: dict[tuple[int | None, int], Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kind: AttentionKind) -> Tensor:
        """Each sequence attends to its own tokens, then to its prefix, with all others that have it."""
        keys, values = self.slots.append(layer, self.lengths, self.most, (k, v))
        n, n_heads, size = q.shape
        n_kv = k.shape[1]
        grouped = q.view(n, n_kv, n_heads // n_kv, size)
        bias = self._bias(kind.window, -1)[:, None, None]
        to = self.together
        out, norm = attend_to_part(grouped, keys[:, :, :to], values[:, :, :to], bias[..., :to], kind)
        for slot, to in self.apart:
            one = slice(slot, slot + 1)
            out[one], norm[one] = attend_to_part(
                grouped[one], keys[one, :, :to], values[one, :, :to], bias[one, ..., :to], kind
            )
        for i, (prefix, members) in enumerate(self.groups):
            queries = grouped[members].transpose(0, 1).reshape(n_kv, -1, size)
            bias = self._bias(kind.window, i).repeat_interleave(n_heads // n_kv, 0)
            part = attend_to_part(queries, *prefix.cache[layer], bias, kind)
            to_prefix, prefix_norm = (
                x.view(n_kv, len(members), -1, x.shape[-1]).transpose(0, 1) for x in part
            )
            out[members] = join((out[members], norm[members]), (to_prefix, prefix_norm))
        return out.reshape(n, n_heads, -1).to(q.dtype)

    def _bias(self, window: int | None, group: int) -> Tensor:
        """What to add to scores, [sequences, keys]: own tokens (group -1), or those of a group's prefix."""
        if (window, group) not in self._biases:
            length = self.most if group < 0 else self.groups[group][0].length
            at = torch.arange(length, device=self.lengths.device)
            position = self.positions[0, :, None]
            if group < 0:
                at = at + self.starts[:, None]
            else:
                position = position[self.groups[group][1]]
            visible = at <= position
            if window is not None:
                visible &= position - at < window
            self._biases[window, group] = bias_of(visible)
        return self._biases[window, group]


def split_by_length(lengths: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """How many tokens to attend to in all slots in one product, and (slot, tokens) of the longer ones, one by one.

    One product reads each slot as far as the longest of them reaches: few long sequences make all the others slow.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    costs, above = [], 0
    for slot in order:  # costs[k]: tokens read when the k longest are done one by one
        costs.append(above + len(lengths) * lengths[slot])
        above += lengths[slot] + COST_APART
    k = costs.index(min(costs))
    return lengths[order[k]], [(slot, lengths[slot]) for slot in order[:k]]
