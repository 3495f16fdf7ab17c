"""A run folder whose MT-Bench answers wait for a judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evals.run.samples import to_parquet

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


def question(number: int, category: str, answers: tuple[str, str]) -> dict[str, Any]:
    needs_reference = category in ("reasoning", "math", "coding")
    return {
        "doc_id": number,
        "prompt_hash": f"{number:016x}",
        "prompt": f"first question {number}?",
        "group": category,
        "question_id": 81 + number,
        "turns": [f"first question {number}?", f"second question {number}?"],
        "reference": [f"reference {number} one", f"reference {number} two"] if needs_reference else [],
        "output": answers[0],
        "n_output_tokens": 3,
        "finish": "eos",
        "output_turn_2": answers[1],
        "n_output_tokens_turn_2": 3,
        "finish_turn_2": "eos",
    }


def write_run(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """A result folder (results/README.md) whose only row is MT-Bench, generated and not judged."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    (folder / "samples" / "mt_bench.parquet").write_bytes(to_parquet(columns))
    note = {"code": "not_judged", "text": "answers generated, not judged"}
    limit = {"code": "limit", "text": "only the first docs"}
    record = {
        "schema_version": 1,
        "model": {
            "name": "tiny", "source": "folder:tiny", "revision": None, "fingerprint": "sha256:0", "dtype": "float32",
            "chat": True, "quantization": None, "card_column": None, "parameters": 1,
        },
        "suite": "instruct",
        "limit": None,
        "data": {"source": "folder", "tasks": {"mt_bench": {"complete": False, "note": "", "rows": 8}}},
        "tasks": {"mt_bench": {"n": len(lines), "metrics": {}, "settings": {}}},
        "rows": [
            {
                "label": "MT-Bench", "value": None, "stderr": None, "n": len(lines), "metric": "judge_score",
                "tasks": ["mt_bench"], "notes": [limit, note], "note": f"{limit['text']}; {note['text']}",
            }
        ],
        "provenance": {"variant": [], "prompt_hashes": {}, "git": {}, "versions": {}},
        "timing": {"phases": {}},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    return folder
