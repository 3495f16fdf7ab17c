"""Rows that others wrote, through files: the right docs, or one line that names the file or the row."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lighteval.tasks.requests import Doc

from evals.cli import main
from evals.core.errors import EXIT_ROWS_MISSING, UserError
from evals.data.sources import Source, build_docs, load
from tasks import get_task
from tasks.common.builders import CardTask
from tests.support.benchmarks import smoke_items
from tests.support.tiny_checkpoint import write_tiny_model

LARGE = "ten megabytes " * (10 * 2**20 // 14)
Row = dict[str, Any]


def shown(value: object) -> str:
    """A short name of a test's input."""
    return value if isinstance(value, str) and value.isalnum() else ascii(value)[:20]


def write(
    folder: Path, task: CardTask, content: dict[str, list[Row]] | bytes | pa.Table, ending: str
) -> None:
    """Every split of a task: `content` by split name or as the evaluated split's file, good rows for the others."""
    for split in task.splits:
        path = folder / (task.stem(split) + ending)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = smoke_items(task, split)
        if isinstance(content, dict):
            rows = content.get(split, rows)
        if not isinstance(content, dict) and split == task.split:
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                pq.write_table(content, path)
        elif ending == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        else:
            pq.write_table(pa.Table.from_pylist(rows), path)


def docs_of(folder: Path, name: str) -> list[Doc]:
    """The docs in row order, or UserError."""
    task = get_task(name)
    docs = build_docs(task, load(task, Source("folder", folder)), None)
    return sorted(docs, key=lambda doc: int(doc.id))


def changed(name: str, column: str, value: object, number: int = 1) -> dict[str, list[Row]]:
    """A task's good rows, with another value in one place ("choices.text": inside a column)."""
    task = get_task(name)
    rows = smoke_items(task, task.split)
    *outer, last = column.split(".")
    holder = rows[number]
    for key in outer:
        holder = holder[key]
    holder[last] = value
    return {task.split: rows}


FLOATS = [math.nan, math.inf, 0.5, 1.0]
REFUSED: list[tuple[str, str, object, str]] = [
    *[("piqa", "goal", value, "row 1: 'goal' is not text") for value in (*FLOATS, None, 3, True, ["x"], {"a": 1})],
    *[("piqa", "goal", value, "row 1: 'goal' is empty") for value in ("", " ", "\n\t")],
    *[("piqa", "goal", value, "row 1: 'goal' is not text") for value in ("\ud800", "a\udc00b", "\udc00\ud800")],
    *[("piqa", "label", value, "row 1: 'label' is not a whole number") for value in (*FLOATS, None, True, "x", "", [])],
    *[("piqa", "label", value, "row 1: 'label' is .*, out of range: 0 to 1") for value in (-1, 2, 2**63, 10**4000)],
    *[("winogrande", "answer", value, "row 1: 'answer' is") for value in (0, 3, "0", "3", "", None, 1.0)],
    *[("hellaswag", "endings", value, "row 1: 'endings'") for value in (None, [], ["one"], ["a", None], ["a", ""])],
    *[("hellaswag", "label", value, "row 1: 'label' is") for value in ("4", "-1", "", None, "1.0", 4)],
    *[("mmlu", "choices", value, "row 1: 'choices'") for value in (None, [], ["a"], ["a", math.nan], ["a", "\ud800"])],
    *[("mmlu", "answer", value, "row 1: 'answer' is") for value in (4, -1, None, "A", 1.5)],
    *[("mmlu", "subject", value, "row 1: 'subject' is") for value in (None, "", 7)],
    *[("arc_easy", "choices.text", value, "row 1: 'text'") for value in (None, [], ["one"], ["a", None, "c", "d"])],
    *[("arc_easy", "choices.label", value, "row 1: ") for value in (None, [], ["A"], ["A", "B", "C"], ["A"] * 4)],
    *[("arc_easy", "choices", value, "row 1: 'choices' is not a pair of") for value in (None, [], "A", [["a", "A"]])],
    *[("arc_easy", "answerKey", value, "row 1: 'answerKey' is") for value in (None, "", "E", "a", 1, "AB")],
    *[("trivia_qa", "answer", value, "row 1: 'answer' has no list") for value in (None, [], "x", 3)],
    *[("trivia_qa", "answer.aliases", value, "row 1: 'aliases'") for value in (None, [], "x", [None], [""])],
    *[("gsm8k", "answer", value, "row 1: 'answer'") for value in (None, "", "no number", "#### x", 4)],
    *[("bbh_snarks", "target", value, "row 1: 'target' is") for value in (None, "", math.nan, True)],
    *[("ifeval", "instruction_id_list", value, "row 1: ") for value in (None, [], ["no:such"], [None], "abc")],
    *[("ifeval", "kwargs", value, "row 1: 'kwargs'") for value in (None, [], [None], {}, [1])],
    *[("mt_bench", "turns", value, "row 1: 'turns'") for value in (None, [], ["one"], ["a", "b", "c"], ["a", None])],
    *[("mt_bench", "category", value, "row 1: 'category' is") for value in (None, "", "poetry", 3)],
    *[("mt_bench", "question_id", value, "row 1: 'question_id' is not a whole") for value in (None, 1.5, "x")],
    *[("mt_bench", "question_id", value, "row 1: 'question_id' is out of range") for value in (-1, 2**31, 10**4000)],
]  # fmt: skip


