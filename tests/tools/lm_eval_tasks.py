"""Tasks of lm-eval by its Hugging Face back end and by this engine: the same answers? how many times faster?

    python tests/tools/lm_eval_tasks.py --data DIR [--model MODEL] [--tasks a,b] [--limit 40] [--num-fewshot 5]

Same weights in float32, same requests, one back end after the other. A task's line is printed when it is measured, and
kept in the file of --table, if one is given: what stands there is not measured again. Seconds are those that lm-eval
waits for the model, encoding included. Without --model a random model of a few thousand weights shows that it works.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")

from tests.support.harness_tasks import TASKS, write_tasks  # noqa: E402

HEADER = (
    "task", "shots", "docs", "metric", "lm-eval's hf", "smol-evals", "docs that differ", "hf, s", "smol-evals, s",
    "times faster",
)  # fmt: skip
METRICS = ("acc,none", "exact_match,strict-match", "exact_match,remove_whitespace", "exact_match,none")


@contextmanager
def timed(lm: Any, seconds: list[float]) -> Iterator[None]:
    """Adds up what the calls of a back end take."""

    def clocked(call: Any) -> Any:
        def run(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = call(*args, **options)
            seconds.append(time.perf_counter() - start)
            return found

        return run

    calls = {name: clocked(getattr(lm, name)) for name in ("loglikelihood", "generate_until")}
    with mock.patch.multiple(lm, **calls):
        yield


def evaluate(
    lm: Any, task: str, manager: Any, shots: int | None, limit: int | None
) -> tuple[dict[str, Any], float]:
    """lm-eval's results, with samples, and the seconds in the model."""
    import lm_eval

    seconds: list[float] = []
    with timed(lm, seconds):
        results = lm_eval.simple_evaluate(
            model=lm, tasks=[task], task_manager=manager, num_fewshot=shots, limit=limit, bootstrap_iters=0
        )
    assert results is not None
    return results, sum(seconds)


def answers(results: dict[str, Any], task: str, metric: str) -> dict[tuple[int, str], Any]:
    """{(doc, filter): score}, and the text where it is a generated one."""
    return {
        (one["doc_id"], one["filter"]): (
            one.get(metric),
            [r for r in one["filtered_resps"] if isinstance(r, str)],
        )
        for one in results["samples"][task]
    }


def measure(task: str, ours: Any, theirs: Any, manager: Any, options: argparse.Namespace) -> list[Any]:
    """One line of the table."""
    one, our_seconds = evaluate(ours, task, manager, options.num_fewshot, options.limit)
    two, their_seconds = evaluate(theirs, task, manager, options.num_fewshot, options.limit)
    figures = one["results"][task]
    key = next(name for name in METRICS if name in figures)
    mine, other = (answers(each, task, key.split(",")[0]) for each in (one, two))
    differ = {doc for doc, name in mine if mine[doc, name] != other[doc, name]}
    return [
        task, one["n-shot"][task], len({doc for doc, _ in mine}), key.removesuffix(",none"),
        f"{two['results'][task][key]:.4f}", f"{figures[key]:.4f}", len(differ), f"{their_seconds:.1f}",
        f"{our_seconds:.1f}", f"{their_seconds / our_seconds:.1f}",
    ]  # fmt: skip


def line(cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder made by 'run_evals.py snapshot'")
    parser.add_argument("--model", help="as of run_evals.py")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--limit", type=int, help="docs a task")
    parser.add_argument("--num-fewshot", type=int, help="default: the task's own")
    parser.add_argument("--batch", type=int, default=8, help="of lm-eval's hf")
    parser.add_argument("--device")
    parser.add_argument(
        "--table", type=Path, help="a file to add lines to, and whose lines are not measured again"
    )
    options = parser.parse_args()

    from lm_eval.models.huggingface import HFLM

    from evals.adapters.lm_eval import SmolEvalsLM
    from tests.support.tiny_checkpoint import write_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        model = options.model or str(write_tiny_model(Path(folder, "tiny")))
        ours = SmolEvalsLM(model, device=options.device, dtype="float32")
        theirs = HFLM(ours.loaded.model, tokenizer=ours.tokenizer, batch_size=options.batch)
        print(line(HEADER), line(["---"] * len(HEADER)), sep="\n", flush=True)
        done = options.table.read_text("utf-8") if options.table and options.table.exists() else ""
        for task in options.tasks.split(","):
            if f"| {task} |" in done:
                continue
            manager = write_tasks(Path(folder), options.data, [task])
            text = line(measure(task, ours, theirs, manager, options))
            print(text, flush=True)
            if options.table:
                with options.table.open("a", encoding="utf-8") as file:
                    file.write(text + "\n")


if __name__ == "__main__":
    main()
