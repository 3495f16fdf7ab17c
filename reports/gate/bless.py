"""Makes a run the baseline of a gate: scores a doc, hashes and provenance, no text of a data set.

The only way in which a baseline changes. It is a run folder as results/README.md describes it, with fewer columns.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.core.errors import EXIT_OK, UserError

if TYPE_CHECKING:
    from reports.runs import Run

FOLDER = Path(__file__).resolve().parents[2] / "results" / "baselines"
HASH_DIGITS = 12
KEPT = ("schema_version", "model", "suite", "limit", "data", "tasks", "rows", "provenance")


@dataclass(frozen=True)
class Options:
    """What `bless` was asked for. `baselines`: where baselines are kept."""

    run: Path
    name: str
    baselines: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bless`."""
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder to keep as a baseline")
    parser.add_argument(
        "--as", dest="name", required=True, metavar="NAME", help="letters, digits, '.', '_' and '-'"
    )
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help="where baselines are kept (results/baselines)"
    )


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    return Options(args.run, checked_name(args.name), args.baselines or FOLDER)


def main(args: argparse.Namespace) -> int:
    """Stores the baseline and says what it replaces."""
    from reports.runs import load_run

    options = options_from(args)
    target = options.baselines / options.name
    run = load_run(options.run)
    replaced = _described(load_run(target)) if target.is_dir() else None
    bless(run, target)
    print(f"baseline '{options.name}' is now {_described(run)}" + (f" (was {replaced})" if replaced else ""))
    return EXIT_OK


def checked_name(name: str) -> str:
    """A baseline's name, which is also its folder's: never a path."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) or ".." in name:
        raise UserError(f"{name[:60]!r} is no name of a baseline: use letters, digits, '.', '_' and '-'")
    return name


def find_baseline(name: str, folder: Path | None = None) -> Path:
    """The folder of a baseline: a run folder's path, or the name of a blessed one; with `folder`, one in there.

    Raises UserError.
    """
    if folder is None and Path(name).is_dir():
        return Path(name)
    if folder is not None and (Path(name) / "run.json").is_file() and not (folder / name).is_dir():
        raise UserError(
            f"--baselines is where a name is looked up, and '{name}' is a run folder: give one of them"
        )
    folder = folder or FOLDER
    blessed = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if name in blessed:
        return folder / checked_name(name)
    there = (
        f"blessed are {', '.join(blessed)}"
        if blessed
        else "none is blessed yet: 'run_evals.py bless RUN --as NAME'"
    )
    raise UserError(f"no run folder and no baseline '{name}': {there}")


def bless(run: Run, target: Path) -> None:
    """Writes the baseline folder whole or not at all, in place of an older one."""
    import json
    import tempfile

    from pyarrow import parquet

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".blessing-") as temporary:
        fresh = Path(temporary) / "fresh"
        (fresh / "samples").mkdir(parents=True)
        for task in run.tasks:
            parquet.write_table(_scores(run, task), fresh / "samples" / f"{task}.parquet", compression="zstd")
        (fresh / "run.json").write_text(
            json.dumps(_record(run), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        if target.exists():
            target.rename(Path(temporary) / "old")
        fresh.rename(target)


def _record(run: Run) -> dict[str, Any]:
    record = {key: run.record[key] for key in KEPT}
    return {**record, "timing": {}, "blessed_from": run.folder.name}


def _scores(run: Run, task: str) -> Any:
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
    if values and isinstance(values[0], int):
        return pyarrow.array(values, type=pyarrow.int8())
    return pyarrow.array(values)


def _described(run: Run) -> str:
    from reports.render.tables import one_line

    words = [
        run.name,
        run.model["quantization"],
        run.model["dtype"],
        run.suite,
        run.record.get("blessed_from"),
    ]
    limit = f"limit {run.record['limit']}" if run.record["limit"] else "all docs"
    return one_line(" ".join(str(word) for word in [*words, limit] if word))
