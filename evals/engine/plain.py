"""The reference engine: one sequence at a time, nothing shared, nothing clever.

``--engine plain`` runs it; the fast engines (scoring.py, decoding.py) are tested against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from evals.core.requests import GenerateRequest, Generation, NotFinite, Score, ScoreRequest


class PlainScorer:
    """Scores each request with a forward pass of its own (Score.logprob in nats)."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.inference_mode()
    def run(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Score]]:
        """Yield (index, score), in the order of ``requests``."""
        for index, request in enumerate(requests):
            yield index, self._score(request)

    def _score(self, request: ScoreRequest) -> Score:
        n = request.n_continuation
        fed = torch.tensor([request.tokens[:-1]], device=self.model.device)
        logits = self.model(input_ids=fed, use_cache=False, logits_to_keep=n).logits[
            0, -n:
        ]  # [n, vocabulary]
        logprobs = torch.log_softmax(logits.float(), dim=-1)
        targets = torch.tensor(request.tokens[-n:], device=logits.device)
        return Score(logprobs.gather(1, targets[:, None]).double().sum().item())


class PlainDecoder:
    """Continues each prompt on its own, with the model's own key-value cache.

    Greedy output equals ``model.generate(do_sample=False)`` under a default GenerationConfig: penalties that
    a checkpoint's generation_config.json may ask for are not part of the protocol, and are not applied.
    """

    def __init__(self, model: Any, tokenizer: Any, eos_token_ids: Sequence[int]) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.eos = frozenset(eos_token_ids)

    @torch.inference_mode()
    def run(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Yield (index, generation), in the order of ``requests``. Raises NotFinite."""
        for index, request in enumerate(requests):
            yield index, self._generate(index, request)

    def _generate(self, index: int, request: GenerateRequest) -> Generation:
        generator = torch.Generator().manual_seed(request.seed)
        fed = torch.tensor([request.prompt], device=self.model.device)
        cache = None
        tokens: list[int] = []
        while len(tokens) < request.max_new_tokens:
            out = self.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            logits = out.logits[0, -1].float()
            if not torch.isfinite(logits.max()):  # the maximum of what holds a NaN is one
                raise NotFinite(index)
            token = pick(logits, request.temperature, generator)
            tokens.append(token)
            if token in self.eos:
                return Generation(decode(self.tokenizer, tokens[:-1]), tuple(tokens), "eos")
            if request.stops:
                text = decode(self.tokenizer, tokens)
                if (end := first_stop(text, request.stops)) is not None:
                    return Generation(text[:end], tuple(tokens), "stop")
            fed = torch.tensor([[token]], device=self.model.device)
        return Generation(decode(self.tokenizer, tokens), tuple(tokens), "length")


def pick(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    """The next token from float32 ``logits`` [vocabulary]: the first argmax, or a draw at ``temperature``.

    A draw takes one number of ``generator`` (on the CPU, so that every device draws alike) and inverts the
    distribution function in float64.
    """
    if temperature <= 0:
        return int(logits.argmax())
    cumulative = torch.softmax(logits.cpu() / temperature, dim=-1).double().cumsum(0)
    u = torch.rand((), generator=generator, dtype=torch.float64) * cumulative[-1]
    return min(int(torch.searchsorted(cumulative, u, right=True)), len(cumulative) - 1)


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of generated tokens: special tokens left out, spaces as they are."""
    return tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the earliest of ``stops`` begins in ``text``; None if none is in it."""
    found = [at for at in (text.find(stop) for stop in stops if stop) if at >= 0]
    return min(found) if found else None
