"""This engine as a model of lm-eval: what its Hugging Face back end answers, doc by doc, and its command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'smol-evals[lm-eval]'")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from evals.adapters import lm_eval as adapter  # noqa: E402
from evals.core.errors import EXIT_USAGE, UserError  # noqa: E402
from tests.support.harness_tasks import write_tasks  # noqa: E402
from tests.support.tiny_checkpoint import write_tiny_model  # noqa: E402

SMOKE = Path(__file__).resolve().parents[2] / "tasks" / "smoke"
WINDOW = 700


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("lm-eval") / "tiny")


@pytest.fixture(scope="module")
def ours(tiny) -> adapter.SmolEvalsLM:
    return adapter.SmolEvalsLM(str(tiny), device="cpu", dtype="float32", max_length=WINDOW)


@pytest.fixture(scope="module")
def theirs(tiny) -> HFLM:
    return HFLM(str(tiny), device="cpu", dtype="float32", max_length=WINDOW, batch_size=4)


def instances(kind: str, *arguments) -> list[Instance]:
    return [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]


@pytest.mark.parametrize(("task", "shots"), [("arc_easy", 2), ("winogrande", 0), ("gsm8k", 1)])
def test_the_same_answers_to_the_doc(ours, theirs, tmp_path, task, shots):
    manager = write_tasks(tmp_path, SMOKE, [task], "jsonl")
    one, two = (
        lm_eval.simple_evaluate(
            lm,
            tasks=[task],
            task_manager=manager,
            num_fewshot=shots,
            bootstrap_iters=0,
            gen_kwargs="max_gen_toks=40",
        )
        for lm in (ours, theirs)
    )
    assert one["results"][task] == two["results"][task]
    assert len(one["samples"][task]) == len(two["samples"][task]) >= 4
    for mine, other in zip(one["samples"][task], two["samples"][task], strict=True):
        assert mine["arguments"] == other["arguments"]
        for (found,), (expected,) in zip(mine["resps"], other["resps"], strict=True):
            assert found == (
                (pytest.approx(expected[0], abs=1e-3), expected[1])
                if isinstance(expected, tuple)
                else expected
            )


def test_log_likelihoods_at_the_edges(ours, theirs):
    greedy = theirs.generate_until(instances("generate_until", ("Once", {"until": [], "max_gen_toks": 4})))[0]
    requests = instances(
        "loglikelihood",
        ("Question: Why?\nAnswer:", " because"),
        ("", "no context"),
        ("spaces move over  ", "here"),
        ("cut from the left " * 60, " end"),
        ("<|im_end|>", "after a special token"),
        ("Once", greedy),
    )
    found, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests)
    assert [one for one, _ in found] == pytest.approx([one for one, _ in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected] == [False] * 5 + [True]


@pytest.mark.parametrize("told", [None, True, False])
def test_a_bos_is_added_where_lm_eval_adds_one(tiny, tmp_path, told):
    shutil.copytree(tiny, tmp_path / "with-bos")
    file = tmp_path / "with-bos" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bos_token": "<|endoftext|>"}))
    options = {"device": "cpu", "dtype": "float32", "add_bos_token": told}
    one, two = (kind(str(tmp_path / "with-bos"), **options) for kind in (adapter.SmolEvalsLM, HFLM))
    pairs = [("ab", " c"), ("<|endoftext|>ab", " c"), ("", " c")]
    found, expected = (lm.loglikelihood(instances("loglikelihood", *pairs)) for lm in (one, two))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-3)
    texts = [lm.generate_until(instances("generate_until", ("ab", {"max_gen_toks": 6}))) for lm in (one, two)]
    assert texts[0] == texts[1]


def test_rolling_log_likelihoods(ours, theirs):
    requests = instances("loglikelihood_rolling", ("".join(map(str, range(500))),), ("short",))
    assert ours.loglikelihood_rolling(requests) == pytest.approx(
        theirs.loglikelihood_rolling(requests), abs=0.01
    )


def test_texts_end_where_lm_eval_ends_them(ours, theirs):
    whole = theirs.generate_until(instances("generate_until", ("Once upon", {"max_gen_toks": 30})))[0]
    requests = instances(
        "generate_until",
        ("Once upon", {"until": [whole[3:5]], "max_gen_toks": 30, "do_sample": False, "temperature": 0.7}),
        ("Once upon", {"until": whole[1], "max_gen_toks": 30, "top_p": 0.9}),
        ("cut from the left " * 60, {"until": [], "max_new_tokens": 20}),
        ("Once upon", {"until": ["nowhere in it"], "max_gen_toks": 3}),
    )
    assert ours.generate_until(requests) == theirs.generate_until(requests)
    with pytest.raises(UserError, match="max_gen_toks=700: it must be above 0 and below the window of 700"):
        ours.generate_until(instances("generate_until", ("a", {"max_gen_toks": WINDOW})))


@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 0.8}, {"repetition_penalty": 1.3}])
def test_what_the_engine_does_not_compute_transformers_does(ours, theirs, caplog, settings):
    import torch

    requests = instances("generate_until", ("Once upon", {"until": [], "max_gen_toks": 12, **settings}))
    texts = []
    for lm in (ours, theirs):
        torch.manual_seed(3)
        texts.append(lm.generate_until(requests))
    assert texts[0] == texts[1]
    assert "1 texts ask for sampling or penalties: transformers generates them" in caplog.text


def test_a_penalty_of_the_checkpoint_counts(ours, monkeypatch):
    plain = {"until": [], "max_gen_toks": 4}
    assert ours._computes(plain)
    monkeypatch.setattr(ours.loaded.model.generation_config, "repetition_penalty", 1.1)
    assert not ours._computes(plain)


def test_chat_templates(ours, theirs, monkeypatch):
    turns = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(turns) == theirs.apply_chat_template(turns)
    assert ours.chat_template(True) == theirs.chat_template(True)
    assert ours.tokenizer_name.startswith("tiny__")
    monkeypatch.setattr(ours.tokenizer, "chat_template", None)
    with pytest.raises(UserError, match="no chat template"):
        ours.chat_template(True)


@pytest.mark.slow  # lm-eval reads all its configs first
def test_lm_evals_command(tiny, tmp_path, monkeypatch, capsys):
    write_tasks(tmp_path, SMOKE, ["arc_easy"], "jsonl")
    words = ["lm-eval", "run", "--model", "smol-evals", "--model_args", f"pretrained={tiny},dtype=float32"]
    words += ["--tasks", "arc_easy", "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out")]
    words += ["--log_samples", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", words)
    assert adapter.main() == 0
    assert "|arc_easy|" in capsys.readouterr().out
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["config"]["model_sha"].startswith("sha256:")


@pytest.mark.slow
def test_what_cannot_be_had_is_one_line(monkeypatch, capsys):
    words = [
        "lm-eval",
        "run",
        "--model",
        "smol-evals",
        "--model_args",
        "pretrained=no-such",
        "--tasks",
        "arc_easy",
    ]
    monkeypatch.setattr("sys.argv", words)
    assert adapter.main() == EXIT_USAGE
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "no-such" in last


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"pretrained": "no-such"}, "no-such"),
        ({"peft": "adapter"}, "--model_args peft: not of smol-evals; --model hf may know it"),
        ({"pretrained": "openai:m"}, "behind a server is --model local-completions in lm-eval"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused(arguments, line):
    with pytest.raises(UserError, match=line):
        adapter.SmolEvalsLM(device="cpu", **arguments)
