"""What a gate allows: a TOML file, or the table [tool.smol-evals.gate] of pyproject.toml.

Every key, its default and what it does stand in policy.example.toml beside this file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from evals.core.card import Card, all_cards
from evals.core.errors import UserError, first_of, nearest
from evals.core.metric import Metric
from reports.margins import POINTS, Tolerance
from reports.significance import MEAN

CHECKED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
Rate = Annotated[float, Field(gt=0, lt=0.5)]
Loss = Annotated[float, Field(ge=0)]
T = TypeVar("T")


@dataclass(frozen=True, config=CHECKED)
class Rule:
    """What one row may lose: the smallest of `margin` (points of percent, other units alike), `max_drop` (in the row's
    unit) and `max_relative_drop` (percent of the baseline's value). Without the first two, the usual margin counts.

    `tier`: None is critical where the row can show a drop of what it may lose, else supporting. `evidence`: what the
    verdict rests on: accuracy (the row's own value), the gold answers' log-probabilities, or both; a row without these
    has its own value alone.
    """

    tier: Literal["critical", "supporting", "advisory"] | None = None
    margin: Loss | None = None
    max_drop: Loss | None = None
    max_relative_drop: Annotated[float, Field(ge=0, lt=100)] = 25.0
    min_n: Annotated[int, Field(ge=1)] = 100
    evidence: Literal["accuracy", "logprob", "both"] = "both"

    def allowed(self, metric: Metric, baseline: float) -> float:
        """By how much a row may be worse than this baseline value, in its unit: never by all of it."""
        limits = [self.max_relative_drop / 100 * abs(baseline)]
        if self.max_drop is not None:
            limits.append(self.max_drop)
        if self.margin is not None or self.max_drop is None:
            points = POINTS if self.margin is None else self.margin
            limits.append(Tolerance(points, relative=None).margin(metric, baseline))
        return min(limits)


@dataclass(frozen=True, config=CHECKED)
class Policy:
    """A rule for every row: `defaults`, or the row's own in `rows`. `source` says where it stands.

    `alpha`: the whole gate's error rate of a false REGRESSION; `beta`: of missing a drop of the size that it states.
    """

    defaults: Rule = Rule()
    rows: Mapping[str, Rule] = field(default_factory=dict)
    source: str = "built-in defaults"
    alpha: Rate = 0.05
    beta: Rate = 0.2

    def rule(self, label: str) -> Rule:
        """The rule of a row."""
        return self.rows.get(label, self.defaults)


GATE_KEYS = ("alpha", "beta")
RULE_KEYS = tuple(one.name for one in fields(Rule))


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
    own = _toml(project).get("tool", {}).get("smol-evals") if project.is_file() else None
    if isinstance(own, dict) and "gate" in own:
        return parse(own["gate"], f"{project}, [tool.smol-evals.gate]", more, changed)
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
    labels = [row.label for card in [*all_cards(), *more] for row in card.rows]
    table, where = _table(table, ("defaults", "rows"), source), f"{source}: defaults"
    defaults = _table(table.get("defaults", {}), (*GATE_KEYS, *RULE_KEYS), where) | dict(changed or {})
    rows = _table(table.get("rows", {}), (*dict.fromkeys(labels), MEAN), f"{source}: rows")
    rates = {key: defaults.pop(key) for key in GATE_KEYS if key in defaults}
    usual = _checked(Rule, defaults, where)
    rules = {}
    for label, entry in rows.items():
        place = f"{source}: {label}"
        rules[label] = _checked(Rule, asdict(usual) | _table(entry, RULE_KEYS, place), place)
    return _checked(Policy, {"defaults": usual, "rows": rules, "source": source, **rates}, where)


def _table(entry: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise UserError(f"{where} must be a table")
    for key in entry:
        if key not in keys:
            raise UserError(f"{where}: unknown '{key}': {nearest(key, keys)}")
    return dict(entry)


def _checked(kind: type[T], entries: Mapping[str, Any], where: str) -> T:
    try:
        return kind(**entries)
    except ValidationError as error:
        raise UserError(f"{where}: {first_of(error)}") from error