@pytest.mark.parametrize(("name", "column", "value", "says"), REFUSED, ids=shown)
def test_a_value_that_cannot_be_scored_is_one_line(
    tmp_path: Path, name: str, column: str, value: object, says: str
) -> None:
    write(tmp_path, get_task(name), changed(name, column, value), ".jsonl")
    with pytest.raises(UserError, match=says) as caught:
        docs_of(tmp_path, name)
    line = str(caught.value)
    assert f"'{name}'" in line and "\n" not in line and len(line) < 400


ODD_TEXTS = [
    LARGE, "\x00", "\x1b[31mred\x07", "\u202eabc", "a\u2028b\u2029c", "\ufeffa", "\r\n", "e\u0301", "\U0001f600",
    "{0} %s", "Question: x\nAnswer: y", "<|im_end|>",
]  # fmt: skip


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@pytest.mark.parametrize("value", [text for text in ODD_TEXTS if text.strip()], ids=shown)
def test_odd_texts_arrive_unchanged(tmp_path: Path, value: str, ending: str) -> None:
    write(tmp_path, get_task("piqa"), changed("piqa", "goal", value), ending)
    docs = docs_of(tmp_path, "piqa")
    assert docs[1].query == f"Question: {value}\nAnswer:"
    assert len(docs) == len(smoke_items(get_task("piqa"), "validation"))


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_many_and_equal_choices(tmp_path: Path, ending: str) -> None:
    task = get_task("mmlu")
    content = changed("mmlu", "choices", [f"choice {i % 500}" for i in range(1000)])
    content[task.split][1]["answer"] = 999
    write(tmp_path, task, content, ending)
    doc = docs_of(tmp_path, "mmlu")[1]
    assert len(doc.choices) == 1000 and doc.choices[999] == " choice 499" and doc.gold_index == 999


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_equal_rows_and_equal_ids_stay_apart(tmp_path: Path, ending: str) -> None:
    task = get_task("arc_easy")
    rows = [{**smoke_items(task, task.split)[0], "id": "same"}] * 5
    write(tmp_path, task, {task.split: rows}, ending)
    docs = docs_of(tmp_path, "arc_easy")
    assert [doc.id for doc in docs] == ["0", "1", "2", "3", "4"]
    assert len({doc.query for doc in docs}) == 1


def test_equal_question_numbers_are_refused(tmp_path: Path) -> None:
    """Ratings are told apart by them: two questions would each get the other's too."""
    task = get_task("mt_bench")
    first = smoke_items(task, task.split)[0]["question_id"]
    write(tmp_path, task, changed("mt_bench", "question_id", first), ".jsonl")
    with pytest.raises(UserError, match=f"row 1: 'question_id' {first} is that of row 0 too"):
        docs_of(tmp_path, "mt_bench")


def table(name: str, **columns: pa.Array) -> pa.Table:
    """A task's good rows with other columns."""
    task = get_task(name)
    made = pa.Table.from_pylist(smoke_items(task, task.split))
    for column, values in columns.items():
        made = made.set_column(made.column_names.index(column), column, values)
    return made


def n_rows(name: str) -> int:
    return table(name).num_rows


