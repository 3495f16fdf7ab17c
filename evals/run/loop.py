"""The one loop: docs -> requests not yet stored -> adapter -> store -> metrics -> a run folder.

A run is a pure function of its requests' results, and each result is stored as soon as it is computed: a stopped run is
continued by the same command. The run folder itself appears whole, at the end.
"""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evals.core.card import Row, Suite, budgets, select_rows
from evals.core.errors import RowUnavailable, UserError
from evals.core.files import partial_folder, publish_folder, write_atomic
from evals.core.requests import GenerateRequest, Generation, NotFinite, Request, Result, Score, ScoreRequest
from evals.data.sources import SMOKE_BUDGET, Source, TaskData, build_docs, load
from evals.models.known import ModelSpec
from evals.run import provenance, samples
from evals.run.background import ahead
from evals.run.progress import Progress
from evals.run.store import Store, request_key

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

    from evals.run.samples import Columns
    from tasks.common.builders import CardTask

SCHEMA_VERSION = 1


class Adapter(Protocol):
    """What the loop needs of a model; see evals/adapters/prefix.py."""

    chat: bool
    identity: str
    at_a_time: int
    """Generations under way together, at most."""
    leaves_cpu: bool
    """Whether `run` leaves the processor mostly idle: the next row's requests are then made meanwhile, by a thread."""

    def score_requests(self, docs: Sequence[Doc]) -> list[list[ScoreRequest]]:
        """One request a choice, for each doc."""

    def generate_requests(self, docs: Sequence[Doc]) -> list[GenerateRequest]:
        """One request a doc."""

    def run(self, requests: Sequence[Request], skip: Collection[int] = ()) -> Iterator[tuple[int, Result]]:
        """Computes requests of one kind: (index, result), each index once, but not those in `skip`.

        Those are known from an interrupted run: a back end whose batches decide the last bit plans with them.
        Raises NotFinite.
        """


@dataclass(frozen=True)
class Settings:
    """What a user chose, beside the model and the suite."""

    source: Source
    tasks: list[str] | None = None
    limit: int | None = None
    variants: list[str] = field(default_factory=list)
    output: Path = Path("results")
    fresh: bool = False


@dataclass(frozen=True)
class Work:
    """One suite's docs, ready to run. `docs` and `data` have no entry for a task whose data cannot be had."""

    suite: Suite
    rows: tuple[Row, ...]
    docs: dict[str, list[Doc]]
    data: dict[str, TaskData]
    missing: dict[str, str]


def prepare(suites: Sequence[Suite], settings: Settings) -> list[Work]:
    """Loads and checks the data of all suites, before any model is loaded.

    Raises UserError when data is wrong, or when not a single row can be had.
    """
    from tasks import get_task

    loaded: dict[str, TaskData] = {}
    missing: dict[str, str] = {}
    works = []
    for suite in suites:
        rows = select_rows(suite, settings.tasks)
        changed = budgets(settings.variants, suite)
        docs: dict[str, list[Doc]] = {}
        for name in (task for row in rows for task in row.tasks):
            task = get_task(name)
            if name in missing:
                continue
            try:
                if name not in loaded:
                    _require_scoring(task)
                    loaded[name] = load(task, settings.source)
                docs[name] = _docs(task, loaded[name], settings, changed.get(name))
            except RowUnavailable as error:
                missing[name] = str(error)
        works.append(Work(suite, rows, docs, {n: loaded[n] for n in docs}, {n: missing[n] for n in missing}))
    if not any(work.docs for work in works):
        reasons = list(dict.fromkeys(missing.values())) or ["no row was asked for"]
        raise UserError(reasons[0])
    return works


def _docs(task: CardTask, data: TaskData, settings: Settings, budget: int | None) -> list[Doc]:
    docs = build_docs(task, data, settings.limit)
    _set_budget(docs, budget, settings.source.kind == "smoke")
    _require_scoring(task, docs[0])
    return docs


def _require_scoring(task: CardTask, doc: Doc | None = None) -> None:
    """Tries what scoring needs, or scores a made-up answer to `doc`, before a model works for hours.

    Raises RowUnavailable with the reason.
    """
    from lighteval.models.model_output import ModelResponse

    from tasks.common.metrics import score

    try:
        if doc is not None:
            score(task, doc, ModelResponse(text=["Ready."], logprobs=[0.0] * len(doc.choices)))
        elif task.ready is not None:
            task.ready()
    except (
        Exception
    ) as error:  # a package that is missing, half installed or of another version fails in any way
        raise RowUnavailable(
            f"'{task.name}' cannot be scored here ({_named(error)}): are all dependencies of this project installed?"
        ) from error


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _set_budget(docs: list[Doc], budget: int | None, smoke: bool) -> None:
    for doc in docs:
        if budget is not None and doc.generation_size is not None:
            doc.generation_size = budget
        if smoke:
            doc.generation_size = min(doc.generation_size or SMOKE_BUDGET, SMOKE_BUDGET)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A row's requests: of each likelihood task one list a doc; one a doc of all its generative tasks."""

    choices: list[tuple[CardTask, list[list[ScoreRequest]]]]
    generative: list[CardTask]
    answers: list[GenerateRequest]


