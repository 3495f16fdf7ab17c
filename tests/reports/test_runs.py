"""The loader: good folders load, and every kind of bad one gives one line, never a value."""

from __future__ import annotations

import json
import math
import random
import shutil

import numpy as np
import pytest

from evals.core.card import load_card
from evals.core.errors import UserError
from reports.runs import aligned, find_runs, load_run, shared_columns
from tests.support.made_runs import Made, build, edit, edit_samples


@pytest.fixture
def folder(tmp_path):
    return build(tmp_path / "results", Made())


def test_a_good_run_loads(folder):
    run = load_run(folder)
    assert [row.label for row in run.rows] == ["HellaSwag", "ARC (Average)", "PIQA", "TriviaQA"]
    arc = run.row("ARC (Average)")
    parts = [np.array(columns["acc_norm_nospace"]) for columns in run.samples(arc.tasks)]
    assert arc.value == pytest.approx(50 * sum(part.mean() for part in parts))
    errors = [part.std(ddof=1) / math.sqrt(len(part)) for part in parts]
    assert arc.stderr == pytest.approx(50 * math.hypot(*errors))
    assert arc.n == 300
    low, high = run.row("PIQA").interval
    assert low < run.row("PIQA").value < high
    assert not run.smoke
    assert run.row("nothing") is None


def test_all_rows_of_both_suites_load(tmp_path):
    for suite in ("base", "instruct"):
        made = Made(suite=suite, labels=[row.label for row in load_card(suite).rows], size=20)
        run = load_run(build(tmp_path / suite, made))
        missing = [row.label for row in run.rows if row.value is None]
        assert missing == (["MT-Bench"] if suite == "instruct" else [])


def test_find_runs(tmp_path):
    results = tmp_path / "results"
    first = build(results, Made())
    second = build(results, Made(name="other"))
    build(results / "baselines", Made())
    build(results / ".cache", Made())
    assert find_runs(results) == sorted([first, second])
    assert find_runs(first) == [first]
    with pytest.raises(UserError):
        find_runs(tmp_path / "nowhere")


