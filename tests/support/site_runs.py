"""Made-up runs with texts, for the tests of the leaderboard and its site: made_runs builds run.json from them.

The docs of a task are the same for every run, and hard docs are hard for all.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from evals.core import statistics
from evals.core.card import load_card
from evals.core.metric import get_metric
from evals.run import samples
from reports.boards import Board, build_boards, latest
from reports.runs import load_run
from tests.support import made_runs
from tests.support.made_runs import GENERATED, digest, edit

EVIL = "</script><script>alert(1)</script><!--\u2028<img src=x onerror=alert(2)>"
"""Text that tries to leave a script or an element."""
WORDS = (
    "small",
    "lamp",
    "river",
    "stone",
    "green",
    "window",
    "quiet",
    "market",
    "paper",
    "winter",
    "bridge",
    "café",
)
CATEGORIES = ("writing", "roleplay", "math", "coding")


@dataclass(frozen=True)
class MadeRun:
    """What a made-up run is made of; `skill` is about the share of docs it gets right."""

    model: str
    suite: str = "base"
    skill: float = 0.5
    sizes: Mapping[str, int] = field(default_factory=dict)
    size: int = 40  # docs of a task that `sizes` does not name
    rows: Sequence[str] = ()  # labels; none: all of the suite
    limit: int | None = None
    source: str = "folder"
    dtype: str = "bfloat16"
    quantization: str | None = None
    variant: Sequence[str] = ()
    subset: Sequence[str] = ()  # labels of rows on a part of the official docs
    missing: Sequence[str] = ()  # labels of rows without data
    time: str = "20260102T030405Z"
    seed: int = 0
    output: str = ""  # stands before every fifth generated answer


def make_run(results: Path, made: MadeRun) -> Path:
    """Writes the folder of one run below `results`; returns it."""
    folder = results / made.model.replace("/", "_") / f"{made.time}-{made.suite}"
    (folder / "samples").mkdir(parents=True)
    labels = made.rows or [row.label for row in load_card(made.suite).rows]
    base = made_runs.Made(
        suite=made.suite,
        labels=labels,
        name=made.model,
        missing=made.missing,
        model={"dtype": made.dtype, "quantization": made.quantization, "parameters": 135_000_000},
        data={"source": made.source},
        limit=made.limit,
        variant=made.variant,
    )
    columns = {
        task: _columns(task, made) for row in base.rows if row.label not in made.missing for task in row.tasks
    }
    for task, values in columns.items():
        (folder / "samples" / f"{task}.parquet").write_bytes(samples.to_parquet(values))
    record = made_runs.record(base, columns)
    for row in record["rows"]:
        row["notes"] += _notes(row["label"], made)
    for task, entry in record["tasks"].items():
        entry["settings"]["shots"] = 5 if task == "gsm8k" else 3 if task.startswith("bbh_") else 0
    date, clock = made.time[:8], made.time[9:15]
    record["provenance"]["finished"] = (
        f"{date[:4]}-{date[4:6]}-{date[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:]}Z"
    )
    (folder / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return folder


def boards_of(results: Path, *made: MadeRun, every: bool = False) -> list[Board]:
    """The boards of these runs."""
    runs = [load_run(make_run(results, one)) for one in made]
    return build_boards(runs if every else latest(runs))


def edit_run(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Lets `change` alter the parsed run.json in place."""
    return edit(folder, change)


def judge(folder: Path, name: str, rating: float) -> Path:
    """Has the run's MT-Bench answers rated by a made-up judge: all alike, but for the first one's second turn."""
    columns = read_samples(folder, "mt_bench")
    columns["judge_score"] = [[rating, 9.0 if k == 0 else rating] for k in range(len(columns["doc_id"]))]
    (folder / "samples" / "mt_bench.parquet").write_bytes(samples.to_parquet(columns))
    series = {"judge": name, "prompt_set": "single-v1", "prompt_set_sha256": "ab" * 32}

    def change(run: dict[str, Any]) -> None:
        row = next(row for row in run["rows"] if row["label"] == "MT-Bench")
        value = statistics.summarize_row(get_metric("judge_score"), {"mt_bench": columns})
        counts = {"same_as_published": False, "judgments": 2, "unrated": 1, "refused": 0, "cut": 0}
        judged = {**series, **counts, "value": value["value"]}
        row.update(value, notes=[{"code": "judge", "text": f"judge {name}, {rating} of them unrated"}])
        run["tasks"]["mt_bench"].update(metrics=statistics.summarize_task(columns), judges=[judged])

    question = columns["question_id"][0]
    lines = [
        {"question_id": question, "turn": turn, **series, "score": score, "judgment": text}
        for turn, score, text in ((1, rating, "<b>good</b>"), (2, -1.0, "?"))
    ]
    parquet.write_table(pyarrow.Table.from_pylist(lines), folder / "judgments.parquet")
    return edit(folder, change)


