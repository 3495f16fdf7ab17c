"""Docs become token requests: rendering, joint encoding of context and choice, the window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from evals.core.requests import GenerateRequest, ScoreRequest, ScoreRequests, continuations
from evals.prompting import text as prompts

if TYPE_CHECKING:
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

MAX_LENGTH = 2048  # the protocol's window, in tokens


def choice_response(doc: Doc, requests: Sequence[ScoreRequest], logprobs: Sequence[float]) -> ModelResponse:
    """What the requests of a doc with choices gave, in lighteval's shape: `logprobs` [len(requests)] nats."""
    from lighteval.models.model_output import ModelResponse

    n = len(doc.choices)
    return ModelResponse(
        logprobs=list(logprobs[:n]),
        output_tokens=continuations(requests[:n]),
        unconditioned_logprobs=list(logprobs[n:]) or None,
    )


class TextToRequests:
    """Docs become token requests: rendering, joint encoding, the window. Needs a tokenizer, no weights."""

    def __init__(self, tokenizer: Any, chat: bool, max_length: int = MAX_LENGTH) -> None:
        self.tokenizer, self.chat, self.max_length = tokenizer, chat, max_length

    def score_requests(self, docs: Sequence[Doc]) -> list[ScoreRequests]:
        """One request a choice, for each doc; then once more each choice without the question, where it has one.

        That is what its `unconditioned_query` means: a metric weighs the choices' likelihoods after it.
        """
        contexts = self._contexts(docs)[0]
        groups = [self._pairs(doc, context) for doc, context in zip(docs, contexts, strict=True)]
        pairs = [pair for group in groups for pair in group]
        requests = prompts.encode_pairs(self.tokenizer, pairs, self.max_length)
        bounds = accumulate(map(len, groups), initial=0)
        return [requests[first:stop] for first, stop in pairwise(bounds)]

    def _pairs(self, doc: Doc, context: str) -> list[tuple[str, str]]:
        pairs = prompts.choice_pairs(doc, context)
        if doc.unconditioned_query:
            bare = prompts.without_question(doc)
            pairs += prompts.choice_pairs(bare, prompts.render(bare, self.tokenizer, self.chat))
        return pairs

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """One request a doc: budget None means to the end of the window; stops count in plain mode only."""
        contexts, encoded = self._contexts(docs)
        rest = list(dict.fromkeys(text for text in contexts if text not in encoded))
        encoded |= zip(rest, prompts.encode_contexts(self.tokenizer, rest), strict=True)
        return [self._generate_request(doc, encoded[text]) for doc, text in zip(docs, contexts, strict=True)]

    def _generate_request(self, doc: Doc, tokens: list[int]) -> GenerateRequest:
        specific, prompt = doc.specific or {}, tuple(tokens[-(self.max_length - 1) :])
        room = self.max_length - len(prompt)
        return GenerateRequest(
            prompt,
            max_new_tokens=min(doc.generation_size or room, room),
            stops=() if self.chat else tuple(doc.stop_sequences or ()),
            temperature=float(specific.get("temperature", 0.0)),
            seed=int(specific.get("seed", 0)),
        )

    def _contexts(self, docs: Sequence[Doc]) -> tuple[list[str], dict[str, list[int]]]:
        """The rendered contexts, and the tokens of those that had to be encoded to see whether they fit.

        Shots that do not fit the window less the budget are dropped from the end.
        """
        texts = [prompts.render(doc, self.tokenizer, self.chat) for doc in docs]
        rooms = [self.max_length - (doc.generation_size or 1) for doc in docs]
        doubtful = [
            i
            for i, doc in enumerate(docs)
            if doc.fewshot_samples
            and not (doc.specific or {}).get("conversation")
            # a token is at least one byte: short contexts are seen to fit without being encoded
            and len(texts[i].encode("utf-8", "surrogatepass")) > rooms[i]
        ]
        some = list(dict.fromkeys(texts[i] for i in doubtful))
        encoded = dict(zip(some, prompts.encode_contexts(self.tokenizer, some), strict=True))
        for i in doubtful:
            doc = docs[i]
            while len(encoded[texts[i]]) > rooms[i] and doc.fewshot_samples:
                doc = prompts.with_a_shot_less(doc)
                texts[i] = prompts.render(doc, self.tokenizer, self.chat)
                encoded[texts[i]] = prompts.encode(self.tokenizer, [texts[i]])[0]
        return texts, encoded
