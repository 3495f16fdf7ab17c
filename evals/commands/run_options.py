"""The options of `run`: from the command line to what is measured, on what, and how."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.adapters.build import LocalOptions, ServerOptions
from evals.commands.judge import JudgeOptions, add_judge_arguments, judge_options
from evals.commands.options import Use, given, refuse_unused, require_positive, split_names
from evals.core.card import Card, Row, all_cards, check_names, load_card
from evals.core.errors import UserError
from evals.data.sources import parse_source
from evals.models.known import ModelSpec, is_endpoint, read_sweep, resolve_all
from evals.run.machines import check_workers
from evals.run.settings import Settings

DTYPES = ("float32", "bfloat16", "float16")
PLANNED_DOCS = (
    1000  # a run of so many is planned aloud, where it takes long: on a CPU, or in several processes
)


@dataclass(frozen=True)
class RunOptions:
    """A run as it was asked for. `local`, `server`, `judge`: None where nothing that is asked for needs them."""

    specs: tuple[ModelSpec, ...]
    cards: tuple[Card, ...]
    settings: Settings
    local: LocalOptions | None
    server: ServerOptions | None
    judge: JudgeOptions | None
    plan: bool | None
    dry_run: bool
    offline: bool
    workers: int | None = None
    cluster: str | None = None

    @property
    def rows(self) -> list[tuple[Card, Row]]:
        """The rows to measure, each with its card."""
        return [(card, row) for card in self.cards for row in card.select(self.settings.tasks)]

    @property
    def needs_hub(self) -> bool:
        """Whether anything that is asked for may come from the hub."""
        judge = self.judge.spec if self.judge else None
        return (
            self.settings.source.kind == "hub"
            or any(spec.source == "hub" for spec in (*self.specs, *([judge] if judge else [])))
            or (self.server is not None and self.server.tokenizer is not None)
        )


def _computes(options: RunOptions) -> bool:
    return options.local is not None or (options.judge is not None and options.judge.spec is not None)


def _is_judged(options: RunOptions) -> bool:
    return any(row.of.judged for _, row in options.rows)


def _variants_change_something(options: RunOptions) -> bool:
    """Whether each variant has a task of its own among the chosen ones."""
    chosen = [(card, task) for card, row in options.rows for task in row.tasks]
    return all(
        any(task in card.budgets([name]) for card, task in chosen) for name in options.settings.variants
    )


_SERVERS = "belongs to --model openai:NAME"
_OWN_MODELS = "is about models that this machine computes, not about a server's"
USES: tuple[Use[RunOptions], ...] = (
    Use("--base-url", lambda o: o.server, _SERVERS),
    Use("--api-key-env", lambda o: o.server, f"{_SERVERS}; a judge's key has --judge-key-env"),
    Use("--tokenizer", lambda o: o.server, _SERVERS),
    Use("--parallel", lambda o: o.server, f"{_SERVERS}; a judge has --judge-parallel"),
    Use("--timeout", lambda o: o.server, f"{_SERVERS}; a judge has --judge-timeout"),
    Use("--device", _computes, _OWN_MODELS),
    Use("--dtype", _computes, _OWN_MODELS),
    Use("--engine", lambda o: o.local, _OWN_MODELS),
    Use("--workers", lambda o: not o.server, f"{_OWN_MODELS}: see --parallel"),
    Use("--cluster", lambda o: not o.server, f"{_OWN_MODELS}: see --parallel"),
    Use("--plan", lambda o: not o.server, "times this machine's own models, not a server's"),
    Use("--no-plan", lambda o: not o.server, "is about this machine's own models: a server's are never planned"),
    Use("--dry-run", lambda o: not o.server, "plans this machine's own models, not a server's"),
    Use("--no-plan", lambda o: not o.dry_run, "contradicts --dry-run, which shows the plan and stops"),
    Use("--judge", lambda o: not o.dry_run, "needs answers, and --dry-run generates none: leave one of them out"),
    Use("--judge", _is_judged, "judges a row that is not among the chosen ones (see 'run_evals.py tasks')"),
    Use(
        "--variant",
        _variants_change_something,
        "changes no chosen task (see 'run_evals.py tasks')",
    ),
    Use(
        "--variant",
        lambda o: o.settings.source.kind != "smoke",
        "changes a benchmark's budget, and --data smoke has its own, smaller ones",
    ),
)  # fmt: skip


def options_from(args: argparse.Namespace) -> RunOptions:
    """Checks everything that can be checked before anything heavy is imported. Raises UserError."""
    if args.limit is not None and args.limit < 1:
        raise UserError(f"--limit {args.limit}: give at least 1")
    check_workers(args.workers, args.cluster, args.device)
    names = _names(args)
    specs = resolve_all(names, args.model_path, args.revision)
    cards = _cards(args.suite, specs)
    settings = _settings(args, cards)
    here = any(spec.source != "endpoint" for spec in specs)
    options = RunOptions(
        specs=tuple(specs),
        cards=tuple(cards),
        settings=settings,
        local=LocalOptions(**given(args, "device", "dtype", "engine")) if here else None,
        server=_server(args) if any(map(is_endpoint, names)) else None,
        judge=judge_options(args, settings.source.folder),
        plan=args.plan,
        dry_run=args.dry_run,
        offline=args.offline,
        workers=args.workers,
        cluster=args.cluster,
    )
    refuse_unused(args, options, USES)
    return options


def _names(args: argparse.Namespace) -> list[str | None]:
    """The models' names; None for the one of --model-path, else for the embedded one."""
    listed = read_sweep(Path(args.sweep).expanduser()) if args.sweep is not None else []
    names: list[str | None] = [*(args.model or []), *listed]
    if args.model_path is not None and len(names) > 1:
        raise UserError("--model-path goes with one --model only")
    return names or [None]


