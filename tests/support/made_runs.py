"""Small result folders in the format of results/README.md, made up here: no text of a data set, no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from evals.core import statistics
from evals.core.card import Card, Row, load_card
from evals.core.runlog import SCHEMA_VERSION

GENERATED = {"trivia_qa": "alias_match", "gsm8k": "final_answer_match"}
SIZES = {"hellaswag": 400, "mmlu": 400, "arc_easy": 200, "arc_challenge": 100}


@dataclass(frozen=True)
class Made:
    """A made-up run. `scores` {task: a doc's score each, mostly 0 or 1} overrides what `share` and `seed` would draw.

    `card`: one that does not ship; `answers(task, scores)` then gives the columns that a task's scores follow from.
    """

    suite: str = "base"
    card: Card | None = None
    answers: Callable[[str, Sequence[float]], dict[str, list]] | None = None
    labels: Sequence[str] = ("HellaSwag", "ARC (Average)", "PIQA", "TriviaQA")
    name: str = "tiny"
    share: float = 0.45
    seed: int = 0
    size: int = 120
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    missing: Sequence[str] = ()
    notes: Sequence[tuple[str, str]] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    variant: Sequence[str] = ()
    prompts: str = ""
    stamp: str = "20260304T050607Z"

    @property
    def measured(self) -> Card:
        return self.card or load_card(self.suite)

    @property
    def rows(self) -> list[Row]:
        return [row for row in self.measured.rows if self.card or row.label in self.labels]


def build(results: Path, made: Made) -> Path:
    """Writes the run below `results`; returns its folder."""
    folder = results / made.name / f"{made.stamp}-{made.measured.name}"
    (folder / "samples").mkdir(parents=True)
    columns = {
        t: task_columns(t, made) for row in made.rows for t in row.tasks if row.label not in made.missing
    }
    for task, values in columns.items():
        parquet.write_table(pyarrow.table(values), folder / "samples" / f"{task}.parquet")
    (folder / "run.json").write_text(json.dumps(record(made, columns), indent=1), encoding="utf-8")
    return folder


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Lets `change` alter the parsed run.json in place."""
    path = folder / "run.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return folder


def edit_samples(folder: Path, task: str, change: Callable[[dict[str, list]], Any]) -> Path:
    """Lets `change` alter the columns of a task's samples in place."""
    path = folder / "samples" / f"{task}.parquet"
    columns = parquet.read_table(path).to_pydict()
    change(columns)
    parquet.write_table(pyarrow.table(columns), path)
    return folder


def record(made: Made, columns: Mapping[str, Mapping[str, list]]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        **({"card": made.card.model_dump(mode="json")} if made.card else {}),
        "model": {
            "name": made.name,
            "source": "folder:tiny",
            "revision": None,
            "fingerprint": f"sha256:{digest(made.name)}",
            "dtype": "float32",
            "chat": made.measured.chat,
            "quantization": None,
            "card_column": None,
            "parameters": 1000,
            **made.model,
        },
        "suite": made.measured.name,
        "limit": made.limit,
        "data": {
            "source": "folder",
            "tasks": {task: data_record(task, c) for task, c in columns.items()},
            **made.data,
        },
        "tasks": {
            task: {
                "n": len(c["doc_id"]),
                "metrics": statistics.summarize_task(c),
                "settings": {"shots": 0, "max_new_tokens": None, "stops": []},
            }
            for task, c in columns.items()
        },
        "rows": [row_record(row, made, columns) for row in made.rows],
        "provenance": {
            "versions": dict.fromkeys(("project", "python", "lighteval", "transformers", "torch"), "1"),
            "git": {"commit": "0" * 40, "dirty": False},
            "chat_template_sha256": None,
            "prompt_hashes": {task: digest("".join(c["prompt_hash"])) for task, c in columns.items()},
            "device": "cpu",
            "threads": 2,
            "seeds": {"shuffle": 42},
            "variant": list(made.variant),
            "engine": "prefix 1",
            "started": "2026-03-04T05:06:07Z",
            "finished": "2026-03-04T05:07:07Z",
        },
        "timing": {"total_seconds": 60.0, "phases": {}, "tasks": {}},
    }


def data_record(task: str, columns: Mapping[str, list]) -> dict[str, Any]:
    rows = len(columns["doc_id"])
    return {
        "repo": f"hub/{task.split('_')[0]}",
        "subset": task,
        "split": "test",
        "revision": None,
        "sha256": {f"{task}.parquet": digest(task)},
        "rows": rows,
        "official_rows": rows,
        "complete": True,
        "note": None,
    }


def row_record(row: Row, made: Made, columns: Mapping[str, Mapping[str, list]]) -> dict[str, Any]:
    notes = [{"code": code, "text": text} for code, text in made.notes]
    value: dict[str, Any] = {"value": None, "stderr": None, "n": 0}
    if row.label in made.missing:
        notes = [{"code": "missing", "text": "no data"}]
    else:
        value = statistics.summarize_row(row.of, {task: columns[task] for task in row.tasks})
        if value["value"] is None:
            notes.append({"code": "not_judged", "text": "answers generated, not judged"})
    return {
        "label": row.label,
        **value,
        "metric": row.metric,
        "tasks": list(row.tasks),
        "notes": notes,
        "note": "; ".join(note["text"] for note in notes),
    }


def task_columns(task: str, made: Made) -> dict[str, list]:
    """The sample columns of a task: the same docs for every run, answers by `made.scores` or drawn."""
    right = made.scores.get(task)
    if right is None:
        size = made.limit or SIZES.get(task, made.size)
        draw = np.random.default_rng([made.seed, *task.encode()])
        right = (draw.random(size) < made.share).astype(int).tolist()
    ids = [position * 7 % 100_003 for position in range(len(right))]
    columns: dict[str, list] = {
        "doc_id": ids,
        "prompt_hash": [digest(f"{task} {doc} {made.suite} {made.prompts}") for doc in ids],
        "prompt": [f"Prompt {doc} of {task}" for doc in ids],
        "group": [f"group {doc % 3}" if task == "mmlu" else None for doc in ids],
    }
    if made.answers is not None:
        return columns | made.answers(task, right)
    if task == "mt_bench":
        return columns | {"question_id": ids, "output": ["so"] * len(ids)}
    if task == "ifeval":
        pairs = [[score, 1 - score] if doc % 2 else [score] for doc, score in zip(ids, right, strict=True)]
        prompt_level = [int(all(pair)) for pair in pairs]
        levels = {f"inst_level_{rule}_acc": pairs for rule in ("strict", "loose")}
        return columns | {f"prompt_level_{rule}_acc": prompt_level for rule in ("strict", "loose")} | levels
    if task in GENERATED or task.startswith("bbh_"):
        number = " #### 1" if task == "gsm8k" else ""
        return columns | {
            "gold": [[f"yes{number}"]] * len(ids),
            "output": [f"yes{number}" if score else "no" for score in right],
            GENERATED.get(task, "exact_match"): list(right),
        }
    return columns | likelihood(right)


def likelihood(right: Sequence[int]) -> dict[str, list]:
    """Two choices of equal length; the gold one is the likelier where `right` says so."""
    return {
        "gold": [0] * len(right),
        "choices": [[" left", " east"]] * len(right),
        "logprobs": [[-1.0, -2.0] if score else [-2.0, -1.0] for score in right],
        "n_tokens": [[1, 1]] * len(right),
        "prediction": [1 - score for score in right],
        "acc": list(right),
        "acc_norm_nospace": list(right),
    }


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
