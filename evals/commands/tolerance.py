"""The options that say which differences count, for every command that tells."""

from __future__ import annotations

import argparse

from reports.margins import POINTS, Tolerance


def add_arguments(parser: argparse._ActionsContainer) -> None:
    """`--margin` and `--alpha`."""
    parser.add_argument(
        "--margin",
        type=float,
        metavar="POINTS",
        help="a difference within it counts as none: points of percent, and alike for rows of another unit "
        f"(default: {POINTS:g})",
    )
    parser.add_argument(
        "--alpha",
        type=float,
        metavar="P",
        help="error rate of the tests, after Holm's correction (default: 0.05)",
    )


def tolerance_from(args: argparse.Namespace) -> Tolerance:
    """What the options come to. Raises UserError for a number out of range."""
    given = {"points": args.margin, "alpha": args.alpha}
    return Tolerance(**{name: value for name, value in given.items() if value is not None})
