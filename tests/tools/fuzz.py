"""Feeds hostile inputs to everything that reads what others wrote, and counts what comes out.

    python tests/tools/fuzz.py [--inputs 100000] [--seed 0]

Read are: rows of data (each task's prompt function), model outputs (answer extraction, IFEval's checks, ratings of a
judge), headers of safetensors and GGUF files, stored records, and result folders (run.json and parquet). Allowed is a
result or the error that the reader documents: UserError, or ValueError where a caller turns it into one. Anything else
is printed with the input that caused it, and the exit code is 1. The same seed gives the same inputs.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import random
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

TEXTS = [
    "", " ", "\n", "\x00", "a", "A", "#### 1", "#### -.,", "#### 1,0", "Question:", "[[5]]", "[[5.5]]", "[[]]",
    "\ud800", "\udc00\ud800", "é" * 10, "日本語", "\u202e", "a" * 3000, "*" * 50, "<<a>>", "[x]" * 9, '{"a": 1}',
    "../../x", "[9999]",
    "P.P.S", "``` ```", "$$", "%s%n", "{0}{a}", "(" * 200, "\r\n", "\x1b[31m", "-1", "1e999", "NaN", "١٢٣", "1_0",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 10**4000, 0.5, math.nan, math.inf, [], {}, [[]], [None], [1],
    b"x", (), {"text": []}, {"label": ["A"], "text": ["x"]}, {"aliases": []}, {"aliases": [None]}, range(3), object,
]  # fmt: skip


class Report:
    """Counts outcomes a part, and keeps the first few inputs that broke something."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []

    def call(self, part: str, function: Callable[..., Any], *inputs: Any, allowed: Any = ValueError) -> None:
        """One input; ``allowed`` are errors that the reader documents beside UserError."""
        from evals.core.errors import UserError

        try:
            function(*inputs)
        except UserError as error:
            self.counts[part, "one line"] += 1
            if "\n" in str(error) or len(str(error)) > 2000:
                self.fail(part, inputs, error)
        except allowed:
            self.counts[part, "documented error"] += 1
        except Exception as error:
            self.fail(part, inputs, error)
        else:
            self.counts[part, "passed"] += 1

    def fail(self, part: str, inputs: tuple[Any, ...], error: Exception) -> None:
        self.counts[part, "BROKEN"] += 1
        if len(self.failures) < 20:
            try:
                shown = ascii(inputs)[:400]
            except Exception:
                shown = "(cannot be shown)"
            self.failures.append(f"{part}: {type(error).__name__}: {str(error)[:200]!a}\n    {shown}")


def value(draw: random.Random, depth: int = 0) -> Any:
    """Any value that JSON or parquet could bring, and some that they could not."""
    kind = draw.random()
    if kind < 0.45:
        return text(draw)
    if kind < 0.75 or depth > 3:
        return draw.choice(VALUES)
    if kind < 0.87:
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    names = ["text", "label", "aliases", "turns", draw.choice(TEXTS)]
    return {name: value(draw, depth + 1) for name in draw.sample(names, draw.randrange(4))}


def text(draw: random.Random) -> str:
    """Pieces of trouble, or random characters."""
    if draw.random() < 0.7:
        return "".join(draw.choices(TEXTS, k=draw.choice([1, 1, 2, 4])))
    return "".join(
        chr(draw.choice([draw.randrange(128), draw.randrange(0x11000)])) for _ in range(draw.randrange(40))
    )


def mutated(draw: random.Random, original: Any) -> Any:
    """A copy with one place changed, somewhere inside."""
    changed = copy.deepcopy(original)
    holder: Any = changed
    while isinstance(holder, dict | list) and holder:
        key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
        if isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.7:
            holder = holder[key]
            continue
        if draw.random() < 0.2:
            del holder[key]
        else:
            holder[key] = value(draw)
        return changed
    return value(draw)


