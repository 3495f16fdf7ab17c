"""The pages that are made from the code, so that they cannot be wrong.

    python tests/tools/pages.py           # says which are out of date (exit code 1)
    python tests/tools/pages.py --write   # makes them again

CONTRIBUTING.md's picture of rooms and arrows, results/README.md's tables and results/run.schema.json (from
evals/core/runlog.py and metric.py), and evals/commands/README.md (every command's --help).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import grimp
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from evals import cli  # noqa: E402
from evals.core import runlog  # noqa: E402
from evals.core.metric import METRICS, Metric  # noqa: E402

WIDTH = "100"  # columns of a help text


# --- rooms and arrows -----------------------------------------------------------------------------


def arrows() -> dict[str, set[str]]:
    """Which room imports which, from the code's imports (those for type checkers alone do not count)."""
    graph = grimp.build_graph("evals", "tasks", "reports", exclude_type_checking_imports=True)
    found: dict[str, set[str]] = defaultdict(set)
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            source, target = _room(module), _room(imported)
            if source and target and source != target:
                found[source].add(target)
    return dict(found)


def _room(module: str) -> str | None:
    head, *rest = module.split(".")
    if head != "evals":
        return head
    return rest[0] if rest and (ROOT / "evals" / rest[0]).is_dir() else None


def rooms_picture() -> str:
    """A Mermaid drawing: an arrow from each room to those that it imports; what all import is left out."""
    lines = ["```mermaid", "flowchart TD"]
    for source, targets in sorted(arrows().items()):
        lines += [f"    {source} --> {target}" for target in sorted(targets - {"core"})]
    lines += ["    core[[core: imported by every room]]", "```"]
    return "\n".join(lines)


# --- the format of a result -----------------------------------------------------------------------

MODELS = (
    "RunLog",
    "ModelLog",
    "DataLog",
    "TaskDataLog",
    "TaskLog",
    "MetricLog",
    "JudgeLog",
    "RowLog",
    "Note",
)
MODELS += ("Provenance",)


def log_tables() -> str:
    """One table a model of the run log: key, type, meaning."""
    blocks = []
    for name in MODELS:
        model: type[BaseModel] = getattr(runlog, name)
        blocks.append(f"### {name}\n\n{str(model.__doc__).strip()}\n")
        blocks.append("| key | type | meaning |\n|---|---|---|")
        for key, field in model.model_fields.items():
            kind = str(model.__annotations__[key]).replace("|", "or")
            blocks[-1] += f"\n| `{key}` | {kind} | {field.description or ''} |"
        blocks.append("")
    codes = "\n".join(f"| `{code}` | {words} |" for code, words in runlog.NOTE_CODES.items())
    blocks.append(f"### Codes of notes\n\n| code | meaning |\n|---|---|\n{codes}")
    doubts = ", ".join(f"`{code}`" for code in runlog.DOUBTS)
    blocks.append(f"\nA row with any of {doubts} is not comparable with the card as it stands.")
    return "\n".join(blocks)


def metric_table() -> str:
    """Every metric: where its values are, and what they are."""
    lines = ["| metric | meaning | column | values | shown in |", "|---|---|---|---|---|"]
    for metric in METRICS.values():
        column = (
            f"`{metric.column}`" if metric.column else "mean of " + ", ".join(f"`{p}`" for p in metric.parts)
        )
        direction = "" if metric.higher_is_better else ", lower is better"
        lines.append(
            f"| `{metric.name}` | {metric.words} | {column} | {_values(metric)} | {metric.unit}{direction} |"
        )
    return "\n".join(lines)


def _values(metric: Metric) -> str:
    kind = f"{metric.low:g} or {metric.high:g}" if metric.binary else f"{metric.low:g} to {metric.high:g}"
    return f"list of {kind}" if metric.shape == "items" else kind


def schema() -> str:
    """The JSON schema of run.json."""
    return json.dumps(runlog.RunLog.model_json_schema(), indent=1) + "\n"


# --- the commands ---------------------------------------------------------------------------------


def help_page() -> str:
    """Every command's --help."""
    os.environ["COLUMNS"] = WIDTH  # argparse wraps by it
    blocks = [
        "# The commands\n\n`run_evals.py COMMAND …`, or `smol-evals COMMAND …` where the package is installed.\n"
    ]
    for name in cli.COMMANDS:
        text = cli.make_parser(name)[1].format_help().rstrip()
        blocks.append(f"## {name}\n\n```text\n{text}\n```\n")
    return "\n".join(blocks)


# --- pages ----------------------------------------------------------------------------------------


def between(path: str, marks: dict[str, Callable[[], str]]) -> tuple[str, str]:
    """A page's text now, and with what stands between its marks (`<!-- NAME -->` … `<!-- /NAME -->`) made again."""
    now = made = (ROOT / path).read_text(encoding="utf-8")
    for name, make in marks.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(made):
            raise SystemExit(f"{path} has no mark '{name}'")
        made = pattern.sub(lambda found, make=make: f"{found[1]}{make()}\n{found[2]}", made)  # type: ignore[misc]
    return now, made


def whole(path: str, make: Callable[[], str]) -> tuple[str, str]:
    """A page's text now, and as it is made."""
    file = ROOT / path
    return file.read_text(encoding="utf-8") if file.exists() else "", make()


def pages() -> dict[str, tuple[str, str]]:
    """{path: (text now, text as made)} of every generated page."""
    return {
        "CONTRIBUTING.md": between("CONTRIBUTING.md", {"rooms": rooms_picture}),
        "results/README.md": between("results/README.md", {"log": log_tables, "metrics": metric_table}),
        "results/run.schema.json": whole("results/run.schema.json", schema),
        "evals/commands/README.md": whole("evals/commands/README.md", help_page),
    }


def main() -> int:
    """Prints or mends what is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="make them again")
    write = parser.parse_args().write
    stale = {path: made for path, (now, made) in pages().items() if now != made}
    for path, made in stale.items():
        print(f"{'made' if write else 'out of date'}: {path}")
        if write:
            (ROOT / path).write_text(made, encoding="utf-8")
    return 0 if write or not stale else 1


if __name__ == "__main__":
    sys.exit(main())
