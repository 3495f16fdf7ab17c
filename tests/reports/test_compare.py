"""compare: paired differences on the same docs, what sets the runs apart, and the docs that changed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from evals.commands import compare as command
from evals.core.errors import UserError
from evals.core.metric import get_metric
from reports import compare, flips
from reports.comparability import mismatches
from reports.questions import question
from reports.runs import load_run
from tests.support.made_runs import Made, build, edit, edit_samples
from tests.support.printed import cells
from tests.support.words import parse


def run_with(tmp_path, **options):
    return load_run(build(tmp_path / str(len(list(tmp_path.iterdir()))), Made(**options)))


def flipped(scores: list[int], worse: int, better: int) -> list[int]:
    """The scores with so many ones turned to zero and zeros turned to one."""
    changed = np.array(scores)
    changed[np.flatnonzero(np.array(scores) == 1)[:worse]] = 0
    changed[np.flatnonzero(np.array(scores) == 0)[:better]] = 1
    return changed.tolist()


BASE = ([1] * 45 + [0] * 55) * 10


def rows_of(first, second, title="## Rows"):
    text = compare.as_markdown([first, second])
    return {row[0]: row[1:] for row in cells(text.split(title, 1)[1].split("\n## ", 1)[0])[1:]}


def test_a_run_is_the_same_as_itself(tmp_path):
    run = run_with(tmp_path)
    assert {row[-1] for row in rows_of(run, run).values()} == {"same on every doc"}
    assert mismatches(run, run) == []


@pytest.mark.parametrize(
    "worse, better, verdict",
    [
        (100, 20, "B is worse"),
        (20, 100, "B is better"),
        (3, 2, "equivalent (within ±2)"),
        (100, 90, "cannot tell (a difference of 4.3 would show)"),
    ],
)
def test_verdicts(tmp_path, worse, better, verdict):
    first = run_with(tmp_path, labels=("HellaSwag",), scores={"hellaswag": BASE})
    second = run_with(tmp_path, labels=("HellaSwag",), scores={"hellaswag": flipped(BASE, worse, better)})
    row = rows_of(first, second)["HellaSwag"]
    assert row[-1] == verdict
    assert row[:2] == ["45.0", f"{45 + (better - worse) / 10:.1f}"]
    assert row[4:6] == [f"{worse} / {better}", "1000"]


def test_averaged_rows_and_their_tasks(tmp_path):
    scores = {"arc_easy": BASE[:200], "arc_challenge": BASE[:100]}
    first = run_with(tmp_path, labels=("ARC (Average)",), scores=scores)
    changed = {**scores, "arc_challenge": flipped(scores["arc_challenge"], 30, 0)}
    second = run_with(tmp_path, labels=("ARC (Average)",), scores=changed)
    row = rows_of(first, second)["ARC (Average)"]
    assert row[2] == "−15.00"
    assert row[-1] == "B is worse"
    tasks = rows_of(first, second, "## Tasks")
    assert tasks["arc_easy"][-1] == "same on every doc"
    assert tasks["arc_challenge"][2] == "−30.00"
    data = json.loads(compare.as_json([first, second]))
    assert data["rows"][0]["difference"]["test"] == "paired bootstrap"
    assert data["tasks"][1]["difference"]["test"] == "exact McNemar"


def test_a_limited_run_is_compared_on_the_shared_docs(tmp_path):
    whole = run_with(tmp_path, suite="instruct", labels=("IFEval (Average prompt/inst)", "PIQA"))
    part = run_with(tmp_path, suite="instruct", labels=("IFEval (Average prompt/inst)", "PIQA"), limit=40)
    assert [one.code for one in mismatches(whole, part)] == ["limit"]
    row = rows_of(whole, part)["IFEval (Average prompt/inst)"]
    assert row[5] == "40"
    assert row[1] == f"{part.row('IFEval (Average prompt/inst)').value:.1f}"


def test_rows_that_only_one_run_has(tmp_path):
    first = run_with(tmp_path, labels=("HellaSwag", "PIQA"))
    second = run_with(tmp_path, labels=("HellaSwag", "PIQA"), missing=("PIQA",))
    assert rows_of(first, second)["PIQA"][-1] == "B has no piqa"
    assert rows_of(second, first)["PIQA"][-1] == "A has no piqa"


DIFFERENT = {
    "data": {"data": {"source": "smoke"}},
    "prompts": {"prompts": "other"},
    "limit": {"limit": 40},
    "variant": {"variant": ("gsm8k-1280",)},
    "chat": {"model": {"chat": True}},
    "dtype": {"model": {"dtype": "bfloat16"}},
    "quantization": {"model": {"quantization": "Q4_1"}},
}


@pytest.mark.parametrize("code", DIFFERENT)
def test_what_sets_runs_apart_is_named(tmp_path, code):
    first, second = run_with(tmp_path), run_with(tmp_path, **DIFFERENT[code])
    assert [one.code for one in mismatches(first, second)] == [code]
    assert "not the same measurement" in compare.as_markdown([first, second])


def test_other_files_are_other_data(tmp_path):
    first, second = run_with(tmp_path), run_with(tmp_path)
    edit(second.folder, lambda r: r["data"]["tasks"]["piqa"].update(sha256={"p": "00"}))
    found = mismatches(first, load_run(second.folder))
    assert [(one.code, one.text) for one in found] == [("data", "other data in piqa")]


def test_circumstances_are_named_but_not_held_against_a_run(tmp_path):
    first, second = run_with(tmp_path), run_with(tmp_path)
    edit(second.folder, lambda r: r["provenance"].update(device="cuda", versions={"torch": "2"}))
    second = load_run(second.folder)
    assert [one.code for one in mismatches(first, second)] == ["device", "versions"]
    assert "not the same measurement" not in compare.as_markdown([first, second])


def test_other_suites_are_refused(tmp_path):
    first = run_with(tmp_path, labels=("PIQA",))
    second = run_with(tmp_path, labels=("PIQA",), suite="instruct")
    with pytest.raises(UserError, match="one suite"):
        compare.as_markdown([first, second])


def test_flips_show_both_answers_and_worse_docs_first(tmp_path):
    first = run_with(
        tmp_path, labels=("PIQA", "TriviaQA"), scores={"piqa": [1, 0, 1], "trivia_qa": [1, 1, 0]}
    )
    second = run_with(
        tmp_path, labels=("PIQA", "TriviaQA"), scores={"piqa": [1, 1, 0], "trivia_qa": [1, 1, 1]}
    )
    found = flips.find_flips(first, second, 5)
    assert [(f.task, f.doc_id, f.first_score, f.second_score) for f in found] == [
        ("piqa", 14, 1, 0),
        ("piqa", 7, 0, 1),
        ("trivia_qa", 14, 0, 1),
    ]
    assert len(flips.find_flips(first, second, 1)) == 2
    text = compare.as_markdown([first, second], flips=1)
    assert "Prompt 14 of piqa" in text
    assert ">  left  (-1.000 nats)" in text
    assert json.loads(compare.as_json([first, second], 1))["flips"][0]["gold"] == " left"
    assert "None." in compare.as_markdown([first, first], flips=3)


IFEVAL = ("IFEval (Average prompt/inst)",)


def test_docs_of_several_items_are_counted_and_shown_by_their_own_scores(tmp_path):
    first = run_with(tmp_path, suite="instruct", labels=IFEVAL, scores={"ifeval": [1] * 30 + [0] * 30})
    second = run_with(
        tmp_path, suite="instruct", labels=IFEVAL, scores={"ifeval": [0] * 2 + [1] * 28 + [0] * 30}
    )
    (row,) = compare.compare_runs([first, second])[0].rows
    assert row.difference.changed == 2
    assert rows_of(first, second)["IFEval (Average prompt/inst)"][4] == "1 / 0 (2 changed)"
    found = flips.find_flips(first, second, 60)
    assert [flip.doc_id for flip in found] == [0, 7]
    text = compare.as_markdown([first, second], flips=60)
    assert "doc 0: prompt_level_strict_acc 1 → 0, inst_level_strict_acc 1/1 → 0/1" in text
    assert "doc 7: prompt_level_strict_acc 0 → 0, inst_level_strict_acc [1, 0] → [0, 1]" in text
    assert compare.compare_runs([first, first])[0].rows[0].difference.changed == 0


def test_a_macro_average_is_compared_as_one(tmp_path):
    """Three groups of other sizes: the mean of the groups' means, not that of the docs."""
    row = replace(
        run_with(tmp_path, labels=("MMLU (cloze)",)).rows[0], metric=get_metric("acc_norm_nospace_macro")
    )
    runs = [
        run_with(tmp_path, labels=("MMLU (cloze)",), scores={"mmlu": s}) for s in ([1, 1, 0, 0], [0, 1, 0, 0])
    ]
    before, after, difference = compare.on_shared_docs(*runs, row, ("mmlu",))
    means = [np.mean([np.mean([s[0], s[3]]), s[1], s[2]]) for s in ([1, 1, 0, 0], [0, 1, 0, 0])]
    assert (before, after) == (pytest.approx(100 * means[0]), pytest.approx(100 * means[1]))
    assert difference.value == pytest.approx(100 * (means[1] - means[0]))
    assert difference.changed == 1


