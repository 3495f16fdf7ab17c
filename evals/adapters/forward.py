"""One forward pass over a packed batch of blocks (tree.py), for any transformers model with standard attention.

The packed tokens are one row for the model's own layers: no padding anywhere outside attention. Attention goes
through a function registered with transformers, which sees keyword arguments of the call: which tokens see which
is told by ``TreeBatch``. Keys and values of the trunk are kept here, not in a transformers cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from evals.adapters.tree import Block, Feed, last_rows, plan

ATTENTION = "smol_evals_tree"
KeyValues = tuple[torch.Tensor, torch.Tensor]  # each [rows, kv heads, head size]


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """How a layer attends: factor of the scores, sliding window (tokens), soft cap of the scores."""

    scaling: float
    window: int | None
    softcap: float | None


class PackedBatch(Protocol):
    """Tokens of many sequences in one row, and how they attend."""

    tokens: torch.Tensor  # [1, tokens]
    positions: torch.Tensor  # [1, tokens]

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        """Attention of one layer: [tokens, heads, size] (k, v: kv heads) to [tokens, heads, size]."""


class UnsupportedModel(Exception):
    """This model's attention cannot be shared this way; score it plainly."""


@dataclass(slots=True)
class Group:
    """Blocks of equal shape, attended to in one call.

    Queries are the batch's rows from ``start`` on. ``key_rows`` [blocks, keys]: rows of trunk + batch.
    ``visible`` [blocks, queries, keys]. ``positions``, ``key_positions``: [blocks, queries], [blocks, keys].
    """

    start: int
    key_rows: torch.Tensor
    visible: torch.Tensor
    positions: torch.Tensor
    key_positions: torch.Tensor
    bias: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """What to add to attention's scores, [blocks, 1, queries, keys]; made once for all layers alike."""
        if window not in self.bias:
            visible = self.visible
            if window is not None:
                visible = visible & (self.positions[:, :, None] - self.key_positions[:, None, :] < window)
            bias = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
            self.bias[window] = bias.masked_fill_(~visible, float("-inf"))[:, None]
        return self.bias[window]


class TreeBatch:
    """What attention needs to know of one packed batch, and the trunk's keys and values by layer.

    ``kept``: filled with this batch's keys and values by layer when ``keep`` is set.
    """

    def __init__(
        self, blocks: Sequence[Block], trunk: dict[int, KeyValues], device: torch.device, keep: bool = False
    ) -> None:
        self.trunk = trunk
        self.keep = keep
        self.kept: dict[int, KeyValues] = {}
        self.tokens = torch.tensor([[t for b in blocks for t in b.tokens]], device=device)
        self.positions = torch.tensor([[p for b in blocks for p in b.positions]], device=device)
        n_trunk = len(next(iter(trunk.values()))[0]) if trunk else 0
        self.groups = list(_groups(blocks, n_trunk, device))

    def attend(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, kind: AttentionKind
    ) -> torch.Tensor:
        """Each block attends to its stretch of the trunk and to itself."""
        if self.keep:
            self.kept[layer] = (k, v)
        if layer in self.trunk:
            k, v = (torch.cat([above, new]) for above, new in zip(self.trunk[layer], (k, v), strict=True))
        out = q.new_empty(*q.shape[:2], v.shape[2])
        for group in self.groups:
            n_blocks, n_queries, n_keys = group.visible.shape
            rows = slice(group.start, group.start + n_blocks * n_queries)
            flat = group.key_rows.view(-1)
            keys, values = (x.index_select(0, flat).view(n_blocks, n_keys, *x.shape[1:]) for x in (k, v))
            attended = _attend(
                q[rows].view(n_blocks, n_queries, *q.shape[1:]).transpose(1, 2),
                keys.transpose(1, 2),
                values.transpose(1, 2),
                group.mask(kind.window, q.dtype),
                kind,
            )
            out[rows] = attended.transpose(1, 2).reshape(-1, *out.shape[1:])
        return out


