"""What scoring needs and lacks: found before a model works, costs its row, never the run; answers are kept."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.abc
import importlib.metadata
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.run_bench import PIQA, Bench, computed, short_answers

HERE = "tests.run.test_scoring_needs"
IFEVAL = "IFEval (Average prompt/inst)"


# Called in the fork, before the command


def hide_package(name: str) -> None:
    """The package cannot be imported, as where it is not installed."""

    class Hidden(importlib.abc.MetaPathFinder):
        def find_spec(self, wanted: str, *_: Any) -> None:
            if wanted.partition(".")[0] == name:
                raise ModuleNotFoundError(f"No module named '{wanted}'", name=wanted)

    for module in [one for one in sys.modules if one.partition(".")[0] == name]:
        del sys.modules[module]
    sys.meta_path.insert(0, Hidden())
    short_answers()


def hide_metadata(name: str) -> None:
    """The package can be imported, but no installed distribution has its name: lighteval then does not import it."""
    finder = importlib.metadata.MetadataPathFinder
    found = finder.find_distributions

    def others(context: Any = importlib.metadata.DistributionFinder.Context()) -> Iterator[Any]:  # noqa: B008
        return iter(()) if context.name == name else iter(found(context))

    finder.find_distributions = others  # type: ignore[method-assign,assignment]
    short_answers()


def break_scoring() -> None:
    """GSM8K's metric fails on what a model writes, not on a made-up answer."""
    import tasks
    from tasks.common.metrics import score

    task = tasks.TASKS["gsm8k"]

    def failing(doc: Any, response: Any) -> Any:
        if response.final_text != ["Ready."]:
            raise KeyError("a bug of the metric")
        return score(task, doc, response)

    tasks.TASKS["gsm8k"] = dataclasses.replace(task, scorer=failing)
    short_answers()


def rows_of(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in record["rows"]}


def record_of(bench: Bench) -> dict[str, Any]:
    (folder,) = bench.folders()
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize("hook", ["hide_package", "hide_metadata"])
def test_a_missing_package_costs_its_row_before_a_model_is_loaded(bench: Bench, hook: str) -> None:
    words = bench.arguments("--suite", "instruct", "--data", "smoke", "--tasks", "ifeval,piqa")
    code = bench.forks.run(words, bench.log, f"{HERE}:{hook}", "langdetect")
    log = bench.log.read_text()
    assert code == 3, log
    notes = [line for line in log.splitlines() if line.startswith(("left out", "loading"))]
    assert notes[0].startswith("left out: 'ifeval' cannot be scored here") and "langdetect" in notes[0]
    assert notes[1].startswith("loading tiny") and len(notes) == 2
    record = record_of(bench)
    rows = rows_of(record)
    assert rows["PIQA"]["value"] is not None
    assert rows[IFEVAL]["value"] is None and "langdetect" in rows[IFEVAL]["note"]
    assert set(record["timing"]["rows"]) == {"PIQA"}, "nothing was generated for the row"


def test_a_row_that_alone_was_asked_for_is_one_line(bench: Bench) -> None:
    bench.hook = (f"{HERE}:hide_metadata", "langdetect")
    line = bench.fails("--suite", "instruct", "--data", "smoke", "--tasks", "ifeval")
    assert "'ifeval' cannot be scored here" in line and "langdetect" in line


def test_scoring_that_fails_costs_its_row_and_keeps_the_answers(bench: Bench) -> None:
    code = bench.forks.run(bench.arguments(), bench.log, f"{HERE}:break_scoring")
    assert code == 3, bench.log.read_text()
    assert "left out: 'gsm8k' was answered, but scoring fails (KeyError" in bench.log.read_text()
    record = record_of(bench)
    rows = rows_of(record)
    assert rows["PIQA"]["n"] == len(PIQA)
    assert rows["GSM8K (5-shot)"]["value"] is None and "a bug of the metric" in rows["GSM8K (5-shot)"]["note"]
    assert computed(bench.run()) == 0, "every answer was kept"
    assert rows_of(json.loads((bench.last / "run.json").read_text()))["GSM8K (5-shot)"]["n"] == 3
