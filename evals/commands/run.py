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

from evals.commands.judge import add_judge_arguments, check_judge
from evals.endpoints import add_endpoint_arguments, check_endpoint
from evals.errors import EXIT_OK, EXIT_ROWS_MISSING, UserError
from evals.models import ModelSpec, resolve
from evals.suites import SUITES, Suite

if TYPE_CHECKING:
    from evals.parallel import Team
    from evals.runner import Settings, Work
    from evals.sweep import Remembered

PLANNED_DOCS = (
    1000  # a run of so many is planned aloud, where it takes long: on a CPU, or in several processes
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, on which data, and where results go."""
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--model", action="append", metavar="NAME",
        help="a known name, a hub id, a folder or a .gguf file (default: the embedded SmolLM2-135M-Instruct, Q4_1); "
        "give it again for more models in one go; ORG/NAME@REVISION for one of its checkpoints",
    )  # fmt: skip
    what.add_argument("--sweep", metavar="FILE", help="more models, one a line as for --model")
    what.add_argument("--model-path", metavar="PATH", help="weights of the named model on this disk")
    what.add_argument("--revision", help="the hub revision of the model")
    what.add_argument(
        "--suite", choices=("base", "instruct", "all"), help="which table (default: the model's own)"
    )
    what.add_argument("--tasks", metavar="A,B", help="only these tasks or rows (see 'run_evals.py tasks')")
    what.add_argument(
        "--limit", type=int, metavar="N", help="only the first N docs of each task, after the shuffle"
    )
    what.add_argument("--variant", action="append", default=[], metavar="NAME", help="a named budget variant")
    where = parser.add_argument_group("data and results")
    where.add_argument(
        "--data", default="hub", metavar="hub|smoke|DIR", help="where the benchmarks are (default: hub)"
    )
    where.add_argument("--output-dir", default="results", metavar="DIR", help="default: results")
    where.add_argument("--fresh", action="store_true", help="compute everything again, whatever is stored")
    where.add_argument(
        "--offline", action="store_true", help="no network at all: cached files or a folder only"
    )
    add_endpoint_arguments(parser)
    add_judge_arguments(parser)
    how = parser.add_argument_group("how to compute")
    how.add_argument(
        "--plan",
        action=argparse.BooleanOptionalAction,
        help=f"first show requests, tokens and the time they will take "
        f"(default: on a CPU or in several processes, from {PLANNED_DOCS:,} docs on)",
    )
    how.add_argument("--dry-run", action="store_true", help="show that, and stop")
    how.add_argument("--device", help="cpu, cuda:1, mps (default: the best there is)")
    how.add_argument("--dtype", choices=("float32", "bfloat16", "float16"),
                     help="default: bfloat16 where the device computes it well, else float32")  # fmt: skip
    how.add_argument("--engine", choices=("shared", "plain"), default="shared",
                     help="plain: one sequence at a time, for comparison")  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Runs every suite asked for; exit code 0, or 3 when some rows are missing."""
    from evals import parallel

    team = parallel.join()
    if team is None:
        return _run(args, None)
    if team.rank:
        from evals.adapters.team import assist

        return assist(team, lambda: _models(args))
    with team:
        return _run(args, team)


def _run(args: argparse.Namespace, team: Team | None) -> int:
    start = time.monotonic()
    specs, suites, settings = _choices(args)
    go_offline(args.offline or not _needs_hub(args, specs, settings))

    from evals.progress import Progress
    from evals.runner import prepare
    from evals.sweep import Remembered

    progress = Progress()
    works = prepare(suites, settings)
    # nearly all objects of a run are needed to its end: looking for garbage among them takes a third of its Python time
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    sys.setswitchinterval(0.001)  # who waits for a GPU goes on soon after, whatever other threads do
    for work in works:
        for reason in dict.fromkeys(work.missing[n] for r in work.rows for n in r.tasks if n in work.missing):
            progress.note(f"left out: {reason}")
    planned = args.plan or (args.plan is None and _is_long(works))
    memory = Remembered() if len(specs) > 1 or planned else None
    code = EXIT_OK
    for spec in specs:
        before = time.monotonic() - start
        try:
            code = max(code, _measure(args, spec, works, settings, progress, before, team, memory))
        except UserError as error:
            if len(specs) == 1 or team is not None:
                raise
            progress.note(f"{spec.name}: left out: {error}")
            code = EXIT_ROWS_MISSING
        if team is not None:
            team.next_model()
        start = time.monotonic()
    return code


def _models(args: argparse.Namespace) -> Iterator[list[Any]]:
    """Each model's adapters in turn, loaded when asked for: what a process that lends its model needs."""
    specs, suites, settings = _choices(args)
    go_offline(args.offline or not _needs_hub(args, specs, settings))
    from evals.adapters.build import build

    for spec in specs:
        yield build(args, spec, [suite.chat for suite in suites]).adapters


def _choices(args: argparse.Namespace) -> tuple[list[ModelSpec], list[Suite], Settings]:
    """Checks everything that can be checked before anything heavy is imported."""
    from evals import sweep
    from evals.data import parse_source
    from evals.runner import Settings
    from evals.suites import budgets, check_names

    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: give at least 1")
    if args.judge:
        check_judge(args)
    listed = sweep.read_sweep(Path(args.sweep).expanduser()) if args.sweep else []
    names = [*(args.model or []), *listed] or [None]
    if args.model_path and len(names) > 1:
        raise UserError("--model-path goes with one --model only")
    specs = sweep.resolve_all(names, args.model_path, args.revision)
    check_endpoint(args, names)
    if (args.plan or args.dry_run) and any(spec.source == "endpoint" for spec in specs):
        raise UserError("--plan and --dry-run time this machine's own models, not a server's")
    suites = _suites(args.suite, specs)
    wanted = (
        [name.strip() for name in args.tasks.split(",") if name.strip()] if args.tasks is not None else None
    )
    if wanted is not None and not wanted:
        raise UserError("--tasks names no task: see 'run_evals.py tasks'")
    check_names(suites, wanted)
    variants = [one.strip() for text in args.variant for one in text.split(",") if one.strip()]
    for suite in suites:
        budgets(variants, suite)
    output = Path(args.output_dir).expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"--output-dir '{args.output_dir}' is not a folder")
    settings = Settings(
        source=parse_source(args.data, args.offline),
        tasks=wanted,
        limit=args.limit,
        variants=variants,
        output=output,
        fresh=args.fresh,
    )
    return specs, suites, settings