def test_texts_cannot_leave_their_fence():
    block = flips.fenced("```\n# not a heading\n\x1b[31m" + "x" * 9000)
    assert block.startswith("````text\n")
    assert block.endswith("\n````")
    assert "\x1b" not in block
    assert "characters" in block


@pytest.mark.parametrize(
    "words, verdict",
    [
        ((), "equivalent (within ±2)"),
        (("--margin", "0.2"), "cannot tell (a difference of 2.3 would show)"),
        (("--alpha", "0.4"), "B is worse (within ±2)"),
    ],
)
def test_margin_and_alpha_decide_and_stand_in_a_footnote(tmp_path, capsys, words, verdict):
    first = run_with(tmp_path, labels=("HellaSwag",), scores={"hellaswag": BASE})
    second = run_with(tmp_path, labels=("HellaSwag",), scores={"hellaswag": flipped(BASE, 25, 18)})
    assert command.main(parse(command.Options, [str(first.folder), str(second.folder), *words])) == 0
    text = capsys.readouterr().out
    assert cells(text.split("## Rows", 1)[1])[1][-1] == verdict
    assert f"within ±{0.2 if '--margin' in words else 2} points" in text
    assert f"alpha {0.4 if '--alpha' in words else 0.05}," in text


def test_the_command(tmp_path, capsys):
    first, second = build(tmp_path / "a", Made()), build(tmp_path / "b", Made(seed=1))
    assert command.main(parse(command.Options, [str(first), str(second), "--format", "json"])) == 0
    assert json.loads(capsys.readouterr().out)["suite"] == "base"
    with pytest.raises(UserError, match="zero or more"):
        command.main(parse(command.Options, [str(first), str(second), "--show-flips", "-1"]))


