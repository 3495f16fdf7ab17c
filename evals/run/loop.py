"""The one loop: docs -> requests not yet stored -> adapter -> store -> metrics -> a run folder.

A run is a pure function of its requests' results, and each result is stored as soon as it is computed: a stopped run is
continued by the same command. The run folder itself appears whole, at the end.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from evals.core.card import Row
from evals.core.errors import RowUnavailable, UserError
from evals.core.files import publish_folder, write_atomic
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
from evals.run import samples
from evals.run.background import ahead
from evals.run.progress import Progress
from evals.run.records import request_keys
from evals.run.store import Store
from evals.run.work import Settings, Work, named

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

    from evals.models.known import ModelSpec
    from evals.run.samples import Columns
    from tasks.common.builders import CardTask


@dataclass(frozen=True, slots=True)
class _Asked:
    """A row's requests: of each likelihood task one list a doc; one a doc of all its generative tasks."""

    choices: list[tuple[CardTask, Sequence[Sequence[ScoreRequest]]]]
    generative: list[CardTask]
    answers: list[GenerateRequest]


class Run:
    """One card on one model, from requests to a published folder.

    `spans`: (phase, row or "", begin, end) of every stretch of work, by the monotonic clock, as `clock`, its start.
    """

    def __init__(
        self, work: Work, adapter: Backend, store: Store, settings: Settings, progress: Progress
    ) -> None:
        self.work, self.adapter, self.store = work, adapter, store
        self.settings, self.progress = settings, progress
        self.missing = dict(work.missing)
        self.columns: dict[str, Columns] = {}
        self.row_timing: dict[str, dict[str, float | int]] = {}
        self.spans: list[tuple[str, str, float, float]] = []
        self.clock = time.monotonic()
        self._label = ""
        self._ahead: dict[str, Future[_Asked]] = {}

    def execute(self) -> None:
        """Computes every row that can be had; results are in the store as they come."""
        rows = [row for row in self.work.rows if not self.work.docs.keys().isdisjoint(row.tasks)]
        for row, following in zip_longest(rows, rows[1:]):
            start = time.monotonic()
            self._label = row.label
            self._counts = Counter(requests=0, computed=0, cached=0)
            try:
                self._run_row(row, following)
            except RowUnavailable as error:
                self.missing |= {name: str(error) for name in row.tasks if name in self.work.docs}
                self.progress.note(f"{row.label}: left out: {error}")
                continue
            seconds = time.monotonic() - start
            self.row_timing[row.label] = {"seconds": round(seconds, 3), **self._counts}
            counts = "{requests} requests, {cached} of them stored before".format(**self._counts)
            self.progress.note(f"{self.work.card.name}, {row.label}: {counts}, {seconds:.1f} s")

    def _run_row(self, row: Row, following: Row | None) -> None:
        """All tasks of a row in one go, so that a back end can share among them.

        Where the processor is idle meanwhile, the following row's requests are made.
        """
        with self.phase("tokenise"):
            begun = self._ahead.pop(row.label, None)
            asked = begun.result() if begun else self._ask(row)
        if following and self.adapter.leaves_cpu:
            self._ahead[following.label] = ahead(self._ask, following)
        if asked.choices:
            self._run_likelihood(row, asked.choices)
        if asked.generative:
            self._run_generative(row, asked.generative, asked.answers)

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
        docs = [
            doc
            for task, groups in asked
            for doc, group in zip(self.work.docs[task.name], groups, strict=True)
            for _ in range(len(group))
        ]
        results = iter(self._score(row.label, flat, docs))
        with self.phase("metrics"):
            for task, groups in asked:
                scores = [list(islice(results, len(group))) for group in groups]
                self._keep(samples.likelihood_columns, task, groups, scores)

    def _run_generative(self, row: Row, tasks: Sequence[CardTask], asked: Sequence[GenerateRequest]) -> None:
        docs = [doc for task in tasks for doc in self.work.docs[task.name]]
        talks = [task for task in tasks if task.follow_up is not None]
        answers = iter(self._generate(f"{row.label}, turn 1" if talks else row.label, asked, docs))
        turns = {task.name: [list(islice(answers, len(self.work.docs[task.name])))] for task in tasks}
        if talks:
            self._second_turns(row, talks, turns)
        references = self._score_references(row, tasks)
        with self.phase("metrics"):
            for task in tasks:
                self._keep(samples.generative_columns, task, turns[task.name], references.get(task.name, ()))

    def _score_references(
        self, row: Row, tasks: Sequence[CardTask]
    ) -> dict[str, list[tuple[ScoreRequest, Score]]]:
        """The reference answers' scores after the docs' own prompts, by task; a row is not missing for want of them."""
        docs = [doc for task in tasks for doc in self.work.references.get(task.name, ())]
        found: dict[str, list[tuple[ScoreRequest, Score]]] = defaultdict(list)
        if docs:
            try:
                with self.phase("tokenise"):
                    requests = ScoreRequests.joined(self.adapter.score_requests(docs))
                scores = self._score(f"{row.label}, reference answers", requests, docs)
            except RowUnavailable as error:
                self.progress.note(f"{row.label}: its reference answers are not scored: {error}")
            else:
                for doc, request, score in zip(docs, requests, scores, strict=True):
                    found[doc.task_name].append((request, score))
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
        answers = iter(self._generate(f"{row.label}, turn 2", requests, docs))
        for task in tasks:
            turns[task.name].append(list(islice(answers, len(self.work.docs[task.name]))))

    def _score(self, label: str, requests: ScoreRequests, docs: Sequence[Doc]) -> list[Score]:
        with self.phase("score"):
            return cast("list[Score]", self._compute(label, requests, docs))

    def _generate(
        self, label: str, requests: Sequence[GenerateRequest], docs: Sequence[Doc]
    ) -> list[Generation]:
        with self.phase("generate"):
            return cast("list[Generation]", self._compute(label, requests, docs))

    def _compute(
        self, label: str, requests: ScoreRequests | Sequence[GenerateRequest], docs: Sequence[Doc]
    ) -> list[Result]:
        """The results of requests, in order: stored ones are read, the others computed and stored as they come.

        Identical requests are computed once. Raises UserError that names the doc for a score that is not finite.
        """
        keys = request_keys(self.adapter.identity, requests)
        first_of: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            first_of.setdefault(key, i)
        unique = list(first_of)
        known = {} if self.settings.fresh else self.store.get(unique)
        cached = len(known)
        self._counts.update(requests=len(unique), computed=len(unique) - cached, cached=cached)
        if cached < len(unique):
            before = self.store.begin(unique, known, fresh=self.settings.fresh)
            planned = [key for key in unique if key not in before or key not in known]
            first = [first_of[key] for key in planned]
            skip = {i for i, key in enumerate(planned) if key in known}
            asked, costs = _take(requests, first)
            todo = sum(costs) - sum(costs[i] for i in skip)
            with self.progress.counting(label, len(unique), cached, todo) as counter:
                for i, result in self._run(asked, skip, [docs[i] for i in first]):
                    known[planned[i]] = result
                    self.store.put([(planned[i], result)])
                    counter.advance(costs[i])
            self.store.end(unique)
        return [known[key] for key in keys]

    def _run(
        self, requests: Sequence[Request], skip: set[int], docs: Sequence[Doc]
    ) -> Iterator[tuple[int, Result]]:
        """The adapter's results, all finite."""
        try:
            for i, result in self.adapter.run(requests, skip):
                if isinstance(result, Score) and not math.isfinite(result.logprob):
                    raise NotFinite(i)
                yield i, result
        except NotFinite as error:
            doc = docs[error.index]
            raise UserError(
                f"task '{doc.task_name}', doc {doc.id}: the model's log-probabilities are not finite: "
                "its weights or the dtype are broken; nothing is scored with it"
            ) from error

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Notes the time inside as a span of the phase `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.spans.append((name, self._label, start, time.monotonic()))

    def _keep(self, columns_of: Callable[..., Columns], task: CardTask, *results: Any) -> None:
        """Scores a task; if that fails the task is missing, with the reason. Its answers are in the store already."""
        try:
            columns = columns_of(task, self.work.docs[task.name], self.adapter.chat, *results)
        except Exception as error:  # metrics are other people's code, and answers may be anything
            self.missing[task.name] = f"'{task.name}' was answered, but scoring fails ({named(error)})"
            self.progress.note(f"left out: {self.missing[task.name]}; the answers are kept")
        else:
            self.columns[task.name] = columns


def _take(
    requests: ScoreRequests | Sequence[GenerateRequest], indices: list[int]
) -> tuple[Sequence[Request], list[int]]:
    """Some of the requests, and about what each costs, for the time left: its tokens, or its budget."""
    if isinstance(requests, ScoreRequests):
        some = requests.take(indices)
        return some, np.diff(some.starts).tolist()
    answers = [requests[i] for i in indices]
    return answers, [one.max_new_tokens for one in answers]


def publish(run: Run, spec: ModelSpec, before: dict[str, float]) -> RunLog:
    """Writes the run folder (samples, then run.json), whole or not at all; its log, which knows where it is.

    `before`: seconds of the phases before the loop.
    """
    from evals.run.log import run_log  # brings scipy, which nothing needs before

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    final = run.settings.output / spec.name / f"{stamp}-{run.work.card.name}"
    with run.phase("write"):
        partial = samples.write(final, run.columns)
    write_atomic(partial / "run.json", run_log(run, spec, before).dump())
    return read_log(publish_folder(partial, final))
