"""The model card's metadata: huggingface_hub's own parsers read it, and partial rows stay out."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from evals.commands import report
from evals.core.card import load_card
from evals.core.errors import UserError
from reports import model_index
from reports.runs import load_run
from tests.support.made_runs import Made, build, edit
from tests.support.words import parse


def run_with(tmp_path, **options):
    options = {
        "labels": [row.label for row in load_card(options.get("suite", "base")).rows],
        "size": 20,
        **options,
    }
    return load_run(build(tmp_path / str(len(list(tmp_path.iterdir()))), Made(**options)))


def test_the_hub_reads_the_model_index(tmp_path):
    runs = [run_with(tmp_path), run_with(tmp_path, suite="instruct")]
    model_index.prepare(runs, tmp_path / "index.yaml").write()
    parsed = ModelCard(f"---\n{(tmp_path / 'index.yaml').read_text()}---\n# tiny\n").data
    assert parsed.model_name == "tiny"
    found = {(r.dataset_name, r.metric_args["chat_template"]): r.metric_value for r in parsed.eval_results}
    for run, chat in zip(runs, (False, True), strict=True):
        for row in run.rows:
            if row.label != "MT-Bench":
                assert found[row.label, chat] == round(row.value, 2)
    arc = next(r for r in parsed.eval_results if r.dataset_name == "ARC (Average)")
    assert (arc.dataset_type, arc.dataset_config, arc.dataset_split) == ("hub/arc", None, "test")
    assert "95 % interval" in arc.metric_name


def registered(run):
    """The run with the rows of a benchmark that the hub keeps."""
    edit(run.folder, lambda r: r["data"]["tasks"]["gsm8k"].update(repo="openai/gsm8k", subset="main"))
    return load_run(run.folder)


def test_the_hub_reads_the_eval_results(tmp_path):
    run = registered(run_with(tmp_path, notes=[("quantized", "Q4_1 weights")]))
    model_index.prepare([run], tmp_path / "index.yaml").write()
    data = yaml.safe_load((tmp_path / ".eval_results" / "smol-evals.yaml").read_text())
    (entry,) = parse_eval_result_entries(data)
    assert entry.value == round(run.row("GSM8K (5-shot)").value, 2)
    assert (entry.dataset_id, entry.task_id, entry.date) == ("openai/gsm8k", "gsm8k", "2026-03-04")
    assert "Q4_1 weights" in entry.notes


def test_rows_of_no_benchmark_of_the_hub_are_in_the_model_index_alone(tmp_path):
    lines = model_index.prepare([run_with(tmp_path)], tmp_path / "index.yaml").write()
    assert lines == [f"wrote {tmp_path / 'index.yaml'}"]
    assert not (tmp_path / ".eval_results").exists()


@pytest.mark.parametrize("code", ["limit", "smoke", "subset"])
def test_partial_rows_stay_out(tmp_path, code):
    run = run_with(tmp_path, notes=[(code, "not all of it")])
    with pytest.raises(UserError, match="no row was measured on the whole"):
        model_index.prepare([run], tmp_path / "index.yaml").write()


def test_one_model_at_a_time(tmp_path):
    with pytest.raises(UserError, match="one model, these runs are of other, tiny"):
        model_index.prepare([run_with(tmp_path), run_with(tmp_path, name="other")], tmp_path / "i.yaml")


def test_the_command_writes_both(tmp_path, capsys):
    folder = registered(run_with(tmp_path)).folder
    assert (
        report.main(parse(report.Options, [str(folder), "--model-index", str(tmp_path / "index.yaml")])) == 0
    )
    assert (tmp_path / ".eval_results" / "smol-evals.yaml").is_file()
    assert capsys.readouterr().err.splitlines() == [
        f"wrote {tmp_path / 'index.yaml'}",
        f"wrote {tmp_path / '.eval_results' / 'smol-evals.yaml'}",
    ]
    with pytest.raises(UserError, match="cannot"):
        report.main(
            parse(report.Options, [str(folder), "--model-index", str(tmp_path / "no" / "index.yaml")])
        )


def test_rows_that_are_no_data_set_on_the_hub_stay_out(tmp_path):
    run = run_with(tmp_path)
    edit(run.folder, lambda r: r["data"]["tasks"]["piqa"].update(repo=None))
    edit(run.folder, lambda r: r["data"]["tasks"]["arc_easy"].update(repo="another/set"))
    model_index.prepare([load_run(run.folder)], tmp_path / "index.yaml").write()
    results = yaml.safe_load((tmp_path / "index.yaml").read_text())["model-index"][0]["results"]
    labels = {result["dataset"]["name"] for result in results}
    assert len(labels) == 7 and not {"PIQA", "ARC (Average)"} & labels


def test_quantized_weights_never_pass_under_the_plain_name(tmp_path):
    run = registered(
        run_with(tmp_path, notes=[("quantized", "Q4_1 weights")], model={"quantization": "Q4_1"})
    )
    model_index.prepare([run], tmp_path / "index.yaml").write()
    parsed = ModelCard(f"---\n{(tmp_path / 'index.yaml').read_text()}---\n# tiny\n").data
    assert parsed.model_name == "tiny Q4_1"
    assert {result.metric_args["quantization"] for result in parsed.eval_results} == {"Q4_1"}
    entries = yaml.safe_load((tmp_path / ".eval_results" / "smol-evals.yaml").read_text())
    assert all(entry["notes"].startswith("tiny Q4_1; ") for entry in entries)
    with pytest.raises(UserError, match="these runs are of tiny, tiny Q4_1"):
        model_index.prepare([run, run_with(tmp_path)], tmp_path / "index.yaml")


def test_what_is_left_out_is_said(tmp_path):
    run = run_with(tmp_path, suite="instruct", missing=("PIQA",))
    edit(run.folder, lambda r: r["rows"][0]["notes"].append({"code": "subset", "text": "300 of 541 prompts"}))
    lines = model_index.prepare([registered(run)], tmp_path / "index.yaml").write()
    assert lines[:3] == [
        "left out of the model index: IFEval (Average prompt/inst) (instruct): 300 of 541 prompts",
        "left out of the model index: MT-Bench (instruct): no value",
        "left out of the model index: PIQA (instruct): no value",
    ]
    assert lines[3:] == [
        f"wrote {tmp_path / name}" for name in ("index.yaml", ".eval_results/smol-evals.yaml")
    ]
