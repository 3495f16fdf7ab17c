"""Why two cards disagree: what cards print of a model beside what was measured, and how each was asked."""

from __future__ import annotations

import csv
import io
import json

import pytest

from evals.cli import main
from evals.core.card import Card, all_cards
from evals.core.errors import EXIT_USAGE
from tests.support.made_runs import Made, build, edit
from tests.support.printed import EXPECTED, cells

HOUSE = {
    "name": "house", "title": "House <b>card</b>", "header": "Metric", "prompts": "chat", "window": 512,
    "models": {"SmolLM2-360M": {"source": "https://example.org/house", "note": "a *note*"}},
    "rows": [
        {"label": "Hella", "tasks": ["hellaswag"], "metric": "acc", "docs": 1000,
         "published": {"SmolLM2-360M": "48.1"}},
        {"label": "ARC-E", "tasks": ["olmes_arc_easy_mc"], "metric": "acc", "docs": 2376},
    ],
}  # fmt: skip


def house_run(tmp_path, **more):
    likely = {"hellaswag": [1] * 30 + [0] * 10, "olmes_arc_easy_mc": [1, 0] * 20}
    made = Made(card=Card.model_validate(HOUSE), name="SmolLM2-360M", scores=likely, **more)
    return str(build(tmp_path, made))


def printed(capsys, *words) -> str:
    assert main(["report", "--published", *words]) == 0
    return capsys.readouterr().out


def test_a_models_every_published_number_stands_in_it_and_no_other(capsys):
    head, *rows = cells(printed(capsys, "Qwen2.5-0.5B-Instruct"))
    assert head == ["Benchmark", "Card", "Row", "Published", "How it is asked"]
    column = EXPECTED["instruct"][0].index("Qwen2.5-0.5B-Instruct")
    expected = {row[0]: row[column].strip("*") for row in EXPECTED["instruct"][1:]}
    assert {row[2]: row[3].removesuffix(" [1]") for row in rows} == expected
    (gsm8k,) = [row[-1] for row in rows if row[2].startswith("GSM8K")]
    for fact in ("5 shots", "a text of up to 256", "chat template", "final_answer_match", "test split, 1,319 docs",
                 "window of 2,048"):  # fmt: skip
        assert fact in gsm8k


def test_every_card_and_model_is_shown_without_words(capsys):
    entries = json.loads(printed(capsys, "--format", "json"))
    expected = {(card.name, row.label, model, float(text)) for card in all_cards() for row in card.rows
                for model, text in row.published.items()}  # fmt: skip
    assert {(e["suite"], e["row"], e["model"], e["published"]) for e in entries} == expected
    assert len(entries) == len(expected) and not any(entry["value"] for entry in entries)


def test_a_measured_number_comes_first_and_the_others_say_what_differs(tmp_path, capsys):
    folder = house_run(tmp_path, notes=[("limit", "first 40 docs of a task")], limit=40)
    text = printed(capsys, folder)
    rows = cells(text)
    assert rows[0] == ["Benchmark", "Card", "Row", "Published", "Measured", "n", "How it is asked"]
    hella = [row for row in rows if row[2] in ("Hella", "HellaSwag")]
    assert [row[3].split()[0] for row in hella] == ["48.1", "54.5"]
    assert hella[0][4].startswith("75.0 ± 13.0 [") and hella[0][5] == "40"
    assert "20260304T050607Z-house: SmolLM2-360M, float32" in text
    assert "first 40 docs of a task" in text and r"a \*note\*" in text
    differences = hella[1][-1].split("; ")
    assert differences[:1] == ["plain prompts, not in the chat template"]
    assert any(one.startswith("acc\\_norm") or one.startswith("acc_norm") for one in differences)
    assert differences[-2:] == ["validation split, 10,042 docs, not validation split, 1,000 docs",
                                "window of 2,048 tokens, not window of 512 tokens"]  # fmt: skip
    (letters,) = [row for row in rows if row[2] == "ARC-E"]
    assert letters[3] == "–" and "5 shots, the same for all; lettered choices" in letters[-1]
    (average,) = [row for row in rows if row[2] == "ARC (Average)"]
    assert "completions (cloze), not lettered choices" in average[-1] and average[0] == letters[0]


def test_csv_and_json_hold_the_same_numbers_with_intervals(tmp_path, capsys):
    folder = house_run(tmp_path)
    entries = json.loads(printed(capsys, folder, "--format", "json"))
    lines = list(csv.DictReader(io.StringIO(printed(capsys, folder, "--format", "csv"))))
    assert [line["published"] for line in lines] == [str(e["published"] or "") for e in entries]
    measured = [entry for entry in entries if entry["run"]]
    assert [one["row"] for one in measured] == ["Hella", "ARC-E"]
    assert all(one["low"] < one["value"] < one["high"] and one["n"] == 40 for one in measured)
    other = next(line for line in lines if line["suite"] == "base" and line["row"] == "HellaSwag")
    assert "plain prompts, not in the chat template" in other["differences"] and other["value"] == ""


@pytest.mark.parametrize("fmt", ["md", "html"])
def test_hostile_titles_stay_text(tmp_path, capsys, fmt):
    assert "<b>" not in printed(capsys, house_run(tmp_path), "--format", fmt)


def test_what_stands_beside_no_published_number_is_refused_in_one_line(tmp_path, capsys):
    smoke = build(tmp_path, Made(name="SmolLM2-360M", data={"source": "smoke"}))
    unknown = edit(build(tmp_path, Made()), lambda record: record["model"].update(name="<nobody>"))
    for words, told in (
        ([str(smoke)], "is of smoke items: no published number stands beside that"),
        ([str(unknown)], "no card here prints a number of '<nobody>'"),
        (["SmolLM2-1.7B"], "no card here prints a number of 'SmolLM2-1.7B'"),
        (["Qwen2.5-0.5B-Instrct"], "did you mean 'Qwen2.5-0.5B-Instruct'"),
        (["SmolLM2-360M", "--format", "eee"], "--format eee"),
        (["SmolLM2-360M", "--columns", "a"], "--columns is about the card's tables"),
        (["SmolLM2-360M", "--plot", "a.svg"], "--plot draws"),
        (["SmolLM2-360M", "--curve"], "--published is about the cards' numbers"),
    ):
        assert main(["report", "--published", *words]) == EXIT_USAGE
        out, error = capsys.readouterr()
        assert out == "" and told in error and error.count("\n") == 1
