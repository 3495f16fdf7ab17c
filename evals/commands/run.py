"""Measures a model by the protocol of its card and prints the card's tables."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.adapters.build import Built, LocalOptions, build, build_share, texts
from evals.commands.judge import judge_folders
from evals.commands.options import store_path
from evals.commands.run_options import PLANNED_DOCS, Options
from evals.core.errors import EXIT_OK, EXIT_ROWS_MISSING, UserError
from evals.core.files import run_lock
from evals.core.runlog import RunLog
from evals.data.sources import check_folder
from evals.models import lean, templates, weights
from evals.models.known import ModelSpec
from evals.run.plan import Rates, RowPlan, plan
from evals.run.progress import Progress, outliving_readers, span
from evals.run.shares import EXPECTED_OUTPUT
from evals.run.store import Store
from reports.render.tables import Cell, Table, cells, markdown

if TYPE_CHECKING:
    from evals.run.cluster import Pool
    from evals.run.work import Kept

__all__ = ["Options", "main", "measure", "prepare_process"]


def main(options: Options) -> int:
    """Measures every model by every card that was asked for, and prints each model's tables."""
    options.check()
    prepare_process(options)
    # nearly all objects of a run are needed to its end: looking for garbage among them takes a third of its Python time
    gc.set_threshold(100_000, 50, 100)
    lean.allow()
    sys.setswitchinterval(0.001)  # who waits for a GPU goes on soon after, whatever other threads do
    return measure(options, show=_show)[1]


def prepare_process(options: Options) -> None:
    """Tells the hub's libraries, before they are imported, whether anything may go out."""
    go_offline(options.offline or not options.needs_hub)


def go_offline(offline: bool) -> None:
    """Sets the hub's libraries to no telemetry and, where asked to, to no network at all."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"


def measure(options: Options, show: Callable[[list[RunLog]], None] | None = None) -> tuple[list[RunLog], int]:
    """Runs what the options ask for: the logs of finished run folders, and the exit code (3: some rows are missing).

    `show(logs)` is called with each model's. Raises UserError when a single model cannot be measured; of several, the
    others go on.
    """
    check_files(options)
    if any(card.chat for card in options.cards):
        templates.get_ready()
    progress = Progress()
    with _workers(options, progress) as pool:  # they load the first model while data is read here
        return _Measuring(options, progress, pool).every_model(show or (lambda logs: None))


def check_files(options: Options) -> None:
    """Finds files that are missing or broken in a second, before torch and lighteval are imported for many.

    Of several models, a broken one is left out later, and the others are measured.
    """
    tasks = dict.fromkeys(task for _, row in options.rows for task in row.tasks)
    check_folder(options.settings.source, list(tasks))
    specs = list(options.specs) if len(options.specs) == 1 else []
    if options.judge_spec:
        specs.append(options.judge_spec)
    for spec in specs:
        if spec.source in ("folder", "gguf", "package"):
            weights.check(spec.location)


def _workers(options: Options, progress: Progress) -> contextlib.AbstractContextManager[Pool | None]:
    """The workers that were asked for; None where this process computes."""
    if options.workers is None and options.cluster is None:
        return contextlib.nullcontext()
    from evals.run.cluster import start

    local = options.local or LocalOptions()
    load = functools.partial(build_share, cards=options.cards, local=local, offline=options.offline)
    return start(load, options.specs, options.workers, options.cluster, local.device, progress.note)


class _Measuring:
    """A run of one or several models by the same cards, on the same docs."""

    def __init__(self, options: Options, progress: Progress, pool: Pool | None) -> None:
        from evals.run.work import prepare

        self.options, self.progress, self.pool = options, progress, pool
        self.settings = options.settings
        self.logs: list[RunLog] = []
        self.code = EXIT_OK
        self.start = time.monotonic()
        self.works = prepare(options.cards, self.settings)
        gc.freeze()
        for work in self.works:
            missing = [name for row in work.rows for name in row.tasks if name in work.missing]
            for reason in dict.fromkeys(work.missing[name] for name in missing):
                progress.note(f"left out: {reason}")
        docs = sum(len(docs) for work in self.works for docs in work.docs.values())
        # people would want to know how long it takes
        self.is_long = docs >= PLANNED_DOCS and not options.no_plan
        self.kept: Kept | None = {} if len(options.specs) > 1 or options.plan or self.is_long else None

    def every_model(self, show: Callable[[list[RunLog]], None]) -> tuple[list[RunLog], int]:
        """See measure."""
        from evals.run.cluster import NoWorkers

        for spec in self.options.specs:
            try:
                logs = self._measure(spec)
            except UserError as error:
                if len(self.options.specs) == 1 or isinstance(error, NoWorkers):
                    raise
                self.progress.note(f"{spec.name}: left out: {error}")
                self.code = EXIT_ROWS_MISSING
            else:
                if logs:
                    show(logs)
                self.logs += logs
            gc.collect()  # errors that libraries caught while they were imported hold the first model's frames
            gc.freeze()
            self.start = time.monotonic()
        return self.logs, self.code

    def _measure(self, spec: ModelSpec) -> list[RunLog]:
        """One model through all cards: a run folder each."""
        from evals.run.loop import Run, publish
        from evals.run.work import remembering

        prepared = time.monotonic()
        self.progress.note(f"loading {spec.name} ({spec.label})")
        built = self._build(spec)
        adapters = built.adapters
        if self.kept is not None:
            adapters = [remembering(adapter, self.kept) for adapter in adapters]
        phases = {"prepare": prepared - self.start, "load": time.monotonic() - prepared}
        self._plan(adapters, spec.source != "endpoint" and not adapters[0].leaves_cpu)
        if self.options.dry_run:
            return []
        logs = []
        with locked_store(self.settings.output, adapters, self.progress) as store:
            for work, adapter in zip(self.works, adapters, strict=True):
                run = Run(work, adapter, store, self.settings, self.progress)
                run.execute()
                store.flush()
                logs.append(publish(run, built.spec, phases))
                if any(name not in run.columns for row in work.rows for name in row.tasks):
                    self.code = EXIT_ROWS_MISSING
        if self.options.judge:
            self.code = max(self.code, self._judge(logs))
        return logs

    def _build(self, spec: ModelSpec) -> Built:
        """The model's back ends: in this process, behind a server, or on the workers."""
        options, pool = self.options, self.pool
        if pool is None:
            note = self.progress.note
            return build(spec, options.cards, options.local, options.server, options.offline, note)
        from evals.run.cluster import ClusterBackend

        number = pool.specs.index(spec)
        spec = pool.about(number)[0].spec
        made = enumerate(texts(spec, options.cards, options.offline))
        backends = [ClusterBackend(pool, number, k, one) for k, one in made]
        return Built(list(backends), spec)

    def _plan(self, adapters: list[Any], on_cpu: bool) -> None:
        """Shows what is to be done and how long it will take, where that is asked for or would be missed."""
        asked = self.options.plan or self.options.dry_run
        if not asked and not (self.is_long and (on_cpu or self.pool is not None)):
            return
        timed = self.options.plan or not self.options.dry_run
        stored = store_path(self.settings.output)
        known = stored.exists() and not self.settings.fresh
        with Store.open(stored) if known else contextlib.nullcontext() as store:
            workers = 1 if self.pool is None else self.pool.workers
            text = markdown(plan_table(*plan(self.works, adapters, store, workers, timed)))
        if not asked:
            self.progress.note(text)
            return
        with outliving_readers(sys.stdout):
            print(text, flush=True)

    def _judge(self, logs: list[RunLog]) -> int:
        """Judges the answers of the finished runs that wait for a judge."""
        notes = {log.folder: [note.code for row in log.rows for note in row.notes] for log in logs}
        waiting = [folder for folder, codes in notes.items() if "not_judged" in codes]
        if not waiting:
            self.progress.note("nothing to judge: this run has no answers that wait for a judge")
            return EXIT_OK
        options, settings = self.options, self.settings
        cache = store_path(settings.output)
        return judge_folders(waiting, options, settings.source.folder, options.offline, cache, self.progress)