def flipped(draw: random.Random, content: bytes) -> bytes:
    """A copy with a few bytes changed, cut or doubled."""
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        if not changed:
            break
        at = draw.randrange(len(changed))
        action = draw.random()
        if action < 0.5:
            changed[at] = draw.randrange(256)
        elif action < 0.8:
            number = draw.choice([0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
            changed[at : at + 8] = struct.pack("<Q", number)
        else:
            changed[at : at + draw.randrange(1, 9)] = draw.randbytes(draw.randrange(9))
    if changed and draw.random() < 0.2:
        del changed[draw.randrange(len(changed)) :]
    return bytes(changed)


# The parts: each is a generator that does one input a step --------------------------------------------------------


def data_rows(draw: random.Random, report: Report) -> Iterator[None]:
    """Rows of data through the tasks' prompt functions; the caller turns their ValueError into a UserError."""
    from tasks import TASKS
    from tasks.common.fewshot import build_doc

    smoke = ROOT / "tasks" / "smoke"
    tasks = [(task, _rows(smoke / f"{task.stem(task.split)}.jsonl")) for task in TASKS.values()]
    while True:
        task, rows = draw.choice(tasks)
        if draw.random() < 0.85:
            row = mutated(draw, draw.choice(rows))
        else:
            row = {column: value(draw) for column in task.columns}
        if isinstance(row, dict):
            report.call("data rows", build_doc, task, row, 0)
            yield


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def outputs(draw: random.Random, report: Report) -> Iterator[None]:
    """Model outputs through every metric, and judgments through the reading of ratings."""
    from lighteval.models.model_output import ModelResponse

    from evals.judging.prompts import rating_of
    from tasks import TASKS
    from tasks.common.fewshot import build_doc
    from tasks.common.metrics import score

    smoke = ROOT / "tasks" / "smoke"
    generative = [task for task in TASKS.values() if not task.asks_choices and task.name != "mt_bench"]
    docs = [
        (task, build_doc(task, row, number))
        for task in generative
        for number, row in enumerate(_rows(smoke / f"{task.stem(task.split)}.jsonl"))
    ]
    light = [pair for pair in docs if pair[0].name != "ifeval"]
    heavy = [pair for pair in docs if pair[0].name == "ifeval"]
    while True:
        task, doc = draw.choice(heavy if draw.random() < 0.05 else light)
        answer = text(draw) + draw.choice(["", " ".join(doc.choices)[:200], doc.query[:200]]) + text(draw)
        report.call("outputs", score, task, doc, ModelResponse(text=[answer]))
        yield
        report.call("ratings", rating_of, text(draw) + draw.choice(["[[", "[", ""]) + text(draw) + "]]")
        yield


def headers(draw: random.Random, report: Report) -> Iterator[None]:
    """Headers of safetensors and GGUF files, mutated and made up."""
    from evals.models import weights
    from tests.support.weight_files import DATA, HONEST, gguf, safetensors

    with tempfile.TemporaryDirectory() as folder:
        one, other = Path(folder, "x.gguf"), Path(folder, "x.safetensors")
        while True:
            one.write_bytes(flipped(draw, gguf()))
            report.call("GGUF headers", weights.check, one, allowed=())
            yield
            if draw.random() < 0.5:
                content = flipped(draw, safetensors(HONEST, DATA))
            else:
                made = json.dumps(mutated(draw, HONEST), default=str).encode()
                content = struct.pack("<Q", len(made)) + made + DATA
            other.write_bytes(content)
            report.call("safetensors headers", weights.safetensors, other, allowed=())
            yield


def records(draw: random.Random, report: Report) -> Iterator[None]:
    """Stored results whose bytes changed (in a store their digest would tell as well)."""
    from evals.core.requests import Generation, Score
    from evals.run.records import decode, encode

    while True:
        result = (
            Score(draw.gauss(0, 100))
            if draw.random() < 0.3
            else Generation("text " * 5, (1, 2, 70000), "eos")
        )
        report.call(
            "records",
            decode,
            flipped(draw, encode(result)),
            allowed=(ValueError, struct.error, OverflowError),
        )
        yield


def results(draw: random.Random, report: Report) -> Iterator[None]:
    """run.json and parquet files of a result folder, mutated, read as every report reads them."""
    from reports.card import render_tables
    from reports.runs import load_run

    def read(folder: Path) -> None:
        render_tables([load_run(folder)])

    with tempfile.TemporaryDirectory() as folder:
        run = _make_run(Path(folder, "run"))
        record = json.loads((run / "run.json").read_text())
        whole = (run / "run.json").read_bytes()
        tables = {path: path.read_bytes() for path in (run / "samples").iterdir()}
        read(run)
        while True:
            if draw.random() < 0.75:
                made = mutated(draw, record)
                content = (
                    json.dumps(made, default=str).encode() if draw.random() < 0.9 else flipped(draw, whole)
                )
                (run / "run.json").write_bytes(content)
                report.call("run.json", read, run, allowed=())
                (run / "run.json").write_bytes(whole)
            else:
                path, content = draw.choice(list(tables.items()))
                path.write_bytes(
                    _changed_table(draw, content) if draw.random() < 0.5 else flipped(draw, content)
                )
                report.call("parquet", read, run, allowed=())
                path.write_bytes(content)
            yield


def _make_run(folder: Path) -> Path:
    """A small honest result folder, as results/README.md describes it."""
    import pyarrow
    from pyarrow import parquet

    columns = {
        "doc_id": [0, 1, 2], "prompt_hash": ["aa", "bb", "cc"], "prompt": ["x", "y", "z"], "group": [None] * 3,
        "gold": [0, 1, 0], "choices": [[" a", " b"]] * 3, "logprobs": [[-1.0, -2.0], [-2.0, -1.0], [-3.0, -1.0]],
        "n_tokens": [[1, 1]] * 3, "prediction": [0, 1, 1], "acc": [1, 1, 0], "acc_norm_nospace": [1, 1, 0],
    }  # fmt: skip
    (folder / "samples").mkdir(parents=True)
    parquet.write_table(pyarrow.table(columns), folder / "samples" / "piqa.parquet")
    from evals.core.metric import get_metric
    from evals.core.statistics import summarize_row, summarize_task

    row = summarize_row(get_metric("acc_norm_nospace"), {"piqa": columns})
    record = {
        "schema_version": 1,
        "model": {"name": "m", "source": "folder:m", "revision": None, "fingerprint": "sha256:0", "dtype": "float32",
                  "chat": False, "quantization": None, "card_column": None, "parameters": 1},
        "suite": "base", "limit": None,
        "data": {"source": "folder", "tasks": {"piqa": {"revision": None, "sha256": {"piqa": "0"}, "rows": 3,
                 "official_rows": 1838, "complete": False, "note": "3 rows"}}},
        "tasks": {"piqa": {"n": 3, "metrics": summarize_task(columns),
                  "settings": {"shots": 0, "max_new_tokens": None, "stops": []}}},
        "rows": [{"label": "PIQA", **row, "metric": "acc_norm_nospace", "tasks": ["piqa"], "notes": [], "note": ""}],
        "provenance": {"versions": {}, "git": {}, "prompt_hashes": {"piqa": "0"}, "variant": [], "device": "cpu",
                       "started": "2025-01-01T00:00:00+00:00", "finished": "2025-01-01T00:00:00+00:00"},
        "timing": {"total_seconds": 1.0, "phases": {}, "rows": {}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def _changed_table(draw: random.Random, content: bytes) -> bytes:
    """A sound parquet file that holds something else."""
    import pyarrow
    from pyarrow import parquet

    columns = parquet.read_table(pyarrow.BufferReader(content)).to_pydict()
    name = draw.choice(list(columns))
    action = draw.random()
    if action < 0.2:
        del columns[name]
    elif action < 0.4:
        lines = draw.randrange(3)
        columns = {key: values[:lines] for key, values in columns.items()}
    else:
        strange: list[Any] = [
            None,
            -1,
            2**40,
            0.5,
            math.nan,
            "x",
            "",
            [],
            [None],
            [math.inf, 1.0],
            ["a"],
            {"a": 1},
            b"x",
        ]
        filling = draw.choice(strange)
        columns[name] = [filling] * len(columns[name])
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()


PARTS = (
    (data_rows, 0.35),
    (outputs, 0.30),
    (headers, 0.17),
    (records, 0.10),
    (results, 0.08),
)  # and their shares


def main() -> int:
    """Runs every part; 0 when nothing broke."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable()  # checkers of languages speak of every text that has none
    report = Report()
    for part, share in PARTS:
        draw = random.Random(f"{part.__name__} {args.seed}")
        start, count = time.monotonic(), math.ceil(args.inputs * share)
        steps = part(draw, report)
        for _ in range(count):
            next(steps)
        steps.close()  # type: ignore[attr-defined]
        print(f"{part.__name__:10} {count:8,} inputs, {time.monotonic() - start:6.1f} s", flush=True)
    print()
    for name in sorted({name for name, _ in report.counts}):
        outcomes = {outcome: count for (one, outcome), count in report.counts.items() if one == name}
        print(
            f"{name:20} " + ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(outcomes.items()))
        )
    print(f"\n{report.counts.total():,} inputs, seed {args.seed}")
    for failure in report.failures:
        print(failure)
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
