"""The tasks as a custom-task module of lighteval: its own classes load and use them, without a network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from lighteval.metrics.utils.metric_utils import Metric
from lighteval.tasks.lighteval_task import LightevalTask, LightevalTaskConfig
from lighteval.tasks.registry import Registry
from lighteval.tasks.requests import SamplingMethod

import tasks
from tasks import TASKS, get_task
from tasks.common.lighteval import config

ROOT = Path(tasks.__file__).resolve().parent.parent
NAMES = [
    "hellaswag",
    "arc_easy",
    "arc_challenge",
    "piqa",
    "mmlu",
    "commonsense_qa",
    "trivia_qa",
    "winogrande",
    "openbook_qa",
    "gsm8k",
    "ifeval",
    "mt_bench",
]


def test_names():
    names = list(TASKS)
    assert names[:12] == NAMES
    assert len(names) == len(set(names)) == 12 + 27 + 20 + 8
    assert all(name.startswith("bbh_") for name in names[12:39])
    assert all(name.startswith("olmes_") for name in names[39:59])
    assert all(name.startswith("smollm3_") for name in names[59:])
    assert get_task("piqa").name == "piqa"
    with pytest.raises(KeyError):
        get_task("piqa2")


@pytest.mark.parametrize("source", [tasks, str(ROOT / "tasks" / "__init__.py")])
def test_registry_extracts_the_configs(source):
    module = Registry.create_custom_tasks_module(source)
    configs = Registry._extract_configs(module)
    assert set(configs) == set(TASKS)
    assert all(isinstance(config, LightevalTaskConfig) for config in configs.values())


@pytest.mark.parametrize("own", TASKS.values(), ids=lambda task: task.name)
def test_lightevals_task_class_takes_the_config(own):
    task = LightevalTask(config(own))
    assert task.full_name == f"{own.name}|{own.shots}"
    assert all(isinstance(metric, Metric) for metric in task.metrics)
    assert set(task.aggregation()) == {name for m in task.metrics for name in m.get_corpus_aggregations()}
    expected = [] if own.name == "mt_bench" else [own.method]
    assert task.sampling_methods == expected
    assert own.name in str(task.config)


def test_lighteval_makes_docs_of_rows():
    task = LightevalTask(config(get_task("piqa")))
    task.dataset = {
        "validation": [{"goal": f"g{i}", "sol1": "a", "sol2": "b", "label": 0} for i in range(5)],
    }
    docs = task.get_docs(max_samples=3)
    assert len(docs) == 3
    assert docs[0].choices == [" a", " b"]
    assert docs[0].sampling_methods == [SamplingMethod.LOGPROBS]


def test_official_sizes():
    sizes = {task.name: task.docs for task in TASKS.values()}
    assert sum(size for name, size in sizes.items() if name.startswith("bbh_")) == 6511
    assert {name: sizes[name] for name in NAMES} == {
        "hellaswag": 10042,
        "arc_easy": 2376,
        "arc_challenge": 1172,
        "piqa": 1838,
        "mmlu": 14042,
        "commonsense_qa": 1221,
        "trivia_qa": 17944,
        "winogrande": 1267,
        "openbook_qa": 500,
        "gsm8k": 1319,
        "ifeval": 541,
        "mt_bench": 80,
    }
    assert get_task("gsm8k").shot_docs == 7473


@pytest.mark.parametrize(
    ("name", "splits", "stems"),
    [
        ("piqa", ("validation",), ["piqa/validation"]),
        ("gsm8k", ("test", "train"), ["gsm8k/test", "gsm8k/train"]),
        ("arc_easy", ("test",), ["arc_easy/test"]),
        ("bbh_snarks", ("train",), ["bbh/snarks"]),
        ("mt_bench", ("train",), ["mt_bench/train"]),
        ("olmes_openbook_qa_mc", ("test", "train"), ["openbook_qa/test", "openbook_qa/train"]),
    ],
)
def test_splits_and_places(name, splits, stems):
    task = get_task(name)
    assert task.splits == splits
    assert [task.stem(split) for split in task.splits] == stems


def test_revisions_are_whole_commits():
    for task in TASKS.values():
        if task.name in ("ifeval", "mt_bench", "olmes_boolq", "olmes_boolq_mc"):
            assert task.revision is None  # the recipe pins none
        else:
            assert len(task.revision) == 40
            assert int(task.revision, 16) > 0


OFFLINE = """
import socket
tried = []
def refuse(*args, **kwargs):
    tried.append(args)
    raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = refuse
import tasks, sys
built_in = [name for name in sys.modules if name.startswith("lighteval.tasks.tasks")]
heavy = [name for name in ("lighteval.metrics", "inspect_ai", "sklearn", "langdetect", "torch") if name in sys.modules]
print(len(tasks.TASKS), len(tried), built_in, heavy)
"""


def test_import_needs_no_network_and_none_of_lightevals_own_tasks(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "67 0 [] []"
