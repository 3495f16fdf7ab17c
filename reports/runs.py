"""Reads result folders (results/README.md) and believes nothing: what is shown is recomputed from the docs'
scores.

`load_run` refuses, with one line, a folder that is truncated, edited, of another schema, or that points
outside itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core import statistics
from evals.core.errors import UserError
from evals.core.statistics import Array, Estimate
from reports.record import all_strings, inside, is_count, is_number, read_record, refuse

if TYPE_CHECKING:
    import pyarrow

DOUBTS = ("limit", "smoke", "quantized", "subset", "variant")
"""Codes of notes for which a row is not the card's measurement as it stands."""
MAX_TABLE_BYTES = 8 << 30
TEXT_COLUMNS = ("prompt", "choices", "gold", "output", "output_turn_2", "turns", "reference")


@dataclass(frozen=True)
class Note:
    """Why a row is partial or how it must be read; codes are listed in results/README.md."""

    code: str
    text: str


@dataclass(frozen=True)
class RowResult:
    """One row of a card as measured: `value` and `stderr` in the card's unit, recomputed from the docs; None:
    no value.
    """

    label: str
    value: float | None
    stderr: float | None
    n: int
    metric: str
    tasks: tuple[str, ...]
    notes: tuple[Note, ...]

    @property
    def estimate(self) -> Estimate | None:
        """The row's value with its error, or None."""
        return None if self.value is None else Estimate(self.value, self.stderr, self.n)

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval in the card's unit."""
        estimate = self.estimate
        return None if estimate is None else statistics.row_interval(self.metric, len(self.tasks), estimate)

    @property
    def doubts(self) -> tuple[Note, ...]:
        """The notes for which the row is not comparable with the card as it stands."""
        return tuple(note for note in self.notes if note.code in DOUBTS)


@dataclass(frozen=True)
class Run:
    """A result folder that was checked. `record` is the whole of run.json; samples are read when asked for."""

    folder: Path
    record: Mapping[str, Any]
    rows: tuple[RowResult, ...]
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def model(self) -> Mapping[str, Any]:
        """run.json's `model`."""
        return self.record["model"]

    @property
    def name(self) -> str:
        """The model's name, as run.json has it (text from outside: escape it)."""
        return self.record["model"]["name"]

    @property
    def suite(self) -> str:
        """ "base" or "instruct"."""
        return self.record["suite"]

    @property
    def smoke(self) -> bool:
        """Whether the docs are the built-in items, not the benchmarks."""
        return self.record["data"]["source"] == "smoke"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks with samples."""
        return tuple(self.record["tasks"])

    def row(self, label: str) -> RowResult | None:
        """The row of that label, or None."""
        return next((row for row in self.rows if row.label == label), None)

    def table(self, task: str, columns: Sequence[str] | None = None) -> pyarrow.Table:
        """The samples of a task as an arrow table (those of `columns` that the file has)."""
        return _read_table(self.folder, task, self.record["tasks"][task]["n"], columns)

    def columns(self, task: str) -> dict[str, list[Any]]:
        """The score columns of a task, with `doc_id`, `prompt_hash` and `group`; ratings as `judge_score`."""
        if task not in self._cache:
            self._cache[task] = _score_columns(self, task)
        return self._cache[task]

    def scores(self, task: str, metric: str) -> Array:
        """One (linearised) score a doc, in the order of `columns(task)["doc_id"]`."""
        return statistics.doc_scores(self.columns(task))[metric]


def find_runs(folder: Path) -> list[Path]:
    """Run folders in or below `folder`, sorted; hidden folders and the blessed baselines are left out."""
    if not folder.is_dir():
        raise UserError(f"no folder '{folder}': give a folder that holds runs")
    found = []
    for path in folder.rglob("run.json"):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts) and "baselines" not in parts:
            found.append(path.parent)
    return sorted(found)


def load_run(folder: Path) -> Run:
    """Reads and checks a run folder; every value is recomputed from its samples. Raises UserError, one line."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no run folder '{folder}': give a folder that holds run.json")
    record = read_record(folder)
    run = Run(folder, record, ())
    try:
        for task in run.tasks:
            _check_task(run, task)
        rows = tuple(_row(run, row) for row in record["rows"])
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        # a column of a type that no score has: everything foreseen was refused with its own words
        refuse(folder, f"its samples cannot be scored ({type(error).__name__}: {str(error)[:120]})")
    return Run(folder, record, rows, run._cache)


# --- samples --------------------------------------------------------------------------------------


def _read_table(folder: Path, task: str, n: int, columns: Iterable[str] | None) -> pyarrow.Table:
    import pyarrow
    from pyarrow import parquet

    name = f"samples/{task}.parquet"
    path = inside(folder, name)
    try:
        with parquet.ParquetFile(path) as file:
            meta = file.metadata
            if meta.num_rows != n:
                refuse(folder, f"{name} has {meta.num_rows} lines, run.json says {n}")
            if sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)) > MAX_TABLE_BYTES:
                refuse(folder, f"{name} is too large")
            have = file.schema_arrow.names
            if len(set(have)) < len(have):
                refuse(folder, f"{name} has two columns of one name")
            wanted = have if columns is None else [column for column in columns if column in have]
            return file.read(columns=wanted)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        refuse(folder, f"{name} cannot be read ({' '.join(str(error).split())[:120]})")