def one_line(folder) -> str:
    with pytest.raises(UserError) as caught:
        load_run(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


BAD_JSON = {
    "empty": b"",
    "truncated": b'{"schema_version": 1, "model": {',
    "no object": b"[]",
    "not utf-8": b"\xff\xfe{}",
    "not a number": b'{"schema_version": NaN}',
    "too large for a float": b'{"schema_version": 1e400}',
    "deep": b"[" * 100_000,
    "huge integer": b'{"schema_version": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_bad_json(folder, content):
    (folder / "run.json").write_bytes(content)
    assert "run.json" in one_line(folder)


def put(path, value):
    def change(record):
        *keys, last = path
        for key in keys:
            record = record[key]
        if value is KeyError:
            del record[last]
        else:
            record[last] = value

    return change


BAD_RECORDS = {
    "other schema": (["schema_version"], 99, "schema_version"),
    "schema as true": (["schema_version"], True, "schema_version"),
    "no model": (["model"], KeyError, "model"),
    "name of a wrong type": (["model", "name"], 5, "model.name"),
    "limit as true": (["limit"], True, "limit"),
    "unknown suite": (["suite"], "chat", "chat"),
    "unknown source": (["data", "source"], "elsewhere", "data.source"),
    "rows as object": (["rows"], {}, "rows"),
    "row without label": (["rows", 0, "label"], KeyError, "label"),
    "value as text": (["rows", 0, "value"], "54", "value"),
    "value too large for a float": (["rows", 0, "value"], 10**400, "rows.0.value"),
    "value infinite": (["rows", 0, "value"], math.inf, "finite"),
    "task out of the folder": (["tasks", "../../secret"], {"n": 1, "metrics": {}}, "tasks"),
    "n wrong": (["tasks", "piqa", "n"], 119, "119"),
    "n negative": (["tasks", "piqa", "n"], -1, "piqa"),
    "metric edited": (["tasks", "piqa", "metrics", "acc", "value"], 0.99, "acc"),
    "metric unknown": (["tasks", "piqa", "metrics", "f1"], {"value": 1.0}, "f1"),
    "row edited": (["rows", 2, "value"], 99.0, "PIQA"),
    "row of another metric": (["rows", 2, "metric"], "alias_match", "PIQA"),
    "row of a task without samples": (["rows", 2, "tasks"], ["winogrande"], "PIQA"),
    "notes of a wrong shape": (["rows", 2, "notes"], ["limit"], "notes"),
    "prompt hashes gone": (["provenance", "prompt_hashes"], KeyError, "prompt_hashes"),
}


@pytest.mark.parametrize("path, value, word", BAD_RECORDS.values(), ids=BAD_RECORDS.keys())
def test_bad_records(folder, path, value, word):
    edit(folder, put(path, value))
    assert word in one_line(folder)


def test_a_row_twice(folder):
    edit(folder, lambda record: record["rows"].append(record["rows"][0]))
    assert "twice" in one_line(folder)


def test_neither_task_nor_row(folder):
    edit(folder, lambda record: record.update(tasks={}, rows=[]))
    assert "no task" in one_line(folder)


def set_at(column, position, value):
    def change(columns):
        columns[column][position] = value

    return change


BAD_SAMPLES = {
    "doc twice": (set_at("doc_id", 1, 0), "twice"),
    "no row number": (set_at("doc_id", 1, -4), "doc_id"),
    "score edited": (lambda c: c.update(acc_norm_nospace=[1] * 120, acc=[1] * 120), "follow"),
    "score of two": (set_at("acc", 0, 2), "0 or 1"),
    "log-probability gone": (set_at("logprobs", 0, [-1.0]), "logprobs"),
    "log-probability not finite": (set_at("logprobs", 0, [-1.0, math.nan]), "logprobs"),
    "no doc ids": (lambda c: c.pop("doc_id"), "doc_id"),
    "no hashes": (lambda c: c.pop("prompt_hash"), "prompt_hash"),
    "a hash missing": (set_at("prompt_hash", 0, None), "prompt_hash"),
    "no scores": (lambda c: (c.pop("acc"), c.pop("acc_norm_nospace")), "acc"),
    "a line gone": (lambda c: [values.pop() for values in c.values()], "119 lines"),
}


@pytest.mark.parametrize("change, word", BAD_SAMPLES.values(), ids=BAD_SAMPLES.keys())
def test_bad_samples(folder, change, word):
    edit_samples(folder, "piqa", change)
    assert word in one_line(folder)


def forge(columns, rows):
    """Every doc right, and what would give it away dropped or left as it is."""
    columns.update(
        {name: [1] * 120 for name in ("acc", "acc_norm_nospace", "alias_match") if name in columns}
    )
    for name in rows:
        columns.pop(name, None)


FORGERIES = {
    "log-probabilities dropped": ("piqa", ["logprobs"], "has no column 'logprobs'"),
    "choices dropped": ("piqa", ["choices"], "has no column 'choices'"),
    "all evidence dropped": ("piqa", ["choices", "logprobs", "gold"], "has no column"),
    "answers left": ("trivia_qa", [], "'alias_match' of doc [0-9]+ does not follow from its output and gold"),
    "answers dropped": ("trivia_qa", ["output"], "has no column 'output'"),
}


@pytest.mark.parametrize("task, dropped, message", FORGERIES.values(), ids=FORGERIES.keys())
def test_forged_scores_are_refused_although_run_json_agrees(folder, task, dropped, message):
    edit_samples(folder, task, lambda c: forge(c, dropped))
    label = {"piqa": "PIQA", "trivia_qa": "TriviaQA"}[task]

    def agree(record):
        for metric in record["tasks"][task]["metrics"].values():
            metric.update(value=1.0, stderr=0.0)
        next(row for row in record["rows"] if row["label"] == label).update(value=100.0, stderr=0.0)

    edit(folder, agree)
    with pytest.raises(UserError, match=message):
        load_run(folder)
    if len(dropped) != 3:  # a baseline keeps scores alone: part of the evidence is no baseline
        edit(folder, lambda r: r.update(blessed_from="a run"))
        one_line(folder)


def test_edited_bbh_scores_are_refused(tmp_path):
    folder = build(tmp_path, Made(suite="instruct", labels=("BBH (3-shot)",), size=40))
    edit_samples(folder, "bbh_snarks", lambda c: c.update(exact_match=[1] * 40))
    assert "'exact_match' of doc" in one_line(folder)


def test_a_row_of_the_card_has_the_cards_metric(folder):
    edit(folder, lambda r: r["rows"][2].update(metric="acc"))
    assert "another metric or other tasks than the card's" in one_line(folder)


def test_sample_files_that_are_no_parquet(folder):
    path = folder / "samples" / "piqa.parquet"
    content = path.read_bytes()
    for bad in (b"", content[:-20], b"PAR1" + b"\0" * 100, content[:500] + b"\xff" * 200 + content[700:]):
        path.write_bytes(bad)
        assert "piqa" in one_line(folder)
    path.unlink()
    assert "has no samples/piqa.parquet" in one_line(folder)


def test_links_out_of_the_folder(folder, tmp_path):
    path = folder / "samples" / "piqa.parquet"
    elsewhere = shutil.copy(path, tmp_path / "elsewhere.parquet")
    path.unlink()
    path.symlink_to(elsewhere)
    assert "leads out" in one_line(folder)


def test_no_folder(tmp_path):
    assert "no run folder" in one_line(tmp_path / "nowhere")
    assert "has no run.json" in one_line(tmp_path)


def test_docs_of_two_runs_are_matched_by_number_and_prompt(tmp_path):
    first = load_run(build(tmp_path / "a", Made()))
    limited = load_run(build(tmp_path / "b", Made(limit=50)))
    asked_otherwise = load_run(build(tmp_path / "c", Made(prompts="other")))
    mine, other, differ = aligned(first, limited, "piqa")
    assert (mine, other, differ) == (list(range(50)), list(range(50)), 0)
    assert aligned(first, asked_otherwise, "piqa") == ([], [], 120)
    assert [len(columns["acc"]) for columns in shared_columns(first, limited, "arc_easy")] == [50, 50]
    assert shared_columns(first, asked_otherwise, "piqa") is None
    assert shared_columns(first, limited, "winogrande") is None
    one, two = shared_columns(first, asked_otherwise, "piqa", any_prompt=True)
    assert one["acc"] == two["acc"] and len(one["acc"]) == 120


def test_keys_that_this_version_does_not_know_are_kept(folder):
    edit(folder, lambda r: (r.update(later={"a": 1}), r["rows"][0].update(later="b")))
    log = load_run(folder).log
    assert json.loads(log.dump())["later"] == {"a": 1}
    assert json.loads(log.dump())["rows"][0]["later"] == "b"


def test_columns_of_other_types(folder):
    edit_samples(folder, "arc_easy", lambda c: c.update(group=[["a"]] * 200))
    edit_samples(folder, "piqa", lambda c: c.update(gold=["first"] * 120, acc=[None] * 120))
    assert "piqa" in one_line(folder) or "scored" in one_line(folder)


def test_a_row_of_an_empty_task(folder):
    edit_samples(folder, "piqa", lambda c: [values.clear() for values in c.values()])
    edit(folder, lambda r: r["tasks"]["piqa"].update(n=0, metrics={}))
    one_line(folder)


@pytest.mark.slow
def test_damaged_bytes_never_change_a_value(folder):
    """Seeded damage anywhere in any file: either one line of refusal, or the very same values."""
    good = [(row.label, row.value, row.stderr, row.n) for row in load_run(folder).rows]
    generator = random.Random(5)
    refused = 0
    for path in [
        folder / "run.json",
        folder / "samples" / "piqa.parquet",
        folder / "samples" / "trivia_qa.parquet",
    ]:
        content = path.read_bytes()
        for _ in range(80):
            damaged = bytearray(content)
            for _ in range(generator.choice([1, 1, 1, 20])):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            path.write_bytes(
                bytes(damaged[: generator.choice([len(damaged), generator.randrange(len(damaged))])])
            )
            try:
                run = load_run(folder)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
                continue
            found = [(row.label, row.value, row.stderr, row.n) for row in run.rows]
            assert [entry[1:] for entry in found] == [entry[1:] for entry in good]
        path.write_bytes(content)
    assert refused > 100
