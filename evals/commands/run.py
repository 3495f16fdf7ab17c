"""Measures a model by the protocol of its card and prints the card's tables."""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.adapters.build import Built, LocalOptions, build, build_share, texts
from evals.commands.judge import judge_folder, make_judge
from evals.commands.run_options import PLANNED_DOCS, RunOptions, add_arguments, options_from
from evals.core.errors import EXIT_OK, EXIT_ROWS_MISSING, UserError
from evals.core.files import run_lock
from evals.core.runlog import RunLog
from evals.data.sources import check_folder
from evals.models import lean, templates, weights
from evals.models.known import ModelSpec
from evals.run import provenance
from evals.run.progress import Progress, outliving_readers
from evals.run.store import Store

if TYPE_CHECKING:
    from evals.run.cluster import Pool
    from evals.run.loop import Work
    from evals.run.sweep import Remembered

__all__ = ["Measured", "add_arguments", "main", "measure", "options_from", "prepare_process"]


@dataclass
class Measured:
    """What a run did: the logs of finished run folders, and the exit code (3: some rows are missing)."""

    logs: list[RunLog] = field(default_factory=list)
    code: int = EXIT_OK


def main(args: argparse.Namespace) -> int:
    """Measures every model by every card that was asked for, and prints each model's tables."""
    options = options_from(args)
    prepare_process(options)
    # nearly all objects of a run are needed to its end: looking for garbage among them takes a third of its Python time
    gc.set_threshold(100_000, 50, 100)
    lean.allow()
    sys.setswitchinterval(0.001)  # who waits for a GPU goes on soon after, whatever other threads do
    return measure(options, show=_show).code


def prepare_process(options: RunOptions) -> None:
    """Tells the hub's libraries, before they are imported, whether anything may go out."""
    go_offline(options.offline or not options.needs_hub)


def go_offline(offline: bool) -> None:
    """Sets the hub's libraries to no telemetry and, where asked to, to no network at all."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"


def measure(options: RunOptions, show: Any = None) -> Measured:
    """Runs what the options ask for; `show(logs)` is called with each model's finished logs.

    Raises UserError when a single model cannot be measured; of several, the others go on.
    """
    check_files(options)
    if any(card.chat for card in options.cards):
        templates.get_ready()
    progress = Progress()
    with _workers(options, progress) as pool:  # they load the first model while data is read here
        return _measure_all(options, progress, pool, show)


def _measure_all(options: RunOptions, progress: Progress, pool: Pool | None, show: Any) -> Measured:
    from evals.run.cluster import NoWorkers
    from evals.run.loop import prepare
    from evals.run.sweep import Remembered

    start = time.monotonic()
    works = prepare(options.cards, options.settings)
    gc.freeze()
    for work in works:
        for reason in dict.fromkeys(work.missing[n] for r in work.rows for n in r.tasks if n in work.missing):
            progress.note(f"left out: {reason}")
    planned = options.plan or (options.plan is None and _is_long(works))
    memory = Remembered() if len(options.specs) > 1 or planned else None
    done = Measured()
    for spec in options.specs:
        before = time.monotonic() - start
        try:
            one = _measure(options, spec, works, progress, before, memory, pool)
        except UserError as error:
            if len(options.specs) == 1 or isinstance(error, NoWorkers):
                raise
            progress.note(f"{spec.name}: left out: {error}")
            one = Measured(code=EXIT_ROWS_MISSING)
        if show is not None and one.logs:
            show(one.logs)
        done = Measured(done.logs + one.logs, max(done.code, one.code))
        start = time.monotonic()
    return done


def check_files(options: RunOptions) -> None:
    """Finds files that are missing or broken in a second, before torch and lighteval are imported for many.

    Of several models, a broken one is left out later, and the others are measured.
    """
    tasks = dict.fromkeys(task for _, row in options.rows for task in row.tasks)
    check_folder(options.settings.source, list(tasks))
    specs = list(options.specs) if len(options.specs) == 1 else []
    if options.judge and options.judge.spec:
        specs.append(options.judge.spec)
    for spec in specs:
        if spec.source in ("folder", "gguf", "package"):
            weights.check(spec.location)


def _workers(options: RunOptions, progress: Progress) -> contextlib.AbstractContextManager[Pool | None]:
    """The workers that were asked for; None where this process computes."""
    if options.workers is None and options.cluster is None:
        return contextlib.nullcontext()
    from evals.run.cluster import start

    local = options.local or LocalOptions()
    load = functools.partial(build_share, cards=options.cards, local=local, offline=options.offline)
    return start(load, options.specs, options.workers, options.cluster, local.device, progress.note)


def _build(options: RunOptions, spec: ModelSpec, progress: Progress, pool: Pool | None) -> Built:
    """The model's back ends: in this process, behind a server, or on the workers."""
    if pool is None:
        return build(spec, options.cards, options.local, options.server, options.offline, progress.note)
    from evals.run.cluster import ClusterBackend

    number = pool.specs.index(spec)
    spec = pool.about(number)[0].spec
    backends = [
        ClusterBackend(pool, number, k, one)
        for k, one in enumerate(texts(spec, options.cards, options.offline))
    ]
    return Built(list(backends), spec, lambda backend: backend.described)


