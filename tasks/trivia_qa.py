"""TriviaQA: quiz questions answered from memory (Joshi et al. 2017, arXiv 1705.03551; tasks/README.md)

A row: {"question": "Which planet is nearest to the sun?",
"answer": {"aliases": ["Mercury", "Mercury (planet)"]}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lighteval.tasks.requests import Doc

from evals.core.metric import plain_words
from tasks.common.builders import generative_task
from tasks.common.rows import field, text, texts


def gold_aliases(aliases: Sequence[str]) -> list[str]:
    """The accepted answers, made plain: in sorted order, an alias that begins like the last kept one goes."""
    kept: list[str] = []
    for alias in sorted(aliases):
        if not kept or not alias.startswith(kept[-1]):
            kept.append(alias)
    return list(dict.fromkeys(plain_words(alias).strip() for alias in kept))


def prompt(row: dict[str, Any], task_name: str) -> Doc:
    """The question; every choice is a gold. The reference is the answer as the benchmark writes it (`value`)."""
    answer = field(row, "answer")
    if not isinstance(answer, Mapping):
        raise ValueError("'answer' has no list of aliases")
    aliases = texts(answer, "aliases")
    golds = gold_aliases(aliases)
    return Doc(
        task_name=task_name,
        query=f"Question: {text(row, 'question')}\nAnswer:",
        choices=golds,
        gold_index=list(range(len(golds))),
        specific={"reference": f" {answer.get('value') or aliases[0]}"},
    )


def reference(doc: Doc) -> str:
    """The answer as the benchmark writes it, not made plain."""
    return str((doc.specific or {})["reference"])


TASK = generative_task(
    name="trivia_qa",
    prompt=prompt,
    repo="mandarjoshi/trivia_qa",
    subset="rc.nocontext",
    revision="0f7faf33a3908546c6fd5b73a660e0f8ff173c2f",
    split="validation",
    docs=17944,
    columns=("question", "answer"),
    metrics=("alias_match",),
    budget=20,
    stops=("Question:", "Question"),
    reference=reference,
)
