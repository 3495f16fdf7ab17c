"""Judges the MT-Bench answers of a run, without generating anything again.

A stopped judging goes on where it was; several judges can stand side by side in a run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.errors import EXIT_OK, EXIT_ROWS_MISSING, UserError

if TYPE_CHECKING:
    from evals.judge import Judge
    from evals.progress import Progress


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
    group.add_argument("--judge-parallel", type=int, default=4, metavar="N",
                       help="requests to an endpoint at once (default: 4)")  # fmt: skip
    group.add_argument("--judge-timeout", type=float, default=600.0, metavar="SECONDS",
                       help="for one answer of an endpoint (default: 600)")  # fmt: skip


def check_judge(args: argparse.Namespace) -> None:
    """Everything about the judge that can be checked before anything heavy is imported. Raises UserError."""
    kind, _, name = args.judge.partition(":")
    if kind not in ("openai", "local") or not name:
        raise UserError(f"--judge '{args.judge}' is neither openai:MODEL nor local:NAME")
    if kind == "openai" and not args.judge_url:
        raise UserError("--judge openai:... needs --judge-url, like http://127.0.0.1:8000/v1")
    if kind == "local" and args.judge_url:
        raise UserError("--judge-url belongs to --judge openai:..., not to a local judge")
    if args.judge_parallel < 1 or args.judge_timeout <= 0:
        raise UserError("--judge-parallel and --judge-timeout must be positive")


def main(args: argparse.Namespace) -> int:
    """Judges the run; exit code 0, or 3 when some turns could not be judged."""
    check_judge(args)
    folder = Path(args.run)
    from evals.judge import read_items, read_record

    read_record(folder)
    read_items(folder)

    from evals.progress import Progress

    progress = Progress()
    cache = Path(args.cache) if args.cache else default_cache(folder)
    data = Path(args.data) if args.data not in (None, "hub", "smoke") else None
    return judge_folder(folder, make_judge(args), cache, data, args, progress)


def judge_folder(
    folder: Path, judge: Judge, cache: Path, data: Path | None, args: argparse.Namespace, progress: Progress
) -> int:
    """Judges one run, prints its scores and draws them beside it."""
    from evals.judge import judge_run
    from evals.judge_prompts import load_prompts
    from evals.store import Store
    from reports import mt_bench

    prompts = load_prompts(args.judge_prompts, data)
    with Store.open(cache, progress.note) as store:
        done = judge_run(folder, judge, prompts, store, progress, published=args.same_judge_as_published)
    progress.note(
        f"judge {judge.name}: {done.asked} answers judged now, {done.stored} stored before, "
        f"{len(done.refused)} could not be judged"
    )
    for (question, turn), reason in list(done.refused.items())[:5]:
        progress.note(f"question {question}, turn {turn}: {reason}")
    print(mt_bench.text(done.lines))
    for picture in mt_bench.draw(done.lines, f"MT-Bench: {folder.parent.name}", folder):
        print(f"picture: {picture}")
    return EXIT_ROWS_MISSING if done.refused else EXIT_OK


def default_cache(folder: Path) -> Path:
    """The store of the output folder that the run lies in; of the run itself where there is none."""
    output = folder.resolve().parent.parent / ".cache"
    return (output if output.is_dir() else folder / ".cache") / "requests.sqlite"


def make_judge(args: argparse.Namespace) -> Judge:
    """The judge that the options name. Raises UserError."""
    kind, _, name = args.judge.partition(":")
    if kind == "openai":
        from evals.client import Client
        from evals.judge import EndpointJudge

        return EndpointJudge(
            Client(
                name,
                args.judge_url,
                key_env=args.judge_key_env,
                parallel=args.judge_parallel,
                timeout=args.judge_timeout,
                offline=args.offline,
                option="--judge-url",
                key_option="--judge-key-env",
            )
        )
    return _local_judge(args, name)


def _local_judge(args: argparse.Namespace, name: str) -> Judge:
    from evals.models import resolve

    spec = resolve(name)

    from evals.adapters import loading
    from evals.adapters.prefix import PrefixModel
    from evals.judge import LocalJudge

    device = loading.pick_device(args.device)
    path = loading.local_path(spec, args.offline)
    loaded = loading.load(path, device, loading.pick_dtype(args.dtype, device))
    return LocalJudge(PrefixModel(loaded, chat=True, name=spec.name), spec.name)