def _settings(args: argparse.Namespace, cards: Sequence[Card]) -> Settings:
    wanted = split_names("--tasks", args.tasks, "task: see 'run_evals.py tasks'")
    variants = list(split_names("--variant", args.variant, "variant: see 'run_evals.py tasks'") or ())
    check_names(cards, wanted, variants)
    output = Path(args.output_dir).expanduser()
    if output.exists() and not output.is_dir():
        raise UserError(f"--output-dir '{args.output_dir}' is not a folder")
    return Settings(
        source=parse_source(args.data, args.offline),
        tasks=list(wanted) if wanted else None,
        limit=args.limit,
        variants=variants,
        output=output,
        fresh=args.fresh,
        references=args.references,
    )


def _cards(name: str | None, specs: Sequence[ModelSpec]) -> list[Card]:
    if name == "all":
        return all_cards()
    if name is not None:
        return [load_card(name)]
    unknown = [spec.name for spec in specs if spec.suite is None]
    if unknown:
        modes = ", ".join(f"'{card.name}' for {card.prompts} prompts" for card in all_cards())
        raise UserError(
            f"'{unknown[0]}' is not a model of a card, so --suite is needed: {modes}, 'all', or a card's .toml file "
            "(the chat template is never used on a guess)"
        )
    names = {str(spec.suite) for spec in specs}
    if len(names) > 1:
        raise UserError(
            f"these models belong to different cards: give --suite {', '.join(sorted(names))} or all"
        )
    return [load_card(names.pop())]


