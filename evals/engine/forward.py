"""A causal language model that takes packed batches, for any transformers model with standard attention."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from evals.engine.attention import KVCache, PackedBatch, UnsupportedModel, packed_attention
from evals.engine.device import on_device, use_kernels
from evals.engine.fused import FusedLayers
from evals.engine.packed import TreeBatch
from evals.engine.tree import Blocks, Inputs, plan

BUFFER_BYTES = 100 * 2**20  # of log-probabilities at a time, on a CPU, in memory that is used again
# Layers compared below float32: in a whole deep model, rounding alone hides what the trial looks for.
TRIAL_LAYERS = 8
# From the first number of rows up to the second, MKL takes longer than at the second, for a matrix as wide as a head.
SLOW_ROWS = 3, 16

logger = logging.getLogger(__name__)


class TreeForward:
    """A causal language model that takes packed batches. ``example``: the KV cache of some tokens, for its shapes.

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
        # in a packed batch the input's length is that of all sequences together
        if any(kind.get("rope_type") in ("dynamic", "longrope") for kind in kinds):
            raise UnsupportedModel("its rotary embedding depends on the length of the whole input")
        self.head = OutputHead(model, self.config)
        self.example: KVCache = {}
        self._fused: FusedLayers | None = FusedLayers(model, use_kernels(model.device))
        try:
            self._try_out()
            return
        except UnsupportedModel as reason:
            logger.info("this model's layers are not fused: %s", reason)
            self._fused = None
        self._try_out()

    def hidden(self, batch: PackedBatch) -> Tensor:
        """The last layer's normalised output, [tokens, hidden size]."""
        with packed_attention(self.config), self._fused.in_place() if self._fused else nullcontext():
            out = self.model.get_decoder()(
                input_ids=batch.tokens, position_ids=batch.positions, use_cache=False, packed_batch=batch
            )
        return out.last_hidden_state[0]

    def prefill(self, blocks: Blocks) -> KVCache:
        """Run the tokens of blocks without a prefix through the model; their KV cache."""
        if not len(blocks.tokens):
            return {}
        batch = TreeBatch(blocks, {}, self.model.device, keep_cache=True)
        self.hidden(batch)
        return batch.cache

    @torch.inference_mode()
    def _try_out(self) -> None:
        """Compare a small forked tree with the model's own pass over each of its sequences.

        In float32 they must be equal but for rounding. Below it, rounding alone can change the logits of a deep model
        by a tenth: there the first layers are compared with the same in float32, from which this pass must not be much
        farther than the model's own.
        """
        if self.model.dtype == torch.float32:
            ours, own = self._both_ways()
            difference = _distance(ours, own)
            if not difference < 1e-3:
                raise UnsupportedModel(f"a trial gave other numbers (relative difference {difference:.1e})")
        else:
            with _shortened(self.model) as exact:
                ours, own = self._both_ways()
                reference = [_logits(exact, each) for each in _forked(self.config.vocab_size)]
            further = _distance(ours, reference) / max(_distance(own, reference), 1e-3)
            if not further < 3:
                raise UnsupportedModel(
                    f"a trial was {further:.1f} times as far from float32 as its own numbers are"
                )
        one = _forked(self.config.vocab_size)[:1]
        self.example = self.prefill(plan(Inputs.of(one), 1 << 20, 0).blocks)

    def _both_ways(self) -> tuple[list[Tensor], list[Tensor]]:
        """The logits of the trial's sequences: in a packed batch below a shared prefix; by the model's own pass."""
        forked = _forked(self.config.vocab_size)
        inputs = Inputs.of(forked)
        planned = plan(inputs, 1 << 20, 0)
        whole = planned.blocks
        n = 16  # of the 24 tokens in common, so that both the prefix and the block hold shared tokens
        one, rows = np.zeros(1, np.int64), np.arange(n)
        cut = Blocks(whole.tokens[:n], rows, rows * 0 + n, np.array([0, n]), [one[:0]], one)
        below = Blocks(
            whole.tokens[n:],
            whole.positions[n:],
            whole.ends[n:] - n,
            whole.starts - n * (whole.starts > 0),
            [rows],
            one,
        )
        try:
            hidden = self.hidden(TreeBatch(below, self.prefill(cut), self.model.device))
        except UnsupportedModel:
            raise
        # what code that was written for an ordinary batch trips over; any other error is a fault, and is shown
        except (TypeError, KeyError, AttributeError, NotImplementedError) as error:
            raise UnsupportedModel(f"its forward pass does not fit ({error})") from error
        at, bounds = planned.rows(*(x[planned.members] for x in (inputs.first_outputs, inputs.lengths)))
        found = {
            i: self.head(hidden[at[begin:end] - n]).float()
            for i, (begin, end) in zip(planned.members.tolist(), pairwise(bounds), strict=True)
        }
        return [found[i] for i in range(len(forked))], [_logits(self.model, each) for each in forked]


