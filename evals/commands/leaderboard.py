"""Rank all runs: markdown, CSV and a static site that needs no server.

Runs are ranked only against runs that were measured like them: the same docs and prompts, variant and kind of
weights. Partial measurements stand in tables of their own, labelled.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from evals.commands.options import Asked, Need, argument, option, positive, switch
from evals.core.errors import EXIT_OK, UserError

FORMATS = ("md", "csv", "site")
SPACE = """---
title: Leaderboard of small language models
sdk: static
app_file: index.html
---

Made with smol-evals. Every number stands with its uncertainty, its docs and what it was measured on.
"""
"""What makes a folder a static Space of the hub."""
SITE: Need = (
    lambda o: "site" in (o.format or FORMATS),
    "is about the site, which is not written: add --format site",
)


def _space(flag: str, name: str) -> None:
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name):
        raise UserError(f"{flag} {name}: give ORG/NAME, a Space on the hub")


@dataclass(frozen=True, kw_only=True)
class Options(Asked):
    """What `leaderboard` was asked for."""

    folder: Path = argument("holds runs (default: results)", "DIR", Path("results"), nargs="?")
    all: bool = switch("every run; without it, a model's fullest, then latest, run")
    output: Path | None = option("where to write (default: DIR/leaderboard)", "DIR")
    format: tuple[str, ...] | None = option(
        "what to write, may be repeated (default: all three)", action="append", choices=FORMATS
    )
    no_samples: bool = switch("a site without prompts and answers: small, and free to publish", needs=[SITE])
    samples: int | None = option(
        "a site with the first N samples of each task (default: all): 200 keep a hundred checkpoints small",
        "N", check=positive, needs=[SITE, (lambda o: not o.no_samples, "contradicts --no-samples")],
    )  # fmt: skip
    push: str | None = option(
        "also put the site into this Space of the Hugging Face hub (a new one is private); needs a login",
        "ORG/NAME", check=_space, needs=[SITE],
    )  # fmt: skip


def main(options: Options) -> int:
    """Writes the leaderboard; returns 0. Raises UserError."""
    options.check()
    from evals.core.files import write_atomic
    from reports.boards import build_boards, latest
    from reports.leaderboard import csv_text, load_all, markdown
    from reports.site.build import write_site

    formats, output = options.format or FORMATS, options.output or options.folder / "leaderboard"
    runs, refused = load_all(options.folder)
    boards = build_boards(runs if options.all else latest(runs))
    files = {"leaderboard.md": markdown(boards, refused), "leaderboard.csv": csv_text(boards, options.folder)}
    named = {"md": output / "LEADERBOARD.md", "csv": output / "leaderboard.csv"}
    written = [path for kind, path in named.items() if kind in formats]
    for path in written:
        write_atomic(path, files[path.name.lower()].encode())
    if options.push:
        files["README.md"] = SPACE
    if "site" in formats:
        site = write_site(output / "site", boards, refused, not options.no_samples, options.samples, files)
        written.append(site / "index.html")
    for line in refused:
        print(f"left out: {line}", file=sys.stderr)
    for path in written:
        print(path)
    if options.push:
        from evals.core.hub_client import push_space

        print(push_space(output / "site", options.push))
    return EXIT_OK
