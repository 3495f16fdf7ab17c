"""Makes a run the baseline of a gate: scores a doc, hashes and provenance, no text of a data set.

The only way in which a baseline changes. It is a run folder as results/README.md describes it, with fewer columns.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.errors import UserError
from evals.core.runlog import FILE
from reports.finding import BASELINES
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


def bless(run: Run, name: str, folder: Path | None = None) -> str:
    """Stores the run as a baseline; says in words what that now is, and what it replaces. Raises UserError."""
    target = (folder or BASELINES) / checked_name(name)
    replaced = f" (was {_described(load_run(target))})" if target.is_dir() else ""
    _write(run, target)
    return f"baseline '{name}' is now {_described(run)}{replaced}"


def _write(run: Run, target: Path) -> None:
    """Writes the baseline folder whole or not at all, in place of an older one."""
    from pyarrow import parquet

    log = run.log.model_copy(update={"timing": {}, "blessed_from": run.folder.name})
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

    columns = dict(run.columns(task))
    columns["prompt_hash"] = [one[:HASH_DIGITS] for one in columns["prompt_hash"]]
    return pyarrow.table({name: _small(name, values) for name, values in columns.items()})


def _small(name: str, values: list[Any]) -> Any:
    import pyarrow

    if name == "doc_id":
        return pyarrow.array(values, type=pyarrow.int32())
    if name == "group":
        return pyarrow.array(values, type=pyarrow.string()).dictionary_encode()
    if values and all(isinstance(value, int) and value in (0, 1) for value in values):
        return pyarrow.array(values, type=pyarrow.int8())
    return pyarrow.array(values)


def _described(run: Run) -> str:
    words = [run.name, run.model.quantization, run.model.dtype, run.suite, run.log.blessed_from]
    limit = f"limit {run.log.limit}" if run.log.limit else "all docs"
    return one_line(" ".join(str(word) for word in [*words, limit] if word))
