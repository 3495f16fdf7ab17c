"""MT-Bench judging: answers of a run and a judge in, judgments and the run's MT-Bench row out.

What a judge is asked is a request like any other: its result is stored as it comes under the judge's identity and the
exact prompt. A stopped judging goes on where it was, changed answers are judged anew, nothing is asked twice.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evals.adapters.client import Client, RequestRefused
from evals.adapters.texts import ask_texts, shown_model
from evals.core.errors import UserError
from evals.core.files import run_lock, write_atomic
from evals.core.requests import GenerateRequest, Generation, NotFinite, TextRequest
from evals.judging.prompts import NO_RATING, Ask, Item, PromptSet, ask, rating_of
from evals.run.progress import Progress
from evals.run.store import Store, request_key

TASK = "mt_bench"
JUDGMENT_TOKENS = 2048  # FastChat's budget for a judgment
LEAST_JUDGMENT_TOKENS = 512  # of a local judge's window, kept free for the judgment
FILE = "judgments.parquet"
SERIES = ("judge", "prompt_set", "prompt_set_sha256")

Line = dict[str, Any]


class Judge(Protocol):
    """What judging needs of a judge. `name` stands in results; `identity` is what its judgments depend on;
    `at_a_time`: judgments under way together, at most."""

    name: str
    identity: str
    at_a_time: int

    def fits(self, system: str, user: str) -> bool:
        """Whether the prompt leaves room for a judgment."""

    def request(self, system: str, user: str) -> TextRequest | GenerateRequest:
        """The prompt as a request: temperature 0."""

    def run(self, requests: Sequence[Any]) -> Iterator[tuple[int, Generation | RequestRefused]]:
        """(index, judgment or refusal) of each request as they come, in any order."""


class EndpointJudge:
    """A model behind an OpenAI-compatible server. Its window is its own business: nothing is cut."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.name = f"openai:{shown_model(client.model)}"
        self.identity = f"judge {client.base_url} {client.model}"
        self.at_a_time = client.parallel

    def fits(self, system: str, user: str) -> bool:
        """True: a prompt that is too long is refused by the server."""
        return True

    def request(self, system: str, user: str) -> TextRequest:
        """A chat of a system and a user message."""
        return TextRequest((("system", system), ("user", user)), JUDGMENT_TOKENS)

    def run(self, requests: Sequence[TextRequest]) -> Iterator[tuple[int, Generation | RequestRefused]]:
        """In parallel, as many as the client allows."""
        yield from ask_texts(self.client, requests)


class LocalJudge:
    """A chat model in this process. Prompts that do not fit its window are cut (evals.judging.prompts.ask)."""

    def __init__(self, model: Any, name: str) -> None:
        """`model`: an adapter in chat mode with tokenizer, max_length, identity and run (PrefixModel)."""
        self.model = model
        self.name = f"local:{name}"
        self.identity = f"judge {model.identity}"
        self.at_a_time: int = model.at_a_time
        tokenizer = model.tokenizer
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        # the longest first: one may hold another
        self._special = sorted(special | set(tokenizer.all_special_tokens), key=len, reverse=True)

    def fits(self, system: str, user: str) -> bool:
        """Whether LEAST_JUDGMENT_TOKENS are left of the window."""
        return len(self._tokens(system, user)) <= self.model.max_length - LEAST_JUDGMENT_TOKENS

    def request(self, system: str, user: str) -> GenerateRequest:
        """The chat as token ids, with what is left of the window, at most JUDGMENT_TOKENS, as the budget."""
        tokens = self._tokens(system, user)
        room = self.model.max_length - len(tokens)
        return GenerateRequest(tokens, max(1, min(JUDGMENT_TOKENS, room)))

    def run(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation | RequestRefused]]:
        """As the adapter computes them. Raises UserError if its scores are no numbers."""
        try:
            yield from self.model.run(requests)
        except NotFinite as error:
            raise UserError(
                f"the judge {self.name} is broken: {error}; check its weights and --dtype"
            ) from error

    def _tokens(self, system: str, user: str) -> tuple[int, ...]:
        chat = [
            {"role": "system", "content": self._harmless(system)},
            {"role": "user", "content": self._harmless(user)},
        ]
        text = self.model.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return tuple(self.model.tokenizer([text], add_special_tokens=False)["input_ids"][0])

    def _harmless(self, text: str) -> str:
        """Breaks up the model's control tokens: an answer must not be able to end its turn and speak for the judge."""
        for token in self._special:
            text = text.replace(token, token[0] + "\u200b" + token[1:])
        return text


@dataclass(frozen=True)
class Outcome:
    """What a judging did: all `lines` of the run's judgments, how many were `asked` now, which were `refused`."""

    lines: list[Line]
    asked: int
    stored: int
    refused: dict[tuple[int, int], str]


