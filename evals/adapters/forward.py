"""A causal language model that takes packed batches, for any transformers model with standard attention."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from evals.adapters.attention import KeyValues, PackedBatch, UnsupportedModel, packed_attention
from evals.adapters.device import free_memory, has_triton, on_device
from evals.adapters.fused import FusedLayers
from evals.adapters.packed import TreeBatch
from evals.adapters.tree import Block, Feed, last_rows, plan

CACHE_SHARE = 0.6  # of the free memory, at most, for keys and values of sequences in progress
BUFFER_BYTES = 100 * 2**20  # of log-probabilities at a time, on a CPU
SLOW_ROWS = 3, 16  # so many rows (the latter excluded) take MKL longer than the latter, times a wide matrix

logger = logging.getLogger(__name__)


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
        self.example: dict[int, KeyValues] = {}  # keys and values of some tokens, by layer
        self._fused: FusedLayers | None = FusedLayers(model, use_kernels(model.device))
        try:
            self._try_out()
            return
        except UnsupportedModel as reason:
            logger.info("this model's layers are not fused: %s", reason)
            self._fused = None
        self._try_out()

    def hidden(self, batch: PackedBatch) -> torch.Tensor:
        """The last layer's normalised output, [tokens, hidden size]."""
        with packed_attention(self.config), self._fused.in_place() if self._fused else nullcontext():
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
            self.example = self.trunk(cut)
            hidden = self.hidden(TreeBatch([below], self.example, self.model.device))
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


def use_kernels(device: torch.device) -> bool:
    """Whether layers on Triton's kernels are worth a try."""
    return device.type == "cuda" and has_triton()


def sequences_that_fit(forward: TreeForward, tokens: int, most: int, reusable: int = 0) -> int:
    """How many sequences of ``tokens``, at least one and at most ``most``, have room for their keys and values.

    ``reusable``: tokens whose memory is taken already and can be used.
    """
    a_token = sum(x[0].numel() * x.element_size() for pair in forward.example.values() for x in pair)
    free = free_memory(forward.model.device) + reusable * a_token
    return max(1, min(most, int(CACHE_SHARE * free / (a_token * tokens))))


class OutputHead:
    """Hidden states [n, hidden size] to logits [n, vocabulary], or to those of a slice of the vocabulary."""

    def __init__(self, model: Any, config: Any) -> None:
        self.module = model.get_output_embeddings()
        self.cap = getattr(config, "final_logit_softcapping", None)
        if type(self.module) is not torch.nn.Linear:
            raise UnsupportedModel("its output head is not a plain linear layer")
        self._buffer = torch.empty(0)

    def __call__(self, hidden: torch.Tensor, piece: slice = slice(None)) -> torch.Tensor:
        """Logits of the vocabulary's ``piece``, in the model's dtype."""
        bias, n = self.module.bias, len(hidden)
        if hidden.device.type == "cpu" and SLOW_ROWS[0] <= n < SLOW_ROWS[1]:
            hidden = torch.cat([hidden, hidden.new_zeros(SLOW_ROWS[1] - n, hidden.shape[1])])
        logits = linear(hidden, self.module.weight[piece], None if bias is None else bias[piece])[:n]
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def logprobs(self, hidden: torch.Tensor, rows: list[int], targets: list[int]) -> torch.Tensor:
        """Log-probability of token ``targets[i]`` after ``hidden[rows[i]]``, float32 [len(rows)], in nats.

        Equal rows are projected once; logits exist only for some rows at a time. The whole row goes through
        torch.log_softmax, as in one-at-a-time scoring: its sums round alike, and a sum in pieces (more exact on the
        CPU, by some 1e-5 nats a token) would differ from it by more than everything before it does.
        """
        device = hidden.device
        used, where = torch.unique(torch.as_tensor(np.array(rows)), return_inverse=True)
        order = torch.argsort(where, stable=True)
        n_rows = 4096
        if device.type == "cpu":
            n_rows = max(64, BUFFER_BYTES // (4 * self.module.out_features))
        bounds = torch.searchsorted(where[order], torch.arange(0, len(used) + n_rows, n_rows)).tolist()
        used, where, wanted = (
            on_device(x, device) for x in (used, where[order], torch.as_tensor(np.array(targets))[order])
        )
        found = []
        for i, piece in enumerate(used.split(n_rows)):
            mine = slice(bounds[i], bounds[i + 1])
            logprobs = self._log_softmax(hidden[piece])
            found.append(logprobs[where[mine] - i * n_rows, wanted[mine]])
        return torch.empty(len(rows), device=device).index_copy_(
            0, on_device(order, device), torch.cat(found)
        )

    def _log_softmax(self, hidden: torch.Tensor) -> torch.Tensor:
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
