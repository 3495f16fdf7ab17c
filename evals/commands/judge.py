"""Judges the two-turn answers of a run, without generating anything again.

A stopped judging goes on where it was; several judges can stand side by side in a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from evals.adapters.build import LocalOptions, ServerOptions, load
from evals.commands.options import DTYPES, Asked, Need, argument, option, part, positive, store_path, switch
from evals.core.errors import EXIT_OK, EXIT_ROWS_MISSING, UserError
from evals.models.known import ModelSpec, is_endpoint, resolve

if TYPE_CHECKING:
    from evals.judging.judge import Judge
    from evals.run.progress import Progress

PARALLEL, TIMEOUT = ServerOptions.parallel, ServerOptions.timeout
JUDGED: Need = (lambda o: o.judge, "belongs to --judge")
SERVED: Need = (lambda o: o.judge and o.judge_spec is None, "belongs to --judge openai:MODEL")
LOCAL: Need = (lambda o: o.judge_spec, "belongs to --judge local:NAME")
ALONE: Need = (
    lambda o: o.judge_prompts is None,
    "gives the judge's prompts, as --judge-prompts does: give one",
)

judging = partial(option, group="judging MT-Bench")
WHO = ("a model behind an OpenAI-compatible server, or a local chat model", "openai:MODEL|local:NAME")


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(Asked):
    """The judge's own options, for this command and for `run`."""

    judge: str | None = judging(*WHO)
    judge_url: str | None = judging(
        "of an openai: judge, like http://127.0.0.1:8000/v1", "URL", needs=[SERVED]
    )
    judge_key_env: str | None = judging(
        "environment variable that holds the judge's key (default: OPENAI_API_KEY)", "NAME", needs=[SERVED]
    )
    judge_prompts: str | None = judging(
        "folder with FastChat's judge_prompts.jsonl, or this project's own wording (default: FastChat's when the data "
        "folder has them)",
        "DIR|own", needs=[JUDGED],
    )  # fmt: skip
    same_judge_as_published: bool = judging(
        "state that this judge is the one behind the published number", default=False, needs=[JUDGED]
    )
    judge_parallel: int | None = judging(
        f"requests to an endpoint at once (default: {PARALLEL})", "N", check=positive, needs=[SERVED]
    )
    judge_timeout: float | None = judging(
        f"for one answer of an endpoint (default: {TIMEOUT:.0f})", "SECONDS", check=positive, needs=[SERVED]
    )

    @cached_property
    def judge_spec(self) -> ModelSpec | None:
        """A judge on this machine; None for a server's, or for none. Raises UserError for what is no judge."""
        if self.judge is None:
            return None
        kind, _, name = self.judge.partition(":")
        if kind not in ("openai", "local") or not name:
            raise UserError(f"--judge '{self.judge}' is neither openai:MODEL nor local:NAME")
        if kind == "openai" and self.judge_url is None:
            raise UserError("--judge openai:... needs --judge-url, like http://127.0.0.1:8000/v1")
        if kind == "local" and is_endpoint(name):
            raise UserError(f"--judge local:{name} is behind a server: give --judge {name} with --judge-url")
        return resolve(name) if kind == "local" else None


@dataclass(frozen=True, kw_only=True)
class Options(JudgeOptions):
    """What `judge` was asked for."""

    run: Path = argument("a run's folder", "RUN")
    judge: str = judging(*WHO, required=True)
    data: Path | None = option(
        "folder whose mt_bench/judge_prompts.jsonl has FastChat's prompts", "DIR", needs=[ALONE]
    )
    offline: bool = switch("only this machine: no hub, no endpoint elsewhere")
    device: str | None = option(
        "of a local judge: cpu, cuda:1, mps (default: the best there is)", needs=[LOCAL]
    )
    dtype: str | None = option("of a local judge", choices=DTYPES, needs=[LOCAL])
    cache: Path | None = option("the store of finished requests (default: the output folder's)", "FILE")

    @property
    def folder(self) -> Path | None:
        """The folder of data that has FastChat's prompts."""
        return None if self.data is None else self.data.expanduser()

    def resolve(self) -> None:
        """A judge, and its prompts. Raises UserError."""
        self.judge_spec  # noqa: B018  # raises
        if self.folder is not None and not (self.folder / "mt_bench" / "judge_prompts.jsonl").is_file():
            raise UserError(
                f"no mt_bench/judge_prompts.jsonl in '{self.data}' (--data): give a folder that has it"
            )


def main(options: Options) -> int:
    """Judges the run; exit code 0, or 3 when some turns could not be judged."""
    options.check()
    from evals.judging.judge import read_items

    read_items(options.run)

    from evals.run.progress import Progress

    cache = options.cache or default_cache(options.run)
    return judge_folders([options.run], options, options.folder, options.offline, cache, Progress())


def judge_folders(
    folders: Sequence[Path], options: JudgeOptions, data: Path | None, offline: bool, cache: Path, progress: Progress
) -> int:  # fmt: skip
    """Judges runs, prints their scores and draws them beside them; the exit code. `data`: may hold the prompts."""
    from evals.core.runlog import read_log
    from evals.judging.judge import judge_run, judged_row
    from evals.judging.prompts import load_prompts
    from evals.run.store import Store
    from reports import judgments

    judge, prompts = _make_judge(options, offline), load_prompts(options.judge_prompts, data)
    published, code = options.same_judge_as_published, EXIT_OK
    for folder in folders:
        with Store.open(cache, progress.note) as store:
            done = judge_run(folder, judge, prompts, store, progress, published=published)
        progress.note(
            f"judge {judge.name}: {done.asked} answers judged now, {done.stored} stored before, "
            f"{len(done.refused)} could not be judged"
        )
        for (question, turn), reason in list(done.refused.items())[:5]:
            progress.note(f"question {question}, turn {turn}: {reason}")
        print(judgments.text(done.lines))
        row = judged_row(read_log(folder))
        for picture in judgments.draw(done.lines, f"{row.label}: {folder.parent.name}", folder, row.tasks[0]):
            print(f"picture: {picture}")
        code = EXIT_ROWS_MISSING if done.refused else code
    return code


def default_cache(folder: Path) -> Path:
    """The store of the output folder that the run lies in; of the run itself where there is none."""
    store = store_path(folder.resolve().parent.parent)
    return store if store.parent.is_dir() else store_path(folder)


def _make_judge(options: JudgeOptions, offline: bool) -> Judge:
    from evals.adapters.judges import EndpointJudge, LocalJudge

    if spec := options.judge_spec:
        from evals.adapters.local import PrefixModel

        loaded, _ = load(spec, part(LocalOptions, options), offline)
        return LocalJudge(PrefixModel(loaded, chat=True, name=spec.name), spec.name)
    from evals.adapters.client import Client

    assert options.judge is not None
    return EndpointJudge(
        Client(
            options.judge.removeprefix("openai:"),
            str(options.judge_url),
            key_env=options.judge_key_env,
            parallel=options.judge_parallel or PARALLEL,
            timeout=options.judge_timeout or TIMEOUT,
            offline=offline,
            option="--judge-url",
            key_option="--judge-key-env",
        )
    )