class Run:
    """One suite on one model, from requests to a published folder."""

    def __init__(
        self, work: Work, adapter: Adapter, store: Store, settings: Settings, progress: Progress
    ) -> None:
        self.work, self.adapter, self.store = work, adapter, store
        self.settings, self.progress = settings, progress
        self.missing = dict(work.missing)
        self.columns: dict[str, Columns] = {}
        self.phases: dict[str, float] = {}
        self.row_timing: dict[str, dict[str, float | int]] = {}
        self.spans: list[tuple[str, str, float, float]] = []
        self.started = provenance.now()
        self.clock, self.began = time.monotonic(), time.time()
        self.rows = [
            (row, names) for row in work.rows if (names := [name for name in row.tasks if name in work.docs])
        ]
        self._label = ""
        self._ahead: tuple[Row, Future[_Asked]] | None = None

    def execute(self) -> None:
        """Computes every row that can be had; results are in the store as they come."""
        for row, names in self.rows:
            start = time.monotonic()
            self._label = row.label
            self._counts = {"requests": 0, "computed": 0, "cached": 0}
            try:
                self._run_row(row)
            except RowUnavailable as error:
                self.missing.update(dict.fromkeys(names, str(error)))
                self.progress.note(f"{row.label}: left out: {error}")
                continue
            seconds = time.monotonic() - start
            self.row_timing[row.label] = {"seconds": round(seconds, 3), **self._counts}
            counts = "{requests} requests, {cached} of them stored before".format(**self._counts)
            self.progress.note(f"{self.work.suite.name}, {row.label}: {counts}, {seconds:.1f} s")

    def _run_row(self, row: Row) -> None:
        """All tasks of a row in one go, so that a back end can share among them."""
        with self.phase("tokenise"):
            asked = self._requests(row)
        if asked.choices:
            self._run_likelihood(row, asked.choices)
        if [task.name for task in asked.generative] == ["mt_bench"]:
            self._run_conversation(row, asked)
        elif asked.generative:
            self._run_generative(row, asked)

    def _requests(self, row: Row) -> _Asked:
        """A row's requests; where the processor is idle otherwise, the next row's are begun with."""
        if self._ahead is not None and self._ahead[0] is row:
            asked = self._ahead[1].result()
        else:
            asked = self._ask(row)
        rows = [other for other, _ in self.rows]
        later = rows[rows.index(row) + 1 :]
        if later and self.adapter.leaves_cpu:
            self._ahead = later[0], ahead(functools.partial(self._ask, later[0]))
        return asked

    def _ask(self, row: Row) -> _Asked:
        from lighteval.tasks.requests import SamplingMethod

        from tasks import get_task

        tasks = [get_task(name) for name in row.tasks if name in self.work.docs]
        likelihood = [task for task in tasks if task.method == SamplingMethod.LOGPROBS]
        generative = [task for task in tasks if task not in likelihood]
        docs = [doc for task in generative for doc in self.work.docs[task.name]]
        return _Asked(
            [(task, self.adapter.score_requests(self.work.docs[task.name])) for task in likelihood],
            generative,
            self.adapter.generate_requests(docs) if docs else [],
        )

    def _run_likelihood(self, row: Row, asked: Sequence[tuple[CardTask, list[list[ScoreRequest]]]]) -> None:
        flat = [one for _, groups in asked for group in groups for one in group]
        owners = [
            (task.name, doc.id)
            for task, groups in asked
            for doc, group in zip(self.work.docs[task.name], groups, strict=True)
            for _ in group
        ]
        with self.phase("score"):
            results = iter(self.compute(row.label, flat, owners))
        with self.phase("metrics"):
            for task, groups in asked:
                scores = [[_score(next(results)) for _ in group] for group in groups]
                self._keep(samples.likelihood_columns, task, groups, scores)

    def _run_generative(self, row: Row, asked: _Asked) -> None:
        docs = [doc for task in asked.generative for doc in self.work.docs[task.name]]
        results = iter(self._generate(row.label, docs, asked.answers))
        with self.phase("metrics"):
            for task in asked.generative:
                generations = [next(results) for _ in self.work.docs[task.name]]
                self._keep(samples.generative_columns, task, generations)

    def _run_conversation(self, row: Row, asked: _Asked) -> None:
        from tasks.mt_bench import follow_up

        (task,) = asked.generative
        docs = self.work.docs[task.name]
        first = self._generate(f"{row.label}, turn 1", docs, asked.answers)
        seconds = [follow_up(doc, answer.text) for doc, answer in zip(docs, first, strict=True)]
        with self.phase("tokenise"):
            requests = self.adapter.generate_requests(seconds)
        second = self._generate(f"{row.label}, turn 2", seconds, requests)
        self.columns[task.name] = samples.conversation_columns(docs, self.adapter.chat, first, second)

    def _generate(
        self, label: str, docs: Sequence[Doc], requests: Sequence[GenerateRequest]
    ) -> list[Generation]:
        owners = [(doc.task_name, doc.id) for doc in docs]
        with self.phase("generate"):
            return [_generation(result) for result in self.compute(label, requests, owners)]

    def compute(
        self, label: str, requests: Sequence[Request], owners: Sequence[tuple[str, str]]
    ) -> list[Result]:
        """The results of requests, in order: stored ones are read, the others computed and stored as they come.

        Identical requests are computed once. Raises UserError that names the doc for a score that is not finite.
        """
        keys = [request_key(self.adapter.identity, request) for request in requests]
        first_of = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = list(dict.fromkeys(keys))
        known = {} if self.settings.fresh else self.store.get(unique)
        cached = len(known)
        self._counts["requests"] += len(unique)
        self._counts["computed"] += len(unique) - cached
        self._counts["cached"] += cached
        if cached < len(unique):
            before = self.store.begin(unique, known, fresh=self.settings.fresh)
            planned = [key for key in unique if key not in before or key not in known]
            first = [first_of[key] for key in planned]
            skip = {i for i, key in enumerate(planned) if key in known}
            costs = [0 if i in skip else _cost(requests[k]) for i, k in enumerate(first)]
            at_a_time = self.adapter.at_a_time if isinstance(requests[0], GenerateRequest) else 1
            with self.progress.counting(label, len(unique), cached, sum(costs), at_a_time) as counter:
                for i, result in self._run([requests[k] for k in first], skip, [owners[k] for k in first]):
                    known[planned[i]] = result
                    self.store.put([(planned[i], result)])
                    counter.advance(costs[i])
            self.store.end(unique)
        return [known[key] for key in keys]

    def _run(
        self, requests: Sequence[Request], skip: set[int], owners: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[int, Result]]:
        """The adapter's results, all finite."""
        try:
            for i, result in self.adapter.run(requests, skip) if skip else self.adapter.run(requests):
                if isinstance(result, Score) and not math.isfinite(result.logprob):
                    raise NotFinite(i)
                yield i, result
        except NotFinite as error:
            task, doc = owners[error.index]
            raise UserError(
                f"task '{task}', doc {doc}: the model's log-probabilities are not finite: "
                "its weights or the dtype are broken; nothing is scored with it"
            ) from error

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside to the phase `name`."""
        start, clock = time.monotonic(), time.time()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - start
            self.spans.append((name, self._label, clock, time.time()))

    def _keep(self, columns_of: Callable[..., Columns], task: CardTask, *results: Any) -> None:
        """Scores a task; if that fails the task is missing, with the reason. Its answers are in the store already."""
        try:
            columns = columns_of(task, self.work.docs[task.name], self.adapter.chat, *results)
        except Exception as error:  # metrics are other people's code, and answers may be anything
            self.missing[task.name] = f"'{task.name}' was answered, but scoring fails ({_named(error)})"
            self.progress.note(f"left out: {self.missing[task.name]}; the answers are kept")
        else:
            self.columns[task.name] = columns


def _cost(request: Request) -> int:
    """About what a request costs, for the time left: its tokens, or its budget."""
    return len(request.tokens) if isinstance(request, ScoreRequest) else request.max_new_tokens


def _score(result: Result) -> Score:
    assert isinstance(result, Score)
    return result


def _generation(result: Result) -> Generation:
    assert isinstance(result, Generation)
    return result


def publish(run: Run, spec: ModelSpec, described: dict[str, Any], finished_phases: dict[str, float]) -> Path:
    """Writes the run folder (samples, then run.json), whole or not at all; returns where it is.

    `described`: what the adapter knows of the model (dtype, fingerprint, …) and of the machine.
    """
    from evals.run.log import run_record

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    final = run.settings.output / spec.name / f"{stamp}-{run.work.suite.name}"
    partial = partial_folder(final)
    with run.phase("write"):
        (partial / "samples").mkdir()
        for name, columns in run.columns.items():
            write_atomic(partial / "samples" / f"{name}.parquet", samples.to_parquet(columns))
    record = run_record(run, spec, described, finished_phases)
    write_atomic(partial / "run.json", (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())
    return publish_folder(partial, final)
