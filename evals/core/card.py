"""A card as data: which tables it has, which tasks and metric make a row, and what was published.

A newcomer adds a card as one TOML file in evals/cards/ (or anywhere: `--suite PATH`). All that knows a card reads
it from here. Nothing heavy is imported.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from evals.core.errors import UserError, first_of, nearest
from evals.core.metric import Metric, get_metric

FOLDER = Path(__file__).resolve().parent.parent / "cards"
PRINTED = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def _known_metric(name: str) -> str:
    try:
        return get_metric(name).name
    except UserError as error:
        raise ValueError(str(error)) from error


MetricName = Annotated[str, AfterValidator(_known_metric)]
TaskName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,100}$")]


class _Data(BaseModel):
    """Frozen, and no key is dropped in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SecondFigure(_Data):
    """Another metric of the same docs, shown as a note of the row."""

    metric: MetricName
    words: str


class Row(_Data):
    """One row of a card's table: the plain mean of a metric over tasks, and the numbers that were printed for it."""

    label: str = Field(min_length=1, max_length=80)
    tasks: tuple[TaskName, ...] = Field(min_length=1)
    metric: MetricName
    second: SecondFigure | None = None
    docs: int = Field(gt=0)
    """How many docs a printed number was measured on."""
    published: Mapping[str, Annotated[str, Field(pattern=PRINTED.pattern)]] = {}
    """{model: the number as printed: its decimals are data}."""

    @property
    def of(self) -> Metric:
        """The row's metric."""
        return get_metric(self.metric)

    def value(self, model: str) -> float | None:
        """The model's printed number in the row's unit, or None."""
        text = self.published.get(model)
        return None if text is None else float(text)

    def digits(self, model: str | None) -> int:
        """Decimals for the model's value: those of its own printed number, else the metric's."""
        text = self.published.get(model) if model is not None else None
        return self.of.digits if text is None else decimals(text)


class Published(_Data):
    """Where a model's published column stands."""

    source: str
    note: str | None = None


class Card(_Data):
    """One table of a card: how its models are asked, its rows, and the published columns."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")
    title: str
    board: str = ""
    """How leaderboards call its models ("Base models"); the title unless told."""
    header: str
    """The heading of the table's first column."""
    prompts: Literal["plain", "chat"]
    """"chat": its models answer in their chat template."""
    window: int = Field(default=2048, gt=1)
    """Tokens of prompt and answer together, at most."""
    usual: bool = True
    """Whether `--suite all` and a snapshot of everything include it; by its own name it is always there."""
    compared: tuple[str, ...] = ()
    """The models that the card's table compares, in its order."""
    models: Mapping[str, Published] = {}
    """Every model with a published column."""
    rows: tuple[Row, ...] = Field(min_length=1)
    variants: Mapping[str, Mapping[TaskName, Annotated[int, Field(gt=0)]]] = {}
    """{name: {task: new tokens}}: other budgets that a published number may have been measured with."""

    @model_validator(mode="after")
    def _fits_together(self) -> Card:
        labels = [row.label for row in self.rows]
        if len(set(labels)) < len(labels):
            raise ValueError("two rows of one label")
        for model in [*self.compared, *(model for row in self.rows for model in row.published)]:
            if model not in self.models:
                raise ValueError(f"the model '{model}' has numbers but no entry in [models]")
        for task in (task for changed in self.variants.values() for task in changed):
            if task not in self.tasks:
                raise ValueError(f"a variant names the task '{task}', which no row has")
        return self

    @property
    def chat(self) -> bool:
        """Whether its models answer in their chat template."""
        return self.prompts == "chat"

    @property
    def heading(self) -> str:
        """Its heading on a leaderboard."""
        return self.board or self.title

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its task names, in row order, each once."""
        return tuple(dict.fromkeys(task for row in self.rows for task in row.tasks))

    def row(self, label: str) -> Row | None:
        """The row of that label, or None."""
        return next((row for row in self.rows if row.label == label), None)

    def select(self, wanted: Sequence[str] | None) -> tuple[Row, ...]:
        """The rows cut down to the wanted tasks or rows, in the card's order; all without a wish.

        A name is a task ("arc_easy"), a row's label ("ARC (Average)"), or the label's first words ("arc", "bbh").
        """
        if not wanted:
            return self.rows
        chosen = {task for name in wanted for task in self.find(name)}
        kept = [(row, tuple(task for task in row.tasks if task in chosen)) for row in self.rows]
        return tuple(row.model_copy(update={"tasks": tasks}) for row, tasks in kept if tasks)

    def find(self, name: str) -> tuple[str, ...]:
        """The tasks that a name means; none where it means nothing here."""
        if name in self.tasks:
            return (name,)
        slug = _slug(name)
        for row in self.rows:
            if slug and slug in (_slug(row.label), _slug(row.label.split("(")[0])):
                return row.tasks
        return ()

    def budgets(self, variants: Sequence[str]) -> dict[str, int]:
        """New-token budgets that the named variants change here: {task: tokens}."""
        return {task: n for name in variants for task, n in self.variants.get(name, {}).items()}


def decimals(text: str) -> int:
    """Digits after the point of a printed number: "7.43" has 2, "54" none."""
    return len(text.partition(".")[2])


def best(cells: Mapping[str, str], higher_is_better: bool = True) -> set[str]:
    """The columns whose printed number is the row's best (ties: all of them)."""
    values = {column: Decimal(text) for column, text in cells.items()}
    top = (max if higher_is_better else min)(values.values(), default=None)
    return {column for column, value in values.items() if value == top}


