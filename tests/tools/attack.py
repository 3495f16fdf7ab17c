"""Carries out the attacks that this program has to withstand, and prints what became of each.

    python tests/tools/attack.py [--only GROUP …] [--list]

Real processes are killed, real servers misbehave, real files are damaged. Each outcome is told in words, and whether it
is what is wanted: the right result, or one line that says what is wrong, and nothing lost. The exit code is 1 if any is
not. Where a test makes the attack already, that test is run.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.support.forks import Forks  # noqa: E402
from tests.support.tiny_checkpoint import write_tiny_model  # noqa: E402
from tests.tools.attacks.stage import ATTACKS, GROUPS, Attack, NotPossibleHere, Stage, tested  # noqa: E402

for group in GROUPS:
    importlib.import_module(f"tests.tools.attacks.{group}")
tested()

WANTED, UNWANTED, NOT_HERE = "yes", "NO", "not possible here"


@dataclass(frozen=True)
class Outcome:
    """What became of an attack."""

    attack: Attack
    words: str
    wanted: str
    seconds: float


def carry_out(attack: Attack, stage: Stage) -> Outcome:
    """Carries out an attack that is a function."""
    assert attack.act is not None
    start = time.monotonic()
    try:
        words, wanted = attack.act(stage), WANTED
    except (NotPossibleHere, pytest.skip.Exception) as error:
        words, wanted = str(error), NOT_HERE
    except Exception as error:  # whatever an attack leads to is its outcome
        words, wanted = str(error) or repr(error), UNWANTED
    return Outcome(attack, words.replace(str(stage.folder), "…"), wanted, time.monotonic() - start)


def run_tests(attacks: Sequence[Attack]) -> Iterator[Outcome]:
    """The outcomes of attacks that are tests, all in one pytest process."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        tests = sorted({attack.test for attack in attacks})
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            *tests,
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not report.exists():
            raise SystemExit(f"pytest made no report:\n{done.stdout}{done.stderr}")
        cases = defaultdict(list)
        for case in ElementTree.parse(report).iter("testcase"):
            place = case.get("classname", "").replace(".", "/")
            cases[f"{place}.py::{case.get('name', '')}"].append(case)
    for attack in attacks:
        own = [case for name, some in cases.items() if _is_of(name, attack.test) for case in some]
        yield _of_cases(attack, own)


def _is_of(name: str, test: str) -> bool:
    """Whether a test case is one of `test`: the same, or one of its parameters."""
    return name == test or name.startswith(f"{test}[")


def _of_cases(attack: Attack, cases: list[ElementTree.Element]) -> Outcome:
    seconds = sum(float(case.get("time", 0)) for case in cases)
    bad = [part for case in cases for part in case if part.tag in ("failure", "error")]
    skipped = [part for case in cases for part in case if part.tag == "skipped"]
    if bad or not cases:
        return Outcome(attack, bad[0].get("message", "") if bad else "no such test", UNWANTED, seconds)
    if len(skipped) == len(cases):
        return Outcome(attack, skipped[0].get("message", ""), NOT_HERE, seconds)
    count = f" ({len(cases)} inputs)" if len(cases) > 1 else ""
    return Outcome(attack, f"{attack.says}{count}", WANTED, seconds)


def outcomes(attacks: Sequence[Attack]) -> Iterator[Outcome]:
    """Every attack's outcome, as they come."""
    acts = [attack for attack in attacks if attack.act]
    tests = [attack for attack in attacks if attack.test]
    if acts:
        with tempfile.TemporaryDirectory() as folder, Forks() as forks:
            model = write_tiny_model(Path(folder, "tiny"))
            for number, attack in enumerate(acts):
                place = Path(folder, str(number))
                place.mkdir()
                yield carry_out(attack, Stage(forks, model, place))
    if tests:
        yield from run_tests(tests)


def shown(words: str, width: int = 150) -> str:
    """An outcome on one line of a table."""
    words = re.sub(r"\s+", " ", words)
    return words if len(words) <= width else f"{words[: width - 1]}…"


def main() -> int:
    """Prints the table; 1 if any outcome is not what is wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--name", default="", help="only attacks with this in their name")
    parser.add_argument("--list", action="store_true", help="only print what would be done")
    parser.add_argument("--whole", action="store_true", help="outcomes at their full length")
    args = parser.parse_args()
    chosen = [
        attack for attack in ATTACKS if attack.group in (args.only or GROUPS) and args.name in attack.name
    ]
    if args.list:
        print(
            tabulate(
                [(one.group, one.name) for one in chosen], headers=["group", "attack"], tablefmt="github"
            )
        )
        return 0
    found = []
    for one in outcomes(chosen):
        found.append(one)
        print(f"{one.attack.group}: {one.attack.name}: {shown(one.words)}", file=sys.stderr, flush=True)
    found.sort(key=lambda one: chosen.index(one.attack))
    width = 100_000 if args.whole else 150
    lines = [
        (one.attack.group, one.attack.name, shown(one.words, width), one.wanted, f"{one.seconds:.1f}")
        for one in found
    ]
    print(tabulate(lines, headers=["group", "attack", "outcome", "wanted", "seconds"], tablefmt="github",
                   disable_numparse=True))  # fmt: skip
    bad = sum(one.wanted == UNWANTED for one in found)
    absent = sum(one.wanted == NOT_HERE for one in found)
    print(f"\n{len(found)} attacks: {bad} with an outcome that is not wanted, {absent} not possible here")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
