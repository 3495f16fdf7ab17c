"""Many models one after another: which they are, and what they share.

The data is loaded once for all; texts become tokens once for all models with the same tokenizer.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from evals.core.errors import UserError
from evals.core.requests import GenerateRequest, Request, Result, ScoreRequest
from evals.models.known import ModelSpec, resolve

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

T = TypeVar("T")


def read_sweep(path: Path) -> list[str]:
    """The models of a sweep file: one a line as for --model; blank lines and what follows '#' do not count."""
    try:
        lines = [line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--sweep '{path}' cannot be read: give a text file with one model a line") from error
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"--sweep '{path}' names no model: give one a line, as for --model")
    return names


def resolve_all(names: Sequence[str | None], model_path: str | None, revision: str | None) -> list[ModelSpec]:
    """What each name means; "ORG/NAME@REVISION" is a model at a revision of its own. Raises UserError.

    Models of the same name (folders of several trainings) are told apart by the folder that holds them.
    """
    specs = [_resolve(name, model_path, revision) for name in names]
    count = Counter(spec.name for spec in specs)
    apart = []
    for spec in specs:
        if count[spec.name] > 1 and spec.source in ("folder", "gguf"):
            holder = re.sub(r"[^\w.-]+", "-", Path(spec.location).resolve().parent.name).strip("-.")
            spec = replace(spec, name=f"{holder}-{spec.name}")
        apart.append(spec)
    for name, times in Counter(spec.name for spec in apart).items():
        if times > 1:
            raise UserError(f"--model: '{name}' is named {times} times: give each model once")
    return apart


def _resolve(name: str | None, model_path: str | None, revision: str | None) -> ModelSpec:
    at = (
        re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)@([\w./-]+)", name) if name and not Path(name).exists() else None
    )
    if at is None:
        return resolve(name, model_path, revision)
    if revision is not None:
        raise UserError(f"--model {name} has a revision of its own: leave --revision {revision} out")
    spec = resolve(at[1], model_path, at[2])
    mark = re.sub(r"[^\w.-]+", "-", at[2])
    # a checkpoint on the way is not what the card published
    return replace(spec, name=f"{spec.name}-{mark}", card_column=None)


class Remembered:
    """The requests of docs by tokenizer and mode, made once; the docs are kept, so that none can be mistaken."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, bool, str], dict[int, tuple[Doc, Any]]] = {}

    def adapter(self, adapter: Any) -> Any:
        """The adapter with this memory before it; as it is when its tokenizer cannot be compared."""
        key = tokenizer_key(adapter.tokenizer)
        return adapter if key is None else _Remembering(adapter, self._kept, key)


class _Remembering:
    """An adapter (see evals/runner.py) that asks another one, and its memory first."""

    def __init__(self, adapter: Any, kept: dict[Any, dict[int, tuple[Doc, Any]]], key: str) -> None:
        self._adapter, self._kept, self._key = adapter, kept, key
        self.chat: bool = adapter.chat
        self.identity: str = adapter.identity
        self.leaves_cpu: bool = adapter.leaves_cpu
        self.at_a_time: int = adapter.at_a_time

    def score_requests(self, docs: Sequence[Doc]) -> list[list[ScoreRequest]]:
        """One request a choice, for each doc."""
        return self._look_up("score", docs, self._adapter.score_requests)

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """One request a doc; a conversation's next turn is this model's own and is not kept."""
        if any((doc.specific or {}).get("conversation") for doc in docs):
            return list(self._adapter.generate_requests(docs))
        return self._look_up("generate", docs, self._adapter.generate_requests)

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """The adapter's own."""
        return self._adapter.run(requests, skip) if skip else self._adapter.run(requests)

    def _look_up(self, kind: str, docs: Sequence[Doc], make: Any) -> Any:
        kept = self._kept.setdefault((self._key, self.chat, kind), {})
        new = [doc for doc in docs if id(doc) not in kept]
        kept.update((id(doc), (doc, made)) for doc, made in zip(new, make(new) if new else [], strict=True))
        return [kept[id(doc)][1] for doc in docs]


def tokenizer_key(tokenizer: Any) -> str | None:
    """Equal for tokenizers that make the same tokens of the same docs; None where that cannot be told."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    parts = (type(tokenizer).__name__, backend.to_str(), repr(tokenizer.chat_template))
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()