@contextlib.contextmanager
def locked_store(output: Path, adapters: list[Any], progress: Progress) -> Iterator[Store]:
    """The store of an output folder, for one process a model at a time."""
    stored = store_path(output)
    model = hashlib.sha256("\n".join(adapter.identity for adapter in adapters).encode()).hexdigest()
    lock = stored.with_name(f"run-{model[:16]}.lock")
    with run_lock(lock, f"this model in '{output}'", progress.note), \
            Store.open(stored, on_note=progress.note) as store:  # fmt: skip
        yield store


def _show(logs: list[RunLog]) -> None:
    """Prints the tables of finished runs, and where they are."""
    from reports.card import render_tables
    from reports.runs import load_run

    tables = render_tables([load_run(log.folder) for log in logs])
    with outliving_readers(sys.stdout):
        print(tables, *(f"run: {log.folder}" for log in logs), sep="\n", flush=True)


# --- a plan ---


def plan_table(rows: Sequence[RowPlan], rates: Rates | None) -> Table:
    """The plan of a run for people; the time it will take where rates are known."""
    header = cells("Row", "Docs", "Requests", "Stored", "Distinct tokens", "Output tokens")
    lines = [_line(f"{row.suite}: {row.label}", row, rates) for row in rows]
    total = [
        sum(getattr(row, name) for row in rows) for name in ("docs", "requests", "stored", "tokens", "output")
    ]
    lines += [_line("all", RowPlan("", "", *total), rates), *_division(rows, rates)]
    counted = (
        f"an answer is counted with its budget, at most {EXPECTED_OUTPUT} tokens: many end earlier, few go on"
    )
    if rates is None:
        return Table("Plan", header, tuple(lines), remarks=(f"{counted}; --plan adds the time it will take",))
    speed = f"by {rates.read:,.0f} tokens read and {rates.generated:,.0f} generated a second here"
    todo = any(row.stored < row.requests for row in rows)
    return Table("Plan", (*header, Cell("Time", marks=(1,))), tuple(lines), (f"{speed}; {counted}",) * todo)


def _division(rows: Sequence[RowPlan], rates: Rates | None) -> list[tuple[Cell, ...]]:
    """A line for each of several workers; `rates` are those of all together."""
    lines = []
    for k, parts in enumerate(zip(*(row.workers for row in rows), strict=True), 1):
        requests, tokens, output = (sum(numbers) for numbers in zip(*parts, strict=True))
        count = len(rows[0].workers)
        line = cells(f"worker {k} of {count}", "", f"{requests:,}", "", f"{tokens:,}", f"{output:,}")
        seconds = count * rates.seconds(RowPlan("", "", 0, requests, 0, tokens, output)) if rates else None
        lines.append(line + _time(seconds))
    return lines


def _line(label: str, row: RowPlan, rates: Rates | None) -> tuple[Cell, ...]:
    numbers = (row.docs, row.requests, row.stored, row.tokens, row.output)
    return cells(label, *(f"{number:,}" for number in numbers)) + _time(rates.seconds(row) if rates else None)


def _time(seconds: float | None) -> tuple[Cell, ...]:
    """The last column's cell; none where no time is known."""
    return () if seconds is None else cells(span(seconds))
