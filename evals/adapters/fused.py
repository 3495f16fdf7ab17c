"""The layers of Llama and Qwen2 with their small steps fused, in place of the model's own for a while.

With kernels (kernels.py, on a GPU) each small step is one of them; without, the gate of a feed-forward layer is
computed in place, which touches less memory and changes no bit. Other architectures keep their own layers. Nothing
here is taken on trust: forward.py compares with the model's own forward pass before it uses any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from evals.adapters.attention import AttentionKind, PackedBatch

NORMS = {"LlamaRMSNorm", "Qwen2RMSNorm"}
GATED = {"LlamaMLP", "Qwen2MLP"}
ATTENTIONS = {"LlamaAttention", "Qwen2Attention"}


class FusedLayers:
    """A model's layers that have a faster equal. ``on_kernels`` needs Triton."""

    def __init__(self, model: torch.nn.Module, on_kernels: bool) -> None:
        self.kernels: Any = None
        if on_kernels:
            from evals.adapters import kernels

            self.kernels = kernels
        self._forwards: list[tuple[torch.nn.Module, Callable[..., Any]]] = []
        for module in model.modules():
            make = self._maker(module)
            if make is not None:
                self._forwards.append((module, make(module)))

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

    def _maker(self, module: torch.nn.Module) -> Callable[[Any], Callable[..., Any]] | None:
        kind = type(module).__name__
        if kind in GATED and type(module.act_fn).__name__ in ("SiLU", "SiLUActivation"):
            return self._gated if self.kernels else self._gated_in_place
        if self.kernels and kind in NORMS:
            return self._norm
        if self.kernels and kind in ATTENTIONS:
            return self._attention
        return None

    def _norm(self, module: Any) -> Callable[..., Any]:
        def forward(hidden_states: torch.Tensor) -> torch.Tensor:
            return self.kernels.rms_norm(hidden_states, module.weight, module.variance_epsilon)

        return forward

    def _gated(self, module: Any) -> Callable[..., Any]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            return module.down_proj(self.kernels.silu_gate(module.gate_proj(x), module.up_proj(x)))

        return forward

    def _gated_in_place(self, module: Any) -> Callable[..., Any]:
        def forward(x: torch.Tensor) -> torch.Tensor:
            gate = torch.nn.functional.silu(module.gate_proj(x), inplace=True)
            return module.down_proj(gate.mul_(module.up_proj(x)))

        return forward

    def _attention(self, module: Any) -> Callable[..., Any]:
        kind = AttentionKind(module.scaling, getattr(module, "sliding_window", None), None)

        def forward(
            hidden_states: torch.Tensor,
            position_embeddings: tuple[torch.Tensor, torch.Tensor],
            tree: PackedBatch,
            **_: Any,
        ) -> tuple[torch.Tensor, None]:
            x = hidden_states[0]
            cos, sin = (angle[0] for angle in position_embeddings)
            q, k, v = (
                project(x).view(len(x), -1, module.head_dim)
                for project in (module.q_proj, module.k_proj, module.v_proj)
            )
            q, k = self.kernels.rotate(q, cos, sin), self.kernels.rotate(k, cos, sin)
            attended = tree.attend(module.layer_idx, q, k, v, kind)
            return module.o_proj(attended.reshape(1, len(x), -1)), None

        return forward