def test_the_first_sentence_says_what_came_out(tmp_path):
    """Which rows are worse, better, equal and open, and the mean of the rows with its interval, by hand."""
    labels = ("HellaSwag", "PIQA", "TriviaQA", "OpenBookQA")
    names = ("hellaswag", "piqa", "trivia_qa", "openbook_qa")
    first = run_with(tmp_path, labels=labels, scores=dict.fromkeys(names, BASE))
    flips = {"hellaswag": (100, 20), "piqa": (20, 100), "trivia_qa": (3, 2), "openbook_qa": (100, 90)}
    second = run_with(tmp_path, labels=labels, scores={name: flipped(BASE, *flips[name]) for name in names})
    text = compare.as_markdown([first, second])
    differences = [(better - worse) / 10 for worse, better in flips.values()]
    errors = [
        np.std([-1] * w + [1] * b + [0] * (1000 - w - b), ddof=1) * 100 / 1000**0.5 for w, b in flips.values()
    ]
    half = 1.96 * np.linalg.norm(errors) / 4
    assert (
        "**B is worse in 1 of 4 rows (HellaSwag), better in 1 (PIQA), equal in 1, open in 1; "
        f"mean of 4 rows −{abs(np.mean(differences)):.2f} ± {half:.2f}.**"
    ) in text
    assert "Holm's correction over 4 tests, the rows of this table" in text
    mean = rows_of(first, second)["Mean of 4 rows"]
    assert mean[:3] == ["45.0", f"{45 + np.mean(differences):.1f}", f"−{abs(np.mean(differences)):.2f}"]
    assert mean[4:6] == ["223 / 212", "4000"]
    data = json.loads(compare.as_json([first, second]))
    assert data["rows"][0]["kind"] == "worse" and data["mean"]["difference"]["better"] == 212


