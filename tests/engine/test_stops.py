"""Finding stop strings token by token equals decoding everything each time."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evals.engine.plain import detokenize, first_stop
from evals.engine.stops import StopStrings
from tests.support.tiny_models import VOCABULARY, byte_tokenizer

TOKENIZER = byte_tokenizer()
TEXT = st.text(alphabet="Question:the \n\n日é語x", max_size=12)


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def slow(tokens: list[int], stops: tuple[str, ...]) -> str | None:
    text = detokenize(TOKENIZER, tokens)
    end = first_stop(text, stops)
    return None if end is None else text[:end]


@st.composite
def streams(draw) -> list[int]:
    """Tokens of pieces of text encoded apart, some bytes and special tokens in between."""
    tokens: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        tokens += encode(draw(TEXT)) or [0]
        tokens += draw(st.lists(st.integers(0, VOCABULARY - 1), max_size=2))
    return tokens


@given(streams(), st.lists(TEXT, min_size=1, max_size=3).map(tuple))
@example(encode("no Ques") + encode("tion: yes"), ("Question:", "Question"))
@example(encode("x" * 300) + encode("日")[:1] + encode("é"), ("é",))
def test_like_decoding_everything(tokens, stops):
    watcher = StopStrings(TOKENIZER, stops)
    for n in range(1, len(tokens) + 1):
        expected = slow(tokens[:n], watcher.stops)
        assert watcher.find(tokens[:n]) == expected
        if expected is not None:
            return


@pytest.mark.model
@pytest.mark.slow
def test_like_decoding_everything_with_a_real_tokenizer(embedded_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded_path.parent, gguf_file=embedded_path.name)
    text = "An answer, naïve: 日本語 😀 and so on.\n\nQuestion: 1 + 1?\nAnswer: 2\n\nQuestion"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    for stops in (("Question:", "Question"), ("本語 😀",), ("2\n\nQ",), ("nowhere",), ("\n\n",), ("😀",)):
        watcher = StopStrings(tokenizer, stops)
        for n in range(1, len(tokens) + 1):
            whole = detokenize(tokenizer, tokens[:n])
            end = first_stop(whole, stops)
            assert watcher.find(tokens[:n]) == (None if end is None else whole[:end])
            if end is not None:
                break


def test_few_tokens_are_decoded():
    """A stream of words that begin like the stop: the whole is decoded only when the stop is there."""
    decoded = []

    class Counting:
        def decode(self, tokens, **options):
            decoded.append(len(tokens))
            return TOKENIZER.decode(tokens, **options)

    tokens = encode("the Quest of " * 200 + "Question")
    watcher = StopStrings(Counting(), ("Question",))
    found = [watcher.find(tokens[:n]) for n in range(1, len(tokens) + 1)]
    assert found[-1] is not None and found[:-1] == [None] * (len(tokens) - 1)
    assert sum(decoded) < 20 * len(tokens)
