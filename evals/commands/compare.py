"""Is B better than A? Row by row and task by task, on the docs that both runs answered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import ALPHA, MARGIN, Asked, argument, option, place, tolerance
from evals.core.errors import EXIT_OK, UserError


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `compare` was asked for; `runs`: two or more."""

    runs: tuple[str, ...] = argument(
        "A, then B and any others of the same suite, each compared with A: run folders, models' folders (their "
        "latest run) or blessed baselines",
        "RUN",
        nargs="+",
    )
    show_flips: int = option("show up to N docs a task whose score changed, worse and better ones", "N", 0)
    format: str = option("default: md", default="md", choices=("md", "json"))
    output: Path | None = option("write there instead of printing", "FILE", check=place)
    margin: float | None = option(**MARGIN)
    alpha: float | None = option(**ALPHA)

    def resolve(self) -> None:
        """Two runs at least, a number of docs. Raises UserError."""
        if len(self.runs) < 2:
            raise UserError("compare needs two runs or more: A, and what is to be compared with it")
        if self.show_flips < 0:
            raise UserError("--show-flips needs a number of docs, zero or more")


def main(options: Options) -> int:
    """Prints the comparison of the first run with each of the others."""
    options.check()
    from reports.compare import as_json, as_markdown
    from reports.files import print_or_write
    from reports.finding import find_run
    from reports.runs import load_run

    runs = [load_run(find_run(where)) for where in options.runs]
    render = as_json if options.format == "json" else as_markdown
    print_or_write(render(runs, options.show_flips, tolerance(options)), options.output)
    return EXIT_OK