def test_several_runs_are_compared_with_the_first(tmp_path):
    """A small loss is real beside one other run, not beside two: Holm goes over the rows of all."""
    runs = [
        run_with(
            tmp_path, labels=("HellaSwag",), name=name, scores={"hellaswag": flipped(BASE, worse, better)}
        )
        for name, worse, better in (("a", 0, 0), ("b", 27, 13), ("c", 20, 20))
    ]
    assert compare.compare_runs(runs[:2])[0].rows[0].kind == "worse"
    assert [one.rows[0].kind for one in compare.compare_runs(runs)] == ["open", "equal"]
    text = compare.as_markdown(runs)
    table = cells(text.split("## All runs", 1)[1].split("\n## ", 1)[0])
    assert table[0] == ["Row", "A", "B − A", "C − A"]
    assert table[1][1] == "45.0" and table[1][2].startswith("−1.40 ± ") and table[1][3].startswith("0.00 ± ")
    assert "over 2 tests, the rows of all runs" in text and "C against A: Rows" in text
    assert [one["second"]["model"]["name"] for one in json.loads(compare.as_json(runs))] == ["b", "c"]
    with pytest.raises(UserError, match="2 to 26 runs"):
        compare.compare_runs(runs[:1])


def test_the_same_weights_are_named(tmp_path):
    first, second = run_with(tmp_path), run_with(tmp_path)
    assert "same weights: A and B have the fingerprint sha256:" in compare.as_markdown([first, second])
    other = run_with(tmp_path, name="other")
    assert "same weights" not in compare.as_markdown([first, other])


def test_flips_are_short_and_show_worse_and_better_docs(tmp_path):
    """The question without worked examples; of two docs a task, one of each kind."""
    shots = "".join(f"Question: Shot {k}?\nAnswer: {k} #### {k}\n\n" for k in range(5))
    labels, scores = ("GSM8K (5-shot)",), [[1, 1, 0, 0], [0, 0, 1, 1]]
    runs = [run_with(tmp_path, labels=labels, suite="instruct", scores={"gsm8k": one}) for one in scores]
    for k, run in enumerate(runs):
        edit_samples(
            run.folder,
            "gsm8k",
            lambda c: c.update(prompt=[f"{shots}Question: How many {d}?\nAnswer:" for d in c["doc_id"]]),
        )
        edit(run.folder, lambda r: r["tasks"]["gsm8k"]["settings"].update(shots=5))
        runs[k] = load_run(run.folder)
    assert [flip.change for flip in flips.find_flips(*runs, 2)] == ["worse", "better"]
    assert [flip.change for flip in flips.find_flips(*runs, 3)] == ["worse", "worse", "better"]
    text = compare.as_markdown(runs, flips=2)
    assert "Question (after 5 worked examples):\n```text\nHow many 0?\n```" in text
    assert "Shot" not in text and text.count("\nA:\n") == 2


@pytest.mark.parametrize(
    "prompt, shots, asked",
    [
        ("Question: Why?\nAnswer:", 0, "Why?"),
        ("The following are questions about law.\nQuestion: Why?\nAnswer:", 0, "Why?"),
        (
            "Write a dialogue.\n\nUse two lines.\nQ: is one",
            0,
            "Write a dialogue.\n\nUse two lines.\nQ: is one",
        ),
        ("Question: 1?\nAnswer: 1\n\nQuestion: A\n\nlong one\nAnswer: ", 1, "A\n\nlong one"),
        ("[user]\nQuestion: 1?\n\n[assistant]\n1\n\n[user]\nQuestion: Why?\nAnswer:", 1, "Why?"),
        ("one\n\ntwo", 1, "two"),
        ("", 3, ""),
    ],
)
def test_the_question_of_a_prompt(prompt, shots, asked):
    assert question(prompt, shots) == asked
