"""Judges the two-turn answers of a run, without generating anything again.

A stopped judging goes on where it was; several judges can stand side by side in a run.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.adapters.build import LocalOptions
from evals.commands.options import Use, given, refuse_unused, require_positive
from evals.core.errors import EXIT_OK, EXIT_ROWS_MISSING, UserError
from evals.models.known import ModelSpec, is_endpoint, resolve

if TYPE_CHECKING:
    from evals.judging.judge import Judge
    from evals.run.progress import Progress


@dataclass(frozen=True)
class JudgeOptions:
    """A judge: a server's (`name`, `url`) or, where `spec` is given, this machine's own chat model.

    `prompts`: a folder or "own"; None: FastChat's where the folder `data` has them, else our own. `published`: it is
    the judge behind the published number.
    """

    name: str
    spec: ModelSpec | None
    local: LocalOptions | None
    data: Path | None
    offline: bool
    url: str | None = None
    key_env: str | None = None
    prompts: str | None = None
    published: bool = False
    parallel: int = 4
    timeout: float = 600.0


@dataclass(frozen=True)
class Options:
    """What `judge` was asked for. `cache`: the store of finished requests."""

    run: Path
    judge: JudgeOptions
    cache: Path


def _is_served(judge: JudgeOptions | None) -> bool:
    return judge is not None and judge.spec is None


_SERVED = "belongs to --judge openai:MODEL"
JUDGE_USES: tuple[Use[JudgeOptions | None], ...] = (
    Use("--judge-url", _is_served, _SERVED),
    Use("--judge-key-env", _is_served, _SERVED),
    Use("--judge-parallel", _is_served, _SERVED),
    Use("--judge-timeout", _is_served, _SERVED),
    Use("--judge-prompts", lambda judge: judge, "belongs to --judge"),
    Use("--same-judge-as-published", lambda judge: judge, "belongs to --judge"),
)
USES: tuple[Use[Options], ...] = (
    Use("--device", lambda o: o.judge.spec, "belongs to --judge local:NAME"),
    Use("--dtype", lambda o: o.judge.spec, "belongs to --judge local:NAME"),
    Use("--data", lambda o: o.judge.prompts is None, "gives the judge's prompts, as --judge-prompts does: give one"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which run, which judge."""
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    add_judge_arguments(parser, required=True)
    parser.add_argument(
        "--data", metavar="DIR", help="folder whose mt_bench/judge_prompts.jsonl has FastChat's prompts"
    )
    parser.add_argument(
        "--offline", action="store_true", help="only this machine: no hub, no endpoint elsewhere"
    )
    parser.add_argument("--device", help="of a local judge: cpu, cuda:1, mps (default: the best there is)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of a local judge")
    parser.add_argument(
        "--cache", metavar="FILE", help="the store of finished requests (default: the output folder's)"
    )


def add_judge_arguments(parser: Any, required: bool = False) -> None:
    """The judge's own options, for this command and for 'run'."""
    group = parser.add_argument_group("judging MT-Bench")
    group.add_argument("--judge", required=required, metavar="openai:MODEL|local:NAME",
                       help="a model behind an OpenAI-compatible server, or a local chat model")  # fmt: skip
    group.add_argument(
        "--judge-url", metavar="URL", help="of an openai: judge, like http://127.0.0.1:8000/v1"
    )
    group.add_argument("--judge-key-env", metavar="NAME",
                       help="environment variable that holds the judge's key (default: OPENAI_API_KEY)")  # fmt: skip
    group.add_argument("--judge-prompts", metavar="DIR|own",
                       help="folder with FastChat's judge_prompts.jsonl, or this project's own wording "
                       "(default: FastChat's when the data folder has them)")  # fmt: skip
    group.add_argument("--same-judge-as-published", action="store_true",
                       help="state that this judge is the one behind the published number")  # fmt: skip
    group.add_argument("--judge-parallel", type=int, metavar="N",
                       help=f"requests to an endpoint at once (default: {JudgeOptions.parallel})")  # fmt: skip
    group.add_argument("--judge-timeout", type=float, metavar="SECONDS",
                       help=f"for one answer of an endpoint (default: {JudgeOptions.timeout:.0f})")  # fmt: skip


