"""Where a prompt's own question stands: after worked examples, and after the line that introduces it."""

from __future__ import annotations

import re

TURN = "\n\n[user]\n"
"""Where a chat's turn begins in the prompts that samples hold."""
MARK = re.compile(r"^(?:Question|Q): ?", re.MULTILINE)
ANSWER = re.compile(r"\n(?:Answer|A): ?$")


def question_start(prompt: str, shots: int) -> int:
    """The position of the question's first character; 0 where the prompt is nothing but its question.

    With worked examples: after the last "Question:", else at the last turn or paragraph. Without: after a "Question:"
    that begins the first line or the second.
    """
    turn = prompt.rfind(TURN)
    begin = turn + len(TURN) if turn >= 0 else 0
    marks = [found.end() for found in MARK.finditer(prompt, begin)]
    if shots:
        return marks[-1] if marks else begin or prompt.rfind("\n\n") + 2 * ("\n\n" in prompt)
    return next((mark for mark in marks if prompt.count("\n", begin, mark) < 2), begin)


def question(prompt: str, shots: int) -> str:
    """The question alone, without the "Answer:" that asks for one."""
    return ANSWER.sub("", prompt[question_start(prompt, shots) :]).strip()
