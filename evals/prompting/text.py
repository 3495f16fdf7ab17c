"""Context text from a `Doc`: plain or chat, with its shots. Pure functions, the protocol's section on settings.

lighteval's own PromptManager changes these prompts (extra newlines before the query, doubled spaces in shots), so the
text is finished here and handed over whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from evals.core.errors import RowUnavailable, UserError
from evals.core.requests import ScoreRequests, ranges

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

Message = dict[str, str]


class Tokenizer(Protocol):
    """What rendering and encoding need of a transformers tokenizer."""

    def __call__(self, text: list[str], **kwargs: Any) -> Any:
        """Encodes a list of texts."""

    def apply_chat_template(self, conversation: list[Message], **kwargs: Any) -> Any:
        """Renders messages to text."""


def openings(doc: Doc) -> list[str]:
    """What of each choice belongs to the context and is not scored: nothing, unless the benchmark says so."""
    return list((doc.specific or {}).get("openings") or [""] * len(doc.choices))


def shot_answer(shot: Doc) -> str:
    """The gold text of a shot, with its leading space where the benchmark gives one."""
    gold = shot.gold_index if isinstance(shot.gold_index, int) else shot.gold_index[0]
    return openings(shot)[gold] + shot.choices[gold]


def messages(doc: Doc) -> list[Message]:
    """The chat of a doc: each shot a user and an assistant turn, then the query. No system message of ours.

    What stands before all shots begins the first turn.
    """
    turns: list[Message] = []
    for shot in doc.fewshot_samples:
        turns.append({"role": "user", "content": shot.query})
        turns.append({"role": "assistant", "content": shot_answer(shot)})
    turns.append({"role": "user", "content": doc.query})
    turns[0]["content"] = (doc.instruction or "") + turns[0]["content"]
    return turns


def plain_text(doc: Doc) -> str:
    """The plain prompt of a doc: what stands before all shots, then shots and query joined by a blank line."""
    parts = [*(shot.query + shot_answer(shot) for shot in doc.fewshot_samples), doc.query]
    return (doc.instruction or "") + "\n\n".join(parts)


def choice_pairs(doc: Doc, context: str) -> list[tuple[str, str]]:
    """(context, continuation) of each choice, in which `context` is the rendered doc."""
    return [(context + begin, choice) for begin, choice in zip(openings(doc), doc.choices, strict=True)]


def render(doc: Doc, tokenizer: Tokenizer, chat: bool) -> str:
    """The context as the model gets it. Chat: the template with the generation prompt added."""
    return chat_text(tokenizer, messages(doc), add_generation_prompt=True) if chat else plain_text(doc)


def without_question(doc: Doc) -> Doc:
    """The doc of the same choices after its `unconditioned_query` alone."""
    return replace(doc, query=doc.unconditioned_query or "", instruction=None, fewshot_samples=[])


def with_a_shot_less(doc: Doc) -> Doc:
    """The doc without its last shot."""
    return replace(doc, fewshot_samples=doc.fewshot_samples[:-1])


def chat_text(tokenizer: Tokenizer, conversation: list[Message], **options: Any) -> str:
    """The conversation in the model's chat template, run in transformers' sandbox. Raises UserError."""
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, **options)
    except Exception as error:  # a template is a program of the model's author: it can fail in any way
        why = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"the model's chat template fails: {why}") from error


def encode(tokenizer: Tokenizer, texts: Sequence[str], special: bool = False) -> list[list[int]]:
    """Token ids of each text, in bulk; `special`: with the BOS or whatever else the tokenizer adds, else without."""
    if not texts:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(list(texts), add_special_tokens=special)["input_ids"]
    # only where needed: a backend cannot be changed while another thread uses it
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    # the same ids as the call above, without the offsets and masks that nobody asks for
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=special)]


def encode_contexts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """As encode; but what several texts have in common (turns of a chat, shots) is encoded once for all of them."""
    parts = _Parts(tokenizer)
    tokens, starts = parts.joined([parts.of(text) for text in texts])
    return [tokens[begin:end].tolist() for begin, end in pairwise(starts)]


class _Parts:
    """The distinct parts of texts, each encoded once. A text's tokens are those of its parts, one after the other.

    A part begins with a special token, which a tokenizer cuts out of a text before anything else; or behind the first
    word of a paragraph, where the tokenizer never joins a word and the space behind it (`at_spaces`).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.at_spaces = _parts_at_spaces(tokenizer)
        paragraph = [r"(\n\n\S+)(?= )"] if self.at_spaces else []
        self._edge = re.compile("|".join([*map(re.escape, _cut_tokens(tokenizer)), *paragraph]) or "(?!)")
        self._numbers: dict[str, int] = {}

    def of(self, text: str) -> list[int]:
        """The numbers of a text's parts."""
        found = self._edge.finditer(text)
        edges = [0, *(match.end() if match.lastindex else match.start() for match in found), len(text)]
        numbers = self._numbers
        return [numbers.setdefault(text[begin:end], len(numbers)) for begin, end in pairwise(edges)]

    def counts(self, texts: Sequence[list[int]]) -> np.ndarray:
        """How many tokens each text has, given by the numbers of its parts."""
        if not texts:
            return np.zeros(0, np.int64)
        lengths = np.diff(self._encoded[1])
        first = np.cumsum([0, *map(len, texts[:-1])])
        counts: np.ndarray = np.add.reduceat(lengths[list(chain.from_iterable(texts))], first)
        return counts

    def joined(self, texts: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of all texts, given as in `counts`, in one array; where each text's begin, and the end of all."""
        tokens, starts = self._encoded
        parts = np.array(list(chain.from_iterable(texts)), np.int64)
        return tokens[ranges(starts[parts], starts[parts + 1])], np.append(0, np.cumsum(self.counts(texts)))

    @cached_property
    def _encoded(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of all parts in one array; where each part's begin, and the end of all."""
        ids = encode(self.tokenizer, list(self._numbers))
        starts = np.cumsum([0, *map(len, ids)])
        return np.fromiter(chain.from_iterable(ids), np.int32, starts[-1]), starts


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], max_length: int) -> ScoreRequests:
    """A request for each (context, choice): the tokens of both encoded as one string, those of the choice scored.

    The split is at the length of the encoded context; if both have the same length, one token earlier. A context that
    is empty leaves nothing to condition on: its first token is then the context. Left-truncated so that at most
    ``max_length`` tokens are fed (the last one never is). Raises RowUnavailable for a choice that the window does not
    hold: a part of it would be scored for the whole.
    """
    parts = _Parts(tokenizer)
    of_context: dict[str, list[int]] = {}
    contexts, wholes = [], []
    for whole, ending in pairs:
        # white space at the context's end goes to the front of the choice: words keep their space when encoded
        context = whole.rstrip()
        choice = whole[len(context) :] + ending
        if context not in of_context:
            of_context[context] = parts.of(context)
        contexts.append(of_context[context])
        apart = parts.at_spaces and context and choice.startswith(" ")
        wholes.append(contexts[-1] + parts.of(choice) if apart else parts.of(context + choice))
    tokens, starts = parts.joined(wholes)
    n_tokens = np.diff(starts)
    n_continuation = n_tokens - np.maximum(np.minimum(parts.counts(contexts), n_tokens - 1), 1)
    if len(pairs) and (longest := n_continuation.max()) > max_length:
        raise RowUnavailable(f"a choice of {longest} tokens is longer than the window of {max_length}")
    kept = np.minimum(n_tokens, max_length + 1)
    if (kept < n_tokens).any():
        tokens = tokens[ranges(starts[1:] - kept, starts[1:])]
    return ScoreRequests(tokens, np.append(0, np.cumsum(kept)), n_continuation)