def _score_columns(run: Run, task: str) -> dict[str, list[Any]]:
    wanted = ("doc_id", "prompt_hash", "group", *statistics.PER_DOC, *statistics.PER_ITEM)
    table = run.table(task, wanted)
    for name in ("doc_id", "prompt_hash"):
        if name not in table.column_names:
            refuse(run.folder, f"samples/{task}.parquet has no column '{name}'")
    return {name: table.column(name).to_pylist() for name in table.column_names}


def _check_task(run: Run, task: str) -> None:
    where, columns = f"samples/{task}.parquet", run.columns(task)
    ids = columns["doc_id"]
    if not all(is_count(i) for i in ids):
        refuse(run.folder, f"{where} has a doc_id that is no row number")
    if len(set(ids)) < len(ids):
        refuse(run.folder, f"{where} has a doc_id twice")
    if not all_strings(columns["prompt_hash"]):
        refuse(run.folder, f"{where} has a line without prompt_hash")
    for name in statistics.PER_DOC:
        if not all(score in (0, 1) for score in columns.get(name, ())):
            refuse(run.folder, f"{where}: a score in column '{name}' is not 0 or 1")
    for name in ("inst_level_strict_acc", "inst_level_loose_acc"):
        if not all(isinstance(items, list) and set(items) <= {0, 1} for items in columns.get(name, ())):
            refuse(run.folder, f"{where}: column '{name}' needs lists of 0 and 1")
    for ratings in columns.get("judge_score", ()):
        if not isinstance(ratings, list) or not all(is_number(r) and 1 <= r <= 10 for r in ratings):
            refuse(run.folder, f"{where}: column 'judge_score' needs lists of ratings from 1 to 10")
    _check_predictions(run, task)
    measured = statistics.summarize_task(columns) if ids else {}
    for name, metric in run.record["tasks"][task]["metrics"].items():
        if name not in measured or not _same(measured[name]["value"], metric["value"]):
            refuse(run.folder, f"{where} does not give run.json's {name!r:.60} of {metric['value']}")


def _check_predictions(run: Run, task: str) -> None:
    """Likelihood scores must follow from the log-probabilities (a blessed baseline has none, and is left
    alone).
    """
    table = run.table(task, ("choices", "logprobs", "gold", "acc", "acc_norm_nospace"))
    if not {"choices", "logprobs", "gold"} <= set(table.column_names):
        return
    for line in table.to_pylist():
        choices, sums = line["choices"], line["logprobs"]
        good = all_strings(choices) and isinstance(sums, list) and len(sums) == len(choices) > 0
        if not good or not all(is_number(value) for value in sums):
            refuse(
                run.folder, f"samples/{task}.parquet has a doc without one finite log-probability a choice"
            )
        lengths = [max(1, len(choice) - choice.startswith(" ")) for choice in choices]
        normalised = [value / length for value, length in zip(sums, lengths, strict=True)]
        for name, values in (("acc", sums), ("acc_norm_nospace", normalised)):
            right = int(values.index(max(values)) == line["gold"])
            if line.get(name, right) != right:
                refuse(
                    run.folder, f"samples/{task}.parquet: a score '{name}' does not follow from its logprobs"
                )


def _same(first: float | None, second: float | None) -> bool:
    return (
        first is not None and second is not None and math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9)
    )


def _row(run: Run, row: Mapping[str, Any]) -> RowResult:
    notes = tuple(Note(note["code"], note["text"]) for note in row.get("notes", []))
    tasks = tuple(row["tasks"])
    if row["value"] is None:
        return RowResult(row["label"], None, None, row["n"], row["metric"], tasks, notes)
    if not tasks or not set(tasks) <= set(run.tasks):
        refuse(run.folder, f"row {row['label']!r:.60} has a value but not the samples of its tasks")
    measured = statistics.summarize_row(row["metric"], {task: run.columns(task) for task in tasks})
    if not _same(measured["value"], row["value"]):
        refuse(
            run.folder,
            f"the samples give {measured['value']} for row {row['label']!r:.60}, not {row['value']}",
        )
    value, stderr, n = measured["value"], measured["stderr"], measured["n"]
    assert isinstance(n, int)
    return RowResult(row["label"], value, stderr, n, row["metric"], tasks, notes)


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


def paired_scores(
    first: Run, second: Run, metric: str, task: str, any_prompt: bool = False
) -> tuple[Array, Array] | None:
    """Both runs' scores of a task's docs that they share, in the same order; None when one has no such score."""
    if task not in first.tasks or task not in second.tasks:
        return None
    mine, other, _ = aligned(first, second, task, any_prompt)
    if not mine:
        return None
    # a ratio is linearised about the value on the shared docs, so the docs are picked first
    scores = [
        statistics.doc_scores(_picked(run.columns(task), positions)).get(metric)
        for run, positions in ((first, mine), (second, other))
    ]
    return None if scores[0] is None or scores[1] is None else (scores[0], scores[1])


def _picked(columns: Mapping[str, list[Any]], positions: Sequence[int]) -> dict[str, list[Any]]:
    return {name: [values[k] for k in positions] for name, values in columns.items()}
