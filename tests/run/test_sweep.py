"""Many models in one go: which are meant, what is shared, and one that cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals.cli import main
from evals.commands.run import plan_table
from evals.core.card import load_card
from evals.core.errors import UserError
from evals.core.requests import ScoreRequest
from evals.models.known import read_sweep, resolve_all
from evals.run.plan import Rates, RowPlan
from evals.run.work import remembering, tokenizer_key
from reports.render.tables import markdown
from tests.support.tiny_checkpoint import write_tiny_model


def test_sweep_file(tmp_path: Path) -> None:
    file = tmp_path / "models.txt"
    file.write_text("# a training\nout/step-1\n\n  org/model@step2  # half way\n")
    assert read_sweep(file) == ["out/step-1", "org/model@step2"]
    file.write_text("# nothing\n")
    with pytest.raises(UserError, match="names no model"):
        read_sweep(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_sweep(tmp_path)


def test_which_models_are_meant(tmp_path: Path) -> None:
    for path in ("a/step-1", "a/step-2", "b/step-1"):
        (tmp_path / path).mkdir(parents=True)
    folders = [str(tmp_path / path) for path in ("a/step-1", "a/step-2", "b/step-1")]
    assert [spec.name for spec in resolve_all(folders, None, None)] == ["a-step-1", "step-2", "b-step-1"]

    (at,) = resolve_all(["HuggingFaceTB/SmolLM2-135M@refs/pr/7"], None, None)
    assert (at.location, at.revision) == ("HuggingFaceTB/SmolLM2-135M", "refs/pr/7")
    assert at.name == "SmolLM2-135M-refs-pr-7" and at.column_for(load_card("base")) is None
    (known,) = resolve_all(["SmolLM2-135M"], None, None)
    assert known.revision is None and known.column_for(load_card("base")) == "SmolLM2-135M"
    with pytest.raises(UserError, match="named 2 times"):
        resolve_all([folders[0], folders[0]], None, None)


class Counting:
    """Turns texts into tokens by their length; counts how often it is asked."""

    chat = False
    identity = "weights"
    leaves_cpu = False
    at_a_time = 1

    def __init__(self, backend: str) -> None:
        self.tokenizer = SimpleNamespace(
            backend_tokenizer=SimpleNamespace(to_str=lambda: backend), chat_template=None
        )
        self.asked = 0

    def score_requests(self, docs: Sequence[Any]) -> list[list[ScoreRequest]]:
        self.asked += len(docs)
        return [[ScoreRequest((1, len(doc.query)), 1)] for doc in docs]

    def generate_requests(self, docs: Sequence[Any]) -> list[Any]:
        self.asked += len(docs)
        return [object() for _ in docs]


def doc(query: str, **specific: Any) -> Any:
    return SimpleNamespace(query=query, specific=specific or None)


def test_texts_become_tokens_once_for_equal_tokenizers() -> None:
    docs = [doc("a"), doc("bb")]
    first, second, other = Counting("bytes"), Counting("bytes"), Counting("words")
    memory: dict = {}
    expected = Counting("bytes").score_requests(docs)
    for adapter in (first, second, other):
        assert remembering(adapter, memory).score_requests(docs) == expected
        assert remembering(adapter, memory).score_requests(docs[1:]) == expected[1:]
    assert (first.asked, second.asked, other.asked) == (2, 0, 2)
    chat = Counting("bytes")
    chat.chat = True
    remembering(chat, memory).score_requests(docs)
    assert chat.asked == 2, "the same text is another prompt in a chat"


def test_a_conversations_next_turn_is_each_models_own() -> None:
    memory: dict = {}
    for _ in range(2):
        adapter = Counting("bytes")
        remembering(adapter, memory).generate_requests([doc("b", conversation=[("user", "a")])])
        assert adapter.asked == 1


def test_tokenizers_that_cannot_be_compared_are_not_shared() -> None:
    adapter = SimpleNamespace(tokenizer=SimpleNamespace())
    assert tokenizer_key(adapter.tokenizer) is None
    assert remembering(adapter, {}) is adapter


def cells_of(rows: Sequence[RowPlan]) -> list[list[str]]:
    text = markdown(plan_table(rows, Rates(read=100.0, generated=5.0)))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[1:]]


def test_plan_table_by_hand() -> None:
    rows = [RowPlan("base", "PIQA", 10, 20, 5, 3000, 0), RowPlan("base", "GSM8K", 4, 4, 0, 1000, 500)]
    assert cells_of(rows) == [
        ["base: PIQA", "10", "20", "5", "3,000", "0", "30 s"],
        ["base: GSM8K", "4", "4", "0", "1,000", "500", "2 min"],
        ["all", "14", "24", "5", "4,000", "500", "2 min"],
    ]


def test_plan_shows_what_each_worker_gets() -> None:
    rows = [
        RowPlan("base", "PIQA", 10, 20, 5, 3000, 0, ((8, 1500, 0), (7, 1600, 0))),
        RowPlan("base", "GSM8K", 4, 4, 0, 1000, 50, ((3, 600, 30), (1, 500, 20))),
    ]
    assert cells_of(rows)[-2:] == [
        ["worker 1 of 2", "", "11", "", "2,100", "30", "54 s"],
        ["worker 2 of 2", "", "8", "", "2,100", "20", "50 s"],
    ]


def evaluate(tmp_path: Path, *options: str) -> int:
    command = ["--suite", "base", "--data", "smoke", "--tasks", "piqa,gsm8k", "--limit", "5"]
    return main([*command, "--output-dir", str(tmp_path / "results"), *options])


def test_checkpoints_in_one_go(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    models = [write_tiny_model(tmp_path / f"step-{seed}", seed) for seed in (1, 2)]
    broken = tmp_path / "step-3"
    broken.mkdir()
    file = tmp_path / "models.txt"
    file.write_text(f"{models[1]}\n{broken}\n")
    assert evaluate(tmp_path, "--model", str(models[0]), "--sweep", str(file)) == 3
    told = capfd.readouterr().err
    assert "step-3: left out: " in told and "Traceback" not in told
    found = {
        run.parent.parent.name: json.loads(run.read_text())
        for run in (tmp_path / "results").glob("*/*/run.json")
    }
    assert set(found) == {"step-1", "step-2"}
    one, two = (found[name] for name in ("step-1", "step-2"))
    assert one["provenance"]["prompt_hashes"] == two["provenance"]["prompt_hashes"]
    assert one["model"]["fingerprint"] != two["model"]["fingerprint"]
    peak = one["provenance"]["peak_memory_bytes"]
    assert (
        50 << 20 < peak["host"] <= two["provenance"]["peak_memory_bytes"]["host"] and peak["device"] is None
    )

    assert evaluate(tmp_path / "alone", "--model", str(models[1]), "--dry-run") == 0
    planned = capfd.readouterr().out
    assert "base: PIQA" in planned and "Distinct tokens" in planned and "run: " not in planned
    assert not (tmp_path / "alone" / "results").exists()


@pytest.mark.parametrize(
    ("docs", "option", "planned"), [(4, [], True), (4, ["--no-plan"], False), (9999, [], False)]
)
def test_a_long_run_is_planned_aloud(
    docs: int, option: list[str], planned: bool, tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.setattr("evals.commands.run.PLANNED_DOCS", docs)
    model = write_tiny_model(tmp_path / "tiny", 1)
    results = ["--output-dir", str(tmp_path / "results")]
    what = ["--model", str(model), "--suite", "base", "--data", "smoke", "--tasks", "piqa"]
    assert main(["run", *what, *results, *option]) == 0
    told = capfd.readouterr()
    assert ("Distinct tokens" in told.err) == planned
    assert "Distinct tokens" not in told.out and "PIQA" in told.out


def test_nothing_is_measured_for_what_is_stored(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    model = write_tiny_model(tmp_path / "tiny", 1)
    results = ["--output-dir", str(tmp_path / "results")]
    what = ["--model", str(model), "--suite", "base", "--data", "smoke", "--tasks", "piqa"]
    assert main(["run", *what, *results]) == 0

    def computed(*_: Any) -> Any:
        raise AssertionError("all of it is stored")

    monkeypatch.setattr("evals.adapters.local.PrefixModel.run", computed)
    assert main(["run", *what, *results, "--dry-run", "--plan"]) == 0
    assert "tokens read and" not in capfd.readouterr().out
    with pytest.raises(
        AssertionError, match="all of it is stored"
    ):  # the trial of what is not stored is noticed
        main(["run", *what, *results, "--dry-run", "--plan", "--fresh", "--debug"])


def test_a_dry_run_computes_nothing_unless_its_time_is_asked_for(
    tmp_path: Path, monkeypatch: Any, capfd: Any
) -> None:
    model = write_tiny_model(tmp_path / "tiny", 1)
    words = [
        "run",
        "--model",
        str(model),
        "--suite",
        "base",
        "--data",
        "smoke",
        "--tasks",
        "piqa",
        "--dry-run",
    ]
    words += ["--output-dir", str(tmp_path / "results")]
    assert main([*words, "--plan"]) == 0
    assert "tokens read and" in capfd.readouterr().out

    def computed(*_: Any) -> Any:
        raise AssertionError("something is computed")

    monkeypatch.setattr("evals.adapters.local.PrefixModel.run", computed)
    assert main([*words, "--debug"]) == 0
    planned = capfd.readouterr().out
    assert "base: PIQA" in planned and "Time" not in planned and "--plan adds the time" in planned
