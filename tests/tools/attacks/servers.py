"""Servers of a model and of a judge that are busy, slow, broken or hostile, over real HTTP."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.support.fault_server import Act, FaultServer, Seen
from tests.support.judged_runs import CATEGORIES, question, write_run
from tests.support.run_bench import samples
from tests.tools.attacks.stage import Ended, Stage, add

GOOD_REPLIES = 7  # before a server's trouble begins
# Each command that scores tries first whether the log-probabilities are what they should be, with two requests; and
# two are under way when either of the troubled ones ends.
AGAIN = 2 + 2 * 2
HANGS_S = 100  # six tries of two seconds, and room for a busy machine
HOOK = "tests.tools.attacks.hooks:impatient"
ASKING = ("--timeout", "2", "--parallel", "2")
Spoil = Callable[[Act], Act]


def status(code: int, **headers: str) -> Spoil:
    """Another status in place of the reply."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda good: Act(status=code, body={"error": {"message": "trouble"}}, headers=named)


def half(good: Act) -> Act:
    """The first half of the JSON, as if it were whole."""
    content = json.dumps(good.body).encode()
    return Act(body=content[: len(content) // 2])


def logprobs(change: Callable[[dict[str, Any]], None]) -> Spoil:
    """The same reply with other log-probabilities, where it holds any."""

    def spoil(good: Act) -> Act:
        body = copy.deepcopy(good.body)
        for choice in body["choices"]:
            if choice.get("logprobs"):
                change(choice["logprobs"])
        return replace(good, body=body)

    return spoil


def last(values: list[Any], value: object) -> None:
    """Another value in the place of the last that counts."""
    values[-2] = value


class Mixed:
    """Each score's reply goes to whoever asks next. (Of a text nobody can tell whose answer it is.)"""

    def __init__(self) -> None:
        self.before: Act | None = None

    def __call__(self, good: Act) -> Act:
        if good.body["usage"]["completion_tokens"] > 1:
            return good
        mine, self.before = self.before or good, good
        return mine


TROUBLES: dict[str, Spoil] = {
    "429 without Retry-After": status(429),
    "429 with Retry-After: 0": status(429, Retry_After="0"),
    "429 with Retry-After of a day": status(429, Retry_After="86400"),
    "429 with Retry-After: nan": status(429, Retry_After="nan"),
    "429 with Retry-After: soon": status(429, Retry_After="soon"),
    "500": status(500),
    "503 with a page of HTML": lambda good: Act(status=503, body=b"<html>busy</html>"),
    "slow to begin": lambda good: replace(good, delay=6.0),
    "slow bytes": lambda good: replace(good, drip=0.3),
    "dripping headers": lambda good: replace(good, drip_headers=0.3),
    "half JSON": half,
    "half a body, then a reset": lambda good: replace(good, cut="within"),
    "no reply at all": lambda good: Act(cut="before"),
    "endless body": lambda good: Act(body=b" " * 65536, endless=True),
    "no choices": lambda good: Act(body={"choices": []}),
    "the key refused": status(401),
}  # fmt: skip
LISTS = ("tokens", "token_logprobs")
SCORES: dict[str, Spoil] = {
    "one log-probability too few": logprobs(lambda lists: [lists[key].pop() for key in LISTS]),
    "one log-probability too many": logprobs(lambda lists: [lists[key].append(lists[key][-1]) for key in LISTS]),
    "more log-probabilities than tokens": logprobs(lambda lists: lists["token_logprobs"].append(-1.0)),
    "NaN for a log-probability": logprobs(lambda lists: last(lists["token_logprobs"], math.nan)),
    "null for a log-probability": logprobs(lambda lists: last(lists["token_logprobs"], None)),
    "a log-probability above 0": logprobs(lambda lists: last(lists["token_logprobs"], 0.5)),
}  # fmt: skip


@dataclass
class Troubled:
    """A server's answers: good ones, then `spoil` of them, for ever or for so many replies."""

    good: Callable[[Seen], Act]
    spoil: Spoil
    begins: int = GOOD_REPLIES
    lasts: float = math.inf
    answered: list[str] = field(default_factory=list)

    def __call__(self, seen: Seen) -> Act:
        act = self.good(seen)
        self.begins -= 1
        if self.begins < 0 and self.lasts > 0:
            self.lasts -= 1
            return self.spoil(act)
        self.answered.append(json.dumps(seen.body))
        return act


@dataclass(frozen=True)
class Side:
    """Who is behind the server, and what is run against it. `result`: of a finished command."""

    good: Callable[[Stage], Callable[[Seen], Act]]
    command: Callable[[Stage, Path, str], list[str]]
    result: Callable[[Path], Any]
    begin: Callable[[Path], None]


def model_command(stage: Stage, place: Path, url: str) -> list[str]:
    """PIQA is scored, GSM8K is answered."""
    bench = stage.bench(place.name)
    arguments = bench.arguments()
    for flag in ("--model-path", "--device", "--dtype"):
        at = arguments.index(flag)
        del arguments[at : at + 2]
    arguments[arguments.index("--model") + 1] = "openai:tiny"
    return [*arguments, "--base-url", url, "--tokenizer", str(stage.model), *ASKING]


def model_result(place: Path) -> dict[str, bytes]:
    """The samples of the last run."""
    record = max(place.glob("tiny/*/run.json"), key=lambda path: path.stat().st_mtime_ns)
    return samples(record.parent)


def table(stage: Stage) -> Callable[[Seen], Act]:
    """The model is a table of likelihoods."""
    from transformers import AutoTokenizer

    from tests.adapters.test_endpoint_model import Table

    return Table(AutoTokenizer.from_pretrained(stage.model))


def steady_judge(stage: Stage) -> Callable[[Seen], Act]:
    """A judge whose rating follows from what it is asked."""
    from tests.judging.test_judge import steady

    return steady


def judge_command(stage: Stage, place: Path, url: str) -> list[str]:
    """Eight questions' answers are judged."""
    options = [word.replace("--", "--judge-") for word in ASKING]
    return ["judge", str(place), "--judge", "openai:big", "--judge-url", url, "--judge-prompts", "own", *options,
            "--cache", str(place.parent / f"{place.name}-cache")]  # fmt: skip


def judge_result(place: Path) -> list[tuple[Any, ...]]:
    """All judgments."""
    from pyarrow import parquet

    lines = parquet.read_table(place / "judgments.parquet").to_pylist()
    return sorted((line["question_id"], line["turn"], line["score"]) for line in lines)


def judged_run(place: Path) -> None:
    """A run whose answers wait for a judge."""
    shutil.rmtree(place, ignore_errors=True)
    write_run(
        place, [question(n, c, (f"answer {n} one", f"answer {n} two")) for n, c in enumerate(CATEGORIES)]
    )


SIDES = {
    "model": Side(table, model_command, model_result, lambda place: None),
    "judge": Side(steady_judge, judge_command, judge_result, judged_run),
}


def said(ended: Ended, place: Path) -> str:
    """What a command that did not end well told: its line, or its row's note."""
    if ended.code == 2:
        return ended.refused()
    assert ended.code == 3, f"exit {ended.code}: {ended.text[-500:]}"
    assert "Traceback" not in ended.text and "unexpected" not in ended.text, ended.text[-500:]
    record = max(
        [*place.glob("tiny/*/run.json"), *place.glob("run.json")], key=lambda path: path.stat().st_mtime_ns
    )
    notes = {note["text"] for row in json.loads(record.read_text())["rows"] for note in row["notes"]
             if note["code"] in ("missing", "judge")}  # fmt: skip
    assert notes, "a row is missing without a reason"
    return f"row missing: {'; '.join(sorted(notes))}"


def against(side: Side, trouble: Callable[[], Spoil]) -> Callable[[Stage], str]:
    """Trouble without end, then passing, then none: the right result or one line each time, nothing lost."""

    def act(stage: Stage) -> str:
        good, words = side.good(stage), []
        whole, place = stage.folder / "whole", stage.folder / "results"
        with FaultServer() as server:  # one for all: an answer belongs to its server's address

            def run(answer: Callable[[Seen], Act], where: Path) -> Ended:
                side.begin(where)
                server.answer = answer
                return stage.run(side.command(stage, where, server.url), HOOK, seconds=HANGS_S)

            undisturbed = run(good, whole)
            assert undisturbed.code == 0, undisturbed.text[-500:]
            expected = side.result(whole)
            answered: list[str] = []
            for name, lasts in (("for ever", math.inf), ("twice", 2)):
                troubled = Troubled(good, trouble(), lasts=lasts)
                ended = run(troubled, place)
                answered += troubled.answered
                if ended.code == 0:
                    assert side.result(place) == expected, f"{name}: a wrong result, exit 0"
                    words.append(f"{name}: right result")
                else:
                    words.append(f"{name}: {said(ended, place)} ({ended.seconds:.0f} s)")
            healthy = Troubled(good, lambda one: one, lasts=0)
            ended = run(healthy, place)
        assert ended.code == 0, f"the same command later: exit {ended.code}: {ended.text[-500:]}"
        assert side.result(place) == expected, "a wrong result later: something bad was kept"
        again = len(set(answered) & set(healthy.answered))
        assert again <= AGAIN, f"{again} answers that were had already are asked for again"
        return "; ".join(words)

    return act


for side_name, one_side in SIDES.items():
    for trouble_name, spoiler in TROUBLES.items():
        add("servers", f"{side_name}: {trouble_name}", against(one_side, lambda spoiler=spoiler: spoiler))  # type: ignore[misc]
for trouble_name, spoiler in SCORES.items():
    add("servers", f"model: {trouble_name}", against(SIDES["model"], lambda spoiler=spoiler: spoiler))  # type: ignore[misc]
add("servers", "model: another request's reply, of scores", against(SIDES["model"], Mixed))


def redirected(side: Side) -> Callable[[Stage], str]:
    """The other host sees nothing, least of all the key."""

    def act(stage: Stage) -> str:
        with FaultServer() as other, FaultServer() as server:
            elsewhere = other.url.replace("127.0.0.1", "localhost")
            server.answer = lambda seen: Act(
                307, {}, {"Location": f"{elsewhere}{seen.path.removeprefix('/v1')}"}
            )
            side.begin(stage.folder / "results")
            hook = ("tests.tools.attacks.hooks:environment", {"OPENAI_API_KEY": "sk-marked"})
            ended = stage.run(
                side.command(stage, stage.folder / "results", server.url), *hook, seconds=HANGS_S
            )
            assert server.seen[0].headers["authorization"] == "Bearer sk-marked"
            assert not other.seen, f"{len(other.seen)} requests went to another host"
            return f"not followed: {said(ended, stage.folder / 'results')}"

    return act


for side_name, one_side in SIDES.items():
    add("servers", f"{side_name}: redirect to another host", redirected(one_side))
