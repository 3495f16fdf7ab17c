"""Log-probabilities of a prompt's own tokens, from servers that echo them, and the proof that they are right.

The OpenAI completions interface has `echo` with `logprobs`; servers differ in what they make of it. Some ignore
it, some refuse it, some leave tokens out, and some (llama-cpp-python, for prompts that do not begin with the BOS
token) give each token the log-probability of the wrong position. Nothing is believed before a probe: the server
continues a prompt greedily and says how probable each of its own tokens was; asked for the same text with echo,
it must say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from evals.adapters.client import Client, EndpointError, Reply, RequestRefused, reply_text
from evals.core.errors import RowUnavailable
from evals.prompting.text import encode

PROBE_TOKENS = 8
PROBE_LEAST = 3  # tokens of the probe's continuation that must agree
PROBE_TOLERANCE = 0.1  # nats a token: servers batch differently, and some compute in 16 bits
UNLIKELY = 1e6  # nats: no log-probability of a token is as low; NaN and infinities are not below it either
ROUNDING = 1e-3  # nats: how far above 0 the log-probability of a sure token may come out
PROBE_ATTEMPTS = 2  # a refusal often comes as a status 500
PROBES = ("Count from 1 to 9.", "Say: one, two, three, four, five.", "Name the days of the week.")
PLAIN_PROBES = ("1, 2, 3, 4, 5, 6,", "a, b, c, d, e, f,", "Monday, Tuesday, Wednesday,")
_NO_TEXT = "\ufffd"  # part of a character: servers show such tokens in ways of their own


@dataclass(frozen=True)
class Echo:
    """One way to ask: the prompt as token ids, or as text that the server must encode to the same tokens."""

    client: Client
    tokenizer: Any
    as_ids: bool

    def body(self, tokens: Sequence[int]) -> Reply:
        """The request. One token is generated besides, since to some servers 0 means no limit.

        Raises ValueError for tokens that no text gives.
        """
        return self.client.completion(self._prompt(tokens), 1, echo=True, logprobs=1, temperature=0)

    def continuation(self, tokens: Sequence[int], n: int) -> Reply:
        """The request for n greedy tokens with their log-probabilities."""
        return self.client.completion(self._prompt(tokens), n, logprobs=1, temperature=0)

    def logprobs(self, tokens: Sequence[int], n: int, reply: Reply) -> list[float]:
        """Log-probabilities of the last n of `tokens`, in nats. Raises ValueError, saying why, if they lack."""
        told, values = _listed(reply)
        usage = reply.get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        if isinstance(count, int) and count != len(tokens):
            raise ValueError(f"it reads {count} tokens where --tokenizer gives {len(tokens)}")
        end = self._end(tokens, told)
        # the last n in the list are the last n asked for only if none of them was left out
        chosen = values[end - n : end] if end >= n else []
        if len(chosen) < n or not self._matches(tokens[-n:], told[end - n : end]):
            raise ValueError("its list leaves out some of the tokens")
        return _numbers(chosen)

    def _prompt(self, tokens: Sequence[int]) -> str | list[int]:
        if self.as_ids:
            return list(tokens)
        text = decode(self.tokenizer, tokens)
        if encode(self.tokenizer, [text])[0] != list(tokens):
            raise ValueError("a prompt cut to the window is no text that encodes to its tokens")
        return text

    def _end(self, tokens: Sequence[int], told: Sequence[str]) -> int:
        """Where the prompt's tokens end in the list: generated ones may follow, and BOS tokens may be left out."""
        bos = self.tokenizer.bos_token_id
        for left_out in (set(), {bos}):
            kept = [token for token in tokens if token not in left_out]
            for generated in (0, 1):
                end = len(told) - generated
                # a first token that nothing comes before may be missing too
                if end in (len(kept), len(kept) - 1) and self._matches(
                    kept[-end:] if end else [], told[:end]
                ):
                    return end
        raise ValueError("the tokens that it lists are not those of the prompt")

    def _matches(self, tokens: Sequence[int], told: Sequence[str]) -> bool:
        """Whether the listed texts can be those of the tokens: parts of characters may be shown in any way."""
        special = set(self.tokenizer.all_special_ids)  # listed as text by some servers, as nothing by others
        for token, text in zip(tokens, told, strict=True):
            mine = decode(self.tokenizer, [token])
            part = not text or text.startswith("bytes:") or _NO_TEXT in text + mine
            if token not in special and not part and mine != text:
                return False
        return True