@functools.cache
def card_names() -> tuple[str, ...]:
    """Names of the cards that come with the project, in the order in which they are shown."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def all_cards() -> list[Card]:
    """The cards that come with the project."""
    return [load_card(name) for name in card_names()]


def load_card(name: str) -> Card:
    """The card of that name, or of that TOML file. Raises UserError, one line that names what is wrong."""
    if name in card_names():
        return _shipped(name)
    path = Path(name).expanduser()
    if path.suffix != ".toml":
        raise UserError(f"no card '{name[:80]}': {nearest(name, card_names())} (or give a card's .toml file)")
    return _read(path)


@functools.cache
def _shipped(name: str) -> Card:
    return _read(FOLDER / f"{name}.toml")


def _read(path: Path) -> Card:
    try:
        card = Card.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise UserError(f"the card '{path}': {first_of(error)}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"the card '{path}' cannot be read: {error}") from error
    if card.name in card_names() and path.resolve().parent != FOLDER:
        raise UserError(
            f"the card '{path}' is named '{card.name}' like one that ships: give it a name of its own"
        )
    return card


def check_names(cards: Sequence[Card], wanted: Sequence[str] | None, variants: Sequence[str] = ()) -> None:
    """Refuses a task, row or variant that none of the cards has. Raises UserError."""
    for name in wanted or ():
        if not any(card.find(name) for card in cards):
            elsewhere = [card.name for card in all_cards() if card.find(name)]
            if elsewhere:
                raise UserError(
                    f"the suite '{cards[0].name}' has no task '{name}': it belongs to --suite {elsewhere[0]}"
                )
            known = [item for card in cards for row in card.rows for item in (*row.tasks, row.label)]
            raise UserError(f"unknown task '{name}' in --tasks: {nearest(name, list(dict.fromkeys(known)))}")
    for name in variants:
        known = [one for card in [*cards, *all_cards()] for one in card.variants]
        if name not in known:
            raise UserError(f"unknown variant '{name}' in --variant: {nearest(name, known)}")


def find_tasks(cards: Sequence[Card], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The tasks that names mean in any of the cards: the task of that name, else each card's row.

    Without names: all of the usual cards.
    """
    if not wanted:
        return tuple(dict.fromkeys(task for card in cards if card.usual for task in card.tasks))
    every = {task for card in cards for task in card.tasks}
    found: list[str] = []
    for name in wanted:
        found += [name] if name in every else [task for card in cards for task in card.find(name)]
    return tuple(dict.fromkeys(found))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", text.lower())
