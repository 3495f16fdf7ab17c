"""The plain engine: one sequence at a time by the model's own forward pass. The fast one is tested against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from evals.core.requests import GenerateRequest, Generation, NotFinite, Score, ScoreRequest
from evals.engine.sampling import NOT_FINITE, draw, generator_of, sample, temperatures_of


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
        inputs = torch.tensor([request.tokens[:-1]], device=self.model.device)
        logits = self.model(input_ids=inputs, use_cache=False, logits_to_keep=n).logits
        logprobs = torch.log_softmax(logits[0, -n:].float(), dim=-1)  # [n, vocabulary]
        targets = torch.tensor(request.tokens[-n:], device=logprobs.device)
        found = logprobs.gather(1, targets[:, None])
        greedy = bool((found[:, 0] == logprobs.amax(-1)).all())
        return Score(found.double().sum().item(), greedy)


class PlainDecoder:
    """Continues each prompt on its own, with transformers' KV cache.

    Greedy output equals ``model.generate(do_sample=False)`` under a default GenerationConfig: penalties that
    a checkpoint's generation_config.json may ask for are not part of the protocol, and are not applied.
    """

    def __init__(self, model: Any, tokenizer: Any, eos_token_ids: Sequence[int]) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.eos = frozenset(eos_token_ids)
        self.caches = True

    @torch.inference_mode()
    def run(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation]]:
        """Yield (index, generation), in the order of ``requests``. Raises NotFinite."""
        for index, request in enumerate(requests):
            yield index, self._generate(index, request)

    def _generate(self, index: int, request: GenerateRequest) -> Generation:
        generator, temperature = generator_of(request), temperatures_of([request], torch.device("cpu"))
        inputs = torch.tensor([request.prompt], device=self.model.device)
        cache = None
        tokens: list[int] = []
        while len(tokens) < request.max_new_tokens:
            out = self.model(input_ids=inputs, past_key_values=cache, use_cache=self.caches, logits_to_keep=1)
            cache = getattr(out, "past_key_values", None)
            if self.caches and cache is None:
                self.caches = False  # its state is of another kind: from here on, all tokens each time
                return self._generate(index, request)
            draws = torch.tensor([draw(generator)], dtype=torch.float64) if generator else None
            token = int(sample(out.logits[:, -1].cpu(), temperature, draws))  # alike on every device
            if token == NOT_FINITE:
                raise NotFinite(index)
            tokens.append(token)
            if token in self.eos:
                return Generation(detokenize(self.tokenizer, tokens[:-1]), tuple(tokens), "eos")
            if request.stops:
                text = detokenize(self.tokenizer, tokens)
                if (end := first_stop(text, request.stops)) is not None:
                    return Generation(text[:end], tuple(tokens), "stop")
            new = [token] if self.caches else [*request.prompt, *tokens]
            inputs = torch.tensor([new], device=self.model.device)
        return Generation(detokenize(self.tokenizer, tokens), tuple(tokens), "length")


def detokenize(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of generated tokens: special tokens left out, spaces as they are."""
    return tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the earliest of ``stops`` begins in ``text``; None if none is in it."""
    found = [at for at in (text.find(stop) for stop in stops if stop) if at >= 0]
    return min(found) if found else None
