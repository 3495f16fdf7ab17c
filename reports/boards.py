"""Which runs may be ranked against each other, and how they rank: the leaderboard before it is written anywhere.

A *board* is a set of runs of one suite that were measured under the same conditions: the same docs with the same
prompts in every task, the same limit, variant and kind of weights. Runs are ranked within a board only.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evals.core import statistics
from evals.core.card import Card
from evals.core.statistics import Estimate
from reports import significance
from reports.runs import RowResult, Run, cards_of

ALPHA = 0.05


@dataclass(frozen=True)
class Label:
    """What a reader must know about a run: a few words, and a sentence."""

    text: str
    title: str


@dataclass(frozen=True)
class Cell:
    """One run's row: `rank` within the board (None: not ranked); `leads`: none of the others is really better, and
    some are really worse.
    """

    row: RowResult
    rank: int | None
    leads: bool


@dataclass(frozen=True)
class Entry:
    """One run on a board. `mean`: plain mean over its rows in percent; `rank` None: nothing to compare it with."""

    run: Run
    rank: int | None
    mean: Estimate | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Board:
    """Comparable runs of one suite, best mean first. `apart`: tasks whose docs differ from the suite's first board."""

    card: Card
    labels: tuple[Label, ...]
    rows: tuple[RowResult, ...]
    entries: tuple[Entry, ...]
    apart: tuple[str, ...] = ()

    @property
    def suite(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def docs(self) -> int:
        """Docs that every run of the board answered."""
        return sum(row.n for row in self.rows if _counts(row))

    @property
    def mean_rows(self) -> int:
        """How many rows the mean is over."""
        return sum(map(_in_mean, self.rows))


def labels(run: Run) -> tuple[Label, ...]:
    """What keeps a run from being the suite as the card measures it, in a fixed order."""
    limit = f"first {run.log.limit:,} docs a task" if run.log.limit else "first docs of a task"
    variants, kind = run.log.provenance.variant, run.model.quantization
    parts = [row.label for row in run.rows if row.has("subset")]
    whole = run.card.rows
    lack = [row.label for row in whole if not _measured(run.row(row.label))]
    there = (
        f"{len(whole) - len(lack)} of {len(whole)} rows" if len(lack) > 2 else f"without {', '.join(lack)}"
    )
    smoke = "Built-in items, not the benchmarks: shows that a model runs, no more"
    quantized = kind or any(row.has("quantized") for row in run.rows)
    said = (
        (run.smoke, "smoke items", smoke),
        (run.foreign, "another harness's", "Measured by another harness: comparable with no card"),
        (
            any(row.has("limit") for row in run.rows),
            limit,
            f"At most the {limit}, in the protocol's shuffled order",
        ),
        (quantized, f"{kind or 'quantized'} weights", "The weights are not the published checkpoint's"),
        (variants, f"variant {', '.join(variants)}", "Other budgets than the card's"),
        (parts, f"subset: {', '.join(parts)}", "The docs of these rows are not the official row list"),
        (lack, there, f"Not measured: {', '.join(lack)}"),
    )
    return tuple(Label(text, title) for holds, text, title in said if holds)


def latest(runs: Iterable[Run]) -> list[Run]:
    """One run per model and suite: the fullest, and of equally full ones the latest.

    A model is its name, its number type and its quantization: bfloat16 and float32 are two entries.
    """
    chosen: dict[tuple[str, ...], Run] = {}
    for run in sorted(runs, key=_fullness):
        model = run.model
        chosen[run.name, run.suite, str(model.dtype), str(model.quantization)] = run
    return list(chosen.values())


def build_boards(runs: Iterable[Run]) -> list[Board]:
    """Boards of all suites: suites in the card's order, whole measurements first, then by size."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(conditions(run), []).append(run)
    suites = list(cards_of(run for members in groups.values() for run in members))
    boards = [rank(members) for members in groups.values()]
    boards.sort(
        key=lambda board: (suites.index(board.suite), len(board.labels), -board.docs, -len(board.entries))
    )
    return [_set_apart(board, boards) for board in boards]


def conditions(run: Run) -> tuple[Any, ...]:
    """What two runs must have in common to be ranked against each other."""
    return (
        run.suite,
        run.model.chat,
        run.model.quantization,
        run.smoke,
        tuple(sorted(run.log.provenance.variant)),
        tuple((row.label, row.metric.name, row.tasks, _counts(row)) for row in run.rows),
        tuple((task, prompts_digest(run, task)) for task in sorted(run.tasks)),
    )


def prompts_digest(run: Run, task: str) -> str:
    """A digest of the task's docs and prompts in their order."""
    columns = run.columns(task)
    pairs = zip(columns["doc_id"], columns["prompt_hash"], strict=True)
    return hashlib.sha256("\n".join(f"{doc} {prompt}" for doc, prompt in pairs).encode()).hexdigest()


def rank(runs: Sequence[Run]) -> Board:
    """Ranks comparable runs by the plain mean of their rows in percent: 1 + how many are significantly better.

    Differences are paired (same docs); their errors are those of the rows' paired differences, Holm over all pairs.
    """

    @functools.cache
    def difference(position: int, i: int, j: int) -> significance.Difference:
        row = runs[i].rows[position]
        # all runs of a board have the same docs in the same order
        known = [statistics.row_strata(row.metric, run.samples(row.tasks)) for run in (runs[i], runs[j])]
        (first, weights), (second, _) = (one for one in known if one is not None)
        return significance.paired_difference(first, second, weights=weights, scale=row.metric.scale)

    def mean_p(i: int, j: int) -> float:
        rows = [(row.metric, k) for k, row in enumerate(runs[i].rows) if _in_mean(row)]
        mean = significance.mean_of_rows((metric, difference(k, i, j).estimate) for metric, k in rows)
        assert mean is not None
        return significance.z_test(mean)

    means = [significance.mean_of_rows((row.metric, row.estimate) for row in run.rows) for run in runs]
    known = [mean.value for mean in means if mean is not None]
    ranks: Sequence[int | None] = [None] * len(runs)
    if len(runs) > 1 and len(known) == len(runs):
        ranks = significance.ranks(known, mean_p, ALPHA)
    columns = [_cells(runs, k, functools.partial(difference, k)) for k in range(len(runs[0].rows))]
    cells = [tuple(column[k] for column in columns) for k in range(len(runs))]
    entries = [Entry(*parts) for parts in zip(runs, ranks, means, cells, strict=True)]
    entries.sort(key=lambda one: (-(one.mean.value if one.mean else -1), one.run.name, _finished(one.run)))
    return Board(runs[0].card, labels(runs[0]), runs[0].rows, tuple(entries))


def judge(run: Run, row: RowResult) -> str:
    """The judge behind a row's value and its prompts, in words; empty where there is none."""
    for task in row.tasks if row.metric.judged and row.value is not None else ():
        for one in run.log.tasks[task].judges[:1]:
            return f"{one.judge}, prompts {one.prompt_set} ({one.prompt_set_sha256[:8]})"
    return "; ".join(note.text for note in row.notes if note.code == "judge")


def _cells(
    runs: Sequence[Run], position: int, difference: Callable[[int, int], significance.Difference]
) -> list[Cell]:
    """One row of all runs, ranked where every run has a value and, if judged, the same judge."""
    rows = [run.rows[position] for run in runs]
    values = [row.value for row in rows if row.value is not None]
    judges = {judge(run, row) for run, row in zip(runs, rows, strict=True)}
    if len(rows) < 2 or len(values) < len(rows) or len(judges) > 1:
        return [Cell(row, None, False) for row in rows]
    better = rows[0].metric.higher_is_better
    ranks = significance.ranks(values, lambda i, j: difference(i, j).p, ALPHA, better)
    return [Cell(row, place, place == 1 < max(ranks)) for row, place in zip(rows, ranks, strict=True)]


def _in_mean(row: RowResult) -> bool:
    return row.value is not None and row.metric.in_percent


def _set_apart(board: Board, boards: Sequence[Board]) -> Board:
    """Names the tasks in which a board differs from the first of its suite with the same labels."""
    first = next(other for other in boards if other.suite == board.suite and other.labels == board.labels)
    digests = [
        {task: prompts_digest(one.entries[0].run, task) for task in one.entries[0].run.tasks}
        for one in (first, board)
    ]
    tasks = sorted({task for one in digests for task in one})
    apart = tuple(task for task in tasks if digests[0].get(task) != digests[1].get(task))
    return replace(board, apart=apart) if apart else board


def _counts(row: RowResult) -> bool:
    """Whether a row takes part in the comparison; a judged row may wait for its judge."""
    return row.value is not None or row.metric.judged


def _measured(row: RowResult | None) -> bool:
    return row is not None and (row.value is not None or row.has("not_judged"))


def _finished(run: Run) -> str:
    return run.log.provenance.finished


def _fullness(run: Run) -> tuple[Any, ...]:
    measured = [row for row in run.rows if _counts(row)]
    variant = bool(run.log.provenance.variant)
    return (not run.smoke, not variant, len(measured), sum(row.n for row in measured), _finished(run))