N = n_rows("piqa")
NO_UTF8 = pa.Array.from_buffers(
    pa.string(),
    N,
    [None, pa.py_buffer(bytes(4 * (N + 1) - 4) + (1).to_bytes(4, "little")), pa.py_buffer(b"\xff")],
)
WRONG_TYPES: list[tuple[str, Callable[[], pa.Array], str]] = [
    ("label", lambda: pa.array([0.0] * N), "row 0: 'label' is not a whole number: 0.0"),
    ("label", lambda: pa.array([True] * N), "row 0: 'label' is not a whole number: True"),
    ("label", lambda: pa.array([b"0"] * N), "row 0: 'label' is not a whole number: b'0'"),
    ("label", lambda: pa.array([None] * N), "row 0: 'label' is not a whole number: None"),
    ("label", lambda: pa.array([[0]] * N), "row 0: 'label' is not a whole number"),
    ("label", lambda: pa.array([0] * N, pa.timestamp("us")), "row 0: 'label' is not a whole number"),
    ("label", lambda: pa.array([0] * N, pa.decimal128(5)), "row 0: 'label' is not a whole number"),
    ("goal", lambda: pa.array([b"bytes"] * N), "row 0: 'goal' is not text: b'bytes'"),
    ("goal", lambda: pa.array([1] * N), "row 0: 'goal' is not text: 1"),
    ("goal", lambda: pa.array([["a"]] * N), "row 0: 'goal' is not text"),
    ("goal", lambda: pa.array([{"a": "b"}] * N), "row 0: 'goal' is not text"),
    ("goal", lambda: pa.nulls(N), "row 0: 'goal' is not text: None"),
    ("goal", lambda: NO_UTF8, "cannot read piqa/validation.parquet: 'utf-8' codec can't decode"),
]
GOOD_TYPES: list[tuple[str, Callable[[], pa.Array]]] = [
    *[("label", lambda kind=kind: pa.array([1] * N, kind)) for kind in (pa.int8(), pa.uint64(), pa.int32())],
    ("label", lambda: pa.array(["1"] * N)),
    ("label", lambda: pa.array([1] * N).dictionary_encode()),
    *[
        ("goal", lambda kind=kind: pa.array(["a"] * N, kind))
        for kind in (pa.large_string(), pa.string_view())
    ],
    ("goal", lambda: pa.array(["a"] * N).dictionary_encode()),
]


@pytest.mark.parametrize(("column", "values", "says"), WRONG_TYPES, ids=shown)
def test_wrong_parquet_types_are_one_line(
    tmp_path: Path, column: str, values: Callable[[], pa.Array], says: str
) -> None:
    write(tmp_path, get_task("piqa"), table("piqa", **{column: values()}), ".parquet")
    with pytest.raises(UserError) as caught:
        docs_of(tmp_path, "piqa")
    assert says in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(("column", "values"), GOOD_TYPES, ids=shown)
def test_other_types_of_the_same_values_are_read(
    tmp_path: Path, column: str, values: Callable[[], pa.Array]
) -> None:
    write(tmp_path, get_task("piqa"), table("piqa", **{column: values()}), ".parquet")
    doc = docs_of(tmp_path, "piqa")[0]
    assert (doc.gold_index == 1) if column == "label" else (doc.query == "Question: a\nAnswer:")


GOOD = json.dumps(smoke_items(get_task("piqa"), "validation")[0])
FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "no rows in piqa/validation.jsonl"),
    ("blank", b"\n \n\r\n", "no rows in piqa/validation.jsonl"),
    ("no-json", GOOD.encode() + b"\n{", "cannot read piqa/validation.jsonl"),
    ("no-utf8", b'{"goal": "\xff"}\n', "cannot read piqa/validation.jsonl"),
    ("list", b"[1, 2]\n", "cannot read piqa/validation.jsonl: line 1 is no object"),
    ("mixed", GOOD.encode() + b'\n["a"]\n', "cannot read piqa/validation.jsonl: line 2 is no object"),
    ("number", GOOD.encode() + b"\n\n7\n", "cannot read piqa/validation.jsonl: line 3 is no object"),
    ("deep", b"[" * 200_000, "cannot read piqa/validation.jsonl"),
    ("digits", b'{"label": ' + b"9" * 9000 + b"}", "cannot read piqa/validation.jsonl"),
    ("no-column", b'{"goal": "a"}\n', "piqa/validation.jsonl has no column sol1, sol2, label"),
    ("column-lost", GOOD.encode() + b'\n{"goal": "a", "sol1": "b", "sol2": "c"}\n', "has no column label"),
]


