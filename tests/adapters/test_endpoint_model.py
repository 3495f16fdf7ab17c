"""The endpoint adapter against a real HTTP server whose model is a table: what is sent, read and believed."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from lighteval.tasks.requests import Doc
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evals.adapters import client as client_module
from evals.adapters.client import Client, EndpointError
from evals.adapters.server import EndpointModel
from evals.adapters.texts import generation_of
from evals.core.errors import RowUnavailable
from evals.core.requests import Generation, Score, ScoreRequest, TextRequest
from tests.support.fault_server import Act, FaultServer, Seen, chat_reply, plain_reply

TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_WAIT_S", 0.01)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and two special ones."""
    vocabulary = {"<s>": 0, "</s>": 1} | {chr(code): code - 8 for code in range(10, 127)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    made.chat_template = TEMPLATE
    return made


def logprob(before: int, token: int) -> float:
    """The table: the next character in ASCII is likely, the rest is not."""
    return -0.1 if token == before + 1 else -3.0 - (token % 7) / 10


class Table:
    """A completions server over the table. `shift`: gives each token the value of the wrong position."""

    def __init__(
        self, tokenizer: Any, shift: int = 0, ids: bool = True, drop_bos: bool = False, bos: bool = False
    ) -> None:
        self.tokenizer, self.shift, self.ids, self.drop_bos, self.bos = tokenizer, shift, ids, drop_bos, bos
        self.window = 10_000

    def __call__(self, seen: Seen) -> Act:
        assert seen.path == "/v1/completions"
        prompt = seen.body["prompt"]
        if isinstance(prompt, list) and not self.ids:
            return Act(status=500, body={"error": {"message": "prompt must be a string"}})
        tokens = (
            prompt
            if isinstance(prompt, list)
            else self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        )
        tokens = [0] * self.bos + list(tokens)
        if len(tokens) > self.window:
            return Act(status=400, body={"error": {"message": f"more than {self.window} tokens"}})
        new = [tokens[-1] + 1 + n for n in range(seen.body["max_tokens"])]
        whole = tokens + new
        values = [None] + [logprob(a, b) for a, b in pairwise(whole)]
        if self.shift and seen.body.get("echo"):
            values = [None] + [logprob(b, b) for b in whole[1:]]
        start = 0 if seen.body.get("echo") else len(tokens)
        kept = [k for k in range(start, len(whole)) if not (self.drop_bos and whole[k] == 0)]
        text = self.tokenizer.decode(whole[start:])
        logprobs = {
            "tokens": [self.tokenizer.decode([whole[k]]) for k in kept],
            "token_logprobs": [values[k] for k in kept],
        }
        usage = {"prompt_tokens": len(tokens), "completion_tokens": len(new)}
        return Act(
            body={
                "choices": [{"text": text, "logprobs": logprobs, "finish_reason": "length"}],
                "usage": usage,
            }
        )


def expected(request: ScoreRequest) -> float:
    pairs = list(pairwise(request.tokens))[-request.n_continuation :]
    return math.fsum(logprob(a, b) for a, b in pairs)


def choices(chat_like: bool = False) -> list[Doc]:
    return [
        Doc(query="abc", choices=["def", "xyz", "d"], gold_index=0),
        Doc(query="1", choices=["23"], gold_index=0),
    ]


def adapter(server: FaultServer, tokenizer: Any, chat: bool = False, **options: Any) -> EndpointModel:
    client = Client("table", server.url, timeout=5.0, attempts=3, parallel=2)
    return EndpointModel(client, chat, tokenizer, **options)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("drop_bos", [False, True])
def test_echoed_scores_are_those_of_the_continuation(
    tokenizer: PreTrainedTokenizerFast, chat: bool, ids: bool, drop_bos: bool
) -> None:
    with FaultServer(answer=Table(tokenizer, ids=ids, drop_bos=drop_bos)) as server:
        model = adapter(server, tokenizer, chat)
        flat = [one for group in model.score_requests(choices()) for one in group]
        results = dict(model.run(flat))
        assert {i: result.logprob for i, result in results.items()} == {  # type: ignore[union-attr]
            i: pytest.approx(expected(request)) for i, request in enumerate(flat)
        }
        asked = len(server.seen)
        list(model.run(flat))
        assert len(server.seen) == asked + len(flat), "the probe is made once"
        sent = {type(seen.body["prompt"]) for seen in server.seen[-len(flat) :]}
        assert sent == ({list} if ids else {str})


def test_lightevals_interface(tokenizer: PreTrainedTokenizerFast) -> None:
    with FaultServer(answer=Table(tokenizer)) as server:
        model = adapter(server, tokenizer)
        responses = model.loglikelihood(choices())
        assert [len(one.logprobs) for one in responses] == [3, 1]
        assert responses[0].logprobs[0] == pytest.approx(-0.3)
        docs = [Doc(query="abc", choices=[], gold_index=[], generation_size=3)]
        assert model.greedy_until(docs)[0].text == ["def"]


def test_what_is_known_is_not_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    with FaultServer(answer=Table(tokenizer)) as server:
        model = adapter(server, tokenizer)
        flat = [one for group in model.score_requests(choices()) for one in group]
        results = dict(model.run(flat, skip={0, 2}))
        assert sorted(results) == [1, 3]
        assert results[3] == Score(pytest.approx(expected(flat[3])))


@pytest.mark.parametrize(
    ("server_kind", "reason"),
    [
        ({"shift": 1}, "not those of the tokens"),
        ({"shift": 1, "ids": False}, "it answers 500"),
        ({"bos": True}, "tokens where --tokenizer gives"),
    ],
)
def test_servers_that_are_not_believed(
    tokenizer: PreTrainedTokenizerFast, server_kind: dict[str, Any], reason: str
) -> None:
    with FaultServer(answer=Table(tokenizer, **server_kind)) as server:
        model = adapter(server, tokenizer)
        flat = model.score_requests(choices())[0]
        with pytest.raises(RowUnavailable, match=reason) as caught:
            list(model.run(flat))
        assert "\n" not in str(caught.value)


def spoiled(table: Table, spoil: Callable[[dict[str, Any]], None]) -> Callable[[Seen], Act]:
    def answer(seen: Seen) -> Act:
        act = table(seen)
        if act.status == 200:
            spoil(act.body)
        return act

    return answer


LISTS = ("tokens", "token_logprobs")


def spoil_value(body: dict[str, Any], value: object) -> None:
    body["choices"][0]["logprobs"]["token_logprobs"][-2] = value


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda body: body["choices"][0].update(logprobs=None), "no log-probabilities"),
        (lambda body: body["choices"][0].update(logprobs={"content": []}), "completions interface"),
        (lambda body: body["choices"][0]["logprobs"]["tokens"].reverse(), "not those of the prompt"),
        (lambda body: body["choices"][0]["logprobs"]["token_logprobs"].__setitem__(-2, None), "no number"),
        (
            lambda body: body["choices"][0]["logprobs"]["token_logprobs"].__setitem__(-2, float("nan")),
            "no number",
        ),
        (lambda body: body["choices"][0]["logprobs"]["tokens"].pop(), "completions interface"),
        (lambda body: [body["choices"][0]["logprobs"][key].pop() for key in LISTS], "could be checked"),
        (lambda body: [body["choices"][0]["logprobs"][key].clear() for key in LISTS], "completions interface"),
        (lambda body: spoil_value(body, float("-inf")), "no number"),
        (lambda body: spoil_value(body, True), "no number"),
        (lambda body: spoil_value(body, 10**400), "no number"),
        (lambda body: spoil_value(body, "-0.1"), "no number"),
        (lambda body: spoil_value(body, 0.5), "above 0"),
    ],
    ids=[
        "none", "chat-style", "reversed", "null", "nan", "short", "fewer", "empty", "infinite", "boolean", "huge",
        "text", "positive",
    ],
)  # fmt: skip
def test_answers_that_are_not_scores(
    tokenizer: PreTrainedTokenizerFast, spoil: Callable[[dict[str, Any]], None], reason: str
) -> None:
    with FaultServer(answer=spoiled(Table(tokenizer), spoil)) as server:
        model = adapter(server, tokenizer)
        with pytest.raises(RowUnavailable, match=reason):
            list(model.run(model.score_requests(choices())[0]))


