"""inspect_ai's logs (.eval or .json): one task a log, with one score or more."""

from __future__ import annotations

import hashlib
import re
import statistics
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.core.errors import UserError
from evals.run.foreign.folder import ForeignDoc, ForeignLog, ForeignTask, refuse, with_others

MAX_BYTES = 1 << 30
# correct, incorrect, partial, no answer: inspect's own values
WORDS = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
REPOSITORY = re.compile(r"[^/.~]+/[^/.]+")  # else it is a path
NOT_SHOWN = {"events", "store", "attachments"}  # of a sample: large, and of no use here


def read(paths: Sequence[Path]) -> ForeignLog:
    """Logs of one model as one. Raises UserError, one line, for what cannot be taken."""
    logs = [_log(path) for path in paths]
    models = {log.eval.model for log in logs}
    if len(models) > 1:
        raise UserError(
            f"'{paths[0].parent}' holds logs of several models ({', '.join(sorted(models))[:200]}): give those of one"
        )
    tasks: list[ForeignTask] = []
    left_out: list[str] = []
    for path, log in zip(paths, logs, strict=True):
        taken, reasons = _tasks(path, log)
        tasks += taken
        left_out += reasons
    if not tasks:
        refuse(paths[0], f"no score in it can be taken ({left_out[0] if left_out else 'it has none'})")
    first = logs[0].eval
    limits = {log.eval.config.limit for log in logs}
    limit = limits.pop() if len(limits) == 1 else None
    return ForeignLog(
        harness="inspect",
        version=str(first.packages.get("inspect_ai", "of unknown version")),
        model=first.model.split("/", 1)[-1],
        tasks=tasks,
        chat=True,
        limit=limit if isinstance(limit, int) and limit > 0 else None,
        engine=first.model.split("/", 1)[0],
        date=first.created,
        left_out=left_out,
    )


def _log(path: Path) -> Any:
    try:
        if _size(path) > MAX_BYTES:
            refuse(path, f"it holds more than {MAX_BYTES >> 30} GB")
        from inspect_ai.log import read_eval_log

        log = read_eval_log(str(path), exclude_fields=NOT_SHOWN)
    except ImportError as error:
        raise UserError(f"'{path}' is read by the package inspect_ai: pip install inspect_ai") from error
    except UserError:
        raise
    except Exception as error:  # whatever a broken file leads that package to
        refuse(path, f"inspect_ai cannot read it ({type(error).__name__}: {str(error)[:120]})")
    if log.status != "success":
        refuse(path, f"its evaluation ended as '{log.status}'")
    return log


def _size(path: Path) -> int:
    """Bytes, unpacked."""
    if not zipfile.is_zipfile(path):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        return sum(one.file_size for one in archive.infolist())


def _tasks(path: Path, log: Any) -> tuple[list[ForeignTask], list[str]]:
    """One task a scorer; of several epochs, a doc's score is their mean."""
    by_scorer: dict[str, dict[str, list[tuple[Any, Any]]]] = defaultdict(lambda: defaultdict(list))
    for sample in log.samples or ():
        for scorer, score in (sample.scores or {}).items():
            by_scorer[scorer][str(sample.id)].append((sample, score))
    name = log.eval.task.rsplit("/", 1)[-1]
    figures: list[ForeignTask] = []
    left_out = []
    for scorer, samples in by_scorer.items():
        try:
            docs = [_doc(each) for each in samples.values()]
        except ValueError as error:
            left_out.append(f"{name}, {scorer}: {error}")
            continue
        if len({doc.number for doc in docs}) < len(docs):
            refuse(path, "two of its samples have one number")
        size = max(log.eval.dataset.samples or 0, len(docs))
        place = log.eval.dataset.location or ""
        figures.append(
            ForeignTask(name, scorer, size, docs, repo=place if REPOSITORY.fullmatch(place) else None)
        )
    return [with_others(figures)] if figures else [], left_out


def _doc(each: Sequence[tuple[Any, Any]]) -> ForeignDoc:
    sample = each[0][0]
    asked = sample.input if isinstance(sample.input, str) else [[one.role, one.text] for one in sample.input]
    target = sample.target if isinstance(sample.target, str) else ", ".join(sample.target)
    return ForeignDoc(
        number=_number(sample.id),
        asked=[asked, sample.choices],
        prompt=asked if isinstance(asked, str) else "\n\n".join(f"[{role}]\n{text}" for role, text in asked),
        gold=target,
        output=sample.output.completion,
        score=statistics.fmean(_value(score.value) for _, score in each),
    )


def _number(identity: int | str) -> int:
    """The sample's own number, or one made of its name: the same in every log."""
    if isinstance(identity, int) and 0 <= identity < 2**32:
        return identity
    return 2**32 + int.from_bytes(hashlib.sha256(str(identity).encode()).digest()[:6])


def _value(value: Any) -> float:
    found = WORDS.get(value) if isinstance(value, str) else value
    if not isinstance(found, int | float) or not 0 <= found <= 1:
        raise ValueError(f"a score is {str(value)[:40]!r}, no number from 0 to 1")
    return float(found)
