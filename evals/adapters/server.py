"""A model behind an OpenAI-compatible server, as lighteval's `LightevalModel` with this project's prompts.

Generative rows go through chat completions (chat) or completions (plain). Likelihood rows go through completions with
echoed prompt log-probabilities, where a probe shows that the server gives the right ones (prompt_logprobs.py), and need
the model's tokenizer. A row that a server cannot do raises RowUnavailable with the reason; the others go on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from lighteval.models.abstract_model import LightevalModel, ModelConfig
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc

from evals.adapters.client import Client
from evals.adapters.local import score_responses
from evals.adapters.prompt_logprobs import Echo, decode, encode, find_echo
from evals.adapters.texts import ask_texts
from evals.core.errors import RowUnavailable
from evals.core.requests import (
    GenerateRequest,
    Generation,
    Request,
    RequestRefused,
    Result,
    Score,
    ScoreRequest,
    TextRequest,
)
from evals.models.loading import require_template
from evals.prompting import text as prompts
from evals.prompting.requests import MAX_LENGTH, TextToRequests

ENGINE_VERSION = "2"  # part of the store's keys: a change of what is sent or read needs another
log = logging.getLogger(__name__)


class EndpointModel(LightevalModel):
    """Asks a server. `tokenizer` (transformers) is needed for likelihood rows and for budgets to the window's end.

    `chat`: the server applies its chat template to messages; stop strings are not used. Plain: the text is sent as it
    is. The window is the protocol's, the server's own may be larger.
    """

    def __init__(
        self,
        client: Client,
        chat: bool,
        tokenizer: Any = None,
        max_length: int = MAX_LENGTH,
        on_note: Callable[[str], None] = log.warning,
    ) -> None:
        if chat and tokenizer is not None:
            require_template(tokenizer, "--tokenizer")
        self.client = client
        self.chat = chat
        self.config = ModelConfig(model_name=client.model)
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._texts = None if tokenizer is None else TextToRequests(tokenizer, chat, max_length)
        self._echo: Echo | None = None
        self._on_note = on_note
        self._penalties_told = False

    @property
    def tokenizer(self) -> Any:
        """The tokenizer given, or None."""
        return self._tokenizer

    @property
    def add_special_tokens(self) -> bool:
        """False: the protocol adds no BOS."""
        return False

    @property
    def max_length(self) -> int:
        """The protocol's window in tokens."""
        return self._max_length

    @property
    def at_a_time(self) -> int:
        """Requests under way together, at most."""
        return self.client.parallel

    @property
    def leaves_cpu(self) -> bool:
        """False: requests for a server are made in no time, and tell the user what they lack."""
        return False

    @property
    def identity(self) -> str:
        """What a stored result depends on besides its request, as far as a client can know."""
        return f"endpoint {self.client.base_url} {self.client.model} {ENGINE_VERSION}"

    def score_requests(self, docs: Sequence[Doc]) -> list[list[ScoreRequest]]:
        """One request a choice, for each doc. Raises RowUnavailable without a tokenizer."""
        if self._texts is None:
            raise RowUnavailable(
                "likelihood rows of an endpoint need --tokenizer (a folder, a hub id or a .gguf file)"
            )
        return self._texts.score_requests(docs)

    def generate_requests(self, docs: Sequence[Doc]) -> list[TextRequest]:
        """One request a doc: messages, or a plain text; shots and budget as in the default adapter.

        Raises RowUnavailable for a budget to the window's end without a tokenizer.
        """
        counted = self._texts.generate_requests(docs) if self._texts is not None else [None] * len(docs)
        return [self._text_request(doc, tokens) for doc, tokens in zip(docs, counted, strict=True)]

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """Asks for requests of one kind: (index, result) as they come, each index once, not those in `skip`.

        Raises RowUnavailable when the server refuses one of them, EndpointError when it gives nothing more.
        """
        todo = [index for index in range(len(requests)) if index not in skip]
        if todo and isinstance(requests[todo[0]], ScoreRequest):
            results: Iterator[tuple[int, Result]] = self._score([requests[index] for index in todo])
        else:
            results = self._generate([requests[index] for index in todo])
        for position, result in results:
            yield todo[position], result

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        """Log-likelihood of every choice of every doc (lighteval's interface)."""
        return score_responses(docs, self.score_requests(docs), self.run)

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """An answer to every doc (lighteval's interface)."""
        results = dict(self.run(self.generate_requests(docs)))
        answers = [results[i] for i in range(len(docs))]
        return [
            ModelResponse(text=[one.text], output_tokens=[list(one.tokens)])
            for one in answers
            if isinstance(one, Generation)
        ]

    def loglikelihood_rolling(self, docs: list[Doc]) -> list[ModelResponse]:
        """Not part of the protocol."""
        raise NotImplementedError("perplexity tasks are not part of this protocol")

    def _text_request(self, doc: Doc, counted: GenerateRequest | None) -> TextRequest:
        specific = doc.specific or {}
        if counted is not None:
            budget = counted.max_new_tokens
        elif doc.generation_size is not None:
            budget = doc.generation_size
        else:
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
        n_shots = len(doc.fewshot_samples)
        cut = False
        if counted is not None:
            # the default adapter drops shots that do not fit: find how many it kept
            while (longer := self._length(doc, n_shots) > len(counted.prompt)) and n_shots:
                n_shots -= 1
            cut = longer
        if self.chat:
            return tuple((turn["role"], turn["content"]) for turn in prompts.messages(doc, n_shots))
        if counted is not None and cut:
            return (("", decode(self._tokenizer, counted.prompt)),)
        return (("", prompts.plain_text(doc, n_shots)),)

    def _length(self, doc: Doc, n_shots: int) -> int:
        return len(encode(self._tokenizer, prompts.render(doc, self._tokenizer, self.chat, n_shots)))

    def _generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Generation]]:
        texts = [one for one in requests if isinstance(one, TextRequest)]
        for index, outcome in ask_texts(self.client, texts):
            if isinstance(outcome, RequestRefused):
                raise RowUnavailable(str(outcome))
            yield index, outcome
        if self.client.refused_fields and not self._penalties_told:
            self._penalties_told = True
            self._on_note(
                f"the server {self.client.base_url} takes no setting against repetition penalties: "
                "where its model's generation_config.json asks for one, greedy answers are not the protocol's"
            )

    def _score(self, requests: Sequence[Request]) -> Iterator[tuple[int, Score]]:
        scored = [one for one in requests if isinstance(one, ScoreRequest)]
        if self._echo is None:
            self._echo = find_echo(self.client, self._tokenizer, self._render, self.chat)
        echo = self._echo
        try:
            for index, reply in self.client.ask_all(echo.body(one.tokens) for one in scored):
                if isinstance(reply, RequestRefused):
                    raise RowUnavailable(str(reply))
                one = scored[index]
                yield index, Score(math.fsum(echo.logprobs(one.tokens, one.n_continuation, reply)))
        except ValueError as error:
            raise RowUnavailable(f"the server {self.client.base_url}: {error}") from error

    def _render(self, query: str) -> str:
        return prompts.render(Doc(query=query, choices=[], gold_index=[]), self._tokenizer, self.chat)
