"""Reads logs of lm-eval and inspect into run folders, which report, compare, bless, gate and leaderboard take.

Their numbers are marked as another harness's wherever they are shown, and never stand beside a card's.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import Asked, argument, option
from evals.core.errors import EXIT_OK, UserError


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `import` was asked for."""

    logs: tuple[str, ...] = argument(
        "lm-eval's output folder or its results_….json (made with --log_samples); inspect's .eval or .json log, or a "
        "folder of logs of one model",
        "LOG", nargs="+",
    )  # fmt: skip
    output_dir: Path | None = option("where run folders are kept (default: results)", "DIR")


def main(options: Options) -> int:
    """Writes a run folder for each log and prints where."""
    options.check()
    from evals.run.foreign import inspect_ai, lm_eval
    from evals.run.foreign.folder import publish

    for place in options.logs:
        results, logs = find(Path(place))
        log = lm_eval.read(results) if results else inspect_ai.read(logs)
        folder = publish(log, options.output_dir or Path("results"))
        for line in log.left_out:
            print("left out: " + " ".join(line.split())[:300], file=sys.stderr)
        print(folder)
    return EXIT_OK


def find(place: Path) -> tuple[Path | None, list[Path]]:
    """The results file of lm-eval, or else the logs of inspect, that `place` means. Raises UserError."""
    if place.is_file():
        return (place, []) if place.name.startswith("results") else (None, [place])
    if not place.is_dir():
        raise UserError(f"no log '{place}': give lm-eval's output folder, or a log of inspect")
    found = sorted(place.rglob("results_*.json"))
    if len(found) > 1:
        raise UserError(f"'{place}' holds {len(found)} results of lm-eval: give one, such as {found[-1]}")
    logs = sorted([*place.glob("*.eval"), *place.glob("*.json")])
    if not found and not logs:
        raise UserError(f"'{place}' holds neither results_….json of lm-eval nor a log of inspect")
    return (found[0], []) if found else (None, logs)
