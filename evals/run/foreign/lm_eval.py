"""lm-eval's output folder (`--log_samples --output_path`): results_….json and a samples_….jsonl a task beside it."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from evals.run.foreign.folder import ForeignDoc, ForeignLog, ForeignTask, refuse, with_others

MAX_RESULTS, MAX_SAMPLES = 64 << 20, 4 << 30  # bytes
REPOSITORY = re.compile(r"(?!(json|parquet|csv|text|arrow)$)[\w.-]+(/[\w.-]+)?")  # and no loader of files
MAIN = ("acc_norm", "acc", "exact_match")
Given = dict[str, Any]


def read(results: Path) -> ForeignLog:
    """The log whose results file this is. Raises UserError, one line, for what cannot be taken."""
    _check_size(results, MAX_RESULTS)
    given = {"config": {}, **_json(results, results.read_bytes())}
    try:
        tasks, left_out = _tasks(results, given)
        model = _model(given)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        refuse(results, f"it does not read like lm-eval's ({type(error).__name__}: {str(error)[:80]})")
    if not tasks:
        refuse(results, f"no figure in it can be taken ({left_out[0] if left_out else 'it names no task'})")
    config = given["config"]
    return ForeignLog(
        harness="lm-eval",
        version=str(given.get("lm_eval_version") or "of unknown version"),
        model=model,
        tasks=tasks,
        chat=bool(given.get("chat_template")),
        limit=_count(config.get("limit")),
        revision=_text(config.get("model_revision")),
        fingerprint=_text(config.get("model_sha")),
        dtype=(_text(config.get("model_dtype")) or "").removeprefix("torch.") or None,
        parameters=_count(config.get("model_num_parameters")),
        engine=_text(given.get("model_source")),
        date=_date(given.get("date")),
        left_out=left_out,
    )


def _tasks(results: Path, given: Given) -> tuple[list[ForeignTask], list[str]]:
    tasks, left_out = [], []
    for name, figures in given["results"].items():
        if name not in given["configs"]:
            left_out.append(f"{name}: a mean of other tasks")
            continue
        samples, found = _samples(results, name), []
        for key, value in figures.items():
            metric, _, kept = key.partition(",")
            if not kept or metric.endswith("_stderr"):
                continue
            shown = metric if kept == "none" else f"{metric} {kept}"
            try:
                found.append(_task(given, name, shown, metric, samples[kept], value))
            except ValueError as error:
                left_out.append(f"{name}, {shown}: {error}")
        if found:
            tasks.append(with_others(sorted(found, key=_rank)))
    return tasks, left_out


def _rank(figure: ForeignTask) -> int:
    """Which figure is a task's main one: those of MAIN in their order, then the others as they stand."""
    metric = figure.metric.split(" ")[0]
    return MAIN.index(metric) if metric in MAIN else len(MAIN)


def _task(given: Given, name: str, shown: str, metric: str, lines: list[Given], value: Any) -> ForeignTask:
    """One figure. Raises ValueError, saying why, for one that is no plain mean of its docs' scores from 0 to 1."""
    if not given.get("higher_is_better", {}).get(name, {}).get(metric, True):
        raise ValueError("lower is better")
    docs = [_doc(line, metric) for line in lines]
    if not docs or len({doc.number for doc in docs}) < len(docs):
        raise ValueError("its samples are missing, or one stands in them twice")
    config, size = given["configs"][name], _count(given.get("n-samples", {}).get(name, {}).get("original"))
    repo = _text(config.get("dataset_path"))
    task = ForeignTask(
        name, shown, max(size or 0, len(docs)), docs,
        shots=_count(given.get("n-shot", {}).get(name), least=0),
        repo=repo if repo and REPOSITORY.fullmatch(repo) else None,
        subset=_text(config.get("dataset_name")),
        split=_text(config.get("test_split")) or _text(config.get("validation_split")),
    )  # fmt: skip
    if not _number(value) or not math.isclose(task.value, value, abs_tol=1e-6):
        raise ValueError("it is no mean of its docs' scores")
    return task


def _doc(line: Given, metric: str) -> ForeignDoc:
    score = line.get(metric)
    if not _number(score) or not 0 <= score <= 1:
        raise ValueError("a doc's score is no number from 0 to 1")
    number = line["doc_id"]
    if type(number) is not int or not 0 <= number < 2**62:
        raise ValueError("a doc's number is none")
    asked = line["arguments"]
    requests = list(asked.values()) if isinstance(asked, dict) else list(asked)
    parts = [list(one.values()) if isinstance(one, dict) else list(one) for one in requests]
    return ForeignDoc(
        number, parts, str(parts[0][0]), str(line.get("target")), _output(line, parts), float(score)
    )


def _output(line: Given, parts: list[list[Any]]) -> str:
    """What the model said: its text, or the likeliest of the continuations."""
    found = line["filtered_resps"]
    if found and all(isinstance(one, list) and len(one) == 2 for one in found) and len(found) == len(parts):
        return str(parts[max(range(len(found)), key=lambda i: float(found[i][0]))][1])
    return str(found[0]) if found else ""


def _samples(results: Path, task: str) -> dict[str, list[Given]]:
    """The lines of a task's samples by filter."""
    stamp = results.stem.removeprefix("results_")
    path = results.parent / f"samples_{task}_{stamp}.jsonl"
    if path.parent != results.parent or not path.is_file():
        refuse(results, f"there are no samples of '{task[:60]}' beside it: run lm-eval with --log_samples")
    _check_size(path, MAX_SAMPLES)
    found: dict[str, list[Given]] = defaultdict(list)
    with path.open("rb") as file:
        for line in file:
            sample = _json(path, line)
            found[str(sample.get("filter", "none"))].append(sample)
    return found


def _check_size(path: Path, most: int) -> None:
    if path.stat().st_size > most:
        refuse(path, f"it is larger than {most >> 20} MB")


def _json(path: Path, content: bytes) -> Given:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        refuse(path, f"it is not valid JSON ({str(error)[:80]})")
    if not isinstance(found, dict):
        refuse(path, "it holds no JSON object")
    return found


def _model(given: Given) -> str:
    """The model's name: what it was loaded from, else what lm-eval calls it."""
    arguments = given["config"].get("model_args") or {}
    if isinstance(arguments, str):
        arguments = dict(part.split("=", 1) for part in arguments.split(",") if "=" in part)
    return str(arguments.get("pretrained") or arguments.get("model") or given.get("model_name") or "unnamed")


def _date(value: Any) -> str:
    """Unix seconds as ISO 8601 in UTC; empty for what is no time."""
    with contextlib.suppress(TypeError, ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
    return ""


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _count(value: Any, least: int = 1) -> int | None:
    """A whole number of things, or None."""
    whole = _number(value) and least <= value < 2**62 and value == int(value)
    return int(value) if whole else None


def _text(value: Any) -> str | None:
    return value[:200] if isinstance(value, str) and value else None
