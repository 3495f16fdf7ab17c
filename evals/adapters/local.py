"""The default adapter: a transformers model behind lighteval's `LightevalModel`.

evals/prompting makes requests of docs; the engines in scoring.py and decoding.py (or plain.py,
for comparison) compute them. `run` yields results as they are computed, so that a caller can keep each at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from lighteval.models.abstract_model import LightevalModel, ModelConfig
from lighteval.models.model_output import ModelResponse
from lighteval.tasks.requests import Doc

from evals.core.requests import GenerateRequest, Generation, NotFinite, Request, Result, Score, ScoreRequest
from evals.models.loading import LoadedModel, require_template
from evals.prompting import text as prompts
from evals.prompting.requests import MAX_LENGTH, TextToRequests

ENGINES = ("shared", "plain")


class _NoCache:
    """lighteval's Pipeline hands its registry to a sample cache; this project keeps its own store instead."""

    def _init_registry(self, registry: Any) -> None:
        pass


class PrefixModel(LightevalModel):
    """Scores and generates by the protocol: no BOS, joint encoding, 2048 tokens, float32 log-probabilities.

    `chat`: prompts go through the tokenizer's chat template and stop strings are not used (only the end-of-turn token
    ends an answer); never guessed from the tokenizer. `engine`: "shared" computes each distinct token once, "plain"
    one sequence at a time. `memory_share`: what part of the device's free memory this process may count on.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        chat: bool,
        name: str = "",
        engine: str = "shared",
        max_length: int = MAX_LENGTH,
        memory_share: float = 1.0,
    ) -> None:
        if chat:
            require_template(loaded.tokenizer, name or "the model")
        self.loaded = loaded
        self.chat = chat
        self.engine = engine
        self.memory_share = memory_share
        self.config = ModelConfig(model_name=name or "model")
        self._texts = TextToRequests(loaded.tokenizer, chat, max_length)
        self._cache = _NoCache()
        self._scorer: Any = None
        self._decoder: Any = None

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""
        return self.loaded.tokenizer

    @property
    def add_special_tokens(self) -> bool:
        """False: the protocol adds no BOS."""
        return False

    @property
    def max_length(self) -> int:
        """Tokens fed at most for one request."""
        return self._texts.max_length

    @property
    def at_a_time(self) -> int:
        """Generations under way together, at most."""
        return int(getattr(self._engine_decoder(), "max_sequences", 1))

    @property
    def leaves_cpu(self) -> bool:
        """Whether a GPU does the work."""
        return self.loaded.device.type != "cpu"

    @property
    def identity(self) -> str:
        """What a stored result depends on besides its request."""
        device = self.loaded.device
        if device.type == "cuda":
            import torch

            machine = f"cuda {torch.cuda.get_device_name(device)}"
        else:
            machine = device.type
        version = "1"
        if self.engine == "shared":
            from evals.engine import ENGINE_VERSION

            version = ENGINE_VERSION
        return f"{self.loaded.fingerprint} {self.loaded.dtype} {machine} {self.engine} {version}"

    def score_requests(self, docs: Sequence[Doc]) -> list[list[ScoreRequest]]:
        """One request a choice, for each doc."""
        return self._texts.score_requests(docs)

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """One request a doc: budget None means to the end of the window; stops count in plain mode only."""
        return self._texts.generate_requests(docs)

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """Computes requests of one kind: (index, result), in any order, each index once, but not those in `skip`."""
        todo = [i for i in range(len(requests)) if i not in skip]
        if not todo:
            return
        if isinstance(requests[0], ScoreRequest) and self.engine == "shared":
            yield from self._engine_scorer().run(requests, skip)
            return
        engine = self._engine_scorer() if isinstance(requests[0], ScoreRequest) else self._engine_decoder()
        try:
            for k, result in engine.run([requests[i] for i in todo]):
                yield todo[k], result
        except NotFinite as error:
            raise NotFinite(todo[error.index]) from error

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        """Log-likelihood of every choice of every doc (lighteval's interface)."""
        return score_responses(docs, self.score_requests(docs), self.run)

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """An answer to every doc (lighteval's interface)."""
        requests = self.generate_requests(docs)
        results = dict(self.run(requests))
        return [generation_response(request, results[i]) for i, request in enumerate(requests)]

    def loglikelihood_rolling(self, docs: list[Doc]) -> list[ModelResponse]:
        """Not part of the protocol."""
        raise NotImplementedError("perplexity tasks are not part of this protocol")

    def _engine_scorer(self) -> Any:
        if self._scorer is None:
            if self.engine == "shared":
                from evals.engine.scoring import PrefixScorer as Scorer
            else:
                from evals.engine.plain import PlainScorer as Scorer  # type: ignore[assignment]
            self._scorer = Scorer(self.loaded.model)
        return self._scorer

    def _engine_decoder(self) -> Any:
        if self._decoder is None:
            needs = self.loaded.model, self.tokenizer, end_tokens(self.loaded, self.chat)
            if self.engine == "shared":
                from evals.engine.decoding import BatchDecoder

                self._decoder = BatchDecoder(*needs, memory_share=self.memory_share)
            else:
                from evals.engine.plain import PlainDecoder

                self._decoder = PlainDecoder(*needs)
        return self._decoder


def end_tokens(loaded: LoadedModel, chat: bool) -> tuple[int, ...]:
    """Ids that end an answer: the model's end-of-sequence tokens and, in chat, what its template puts after a turn."""
    found: set[int] = set()
    for source in (loaded.model.generation_config, loaded.model.config):
        ids = getattr(source, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    tokenizer = loaded.tokenizer
    if tokenizer.eos_token_id is not None:
        found.add(tokenizer.eos_token_id)
    if chat:
        mark = "turn-ends-here"
        text = prompts.chat_text(
            tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}]
        )
        after = prompts.encode(tokenizer, [text.rsplit(mark, 1)[-1]])[0]
        if after and after[0] in tokenizer.all_special_ids:
            found.add(after[0])
    return tuple(sorted(found))


def score_responses(
    docs: Sequence[Doc], requests: Sequence[Sequence[ScoreRequest]], run: Any
) -> list[ModelResponse]:
    """Runs likelihood requests and folds the results back to one response a doc."""
    flat = [request for group in requests for request in group]
    results: dict[int, Score] = dict(run(flat))
    responses, start = [], 0
    for group in requests:
        scores = [results[start + i].logprob for i in range(len(group))]
        responses.append(score_response(group, scores))
        start += len(group)
    return responses


def score_response(requests: Sequence[ScoreRequest], logprobs: list[float]) -> ModelResponse:
    """One doc's scored choices as lighteval's response."""
    return ModelResponse(
        logprobs=logprobs,
        output_tokens=[list(request.tokens[-request.n_continuation :]) for request in requests],
    )


def generation_response(request: GenerateRequest, generation: Result) -> ModelResponse:
    """One answer as lighteval's response."""
    assert isinstance(generation, Generation)
    return ModelResponse(
        text=[generation.text], input_tokens=list(request.prompt), output_tokens=[list(generation.tokens)]
    )
