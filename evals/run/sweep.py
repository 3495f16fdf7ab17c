"""Many models one after another: texts become tokens once for all models with the same tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.requests import Backend, GenerateRequest, ScoreRequest

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

T = TypeVar("T")


Kept = dict[tuple[str, bool, str], dict[int, tuple["Doc", Any]]]


class Remembering:
    """A back end (evals/core/requests.py) that asks another one, and a memory first.

    The memory: requests by tokenizer, mode and kind, and of each doc; docs are kept, so that none can be mistaken.
    """

    def __init__(self, adapter: Backend, kept: Kept, tokenizer: str) -> None:
        self._adapter, self._kept, self._tokenizer = adapter, kept, tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def score_requests(self, docs: Sequence[Doc]) -> Sequence[Sequence[ScoreRequest]]:
        """One request a choice, for each doc."""
        return self._look_up("score", docs, self._adapter.score_requests)

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """One request a doc; a conversation's next turn is this model's own and is not kept."""
        if any((doc.specific or {}).get("conversation") for doc in docs):
            return list(self._adapter.generate_requests(docs))
        return self._look_up("generate", docs, self._adapter.generate_requests)

    def _look_up(
        self, kind: str, docs: Sequence[Doc], make: Callable[[Sequence[Doc]], Sequence[T]]
    ) -> list[T]:
        kept = self._kept.setdefault((self._tokenizer, self.chat, kind), {})
        new = [doc for doc in docs if id(doc) not in kept]
        kept.update((id(doc), (doc, made)) for doc, made in zip(new, make(new) if new else [], strict=True))
        return [kept[id(doc)][1] for doc in docs]


def remembering(adapter: Any, kept: Kept) -> Any:
    """The adapter with this memory before it; as it is when its tokenizer cannot be compared."""
    key = tokenizer_key(adapter.tokenizer)
    return adapter if key is None else Remembering(adapter, kept, key)


def tokenizer_key(tokenizer: Any) -> str | None:
    """Equal for tokenizers that make the same tokens of the same docs; None where that cannot be told."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = (type(tokenizer).__name__, backend.to_str(), repr(tokenizer.chat_template))
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()
