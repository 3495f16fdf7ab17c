"""Whole runs against a server, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.adapters import client as client_module
from evals.cli import main
from evals.core.errors import EXIT_ROWS_MISSING, EXIT_USAGE
from tests.support.fault_server import Act, FaultServer, Seen, chat_reply, plain_reply

KEY = "sk-test-c05a17e93b6d482f"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("SERVER_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def answer(seen: Seen) -> Act:
    if seen.body.get("echo"):
        return Act(status=400, body={"error": {"message": "echo is not supported"}})
    reply = (
        chat_reply("The answer.\n#### 4")
        if "messages" in seen.body
        else plain_reply(" 4\n#### 4 Question: more")
    )
    return Act(body=reply)


def command(server: FaultServer, output: Path, *more: str, suite: str = "instruct") -> list[str]:
    return [
        "run", "--model", "openai:tiny", "--base-url", server.url, "--api-key-env", "SERVER_KEY", "--suite", suite,
        "--data", "smoke", "--limit", "3", "--output-dir", str(output), *more,
    ]  # fmt: skip


def record_of(output: Path) -> dict[str, Any]:
    (path,) = sorted(output.glob("tiny/*/run.json"))[-1:]
    return json.loads(path.read_text())


def test_generative_rows_without_a_tokenizer(tmp_path: Path) -> None:
    with FaultServer(answer=answer) as server:
        assert main(command(server, tmp_path, "--tasks", "gsm8k,ifeval,mt_bench,piqa")) == EXIT_ROWS_MISSING
        assert {seen.path for seen in server.seen} == {"/v1/chat/completions"}
        asked = len(server.seen)
        assert asked == 3 + 3 + 2 * 3
        assert main(command(server, tmp_path, "--tasks", "gsm8k,ifeval,mt_bench,piqa")) == EXIT_ROWS_MISSING
        assert len(server.seen) == asked, "everything was stored"
    record = record_of(tmp_path)
    assert record["model"]["source"] == "endpoint:tiny"
    rows = {row["label"]: row for row in record["rows"]}
    assert rows["GSM8K (5-shot)"]["value"] is not None
    assert rows["PIQA"]["value"] is None
    assert "--tokenizer" in rows["PIQA"]["note"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_plain_rows_stop_at_the_stop_string(tmp_path: Path) -> None:
    with FaultServer(answer=answer) as server:
        assert main(command(server, tmp_path, "--tasks", "trivia_qa", suite="base")) == 0
        assert server.seen[0].path == "/v1/completions"
        assert server.seen[0].body["stop"] == ["Question:", "Question"]


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = 0

    def closes(seen: Seen) -> Act:
        nonlocal served
        served += 1
        return answer(seen) if served <= 2 else Act(status=403, body={"error": KEY})

    with FaultServer(answer=closes) as server:
        argv = command(server, tmp_path, "--tasks", "gsm8k", "--parallel", "1")
        assert main(argv) == EXIT_USAGE
        err = capsys.readouterr().err
        assert "403" in err and "SERVER_KEY" in err and KEY not in err
        server.answer = answer
        assert main(argv) == 0
        asked = [json.dumps(seen.body) for seen in server.seen]
    # two were answered, the third refused and asked again
    assert len(asked) == 4 and len(set(asked)) == 3


def test_judge_and_model_may_be_two_servers(tmp_path: Path) -> None:
    with (
        FaultServer(answer=answer) as server,
        FaultServer(answer=lambda seen: Act(body=chat_reply("Rating: [[4]]"))) as judge,
    ):
        more = ["--judge", "openai:big", "--judge-url", judge.url, "--judge-prompts", "own"]
        assert main(command(server, tmp_path, "--tasks", "mt_bench", *more)) == 0
        assert len(judge.seen) == 6
        assert "authorization" not in judge.seen[0].headers, "the model's key is not the judge's"
        assert server.seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert record_of(tmp_path)["rows"][0]["value"] == 4.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "openai:m", "--suite", "base"], "--base-url"),
        (["--model", "openai:", "--suite", "base", "--base-url", "http://127.0.0.1:1/v1"], "names no model"),
        (["--model", "openai:m", "--base-url", "http://127.0.0.1:1/v1"], "--suite"),
        (["--model", "SmolLM2-135M", "--base-url", "http://127.0.0.1:1/v1"], "belongs to --model openai:"),
        (["--model", "openai:m", "--suite", "base", "--base-url", "http://a:b@h/v1"], "environment variable"),
        (["--model", "openai:m", "--suite", "base", "--base-url", "http://10.0.0.1/v1", "--offline"], "offline"),
        (["--model", "openai:m", "--suite", "base", "--base-url", "http://h/v1", "--parallel", "0"], "positive"),
        (["--model", "openai:m", "--suite", "base", "--base-url", "http://h/v1", "--tokenizer", "/nowhere"], "nowhere"),
    ],
)  # fmt: skip
def test_a_users_errors_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["run", "--tasks", "trivia_qa", "--data", "smoke", "--output-dir", str(tmp_path), *options]
    assert main(argv) == EXIT_USAGE
    err = capsys.readouterr().err.strip().splitlines()
    assert message in err[-1]
