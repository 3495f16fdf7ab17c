"""Faster equals of the layers of Llama and Qwen2, put in place of the model's own during a pass.

On a GPU a whole layer is ten kernels (kernels.py), matrix products included. On a CPU only the gate of a feed-forward
layer is computed in place, which touches less memory and changes no bit. Other architectures keep their own layers.
forward.py compares with the model's own pass before it uses any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from evals.engine.attention import AttentionKind, PackedBatch

NORMS = {"LlamaRMSNorm", "Qwen2RMSNorm"}
GATED = {"LlamaMLP", "Qwen2MLP"}
LAYERS = {"LlamaDecoderLayer", "Qwen2DecoderLayer"}


class FusedLayers:
    """A model's layers that have a faster equal. ``on_kernels`` needs Triton.

    On kernels, weights that multiply the same input are brought together in memory, as parts of one matrix.
    """

    def __init__(self, model: torch.nn.Module, on_kernels: bool) -> None:
        self.kernels: Any = None
        if on_kernels:
            from evals.engine import kernels

            self.kernels = kernels
        found = ((module, self._forward_of(module)) for module in model.modules())
        self._forwards = [(module, forward) for module, forward in found if forward is not None]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Use them for as long as this lasts."""
        for module, forward in self._forwards:
            module.forward = forward
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.forward  # the class's own is found again

    def _forward_of(self, module: Any) -> Callable[..., Any] | None:
        """What stands in for the module's own; None where there is nothing faster."""
        kind = type(module).__name__
        if not self.kernels:
            return self._gated_in_place(module) if kind in GATED and _is_silu(module) else None
        if kind in NORMS:
            return self._norm(module)
        if kind in LAYERS and _is_silu(module.mlp):
            mlp = module.mlp
            ends = (module.self_attn.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
            if all(end.bias is None for end in ends):
                return self._layer(module)
        return None

    def _norm(self, module: Any) -> Callable[..., Any]:
        def forward(hidden_states: Tensor) -> Tensor:
            return self.kernels.rms_norm(hidden_states, module.weight, module.variance_epsilon)

        return forward

    def _gated_in_place(self, module: Any) -> Callable[..., Any]:
        def forward(x: Tensor) -> Tensor:
            gate = torch.nn.functional.silu(module.gate_proj(x), inplace=True)
            return module.down_proj(gate.mul_(module.up_proj(x)))

        return forward

    def _layer(self, module: Any) -> Callable[..., Any]:
        attention, mlp, kernels = module.self_attn, module.mlp, self.kernels
        before, between = module.input_layernorm, module.post_attention_layernorm
        size = attention.head_dim
        to_qkv, bias = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        to_gate_and_up, _ = _joined(mlp.gate_proj, mlp.up_proj)
        n_kv = attention.k_proj.weight.shape[0] // size
        kind = AttentionKind(attention.scaling, getattr(attention, "sliding_window", None), None)

        def forward(
            hidden_states: Tensor,
            *,
            position_embeddings: tuple[Tensor, Tensor],
            packed_batch: PackedBatch,
            **_: Any,
        ) -> Tensor:
            x = hidden_states[0]  # changed in place, which is safe: nothing else holds a layer's input
            n = len(x)
            normed = kernels.rms_norm(x, before.weight, before.variance_epsilon)
            heads = linear(normed, to_qkv, bias).view(n, -1, size)
            cos, sin = (angle[0] for angle in position_embeddings)
            kernels.rotate_(heads[:, :-n_kv], cos, sin)
            q, k, v = heads[:, : -2 * n_kv], heads[:, -2 * n_kv : -n_kv], heads[:, -n_kv:]
            attended = packed_batch.attend(attention.layer_idx, q, k, v, kind)
            x.addmm_(attended.reshape(n, -1), attention.o_proj.weight.t())
            normed = kernels.rms_norm(x, between.weight, between.variance_epsilon)
            gated = kernels.silu_gate(linear(normed, to_gate_and_up))
            x.addmm_(gated, mlp.down_proj.weight.t())
            return hidden_states

        return forward


def _is_silu(mlp: Any) -> bool:
    return type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")


@torch.inference_mode(False)
def _joined(*modules: torch.nn.Linear) -> tuple[Tensor, Tensor | None]:
    """One weight (and bias) for several linear layers of the same input; each layer's own becomes a view of it.

    With a copy instead of a view, these weights would be in memory twice.
    """
    joined: list[Tensor | None] = []
    for name in ("weight", "bias"):
        parts = [getattr(module, name) for module in modules]
        if any(part is None for part in parts):
            joined.append(None)
            continue
        whole = torch.cat([part.data for part in parts])
        for part, own in zip(parts, whole.split([len(part) for part in parts]), strict=True):
            part.data = own
        joined.append(whole)
    assert joined[0] is not None
    return joined[0], joined[1]