def _suites(name: str | None, specs: list[ModelSpec]) -> list[Suite]:
    if name == "all":
        return [SUITES["base"], SUITES["instruct"]]
    if name is not None:
        return [SUITES[name]]
    unknown = [spec.name for spec in specs if spec.suite is None]
    if unknown:
        raise UserError(
            f"'{unknown[0]}' is not a model of the card, so --suite is needed: 'base' for plain prompts, "
            "'instruct' for its chat template, 'all' for both (the chat template is never used on a guess)"
        )
    suites = {spec.suite for spec in specs}
    if len(suites) > 1:
        raise UserError("these models belong to different tables: give --suite base, instruct or all")
    return [SUITES[str(suites.pop())]]


def _needs_hub(args: argparse.Namespace, specs: list[ModelSpec], settings: Settings) -> bool:
    """Whether anything that was asked for may come from the hub."""
    kind, _, judge = (args.judge or "").partition(":")
    if settings.source.kind == "hub" or any(spec.source == "hub" for spec in specs) or args.tokenizer:
        return True
    return kind == "local" and resolve(judge).source == "hub"


def go_offline(offline: bool) -> None:
    """Tells the hub's libraries, before they are imported, that nothing may go out."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["HF_DATASETS_OFFLINE"] = "1"


def _measure(
    args: argparse.Namespace,
    spec: ModelSpec,
    works: list[Work],
    settings: Settings,
    progress: Any,
    before: float,
    team: Team | None,
    memory: Remembered | None,
) -> int:
    """One model through all suites: a run folder and a table each."""
    from evals import provenance
    from evals.adapters.build import build
    from evals.files import run_lock
    from evals.runner import Run, publish
    from evals.store import Store

    start = time.monotonic()
    progress.note(f"loading {spec.name} ({spec.label})")
    built = build(args, spec, [work.suite.chat for work in works])
    adapters, spec = built.adapters, built.spec
    if memory is not None:
        adapters = [memory.adapter(adapter) for adapter in adapters]
    if team is not None:
        from evals.adapters.team import lead

        adapters = lead(team, adapters)
    phases = {"prepare": before, "load": time.monotonic() - start}
    cache = settings.output / ".cache"
    if args.plan or args.dry_run:
        print(_plan(works, adapters, cache / "requests.sqlite", settings.fresh), flush=True)
    elif args.plan is None and _is_long(works) and (built.on_cpu or (team and spec.source != "endpoint")):
        progress.note(_plan(works, adapters, cache / "requests.sqlite", settings.fresh))
    if args.dry_run:
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
    if args.judge:
        code = max(code, _judge(args, folders, cache / "requests.sqlite", settings, progress))
    _show(folders)
    return code


def _judge(
    args: argparse.Namespace, folders: list[Path], cache: Path, settings: Settings, progress: Any
) -> int:
    """Judges the MT-Bench answers of the finished runs that have some."""
    from evals.commands.judge import judge_folder, make_judge

    answered = [folder for folder in folders if (folder / "samples" / "mt_bench.parquet").exists()]
    if not answered:
        progress.note("nothing to judge: this run has no MT-Bench answers")
        return EXIT_OK
    judge, data = make_judge(args), settings.source.folder
    return max(judge_folder(folder, judge, cache, data, args, progress) for folder in answered)


def _is_long(works: list[Work]) -> bool:
    """Whether people would want to know beforehand how long a run takes."""
    return sum(len(docs) for work in works for docs in work.docs.values()) >= PLANNED_DOCS


def _plan(works: list[Work], adapters: list[Any], stored: Path, fresh: bool) -> str:
    """What is to be done and how long it will take, as a table."""
    from evals import estimate
    from evals.store import Store
    from reports.tables import markdown

    if stored.exists() and not fresh:
        with Store.open(stored) as store:
            plan = estimate.plan(works, adapters, store)
    else:
        plan = estimate.plan(works, adapters, None)
    return markdown(estimate.table(*plan))


def _show(folders: list[Path]) -> None:
    """Prints the tables of finished runs, and where they are."""
    from reports.card import render_tables
    from reports.results import load_run

    print(render_tables([load_run(folder) for folder in folders]))
    print("\n".join(f"run: {folder}" for folder in folders))
