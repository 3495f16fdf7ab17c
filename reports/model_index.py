"""Results as a model card carries them: the hub's model-index, and the newer `.eval_results/` files.

Formats: huggingface_hub's `EvalResult` (model-index) and `EvalResultEntry` (eval results). Rows that were measured on a
part of the benchmark, or on the smoke items, are left out: a card must not carry them. Weights that are not the
published checkpoint's are named wherever their numbers stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.core.errors import UserError
from evals.core.runlog import TaskDataLog
from reports.files import write
from reports.render.tables import one_line
from reports.runs import RowResult, Run

PARTIAL = ("limit", "smoke", "subset", "foreign")
REGISTERED = {"openai/gsm8k": "gsm8k"}
"""{data set: task_id of its eval.yaml}, of those measured here that the hub keeps as benchmarks; it takes no others."""


@dataclass(frozen=True)
class ModelIndex:
    """The files to write, {path: text}, and what they leave out, a line a row."""

    files: dict[Path, str]
    left_out: tuple[str, ...]

    def write(self) -> list[str]:
        """Writes the files; returns lines that say what was left out and which files there are. Raises UserError."""
        for path, text in self.files.items():
            try:
                path.parent.mkdir(exist_ok=True)
            except OSError as error:
                raise UserError(f"cannot make the folder '{path.parent}': {error.strerror}") from error
            write(path, text)
        return [f"left out of the model index: {line}" for line in self.left_out] + [
            f"wrote {path}" for path in self.files
        ]


def prepare(runs: Sequence[Run], path: Path) -> ModelIndex:
    """The model-index for `path`; eval results for `.eval_results/smol-evals.yaml` beside it, of the rows that are
    benchmarks of the hub, if there are any. Raises UserError.
    """
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml
    from huggingface_hub.repocard_data import eval_results_to_model_index

    reasons = [(run, row, _why_not(run, row)) for run in runs for row in run.rows]
    whole = [(run, row, _data(run, row)) for run, row, reason in reasons if not reason]
    chosen = [(run, row, data) for run, row, data in whole if data is not None]
    names = {model_name(run) for run in runs}
    if len(names) != 1:
        raise UserError(
            f"--model-index is for one model, these runs are of {', '.join(sorted(names)) or 'none'}"
        )
    left_out = tuple(f"{row.label} ({run.suite}): {reason}" for run, row, reason in reasons if reason)
    if not chosen:
        raise UserError(
            f"nothing for a model card: no row was measured on the whole of its benchmark ({left_out[0]})"
        )
    index = eval_results_to_model_index(names.pop(), [_eval_result(*one) for one in chosen])
    contents: dict[Path, Any] = {path: {"model-index": index}}
    if entries := [_entry(*one) for one in chosen if one[2].repo in REGISTERED]:
        contents[path.parent / ".eval_results" / "smol-evals.yaml"] = eval_result_entries_to_yaml(entries)
    texts = {
        file: yaml.safe_dump(data, sort_keys=False, allow_unicode=True) for file, data in contents.items()
    }
    return ModelIndex(texts, left_out)


def model_name(run: Run) -> str:
    """The model's name, with the kind of its weights where these are not the published checkpoint's."""
    return one_line(" ".join(filter(None, [run.name, run.model.quantization])))


def _why_not(run: Run, row: RowResult) -> str:
    """Why a card must not carry the row; empty where it may."""
    if row.value is None:
        return "no value"
    if partial := [one_line(note.text) for note in row.notes if note.code in PARTIAL]:
        return partial[0]
    if row.metric.judged:
        return "a judge's rating is no property of the model alone"
    return "" if _data(run, row) else "its rows are no single data set on the hub"


def _data(run: Run, row: RowResult) -> TaskDataLog | None:
    """The one data set of the hub that a row is of; no subset for an average of several; None where there is none."""
    found = [run.log.data.tasks.get(task) for task in row.tasks]
    known = [one for one in found if one is not None and one.repo and one.split]
    if len(known) < len(found) or len({(one.repo, one.split) for one in known}) != 1:
        return None
    alike = len({one.revision for one in known}) == 1
    subset, revision = known[0].subset if len(known) == 1 else None, known[0].revision if alike else None
    return known[0].model_copy(update={"subset": subset, "revision": revision})


def _eval_result(run: Run, row: RowResult, data: TaskDataLog) -> Any:
    from huggingface_hub import EvalResult

    how = {"chat_template": run.model.chat, "dtype": run.model.dtype, "quantization": run.model.quantization}
    return EvalResult(
        task_type="text-generation", task_name="Text Generation", dataset_type=str(data.repo), dataset_name=row.label,
        dataset_config=data.subset, dataset_split=data.split, dataset_revision=data.revision,
        dataset_args={"num_few_shot": _shots(run, row)}, metric_type=row.metric.name, metric_args=how,
        metric_name=_metric_name(row), metric_value=_value(row),
    )  # fmt: skip


def _entry(run: Run, row: RowResult, data: TaskDataLog) -> Any:
    """The row's EvalResultEntry, of a benchmark of the hub."""
    from huggingface_hub import EvalResultEntry

    mode = "chat template" if run.model.chat else "plain prompts"
    notes = [model_name(run), row.label, f"{_shots(run, row)}-shot", mode, _metric_name(row)]
    return EvalResultEntry(
        dataset_id=str(data.repo), task_id=REGISTERED[str(data.repo)], value=_value(row),
        dataset_revision=data.revision, date=run.log.provenance.finished[:10],
        notes="; ".join([*notes, *(one_line(note.text) for note in row.notes)]),
    )  # fmt: skip


def _value(row: RowResult) -> float:
    assert row.value is not None
    return round(row.value, 2)


def _metric_name(row: RowResult) -> str:
    interval = row.interval
    error = "" if interval is None else f", 95 % interval {interval[0]:.2f} to {interval[1]:.2f}"
    return f"{row.metric.name} (n = {row.n}{error})"


def _shots(run: Run, row: RowResult) -> int:
    shots = run.log.tasks[row.tasks[0]].settings.get("shots")
    return shots if isinstance(shots, int) else 0