def read_items(folder: Path) -> list[Item]:
    """The questions and answers of a run, in its order. Raises UserError if it has none."""
    from pyarrow import ArrowException, parquet

    path = folder / "samples" / f"{TASK}.parquet"
    if not path.is_file():
        raise UserError(f"no MT-Bench answers in '{folder}': run the suite instruct first (--tasks {TASK})")
    wanted = ["question_id", "group", "turns", "output", "output_turn_2", "reference"]
    try:
        lines = parquet.read_table(path, columns=wanted).to_pylist()
        return [
            Item(
                int(line["question_id"]),
                str(line["group"]),
                (line["turns"][0], line["turns"][1]),
                (line["output"], line["output_turn_2"]),
                tuple(line["reference"] or ()),
            )
            for line in lines
        ]
    except (ArrowException, OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read as MT-Bench answers: {str(error)[:200]}") from error


def judge_run(
    folder: Path,
    judge: Judge,
    prompts: PromptSet,
    store: Store,
    progress: Progress,
    *,
    published: bool = False,
) -> Outcome:
    """Judges every answer of a run that this judge has not judged yet, then publishes into the run's folder.

    `published`: the user states that the judge is the one of the published number. Raises UserError; what was judged
    until then is stored.
    """
    read_record(folder)
    asks, refused = _prepare(read_items(folder), judge, prompts)
    requests = [judge.request(one.system, one.user) for one in asks]
    keys = [request_key(judge.identity, request) for request in requests]
    known: dict[bytes, Any] = store.get(keys)
    stored = len(known)
    unique = dict(zip(keys, requests, strict=True))
    todo = [key for key in unique if key not in known]
    with progress.counting(f"judge {judge.name}", len(unique), stored, at_a_time=judge.at_a_time) as counter:
        for i, result in judge.run([unique[key] for key in todo]):
            known[todo[i]] = result
            if isinstance(result, Generation):
                store.put([(todo[i], result)])
                store.flush()  # a judgment takes seconds, and may cost money: not one is lost
            counter.advance()
    lines = []
    for one, key in zip(asks, keys, strict=True):
        result = known[key]
        if isinstance(result, RequestRefused):
            refused[one.question_id, one.turn] = str(result)
        else:
            lines.append(_line(judge, prompts, one, result))
    if not lines:
        reason = next(iter(refused.values()), "the run has no answers")
        raise UserError(f"the judge {judge.name} gave no judgment at all: {reason}")
    lock = store.path.with_name("judging.lock")
    with run_lock(lock, f"the judgments of '{folder.name}'", progress.note):
        everything = publish(folder, lines, len(refused), published)
    return Outcome(everything, len(todo), stored, refused)


def _prepare(
    items: Sequence[Item], judge: Judge, prompts: PromptSet
) -> tuple[list[Ask], dict[tuple[int, int], str]]:
    asks, refused = [], {}
    for item in items:
        for turn in (1, 2):
            try:
                asks.append(ask(prompts, item, turn, judge.fits))
            except ValueError as error:
                refused[item.question_id, turn] = str(error)
    return asks, refused


def _line(judge: Judge, prompts: PromptSet, one: Ask, judgment: Generation) -> Line:
    score, outcome = rating_of(judgment.text)
    exact = f"{one.system}\0{one.user}".encode("utf-8", "surrogatepass")
    return {
        "question_id": one.question_id,
        "category": one.category,
        "turn": one.turn,
        "judge": judge.name,
        "prompt_set": prompts.name,
        "prompt_set_sha256": prompts.sha256,
        "prompt": one.prompt,
        "prompt_sha256": hashlib.sha256(exact).hexdigest(),
        "score": score,
        "outcome": outcome,
        "judgment": judgment.text.encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
        "finish": judgment.finish,
        "cut_characters": one.cut,
    }


def publish(folder: Path, lines: list[Line], refused: int, published: bool) -> list[Line]:
    """Puts a judge's lines beside those of others and makes them the run's row; each file whole or not at all.

    Judgments, then samples, then run.json: what is stopped in between is mended by the same command.
    """
    from pyarrow import Table, parquet

    mine = _series(lines[0])
    everything = [line for line in read_judgments(folder) if _series(line) != mine] + lines
    buffer = io.BytesIO()
    parquet.write_table(Table.from_pylist(everything), buffer, compression="zstd")
    write_atomic(folder / FILE, buffer.getvalue())
    ratings = _add_ratings(folder, lines)
    record = read_record(folder)
    _update(record, everything, mine, ratings, refused, published)
    content = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(folder / "run.json", content.encode("utf-8", "surrogatepass"))
    return everything


def read_judgments(folder: Path) -> list[Line]:
    """All judgments of a run, of every judge; none if it was not judged. Raises UserError for a broken file."""
    from pyarrow import ArrowException, parquet

    path = folder / FILE
    if not path.is_file():
        return []
    try:
        lines: list[Line] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"'{path}' is damaged: remove it and judge again (what is stored is not asked again)"
        ) from error
    if lines and not {*SERIES, "question_id", "turn", "score", "category"} <= set(lines[0]):
        raise UserError(f"'{path}' is no file of judgments: remove it and judge again")
    return lines


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a run that can be judged. Raises UserError, one line."""
    from reports.record import read_record as read

    if not folder.is_dir():
        raise UserError(f"no run folder '{folder}': give a folder that holds run.json")
    record = read(folder)
    if TASK not in record["tasks"]:
        raise UserError(
            f"the run '{folder}' has no MT-Bench answers: run the suite instruct first (--tasks {TASK})"
        )
    return record


def _series(line: Line) -> tuple[str, ...]:
    return tuple(line[name] for name in SERIES)


def _add_ratings(folder: Path, lines: Sequence[Line]) -> list[list[float]]:
    """Writes the column judge_score (valid ratings of both turns) into the samples, in their order; returns it."""
    import pyarrow
    from pyarrow import parquet

    path = folder / "samples" / f"{TASK}.parquet"
    table = parquet.read_table(path)
    by_question: dict[int, list[float]] = {}
    for line in sorted(lines, key=lambda line: line["turn"]):
        if line["score"] != NO_RATING:
            by_question.setdefault(line["question_id"], []).append(line["score"])
    ratings = [by_question.get(question, []) for question in table.column("question_id").to_pylist()]
    if "judge_score" in table.column_names:
        table = table.drop_columns(["judge_score"])
    table = table.append_column("judge_score", pyarrow.array(ratings, type=pyarrow.list_(pyarrow.float64())))
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
    return ratings


def _update(
    record: dict[str, Any],
    lines: Sequence[Line],
    mine: tuple[str, ...],
    ratings: Sequence[list[float]],
    refused: int,
    published: bool,
) -> None:
    """The MT-Bench task and row of run.json by the judge that judged last; the others stand beside it."""
    from evals.core import statistics

    columns = {"judge_score": ratings}
    task = record["tasks"][TASK]
    task["metrics"] = statistics.summarize_task(columns)
    before = {_series(one): one for one in task.get("judges", [])}
    judges = []
    for series in dict.fromkeys([mine, *map(_series, lines)]):
        own = [line for line in lines if _series(line) == series]
        judges.append(
            {
                **dict(zip(SERIES, series, strict=True)),
                "same_as_published": published
                if series == mine
                else bool(before.get(series, {}).get("same_as_published")),
                "judgments": len(own),
                "unrated": sum(line["score"] == NO_RATING for line in own),
                "refused": refused if series == mine else int(before.get(series, {}).get("refused", 0)),
                "cut": sum(line["cut_characters"] > 0 for line in own),
                "value": _plain_mean([line["score"] for line in own if line["score"] != NO_RATING]),
            }
        )
    task["judges"] = judges
    row = next((row for row in record["rows"] if TASK in row["tasks"]), None)
    if row is None:
        return
    row.update(statistics.summarize_row("judge_score", {TASK: columns}))
    kept = [
        note
        for note in row["notes"]
        if note["code"] not in ("not_judged", "judge", "other_judge", "secondary")
    ]
    row["notes"] = [*kept, *_notes(judges)]
    row["note"] = "; ".join(note["text"] for note in row["notes"])


def _plain_mean(scores: Sequence[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None


def _notes(judges: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The row's judge, whether it is the published one, and what the other judges gave."""
    first, *others = judges
    text = f"judge {first['judge']}, prompts {first['prompt_set']} ({first['prompt_set_sha256'][:8]})"
    if first["unrated"]:
        text += f"; {first['unrated']} of {first['judgments']} judgments without a rating are left out"
    if first["refused"]:
        text += f"; {first['refused']} turns could not be judged"
    if first["cut"]:
        text += f"; {first['cut']} prompts were cut to the judge's window"
    notes = [{"code": "judge", "text": text}]
    if not first["same_as_published"]:
        notes.append(
            {"code": "other_judge", "text": "not comparable with the published number: another judge"}
        )
    for other in others:
        value = "no rating" if other["value"] is None else f"{other['value']:.2f}"
        notes.append(
            {"code": "secondary", "text": f"judge {other['judge']}, prompts {other['prompt_set']}: {value}"}
        )
    return notes
