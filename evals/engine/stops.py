"""Stop criteria: an end token, a stop string (found without decoding everything at every token), the budget."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

from evals.core.requests import GenerateRequest, Generation
from evals.engine.plain import detokenize, first_stop

UNKNOWN = "�"


class StopCriteria:
    """Tells after each token whether a request's generation is finished, and why."""

    def __init__(self, tokenizer: Any, eos_token_ids: Collection[int]) -> None:
        self.tokenizer, self.eos = tokenizer, eos_token_ids
        self._watcher = functools.cache(lambda stops: StopStrings(tokenizer, stops))

    def finished(self, request: GenerateRequest, tokens: Sequence[int]) -> Generation | None:
        """The generation, if the last of ``tokens`` finishes it. To be asked after every token."""
        if tokens[-1] in self.eos:
            return Generation(detokenize(self.tokenizer, tokens[:-1]), tuple(tokens), "eos")
        if request.stops:
            text = self._watcher(request.stops).find(tokens)
            if text is not None:
                return Generation(text, tuple(tokens), "stop")
        if len(tokens) >= request.max_new_tokens:
            return Generation(detokenize(self.tokenizer, tokens), tuple(tokens), "length")
        return None


class StopStrings:
    """Tells, token by token, when one of ``stops`` is in the decoded text.

    Answers as decoding all tokens each time would, for tokenizers that decode token by token (a token may hold a part
    of a character). Three questions, cheap ones first: can a stop end in this token at all (remembered by token id);
    is one in the text of the last few tokens; is it in the whole text, where special cases of decoding are settled.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.stops = tuple(stop for stop in stops if stop)
        self.longest = max((len(stop.encode()) for stop in self.stops), default=0)
        self._ends: dict[int, bool] = {}

    def find(self, tokens: Sequence[int]) -> str | None:
        """The text before the earliest stop, if the last of ``tokens`` brought one; asked after every token."""
        if not self.stops or not self._may_end(tokens[-1]):
            return None
        if len(tokens) > 4 * self.longest and first_stop(self._tail(tokens), self.stops) is None:
            return None
        text = detokenize(self.tokenizer, tokens)
        end = first_stop(text, self.stops)
        return None if end is None else text[:end]

    def _may_end(self, token: int) -> bool:
        """Whether a stop could end within this token: it holds one, or begins with the rest of one."""
        if token not in self._ends:
            text = detokenize(self.tokenizer, [token])
            # Alone, a token may lose the space before it, and a part of a character could belong to any.
            self._ends[token] = (not text and bool(token)) or any(
                UNKNOWN in text or stop in variant or _overlaps(stop, variant)
                for stop in self.stops
                for variant in (text, f" {text}")
            )
        return self._ends[token]

    def _tail(self, tokens: Sequence[int]) -> str:
        """The text of the last tokens, long enough for the longest stop to lie in it whole."""
        n = self.longest + 8
        while n < len(tokens):
            text = detokenize(self.tokenizer, tokens[-n:])
            if len(text) >= self.longest + len(detokenize(self.tokenizer, tokens[-1:])) + 8:
                return text
            n *= 2
        return detokenize(self.tokenizer, tokens)


def _overlaps(stop: str, text: str) -> bool:
    """Whether ``text`` begins with an end of ``stop``."""
    return any(text.startswith(stop[i:]) for i in range(len(stop)))
