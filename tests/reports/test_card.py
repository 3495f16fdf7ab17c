"""The report: published tables alone equal the card; measured columns never claim more than they can."""

from __future__ import annotations

import csv
import html.parser
import io
import json

import numpy as np
import pytest

from evals.commands import report
from evals.core.card import load_card
from evals.core.errors import UserError
from reports import card
from reports.runs import load_run
from tests.support.made_runs import Made, build, edit
from tests.support.printed import EXPECTED, cells
from tests.support.words import parse

SUITE_TITLES = {"base": "## Base Pre-Trained Model", "instruct": "## Instruction Model"}


def section(text: str, title: str) -> str:
    return text.split(title, 1)[1].split("\n## ", 1)[0]


def run_with(tmp_path, **options):
    return load_run(build(tmp_path / str(len(list(tmp_path.iterdir()))), Made(**options)))


@pytest.mark.parametrize("suite", ["base", "instruct"])
def test_published_tables_alone_equal_the_card_cell_for_cell_bold_for_bold(suite):
    assert cells(section(card.render_tables([]), SUITE_TITLES[suite])) == EXPECTED[suite]


def test_a_measured_column_stands_first_and_takes_part_in_bold(tmp_path):
    scores = {"hellaswag": [1] * 30 + [0] * 10, "trivia_qa": [0] * 40}
    run = run_with(tmp_path, scores=scores, labels=("HellaSwag", "TriviaQA"))
    table = cells(section(card.render_tables([run]), "## Base Pre-Trained Model"))
    assert table[0] == ["Metrics", "tiny (measured)", "SmolLM2-360M", "Qwen2.5-0.5B", "SmolLM-360M"]
    # Wilson 95 % of 30/40 is 0.598 to 0.858
    assert table[1] == ["HellaSwag", "**75.0 ± 13.0**", "54.5", "51.2", "51.8"]
    assert table[2][1] == "–"
    assert table[6] == ["TriviaQA", "0.0 ± 4.4", "**16.9**", "4.3", "9.1"]


def test_ties_at_the_printed_precision_are_all_bold(tmp_path):
    run = run_with(tmp_path, labels=("OpenBookQA",), scores={"openbook_qa": [1] * 187 + [0] * 313})
    row = cells(section(card.render_tables([run]), "## Base Pre-Trained Model"))[8]
    assert row[1:] == [f"**37.4 ± {4.2}**", "**37.4**", "**37.4**", "37.2"]


def own(**model):
    return {"card_column": "SmolLM2-135M", **model}


def drawn(share: float, n: int, seed: int = 3) -> list[int]:
    right = np.zeros(n, dtype=int)
    right[: round(share * n)] = 1
    return np.random.default_rng(seed).permutation(right).tolist()


VERDICTS = [
    # HellaSwag's card says 42.1 for this model, on 10042 docs
    (drawn(0.423, 10042), "42.3", "+0.2", "reproduced (within ±2)"),
    (drawn(0.30, 10042), "30.0", "−12.1", "differs"),
    (drawn(0.43, 100), "43.0", "+0.9", "cannot tell at n = 100 (about "),
]


@pytest.mark.parametrize("scores, value, difference, verdict", VERDICTS)
def test_verdicts(tmp_path, scores, value, difference, verdict):
    run = run_with(tmp_path, labels=("HellaSwag",), scores={"hellaswag": scores}, model=own())
    text = card.render_tables([run])
    row = cells(section(text, "## tiny (measured): row by row"))[1]
    assert row[:3] == ["HellaSwag", str(len(scores)), value]
    assert row[4:6] == ["42.1", difference]
    assert row[6].startswith(verdict)
    header = cells(section(text, "## Base Pre-Trained Model"))[0]
    assert header == [
        "Metrics",
        "tiny (measured)",
        "SmolLM2-135M",
        "SmolLM2-360M",
        "Qwen2.5-0.5B",
        "SmolLM-360M",
    ]


