"""A model behind an OpenAI-compatible server, as lighteval's `LightevalModel` with this project's prompts.

Generative rows go through chat completions (chat) or completions (plain). Likelihood rows go through completions with
echoed prompt log-probabilities, where a probe shows that the server gives the right ones (prompt_logprobs.py), and need
the model's tokenizer. A row that a server cannot do raises RowUnavailable with the reason; the others go on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

from lighteval.tasks.requests import Doc

from evals.adapters.base import Adapter
from evals.adapters.client import Client
from evals.adapters.prompt_logprobs import Echo, decode, find_echo
from evals.adapters.texts import ask_texts
from evals.core.errors import RowUnavailable
from evals.core.requests import (
    GenerateRequest,
    Request,
    RequestRefused,
    Result,
    Score,
    ScoreRequest,
    TextRequest,
)
from evals.prompting import text as prompts
from evals.prompting.requests import MAX_LENGTH

ENGINE_VERSION = "2"  # part of the store's keys: a change of what is sent or read needs another
log = logging.getLogger(__name__)


class EndpointModel(Adapter):
    """Asks a server. `tokenizer` (transformers) is needed for likelihood rows and for budgets to the window's end.

    `chat`: the server applies its chat template to messages. Plain: the text is sent as it is. The window is the
    protocol's, the server's own may be larger.
    """

    leaves_cpu = False  # requests for a server are made in no time, and tell the user what they lack

    def __init__(
        self,
        client: Client,
        chat: bool,
        tokenizer: Any = None,
        max_length: int = MAX_LENGTH,
        on_note: Callable[[str], None] = log.warning,
    ) -> None:
        super().__init__(client.model, chat, tokenizer, max_length)
        self.client = client
        self.at_a_time = client.parallel
        self.identity = f"endpoint {client.base_url} {client.model} {ENGINE_VERSION}"
        self._on_note = on_note
        self._penalties_told = False

    def _loaded_on(self) -> tuple[None, dict[str, Any]]:
        return None, {"device": "endpoint", "threads": None, "engine": f"endpoint {ENGINE_VERSION}"}

    def generate_requests(self, docs: Sequence[Doc]) -> list[TextRequest]:
        """One request a doc: messages, or a plain text; shots and budget as in the default adapter.

        Raises RowUnavailable for a budget to the window's end without a tokenizer.
        """
        counted = self.texts.generate_requests(docs) if self.texts is not None else [None] * len(docs)
        return [self._text_request(doc, tokens) for doc, tokens in zip(docs, counted, strict=True)]

    def compute(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """See Adapter. Raises RowUnavailable when the server refuses one, EndpointError when it gives nothing more."""
        if isinstance(requests[0], ScoreRequest):
            yield from self._score([one for one in requests if isinstance(one, ScoreRequest)])
        else:
            yield from self._generate([one for one in requests if isinstance(one, TextRequest)])

    def _text_request(self, doc: Doc, counted: GenerateRequest | None) -> TextRequest:
        specific = doc.specific or {}
        budget = doc.generation_size if counted is None else counted.max_new_tokens
        if budget is None:
            raise RowUnavailable(
                "this row generates to the window's end: an endpoint needs --tokenizer for it"
            )
        return TextRequest(
            messages=self._messages(doc, counted),
            max_new_tokens=budget,
            stops=() if self.chat else tuple(doc.stop_sequences or ()),
            temperature=float(specific.get("temperature", 0.0)),
            seed=int(specific.get("seed", 0)),
        )

    def _messages(self, doc: Doc, counted: GenerateRequest | None) -> tuple[tuple[str, str], ...]:
        longer = False
        if counted is not None:
            # the default adapter drops shots that do not fit: as many are dropped here
            while (longer := self._length(doc) > len(counted.prompt)) and doc.fewshot_samples:
                doc = prompts.with_a_shot_less(doc)
        if self.chat:
            return tuple((turn["role"], turn["content"]) for turn in prompts.messages(doc))
        text = decode(self.tokenizer, counted.prompt) if counted and longer else prompts.plain_text(doc)
        return (("", text),)

    def _length(self, doc: Doc) -> int:
        return len(prompts.encode(self.tokenizer, [prompts.render(doc, self.tokenizer, self.chat)])[0])

    def _generate(self, requests: Sequence[TextRequest]) -> Iterator[tuple[int, Result]]:
        for index, outcome in ask_texts(self.client, requests):
            if isinstance(outcome, RequestRefused):
                raise RowUnavailable(str(outcome))
            yield index, outcome
        if self.client.refused_fields and not self._penalties_told:
            self._penalties_told = True
            self._on_note(
                f"the server {self.client.base_url} takes no setting against repetition penalties: "
                "where its model's generation_config.json asks for one, greedy answers are not the protocol's"
            )

    def _score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, Result]]:
        try:
            for index, reply in self.client.ask_all(self._echo.body(one.tokens) for one in requests):
                if isinstance(reply, RequestRefused):
                    raise RowUnavailable(str(reply))
                one = requests[index]
                yield index, Score(math.fsum(self._echo.logprobs(one.tokens, one.n_continuation, reply)))
        except ValueError as error:
            raise RowUnavailable(f"the server {self.client.base_url}: {error}") from error

    @cached_property
    def _echo(self) -> Echo:
        """How the server gives prompt log-probabilities; found out once."""

        def render(query: str) -> str:
            return prompts.render(Doc(query=query, choices=[], gold_index=[]), self.tokenizer, self.chat)

        return find_echo(self.client, self.tokenizer, render, self.chat)
