"""Reads result folders (results/README.md) and believes nothing: what is shown is recomputed from the docs' scores.

`load_run` refuses, with one line, a folder that is truncated, edited, of another schema, or that points outside itself.

What that protects. Every row is averaged again from its samples. Every doc's score that has a formula
(evals/core/metric.py) is computed again from the columns that it follows from: log-probabilities and choices, or the
answer, against the gold. A run without these columns is refused, unless it is a blessed baseline, which keeps scores
alone and can be no gate's candidate. So a value cannot be edited in run.json, nor a score in the samples beside
unchanged answers, nor can the evidence be dropped; and a row of a card is of the card's metric and tasks.

What it does not. Scores without a formula (an instruction checker's, which needs the task) and a judge's ratings are
only averaged again. A baseline's scores are believed: keep baselines under version control. Answers, log-probabilities
or golds that were made up together with their scores look like a run: only measuring again tells. Two runs are compared
on docs of the same prompt hashes; the hashes themselves are not computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core import statistics
from evals.core.card import Card, all_cards
from evals.core.errors import UserError
from evals.core.metric import METRICS, Metric
from evals.core.runlog import DOUBTS, FILE, ModelLog, Note, RowLog, RunLog, inside, read_log, refuse
from evals.core.statistics import Estimate

if TYPE_CHECKING:
    import pyarrow

MAX_TABLE_BYTES = 8 << 30
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class RowResult:
    """One row as measured: `value` and `stderr` in the shown unit, recomputed from the docs; None: no value."""

    label: str
    value: float | None
    stderr: float | None
    n: int
    metric: Metric
    tasks: tuple[str, ...]
    notes: tuple[Note, ...]

    @property
    def estimate(self) -> Estimate | None:
        """The row's value with its error, or None."""
        return None if self.value is None else Estimate(self.value, self.stderr, self.n)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval in the shown unit."""
        estimate = self.estimate
        return None if estimate is None else statistics.row_interval(self.metric, len(self.tasks), estimate)

    @property
    def doubts(self) -> tuple[Note, ...]:
        """The notes for which the row is not comparable with the card as it stands."""
        return tuple(note for note in self.notes if note.code in DOUBTS)

    def has(self, code: str) -> bool:
        """Whether one of its notes has that code."""
        return any(note.code == code for note in self.notes)


@dataclass(frozen=True, eq=False)
class Run:
    """A result folder that was checked: its log, and its rows recomputed. Samples are read when asked for."""

    log: RunLog
    rows: tuple[RowResult, ...]
    _cache: dict[str, Columns] = field(default_factory=dict, repr=False)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.log.folder

    @property
    def model(self) -> ModelLog:
        """Which model was measured."""
        return self.log.model

    @property
    def name(self) -> str:
        """The model's name (text from outside: escape it)."""
        return self.log.model.name

    @property
    def suite(self) -> str:
        """The card's name."""
        return self.log.suite

    @property
    def card(self) -> Card:
        """The card that was measured."""
        return self.log.measured_card

    @property
    def smoke(self) -> bool:
        """Whether the docs are the built-in items, not the benchmarks."""
        return self.log.data.source == "smoke"

    @property
    def foreign(self) -> bool:
        """Whether another harness measured it, whose log was imported."""
        return self.log.data.source == "foreign"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks with samples."""
        return tuple(self.log.tasks)

    def row(self, label: str) -> RowResult | None:
        """The row of that label, or None."""
        return next((row for row in self.rows if row.label == label), None)

    def table(self, task: str, columns: Sequence[str] | None = None) -> pyarrow.Table:
        """The samples of a task as an arrow table (those of `columns` that the file has). Raises UserError."""
        import pyarrow
        from pyarrow import parquet

        name, n = f"samples/{task}.parquet", self.log.tasks[task].n
        path = inside(self.folder, name)
        try:
            with parquet.ParquetFile(path) as file:
                meta, have = file.metadata, file.schema_arrow.names
                if meta.num_rows != n:
                    refuse(self.folder, f"{name} has {meta.num_rows} lines, run.json says {n}")
                if (
                    sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
                    > MAX_TABLE_BYTES
                ):
                    refuse(self.folder, f"{name} is too large")
                if len(set(have)) < len(have):
                    refuse(self.folder, f"{name} has two columns of one name")
                wanted = have if columns is None else [column for column in columns if column in have]
                return file.read(columns=wanted)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            refuse(self.folder, f"{name} cannot be read ({' '.join(str(error).split())[:120]})")

    def columns(self, task: str) -> Columns:
        """The score columns of a task, with `doc_id`, `prompt_hash` and `group`."""
        if task not in self._cache:
            known = [metric.column for metric in METRICS.values() if metric.column]
            table = self.table(task, list(dict.fromkeys(["doc_id", "prompt_hash", "group", *known])))
            for name in ("doc_id", "prompt_hash"):
                if name not in table.column_names:
                    refuse(self.folder, f"samples/{task}.parquet has no column '{name}'")
            self._cache[task] = {name: table.column(name).to_pylist() for name in table.column_names}
        return self._cache[task]

    def about(self) -> dict[str, Any]:
        """What was measured, for a report's data."""
        return {"model": self.model.model_dump(), "folder": self.folder.name, "limit": self.log.limit}

    def samples(self, tasks: Sequence[str]) -> list[Columns]:
        """The score columns of these tasks."""
        return [self.columns(task) for task in tasks]