def test_margin_and_alpha_decide_and_stand_in_a_footnote(tmp_path, capsys):
    run = run_with(tmp_path, labels=("HellaSwag",), scores={"hellaswag": drawn(0.435, 10042)}, model=own())
    found = {}
    for words in ((), ("--margin", "0.8"), ("--alpha", "0.000001")):
        assert report.main(arguments(str(run.folder), *words)) == 0
        text = capsys.readouterr().out
        found[words[:1]] = cells(section(text, "## tiny (measured): row by row"))[1][6], text
    assert found[()][0] == "reproduced (within ±2)"
    assert "within ±2 points" in found[()][1] and "alpha 0.05," in found[()][1]
    assert found["--margin",][0] == "differs" and "within ±0.8 points" in found["--margin",][1]
    assert found["--alpha",][0] == "differs" and "alpha 1e-06," in found["--alpha",][1]
    for words in (("--margin", "-1"), ("--alpha", "1")):
        with pytest.raises(UserError, match=f"{words[0]} .*must"):
            report.main(arguments(*words))


@pytest.mark.parametrize("code", ["quantized", "subset", "variant"])
def test_other_measurements_than_the_cards_get_no_verdict(tmp_path, code):
    run = run_with(tmp_path, labels=("HellaSwag",), model=own(), notes=[(code, "why it is so")])
    text = card.render_tables([run])
    row = cells(section(text, "## tiny (measured): row by row"))[1]
    assert row[6] == f"not comparable ({code})"
    assert "why it is so" in section(text, "## Base")


def test_smoke_is_never_beside_published_numbers(tmp_path):
    smoke = run_with(
        tmp_path, model=own(), data={"source": "smoke"}, notes=[("smoke", "built-in smoke items")], size=8
    )
    real = run_with(tmp_path, model=own(), name="real")
    for fmt in card.RENDERERS:
        text = card.render_tables([smoke], fmt=fmt)
        for published in ("54.5", "42.1", "SmolLM2-360M"):
            assert published not in text
    both = card.render_tables([smoke, real])
    table = cells(section(both, "## Base Pre-Trained Model (smoke items, not the benchmarks)"))
    assert table[0] == ["Metrics", "tiny (measured) [1]"]
    assert "**" not in "".join(row[1] for row in table)
    assert card.render_tables([smoke], columns=["tiny", "SmolLM2-135M"]).count("42.1") == 0


def test_missing_and_unjudged_rows_say_why(tmp_path):
    run = run_with(
        tmp_path, suite="instruct", labels=("MT-Bench", "PIQA", "GSM8K (5-shot)"), missing=("PIQA",)
    )
    text = card.render_tables([run])
    rows = {row[0]: row[1] for row in cells(section(text, "## Instruction Model"))}
    assert rows["MT-Bench"] == "not judged [1]"
    assert rows["PIQA"] == "missing [2]"
    assert rows["HellaSwag"] == "–"
    assert "[1] answers generated, not judged" in text
    assert "[2] no data" in text
    details = {row[0]: row[1:] for row in cells(section(text, "## tiny (measured): row by row"))}
    assert details["PIQA"][1:] == ["–", "–"]


def test_notes_of_every_row_stand_at_the_columns_head(tmp_path):
    run = run_with(tmp_path, notes=[("quantized", "Q4_1 weights")], model={"quantization": "Q4_1"})
    table = cells(section(card.render_tables([run]), "## Base"))
    assert table[0][1] == "tiny Q4_1 (measured) [1]"
    assert "[" not in table[1][1]


def test_two_runs_of_one_model_are_told_apart(tmp_path):
    runs = [run_with(tmp_path, model={"dtype": kind}) for kind in ("float32", "bfloat16")]
    header = cells(section(card.render_tables(runs), "## Base"))[0]
    assert header[1:3] == ["tiny float32 (measured)", "tiny bfloat16 (measured)"]


def test_columns_choose_and_order(tmp_path):
    run = run_with(tmp_path, name="SmolLM2-135M", model=own())
    names = ["Qwen2.5-0.5B", "SmolLM2-135M", "SmolLM2-135M:published"]
    header = cells(section(card.render_tables([run], names), "## Base"))[0]
    assert header[1:] == ["Qwen2.5-0.5B", "SmolLM2-135M (measured)", "SmolLM2-135M"]
    with pytest.raises(UserError, match="no column 'nobody'"):
        card.render_tables([run], ["nobody"])
    alone = cells(section(card.render_tables([run], ["SmolLM2-135M:measured"]), "## Base"))
    assert [row[0] for row in alone[1:]] == [
        "HellaSwag",
        "ARC (Average)",
        "PIQA",
        "TriviaQA",
        "Mean of 4 rows",
    ]
    assert "**" not in str(alone)


