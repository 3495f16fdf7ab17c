"""This project's tasks and data inside lighteval's own Pipeline.

lighteval's registry imports all its built-in task modules first, which download files (and fail with newer versions of
huggingface_hub). Inside `own_tasks`, the registry knows the tasks of this project alone, and their rows come from the
sources of evals/data.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

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


def _dataset(task: Any, source: Source) -> dict[str, list[dict[str, Any]]]:
    """A task's splits as lists of rows, in file order."""
    from tasks import get_task

    own = get_task(task.config.name)
    data = load(own, source)
    splits = {own.split: data.rows}
    for split in own.splits[1:]:
        splits[split] = data.shot_rows or []
    return splits
