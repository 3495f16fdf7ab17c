"""Measures a model by the protocol of the SmolLM2 card and prints the card's tables."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.adapters.build import Built, build
from evals.commands.judge import JudgeOptions
from evals.commands.run_options import PLANNED_DOCS, RunOptions, add_arguments, options_from
from evals.core.errors import EXIT_OK, EXIT_ROWS_MISSING, UserError
from evals.models.known import ModelSpec

if TYPE_CHECKING:
    from evals.run.loop import Work
    from evals.run.parallel import Team
    from evals.run.sweep import Remembered

__all__ = ["add_arguments", "main", "options_from"]


def main(args: argparse.Namespace) -> int:
    """Runs every suite asked for; exit code 0, or 3 when some rows are missing."""
    from evals.run import parallel

    team = parallel.join()
    if team is None:
        return _run(args, None)
    if team.rank:
        from evals.run.team import assist

        return assist(team, lambda: _models(args))
    with team:
        return _run(args, team)


def _run(args: argparse.Namespace, team: Team | None) -> int:
    start = time.monotonic()
    options = options_from(args)
    go_offline(options.offline or not options.needs_hub)
    _check_files(options)

    from evals.run.loop import prepare
    from evals.run.progress import Progress
    from evals.run.sweep import Remembered

    progress = Progress()
    works = prepare(options.suites, options.settings)
    # nearly all objects of a run are needed to its end: looking for garbage among them takes a third of its Python time
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    sys.setswitchinterval(0.001)  # who waits for a GPU goes on soon after, whatever other threads do
    for work in works:
        for reason in dict.fromkeys(work.missing[n] for r in work.rows for n in r.tasks if n in work.missing):
            progress.note(f"left out: {reason}")
    planned = options.plan or (options.plan is None and _is_long(works))
    memory = Remembered() if len(options.specs) > 1 or planned else None
    code = EXIT_OK
    for spec in options.specs:
        before = time.monotonic() - start
        try:
            code = max(code, _measure(options, spec, works, progress, before, team, memory))
        except UserError as error:
            if len(options.specs) == 1 or team is not None:
                raise
            progress.note(f"{spec.name}: left out: {error}")
            code = EXIT_ROWS_MISSING
        if team is not None:
            team.next_model()
        start = time.monotonic()
    return code


def _models(args: argparse.Namespace) -> Iterator[list[Any]]:
    """Each model's adapters in turn, loaded when asked for: what a process that lends its model needs."""
    options = options_from(args)
    go_offline(options.offline or not options.needs_hub)
    for spec in options.specs:
        yield _build(options, spec).adapters


def _build(options: RunOptions, spec: ModelSpec) -> Built:
    chats = [suite.chat for suite in options.suites]
    return build(spec, chats, options.local, options.server, options.offline)


def go_offline(offline: bool) -> None:
    """Tells the hub's libraries, before they are imported, that nothing may go out."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"


def _check_files(options: RunOptions) -> None:
    """Finds files that are missing or broken in a second, before torch and lighteval are imported for many."""
    from evals.data.sources import check_folder
    from evals.models import weights

    check_folder(
        options.settings.source, list(dict.fromkeys(task for _, row in options.rows for task in row.tasks))
    )
    specs = list(options.specs) if len(options.specs) == 1 else []
    if options.judge and options.judge.spec:
        specs.append(options.judge.spec)
    for spec in specs:
        if spec.source in ("folder", "gguf", "package"):
            weights.check(spec.location)


def _measure(
    options: RunOptions,
    spec: ModelSpec,
    works: list[Work],
    progress: Any,
    before: float,
    team: Team | None,
    memory: Remembered | None,
) -> int:
    """One model through all suites: a run folder and a table each."""
    from evals.core.files import run_lock
    from evals.run import provenance
    from evals.run.loop import Run, publish
    from evals.run.store import Store

    start = time.monotonic()
    progress.note(f"loading {spec.name} ({spec.label})")
    built = _build(options, spec)
    settings = options.settings
    adapters, spec = built.adapters, built.spec
    if memory is not None:
        adapters = [memory.adapter(adapter) for adapter in adapters]
    if team is not None:
        from evals.run.team import lead

        adapters = lead(team, adapters)
    phases = {"prepare": before, "load": time.monotonic() - start}
    cache = settings.output / ".cache"
    if options.plan or options.dry_run:
        print(_plan(works, adapters, cache / "requests.sqlite", settings.fresh), flush=True)
    elif options.plan is None and _is_long(works) and (built.on_cpu or (team and spec.source != "endpoint")):
        progress.note(_plan(works, adapters, cache / "requests.sqlite", settings.fresh))
    if options.dry_run:
        return EXIT_OK
    folders, missing = [], False
    lock = cache / f"run-{provenance.joint_hash([adapter.identity for adapter in adapters])}.lock"
    with run_lock(lock, f"this model in '{settings.output}'", progress.note), \
            Store.open(cache / "requests.sqlite", on_note=progress.note) as store:  # fmt: skip
        for work, adapter in zip(works, adapters, strict=True):
            run = Run(work, adapter, store, settings, progress)
            run.execute()
            store.flush()
            folders.append(publish(run, spec, built.describe(adapter), phases))
            missing = missing or any(name not in run.columns for row in work.rows for name in row.tasks)
    code = EXIT_ROWS_MISSING if missing else EXIT_OK
    if options.judge:
        code = max(code, _judge(options.judge, folders, cache / "requests.sqlite", progress))
    _show(folders)
    return code


def _judge(options: JudgeOptions, folders: list[Path], cache: Path, progress: Any) -> int:
    """Judges the MT-Bench answers of the finished runs that have some."""
    from evals.commands.judge import judge_folder, make_judge

    answered = [folder for folder in folders if (folder / "samples" / "mt_bench.parquet").exists()]
    if not answered:
        progress.note("nothing to judge: this run has no MT-Bench answers")
        return EXIT_OK
    judge = make_judge(options)
    return max(judge_folder(folder, judge, options, cache, progress) for folder in answered)


def _is_long(works: list[Work]) -> bool:
    """Whether people would want to know beforehand how long a run takes."""
    return sum(len(docs) for work in works for docs in work.docs.values()) >= PLANNED_DOCS


def _plan(works: list[Work], adapters: list[Any], stored: Path, fresh: bool) -> str:
    """What is to be done and how long it will take, as a table."""
    from evals.run import plan as estimate
    from evals.run.store import Store
    from reports.render.tables import markdown

    if stored.exists() and not fresh:
        with Store.open(stored) as store:
            plan = estimate.plan(works, adapters, store)
    else:
        plan = estimate.plan(works, adapters, None)
    return markdown(estimate.table(*plan))


def _show(folders: list[Path]) -> None:
    """Prints the tables of finished runs, and where they are."""
    from reports.card import render_tables
    from reports.runs import load_run

    print(render_tables([load_run(folder) for folder in folders]))
    print("\n".join(f"run: {folder}" for folder in folders))
