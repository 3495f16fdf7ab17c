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
from evals.commands.gate import Measured
from evals.commands.run import go_offline
from evals.commands.run_options import DTYPES
from evals.core.files import run_lock
from evals.core.runlog import RunLog
from evals.data.sources import parse_source
from evals.models.known import resolve_all
from evals.run import provenance
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
from reports.gate.whole import check, result_of
from reports.runs import Run, load_run


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
        work = self.work.first(counts, SURE)
        whole = all(len(work.docs.get(name, ())) == len(every) for name, every in self.work.docs.items())
        limit = self.settings.limit if whole else max(map(len, work.docs.values()))
        settings = replace(self.settings, limit=limit, output=output)
        run = Loop(work, self.built.adapters[0], self.store, settings, progress)
        run.execute()
        self.store.flush()
        phases = {"prepare": self.began, "load": self.loaded}
        return publish(run, self.built.spec, self.built.describe(self.built.adapters[0]), phases)


def early_gate(
    baseline: Run, options: Measured, plan: Mapping[str, Planned], policy: Policy, allow: Sequence[str]
) -> GateResult:
    """Measures the candidate as far as the verdict takes, and judges it. Raises UserError."""
    settings = _settings(baseline, options, plan)
    start = time.monotonic()
    (spec,) = resolve_all([options.model], None, options.revision)
    go_offline(options.offline or (settings.source.kind != "hub" and spec.source != "hub"))
    (work,) = prepare([baseline.card], settings)
    prepared = time.monotonic() - start
    progress = Progress()
    progress.note(f"loading {spec.name} ({spec.label})")
    start = time.monotonic()
    dtype = options.dtype or (baseline.model.dtype if baseline.model.dtype in DTYPES else None)
    local = LocalOptions(device=options.device, dtype=dtype)
    built = build(spec, [baseline.card], local, None, options.offline, progress.note)
    cache = settings.output / ".cache"
    lock = cache / f"run-{provenance.joint_hash([built.adapters[0].identity])}.lock"
    with run_lock(lock, f"this model in '{settings.output}'", progress.note), \
            Store.open(cache / "requests.sqlite", on_note=progress.note) as store:  # fmt: skip
        candidate = _Candidate(built, work, store, settings, prepared, time.monotonic() - start)
        return _staged(baseline, candidate, plan, policy, allow)


def _settings(baseline: Run, options: Measured, plan: Mapping[str, Planned]) -> Settings:
    """The baseline's own settings, for the rows that are planned."""
    return Settings(
        source=parse_source(options.data, options.offline),
        tasks=[
            task for row in baseline.rows if row.label in plan and not row.metric.judged for task in row.tasks
        ],
        limit=baseline.log.limit,
        variants=list(baseline.log.provenance.variant),
        output=options.output.expanduser(),
        references=any(one.finer and not one.scored for one in plan.values()),
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
        said = "not sure yet" if row.verdict == OPEN else row.verdict.lower()
        seconds = time.monotonic() - start
        print(f"{seconds:6.0f} s  {row.label}: {docs(row)} docs, {change(row)}: {said}", file=sys.stderr)

    judged = {label for label, one in plan.items() if one.metric.judged}
    own = {label: one for label, one in plan.items() if label not in judged}
    rows = run_stages(own, measure, policy, tell)
    why = "a judge rates it after a run: gate the judged run"
    rows |= {label: RowGate(label, plan[label], OPEN, why) for label in judged}
    final = load_run(candidate.measure(counts, candidate.settings.output, _Quiet()).folder)
    found = check(baseline, final, allow, early=True)
    return result_of(baseline, final, policy, plan, rows, found, early=True)
