"""Where the time of finished runs went, as a table in the README beside this file.

    python tests/tools/timing.py RUN [RUN…] [--gpu-log FILE] [--profile FILE] [--write]

Reads each run's run.json; --write puts the table between its markers in README.md. --gpu-log adds how busy the GPU was
in each phase; its file is what this command printed while the runs went on, on the same machine:

    nvidia-smi --query-gpu=timestamp,utilization.gpu --format=csv,noheader,nounits -lms 200

--profile prints the 25 functions of the main thread that took longest, from what this wrote (it slows a run):

    python -m cProfile -o FILE run_evals.py ...
"""

from __future__ import annotations

import argparse
import json
import pstats
from datetime import datetime
from pathlib import Path

from tabulate import tabulate

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- measured: written by timing.py -->", "<!-- end of timing -->"
STAMP = "%Y/%m/%d %H:%M:%S.%f"
PHASES = ("prepare", "load", "tokenise", "score", "generate", "metrics", "write")


def read_gpu_log(text: str) -> list[tuple[float, float]]:
    """(Unix seconds, busy percent) of each line that is whole; the times are local ones."""
    samples = []
    for line in text.splitlines():
        stamp, _, busy = line.partition(",")
        try:
            samples.append((datetime.strptime(stamp.strip(), STAMP).timestamp(), float(busy)))
        except ValueError:  # the last line may be cut
            continue
    return samples


def busy(record: dict, samples: list[tuple[float, float]], phase: str | None = None) -> str | None:
    """Mean percent of the time in which the GPU worked, over a run or one of its phases; None without a sample."""
    spans = [(begin, end) for name, _, begin, end in record["timing"]["spans"] if phase in (None, name)]
    if phase is None:
        spans = [(min(begin for begin, _ in spans), max(end for _, end in spans))]
    found = [share for at, share in samples if any(begin <= at <= end for begin, end in spans)]
    return f"{sum(found) / len(found):.0f}%" if found else None


def table(records: list[dict], samples: list[tuple[float, float]] | None = None) -> str:
    """Phases and rows, one column a run, in seconds; ``samples`` of how busy the GPU was, see read_gpu_log."""
    heads = [f"{r['model']['name']}, {r['suite']}" for r in records]
    lines: list[list[object]] = [["total", *(f"{r['timing']['total_seconds']:.1f}" for r in records)]]
    lines += [[f"phase: {p}", *(f"{r['timing']['phases'].get(p, 0):.1f}" for r in records)] for p in PHASES]
    if samples:
        lines += [["GPU busy", *(busy(r, samples) for r in records)]]
        lines += [
            [f"GPU busy: {phase}", *(busy(r, samples, phase) for r in records)]
            for phase in PHASES
            if any(busy(r, samples, phase) for r in records)
        ]
    for place in ("host", "device"):
        peaks = [(r["provenance"].get("peak_memory_bytes") or {}).get(place) for r in records]
        if any(peaks):
            lines.append(
                [f"peak memory, {place} (GiB)", *(f"{peak / 2**30:.1f}" if peak else None for peak in peaks)]
            )
    labels = list(dict.fromkeys(row["label"] for r in records for row in r["rows"]))
    for label in labels:
        timed = [r["timing"]["rows"].get(label) for r in records]
        lines.append(
            [label] + [f"{t['seconds']:.1f} ({t['computed']} requests)" if t else None for t in timed]
        )
    machine = [
        f"- {head}: {r['provenance']['device']}, {r['model']['dtype']}, {r['model']['parameters']:,} parameters"
        f"{', ' + r['model']['quantization'] if r['model']['quantization'] else ''}, "
        f"torch {r['provenance']['versions']['torch']}, {r['provenance']['finished'][:10]}, "
        f"{'first ' + str(r['limit']) + ' docs' if r['limit'] else 'all docs'} of {r['data']['source']} data"
        for head, r in zip(heads, records, strict=True)
    ]
    body = tabulate(
        lines, headers=["seconds", *heads], tablefmt="github", missingval="–", disable_numparse=True
    )
    return f"{body}\n\n" + "\n".join(machine)


def main() -> None:
    """Prints the table, and writes it when asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--gpu-log", type=Path)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    paths = [path / "run.json" if path.is_dir() else path for path in args.runs]
    samples = read_gpu_log(args.gpu_log.read_text("utf-8")) if args.gpu_log else None
    text = table([json.loads(path.read_text("utf-8")) for path in paths], samples)
    print(text)
    if args.profile:
        pstats.Stats(str(args.profile)).sort_stats("tottime").print_stats(25)
    if args.write:
        whole = README.read_text("utf-8")
        before, rest = whole.split(BEGIN)
        README.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", "utf-8")


if __name__ == "__main__":
    main()
