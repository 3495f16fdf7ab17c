"""The published numbers, written here once more from the card, and the card itself where at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.core.errors import UserError
from reports import published

BASE = """
HellaSwag      | **54.5** | 51.2     | 51.8
ARC (Average)  | **53.0** | 45.4     | 50.1
PIQA           | **71.7** | 69.9     | 71.6
MMLU (cloze)   | **35.8** | 33.7     | 34.4
CommonsenseQA  | **38.0** | 31.6     | 35.3
TriviaQA       | **16.9** | 4.3      | 9.1
Winogrande     | 52.5     | **54.1** | 52.8
OpenBookQA     | **37.4** | **37.4** | 37.2
GSM8K (5-shot) | 3.2      | **33.4** | 1.6
"""
INSTRUCT = """
IFEval (Average prompt/inst) | **41.0** | 31.6     | 19.8
MT-Bench                     | 3.66     | **4.16** | 3.37
HellaSwag                    | **52.1** | 48.0     | 47.9
ARC (Average)                | **43.7** | 37.3     | 38.8
PIQA                         | **70.8** | 67.2     | 69.4
MMLU (cloze)                 | **32.8** | 31.7     | 30.6
BBH (3-shot)                 | 27.3     | **30.7** | 24.4
GSM8K (5-shot)               | 7.43     | **26.8** | 1.36
"""
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
HEADERS = {
    "base": ["Metrics", "SmolLM2-360M", "Qwen2.5-0.5B", "SmolLM-360M"],
    "instruct": ["Metric", "SmolLM2-360M-Instruct", "Qwen2.5-0.5B-Instruct", "SmolLM-360M-Instruct"],
}


def cells(table: str) -> list[list[str]]:
    """The cells of a markdown table's lines, without the line below the header."""
    lines = [line for line in table.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return [row for row in rows if not set(row[0]) <= {":", "-"}]


EXPECTED = {
    "base": [HEADERS["base"], *cells(BASE)],
    "instruct": [HEADERS["instruct"], *cells(INSTRUCT)],
}


def card_cells(table: published.PublishedTable) -> list[list[str]]:
    rows = [[table.header, *table.card]]
    for row in table.rows:
        printed = {model: row.cells[model] for model in table.card}
        top = published.best(printed)
        rows.append([row.label, *(f"**{text}**" if m in top else text for m, text in printed.items())])
    return rows


@pytest.mark.parametrize("suite", ["base", "instruct"])
def test_the_data_holds_the_card_cell_for_cell(suite):
    assert card_cells(published.load(suite)) == EXPECTED[suite]


@pytest.mark.parametrize("suite", ["base", "instruct"])
def test_the_small_models_columns(suite):
    table = published.load(suite)
    for model, values in SMALL[suite].items():
        assert [row.value(model) for row in table.rows] == values
        assert table.sources[model].startswith("https://huggingface.co/")


def test_decimals_are_those_printed():
    row = published.load("instruct").row("GSM8K (5-shot)")
    assert [row.decimals(m) for m in published.load("instruct").card] == [2, 1, 2]
    assert row.value("nobody") is None


def test_units_and_docs():
    table = published.load("instruct")
    assert {row.label: row.unit for row in table.rows if row.unit != "percent"} == {"MT-Bench": "score"}
    assert sum(row.docs for row in published.load("base").rows) == 51721


def test_unknown_suite():
    with pytest.raises(UserError, match="known are base, instruct"):
        published.load("chat")


@pytest.mark.data
@pytest.mark.parametrize("suite, heading", [("base", "## Base"), ("instruct", "## Instruction")])
def test_the_card_itself_says_the_same(data_dir: Path, suite: str, heading: str):
    card = data_dir.parent / "model_card.md"
    if not card.is_file():
        pytest.skip("no model_card.md beside the data folder")
    section = card.read_text(encoding="utf-8").split(heading, 1)[1].split("\n## ", 1)[0]
    assert cells(section) == EXPECTED[suite]
