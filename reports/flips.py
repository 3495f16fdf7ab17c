"""The docs whose score changed between two runs: prompt, both answers, both scores."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.render.tables import markdown_text
from reports.runs import RowResult, Run, aligned, paired_scores

MAX_CHARS = 4000


@dataclass(frozen=True)
class Flip:
    """One doc of a task: what was asked, the right answer, both answers, both scores (null text: a baseline)."""

    row: str
    task: str
    doc_id: int
    prompt: str | None
    gold: str | None
    first: str | None
    second: str | None
    first_score: float
    second_score: float


def find_flips(first: Run, second: Run, most: int) -> list[Flip]:
    """Up to `most` changed docs a task, those that turned worse first, in evaluation order."""
    flips = []
    for row in first.rows:
        for task in row.tasks:
            scores = paired_scores(first, second, row.metric, task)
            if scores is not None:
                flips += _of_task(first, second, row, task, scores[1] - scores[0], most)
    return flips


def _of_task(first: Run, second: Run, row: RowResult, task: str, change: np.ndarray, most: int) -> list[Flip]:
    mine, other, _ = aligned(first, second, task)
    order = [k for k in np.argsort(np.sign(change), kind="stable").tolist() if abs(change[k]) > 1e-12][:most]
    if not order:
        return []
    texts = [
        _texts(run, task, [positions[k] for k in order])
        for run, positions in ((first, mine), (second, other))
    ]
    scores = [run.scores(task, row.metric) for run in (first, second)]
    return [
        Flip(
            row.label,
            task,
            first.columns(task)["doc_id"][mine[k]],
            a["prompt"] or b["prompt"],
            a["gold"] or b["gold"],
            a["answer"],
            b["answer"],
            float(scores[0][mine[k]]),
            float(scores[1][other[k]]),
        )
        for k, a, b in zip(order, *texts, strict=True)
    ]


def _texts(run: Run, task: str, positions: list[int]) -> list[dict[str, str | None]]:
    wanted = ("prompt", "gold", "choices", "logprobs", "prediction", "output", "output_turn_2")
    return [_words(line) for line in run.table(task, wanted).take(positions).to_pylist()]


def _words(line: dict[str, Any]) -> dict[str, str | None]:
    gold, choices, prediction = line.get("gold"), line.get("choices"), line.get("prediction")
    answer = line.get("output")
    if line.get("output_turn_2") is not None:
        answer = f"{answer}\n--- second turn ---\n{line['output_turn_2']}"
    if choices is not None and prediction is not None:
        sums = line.get("logprobs") or [None] * len(choices)
        answer = "\n".join(
            f"{'>' if k == prediction else ' '} {choice}" + ("" if nats is None else f"  ({nats:.3f} nats)")
            for k, (choice, nats) in enumerate(zip(choices, sums, strict=False))
        )
        gold = choices[gold] if isinstance(gold, int) and 0 <= gold < len(choices) else gold
    if isinstance(gold, list):
        gold = " | ".join(map(str, gold))
    return {"prompt": line.get("prompt"), "gold": None if gold is None else str(gold), "answer": answer}


def flips_markdown(first: Run, second: Run, most: int) -> str:
    """The changed docs as markdown; texts stand in fences that they cannot close."""
    blocks = ["## Docs whose score changed", ""]
    for flip in find_flips(first, second, most):
        title = f"### {markdown_text(flip.row)}, {flip.task}, doc {flip.doc_id}"
        blocks.append(f"{title}: {flip.first_score:g} → {flip.second_score:g}")
        parts = {"Prompt": flip.prompt, "Right answer": flip.gold, "A": flip.first, "B": flip.second}
        for name, text in parts.items():
            if text is not None:
                blocks += [f"{name}:", fenced(text)]
        blocks.append("")
    if len(blocks) == 2:
        blocks.append("None.")
    return "\n".join(blocks).rstrip() + "\n"


def fenced(text: str) -> str:
    """Any text as a code block: control characters shown, long texts cut, the fence longer than any inside."""
    if len(text) > MAX_CHARS:
        text = (
            f"{text[: MAX_CHARS // 2]}\n[… {len(text) - MAX_CHARS} characters …]\n{text[-MAX_CHARS // 2 :]}"
        )
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