def cards_of(runs: Iterable[Run]) -> dict[str, Card]:
    """The cards of these runs by name: those that ship in their order, then the others by name."""
    found = {run.suite: run.card for run in runs}
    shipped = [card.name for card in all_cards() if card.name in found]
    return {name: found[name] for name in [*shipped, *sorted(found.keys() - set(shipped))]}


def find_runs(folder: Path) -> list[Path]:
    """Run folders in or below `folder`, sorted; hidden folders and the blessed baselines are left out."""
    if not folder.is_dir():
        raise UserError(f"no folder '{folder}': give a folder that holds runs")
    found = []
    for path in folder.rglob(FILE):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts) and "baselines" not in parts:
            found.append(path.parent)
    return sorted(found)


def load_run(folder: Path) -> Run:
    """Reads and checks a run folder; every value is recomputed from its samples. Raises UserError, one line."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no run folder '{folder}': give a folder that holds {FILE}")
    run = Run(read_log(folder), ())
    try:
        for task in run.tasks:
            _check_task(run, task)
        rows = tuple(_row(run, row) for row in run.log.rows)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # a column of a type that no score has: everything foreseen was refused with its own words
        refuse(folder, f"its samples cannot be scored ({type(error).__name__}: {str(error)[:120]})")
    return replace(run, rows=rows)


# --- samples --------------------------------------------------------------------------------------


def _check_task(run: Run, task: str) -> None:
    where, columns = f"samples/{task}.parquet", run.columns(task)
    ids, hashes = columns["doc_id"], columns["prompt_hash"]
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < 2**63 for i in ids):
        refuse(run.folder, f"{where} has a doc_id that is no row number")
    if len(set(ids)) < len(ids):
        refuse(run.folder, f"{where} has a doc_id twice")
    if not all(isinstance(one, str) for one in hashes):
        refuse(run.folder, f"{where} has a line without prompt_hash")
    for metric in METRICS.values():
        if not all(map(metric.valid, columns.get(metric.column, ()))):
            words = "{} or {}" if metric.binary else "from {} to {}"
            values = words.format(f"{metric.low:g}", f"{metric.high:g}")
            each = " in every item" if metric.shape == "items" else ""
            refuse(run.folder, f"{where}: a score in column '{metric.column}' is not {values}{each}")
    _check_scores(run, task)
    measured = statistics.summarize_task(columns) if ids else {}
    for name, logged in run.log.tasks[task].metrics.items():
        if name not in measured or not _same(measured[name]["value"], logged.value):
            refuse(run.folder, f"{where} does not give run.json's {name!r:.60} of {logged.value}")


def _check_scores(run: Run, task: str) -> None:
    """Every doc is scored again where its score has a formula."""
    columns, where = run.columns(task), f"samples/{task}.parquet"
    scored = [m for m in METRICS.values() if m.formula is not None and m.column in columns]
    inputs = list(dict.fromkeys(name for metric in scored for name in metric.inputs))
    table = run.table(task, inputs)
    missing = [name for name in inputs if name not in table.column_names]
    if missing and not (run.log.blessed_from and len(missing) == len(inputs)):
        refuse(run.folder, f"{where} has no column '{missing[0]}', from which its scores follow")
    if missing:
        return
    for name in inputs:
        if not _all_finite(table.column(name)):
            refuse(run.folder, f"{where}: a doc cannot be scored: a missing or infinite value in its {name}")
    lines = (line for batch in table.to_batches(max_chunksize=2000) for line in batch.to_pylist())
    for position, line in enumerate(lines):
        for metric in scored:
            if not _same(_score(run, where, metric, line), columns[metric.column][position]):
                which = f"the score '{metric.column}' of doc {columns['doc_id'][position]}"
                refuse(run.folder, f"{where}: {which} does not follow from its {' and '.join(metric.inputs)}")


def _all_finite(column: pyarrow.ChunkedArray) -> bool:
    """Whether every value is there and no number is infinite, in lists as well."""
    from pyarrow import compute, types

    while types.is_list(column.type) or types.is_large_list(column.type):
        if column.null_count:
            return False
        column = compute.list_flatten(column)
    numbers = types.is_floating(column.type)
    return not column.null_count and not (
        numbers and compute.any(compute.invert(compute.is_finite(column))).as_py()
    )


def _score(run: Run, where: str, metric: Metric, line: Mapping[str, Any]) -> float:
    assert metric.formula is not None
    try:
        return metric.formula(line)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {str(error)[:80]}"
    refuse(run.folder, f"{where}: a doc cannot be scored from its {', '.join(metric.inputs)} ({what})")


def _same(first: float | None, second: float | None) -> bool:
    return (
        first is not None and second is not None and math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9)
    )


def _row(run: Run, row: RowLog) -> RowResult:
    tasks, notes, printed = tuple(row.tasks), tuple(row.notes), run.card.row(row.label)
    if printed is not None and (row.metric != printed.metric or not set(tasks) <= set(printed.tasks)):
        refuse(run.folder, f"row {row.label!r:.60} has another metric or other tasks than the card's")
    if row.value is None:
        return RowResult(row.label, None, None, row.n, row.of, tasks, notes)
    if not tasks or not set(tasks) <= set(run.tasks):
        refuse(run.folder, f"row {row.label!r:.60} has a value but not the samples of its tasks")
    measured = statistics.summarize_row(row.of, {task: run.columns(task) for task in tasks})
    if not _same(measured["value"], row.value):
        refuse(run.folder, f"the samples give {measured['value']} for row {row.label!r:.60}, not {row.value}")
    value, stderr, n = measured["value"], measured["stderr"], measured["n"]
    assert isinstance(n, int)
    return RowResult(row.label, value, stderr, n, row.of, tasks, notes)


# --- two runs -------------------------------------------------------------------------------------


def aligned(first: Run, second: Run, task: str, any_prompt: bool = False) -> tuple[list[int], list[int], int]:
    """Positions in each run's columns of the docs that both have with the same prompt, and how many prompts differ.

    Prompts are the same when one's hash begins with the other's (baselines keep the first digits). `any_prompt` pairs
    docs by their number alone.
    """
    theirs = {doc: k for k, doc in enumerate(second.columns(task)["doc_id"])}
    hashes = first.columns(task)["prompt_hash"], second.columns(task)["prompt_hash"]
    mine, other, differ = [], [], 0
    for position, doc in enumerate(first.columns(task)["doc_id"]):
        match = theirs.get(doc)
        if match is None:
            continue
        short, long = sorted((hashes[0][position], hashes[1][match]), key=len)
        same = bool(short) and long.startswith(short)
        differ += not same
        if same or any_prompt:
            mine.append(position)
            other.append(match)
    return mine, other, differ


def shared_columns(
    first: Run, second: Run, task: str, any_prompt: bool = False
) -> tuple[Columns, Columns] | None:
    """Both runs' score columns of a task's docs that they share, in the same order and groups; None: they share none.

    A ratio is linearised about its value on the shared docs: so these are picked before docs are scored.
    """
    if task not in first.tasks or task not in second.tasks:
        return None
    mine, other, _ = aligned(first, second, task, any_prompt)
    if not mine:
        return None
    one, two = (
        {name: [values[k] for k in positions] for name, values in run.columns(task).items()}
        for run, positions in ((first, mine), (second, other))
    )
    return one, two | {name: one[name] for name in ("group",) if name in one}
