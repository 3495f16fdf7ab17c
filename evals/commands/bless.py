"""Makes a run the baseline of a gate: scores a doc, hashes and provenance, no text of a data set.

The only way in which a baseline changes. It is a run folder as results/README.md describes it, with fewer columns.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from evals.core.errors import EXIT_OK


@dataclass(frozen=True)
class Options:
    """What `bless` was asked for. `baselines`: where baselines are kept; None: the project's.

    `runs`: the baseline's, then equivalent ones.
    """

    runs: tuple[str, ...]
    name: str
    baselines: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `bless`."""
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="the run to keep as a baseline, or a model's folder; more runs of the same weights (other dtype, batch or "
        "GPU) tell how much of a difference is noise",
    )
    parser.add_argument(
        "--as", dest="name", required=True, metavar="NAME", help="letters, digits, '.', '_' and '-'"
    )
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help="where baselines are kept (default: results/baselines)"
    )


def options_from(args: argparse.Namespace) -> Options:
    """The command's options."""
    return Options(tuple(args.runs), args.name, args.baselines)


def main(args: argparse.Namespace) -> int:
    """Stores the baseline and says what it replaces."""
    options = options_from(args)
    from reports.finding import find_run
    from reports.gate.bless import bless, checked_name
    from reports.runs import load_run

    checked_name(options.name)
    run, *equivalent = [load_run(find_run(place)) for place in options.runs]
    print(bless(run, options.name, options.baselines, equivalent))
    return EXIT_OK
