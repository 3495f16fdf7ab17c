"""What is computed again when something changed: that, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.forks import Forks
from tests.support.run_bench import ALL, GSM8K, PIQA, Bench, change_weight, computed, samples, write_jsonl

pytestmark = pytest.mark.slow


def test_the_same_command_again_computes_nothing_and_writes_the_same_samples(bench: Bench) -> None:
    assert computed(bench.run()) == ALL
    first = samples(bench.last)
    assert computed(bench.run()) == 0
    assert samples(bench.last) == first


def test_fresh_folders_get_the_same_bytes(forks: Forks, tiny: Path, data: Path, tmp_path: Path) -> None:
    found = []
    for name in ("first", "second"):
        bench = Bench(forks, tiny, data, tmp_path / name)
        assert computed(bench.run()) == ALL
        found.append(samples(bench.last))
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_fresh_computes_everything(bench: Bench) -> None:
    bench.run()
    assert computed(bench.run("--fresh")) == ALL


def test_a_limit_first_leaves_only_the_rest(bench: Bench) -> None:
    assert computed(bench.run("--limit", "2")) == 2 * 2 + 2
    assert computed(bench.run()) == ALL - 6
    assert computed(bench.run("--limit", "5")) == 0


def test_another_place_of_the_same_weights_computes_nothing(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "elsewhere"))
    os.utime(bench.model / "config.json", (0, 0))
    assert computed(bench.run()) == 0


def test_one_character_of_a_prompt_recomputes_its_doc(bench: Bench) -> None:
    bench.run()
    rows = [dict(row) for row in PIQA]
    rows[3]["goal"] += "!"
    write_jsonl(bench.data / "piqa" / "validation.jsonl", rows)
    assert computed(bench.run()) == 2


def test_one_character_of_a_choice_recomputes_that_choice(bench: Bench) -> None:
    bench.run()
    rows = [dict(row) for row in PIQA]
    rows[3]["sol2"] += "!"
    write_jsonl(bench.data / "piqa" / "validation.jsonl", rows)
    assert computed(bench.run()) == 1


def test_another_label_is_another_score_and_no_other_request(bench: Bench) -> None:
    before = bench.run()
    rows = [row | {"label": 1 - int(row["label"])} for row in PIQA]
    write_jsonl(bench.data / "piqa" / "validation.jsonl", rows)
    after = bench.run()
    assert computed(after) == 0
    values = [record["tasks"]["piqa"]["metrics"]["acc"]["value"] for record in (before, after)]
    assert values[1] == pytest.approx(1 - values[0])


def test_one_character_of_a_shot_recomputes_the_docs_that_have_it(bench: Bench) -> None:
    bench.run()
    rows = [row | {"answer": row["answer"].replace("make", "MAKE")} for row in GSM8K]
    write_jsonl(bench.data / "gsm8k" / "train.jsonl", rows)
    assert computed(bench.run()) == 3


def test_one_weight_recomputes_everything(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "changed"))
    change_weight(bench.model, 0.5)
    assert computed(bench.run()) == ALL


def test_another_dtype_recomputes_everything(bench: Bench) -> None:
    bench.run()
    assert computed(bench.run("--dtype", "bfloat16")) == ALL


def test_another_stop_recomputes_the_answers(bench: Bench) -> None:
    bench.run()
    bench.hook = ("tests.support.run_bench:short_answers", 6, ["Question:", "Questions"])
    assert computed(bench.run()) == 3


def test_another_budget_recomputes_the_answers(bench: Bench) -> None:
    bench.run()
    bench.hook = ("tests.support.run_bench:short_answers", 7)
    assert computed(bench.run()) == 3


def test_another_tokenizer_recomputes_everything(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    bench.model = Path(shutil.copytree(bench.model, tmp_path / "changed"))
    tokenizer = json.loads((bench.model / "tokenizer.json").read_text())
    tokenizer["version"] = "1.0"
    (bench.model / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert computed(bench.run()) == ALL  # its bytes changed: what they mean is not guessed at
