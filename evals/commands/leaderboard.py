"""Rank all runs: markdown, CSV and a static site that needs no server.

Runs are ranked only against runs that were measured like them: the same docs and prompts, variant and kind of
weights. Partial measurements stand in tables of their own, labelled.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import Use, refuse_unused, require_positive
from evals.core.errors import EXIT_OK

FORMATS = ("md", "csv", "site")


@dataclass(frozen=True)
class Options:
    """What `leaderboard` was asked for."""

    folder: Path
    all: bool
    output: Path
    formats: tuple[str, ...]
    no_samples: bool
    samples: int | None = None


USES: tuple[Use[Options], ...] = (
    Use("--no-samples", lambda o: "site" in o.formats, "is about the site, which is not written: add --format site"),
    Use("--samples", lambda o: "site" in o.formats, "is about the site, which is not written: add --format site"),
    Use("--samples", lambda o: not o.no_samples, "contradicts --no-samples"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `leaderboard`."""
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="holds runs (default: results)",
    )
    parser.add_argument(
        "--all", action="store_true", help="every run; without it, a model's fullest, then latest, run"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: DIR/leaderboard)"
    )
    parser.add_argument(
        "--format",
        action="append",
        choices=FORMATS,
        help="what to write, may be repeated (default: all three)",
    )
    parser.add_argument(
        "--no-samples",
        action="store_true",
        help="a site without prompts and answers: small, and free to publish",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="a site with the first N samples of each task (default: all): 200 keep a hundred checkpoints small",
    )


def options_from(args: argparse.Namespace) -> Options:
    """The command's options, checked. Raises UserError."""
    options = Options(
        folder=args.folder,
        all=args.all,
        output=args.output or args.folder / "leaderboard",
        formats=tuple(args.format or FORMATS),
        no_samples=args.no_samples,
        samples=args.samples,
    )
    require_positive(args, "--samples")
    refuse_unused(args, options, USES)
    return options


def main(args: argparse.Namespace) -> int:
    """Writes the leaderboard; returns 0. Raises UserError."""
    options = options_from(args)
    from evals.core.files import write_atomic
    from reports.boards import build_boards, latest
    from reports.leaderboard import csv_text, load_all, markdown
    from reports.site.build import write_site

    runs, refused = load_all(options.folder)
    boards = build_boards(runs if options.all else latest(runs))
    written = []
    files = {"leaderboard.md": markdown(boards, refused), "leaderboard.csv": csv_text(boards, options.folder)}
    for kind, name in (("md", "LEADERBOARD.md"), ("csv", "leaderboard.csv")):
        if kind in options.formats:
            written.append(options.output / name)
            write_atomic(written[-1], files[name.lower()].encode())
    if "site" in options.formats:
        site = write_site(
            options.output / "site", boards, refused, not options.no_samples, options.samples, files
        )
        written.append(site / "index.html")
    for line in refused:
        print(f"left out: {line}", file=sys.stderr)
    for path in written:
        print(path)
    return EXIT_OK
