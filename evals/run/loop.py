"""The one loop: docs -> requests not yet stored -> adapter -> store -> metrics -> a run folder.

A run is a pure function of its requests' results, and each result is stored as soon as it is computed: a stopped run is
continued by the same command. The run folder itself appears whole, at the end.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.core.card import Card, Row
from evals.core.errors import RowUnavailable, UserError
from evals.core.files import partial_folder, publish_folder, write_atomic
from evals.core.requests import (
    Backend,
    GenerateRequest,
    Generation,
    NotFinite,
    Request,
    Result,
    Score,
    ScoreRequest,
    ScoreRequests,
)
from evals.core.runlog import RunLog, read_log
from evals.data.sources import SMOKE_BUDGET, TaskData, build_docs, load
from evals.run import provenance, samples
from evals.run.background import ahead
from evals.run.progress import Progress
from evals.run.records import request_keys
from evals.run.settings import Settings
from evals.run.store import Store

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

    from evals.models.known import ModelSpec
    from evals.run.samples import Columns
    from tasks.common.builders import CardTask


@dataclass(frozen=True)
class Work:
    """One card's docs, ready to run. `docs` and `data` have no entry for a task whose data cannot be had.

    `references`: of generative tasks that have them and where they are asked for, the docs with the reference answer
    as the only choice.
    """

    card: Card
    rows: tuple[Row, ...]
    docs: dict[str, list[Doc]]
    data: dict[str, TaskData]
    missing: dict[str, str]
    references: dict[str, list[Doc]] = field(default_factory=dict)

    def first(self, counts: Mapping[str, int], why: str) -> Work:
        """Of each task the first docs, so many; `why` the others are missing."""
        docs, references = (
            {name: every[: counts[name]] for name, every in some.items() if counts.get(name)}
            for some in (self.docs, self.references)
        )
        skipped = {name: why for name in self.docs if name not in docs}
        return replace(self, docs=docs, references=references, missing={**self.missing, **skipped})


def prepare(cards: Sequence[Card], settings: Settings) -> list[Work]:
    """Loads and checks the data of all cards, before any model is loaded.

    Raises UserError when data is wrong, or when not a single row can be had.
    """
    from tasks import get_task

    loaded: dict[str, TaskData] = {}
    missing: dict[str, str] = {}
    works = []
    for card in cards:
        rows = card.select(settings.tasks)
        changed = card.budgets(settings.variants)
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
        references = _references(docs) if settings.references else {}
        data = {name: loaded[name] for name in docs}
        works.append(Work(card, rows, docs, data, dict(missing), references))
    if not any(work.docs for work in works):
        reasons = list(dict.fromkeys(missing.values())) or ["no row was asked for"]
        raise UserError(reasons[0])
    return works


def _docs(task: CardTask, data: TaskData, settings: Settings, budget: int | None) -> list[Doc]:
    docs = build_docs(task, data, settings.limit)
    _set_budget(docs, budget, settings.source.kind == "smoke")
    _require_scoring(task, docs[0])
    return docs


def _references(docs: Mapping[str, Sequence[Doc]]) -> dict[str, list[Doc]]:
    """The docs of the tasks that have reference answers, each with its own as the only choice."""
    from tasks import get_task

    found = {name: get_task(name).reference for name in docs}
    return {
        name: [replace(doc, choices=[reference(doc)], gold_index=0) for doc in docs[name]]
        for name, reference in found.items()
        if reference is not None
    }


def _require_scoring(task: CardTask, doc: Doc | None = None) -> None:
    """Tries what scoring needs, or scores a made-up answer to `doc`, before a model works for hours.

    Raises RowUnavailable with the reason.
    """
    from lighteval.models.model_output import ModelResponse

    from tasks.common.metrics import score

    try:
        if doc is not None:
            nothing = [0.0] * len(doc.choices)
            tokens = [[0] for _ in doc.choices]
            made_up = ModelResponse(
                text=["Ready."], logprobs=nothing, unconditioned_logprobs=nothing, output_tokens=tokens
            )
            score(task, doc, made_up)
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

    choices: list[tuple[CardTask, Sequence[Sequence[ScoreRequest]]]]
    generative: list[CardTask]
    answers: list[GenerateRequest]


class Run:
    """One card on one model, from requests to a published folder."""

    def __init__(
        self, work: Work, adapter: Backend, store: Store, settings: Settings, progress: Progress
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
            self.progress.note(f"{self.work.card.name}, {row.label}: {counts}, {seconds:.1f} s")

    def _run_row(self, row: Row) -> None:
        """All tasks of a row in one go, so that a back end can share among them."""
        with self.phase("tokenise"):
            asked = self._requests(row)
        if asked.choices:
            self._run_likelihood(row, asked.choices)
        if asked.generative:
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
        from tasks import get_task

        tasks = [get_task(name) for name in row.tasks if name in self.work.docs]
        likelihood = [task for task in tasks if task.asks_choices]
        generative = [task for task in tasks if not task.asks_choices]
        docs = [doc for task in generative for doc in self.work.docs[task.name]]
        return _Asked(
            [(task, self.adapter.score_requests(self.work.docs[task.name])) for task in likelihood],
            generative,
            self.adapter.generate_requests(docs) if docs else [],
        )

    def _run_likelihood(
        self, row: Row, asked: Sequence[tuple[CardTask, Sequence[Sequence[ScoreRequest]]]]
    ) -> None:
        flat = ScoreRequests.joined([group for _, groups in asked for group in groups])
        owners = [
            (task.name, doc.id)
            for task, groups in asked
            for doc, group in zip(self.work.docs[task.name], groups, strict=True)
            for _ in range(len(group))
        ]
        with self.phase("score"):
            results = iter(self.compute(row.label, flat, owners))
        with self.phase("metrics"):
            for task, groups in asked:
                scores = [[_score(next(results)) for _ in range(len(group))] for group in groups]
                self._keep(samples.likelihood_columns, task, groups, scores)

    def _run_generative(self, row: Row, asked: _Asked) -> None:
        docs = [doc for task in asked.generative for doc in self.work.docs[task.name]]
        spoken = any(task.follow_up for task in asked.generative)
        label = f"{row.label}, turn 1" if spoken else row.label
        answers = iter(self._generate(label, docs, asked.answers))
        turns = {task.name: [[next(answers) for _ in self.work.docs[task.name]]] for task in asked.generative}
        if spoken:
            self._second_turns(row, [task for task in asked.generative if task.follow_up], turns)
        references = self._score_references(row, asked.generative)
        with self.phase("metrics"):
            for task in asked.generative:
                self._keep(samples.generative_columns, task, turns[task.name], references.get(task.name, ()))

    def _score_references(
        self, row: Row, tasks: Sequence[CardTask]
    ) -> dict[str, list[tuple[ScoreRequest, Score]]]:
        """The reference answers' scores after the docs' own prompts, by task; a row is not missing for want of them."""
        docs = [doc for task in tasks for doc in self.work.references.get(task.name, ())]
        if not docs:
            return {}
        try:
            with self.phase("tokenise"):
                requests = [one for (one,) in self.adapter.score_requests(docs)]
            with self.phase("score"):
                owners = [(doc.task_name, doc.id) for doc in docs]
                results = self.compute(f"{row.label}, reference answers", requests, owners)
        except RowUnavailable as error:
            self.progress.note(f"{row.label}: its reference answers are not scored: {error}")
            return {}
        found: dict[str, list[tuple[ScoreRequest, Score]]] = {}
        for doc, request, result in zip(docs, requests, results, strict=True):
            found.setdefault(doc.task_name, []).append((request, _score(result)))
        return found

    def _second_turns(
        self, row: Row, tasks: Sequence[CardTask], turns: dict[str, list[list[Generation]]]
    ) -> None:
        """Adds the second turn's answers of the tasks that have one."""
        docs = [
            task.follow_up(doc, answer.text)
            for task in tasks
            if task.follow_up is not None
            for doc, answer in zip(self.work.docs[task.name], turns[task.name][0], strict=True)
        ]
        with self.phase("tokenise"):
            requests = self.adapter.generate_requests(docs)
        answers = iter(self._generate(f"{row.label}, turn 2", docs, requests))
        for task in tasks:
            turns[task.name].append([next(answers) for _ in self.work.docs[task.name]])

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
        keys = request_keys(self.adapter.identity, requests)
        first_of = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))
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
            asked = _take(requests, first)
            costs = _costs(asked, skip)
            with self.progress.counting(label, len(unique), cached, sum(costs)) as counter:
                for i, result in self._run(asked, skip, lambda i: owners[first[i]]):
                    known[planned[i]] = result
                    self.store.put([(planned[i], result)])
                    counter.advance(costs[i])
            self.store.end(unique)
        return [known[key] for key in keys]

    def _run(
        self, requests: Sequence[Request], skip: set[int], owner: Callable[[int], tuple[str, str]]
    ) -> Iterator[tuple[int, Result]]:
        """The adapter's results, all finite."""
        try:
            for i, result in self.adapter.run(requests, skip):
                if isinstance(result, Score) and not math.isfinite(result.logprob):
                    raise NotFinite(i)
                yield i, result
        except NotFinite as error:
            task, doc = owner(error.index)
            raise UserError(
                f"task '{task}', doc {doc}: the model's log-probabilities are not finite: "
                "its weights or the dtype are broken; nothing is scored with it"
            ) from error

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time inside to the phase `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            shift = self.began - self.clock  # to Unix seconds, whatever the clock is set to meanwhile
            self.phases[name] = self.phases.get(name, 0.0) + end - start
            self.spans.append((name, self._label, start + shift, end + shift))

    def _keep(self, columns_of: Callable[..., Columns], task: CardTask, *results: Any) -> None:
        """Scores a task; if that fails the task is missing, with the reason. Its answers are in the store already."""
        try:
            columns = columns_of(task, self.work.docs[task.name], self.adapter.chat, *results)
        except Exception as error:  # metrics are other people's code, and answers may be anything
            self.missing[task.name] = f"'{task.name}' was answered, but scoring fails ({_named(error)})"
            self.progress.note(f"left out: {self.missing[task.name]}; the answers are kept")
        else:
            self.columns[task.name] = columns


def _take(requests: Sequence[Request], indices: list[int]) -> Sequence[Request]:
    if isinstance(requests, ScoreRequests):
        return requests.take(indices)
    return [requests[i] for i in indices]


def _costs(requests: Sequence[Request], skip: set[int]) -> list[int]:
    """About what each request costs, for the time left: its tokens, or its budget."""
    if isinstance(requests, ScoreRequests):
        costs = np.diff(requests.starts).tolist()
    else:
        costs = [len(one.tokens) if isinstance(one, ScoreRequest) else one.max_new_tokens for one in requests]
    return [0 if i in skip else cost for i, cost in enumerate(costs)] if skip else costs


def _score(result: Result) -> Score:
    assert isinstance(result, Score)
    return result


def _generation(result: Result) -> Generation:
    assert isinstance(result, Generation)
    return result


def publish(run: Run, spec: ModelSpec, finished_phases: dict[str, float]) -> RunLog:
    """Writes the run folder (samples, then run.json), whole or not at all; its log, which knows where it is."""
    from evals.run.log import run_log  # brings scipy, which nothing needs before

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    final = run.settings.output / spec.name / f"{stamp}-{run.work.card.name}"
    partial = partial_folder(final)
    with run.phase("write"):
        (partial / "samples").mkdir()
        for name, columns in run.columns.items():
            write_atomic(partial / "samples" / f"{name}.parquet", samples.to_parquet(columns))
    log = run_log(run, spec, finished_phases)
    write_atomic(partial / "run.json", log.dump())
    return read_log(publish_folder(partial, final))
