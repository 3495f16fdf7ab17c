"""Encoding in parts gives the ids of the whole string, whatever stands in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evals.core.requests import ScoreRequest
from evals.models.loading import load_tokenizer
from evals.prompting import text as prompts


@pytest.fixture(scope="module")
def tokenizer(embedded_path):
    return load_tokenizer(embedded_path, chat=True)


WINDOW = 2048


def naive(tokenizer, context: str, choice: str) -> ScoreRequest:
    """The protocol's rule, with the tokenizer called in the ordinary way on the whole string."""
    bare = context.rstrip()
    choice = context[len(bare) :] + choice
    whole = tokenizer(bare + choice, add_special_tokens=False)["input_ids"]
    split = len(tokenizer(bare, add_special_tokens=False)["input_ids"])
    split = min(split, len(whole) - 1)
    return ScoreRequest(tuple(whole), len(whole) - max(split, 1))


PIECES = st.sampled_from(
    [
        "<|im_start|>",
        "<|im_end|>",
        "<|im_",
        "start|>",
        "<",
        "|",
        "assistant",
        "\n",
        " ",
        "  ",
        "7",
        "é",
        "é",
        "日本",
        "🙂",
        "\u2028",
        "\xa0",
        "\x1c",
        "\t",
        " \u0301",
        "word",
        "'s",
        "\n\nQuestion: ",
    ]
)
TEXT = st.lists(PIECES, min_size=1, max_size=12).map("".join)


@pytest.mark.model
@settings(max_examples=300, deadline=None)
@given(context=TEXT, choice=TEXT)
def test_parts_equal_the_whole(tokenizer, context, choice):
    if not (context + choice).strip():
        return
    assert [*prompts.encode_pairs(tokenizer, [(context, choice)], WINDOW)] == [
        naive(tokenizer, context, choice)
    ]


@pytest.mark.model
@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXT, max_size=4))
def test_turns_encoded_apart_equal_the_whole(tokenizer, texts):
    whole = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert prompts.encode_contexts(tokenizer, texts) == whole


@pytest.mark.model
def test_a_turn_is_encoded_once_for_all_texts(tokenizer, monkeypatch):
    asked = []
    original = prompts.encode
    monkeypatch.setattr(prompts, "encode", lambda one, texts: asked.extend(texts) or original(one, texts))
    shot, ends = "<|im_start|>user\nshot<|im_end|>", ["<|im_start|>user\na", "<|im_start|>user\nb", "\nc"]
    prompts.encode_contexts(tokenizer, [shot + end for end in ends])
    assert asked == ["", "<|im_start|>user\nshot", "<|im_end|>", *ends[:2], "<|im_end|>\nc"]


@pytest.mark.model
def test_shots_and_contexts_are_encoded_once_for_all_choices(tokenizer, monkeypatch):
    asked = []
    original = prompts.encode
    monkeypatch.setattr(prompts, "encode", lambda one, texts: asked.extend(texts) or original(one, texts))
    shot, questions = "Question: a\nAnswer: b\n\n", ("Question: c\nAnswer:", "Question: d\nAnswer:")
    pairs = [(shot + question, choice) for question in questions for choice in (" yes", " no")]
    prompts.encode_pairs(tokenizer, pairs, WINDOW)
    assert asked == [shot + "Question:", " c\nAnswer:", " yes", " no", " d\nAnswer:"]


@pytest.mark.parametrize("settings", [{"rstrip": True}, {"single_word": True}, {"content": "of course"}])
def test_words_that_look_beyond_a_space_are_encoded_with_it(settings):
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert prompts._parts_at_spaces(PreTrainedTokenizerFast(tokenizer_object=plain))
    plain.add_tokens([AddedToken(**{"content": "<mask>", **settings})])
    assert not prompts._parts_at_spaces(PreTrainedTokenizerFast(tokenizer_object=plain))


@pytest.mark.parametrize(
    "splitter",
    [
        None,
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        pre_tokenizers.Metaspace(),
        pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated"),
    ],
)
def test_a_tokenizer_that_may_join_what_a_space_parts_gets_whole_texts(splitter):
    unknown = Tokenizer(models.BPE())
    if splitter is not None:
        unknown.pre_tokenizer = splitter
    assert not prompts._parts_at_spaces(PreTrainedTokenizerFast(tokenizer_object=unknown))


@pytest.mark.model
def test_many_pairs_at_once_keep_their_order(tokenizer):
    pairs = [
        (f"<|im_start|>user\nQ{i}<|im_end|>\n<|im_start|>assistant\n", f" {c}")
        for i in range(5)
        for c in "abc"
    ]
    assert [*prompts.encode_pairs(tokenizer, pairs, WINDOW)] == [naive(tokenizer, *pair) for pair in pairs]


@pytest.mark.data
@settings(max_examples=100, deadline=None)
@given(context=TEXT, choice=TEXT)
def test_parts_equal_the_whole_for_qwen(qwen, context, choice):
    if not (context + choice).strip():
        return
    assert [*prompts.encode_pairs(qwen, [(context, choice)], WINDOW)] == [naive(qwen, context, choice)]
    whole = qwen(context + choice, add_special_tokens=False)["input_ids"]
    assert prompts.encode_contexts(qwen, [context + choice]) == [whole]


@pytest.fixture(scope="module")
def qwen(data_dir):
    folder = Path(data_dir) / "tokenizers" / "Qwen2.5-0.5B-Instruct"
    if not folder.is_dir():
        pytest.skip("no Qwen tokenizer in the data folder")
    return load_tokenizer(folder, chat=False)