def read_samples(folder: Path, task: str) -> dict[str, list[Any]]:
    """The columns of a task's samples."""
    return parquet.read_table(folder / "samples" / f"{task}.parquet").to_pydict()


def _notes(label: str, made: MadeRun) -> list[dict[str, str]]:
    found = (
        ("limit", f"only the first {made.limit} docs of each task", made.limit is not None),
        ("smoke", "built-in smoke items, not the benchmark", made.source == "smoke"),
        ("quantized", f"{made.quantization} weights", made.quantization is not None),
        ("subset", "not the official row list", label in made.subset),
        ("variant", f"variant {', '.join(made.variant)}", bool(made.variant)),
    )
    return [{"code": code, "text": text} for code, text, on in found if on and label not in made.missing]


def _columns(task: str, made: MadeRun) -> dict[str, list[Any]]:
    docs = random.Random(f"docs {task}")
    answers = random.Random(f"answers {task} {made.model} {made.seed}")
    size = made.sizes.get(task, made.size)
    lines = []
    for position in range(size if made.limit is None else min(made.limit, size)):
        line, ease = _doc(task, position, docs), docs.random()
        line["prompt_hash"] = digest(f"{task}{line['prompt']}{made.suite}{made.variant}")[:16]
        right = 0.5 * ease + 0.5 * answers.random() < made.skill
        lines.append(line | _answer(task, line, right, answers, made.output if position % 5 == 0 else ""))
    return {name: [line[name] for line in lines] for name in lines[0]}


def _doc(task: str, position: int, docs: random.Random) -> dict[str, Any]:
    words = [docs.choice(WORDS) for _ in range(3)]
    question = f"The {words[0]} {words[1]} number {position} is near the {words[2]}?"
    asked = f"Question: {question}\nAnswer:"
    doc: dict[str, Any] = {"doc_id": position * 7919 % 100_003, "group": None}
    if task == "mt_bench":
        turns = [question, f"Now again, in {docs.choice(WORDS)} words."]
        doc |= {"group": CATEGORIES[position % len(CATEGORIES)], "question_id": 81 + position}
        return doc | {"prompt": question, "turns": turns, "reference": []}
    if task == "ifeval":
        return doc | {
            "prompt": f"{question} Answer in two lines, without commas.",
            "gold": [],
            "item_names": ["two_lines", "no_commas"],
        }
    if task in GENERATED or task.startswith("bbh_"):
        shots = [f"Question: What is {k} plus {k}?\nAnswer: It is {2 * k}. #### {2 * k}" for k in range(1, 6)]
        prompt = asked if task == "trivia_qa" else "\n\n".join([*shots, asked])
        number = docs.randrange(1000)
        return doc | {"prompt": prompt, "gold": [f"#### {number}" if task == "gsm8k" else f"count {number}"]}
    if task == "mmlu":
        subject = ("law", "physics", "art")[position % 3]
        doc["group"], asked = subject, f"The following are questions about {subject}.\n{asked}"
    choices = [f" {word} {docs.choice(WORDS)}" for word in docs.sample(WORDS, 4)]
    return doc | {"prompt": asked, "choices": choices, "gold": docs.randrange(4)}


def _answer(
    task: str, doc: Mapping[str, Any], right: bool, answers: random.Random, insert: str
) -> dict[str, Any]:
    if "choices" in doc:
        return _chosen(doc, right, answers)
    wrong = f"{insert} Count the {answers.choice(WORDS)} first. #### {answers.randrange(1000, 2000)}"
    output = wrong
    if right and doc.get("gold"):
        output = f"{insert} {doc['gold'][0]}" if task == "gsm8k" else f" {doc['gold'][0]}"
    answer: dict[str, Any] = {"output": output, "n_output_tokens": len(output) // 4, "finish": "stop"}
    if task == "mt_bench":
        return answer | {"output_turn_2": wrong, "n_output_tokens_turn_2": 9, "finish_turn_2": "length"}
    if task == "ifeval":
        single = [int(right), int(right or answers.random() < 0.5)]
        items = dict.fromkeys(("inst_level_strict_acc", "inst_level_loose_acc"), single)
        return (
            answer | items | dict.fromkeys(("prompt_level_strict_acc", "prompt_level_loose_acc"), min(single))
        )
    return answer | {GENERATED.get(task, "exact_match"): int(right)}


def _chosen(doc: Mapping[str, Any], right: bool, answers: random.Random) -> dict[str, Any]:
    gold, choices = doc["gold"], doc["choices"]
    prediction = gold if right else (gold + answers.randrange(1, len(choices))) % len(choices)
    logprobs = [-1.2 * (len(choice) - 1) for choice in choices]
    logprobs[prediction] *= 0.6
    scores = {"acc": int(logprobs.index(max(logprobs)) == gold), "acc_norm_nospace": int(right)}
    return {"logprobs": logprobs, "n_tokens": [3] * len(choices), "prediction": prediction} | scores