@pytest.mark.parametrize(("body", "says"), [file[1:] for file in FILES], ids=[file[0] for file in FILES])
def test_files_that_are_no_json_lines(tmp_path: Path, body: bytes, says: str) -> None:
    write(tmp_path, get_task("piqa"), body, ".jsonl")
    with pytest.raises(UserError) as caught:
        docs_of(tmp_path, "piqa")
    assert says in str(caught.value) and len(str(caught.value)) < 400


def twice() -> pa.Table:
    """A column name that stands there twice."""
    good = table("piqa")
    return good.append_column("goal", pa.array(["another"] * N))


PARQUET: list[tuple[str, Callable[[], bytes | pa.Table], str]] = [
    ("empty", lambda: b"", "cannot read piqa/validation.parquet"),
    ("text", lambda: b"no parquet", "cannot read piqa/validation.parquet"),
    ("footer", lambda: b"PAR1" + bytes(99) + b"PAR1", "cannot read piqa/validation.parquet"),
    ("no-rows", lambda: table("piqa").slice(0, 0), "no rows in piqa/validation.parquet"),
    (
        "no-column",
        lambda: table("piqa").drop_columns(["label"]),
        "piqa/validation.parquet has no column label",
    ),
    ("twice", twice, "piqa/validation.parquet has the column goal twice"),
]


@pytest.mark.parametrize(("made", "says"), [file[1:] for file in PARQUET], ids=[file[0] for file in PARQUET])
def test_files_that_are_no_whole_parquet(
    tmp_path: Path, made: Callable[[], bytes | pa.Table], says: str
) -> None:
    write(tmp_path, get_task("piqa"), made(), ".parquet")
    with pytest.raises(UserError) as caught:
        docs_of(tmp_path, "piqa")
    assert says in str(caught.value) and len(str(caught.value)) < 400


def run_tiny(folder: Path, rows: list[Row]) -> tuple[int, Path]:
    """Exit code and output folder of a whole run on PIQA's `rows`, with random weights of the smallest size."""
    write(folder / "data", get_task("piqa"), {"validation": rows}, ".parquet")
    argv = [
        "run", "--model", str(write_tiny_model(folder / "tiny")), "--suite", "base", "--tasks", "piqa", "--data",
        str(folder / "data"), "--output-dir", str(folder / "out"), "--device", "cpu", "--dtype", "float32",
    ]  # fmt: skip
    return main(argv), folder / "out"


def test_odd_rows_through_a_whole_run(tmp_path: Path) -> None:
    good = smoke_items(get_task("piqa"), "validation")[0]
    # of the largest, a tenth: encoding the whole takes gigabytes
    texts = [text[: 1 << 20] for text in ODD_TEXTS if text.strip()]
    rows = [{**good, "goal": text} for text in texts] + [{**good, "sol1": "same", "sol2": "same", "label": 1}]
    code, output = run_tiny(tmp_path, rows)
    assert code == 0
    (path,) = output.rglob("samples/piqa.parquet")
    samples = sorted(pq.read_table(path).to_pylist(), key=lambda line: int(line["doc_id"]))
    assert [line["prompt"] for line in samples[:-1]] == [f"Question: {text}\nAnswer:" for text in texts]
    assert all(math.isfinite(value) for line in samples for value in line["logprobs"])
    first, second = samples[-1]["logprobs"]
    assert first == second and samples[-1]["prediction"] == 0 and samples[-1]["acc_norm_nospace"] == 0


def test_a_choice_beyond_the_window_is_not_scored_by_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Divided by the characters of the whole, the log-probability of its last tokens would win against any other."""
    good = smoke_items(get_task("piqa"), "validation")[0]
    code, output = run_tiny(tmp_path, [good, {**good, "sol1": "word " * 2000}])
    assert code == EXIT_ROWS_MISSING
    (record,) = output.rglob("run.json")
    note = json.loads(record.read_text())["rows"][0]["note"]
    assert "a choice of 10001 tokens is longer than the window of 2048" in note
