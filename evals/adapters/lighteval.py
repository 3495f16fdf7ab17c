"""This project's tasks and data inside lighteval's own Pipeline.

lighteval's registry imports all its built-in task modules first, which download files (and fail with newer versions of
huggingface_hub). Inside `own_tasks`, the registry knows the tasks of this project alone, and their rows come from the
sources of evals/data.py.

    python -m evals.adapters.lighteval DATA accelerate "model_name=MODEL" "piqa,arc_easy"

is lighteval's own command inside it; DATA: hub, smoke or a folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

from evals.core.errors import EXIT_USAGE, UserError
from evals.data.sources import Source, load, parse_source


@contextmanager
def own_tasks(data: str = "hub") -> Iterator[ModuleType]:
    """While inside, lighteval finds this project's tasks only; yields the custom-task module to hand to it.

    `data`: "hub", "smoke" or a folder, as in --data.
    """
    from lighteval.tasks.lighteval_task import LightevalTask
    from lighteval.tasks.registry import Registry

    import tasks

    source = parse_source(data)

    def configs(custom_tasks: Any = None, load_multilingual: bool = False) -> dict[str, Any]:
        return Registry._extract_configs(tasks)

    def rows(task: LightevalTask) -> Any:
        return _dataset(task, source)

    with (
        mock.patch.object(Registry, "load_all_task_configs", staticmethod(configs)),
        mock.patch.object(LightevalTask, "download_dataset_worker", staticmethod(rows)),
    ):
        yield tasks


@contextmanager
def own_pipeline(
    tasks: str,
    model: str | None = None,
    data: str = "hub",
    output: str = "out",
    chat: bool = False,
    **settings: Any,
) -> Iterator[Any]:
    """lighteval's Pipeline for `tasks` ("piqa,bbh_navigate|3") with this engine; yields it ready to `evaluate()`.

    `model`: as --model, None: the embedded one; `settings`: of lighteval's PipelineParameters. Raises UserError.
    """
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters

    from evals.adapters.local import PrefixModel
    from evals.models import loading
    from evals.models.known import resolve

    device, spec = loading.pick_device(None), resolve(model)
    loaded = loading.load(loading.local_path(spec), device, loading.pick_dtype(None, device))
    with own_tasks(data):
        parameters = PipelineParameters(ParallelismManager.NONE, **{"bootstrap_iters": 0, **settings})
        engine = PrefixModel(loaded, chat, spec.name)
        yield Pipeline(tasks, parameters, EvaluationTracker(output), model=engine)


def _dataset(task: Any, source: Source) -> dict[str, list[dict[str, Any]]]:
    """A task's splits as lists of rows, in file order."""
    from tasks import get_task

    own = get_task(task.config.name)
    data = load(own, source)
    splits = {own.split: data.rows}
    for split in own.splits[1:]:
        splits[split] = data.shot_rows or []
    return splits


def main(words: list[str]) -> int:
    """lighteval's command on this project's tasks; its exit code."""
    from lighteval.__main__ import app

    try:
        with (
            own_tasks(words[0] if words else "hub"),
            mock.patch.object(sys, "argv", ["lighteval", *words[1:]]),
        ):
            app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