def _forked(size: int) -> list[tuple[list[int], int]]:
    """Two sequences with a common prefix, for the trial, of a vocabulary of ``size``; the first outputs to compare."""
    common, left, right = (
        [(start + 7919 * i) % size for i in range(n)] for start, n in ((13, 24), (5, 9), (77, 1))
    )
    return [(common + end, len(common) - 1) for end in (left, right)]


def _logits(model: Any, given: tuple[list[int], int]) -> Tensor:
    """The model's own logits where ``given`` asks for outputs, [positions, vocabulary]."""
    tokens, first_output = given
    logits = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0]
    return logits[first_output:].float()


def _distance(found: list[Tensor], wanted: list[Tensor]) -> float:
    """How far logits are apart, against their spread: a common shift of a position's logits means nothing."""
    spread = torch.cat([(x - x.mean(-1, keepdim=True)).ravel() for x in wanted])
    return float(
        torch.cat([(a - b).ravel() for a, b in zip(found, wanted, strict=True)]).norm() / spread.norm()
    )


@contextmanager
def _shortened(model: Any) -> Iterator[Any]:
    """A copy in float32 of the first layers, at least one of each kind; ``model`` has no others while this lasts."""
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    n = max([TRIAL_LAYERS, *(kinds.index(kind) + 1 for kind in kinds)])
    try:
        if layers is not None:
            decoder.layers = layers[:n]
        yield copy.deepcopy(model).float()
    finally:
        if layers is not None:
            decoder.layers = layers


class OutputHead:
    """Hidden states [n, hidden size] to logits [n, vocabulary], or to log-probabilities of some tokens."""

    def __init__(self, model: Any, config: Any) -> None:
        self.module = model.get_output_embeddings()
        self.cap = getattr(config, "final_logit_softcapping", None)
        if type(self.module) is not torch.nn.Linear:
            raise UnsupportedModel("its output head is not a plain linear layer")
        self._buffer = torch.empty(0)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits, in the model's dtype."""
        n = len(hidden)
        if hidden.device.type == "cpu" and SLOW_ROWS[0] <= n < SLOW_ROWS[1]:
            hidden = torch.cat([hidden, hidden.new_zeros(SLOW_ROWS[1] - n, hidden.shape[1])])
        logits = linear(hidden, self.module.weight, self.module.bias)[:n]
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def logprobs(self, hidden: Tensor, rows: np.ndarray, targets: np.ndarray) -> tuple[Tensor, Tensor]:
        """Log-probability of token ``targets[i]`` after ``hidden[rows[i]]``, float32 [len(rows)], in nats; and whether
        no other token is likelier there, bool [len(rows)].

        Equal rows are projected once; logits exist only for some rows at a time. The whole row goes through
        torch.log_softmax, as in one-at-a-time scoring: its sums round alike, and a sum in pieces (more exact on the
        CPU, by some 1e-5 nats a token) would differ from it by more than everything before it does.
        """
        device = hidden.device
        # on the host: the shapes of what follows depend on it, and a GPU would have to be waited for
        used, where = torch.unique(torch.as_tensor(rows), return_inverse=True)
        order = torch.argsort(where, stable=True)
        n_rows = 4096
        if device.type == "cpu":
            n_rows = max(64, BUFFER_BYTES // (4 * self.module.out_features))
        bounds = torch.searchsorted(where[order], torch.arange(0, len(used) + n_rows, n_rows)).tolist()
        used, where, wanted = (
            on_device(x, device) for x in (used, where[order], torch.as_tensor(targets)[order])
        )
        found = []
        for i, piece in enumerate(used.split(n_rows)):
            mine = slice(bounds[i], bounds[i + 1])
            found.append(self._logprobs_at(hidden[piece], where[mine] - i * n_rows, wanted[mine]))
        back = on_device(torch.argsort(order), device)
        logprobs, likeliest = (torch.cat(pieces)[back] for pieces in zip(*found, strict=True))
        return logprobs, likeliest

    def _logprobs_at(self, hidden: Tensor, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """See logprobs."""
        if not use_kernels(hidden.device):
            table = self._log_softmax(hidden)
            found = table[rows, targets]
            return found, found == table.amax(-1)[rows]
        from evals.engine.kernels import log_normalizer

        logits = self(hidden)
        tops, totals = log_normalizer(logits)
        found = logits[rows, targets].float()
        return found - tops[rows] - totals[rows], found == tops[rows]

    def _log_softmax(self, hidden: Tensor) -> Tensor:
        """Log-probabilities [n, vocabulary], float32; on a CPU valid until the next call, which uses their memory."""
        if (hidden.device.type, hidden.dtype, self.cap) != ("cpu", torch.float32, None):
            return torch.log_softmax(self(hidden).float(), -1)
        n, size = len(hidden), self.module.out_features
        if self._buffer.numel() < n * size:
            self._buffer = torch.empty(n * size)
        logits = self._buffer[: n * size].view(n, size)
        torch.mm(hidden, self.module.weight.t(), out=logits)
        if self.module.bias is not None:
            logits.add_(self.module.bias)
        return torch.log_softmax(logits, -1, out=logits)