def _server(args: argparse.Namespace) -> ServerOptions:
    if args.base_url is None:
        raise UserError("--model openai:NAME needs --base-url, like http://127.0.0.1:8000/v1")
    require_positive(args, "--parallel", "--timeout")
    return ServerOptions(args.base_url, **given(args, "api_key_env", "tokenizer", "parallel", "timeout"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, on which data, and where results go."""
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--model", action="append", metavar="NAME",
        help="a known name, a hub id, a folder or a .gguf file (default: the embedded SmolLM2-135M-Instruct, Q4_1); "
        "give it again for more models in one go; ORG/NAME@REVISION for one of its checkpoints",
    )  # fmt: skip
    what.add_argument("--sweep", metavar="FILE", help="more models, one a line as for --model")
    what.add_argument("--model-path", metavar="PATH",
                      help="weights on this disk: of the named model, or alone as for --model PATH")  # fmt: skip
    what.add_argument("--revision", help="the hub revision of the model")
    what.add_argument("--suite", metavar="CARD",
                      help="a card's name or .toml file, or 'all' (default: the model's own)")  # fmt: skip
    what.add_argument("--tasks", metavar="A,B", help="only these tasks or rows (see 'run_evals.py tasks')")
    what.add_argument(
        "--limit", type=int, metavar="N", help="only the first N docs of each task, after the shuffle"
    )
    what.add_argument("--variant", action="append", default=[], metavar="NAME", help="a named budget variant")
    what.add_argument("--references", action="store_true",
                      help="also score generated rows' reference answers, where there are any, for a gate")  # fmt: skip
    where = parser.add_argument_group("data and results")
    where.add_argument(
        "--data", default="hub", metavar="hub|smoke|DIR", help="where the benchmarks are (default: hub)"
    )
    where.add_argument("--output-dir", default="results", metavar="DIR", help="default: results")
    where.add_argument("--fresh", action="store_true", help="compute everything again, whatever is stored")
    where.add_argument(
        "--offline", action="store_true", help="no network at all: cached files or a folder only"
    )
    _add_server_arguments(parser)
    add_judge_arguments(parser)
    _add_computing_arguments(parser)


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a model behind an OpenAI-compatible server (--model openai:NAME)")
    group.add_argument("--base-url", metavar="URL", help="where it is, like http://127.0.0.1:8000/v1")
    group.add_argument("--api-key-env", metavar="NAME",
                       help="environment variable that holds the key (default: OPENAI_API_KEY)")  # fmt: skip
    group.add_argument("--tokenizer", metavar="PATH|ID",
                       help="the model's tokenizer (a folder, a .gguf file or a hub id): likelihood rows need it, "
                       "and rows without a budget of their own (BBH)")  # fmt: skip
    group.add_argument("--parallel", type=int, metavar="N",
                       help=f"requests at once (default: {ServerOptions.parallel})")  # fmt: skip
    group.add_argument("--timeout", type=float, metavar="SECONDS",
                       help=f"for one answer (default: {ServerOptions.timeout:.0f})")  # fmt: skip


def _add_computing_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("how to compute")
    plan = how.add_mutually_exclusive_group()
    plan.add_argument(
        "--plan",
        action="store_true",
        default=None,
        help=f"first show requests, tokens and the time they will take "
        f"(default: on a CPU or in several processes, from {PLANNED_DOCS:,} docs on)",
    )
    plan.add_argument("--no-plan", dest="plan", action="store_false", help="never show that")
    how.add_argument("--dry-run", action="store_true",
                     help="show requests and tokens, and stop; with --plan also the time, tried out first")  # fmt: skip
    how.add_argument("--workers", type=int, metavar="N",
                     help="divide the work: one worker a GPU, or N that share the cores (needs Ray)")  # fmt: skip
    how.add_argument("--cluster", metavar="ADDRESS",
                     help="workers on a Ray cluster: HOST:PORT, or auto on one of its nodes "
                     "(default: one a GPU, or one a node)")  # fmt: skip
    how.add_argument("--device", help="cpu, cuda:1, mps (default: the best there is)")
    how.add_argument("--dtype", choices=DTYPES,
                     help="default: bfloat16 where the device computes it well, else float32")  # fmt: skip
    how.add_argument("--engine", choices=("shared", "plain"),
                     help="plain: one sequence at a time, for comparison (default: shared)")  # fmt: skip
