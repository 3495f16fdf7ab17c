"""Logs of other harnesses, written by these harnesses themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

SMOKE = Path(__file__).resolve().parents[2] / "tasks" / "smoke"


def lm_eval_log(
    folder: Path, model: Path, tasks: Sequence[str] = ("arc_easy", "gsm8k"), limit: int | None = None
) -> Path:
    """Runs lm-eval on the smoke items, as `--log_samples --output_path` does; the folder of its output."""
    import lm_eval
    from lm_eval.loggers import EvaluationTracker

    from tests.support.harness_tasks import write_tasks

    (folder / "configs").mkdir(parents=True)
    manager = write_tasks(folder / "configs", SMOKE, tasks, "jsonl")
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    from evals.adapters import lm_eval as _  # noqa: F401  # lm-eval knows the model by its import

    results: Any = lm_eval.simple_evaluate(
        model="smol-evals", model_args=f"pretrained={model},dtype=float32", device="cpu", tasks=list(tasks),
        task_manager=manager, num_fewshot=1, limit=limit, bootstrap_iters=0, gen_kwargs="max_gen_toks=8",
        evaluation_tracker=tracker,
    )  # fmt: skip
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])
    return folder / "out"


def inspect_log(
    path: Path, scores: Sequence[Any], model: str = "hf/org/tiny", epochs: int = 1, **spec: Any
) -> Path:
    """A log of a task "sums": `scores` of scorer "match", one a sample and epoch; written by inspect_ai."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score

    samples = [
        EvalSample(
            id=f"sum-{i // epochs}", epoch=i % epochs + 1, input=f"What is {i // epochs} + 1?",
            target=str(i // epochs + 1), output=ModelOutput.from_content(model, "<b>7</b>"),
            scores={"match": Score(value=value), "includes": Score(value="C")},
        )
        for i, value in enumerate(scores)
    ]  # fmt: skip
    dataset = EvalDataset(name="sums", location="org/sums", samples=len(scores) // epochs)
    evaluation = EvalSpec(
        created="2026-03-04T05:06:07+00:00", task="sums", dataset=dataset, model=model, config=EvalConfig(),
        packages={"inspect_ai": "0.3"}, **spec,
    )  # fmt: skip
    write_eval_log(EvalLog(status="success", eval=evaluation, samples=samples), str(path))
    return path
