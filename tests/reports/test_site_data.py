"""What the site is made of: script files, samples in chunks, figures and axes."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path

import pytest

from evals.core.errors import UserError
from reports import leaderboard
from reports.runs import load_run
from reports.site import samples, scripts
from reports.site.figures import Figure, Line, axis, forest
from tests.support.site_runs import EVIL, MadeRun, judge, make_run


def parsed(path: Path) -> tuple[str, object]:
    """Key and value of a script file, which must be a single call of smol.put or smol.pack."""
    match = re.fullmatch(r"smol\.(put|pack)\((.*)\);\n", path.read_text(encoding="ascii"))
    assert match
    key, value = json.loads(f"[{match[2]}]")
    return key, json.loads(zlib.decompress(base64.b64decode(value))) if match[1] == "pack" else value


def test_script_json_cannot_leave_a_script() -> None:
    text = scripts.script_json({"a": EVIL, "b": [float("nan"), float("-inf"), 1.5], "c": "\ud800 é & '"})
    assert text.isascii() and not set("<>&'") & set(text)
    assert json.loads(text) == {"a": EVIL, "b": [None, None, 1.5], "c": "\ud800 é & '"}


def test_slugs_are_safe_and_distinct() -> None:
    for name in ("../../etc/passwd", "a/b", "A B", "", "..", "con", "x" * 300, "名前", EVIL):
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", scripts.slug(name))
    assert len({scripts.slug(name) for name in ("a b", "a-b", "A b", "名", "前")}) == 5


def test_samples_come_back_whole_from_their_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK_DOCS", 7)
    run = load_run(
        make_run(tmp_path / "r", MadeRun("a", rows=("GSM8K (5-shot)",), output="\U0001f600 " + EVIL))
    )
    table = run.table("gsm8k")
    answers = samples.Answers(0, table, table.column("final_answer_match").to_pylist())
    (group,) = samples.group_sets([answers])
    entry = samples.write_set(tmp_path / "data", "gsm8k", group, shots=5)
    assert entry["starts"] == [0, 7, 14, 21, 28, 35] and entry["n"] == 40
    prompts, outputs = [], []
    for number in range(6):
        key, docs = parsed(tmp_path / "data" / entry["name"] / f"docs-{number}.js")
        assert key == f"{entry['name']}/docs-{number}"
        before = b""
        for shared, rest in zip(docs["shared"], docs["rest"], strict=True):  # UTF-16 units, as in the browser
            before = before[: 2 * shared] + rest.encode("utf-16-le")
            prompts.append(before.decode("utf-16-le"))
        outputs += dict(parsed(tmp_path / "data" / entry["name"] / f"run-0-{number}.js")[1])["output"]
    assert prompts == table.column("prompt").to_pylist()
    assert outputs == table.column("output").to_pylist()
    scores = parsed(tmp_path / "data" / entry["name"] / "scores-0.js")[1]
    assert [int(digit) for digit in scores] == list(answers.scores)


def test_judgments_stand_beside_their_questions(tmp_path: Path) -> None:
    folder = judge(make_run(tmp_path, MadeRun("a", suite="instruct")), "one", 7.0)
    first, second = samples.judgments(folder, [81, 82])
    assert (
        first == [[1, "one", "single-v1", 7.0, "<b>good</b>"], [2, "one", "single-v1", None, "?"]]
        and second == []
    )
    (folder / samples.JUDGMENTS).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"judgments\.parquet cannot be read"):
        samples.judgments(folder, [81])


def test_front_coding_counts_utf16_units() -> None:
    prompts = ["\U0001f600\U0001f600 one", "\U0001f600\U0001f600 two", "\U0001f600x"]
    chunk = samples._front_coded({"prompt": prompts}, 0, 3)
    assert chunk["shared"] == [0, 5, 2] and chunk["rest"] == [prompts[0], "two", "x"]


def test_a_limited_run_shares_the_docs_of_a_whole_one(tmp_path: Path) -> None:
    made = [
        MadeRun("limited", limit=5),
        MadeRun("whole"),
        MadeRun("other", sizes={"piqa": 12}, variant=("v",)),
    ]
    tables = [load_run(make_run(tmp_path, one)).table("piqa") for one in made]
    answers = [samples.Answers(k, table, [1] * len(table)) for k, table in enumerate(tables)]
    groups = samples.group_sets(answers)
    assert [[member.run for member in group] for group in groups] == [[1, 0], [2]]


def test_scores_that_are_not_right_or_wrong_stay_numbers() -> None:
    assert samples._packed([1, 0, 1]) == "101"
    assert samples._packed([7.5, None, 1]) == [7.5, None, 1]


def test_an_uneven_interval_shows_its_ends() -> None:
    assert Figure(43.0, 41.3, 44.7, 3243).spread_text == "±1.7"
    assert Figure(1.4, 0.9, 2.2, 1319).spread_text == "0.9–2.2"
    assert leaderboard._value(Figure(1.4, 0.9, 2.2, 1319)) == "1.4 (0.9–2.2)"
    assert Figure(5.0, None, None, 1).spread_text == "±?"
    assert Figure(5.0, 4.9, 5.1, 9, decimals=2).spread_text == "±0.10"


def test_axes_hold_their_values_with_round_ticks() -> None:
    for values in ([38.8, 61.0], [0.0, 0.0], [99.2, 100.0], [3.41, 3.52], [1.0]):
        scale = axis(values)
        assert scale.low <= min(values) and scale.high >= max(values) and 1 <= len(scale.ticks()) <= 9
    assert forest([Line("none", Figure(None))], "", "") is None


def test_question_starts_count_utf16_units() -> None:
    prompts = ["The following are questions about \U0001f600.\nQuestion: Why?\nAnswer:"]
    (begin,) = samples._front_coded({"prompt": prompts}, 0, 1)["begin"]
    assert prompts[0].encode("utf-16-le")[2 * begin :].decode("utf-16-le").startswith("Why?")


def test_long_values_are_packed(tmp_path: Path) -> None:
    text = "The quick brown fox. " * 500 + EVIL
    scripts.write_script(tmp_path, "long", {"text": text})
    assert parsed(tmp_path / "long.js") == ("long", {"text": text})
    assert (tmp_path / "long.js").stat().st_size < len(text) / 20
    assert not set("<>&'") & set((tmp_path / "long.js").read_text())
