"""Marks in the environment, names and paths, looked for in everything that run, report, site, gate and judge write."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.support.fault_server import Act, FaultServer, chat_reply
from tests.support.judged_runs import CATEGORIES, question, write_run
from tests.support.run_bench import Bench
from tests.tools.attacks.stage import Ended, Stage, attack

HOST, USER, FOLDER, HOME, TOKEN, OTHER = (
    f"marked{word}Zq7" for word in ("host", "user", "path", "home", "key", "env")
)
EVERYWHERE = (
    HOST,
    USER,
    HOME,
    TOKEN,
    OTHER,
)  # and FOLDER, but where the user's own words are repeated to the user


def variables(home: Path) -> dict[str, str]:
    """What people keep in the environment."""
    tokens = (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
        "WANDB_API_KEY",
    )
    return {
        **dict.fromkeys(tokens, TOKEN), "HOME": str(home), "USER": USER, "LOGNAME": USER, "HOSTNAME": HOST,
        "PRIVATE_NOTE": OTHER, "SLURM_JOB_USER": USER, "PWD": str(home),
    }  # fmt: skip


def leaking(files: Iterable[Path], marks: Iterable[str]) -> list[str]:
    """Files whose name or content holds a mark; parquet is looked at as it is read, too."""
    from pyarrow import parquet

    found = []
    for file in files:
        content = file.read_bytes() + file.name.encode()
        if file.suffix == ".parquet":
            table = parquet.read_table(file)
            content += str(table.to_pydict()).encode() + str(table.schema.metadata).encode()
        found += [f"{mark} in {file.name}" for mark in marks if mark.encode() in content]
    return found


def files_below(*folders: Path) -> list[Path]:
    """Every file in the folders."""
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]


class Marked:
    """Commands in an environment full of marks; their logs are kept."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.logs = stage, ""
        self.home = stage.folder / HOME
        self.home.mkdir()

    def run(self, *arguments: object, fine: tuple[int, ...] = (0,)) -> Ended:
        """One command that has to end well."""
        hook = ("tests.tools.attacks.hooks:marked_host", HOST, variables(self.home))
        ended = self.stage.run([str(word) for word in arguments], *hook)
        assert ended.code in fine, f"exit {ended.code}: {ended.text[-500:]}"
        self.logs += ended.text
        return ended

    def check(self, *folders: Path) -> str:
        """No mark in any file, none but the user's own words in the logs."""
        files = files_below(*folders)
        found = leaking(files, (*EVERYWHERE, FOLDER))
        found += [f"{mark} in a log" for mark in EVERYWHERE if mark in self.logs]
        assert not found, ", ".join(found)
        return f"none of {len(EVERYWHERE) + 1} marks in {len(files)} files and the logs"


def marked_bench(stage: Stage) -> Bench:
    """Runs whose model and data lie below a marked folder."""
    place = stage.folder / FOLDER
    place.mkdir()
    bench = stage.bench(model=Path(shutil.copytree(stage.model, place / "tiny")))
    bench.data = Path(shutil.copytree(bench.data, place / "data"))
    return bench


@attack("leaks")
def run_report_site_gate(stage: Stage) -> str:
    """host, user, paths, tokens, environment in what run, report, leaderboard, compare, bless and gate write"""
    marked, bench = Marked(stage), marked_bench(stage)
    out = stage.folder / "out"
    out.mkdir()
    for suite in ("base", "instruct"):
        marked.run(*bench.arguments("--suite", suite))
    base = next(folder for folder in bench.folders() if folder.name.endswith("base"))
    for format_ in ("md", "csv", "json"):
        marked.run("report", base, "--format", format_, "--output", out / f"report.{format_}")
    marked.run("leaderboard", bench.output, "--format", "site", "--output", out / "site")
    marked.run("leaderboard", bench.output, "--format", "csv", "--output", out / "csv")
    marked.run("compare", base, base, "--output", out / "compare.md")
    marked.run("bless", base, "--as", "main", "--baselines", out / "baselines")
    marked.run("gate", "--baseline", "main", "--baselines", out / "baselines", "--candidate", base, "--junit",
               out / "junit.xml", "--summary", out / "summary.md", fine=(0, 1, 4))  # fmt: skip
    return marked.check(bench.output, out)


@attack("leaks")
def failing_run(stage: Stage) -> str:
    """the same in what a run prints and leaves that fails in the middle"""
    marked, bench = Marked(stage), marked_bench(stage)
    (bench.data / "gsm8k" / "train.jsonl").write_text("{")
    marked.run(*bench.arguments(), fine=(2,))
    marked.run(*bench.arguments("--tasks", "piqa", "--device", "cuda:7"), fine=(2,))
    (bench.model / "config.json").write_text("{}")
    marked.run(*bench.arguments("--tasks", "piqa"), fine=(2,))
    bench.output.mkdir(exist_ok=True)
    return marked.check(bench.output)


@attack("leaks")
def judge_and_server(stage: Stage) -> str:
    """the keys of a model's and a judge's server, which repeat them in their refusals"""
    marked = Marked(stage)
    lines = [question(n, c, (f"answer {n} one", f"answer {n} two")) for n, c in enumerate(CATEGORIES)]
    folder = write_run(stage.folder / "results" / "tiny" / "20260101T000000Z-instruct", lines)

    def echo(seen: object) -> Act:
        headers = getattr(seen, "headers", {})
        if "question 2?" in str(getattr(seen, "body", "")):
            return Act(status=422, body={"error": {"message": f"bad header {headers.get('authorization')}"}})
        return Act(body=chat_reply("Rating: [[5]]"))

    with FaultServer(answer=echo) as server:
        judge = ("judge", folder, "--judge", "openai:m", "--judge-url", server.url, "--judge-prompts", "own")
        marked.run(*judge, fine=(0, 3))
        assert server.seen[0].headers["authorization"] == f"Bearer {TOKEN}"
        server.answer = lambda seen: Act(status=401, body={"error": f"no such key {TOKEN}"})
        marked.run(*judge[:3], "openai:other", *judge[4:], fine=(2,))
        marked.run("--model", "openai:m", "--base-url", server.url, "--suite", "instruct", "--tasks", "gsm8k",
                   "--data", "smoke", "--output-dir", stage.folder / "results", fine=(2,))  # fmt: skip
    return marked.check(stage.folder / "results")