def test_every_row_of_both_suites_can_be_shown(tmp_path):
    runs = [
        run_with(tmp_path, suite=suite, labels=[row.label for row in load_card(suite).rows], size=12)
        for suite in ("instruct", "base")
    ]
    text = card.render_tables(runs)
    assert text.index("## Base") < text.index("## Instruction")
    for suite in EXPECTED:
        rows = cells(section(text, SUITE_TITLES[suite]))
        *labels, mean = [row[0] for row in rows]
        assert labels == [row[0] for row in EXPECTED[suite]]
        assert mean == f"Mean of {len(labels) - (1 if suite == 'base' else 2)} rows"  # no unjudged MT-Bench


HOSTILE = "<script>alert(1)</script>|*x* [y](z) \n=cmd & {\\bad} $x_1% `c`"


def test_hostile_names_stay_text(tmp_path):
    run = run_with(tmp_path)
    edit(run.folder, lambda record: record["model"].update(name=HOSTILE))
    run = load_run(run.folder)
    markdown = card.render_tables([run])
    assert "<script" not in markdown
    assert "](z)" not in markdown.replace("\\](z)", "")
    width = {row.replace("\\|", "").count("|") for row in markdown.splitlines() if row.startswith("|")}
    assert width == {6, 5}
    page = card.render_tables([run], fmt="html")
    assert "<script" not in page
    seen: set[str] = set()
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, attrs: (seen.add(tag), seen.update(str(a) for a in attrs))
    parser.feed(page)
    assert seen == {"table", "caption", "thead", "tbody", "tr", "th", "td", "strong", "ul", "li"}
    latex = card.render_tables([run], fmt="latex")
    assert r"\{\textbackslash{}bad\} \$x\_1\%" in latex
    lines = list(csv.DictReader(io.StringIO(card.render_tables([run], fmt="csv"))))
    assert lines[0]["column"].startswith("<script>")


def test_csv_has_no_formulas(tmp_path):
    run = run_with(tmp_path)
    edit(run.folder, lambda record: record["model"].update(name="=1+1"))
    lines = list(csv.DictReader(io.StringIO(card.render_tables([load_run(run.folder)], fmt="csv"))))
    assert lines[0]["column"] == "'=1+1 (measured)"


def test_json_and_csv_hold_the_same_numbers(tmp_path):
    run = run_with(tmp_path, model=own())
    data = json.loads(card.render_tables([run], fmt="json"))
    lines = list(csv.DictReader(io.StringIO(card.render_tables([run], fmt="csv"))))
    entries = [entry for part in data for entry in part["cells"]]
    assert len(lines) == len(entries)
    for line, entry in zip(lines, entries, strict=True):
        assert line["row"] == entry["row"]
        assert (float(line["value"]) if line["value"] else None) == entry["value"]
    measured = next(entry for entry in entries if entry["kind"] == "measured")
    assert measured["value"] == run.row("HellaSwag").value
    assert measured["low"] < measured["value"] < measured["high"]


def arguments(*words: str) -> report.Options:
    return parse(report.Options, words)


def test_the_mean_is_over_the_rows_that_all_columns_have(tmp_path):
    """By hand: plain mean of the values, errors as independent; the published columns over the same rows."""
    scores = {"piqa": [1] * 60 + [0] * 40, "hellaswag": [1] * 30 + [0] * 70, "trivia_qa": [0, 1] * 50}
    run = run_with(tmp_path, scores=scores, labels=("HellaSwag", "PIQA", "TriviaQA"))
    text = card.render_tables([run], ["tiny", "SmolLM2-360M"])
    mean = cells(section(text, "## Base Pre-Trained Model"))[-1]
    half = 1.96 * np.sqrt(60 * 40 + 30 * 70 + 50 * 50) / np.sqrt(99) / 3
    published = np.mean(
        [
            float(row["SmolLM2-360M"])
            for row in (
                r.published for r in load_card("base").rows if r.label in ("HellaSwag", "PIQA", "TriviaQA")
            )
        ]
    )
    assert mean == ["Mean of 3 rows", f"46.7 ± {half:.1f}", f"{published:.1f}"]
    assert "without ARC (Average), MMLU (cloze)" in text
    assert cells(section(text, "row by row"))[-1][:3] == ["Mean of 3 rows", "300", "46.7"]
    (part,) = json.loads(card.render_tables([run], ["tiny", "SmolLM2-360M"], fmt="json"))
    assert [entry["value"] for entry in part["cells"] if entry["row"] == "Mean of 3 rows"] == [
        pytest.approx(140 / 3), pytest.approx(published),
    ]  # fmt: skip


