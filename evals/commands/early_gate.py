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

from evals.adapters.build import Built, LocalOptions, build
from evals.commands.gate import Options
from evals.commands.options import DTYPES
from evals.commands.run import go_offline, locked_store
from evals.data.sources import parse_source
from evals.models.known import resolve
from evals.run.loop import Run as Loop
from evals.run.loop import publish
from evals.run.progress import Progress
from evals.run.store import Store
from evals.run.work import Settings, Work, prepare
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


def early_gate(baseline: Run, options: Options, plan: Mapping[str, Planned], policy: Policy) -> GateResult:
    """Measures the candidate as far as the verdict takes, and judges it. Raises UserError."""
    # the baseline's own settings, for the rows that are planned
    settings = Settings(
        source=parse_source(options.data or "hub", options.offline),
        tasks=[
            task for row in baseline.rows if row.label in plan and not row.metric.judged for task in row.tasks
        ],
        limit=baseline.log.limit,
        variants=list(baseline.log.provenance.variant),
        output=(options.output_dir or Path("results")).expanduser(),
        references=any(one.finer and not one.scored for one in plan.values()),
    )
    start = time.monotonic()
    spec = resolve(options.model, None, options.revision)
    go_offline(options.offline or (settings.source.kind != "hub" and spec.source != "hub"))
    (work,) = prepare([baseline.card], settings)
    phases = {"prepare": time.monotonic() - start}
    progress = Progress()
    progress.note(f"loading {spec.name} ({spec.label})")
    start = time.monotonic()
    dtype = options.dtype or (baseline.model.dtype if baseline.model.dtype in DTYPES else None)
    local = LocalOptions(options.device, dtype)
    built = build(spec, [baseline.card], local, None, options.offline, progress.note)
    with locked_store(settings.output, built.adapters, progress) as store:
        phases["load"] = time.monotonic() - start
        candidate = _Candidate(built, work, store, settings, phases, baseline, options.allow or ())
        return candidate.judge(plan, policy)


@dataclass(frozen=True)
class _Candidate:
    """A loaded model and the baseline's docs, measured as far as the gate asks."""

    built: Built
    work: Work
    store: Store
    settings: Settings
    phases: dict[str, float]
    baseline: Run
    allow: Sequence[str]

    def judge(self, plan: Mapping[str, Planned], policy: Policy) -> GateResult:
        """Row by row in growing batches; all that was measured becomes the candidate's run."""
        counts: dict[str, int] = {}
        start = time.monotonic()

        def look(label: str, n: int) -> Evidence | None:
            row = self.baseline.row(label)
            assert row is not None
            if not all(task in self.work.docs for task in row.tasks):
                return None
            sizes = tuple(len(self.baseline.columns(task)["doc_id"]) for task in row.tasks)
            own = dict(zip(row.tasks, docs_of_tasks(sizes, n), strict=True))
            counts.update(own)
            with tempfile.TemporaryDirectory() as folder:
                run, _ = self._measure(own, Path(folder))
                finer = plan[label].finer
                return row_evidence(self.baseline, run, label, "prompts" in self.allow, finer, early=True)

        def tell(row: RowGate) -> None:
            said = "not sure yet" if row.verdict == OPEN else row.verdict.lower()
            seconds = time.monotonic() - start
            print(f"{seconds:6.0f} s  {row.label}: {docs(row)} docs, {change(row)}: {said}", file=sys.stderr)

        judged = {label for label, one in plan.items() if one.metric.judged}
        rows = run_stages({label: plan[label] for label in plan if label not in judged}, look, tell)
        why = "a judge rates it after a run: gate the judged run"
        rows |= {label: RowGate(label, plan[label], OPEN, why) for label in judged}
        final, found = self._measure(counts, self.settings.output)
        return result_of(self.baseline, final, policy, plan, rows, found, early=True)

    def _measure(self, counts: Mapping[str, int], output: Path) -> tuple[Run, Sequence[Any]]:
        """The run of the first docs of each task, so many, written below `output`; how it differs from the baseline."""
        work = self.work.first(counts, SURE)
        whole = all(len(work.docs.get(name, ())) == len(every) for name, every in self.work.docs.items())
        limit = self.settings.limit if whole else max(map(len, work.docs.values()))
        settings = replace(self.settings, limit=limit, output=output)
        (backend,) = self.built.adapters
        run = Loop(work, backend, self.store, settings, _Quiet())
        run.execute()
        self.store.flush()
        made = load_run(publish(run, self.built.spec, self.phases).folder)
        return made, check(self.baseline, made, self.allow, early=True)
