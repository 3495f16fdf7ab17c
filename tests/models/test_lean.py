"""A lean import of transformers computes the same numbers, without what is left out, and only where it is allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_checkpoint import write_tiny_model

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = [
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.tensor",
    "accelerate",
    "boto3",
    "scipy.optimize",
]
PROGRAM = """
import functools, hashlib, json, sys
import torch
from evals.models import lean

before = functools.lru_cache, torch.compiler.disable
if "allow" in sys.argv:
    lean.allow()
lean.import_transformers()
from evals.adapters.local import PrefixModel
from evals.core.requests import GenerateRequest, ScoreRequest
from evals.models import loading

assert before == (functools.lru_cache, torch.compiler.disable)
loaded = loading.load(loading.Path(sys.argv[1]), torch.device("cpu"), "float32")
model = PrefixModel(loaded, chat=False)
scores = dict(model.run([ScoreRequest((1, 2, 3, 4), 2), ScoreRequest((1, 2, 5), 1)]))
answers = dict(model.run([GenerateRequest((1, 2, 3), 8)]))
imported = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
import torch._dynamo
from transformers.utils import is_accelerate_available
print(json.dumps({
    "numbers": [scores[0].logprob, scores[1].logprob, answers[0].tokens],
    "ids": loaded.tokenizer("Hello, world")["input_ids"],
    "imported": imported,
    "compiler": callable(torch._dynamo.optimize) and torch._dynamo.__file__ is not None,
    "accelerate": is_accelerate_available(),
}))
"""


def outcome(model: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, str(model), json.dumps(LEFT_OUT), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_a_lean_import_leaves_out_what_is_not_used_and_changes_no_number(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    lean, full = outcome(model, "allow"), outcome(model)
    assert lean["imported"] == []
    assert lean["numbers"] == full["numbers"]
    assert lean["ids"] == full["ids"]
    assert lean["compiler"], "whoever needs the compiler afterwards gets the real one"


@pytest.mark.slow
def test_a_process_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    import importlib.util

    full = outcome(write_tiny_model(tmp_path / "tiny"))
    assert full["accelerate"] is (importlib.util.find_spec("accelerate") is not None)
