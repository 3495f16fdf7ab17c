"""Makes a run the baseline of a gate: scores a doc, hashes and provenance, no text of a data set.

The only way in which a baseline changes. It is a run folder as results/README.md describes it, with fewer columns, two
of its own (gold.py), and what runs of the same weights elsewhere (dtype, batch, GPU) tell of the noise.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evals.core.errors import UserError
from evals.core.runlog import FILE, NoiseLog
from reports import significance
from reports.comparability import CIRCUMSTANCES, mismatches
from reports.compare import check_suites, on_shared_docs
from reports.finding import BASELINES
from reports.gate.gold import gold_columns
from reports.gate.planning import NO_NOISE
from reports.render.tables import one_line
from reports.runs import Run, load_run

if TYPE_CHECKING:
    import pyarrow

HASH_DIGITS = 12


def checked_name(name: str) -> str:
    """A baseline's name, which is also its folder's: never a path."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or ".." in name:
        raise UserError(f"{name[:60]!r} is no name of a baseline: use letters, digits, '.', '_' and '-'")
    return name


def bless(run: Run, name: str, folder: Path | None = None, equivalent: Sequence[Run] = ()) -> str:
    """Stores the run as a baseline; says in words what that now is, and what it replaces. Raises UserError.

    `equivalent`: runs of the same weights, whose differences from it are noise.
    """
    target = (folder or BASELINES) / checked_name(name)
    noise = _noise(run, equivalent)
    replaced = f" (was {_described(load_run(target))})" if target.is_dir() else ""
    _write(run, target, noise, sorted({str(one.model.dtype) for one in equivalent}))
    plural = "s" if len(equivalent) > 1 else ""
    known = f"; noise known from {len(equivalent)} equivalent run{plural}" if equivalent else ""
    return f"baseline '{name}' is now {_described(run)}{replaced}{known}"


def _noise(run: Run, equivalent: Sequence[Run]) -> dict[str, NoiseLog]:
    """By row, the most that an equivalent run differs."""
    found: dict[str, NoiseLog] = {}
    for other in equivalent:
        _check_equivalent(run, other)
        pairs = {row: on_shared_docs(run, other, row, row.tasks) for row in run.rows if row.value is not None}
        known = {row: pair[2] for row, pair in pairs.items() if pair is not None}
        seen = [(row.label, abs(one.value), one.spread) for row, one in known.items()]
        mean = significance.mean_of_rows((row.metric, one.estimate) for row, one in known.items())
        if mean is not None:
            seen.append((significance.MEAN, abs(mean.value), 0.0))
        for label, difference, spread in seen:
            before = found.get(label, NO_NOISE)
            found[label] = NoiseLog(
                difference=max(before.difference, difference), spread=max(before.spread, spread)
            )
    return found


def _check_equivalent(run: Run, other: Run) -> None:
    check_suites(run, other)
    if run.model.fingerprint is None or run.model.fingerprint != other.model.fingerprint:
        raise UserError(
            f"'{other.folder}' is not of the weights of '{run.folder}': their difference is no noise"
        )
    unlike = [one for one in mismatches(run, other) if one.code not in (*CIRCUMSTANCES, "dtype")]
    if unlike:
        raise UserError(f"'{other.folder}' was measured otherwise: {'; '.join(one.text for one in unlike)}")


def _write(run: Run, target: Path, noise: dict[str, NoiseLog], dtypes: list[str]) -> None:
    """Writes the baseline folder whole or not at all, in place of an older one."""
    from pyarrow import parquet

    own = {"timing": {}, "blessed_from": run.folder.name, "noise": noise, "equivalent": dtypes}
    log = run.log.model_copy(update=own)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".blessing-") as temporary:
        fresh = Path(temporary) / "fresh"
        (fresh / "samples").mkdir(parents=True)
        for task in run.tasks:
            parquet.write_table(_scores(run, task), fresh / "samples" / f"{task}.parquet", compression="zstd")
        (fresh / FILE).write_bytes(log.dump())
        if target.exists():
            target.rename(Path(temporary) / "old")
        fresh.rename(target)


def _scores(run: Run, task: str) -> pyarrow.Table:
    """The score columns, small; of a prompt's hash only the first digits."""
    import pyarrow

    kinds = {"doc_id": pyarrow.int32(), "group": pyarrow.dictionary(pyarrow.int32(), pyarrow.string())}
    small = {}
    for name, values in run.columns(task).items():
        if name == "prompt_hash":
            values = [one[:HASH_DIGITS] for one in values]
        elif name not in kinds and all(isinstance(value, int) and value in (0, 1) for value in values):
            kinds[name] = pyarrow.int8()
        small[name] = pyarrow.array(values, type=kinds.get(name))
    for name, numbers in (gold_columns(run, task) or {}).items():
        small[name] = pyarrow.array(numbers, type=pyarrow.float32())
    return pyarrow.table(small)


def _described(run: Run) -> str:
    words = [run.name, run.model.quantization, run.model.dtype, run.suite, run.log.blessed_from]
    limit = f"limit {run.log.limit}" if run.log.limit else "all docs"
    return one_line(" ".join(str(word) for word in [*words, limit] if word))