def judge_options(args: argparse.Namespace, data: Path | None) -> JudgeOptions | None:
    """The judge of --judge and its own options, checked; None without --judge. `data`: may hold FastChat's prompts.

    Raises UserError.
    """
    judge = None if args.judge is None else _judge(args, data)
    refuse_unused(args, judge, JUDGE_USES)
    return judge


def _judge(args: argparse.Namespace, data: Path | None) -> JudgeOptions:
    kind, _, name = args.judge.partition(":")
    if kind not in ("openai", "local") or not name:
        raise UserError(f"--judge '{args.judge}' is neither openai:MODEL nor local:NAME")
    if kind == "openai" and args.judge_url is None:
        raise UserError("--judge openai:... needs --judge-url, like http://127.0.0.1:8000/v1")
    if kind == "local" and is_endpoint(name):
        raise UserError(f"--judge local:{name} is behind a server: give --judge {name} with --judge-url")
    require_positive(args, "--judge-parallel", "--judge-timeout")
    return JudgeOptions(
        name=name,
        spec=resolve(name) if kind == "local" else None,
        local=LocalOptions(**given(args, "device", "dtype")) if kind == "local" else None,
        data=data,
        offline=args.offline,
        published=args.same_judge_as_published,
        **given(args, "url", "key_env", "prompts", "parallel", "timeout", prefix="judge_"),
    )


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    data = None if args.data is None else Path(args.data).expanduser()
    judge = judge_options(args, data)
    assert judge is not None  # the command requires --judge
    run = Path(args.run)
    cache = default_cache(run) if args.cache is None else Path(args.cache)
    options = Options(run, judge, cache)
    refuse_unused(args, options, USES)
    if data is not None and not (data / "mt_bench" / "judge_prompts.jsonl").is_file():
        raise UserError(
            f"no mt_bench/judge_prompts.jsonl in '{args.data}' (--data): give a folder that has it"
        )
    return options


def main(args: argparse.Namespace) -> int:
    """Judges the run; exit code 0, or 3 when some turns could not be judged."""
    options = options_from(args)
    from evals.judging.judge import read_items

    read_items(options.run)

    from evals.run.progress import Progress

    return judge_folder(options.run, make_judge(options.judge), options.judge, options.cache, Progress())


def judge_folder(folder: Path, judge: Judge, options: JudgeOptions, cache: Path, progress: Progress) -> int:
    """Judges one run, prints its scores and draws them beside it."""
    from evals.core.runlog import read_log
    from evals.judging.judge import judge_run, judged_row
    from evals.judging.prompts import load_prompts
    from evals.run.store import Store
    from reports import judgments

    prompts = load_prompts(options.prompts, options.data)
    with Store.open(cache, progress.note) as store:
        done = judge_run(folder, judge, prompts, store, progress, published=options.published)
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
    return EXIT_ROWS_MISSING if done.refused else EXIT_OK


def default_cache(folder: Path) -> Path:
    """The store of the output folder that the run lies in; of the run itself where there is none."""
    output = folder.resolve().parent.parent / ".cache"
    return (output if output.is_dir() else folder / ".cache") / "requests.sqlite"


def make_judge(options: JudgeOptions) -> Judge:
    """The judge that the options name. Raises UserError."""
    if options.spec is not None:
        return _local_judge(options.spec, options.local or LocalOptions(), options.offline)
    from evals.adapters.client import Client
    from evals.adapters.judges import EndpointJudge

    assert options.url is not None
    return EndpointJudge(
        Client(
            options.name,
            options.url,
            key_env=options.key_env,
            parallel=options.parallel,
            timeout=options.timeout,
            offline=options.offline,
            option="--judge-url",
            key_option="--judge-key-env",
        )
    )


def _local_judge(spec: ModelSpec, options: LocalOptions, offline: bool) -> Judge:
    from evals.adapters.judges import LocalJudge
    from evals.adapters.local import PrefixModel
    from evals.models import loading

    device = loading.pick_device(options.device)
    path = loading.local_path(spec, offline)
    loaded = loading.load(path, device, loading.pick_dtype(options.dtype, device))
    return LocalJudge(PrefixModel(loaded, chat=True, name=spec.name), spec.name)
