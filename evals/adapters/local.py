"""The default adapter: a transformers model in this process.

evals/prompting makes requests of docs; the engines in scoring.py and decoding.py (or plain.py, for comparison) compute
them. `run` yields results as they are computed, so that a caller can keep each at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from evals.adapters.base import Adapter
from evals.core.requests import Request, Result, ScoreRequest
from evals.engine import ENGINE_VERSION
from evals.engine.decoding import BatchDecoder
from evals.engine.device import device_name, peak_memory
from evals.engine.plain import PlainDecoder, PlainScorer
from evals.engine.scoring import PrefixScorer
from evals.models.loading import LoadedModel
from evals.prompting import text as prompts
from evals.prompting.requests import MAX_LENGTH


class PrefixModel(Adapter):
    """Scores and generates by the protocol: no BOS, joint encoding, 2048 tokens, float32 log-probabilities.

    `engine`: "shared" computes each distinct token once, "plain" one sequence at a time. `memory_share`: what part of
    the device's free memory this process may count on.
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
        super().__init__(name or "model", chat, loaded.tokenizer, max_length)
        self.loaded = loaded
        self.shared = engine == "shared"
        self.memory_share = memory_share

    @property
    def at_a_time(self) -> int:
        """Generations under way together, at most."""
        return int(getattr(self._decoder, "max_sequences", 1))

    @property
    def leaves_cpu(self) -> bool:
        """Whether a GPU does the work."""
        return self.loaded.device.type != "cpu"

    @cached_property
    def identity(self) -> str:
        """What a stored result depends on besides its request."""
        device = self.loaded.device
        machine = f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type
        engine = f"shared {ENGINE_VERSION}" if self.shared else "plain 1"
        return f"{self.loaded.fingerprint} {self.loaded.dtype} {machine} {engine}"

    def _loaded_on(self) -> tuple[LoadedModel, dict[str, Any]]:
        device = self.loaded.device
        machine = {"device": device_name(device), "threads": torch.get_num_threads()}
        engine = "shared" if self.shared else "plain"
        return self.loaded, {**machine, "engine": engine, "peak_memory_bytes": peak_memory(device)}

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """See Adapter."""
        if requests and isinstance(requests[0], ScoreRequest) and self.shared:
            yield from self._scorer.run(requests, skip)  # it plans with those that it skips
        else:
            yield from super().run(requests, skip)

    def compute(self, requests: Sequence[Request]) -> Iterator[tuple[int, Result]]:
        """See Adapter."""
        engine = self._scorer if isinstance(requests[0], ScoreRequest) else self._decoder
        yield from engine.run(requests)

    @cached_property
    def _scorer(self) -> Any:
        return (PrefixScorer if self.shared else PlainScorer)(self.loaded.model)

    @cached_property
    def _decoder(self) -> Any:
        needs = self.loaded.model, self.tokenizer, end_tokens(self.loaded, self.chat)
        return BatchDecoder(*needs, memory_share=self.memory_share) if self.shared else PlainDecoder(*needs)


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