def _listed(reply: Reply) -> tuple[list[str], list[Any]]:
    """(tokens as text, log-probabilities) of a reply. Raises ValueError if there are none."""
    listed = reply["choices"][0].get("logprobs")
    if not isinstance(listed, dict):
        raise ValueError("it gives no log-probabilities")
    told, values = listed.get("tokens"), listed.get("token_logprobs")
    if not isinstance(told, list) or not isinstance(values, list) or len(told) != len(values) or not told:
        raise ValueError("its list of log-probabilities is not of the completions interface")
    return [text if isinstance(text, str) else "" for text in told], values


def _numbers(values: Sequence[Any]) -> list[float]:
    """Log-probabilities in nats. Raises ValueError for what cannot be one."""
    if not all(type(value) in (int, float) and abs(value) < UNLIKELY for value in values):
        raise ValueError("it gives no number for some tokens")
    if any(value > ROUNDING for value in values):
        raise ValueError("it gives log-probabilities above 0")
    return [float(value) for value in values]


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The exact text of tokens, special ones too."""
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def find_echo(client: Client, tokenizer: Any, render: Callable[[str], str], chat: bool) -> Echo:
    """How this server gives prompt log-probabilities, proven by the probe.

    `render` makes a context of a query, plain or chat: alignment may depend on how prompts begin. Raises RowUnavailable
    with the reason when there is none, EndpointError when the server cannot be used at all.
    """
    reasons = []
    for as_ids in (True, False):
        echo = Echo(client, tokenizer, as_ids)
        try:
            _probe(echo, render, PROBES if chat else PLAIN_PROBES)
            return echo
        except EndpointError as error:
            if error.status in (401, 402, 403) or error.status is None:
                raise
            reasons.append(f"it answers {error.status}")
        except (RequestRefused, ValueError) as error:
            reasons.append(str(error))
    raise RowUnavailable(
        f"the server {client.base_url} gives no usable prompt log-probabilities "
        f"(asked with token ids: {reasons[0]}; with text: {reasons[1]})"
    )


def _probe(echo: Echo, render: Callable[[str], str], queries: Sequence[str]) -> None:
    """Raises ValueError, saying why, unless echoed log-probabilities equal those of a greedy continuation."""
    for query in queries:
        [prompt] = encode(echo.tokenizer, [render(query)])
        reply = echo.client.ask(echo.continuation(prompt, PROBE_TOKENS), attempts=PROBE_ATTEMPTS)
        _, expected = _listed(reply)
        [whole] = encode(echo.tokenizer, [decode(echo.tokenizer, prompt) + reply_text(reply)])
        n = len(whole) - len(prompt)
        if whole[: len(prompt)] != prompt or n < PROBE_LEAST or n > len(expected):
            continue  # the continuation does not encode to the tokens that were generated: another query
        echoed = echo.logprobs(whole, n, echo.client.ask(echo.body(whole), attempts=PROBE_ATTEMPTS))
        worst = max(abs(a - b) for a, b in zip(echoed, _numbers(expected[:n]), strict=True))
        if worst > PROBE_TOLERANCE:
            raise ValueError(
                f"its echoed log-probabilities are not those of the tokens (off by {worst:.1f} nats in a probe)"
            )
        return
    raise ValueError("no continuation of the probe's prompts could be checked")