def test_another_requests_reply_is_not_a_score(tokenizer: PreTrainedTokenizerFast) -> None:
    """A proxy that mixes replies up, once the probe has passed: as many tokens, but not the ones asked for."""
    table = Table(tokenizer)
    with FaultServer(answer=table) as server:
        model = adapter(server, tokenizer)
        (requests,) = model.score_requests([Doc(query="abc", choices=["def", "xyz"], gold_index=0)])
        list(model.run(requests))
        mixed = [table(seen) for seen in server.seen[-2:]]
        server.script += [mixed[1], mixed[1]]
        with pytest.raises(RowUnavailable, match="not those of the prompt"):
            list(model.run(requests))


def test_a_count_of_tokens_that_cannot_be() -> None:
    reply = {"choices": [{"text": "x"}], "usage": {"completion_tokens": 10**12}}
    assert len(generation_of(TextRequest((("", "p"),), 9), reply).tokens) == 9


def test_a_server_without_completions(tokenizer: PreTrainedTokenizerFast) -> None:
    with FaultServer(answer=lambda seen: Act(status=404, body={})) as server:
        model = adapter(server, tokenizer)
        with pytest.raises(RowUnavailable, match="it answers 404"):
            list(model.run(model.score_requests(choices())[0]))
    with FaultServer(answer=lambda seen: Act(status=401, body={})) as server:
        model = adapter(server, tokenizer)
        with pytest.raises(EndpointError, match="401"):
            list(model.run(model.score_requests(choices())[0]))