def _groups(blocks: Sequence[Block], n_trunk: int, device: torch.device) -> Iterator[Group]:
    """Runs of blocks of equal shape."""
    first, row = 0, 0
    while first < len(blocks):
        n_queries, n_keys = blocks[first].shape
        stop = first
        while stop < len(blocks) and blocks[stop].shape == blocks[first].shape:
            stop += 1
        same = blocks[first:stop]
        n_above = n_keys - n_queries
        own = (
            torch.arange(row, row + len(same) * n_queries, device=device).view(len(same), n_queries) + n_trunk
        )
        above = torch.tensor([b.trunk for b in same], device=device, dtype=torch.long).view(
            len(same), n_above
        )
        ends = torch.tensor([b.ends for b in same], device=device)
        at = torch.arange(n_queries, device=device)
        visible = (at[None, None, :] <= at[None, :, None]) & (at[None, :, None] < ends[:, None, :])
        seen = torch.ones(len(same), n_queries, n_above, dtype=torch.bool, device=device)
        positions = torch.tensor([b.positions for b in same], device=device)
        above_positions = torch.arange(n_above, device=device).expand(len(same), -1)
        yield Group(
            start=row,
            key_rows=torch.cat([above, own], 1),
            visible=torch.cat([seen, visible], 2),
            positions=positions,
            key_positions=torch.cat([above_positions, positions], 1),
        )
        row += len(same) * n_queries
        first = stop


def _shared_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    tree: PackedBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it: ``query`` [1, heads, tokens, size] to output [1, tokens, heads, size]."""
    _refuse_unknown(module, sliding_window, others)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    kind = AttentionKind(scaling or query.shape[-1] ** -0.5, sliding_window, softcap)
    return tree.attend(module.layer_idx, q, k, v, kind)[None], None  # type: ignore[arg-type]


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    kind: AttentionKind,
) -> torch.Tensor:
    """Scaled dot-product attention over [blocks, heads, tokens, size], with grouped heads and an optional soft cap."""
    if kind.softcap is None:
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=kind.scaling, enable_gqa=True
        )
    times = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
    scores = torch.matmul(query, key.transpose(2, 3)) * kind.scaling
    scores = torch.tanh(scores / kind.softcap) * kind.softcap + mask
    return torch.matmul(torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype), value)


# What transformers passes along that does not change what attention computes.
_HARMLESS = {"dropout", "position_ids", "use_cache", "is_causal", "output_attentions", "output_hidden_states"}


def _refuse_unknown(module: torch.nn.Module, sliding_window: int | None, others: dict[str, Any]) -> None:
    unknown = [name for name, value in others.items() if value is not None and name not in _HARMLESS]
    if unknown:
        raise UnsupportedModel(f"its attention takes {', '.join(sorted(unknown))}")
    kinds = getattr(getattr(module, "config", None), "layer_types", None)
    kind = kinds[module.layer_idx] if kinds else "full_attention"
    if kind not in ("full_attention", "sliding_attention"):
        raise UnsupportedModel(f"its attention is of the kind '{kind}'")
    if kind == "sliding_attention" and sliding_window is None:
        raise UnsupportedModel("its sliding window is not told to the attention function")


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _shared_attention)


class TreeForward:
    """A causal language model that takes packed batches of blocks.

    Raises UnsupportedModel where that cannot work, or where a trial shows that it would give other numbers than the
    model's own forward pass.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config.get_text_config()
        if not getattr(model, "_supports_attention_backend", False):
            raise UnsupportedModel("its attention cannot be replaced")
        rope = getattr(self.config, "rope_parameters", None) or {}
        kinds = [rope, *(v for v in rope.values() if isinstance(v, dict))]
        if any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds):
            raise UnsupportedModel("its rotary embedding depends on the length of the whole input")
        self.head = OutputHead(model, self.config)
        self._try_out()

    def hidden(self, batch: PackedBatch) -> torch.Tensor:
        """The last layer's normalised output, [tokens, hidden size]."""
        with _attention(self.config):
            out = self.model.get_decoder()(
                input_ids=batch.tokens, position_ids=batch.positions, use_cache=False, tree=batch
            )
        return out.last_hidden_state[0]

    def trunk(self, block: Block) -> dict[int, KeyValues]:
        """Feed a trunk; its keys and values by layer."""
        if not block.tokens:
            return {}
        batch = TreeBatch([block], {}, self.model.device, keep=True)
        self.hidden(batch)
        return batch.kept

    @torch.inference_mode()
    def _try_out(self) -> None:
        """Compare a small forked tree with the model's own pass over each of its sequences."""
        size = self.config.vocab_size
        common, left, right = (
            [(start + 7919 * i) % size for i in range(n)] for start, n in ((13, 24), (5, 9), (77, 1))
        )
        feeds = [Feed((*common, *end), len(common) - 1) for end in (left, right)]
        block = plan(feeds, 1 << 20, 0).blocks[0]
        cut = Block([], block.tokens[:16], block.positions[:16], [16] * 16)
        below = Block(
            list(range(16)), block.tokens[16:], block.positions[16:], [end - 16 for end in block.ends[16:]]
        )
        try:
            hidden = self.hidden(TreeBatch([below], self.trunk(cut), self.model.device))
        except UnsupportedModel:
            raise
        except (TypeError, KeyError, AttributeError, NotImplementedError) as error:
            raise UnsupportedModel(f"its forward pass does not fit ({error})") from error
        for i, path in block.paths:
            rows = [row - 16 for row in last_rows(path, len(feeds[i].tokens) - feeds[i].first_output)]
            ours = self.head(hidden[rows]).float()
            own = self.model(
                input_ids=torch.tensor([feeds[i].tokens], device=self.model.device), use_cache=False
            )
            own = own.logits[0, -len(rows) :].float()
            difference = (ours - own).norm() / (own - own.mean(-1, keepdim=True)).norm()
            if not difference < (1e-3 if hidden.dtype == torch.float32 else 0.1):
                raise UnsupportedModel(f"a trial gave other numbers (relative difference {difference:.1e})")


