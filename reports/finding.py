"""Finds the run that a user means: a run folder, its run.json, a model's folder, or the name of a blessed baseline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from evals.core.errors import UserError
from evals.core.runlog import FILE, read_log
from reports.runs import find_runs

BASELINES = Path("results") / "baselines"
"""Where baselines are kept: in the working directory; those of the project's own checkout are found from anywhere."""
PROJECT_BASELINES = Path(__file__).resolve().parents[1] / BASELINES
NONE_BLESSED = "none is blessed yet: 'run_evals.py bless RUN --as NAME'"


def find_run(place: str, baselines: Path | None = None) -> Path:
    """The one run folder that `place` means; with `baselines`, a name is looked up in there. Raises UserError.

    A model's folder means its latest run, where its runs are all of one suite.
    """
    if baselines is not None:
        if (Path(place) / FILE).is_file() and not (baselines / place).is_dir():
            raise UserError(
                f"--baselines is where a name is looked up, and '{place}' is a run folder: give one of them"
            )
        return _blessed(place, (baselines,))
    found = _in_folder(Path(place))
    if len(found) > 1:
        raise UserError(f"'{place}' holds several runs: give one of {', '.join(map(str, found))}")
    return found[0] if found else _blessed(place, (BASELINES, PROJECT_BASELINES))


def find_each(places: Iterable[str]) -> list[Path]:
    """All run folders that these places mean: of a folder that holds runs, each model's latest of each suite."""
    found = [run for place in places for run in _in_folder(Path(place)) or [find_run(place)]]
    return list(dict.fromkeys(found))


def _in_folder(place: Path) -> list[Path]:
    """The run itself, or the latest run of each model and suite below a folder; none where there is none."""
    if place.name == FILE and place.is_file():
        return [place.parent]
    if (place / FILE).is_file():
        return [place]
    latest: dict[tuple[str, str], tuple[str, Path]] = {}
    for folder in find_runs(place) if place.is_dir() else []:
        log = read_log(folder)
        one = (log.model.name, log.suite)
        latest[one] = max(latest.get(one, ("", folder)), (log.provenance.finished, folder))
    return sorted(folder for _, folder in latest.values())


def _blessed(name: str, folders: Sequence[Path]) -> Path:
    """The baseline of that name in the first of the folders that has it."""
    known = {path.name: path for folder in reversed(folders) if folder.is_dir() for path in folder.iterdir()}
    blessed = {name: known[name] for name in sorted(known) if (known[name] / FILE).is_file()}
    if name in blessed:
        return blessed[name]
    there = f"blessed are {', '.join(blessed)}" if blessed else NONE_BLESSED
    raise UserError(f"no run folder and no baseline '{name}': {there}")