def _cut_tokens(tokenizer: Tokenizer) -> list[str]:
    """Special tokens at which a text can be cut and encoded in parts: they take nothing of the text beside them."""
    added = list(getattr(tokenizer, "added_tokens_decoder", {}).values())
    texts = [token.content for token in added]
    return [
        token.content
        for token in added
        if token.special
        and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
        and not any(other != token.content and _overlap(other, token.content) for other in texts)
    ]


def _overlap(other: str, text: str) -> bool:
    """Whether a match of `other` can begin before one of `text`, or at it, and reach into it."""
    return text in other or any(text.startswith(other[-n:]) for n in range(1, len(other)))


# how GPT-2, Qwen 2 and Llama 3 split a text before they encode it: none of them finds a space behind other characters
_SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + number + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for number in (r"\p{N}", r"\p{N}{1,3}")
}


def _parts_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a text can be cut before a space that follows no white space, and encoded in parts.

    So it is where the tokenizer itself splits it there, whatever stands on either side, and encodes the pieces apart.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE" or backend.model.dropout:
        return False
    normalizer, splitter = (
        json.loads(one.__getstate__()) if one is not None else {}
        for one in (backend.normalizer, backend.pre_tokenizer)
    )
    if normalizer not in ({}, {"type": "NFC"}):
        return False
    steps = [_splits(one) for one in splitter.get("pretokenizers", [splitter])]
    if None in steps or not any(steps):
        return False
    # no special word may reach over the cut, or look at what is beyond it
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return not any(one.rstrip or one.single_word or re.search(r"\S ", one.content) for one in added)


def _splits(step: dict[str, Any]) -> bool | None:
    """Whether a step of a tokenizer's splitting splits at such a place; None where that is not known."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(regex)}:
            return regex
        case {"type": "Digits"}:
            return False
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return pattern in _SPLITS or None
    return None


def prompt_text(doc: Doc, chat: bool) -> str:
    """The doc's prompt before any chat template, for people and for hashing: chat turns are named."""
    if not chat:
        return plain_text(doc)
    if not doc.fewshot_samples:
        return (doc.instruction or "") + doc.query
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in messages(doc))


def prompt_hash(doc: Doc, chat: bool) -> str:
    """Hex digest of what is asked: shots, query, choices, stops, budget, chat or plain; not of the template.

    Instruction, openings and the unconditioned query count where a doc has them.
    """
    specific = doc.specific or {}
    meaning: list[Any] = [
        [[shot.query, shot_answer(shot)] for shot in doc.fewshot_samples],
        doc.query,
        list(doc.choices),
        list(doc.stop_sequences or ()),
        doc.generation_size,
        chat,
        specific.get("turns"),
        specific.get("temperature"),
    ]
    openings, unconditioned = specific.get("openings"), doc.unconditioned_query
    rare = {"instruction": doc.instruction, "openings": openings, "unconditioned": unconditioned}
    meaning += [[name, value] for name, value in rare.items() if value]
    content = json.dumps(meaning, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:16]