def test_a_row_on_other_docs_is_in_no_mean_beside_published_numbers(tmp_path):
    run = run_with(tmp_path, labels=("HellaSwag", "PIQA", "TriviaQA"))
    edit(run.folder, lambda r: r["rows"][1]["notes"].append({"code": "subset", "text": "half of the rows"}))
    run = load_run(run.folder)
    beside = cells(section(card.render_tables([run]), "## Base Pre-Trained Model"))
    alone = cells(section(card.render_tables([run], ["tiny"]), "## Base Pre-Trained Model"))
    assert (beside[-1][0], alone[-1][0]) == ("Mean of 2 rows", "Mean of 3 rows")
    assert alone[-1][1].endswith("[1]")


@pytest.mark.parametrize("fmt", card.RENDERERS)
def test_every_format_says_what_its_interval_is(tmp_path, fmt):
    run = run_with(tmp_path, labels=("ARC (Average)", "PIQA"), model=own())
    text = card.render_tables([run], fmt=fmt)
    if fmt == "csv":
        lines = {
            line["row"]: line for line in csv.DictReader(io.StringIO(text)) if line["kind"] == "measured"
        }
        assert lines["PIQA"]["interval"] == "95 %, Wilson"
        assert lines["ARC (Average)"]["interval"] == lines["Mean of 2 rows"]["interval"] == "95 %, normal"
    else:
        plain = text.replace("\\", "").replace("$pm$", "±").replace("&#39;", "'")
        assert "half the width of the 95 % interval, not a standard error" in plain
        assert "within ±2 points" in plain
    if fmt in ("md", "html", "latex"):
        assert "two one-sided z tests" in plain and "correlation 0.9 for choices" in plain
        assert "correction over the 2 tested rows" in plain
    if fmt == "latex":
        assert text.startswith(r"% in the preamble: \usepackage{booktabs} and \usepackage{threeparttable}")


def test_a_plain_table_has_its_intervals_row_by_row(tmp_path):
    folder = run_with(tmp_path, labels=("PIQA", "HellaSwag")).folder
    text = card.render_tables([load_run(folder)], plain=True)
    table, rows = text.split("(measured): row by row")
    assert "±" not in table and "stand in the tables row by row" in table
    assert all(" to " in row[3] for row in cells("|" + rows.split("|", 1)[1])[1:])


def test_nothing_is_printed_before_all_options_are_checked(tmp_path, capsys):
    folder = str(run_with(tmp_path).folder)
    for words in (
        ("--plot", str(tmp_path / "x.pdf")),
        ("--plot", str(tmp_path / "no" / "x.svg")),
        ("--model-index", str(tmp_path / "no" / "x.yaml")),
        ("--plain", "--format", "csv"),
        ("--steps", "1,2"),
        ("--curve", "--steps", "1,x"),
        ("--curve", "--format", "json"),
    ):
        with pytest.raises(UserError):
            report.main(arguments(folder, *words))
        assert capsys.readouterr().out == ""


def test_the_command_prints_or_writes(tmp_path, capsys):
    folder = build(tmp_path / "r", Made())
    assert report.main(arguments(str(folder))) == 0
    printed = capsys.readouterr().out
    assert "tiny (measured)" in printed
    target = tmp_path / "out.md"
    assert report.main(arguments(str(folder), "--output", str(target))) == 0
    assert target.read_text() == printed
    with pytest.raises(UserError, match="cannot write"):
        report.main(arguments(str(folder), "--output", str(tmp_path / "no" / "out.md")))


def test_reports_do_not_import_heavy_packages():
    import subprocess
    import sys

    code = (
        "import sys, reports.card, reports.runs, pyarrow.parquet\n"
        "heavy = {'torch', 'lighteval', 'transformers', 'pandas', 'scipy.stats', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
