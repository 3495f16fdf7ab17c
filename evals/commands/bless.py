"""Makes a run the baseline of a gate: scores a doc, hashes and provenance, no text of a data set.

The only way in which a baseline changes. It is a run folder as results/README.md describes it, with fewer columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import Asked, argument, option
from evals.core.errors import EXIT_OK


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `bless` was asked for. `runs`: the baseline's, then equivalent ones."""

    runs: tuple[str, ...] = argument(
        "the run to keep as a baseline, or a model's folder; more runs of the same weights (other dtype, batch or "
        "GPU) tell how much of a difference is noise",
        "RUN",
        nargs="+",
    )
    name: str = option("letters, digits, '.', '_' and '-'", "NAME", flag="--as", required=True)
    baselines: Path | None = option("where baselines are kept (default: results/baselines)", "DIR")


def main(options: Options) -> int:
    """Stores the baseline and says what it replaces."""
    options.check()
    from reports.finding import find_run
    from reports.gate.bless import bless, checked_name
    from reports.runs import load_run

    checked_name(options.name)
    run, *equivalent = [load_run(find_run(place)) for place in options.runs]
    print(bless(run, options.name, options.baselines, equivalent))
    return EXIT_OK
