"""A gate that measures its candidate: each row in growing batches, until its verdict is sure (reports/gate/stages.py).

Every finished request is stored, as in a run: a longer look, the run folder at the end, and a whole run later compute
only what is missing.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evals.adapters.build import LocalOptions, build
from evals.commands.gate import Options
from evals.commands.options import DTYPES
from evals.commands.run import go_offline, locked_store
from evals.core.runlog import RunLog
from evals.data.sources import parse_source
from evals.models.known import resolve
from evals.run.loop import Run as Loop
from evals.run.loop import Work, prepare, publish
from evals.run.progress import Progress
from evals.run.settings import Settings
from evals.run.store import Store
from reports.gate.evidence import Evidence, docs_of_tasks, row_evidence
from reports.gate.output import change, docs
from reports.gate.planning import Planned
from reports.gate.policy import Policy
from reports.gate.stages import SURE, run_stages
from reports.gate.verdict import OPEN, GateResult, RowGate
from reports.gate.whole import check, missing
from reports.runs import Run, load_run
from reports.significance import MEAN


class _Quiet(Progress):
    """No lines about single looks: the gate tells of them itself."""

    def note(self, text: str) -> None:
        """Nothing."""


@dataclass
class _Candidate:
    """A loaded model and the baseline's docs, measured as far as the gate asks."""

    built: Any
    work: Work
    store: Store
    settings: Settings
    began: float
    loaded: float

    def measure(self, counts: Mapping[str, int], output: Path, progress: Progress) -> RunLog:
        """The run of the first docs of each task, so many; it is written below `output`."""
        docs = {name: self.work.docs[name][:count] for name, count in counts.items() if count}
        skipped = {name: SURE for name in self.work.docs if name not in docs}
        whole = all(len(docs.get(name, ())) == len(every) for name, every in self.work.docs.items())
        limit = self.settings.limit if whole else max(map(len, docs.values()))
        settings = replace(self.settings, limit=limit, output=output)
        work = replace(self.work, docs=docs, missing={**self.work.missing, **skipped})
        run = Loop(work, self.built.adapters[0], self.store, settings, progress)
        run.execute()
        self.store.flush()
        phases = {"prepare": self.began, "load": self.loaded}
        return publish(run, self.built.spec, self.built.describe(self.built.adapters[0]), phases)


def early_gate(
    baseline: Run, options: Options, plan: Mapping[str, Planned], policy: Policy, allow: Sequence[str]
) -> GateResult:
    """Measures the candidate as far as the verdict takes, and judges it. Raises UserError."""
    own = {label: one for label, one in plan.items() if not one.metric.judged}
    settings = _settings(baseline, options, [label for label in own if label != MEAN])
    start = time.monotonic()
    spec = resolve(options.model, None, options.revision)
    go_offline(options.offline or (settings.source.kind != "hub" and spec.source != "hub"))
    (work,) = prepare([baseline.card], settings)
    prepared = time.monotonic() - start
    progress = Progress()
    progress.note(f"loading {spec.name} ({spec.label})")
    start = time.monotonic()
    dtype = options.dtype or (baseline.model.dtype if baseline.model.dtype in DTYPES else None)
    built = build(
        spec, [baseline.card], LocalOptions(options.device, dtype), None, options.offline, progress.note
    )
    with locked_store(settings.output, built.adapters, progress) as store:
        candidate = _Candidate(built, work, store, settings, prepared, time.monotonic() - start)
        return _staged(baseline, candidate, own, policy, allow)


def _settings(baseline: Run, options: Options, labels: Sequence[str]) -> Settings:
    """The baseline's own settings, for the rows that it has."""
    return Settings(
        source=parse_source(options.data or "hub", options.offline),
        tasks=[task for row in baseline.rows if row.label in labels for task in row.tasks],
        limit=baseline.log.limit,
        variants=list(baseline.log.provenance.variant),
        output=(options.output_dir or Path("results")).expanduser(),
    )


def _staged(
    baseline: Run, candidate: _Candidate, plan: Mapping[str, Planned], policy: Policy, allow: Sequence[str]
) -> GateResult:
    counts: dict[str, int] = {}
    start = time.monotonic()

    def measure(label: str, n: int) -> Evidence | None:
        row = baseline.row(label)
        assert row is not None
        sizes = tuple(len(baseline.columns(task)["doc_id"]) for task in row.tasks)
        own = dict(zip(row.tasks, docs_of_tasks(sizes, n), strict=True))
        if not all(task in candidate.work.docs for task in row.tasks):
            return None
        counts.update(own)
        with tempfile.TemporaryDirectory() as folder:
            run = load_run(candidate.measure(own, Path(folder), _Quiet()).folder)
            check(baseline, run, allow, early=True)
            return row_evidence(baseline, run, label, "prompts" in allow, plan[label].finer, early=True)

    def tell(row: RowGate) -> None:
        seconds, said = (
            time.monotonic() - start,
            "not sure yet" if row.verdict == OPEN else row.verdict.lower(),
        )
        print(
            f"{seconds:6.0f} s  {row.label}: {docs(row)} docs, {change(row)}: {said}",
            file=sys.stderr,
        )

    rows = run_stages(plan, measure, policy, tell)
    final = load_run(candidate.measure(counts, candidate.settings.output, _Quiet()).folder)
    found = check(baseline, final, allow, early=True)
    judged = [rows[label] if label in rows else missing(baseline, final, label) for label in plan]
    judged += [
        RowGate(row.label, None, OPEN, "a judge rates it after a run: gate the judged run")
        for row in baseline.rows
        if row.metric.judged and row.value is not None
    ]
    judged += [
        missing(baseline, final, row.label)
        for row in baseline.card.rows
        if row.label in policy.rows and baseline.row(row.label) is None
    ]
    return GateResult(baseline, final, policy, tuple(judged), tuple(found), early=True)