def test_a_refused_request_makes_its_row_missing(tokenizer: PreTrainedTokenizerFast) -> None:
    table = Table(tokenizer)
    table.window = 60
    with FaultServer(answer=table) as server:
        model = adapter(server, tokenizer)
        docs = [Doc(query="q" * 80, choices=["a"], gold_index=0)]
        with pytest.raises(RowUnavailable, match="more than 60 tokens"):
            list(model.run(model.score_requests(docs)[0]))


def test_without_a_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    with FaultServer() as server:
        model = adapter(server, None, chat=True)
        with pytest.raises(RowUnavailable, match="--tokenizer"):
            model.score_requests(choices())
        with pytest.raises(RowUnavailable, match="--tokenizer"):
            model.generate_requests([Doc(query="a", choices=[], gold_index=[], generation_size=None)])
        doc = Doc(query="a", choices=[], gold_index=[], generation_size=5, stop_sequences=["Question:"])
        assert model.generate_requests([doc]) == [TextRequest((("user", "a"),), 5)]


def few_shot(n: int) -> Doc:
    shots = [Doc(query=f"q{k}", choices=[f" a{k}"], gold_index=0) for k in range(n)]
    return Doc(
        query="last", choices=[], gold_index=[], fewshot_samples=shots, generation_size=10, stop_sequences=["Q:"],
        specific={"temperature": 0.7, "seed": 5},
    )  # fmt: skip


def test_chat_sends_messages_and_plain_sends_text(tokenizer: PreTrainedTokenizerFast) -> None:
    def answer(seen: Seen) -> Act:
        return Act(body=chat_reply("x") if seen.path.endswith("chat/completions") else plain_reply("x"))

    with FaultServer(answer=answer) as server:
        for chat in (True, False):
            model = adapter(server, tokenizer, chat)
            list(model.run(model.generate_requests([few_shot(1)])))
        chatted, plain = (seen.body for seen in server.seen)
    assert chatted["messages"] == [
        {"role": "user", "content": "q0"},
        {"role": "assistant", "content": " a0"},
        {"role": "user", "content": "last"},
    ]
    assert "stop" not in chatted
    assert plain["prompt"] == "q0 a0\n\nlast"
    assert plain["stop"] == ["Q:"]
    for body in (chatted, plain):
        assert (body["max_tokens"], body["temperature"], body["seed"]) == (10, 0.7, 5)


