"""What a gate allows: a TOML file, or the table [tool.smol-evals.gate] of pyproject.toml.

Every key, its default and what it does stand in policy.example.toml beside this file.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evals.core.card import Card, all_cards
from evals.core.errors import UserError
from evals.core.metric import Metric
from reports.margins import POINTS, Tolerance
from reports.significance import MEAN

TIERS = ("critical", "supporting", "advisory")
EVIDENCE = ("accuracy", "logprob", "both")
GATE_KEYS = ("alpha", "beta")
RULE_KEYS = ("tier", "evidence", "margin", "max_drop", "max_relative_drop", "min_n")
WORDS = {"tier": TIERS, "evidence": EVIDENCE}


@dataclass(frozen=True)
class Rule:
    """What one row may lose: the smallest of `margin` (points of percent, other units alike), `max_drop` (in the row's
    unit) and `max_relative_drop` (percent of the baseline's value). Without the first two, the usual margin counts.

    `tier`: None is critical where the row can show a drop of what it may lose, else supporting. `evidence`: what the
    verdict rests on: accuracy (the row's own value), the gold answers' log-probabilities, or both; a row without these
    has its own value alone.
    """

    tier: str | None = None
    margin: float | None = None
    max_drop: float | None = None
    max_relative_drop: float = 25.0
    min_n: int = 100
    evidence: str = "both"

    def allowed(self, metric: Metric, baseline: float) -> float:
        """By how much a row may be worse than this baseline value, in its unit: never by all of it."""
        limits = [self.max_relative_drop / 100 * abs(baseline)]
        if self.max_drop is not None:
            limits.append(self.max_drop)
        if self.margin is not None or self.max_drop is None:
            points = POINTS if self.margin is None else self.margin
            limits.append(Tolerance(points, relative=None).margin(metric, baseline))
        return min(limits)


@dataclass(frozen=True)
class Policy:
    """A rule for every row: `defaults`, or the row's own in `rows`. `source` says where it stands.

    `alpha`: the whole gate's error rate of a false REGRESSION; `beta`: of missing a drop of the size that it states.
    """

    defaults: Rule = Rule()
    rows: Mapping[str, Rule] = field(default_factory=dict)
    source: str = "built-in defaults"
    alpha: float = 0.05
    beta: float = 0.2

    def rule(self, label: str) -> Rule:
        """The rule of a row."""
        return self.rows.get(label, self.defaults)


def load_policy(
    path: Path | None,
    project: Path = Path("pyproject.toml"),
    more: Sequence[Card] = (),
    changed: Mapping[str, Any] | None = None,
) -> Policy:
    """The policy in `path`; without one, that of pyproject.toml, or the defaults. Raises UserError, one line.

    It may name the rows of the cards that ship with the project, and of `more` cards. `changed`: what a user wants
    otherwise for all rows that have no rule of their own for it ({"alpha": 0.01}).
    """
    if path is not None:
        return parse(_toml(path), str(path), more, changed)
    if project.is_file():
        tool = _toml(project).get("tool", {})
        table = (
            tool.get("smol-evals", {}).get("gate") if isinstance(tool.get("smol-evals", {}), dict) else None
        )
        if table is not None:
            return parse(table, f"{project}, [tool.smol-evals.gate]", more, changed)
    return parse({}, Policy.source, more, changed)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no policy file '{path}'") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the policy '{path}' is not valid TOML: {error}") from error


def parse(
    table: Any, source: str, more: Sequence[Card] = (), changed: Mapping[str, Any] | None = None
) -> Policy:
    """A policy from its parsed table; every key, type and range is checked."""
    if not isinstance(table, dict):
        raise UserError(f"{source}: the policy must be a table with defaults and rows")
    _only(table, ("defaults", "rows"), source)
    where = f"{source}: defaults"
    defaults = _table(table.get("defaults", {}), (*GATE_KEYS, *RULE_KEYS), where)
    defaults |= changed or {}
    rows = table.get("rows", {})
    if not isinstance(rows, dict):
        raise UserError(f"{source}: rows must be a table of tables")
    known = [row.label for card in [*all_cards(), *more] for row in card.rows]
    _only(rows, [*known, MEAN], f"{source}: rows")
    rates = {key: defaults.pop(key) for key in GATE_KEYS if key in defaults}
    rule = Rule(**defaults)
    own = {label: _table(entry, RULE_KEYS, f"{source}: {label}") for label, entry in rows.items()}
    return Policy(rule, {label: replace(rule, **entry) for label, entry in own.items()}, source, **rates)


def _only(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(dict.fromkeys(known))}"
            raise UserError(f"{where}: unknown '{key}': {hint}")


def _table(entry: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be a table")
    _only(entry, keys, where)
    for key, value in entry.items():
        _check(key, value, where)
    return dict(entry)


def _check(key: str, value: Any, where: str) -> None:
    whole = key == "min_n"
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    wrong = ""
    if key in WORDS:
        wrong = "" if value in WORDS[key] else f"one of {', '.join(WORDS[key])}"
    elif not number or not math.isfinite(value):
        wrong = "a whole number" if whole else "a number"
    elif key in GATE_KEYS:
        wrong = "" if 0 < value < 0.5 else "between 0 and 0.5"
    elif key == "max_relative_drop" and value >= 100:
        wrong = "below 100: no row may lose everything"
    elif value < whole:
        wrong = "1 or more" if whole else "zero or more"
    if wrong:
        raise UserError(f"{where}: {key} must be {wrong}")