def _measure(
    options: RunOptions,
    spec: ModelSpec,
    works: list[Work],
    progress: Progress,
    before: float,
    memory: Remembered | None,
    pool: Pool | None,
) -> Measured:
    """One model through all cards: a run folder each."""
    from evals.run.loop import Run, publish

    start = time.monotonic()
    progress.note(f"loading {spec.name} ({spec.label})")
    built = _build(options, spec, progress, pool)
    settings = options.settings
    adapters, spec = built.adapters, built.spec
    if memory is not None:
        adapters = [memory.adapter(adapter) for adapter in adapters]
    phases = {"prepare": before, "load": time.monotonic() - start}
    cache = settings.output / ".cache"
    stored = cache / "requests.sqlite"
    workers = 1 if pool is None else pool.workers
    if options.plan or options.dry_run:
        timed = not options.dry_run or bool(options.plan)
        with outliving_readers(sys.stdout):
            print(_plan(works, adapters, stored, settings.fresh, workers, timed), flush=True)
    elif options.plan is None and _is_long(works) and (built.on_cpu or pool is not None):
        progress.note(_plan(works, adapters, stored, settings.fresh, workers))
    done = Measured()
    if options.dry_run:
        return done
    lock = cache / f"run-{provenance.joint_hash([adapter.identity for adapter in adapters])}.lock"
    with run_lock(lock, f"this model in '{settings.output}'", progress.note), \
            Store.open(stored, on_note=progress.note) as store:  # fmt: skip
        for work, adapter, backend in zip(works, adapters, built.adapters, strict=True):
            run = Run(work, adapter, store, settings, progress)
            run.execute()
            store.flush()
            done.logs.append(publish(run, spec, built.describe(backend), phases))
            if any(name not in run.columns for row in work.rows for name in row.tasks):
                done.code = EXIT_ROWS_MISSING
    if options.judge:
        done.code = max(done.code, _judge(options, done.logs, stored, progress))
    return done


def _judge(options: RunOptions, logs: list[RunLog], cache: Path, progress: Progress) -> int:
    """Judges the answers of the finished runs that wait for a judge."""
    waiting = [
        log for log in logs if any(note.code == "not_judged" for row in log.rows for note in row.notes)
    ]
    if not waiting or options.judge is None:
        progress.note("nothing to judge: this run has no answers that wait for a judge")
        return EXIT_OK
    judge = make_judge(options.judge)
    return max(judge_folder(log.folder, judge, options.judge, cache, progress) for log in waiting)


def _is_long(works: list[Work]) -> bool:
    """Whether people would want to know beforehand how long a run takes."""
    return sum(len(docs) for work in works for docs in work.docs.values()) >= PLANNED_DOCS


def _plan(
    works: list[Work], adapters: list[Any], stored: Path, fresh: bool, workers: int, timed: bool = True
) -> str:
    """What is to be done and, if `timed`, how long it will take, as a table."""
    from evals.commands.plan_table import table
    from evals.run.plan import plan
    from reports.render.tables import markdown

    if stored.exists() and not fresh:
        with Store.open(stored) as store:
            return markdown(table(*plan(works, adapters, store, workers, timed)))
    return markdown(table(*plan(works, adapters, None, workers, timed)))


def _show(logs: list[RunLog]) -> None:
    """Prints the tables of finished runs, and where they are."""
    from reports.card import render_tables
    from reports.runs import load_run

    tables = render_tables([load_run(log.folder) for log in logs])
    with outliving_readers(sys.stdout):
        print(tables, *(f"run: {log.folder}" for log in logs), sep="\n", flush=True)
