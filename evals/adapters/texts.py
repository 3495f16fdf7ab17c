"""Texts from a server: what is sent for a text request, and what its reply means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from evals.adapters.client import UNPENALISED, Client, Reply, reply_text
from evals.core.requests import Generation, RequestRefused, TextRequest


def text_body(client: Client, request: TextRequest) -> Reply:
    """The body that asks for a text. Greedy requests name no seed: it decides nothing there."""
    settings: dict[str, Any] = {"temperature": request.temperature, **UNPENALISED}
    if request.temperature:
        settings |= {"seed": request.seed, "top_p": 1.0}
    if request.stops:
        settings["stop"] = list(request.stops)
    if request.messages[0][0] == "":
        return client.completion(request.messages[0][1], request.max_new_tokens, **settings)
    messages = [{"role": role, "content": content} for role, content in request.messages]
    return client.chat(messages, request.max_new_tokens, **settings)


def generation_of(request: TextRequest, reply: Reply) -> Generation:
    """A reply as a generation, cut at the first stop string (some servers leave it in the text).

    Most servers do not tell an end-of-turn token from a stop string: with stop strings asked for, and the end
    not explained, the finish is "stop".
    """
    choice, text = reply["choices"][0], reply_text(reply)
    usage = reply.get("usage")
    counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
    # servers count wrong, or maliciously: there is one entry a token
    tokens = (0,) * min(max(0, counted), request.max_new_tokens) if isinstance(counted, int) else ()
    ends = [at for at in (text.find(stop) for stop in request.stops) if at >= 0]
    if ends:
        return Generation(text[: min(ends)], tokens, "stop")
    if choice.get("finish_reason") == "length":
        return Generation(text, tokens, "length")
    # vLLM and SGLang do tell: a string is the stop, anything else an end-of-turn token
    told = [choice[name] for name in ("stop_reason", "matched_stop") if name in choice]
    explained = "stop" if told and isinstance(told[0], str) else "eos"
    return Generation(text, tokens, explained if told or not request.stops else "stop")


def ask_texts(
    client: Client, requests: Sequence[TextRequest]
) -> Iterator[tuple[int, Generation | RequestRefused]]:
    """(index, generation or refusal) of each request as they come, in any order; raises EndpointError."""
    for index, reply in client.ask_all(text_body(client, request) for request in requests):
        yield index, reply if isinstance(reply, RequestRefused) else generation_of(requests[index], reply)
