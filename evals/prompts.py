"""Context text from a `Doc`: plain or chat, with its shots. Pure functions, the protocol's section on settings.

lighteval's own PromptManager changes these prompts (extra newlines before the query, doubled spaces in shots), so the
text is finished here and handed over whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from evals.errors import UserError

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

Message = dict[str, str]


class Tokenizer(Protocol):
    """What rendering and encoding need of a transformers tokenizer."""

    def __call__(self, text: list[str], **kwargs: Any) -> Any:
        """Encodes a list of texts."""

    def apply_chat_template(self, conversation: list[Message], **kwargs: Any) -> Any:
        """Renders messages to text."""


def shot_answer(shot: Doc) -> str:
    """The gold text of a shot, with its leading space where the benchmark gives one."""
    gold = shot.gold_index if isinstance(shot.gold_index, int) else shot.gold_index[0]
    return shot.choices[gold]


def messages(doc: Doc, n_shots: int | None = None) -> list[Message]:
    """The chat of a doc: each shot a user and an assistant turn, then the query. No system message of ours."""
    turns: list[Message] = []
    for shot in doc.fewshot_samples[:n_shots]:
        turns.append({"role": "user", "content": shot.query})
        turns.append({"role": "assistant", "content": shot_answer(shot)})
    return [*turns, {"role": "user", "content": doc.query}]


def plain_text(doc: Doc, n_shots: int | None = None) -> str:
    """The plain prompt of a doc: shots and query joined by a blank line."""
    shots = [shot.query + shot_answer(shot) for shot in doc.fewshot_samples[:n_shots]]
    return "\n\n".join([*shots, doc.query])


def render(doc: Doc, tokenizer: Tokenizer, chat: bool, n_shots: int | None = None) -> str:
    """The context as the model gets it. Chat: the template with the generation prompt added."""
    if not chat:
        return plain_text(doc, n_shots)
    return chat_text(tokenizer, messages(doc, n_shots), add_generation_prompt=True)


def chat_text(tokenizer: Tokenizer, conversation: list[Message], **options: Any) -> str:
    """The conversation in the model's chat template, run in transformers' sandbox. Raises UserError."""
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, **options)
    except Exception as error:  # a template is a program of the model's author: it can fail in any way
        raise UserError(
            f"the model's chat template fails: {type(error).__name__}: {str(error)[:200]}"
        ) from error


def fit_shots(doc: Doc, room: int, length: Callable[[int], int]) -> int:
    """How many shots fit `room` tokens, dropping from the end. `length(n)`: tokens of the context with n shots."""
    n_shots = len(doc.fewshot_samples)
    while n_shots > 0 and length(n_shots) > room:
        n_shots -= 1
    return n_shots


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, in bulk, without a BOS or any other added token."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def split_seam(context: str, choice: str) -> tuple[str, str]:
    """Moves white space at the context's end to the front of the choice: words keep their space when encoded."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + choice


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[tuple[tuple[int, ...], int]]:
    """(tokens of context+choice encoded as one string, number of continuation tokens) of each pair.

    The split is at the length of the encoded context; if both have the same length, one token earlier. A context that
    is empty leaves nothing to condition on: its first token is then the context.
    """
    seams = [split_seam(context, choice) for context, choice in pairs]
    contexts = list(dict.fromkeys(context for context, _ in seams))
    lengths = dict(zip(contexts, map(len, encode(tokenizer, contexts)), strict=True))
    wholes = encode(tokenizer, [context + choice for context, choice in seams])
    out = []
    for (context, _), whole in zip(seams, wholes, strict=True):
        split = lengths[context]
        if split >= len(whole):
            split = len(whole) - 1
        out.append((tuple(whole), len(whole) - max(split, 1)))
    return out


def cut_to_window(
    tokens: tuple[int, ...], n_continuation: int, max_length: int
) -> tuple[tuple[int, ...], int]:
    """Left-truncates so that at most `max_length` tokens are fed (the last one never is)."""
    kept = tokens[-(max_length + 1) :]
    return kept, min(n_continuation, len(kept) - 1)


def prompt_text(doc: Doc, chat: bool) -> str:
    """The doc's prompt before any chat template, for people and for hashing: chat turns are named."""
    if not chat:
        return plain_text(doc)
    if not doc.fewshot_samples:
        return doc.query
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in messages(doc))


def prompt_hash(doc: Doc, chat: bool) -> str:
    """Hex digest of what is asked: shots, query, choices, stops, budget, chat or plain; not of the template."""
    specific = doc.specific or {}
    meaning = [
        [[shot.query, shot_answer(shot)] for shot in doc.fewshot_samples],
        doc.query,
        list(doc.choices),
        list(doc.stop_sequences or ()),
        doc.generation_size,
        chat,
        specific.get("turns"),
        specific.get("temperature"),
    ]
    return hashlib.sha256(
        json.dumps(meaning, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()[:16]
