"""The published numbers, written here once more from the card, and the card itself where at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.core.card import Card, best, load_card
from evals.core.errors import UserError
from tests.support.printed import EXPECTED, cells

SMALL = {
    "base": {
        "SmolLM2-135M": [42.1, 43.9, 68.4, 31.5, 33.9, 4.1, 51.3, 34.6, 1.4],
        "SmolLM-135M": [41.2, 42.4, 68.4, 30.2, 32.7, 4.3, 51.3, 34.0, 1.0],
    },
    "instruct": {
        "SmolLM2-135M-Instruct": [29.9, 1.98, 40.9, 37.3, 66.3, 29.3, 28.2, 1.4],
        "SmolLM-135M-Instruct": [17.2, 1.68, 38.9, 33.9, 64.0, 28.3, 25.2, 1.4],
    },
}


def card_cells(table: Card) -> list[list[str]]:
    rows = [[table.header, *table.compared]]
    for row in table.rows:
        printed = {model: row.published[model] for model in table.compared}
        top = best(printed)
        rows.append([row.label, *(f"**{text}**" if m in top else text for m, text in printed.items())])
    return rows


@pytest.mark.parametrize("suite", ["base", "instruct"])
def test_the_data_holds_the_card_cell_for_cell(suite):
    assert card_cells(load_card(suite)) == EXPECTED[suite]


@pytest.mark.parametrize("suite", ["base", "instruct"])
def test_the_small_models_columns(suite):
    table = load_card(suite)
    for model, values in SMALL[suite].items():
        assert [row.value(model) for row in table.rows] == values
        assert table.models[model].source.startswith("https://huggingface.co/")


def test_decimals_are_those_printed():
    row = load_card("instruct").row("GSM8K (5-shot)")
    assert [row.digits(m) for m in load_card("instruct").compared] == [2, 1, 2]
    assert row.value("nobody") is None


def test_units_and_docs():
    table = load_card("instruct")
    assert {row.label: row.of.unit for row in table.rows if row.of.unit != "percent"} == {
        "MT-Bench": "rating"
    }
    assert sum(row.docs for row in load_card("base").rows) == 51721


def test_unknown_suite():
    with pytest.raises(UserError, match="known: base, instruct"):
        load_card("chat")


@pytest.mark.data
@pytest.mark.parametrize("suite, heading", [("base", "## Base"), ("instruct", "## Instruction")])
def test_the_card_itself_says_the_same(data_dir: Path, suite: str, heading: str):
    card = data_dir.parent / "model_card.md"
    if not card.is_file():
        pytest.skip("no model_card.md beside the data folder")
    section = card.read_text(encoding="utf-8").split(heading, 1)[1].split("\n## ", 1)[0]
    assert cells(section) == EXPECTED[suite]
