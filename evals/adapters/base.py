"""What every back end shares: lighteval's interface, on top of requests that it computes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

from lighteval.models.abstract_model import LightevalModel, ModelConfig
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc

from evals.core.errors import RowUnavailable
from evals.core.files import text_hash
from evals.core.requests import Generation, NotFinite, Request, Result, Score, ScoreRequest
from evals.models.loading import LoadedModel, require_template
from evals.prompting.requests import TextToRequests, choice_response


class _NoCache:
    """lighteval's Pipeline hands its registry to a sample cache; this project keeps its own store instead."""

    def _init_registry(self, registry: Any) -> None:
        pass


class Adapter(LightevalModel):
    """A back end (evals.core.requests.Backend) that is a lighteval model too: a subclass computes requests.

    `chat`: prompts go through the tokenizer's chat template and stop strings are not used (only the end-of-turn token
    ends an answer); never guessed from the tokenizer. Without a `tokenizer` there are no `texts`.
    """

    def __init__(self, name: str, chat: bool, tokenizer: Any, max_length: int) -> None:
        if chat and tokenizer is not None:
            require_template(tokenizer, name)
        self.chat = chat
        self.config = ModelConfig(model_name=name)
        self.texts = None if tokenizer is None else TextToRequests(tokenizer, chat, max_length)
        self._tokenizer, self._max_length = tokenizer, max_length
        self._cache = _NoCache()

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer, or None."""
        return self._tokenizer

    @property
    def add_special_tokens(self) -> bool:
        """False: the protocol adds no BOS."""
        return False

    @property
    def max_length(self) -> int:
        """The protocol's window: tokens fed at most for one request."""
        return self._max_length

    @property
    def described(self) -> dict[str, Any]:
        """See Backend."""
        template = None if self.tokenizer is None or not self.chat else self.tokenizer.chat_template
        loaded, machine = self._loaded_on()
        facts = ("fingerprint", "dtype", "quantization", "parameters")
        return {
            "model": {fact: getattr(loaded, fact, None) for fact in facts},
            "machine": {"chat_template_sha256": text_hash(template), **machine},
        }

    def _loaded_on(self) -> tuple[LoadedModel | None, dict[str, Any]]:
        """The model, None where a server does not say what it computes with; what run.json says of the machine."""
        raise NotImplementedError

    def score_requests(self, docs: Sequence[Doc]) -> Sequence[Sequence[ScoreRequest]]:
        """One request a choice, for each doc. Raises RowUnavailable without a tokenizer."""
        if self.texts is None:
            raise RowUnavailable(
                "likelihood rows of an endpoint need --tokenizer (a folder, a hub id or a .gguf file)"
            )
        return self.texts.score_requests(docs)

    def generate_requests(self, docs: Sequence[Doc]) -> Sequence[Request]:
        """One request a doc: budget None means to the end of the window; stops count in plain mode only."""
        assert self.texts is not None
        return self.texts.generate_requests(docs)

    def compute(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """Computes requests of one kind: (index, result), in any order, each index once. Raises NotFinite."""
        raise NotImplementedError

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """As `compute`, but for the requests whose index is in `skip`."""
        todo = [i for i in range(len(requests)) if i not in skip]
        try:
            for k, result in self.compute([requests[i] for i in todo]) if todo else ():
                yield todo[k], result
        except NotFinite as error:
            raise NotFinite(todo[error.index]) from error

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        """Log-likelihood of every choice of every doc (lighteval's interface)."""
        groups = self.score_requests(docs)
        results = dict(self.run([request for group in groups for request in group]))
        logprobs = iter([one.logprob for _, one in sorted(results.items()) if isinstance(one, Score)])
        return [
            choice_response(doc, group, list(islice(logprobs, len(group))))
            for doc, group in zip(docs, groups, strict=True)
        ]

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """An answer to every doc (lighteval's interface)."""
        requests = self.generate_requests(docs)
        results = dict(self.run(requests))
        return [
            ModelResponse(
                text=[one.text],
                input_tokens=list(getattr(request, "prompt", ())),
                output_tokens=[list(one.tokens)],
            )
            for i, request in enumerate(requests)
            if isinstance(one := results[i], Generation)
        ]

    def loglikelihood_rolling(self, docs: list[Doc]) -> list[ModelResponse]:
        """Not part of the protocol."""
        raise NotImplementedError("perplexity tasks are not part of this protocol")