def test_shots_are_dropped_as_in_the_default_adapter(tokenizer: PreTrainedTokenizerFast) -> None:
    with FaultServer() as server:
        chat = adapter(server, tokenizer, True, max_length=80)
        (request,) = chat.generate_requests([few_shot(4)])
        assert [content for _, content in request.messages] == ["q0", " a0", "last"]
        plain = adapter(server, tokenizer, False, max_length=40)
        (request,) = plain.generate_requests([few_shot(4)])
        assert request.messages == (("", "q0 a0\n\nq1 a1\n\nq2 a2\n\nlast"),)


@pytest.mark.parametrize(
    ("stops", "choice", "generation"),
    [
        ((), {"finish_reason": "stop"}, Generation("one Q: two", (0, 0), "eos")),
        ((), {"finish_reason": "length"}, Generation("one Q: two", (0, 0), "length")),
        (("Q:",), {"finish_reason": "length"}, Generation("one ", (0, 0), "stop")),
        (("Z:",), {"finish_reason": "stop"}, Generation("one Q: two", (0, 0), "stop")),
        (("Z:",), {"finish_reason": "stop", "stop_reason": None}, Generation("one Q: two", (0, 0), "eos")),
        (("Z:",), {"finish_reason": "stop", "stop_reason": "Z:"}, Generation("one Q: two", (0, 0), "stop")),
        (("Z:",), {"finish_reason": "stop", "matched_stop": 2}, Generation("one Q: two", (0, 0), "eos")),
    ],
)
def test_how_an_answer_ended(stops: tuple[str, ...], choice: dict[str, Any], generation: Generation) -> None:
    reply = {"choices": [{"text": "one Q: two", **choice}], "usage": {"completion_tokens": 2}}
    assert generation_of(TextRequest((("", "p"),), 9, stops), reply) == generation


@pytest.mark.parametrize("content", [None, 7, ["x"], {"a": 1}])
def test_an_answer_that_is_no_text_is_empty(content: object) -> None:
    reply = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}], "usage": "none"}
    assert generation_of(TextRequest((("user", "p"),), 9), reply) == Generation("", (), "eos")


def test_penalties_are_switched_off_where_a_server_knows_them(tokenizer: PreTrainedTokenizerFast) -> None:
    def strict(seen: Seen) -> Act:
        unknown = sorted({"repetition_penalty", "repeat_penalty"} & set(seen.body))
        if unknown:
            return Act(status=422, body={"detail": f"Unexpected fields in the request: {unknown}"})
        return Act(body=chat_reply("x"))

    docs = [Doc(query=f"a{n}", choices=[], gold_index=[], generation_size=5) for n in range(3)]
    notes: list[str] = []
    with FaultServer(answer=lambda seen: Act(body=chat_reply("x"))) as server:
        model = adapter(server, tokenizer, True, on_note=notes.append)
        assert len(model.greedy_until(docs)) == 3
        assert {seen.body["repeat_penalty"] for seen in server.seen} == {1.0}
        assert {seen.body["repetition_penalty"] for seen in server.seen} == {1.0}
    assert notes == []
    with FaultServer(answer=strict) as server:
        model = adapter(server, tokenizer, True, on_note=notes.append)
        assert len(model.greedy_until(docs)) == 3
        assert len(model.greedy_until(docs)) == 3
        assert len(server.seen) <= 6 + 2, "what a server refuses is not sent again"
    assert len(notes) == 1 and "repetition" in notes[0]