class OutputHead:
    """Hidden states [n, hidden size] to logits [n, vocabulary], or to those of a slice of the vocabulary."""

    def __init__(self, model: Any, config: Any) -> None:
        self.module = model.get_output_embeddings()
        self.cap = getattr(config, "final_logit_softcapping", None)
        if type(self.module) is not torch.nn.Linear:
            raise UnsupportedModel("its output head is not a plain linear layer")

    def __call__(self, hidden: torch.Tensor, piece: slice = slice(None)) -> torch.Tensor:
        """Logits of the vocabulary's ``piece``, in the model's dtype."""
        bias = self.module.bias
        logits = linear(hidden, self.module.weight[piece], None if bias is None else bias[piece])
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def logprobs(self, hidden: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Log-probability of token ``targets[i]`` after ``hidden[rows[i]]``, float32 [len(rows)], in nats.

        Equal rows are projected once; logits exist only for some rows at a time. The whole row goes through
        torch.log_softmax, as in one-at-a-time scoring: its sums round alike, and a sum in pieces (more exact on the
        CPU, by some 1e-5 nats a token) would differ from it by more than everything before it does.
        """
        used, where = torch.unique(rows, return_inverse=True)
        order = torch.argsort(where)
        n_rows = 128 if hidden.device.type == "cpu" else 4096
        bounds = torch.searchsorted(
            where[order], torch.arange(0, len(used) + n_rows, n_rows, device=rows.device)
        ).tolist()
        out = torch.empty(len(rows), device=hidden.device)
        for i, piece in enumerate(used.split(n_rows)):
            mine = order[bounds[i] : bounds[i + 1]]
            logprobs = torch.log_softmax(self(hidden[piece]).float(), -1)
            out[mine] = logprobs[where[mine] - i * n_rows, targets[mine]]
        return out


@contextmanager
def _attention(config: Any) -> Iterator[None]:
    """The tree's attention function for as long as this lasts."""
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator failed, on a GPU or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    return "DefaultCPUAllocator" in text or "allocate memory" in text or "out of memory" in text
