"""Every pair of options of every command: both do something, or one line refuses them.

    python tests/tools/option_pairs.py [COMMAND…]

Prints a table a command and situation. Nothing is measured: options become the command's frozen dataclass, and what
that comes to with and without an option is compared. No model is loaded, torch is never imported.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from evals import cli  # noqa: E402
from evals.core.errors import UserError  # noqa: E402

Words = tuple[str, ...]
make_parser = functools.cache(cli.make_parser)
USED, REFUSED, DROPPED = "+", "·", "DROPPED"


@dataclass(frozen=True)
class Situation:
    """A sound command line to which options are added; an option of its own gives way to a pair's."""

    name: str
    words: tuple[Words, ...]


@dataclass(frozen=True)
class Command:
    """A command's options to pair, where they are tried, and what options come to.

    `agree`: pairs of which one says what the other says already.
    """

    name: str
    options: tuple[Words, ...]
    situations: tuple[Situation, ...]
    effect: Callable[[Any], Any]
    positional: Words = ()
    agree: tuple[frozenset[str], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a pair: USED, REFUSED (with the line) or DROPPED (with what was)."""

    situation: str
    one: Words
    two: Words
    verdict: str
    line: str = ""


def outcomes(command: Command) -> Iterator[Outcome]:
    """The outcome of each pair in each situation; an option that the situation has already is not paired."""
    for situation in command.situations:
        options = [words for words in command.options if words not in situation.words]
        alone = {words: read(command, situation, words) for words in options}
        for one, two in itertools.combinations(options, 2):
            both = read(command, situation, one, two)
            if isinstance(both, UserError):
                yield Outcome(situation.name, one, two, REFUSED, str(both))
                continue
            here = {words[0] for words in (one, two, *situation.words)}
            dropped = [
                left[0]
                for left, kept in ((one, two), (two, one))
                if alone[kept] == both and not any(left[0] in pair and pair <= here for pair in command.agree)
            ]
            yield Outcome(situation.name, one, two, DROPPED if dropped else USED, " ".join(dropped))


def read(command: Command, situation: Situation, *chosen: Words) -> Any:
    """What the options come to; the UserError that refuses them."""
    try:
        _, parser = make_parser(command.name)
        options = parser.options(line(command, situation, *chosen)[1:])
        options.check()
        return command.effect(options)
    except UserError as error:
        return error


def line(command: Command, situation: Situation, *chosen: Words) -> list[str]:
    """The command line: the situation's words, and the chosen options in place of its own of that name."""
    names = {words[0] for words in chosen}
    kept = [words for words in situation.words if words[0] not in names]
    return [command.name, *command.positional, *(word for words in (*kept, *chosen) for word in words)]


# --- what options come to ---


def run_effect(options: Any) -> Any:
    """What a run would do: which budgets the variants change; the rest as it is."""
    smoke = options.settings.source.kind == "smoke"
    changed = {
        (suite.name, task): tokens
        for suite, row in options.rows
        for task, tokens in suite.budgets(options.settings.variants).items()
        if task in row.tasks and not smoke
    }
    rows = [(suite.name, row) for suite, row in options.rows]
    settings = replace(options.settings, variants=[], tasks=None)
    how = (options.local, options.server, judged(options, options.settings.source.folder))
    planned = (
        options.plan,
        options.no_plan,
        options.dry_run,
        options.workers,
        options.cluster,
        options.offline,
    )
    return options.specs, options.cards, settings, rows, changed, how, planned


def judged(options: Any, data: Any) -> Any:
    """What judging would use: of a server its address and limits, of a judge here how it computes."""
    if options.judge is None:
        return None
    prompts = str(data if options.judge_prompts is None else options.judge_prompts)
    served = (options.judge_url, options.judge_key_env, options.judge_parallel, options.judge_timeout)
    how = (
        (options.judge_spec, options.device, options.dtype) if options.judge_spec else (options.judge, served)
    )
    return how, prompts, options.same_judge_as_published, options.offline


def report_effect(options: Any) -> Any:
    """What `report` would read and write."""
    if options.curve:
        return "curve", options.runs, options.plot, options.output, options.steps
    return asdict(options)


def leaderboard_effect(options: Any) -> Any:
    """What `leaderboard` would write: samples matter to the site only."""
    return replace(options, no_samples=options.no_samples and "site" in (options.format or ["site"]))


def gate_effect(options: Any) -> Any:
    """The baseline that is found, and the rest as it is."""
    from reports.finding import find_run

    return replace(options, baseline=str(find_run(options.baseline, options.baselines)), baselines=None)


def judge_effect(options: Any) -> Any:
    """What would be judged, by whom, and where it is kept."""
    return options.run, options.cache, judged(options, options.folder)


def prompts_effect(options: Any) -> Any:
    """What would be shown."""
    return options.tasks, options.spec, options.source, options.docs, options.mode, options.offline


# --- the commands ---


def run_command(folder: Path) -> Command:
    """`run`, in every situation that decides what an option is good for."""
    own, other = str(folder / "tiny"), str(folder / "other")
    common = (("--suite", "all"), ("--data", str(folder / "data")), ("--output-dir", str(folder / "out")))
    here = (("--model", own), *common)
    server = (("--model", "openai:served"), ("--base-url", "http://127.0.0.1:1/v1"), *common)
    judge = (("--judge", "openai:judge"), ("--judge-url", "http://127.0.0.1:1/v1"))
    local_judge = (("--judge", f"local:{own}"),)
    options: tuple[Words, ...] = (
        ("--model", other),
        ("--model", "org/model@step-1"),
        ("--model", "openai:other"),
        ("--sweep", str(folder / "sweep.txt")),
        ("--model-path", other),
        ("--revision", "v1"),
        ("--suite", "base"),
        ("--tasks", "piqa"),
        ("--tasks", "gsm8k,mt_bench"),
        ("--limit", "3"),
        ("--variant", "gsm8k-1280"),
        ("--variant", "trivia_qa-256"),
        ("--data", "smoke"),
        ("--data", "hub"),
        ("--output-dir", str(folder / "elsewhere")),
        ("--fresh",),
        ("--offline",),
        ("--base-url", "http://127.0.0.1:2/v1"),
        ("--api-key-env", "A_KEY"),
        ("--tokenizer", other),
        ("--parallel", "2"),
        ("--timeout", "7"),
        ("--judge", "openai:second"),
        ("--judge", f"local:{other}"),
        ("--judge-url", "http://127.0.0.1:3/v1"),
        ("--judge-key-env", "JUDGE_KEY"),
        ("--judge-prompts", "own"),
        ("--same-judge-as-published",),
        ("--judge-parallel", "3"),
        ("--judge-timeout", "9"),
        ("--plan",),
        ("--no-plan",),
        ("--dry-run",),
        ("--device", "cpu"),
        ("--dtype", "float16"),
        ("--engine", "plain"),
        ("--workers", "2"),
        ("--cluster", "127.0.0.1:6379"),
    )
    situations = (
        Situation("the embedded model", common),
        Situation("a folder", here),
        Situation("a known name", (("--model", "SmolLM2-360M"), *common)),
        Situation("a model of the hub", (("--model", "org/model"), *common)),
        Situation("a server", server),
        Situation("a folder, a server judges", (*here, *judge)),
        Situation("a folder, judged here", (*here, *local_judge)),
        Situation("a server, judged here", (*server, *local_judge)),
        Situation("smoke items", (*here[:2], ("--data", "smoke"), *common[2:])),
        Situation("a plan alone", (*here, ("--dry-run",))),
        Situation("a folder, two workers", (*here, ("--workers", "2"))),
        Situation("a folder, a cluster", (*here, ("--cluster", "auto"))),
    )
    return Command("run", options, situations, run_effect)


def other_commands(folder: Path) -> list[Command]:
    """All commands with options but `run`. Those with no table of situations have one."""
    none = (Situation("", ()),)
    file, picture, run = str(folder / "file"), str(folder / "picture.svg"), str(folder / "run")
    return [
        Command("report", (("--columns", "A"), ("--format", "json"), ("--format", "eee"), ("--output", file),
                           ("--plot", picture), ("--curve",), ("--published",), ("--steps", "1"), ("--plain",),
                           ("--model-index", file), ("--margin", "1"), ("--alpha", "0.01")),
                (Situation("tables", ()), Situation("records", (("--format", "eee"), ("--output", file)))),
                report_effect, (run,)),
        Command("curve", (("--plot", picture), ("--output", file), ("--steps", "1")), none, asdict, (run,)),
        Command("compare", (("--show-flips", "3"), ("--format", "json"), ("--output", file),
                            ("--margin", "1"), ("--alpha", "0.01")), none, asdict, (run, run)),
        Command("gate", (("--baseline", "main"), ("--candidate", "other"), ("--policy", file), ("--allow", "dtype"),
                         ("--allow-inconclusive",), ("--baselines", str(folder / "kept")), ("--junit", file),
                         ("--summary", file), ("--margin", "1"), ("--alpha", "0.01")),
                (Situation("a run as baseline", (("--baseline", run), ("--candidate", run))),
                 Situation("a blessed one", (("--baseline", "main"), ("--candidate", run),
                                             ("--baselines", str(folder / "blessed"))))), gate_effect),
        Command("bless", (("--as", "name"), ("--baselines", file)), (Situation("", (("--as", "main"),)),), asdict,
                (run,)),
        Command("leaderboard", (("--all",), ("--output", file), ("--format", "md"), ("--format", "site"),
                                ("--no-samples",), ("--samples", "9"), ("--push", "org/board")), none,
                leaderboard_effect, (str(folder),)),
        Command("judge", (("--judge", "openai:other"), ("--judge", f"local:{folder / 'other'}"),
                          ("--judge-url", "http://127.0.0.1:3/v1"), ("--judge-key-env", "JUDGE_KEY"),
                          ("--judge-prompts", "own"), ("--same-judge-as-published",), ("--judge-parallel", "3"),
                          ("--judge-timeout", "9"), ("--data", str(folder / "data")), ("--offline",),
                          ("--device", "cpu"), ("--dtype", "float16"), ("--cache", file)),
                (Situation("a server's judge", (("--judge", "openai:m"), ("--judge-url", "http://127.0.0.1:1/v1"))),
                 Situation("a judge here", (("--judge", f"local:{folder / 'tiny'}"),))), judge_effect, (run,)),
        Command("prompts", (("--model", "SmolLM2-360M"), ("--model", "openai:m"), ("--data", "hub"), ("--docs", "2"),
                            ("--model-path", str(folder / "tiny")), ("--mode", "chat"), ("--offline",)),
                none, prompts_effect, ("piqa",)),
        Command("snapshot", (("--tasks", "piqa"), ("--tasks", "nonsense"), ("--offline",)), none, asdict, (file,)),
    ]  # fmt: skip


@contextlib.contextmanager
def places() -> Iterator[Path]:
    """A folder with the files that the options name: weights by name only, data, a sweep, baselines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = (
            "tiny/config.json",
            "other/config.json",
            "data/piqa/x",
            "run/run.json",
            "kept/main/run.json",
            "blessed/main/run.json",
        )
        for file in files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text("{}")
        (folder / "data" / "mt_bench").mkdir()
        (folder / "data" / "mt_bench" / "judge_prompts.jsonl").write_text(json.dumps({"name": "x"}))
        (folder / "sweep.txt").write_text(f"{folder / 'other'}\n")
        yield folder


def commands(folder: Path) -> list[Command]:
    """All commands that have options to pair."""
    return [run_command(folder), *other_commands(folder)]


# --- printing ---


def table(found: Sequence[Outcome], options: Sequence[Words]) -> str:
    """A situation's pairs: options down and across."""
    by_pair = {(one.one, one.two): one.verdict for one in found}
    lines = [
        [k + 1, shown(two), *(by_pair.get((one, two), "") for one in options[:k])]
        for k, two in enumerate(options)
    ]
    return tabulate(lines, headers=["", "", *range(1, len(options))], tablefmt="plain")


def shown(words: Words) -> str:
    """An option with its value, without the machine's folders."""
    return " ".join([words[0], *(re.sub(r"/\S*/", "", word) for word in words[1:])])


def main() -> int:
    """Prints the tables and how many pairs came out how; exit code 1 if an option was dropped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("command", nargs="*")
    parser.add_argument("--reasons", action="store_true", help="also each refused pair's line")
    args = parser.parse_args()
    dropped = 0
    with places() as folder:
        for command in commands(folder):
            if args.command and command.name not in args.command:
                continue
            found = list(outcomes(command))
            for situation in command.situations:
                own = [one for one in found if one.situation == situation.name]
                print(f"\n{command.name}: {situation.name or 'all'} ({USED} both used, {REFUSED} refused)\n")
                print(table(own, command.options))
                for one in own if args.reasons else []:
                    if one.verdict == REFUSED:
                        print(f"  {shown(one.one)}  {shown(one.two)}: {one.line.replace(str(folder), '')}")
            counts = {
                verdict: sum(one.verdict == verdict for one in found) for verdict in (USED, REFUSED, DROPPED)
            }
            dropped += counts[DROPPED]
            print(f"\n{command.name}: {len(found)} pairs, {counts[USED]} used, {counts[REFUSED]} refused, "
                  f"{counts[DROPPED]} with an option dropped")  # fmt: skip
    return 1 if dropped else 0


if __name__ == "__main__":
    sys.exit(main())
