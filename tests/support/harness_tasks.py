"""lm-eval's own tasks, as they ship, with rows from local files in place of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MMLU = ("abstract_algebra", "anatomy", "philosophy", "us_foreign_policy", "world_religions")
BBH = (
    "boolean_expressions", "causal_judgement", "date_understanding", "navigate", "object_counting", "web_of_lies",
)  # fmt: skip


@dataclass(frozen=True)
class Local:
    """`config`: its file in lm_eval/tasks; `files`: {split: file of the data folder, without ending}."""

    config: str
    files: dict[str, str]
    filters: list[list[Any]] | None = None
    """Which rows of the files are the task's, as pyarrow takes it."""


def _splits(folder: str, *names: str) -> dict[str, str]:
    return {name: f"{folder}/{name}" for name in names}


TASKS: dict[str, Local] = {
    "arc_easy": Local("arc/arc_easy.yaml", _splits("arc_easy", "train", "validation", "test")),
    "arc_challenge": Local("arc/arc_challenge.yaml", _splits("arc_challenge", "train", "validation", "test")),
    "piqa": Local("piqa/piqa.yaml", _splits("piqa", "validation")),
    "hellaswag": Local("hellaswag/hellaswag.yaml", _splits("hellaswag", "validation")),
    "winogrande": Local(
        "winogrande/default.yaml",
        {"train": "winogrande/train_m", "validation": "winogrande/validation"},
    ),
    "openbookqa": Local("openbookqa/openbookqa.yaml", _splits("openbook_qa", "train", "validation", "test")),
    "commonsense_qa": Local("commonsense_qa/default.yaml", _splits("commonsense_qa", "train", "validation")),
    **{
        f"mmlu_{subject}": Local(
            f"mmlu/default/mmlu_{subject}.yaml", _splits("mmlu", "dev", "test"), [["subject", "==", subject]]
        )
        for subject in MMLU
    },
    "gsm8k": Local("gsm8k/gsm8k.yaml", _splits("gsm8k", "train", "test")),
    "triviaqa": Local(
        "triviaqa/default.yaml", {"train": "trivia_qa/train_subset", "validation": "trivia_qa/validation"}
    ),
    **{f"bbh_fewshot_{name}": Local(f"bbh/fewshot/{name}.yaml", {"test": f"bbh/{name}"}) for name in BBH},
}


def write_tasks(folder: Path, data: Path, names: Sequence[str], ending: str = "parquet") -> Any:
    """Writes a config a task, which takes lm-eval's own and changes where its rows are; the TaskManager that has them.

    `ending`: of the data's files, "parquet" or "jsonl" (the smoke items). Shots come from another split where the one
    that they are meant to come from is not at hand.
    """
    import lm_eval.tasks

    shipped = Path(lm_eval.tasks.__file__).parent
    for name in names:
        local = TASKS[name]
        files = {split: (data / f"{file}.{ending}").resolve() for split, file in local.files.items()}
        found = {split: str(file) for split, file in files.items() if file.exists()}
        splits = {"training_split": "train", "validation_split": "validation"}
        rows: dict[str, Any] = {"data_files": found, "cache_dir": str(folder / "rows")}
        config = {
            "include": str(shipped / local.config),
            "task": name,
            "dataset_path": "parquet" if ending == "parquet" else "json",
            "dataset_name": None,
            "dataset_kwargs": rows | ({"filters": local.filters} if local.filters else {}),
            **{key: None for key, split in splits.items() if split not in found},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
