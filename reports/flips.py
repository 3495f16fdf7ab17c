"""The docs whose own scores changed between two runs: the question, both answers, both scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.core.metric import METRICS, Metric
from evals.core.statistics import Array
from reports.questions import question
from reports.render.tables import markdown_text, one_line
from reports.runs import Columns, RowResult, Run, aligned, shared_columns

MAX_CHARS = 1200


@dataclass(frozen=True)
class Flip:
    """A doc of a task: what was asked (worked examples left out), the right answer, both answers and scores.

    Null texts: a baseline has none. A score is what the doc's line holds: a number, a list of its items' numbers, or
    both by column where the metric is of parts. `change`: "worse", "better", or "changed" (as good, but another).
    """

    row: str
    task: str
    doc_id: int
    change: str
    shots: int
    question: str | None
    gold: str | None
    first: str | None
    second: str | None
    first_score: Any
    second_score: Any


def changed_docs(metric: Metric, first: Mapping[str, Any], second: Mapping[str, Any]) -> Array:
    """Which docs have other scores of their own in the second run, [n_docs]; the columns hold the same docs."""
    columns = [name for name in metric.columns if name in first and name in second]
    n = len(first[columns[0]]) if columns else 0
    return np.array(
        [any(first[name][k] != second[name][k] for name in columns) for k in range(n)], dtype=bool
    )


def doc_losses(metric: Metric, first: Columns, second: Columns) -> Array:
    """By how much each doc turned worse, over all parts of the metric, [n_docs]; 0 where a score is missing."""
    sides = [_lines(metric, columns) for columns in (first, second)]
    return np.array([_loss(metric, *pair) for pair in zip(*sides, strict=True)])


def _lines(metric: Metric, columns: Columns) -> list[dict[str, Any]]:
    """The metric's columns a doc; none where the run does not have them all."""
    names = metric.columns
    if not all(name in columns for name in names):
        return []
    return [
        dict(zip(names, values, strict=True)) for values in zip(*(columns[n] for n in names), strict=True)
    ]


def _loss(metric: Metric, before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    total = 0.0
    for part in [METRICS[name] for name in metric.parts] or [metric]:
        values = part.doc_value(before), part.doc_value(after)
        if values[0] is not None and values[1] is not None:
            total += part.loss(values[0], values[1])
    return total


def find_flips(first: Run, second: Run, most: int) -> list[Flip]:
    """Up to `most` changed docs a task in evaluation order: as many that turned worse as better, where there are."""
    tasks = [(row, task) for row in first.rows for task in row.tasks]
    return [flip for row, task in tasks for flip in _of_task(first, second, row, task, most)]


def _of_task(first: Run, second: Run, row: RowResult, task: str, most: int) -> list[Flip]:
    shared = shared_columns(first, second, task)
    if shared is None:
        return []
    losses, changed = doc_losses(row.metric, *shared), changed_docs(row.metric, *shared)
    order = _chosen(losses, changed, most) if len(losses) else []
    if not order:
        return []
    mine, other, _ = aligned(first, second, task)
    texts = [
        _texts(run, task, [positions[k] for k in order])
        for run, positions in ((first, mine), (second, other))
    ]
    lines = [_lines(row.metric, columns) for columns in shared]
    shots = first.log.tasks[task].settings.get("shots")
    shots = shots if isinstance(shots, int) else 0
    flips = []
    for k, a, b in zip(order, *texts, strict=True):
        change = "worse" if losses[k] > 0 else "better" if losses[k] < 0 else "changed"
        prompt = a["prompt"] or b["prompt"]
        asked = None if prompt is None else question(prompt, shots)
        scores = [side[k] if row.metric.parts else side[k][row.metric.column] for side in lines]
        answers = a["gold"] or b["gold"], a["answer"], b["answer"]
        flips.append(Flip(row.label, task, shared[0]["doc_id"][k], change, shots, asked, *answers, *scores))
    return flips


def _chosen(losses: Array, changed: Array, most: int) -> list[int]:
    """Positions of the docs to show: worse ones, better ones, then those that only changed."""
    worse, better, other = (
        np.flatnonzero(changed & test).tolist() for test in (losses > 0, losses < 0, losses == 0)
    )
    gains = min(len(better), max(most // 2, most - len(worse)))
    picked = worse[: most - gains] + better[:gains]
    return picked + other[: most - len(picked)]


def _texts(run: Run, task: str, positions: list[int]) -> list[dict[str, str | None]]:
    wanted = ("doc_id", "prompt", "gold", "choices", "logprobs", "prediction", "output", "output_turn_2")
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


# --- as text --------------------------------------------------------------------------------------


def flips_markdown(first: Run, second: Run, most: int, name: str = "B") -> str:
    """The changed docs as markdown; texts stand in fences that they cannot close."""
    blocks = [f"## Docs whose score changed from A to {name}", ""]
    for flip in find_flips(first, second, most):
        title = f"### {flip.change}: {markdown_text(flip.row)}, {flip.task}, doc {flip.doc_id}"
        blocks.append(f"{title}: {_change(flip.first_score, flip.second_score)}")
        if flip.question is not None:
            left_out = f" (after {flip.shots} worked examples)" if flip.shots else ""
            blocks += [f"Question{left_out}:", fenced(flip.question)]
        if flip.gold:
            blocks.append(f"Right answer: {markdown_text(one_line(flip.gold)[:200])}")
        for side, text in (("A", flip.first), (name, flip.second)):
            if text is not None:
                blocks += [f"{side}:", fenced(text)]
        blocks.append("")
    if len(blocks) == 2:
        blocks.append("None.")
    return "\n".join(blocks).rstrip() + "\n"


def _change(before: Any, after: Any) -> str:
    """A doc's change in words: "1 → 0", "2/3 → 1/3" of items right, "7, 9 → 5, 9"; of parts, each with its name."""
    if isinstance(before, dict):
        return ", ".join(f"{name} {_change(before[name], after[name])}" for name in before)
    texts = _said(before), _said(after)
    if texts[0] == texts[1] and before != after:  # as many of the items are right, but others
        texts = str(before), str(after)
    return " → ".join(texts)


def _said(score: Any) -> str:
    if isinstance(score, list) and score and set(score) <= {0, 1}:
        return f"{sum(score):g}/{len(score)}"
    return (", ".join(map(_said, score)) or "none") if isinstance(score, list) else f"{score:g}"


def fenced(text: str) -> str:
    """Any text as a code block: control characters shown, long texts cut, the fence longer than any inside."""
    if len(text) > MAX_CHARS:
        cut = f"\n[… {len(text) - MAX_CHARS:,} characters …]\n"
        text = text[: MAX_CHARS // 2] + cut + text[-MAX_CHARS // 2 :]
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
