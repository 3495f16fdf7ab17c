"""The sampler: the next token of each sequence from its logits, by one rule on every device and in every engine."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from evals.core.requests import GenerateRequest
from evals.engine.device import on_device

NOT_FINITE = -1  # in place of a token, where the logits hold a NaN or an infinity


def sample(logits: Tensor, temperatures: Tensor | None, draws: Tensor | None) -> Tensor:
    """The next tokens [n] from ``logits`` [n, vocabulary]; ``NOT_FINITE`` where these are no numbers.

    Greedy, which is the first of the largest, where ``temperatures`` [n] (float32) is 0, and everywhere without it.
    Elsewhere ``draws`` [n] (float64, in [0, 1)) decide, by inverting the distribution function.
    """
    best = logits.argmax(-1)
    # argmax takes a NaN for the largest, so looking at the largest logit is enough
    finite = torch.isfinite(logits.gather(1, best[:, None])[:, 0])
    chosen = best
    if temperatures is not None and draws is not None:
        warm = temperatures > 0
        divisors = torch.where(warm, temperatures, 1.0)
        # float64: a sum over a whole vocabulary in float32 is off by more than a rare token's probability
        cumulative = torch.softmax(logits.float() / divisors[:, None], -1).double().cumsum(-1)
        drawn = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]
        chosen = torch.where(warm, drawn.clamp_max(logits.shape[1] - 1), best)
    return torch.where(finite, chosen, NOT_FINITE)


def generator_of(request: GenerateRequest) -> torch.Generator | None:
    """The request's own source of draws; None where it is greedy.

    On the CPU, whatever the device: a GPU's generator gives other numbers for the same seed.
    """
    return torch.Generator().manual_seed(request.seed) if request.temperature > 0 else None


def draw(generator: torch.Generator | None) -> float:
    """The number in [0, 1) that decides a token. One is taken for each token, so answers do not depend on the batch."""
    return 0.0 if generator is None else torch.rand((), generator=generator, dtype=torch.float64).item()


def temperatures_of(requests: Iterable[GenerateRequest], device: torch.device) -> Tensor:
    """The requests' temperatures as ``sample`` takes them."""
    return on_device([request.temperature for request in requests], device, torch.float32)
