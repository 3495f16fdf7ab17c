"""``snapshot DIR``: every benchmark's rows from the hub into a folder that ``--data DIR`` reads.

For machines without network. The folder's SOURCES.json says of each file where it comes from and what its content
is (row count, sha256); reading the folder checks it. A stopped snapshot is continued by the same command.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.commands.options import Asked, argument, option, switch
from evals.core.card import all_cards, check_names, find_tasks
from evals.core.errors import EXIT_OK, EXIT_ROWS_MISSING, RowUnavailable, UserError
from evals.core.files import parquet_bytes, write_atomic
from evals.data.sources import SOURCES, Source, load, read_sources, sha256

if TYPE_CHECKING:
    from tasks.common.builders import CardTask

Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `snapshot` was asked for."""

    folder: Path = argument("made if it is not there; filled up if it is", "DIR")
    tasks: tuple[str, ...] | None = option(
        "row or task names (default: all of every card)", "A,B", names="task: see 'run_evals.py tasks'"
    )
    offline: bool = switch("only from the hub's local cache")

    def resolve(self) -> None:
        """Tasks that are known. Raises UserError."""
        check_names(all_cards(), self.tasks)


def main(options: Options) -> int:
    """Copies what is missing; exit code 3 when some benchmarks could not be had. Raises UserError."""
    options.check()
    from tasks import get_task

    names = find_tasks(all_cards(), options.tasks)
    if options.folder.exists() and not options.folder.is_dir():
        raise UserError(f"'{options.folder}' is a file: give a folder for the snapshot")
    failures = _copy_all([get_task(name) for name in names], options.folder, options.offline)
    if len(failures) == len(names):
        raise UserError(failures[0])
    for failure in failures:
        print(failure, file=sys.stderr)
    done = len(names) - len(failures)
    print(f"{done} of {len(names)} tasks are in {options.folder}: use --data {options.folder}")
    return EXIT_ROWS_MISSING if failures else EXIT_OK


def _copy_all(tasks: list[CardTask], folder: Path, offline: bool) -> list[str]:
    """Copies each task's splits and reads them back as a run would; the reasons for those that failed."""
    failures: list[str] = []
    entries = read_sources(folder)
    for task in tasks:
        try:
            for split in task.splits:
                entry, state = _copy_split(task, split, folder, entries, offline)
                origin = f"{entry.get('source_repo_or_package')}@{str(entry.get('commit_or_version'))[:12]}"
                line = f"{state:8} {entry['file']:50} {entry.get('rows'):>6} rows  {origin}"
                print(line, file=sys.stderr)
            record = load(task, Source("folder", folder)).record
        except RowUnavailable as error:
            failures.append(f"{task.name}: {error}")
            continue
        if record["note"]:
            print(f"{task.name}: {record['note']}", file=sys.stderr)
    return failures


def _copy_split(
    task: CardTask, split: str, folder: Path, entries: dict[str, Entry], offline: bool
) -> tuple[Entry, str]:
    """One split's file and its entry; ("kept", "new" or "replaced")."""
    from evals.data.hub import fetch_split, licence, read_split

    name = task.stem(split) + ".parquet"
    path, known = folder / name, entries.get(name)
    present = sha256(path) if path.is_file() else None
    if known and known.get("sha256") == present:
        return known, "kept"
    try:
        found = fetch_split(task, split, offline)
    except UserError as error:
        raise RowUnavailable(str(error)) from error
    table = read_split(found)
    # the hub's own bytes unless it has several parts
    single = len(found.paths) == 1
    content = found.paths[0].read_bytes() if single else parquet_bytes(table, "snappy")
    rows, official = table.num_rows, task.docs if split == task.split else task.shot_docs
    entry = {
        "file": name,
        "rows": rows,
        "official_rows": official,
        "complete": rows == official,
        "source_repo_or_package": f"hub:{found.repo}",
        "commit_or_version": found.revision,
        "source_paths": list(found.names),
        "license": "unknown" if offline else licence(found.repo),
        "sha256": hashlib.sha256(content).hexdigest(),
        "notes": "" if rows == official else f"{rows} rows, the official split has {official}",
    }
    if present not in (None, entry["sha256"]) and known is None:
        raise UserError(
            f"'{path}' is there and {SOURCES} does not know it: move it away, or give another folder"
        )
    if present != entry["sha256"]:
        write_atomic(path, content)
    entries[name] = entry
    ordered = [entries[key] for key in sorted(entries)]
    write_atomic(folder / SOURCES, (json.dumps(ordered, indent=1, ensure_ascii=False) + "\n").encode())
    return entry, "new" if present is None else "replaced"
